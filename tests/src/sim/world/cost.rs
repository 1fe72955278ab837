//! What a crash and an outage may cost (promises 4 and 5), judged at every start and while a tracker runs.
//!
//! **Promise 4.** After the death of the process nothing is read again: its successor goes on in the same maps, bit for bit, and
//! asks for no comparison. After the host's death what is open is what was pending, and beyond that no more than the intents'
//! regions hold. A disk is compared as a whole for a reason alone that the simulator knows of: it did that itself.
//!
//! **Promise 5.** Whatever happens and for how long, a sidecar and the maps stay below bounds that depend on the disk alone.

use super::successor::{Blocks, Found};
use super::*;
use towline_tracker::format::meta::LOGS_MAX;
use towline_tracker::map::bits;
use towline_tracker::sidecar::jobs::map_name;

/// How the last session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Clean,
    Process,
    Host,
}

/// What a start is measured by.
#[derive(Default)]
pub(super) struct Cost {
    /// Of each disk: the frozen maps of the cuts since the last release, and of the one released last. Until the next seal the logs
    /// may say all of it again: what left the intents while it was not sealed was recorded (I4).
    cuts: Vec<Blocks>,
    /// How the last session ended, and the open maps and all that could be pending then.
    end: Option<(Ended, Blocks, Blocks)>,
    /// Regions of failed writes, each as often as one failed: they stay, and others get room beside them, for which a budget grows
    /// and does not shrink again while all of it is in use.
    failed: Vec<u64>,
    /// A mark was asked for (S4).
    marked: bool,
    /// A durable write failed, or a process died while a sync took seconds: both count as failed syncs (W6).
    doubt: bool,
    /// Sessions that began since a log was sealed last.
    unsealed: usize,
    /// Those before: a power cut brings back the names of what it contains.
    sealed: usize,
    /// The disks and sidecars are copies: what came before is not known here.
    pub(super) copied: bool,
}

/// Logs of older generations that are pending before the machine cuts for itself (`group::cut`).
const OLDER: usize = 16;
/// The open log, the frozen one, and those that a session begins with.
const LOGS: usize = 3;
/// Names in a sidecar besides the logs: the meta, intents of two sessions or renewed, two stores, and what has a new name only.
const NAMES: usize = 8;
/// Maps of a disk: open, spare, frozen, and what is preserved of two freezes. And two headers.
const MAPS: usize = 5;

impl World {
    fn open_blocks(&self, generation: Generation) -> Option<Blocks> {
        let of = |disk| {
            let map = self.maps.get(&map_name(generation, disk))?;
            Some(bits::look(&map, 0..map.len() as u64 * 64).flatten().collect())
        };
        (0..self.disks.len()).map(of).collect()
    }

    /// There was a cut.
    pub(super) fn cost_of_cut(&mut self, open: Generation) {
        let frozen = self.open_blocks(Generation(open.0 - 1));
        self.cost.cuts.extend(frozen);
    }

    /// A freeze was released: what was pending before is not any more.
    pub(super) fn cost_of_release(&mut self) {
        let before = self.cost.cuts.len().saturating_sub(1);
        self.cost.cuts.drain(..before);
    }

    /// A write failed, and may land yet.
    pub(super) fn cost_of_failure(&mut self, disk: usize, range: &Range<usize>, durable: bool) {
        self.cost.doubt |= durable;
        let shift = self.geometry[disk].region_shift;
        let region = |sector: usize| (sector as u64 * SECTOR) >> shift;
        self.cost.failed.resize(self.disks.len(), 0);
        self.cost.failed[disk] += region(range.end - 1) - region(range.start) + 1;
    }

    /// The mark is being set.
    pub(super) fn cost_of_mark(&mut self) {
        self.cost.marked = true;
    }

    /// A session ends.
    pub(super) fn session_ends(&mut self, how: Ended) {
        let Some(header) = self.header() else { return };
        self.cost.doubt |= (0..self.disks.len()).any(|disk| header.has_slow_sync(disk));
        let open = self.open_blocks(header.state().open);
        self.cost.end = open.map(|open| {
            let mut pending = open.clone();
            for cut in &self.cost.cuts {
                pending.iter_mut().zip(cut).for_each(|(all, of)| all.extend(of));
            }
            (how, open, pending)
        });
    }

    /// A session begins with other maps: all that any log may say is open in them, but for what a dead session has on its way
    /// to a log.
    pub(super) fn begins_anew(&mut self) {
        if !self.folders.iter().any(SimFolder::has_orphans) {
            self.cost.cuts.clear();
        }
    }

    /// The host is down: what a process left in memory is gone.
    pub(super) fn cost_of_host(&mut self) {
        self.cost.unsealed += std::mem::take(&mut self.cost.sealed);
        if let Some((how @ Ended::Process, ..)) = &mut self.cost.end {
            *how = Ended::Host;
        }
    }

    /// Whether something has happened for which a disk is to be compared as a whole.
    fn is_excused(&self, reason: &str) -> bool {
        let met = |names: &[&str]| names.iter().any(|name| self.counts.get(name) > 0);
        let first = self.sessions == 1;
        let new = first || met(&["sidecars wiped"]);
        let Cost { marked, doubt, .. } = self.cost;
        let sick = self.disks.iter().any(|disk| disk.borrow().sick.is_some());
        let unsynced = doubt
            || sick
            || self.faults.injected() > 0
            || met(&["failed syncs", "an error of a disk that stays"]);
        let excuses = [
            ("the disk is new in the group", met(&["disks of another group", "sidecars wiped"])),
            ("the disk is new", first),
            ("its sidecar is missing or damaged", new),
            ("writes went untracked", marked || self.settings.off > 0),
            // A start whose sync fails serves all the same, and has sworn to times that the host's death takes back.
            (
                "the disk changed while it was not tracked",
                unsynced
                    || self.settings.off > 0
                    || met(&["foreign writes", "disks shrunk", "disks grown", "clock jumps"])
                    || met(&["returns to a host with old maps"]),
            ),
            ("a sync of the disk had failed", unsynced),
            ("the intents are damaged", self.is_hurt()),
            ("the sidecar is damaged", self.is_hurt()),
            ("tracking was off", self.settings.off > 0),
            ("more writes failed than can be remembered", met(&["failed writes"])),
        ];
        excuses.into_iter().find(|(begins, _)| reason.starts_with(begins)).is_some_and(|(_, excused)| excused)
    }

    /// A start has come to its end: it may have cost what promise 4 allows.
    pub(super) fn check_cost(&mut self, found: &Found, mishap: bool, off: bool) {
        self.cost.unsealed += 1;
        let end = self.cost.end.take();
        if self.cost.copied {
            return;
        }
        let metas = self.metas();
        let mut compared = false;
        for (disk, (before, after)) in found.metas.iter().zip(&metas).enumerate() {
            let whole = |meta: &Option<Meta>| {
                let recheck = meta.as_ref().and_then(|meta| meta.recheck.clone());
                recheck.filter(|recheck| recheck.whole).map(|recheck| recheck.reason)
            };
            let (due, now) = (whole(before), whole(after));
            compared |= now.is_some();
            // Somebody laid hands on it: what a start makes of that is for `successor` to judge.
            if let Some(why) = now.filter(|_| due.is_none() && !mishap)
                && !self.is_excused(&why)
            {
                self.is_wrong(
                    Oracle::Cost,
                    format!("disk {disk} is compared as a whole, and need not: {why}"),
                );
            }
        }
        let Some((how, open, pending)) = end.filter(|_| !mishap && !off && !compared && !self.is_hurt())
        else {
            return;
        };
        // A start that died behind a clean stop has begun a session all the same.
        if how == Ended::Clean && found.metas.iter().flatten().any(|meta| meta.clean.is_none()) {
            return;
        }
        let generation = self.state().expect("a session has a header").open;
        let now = self.open_blocks(generation).expect("a session has maps");
        let recheck = |meta: &Option<Meta>| meta.as_ref().and_then(|meta| meta.recheck.clone());
        let mut both =
            found.metas.iter().zip(&metas).map(|(before, after)| (recheck(before), recheck(after)));
        if how != Ended::Host && both.any(|(before, after)| after.is_some() && after != before) {
            self.is_wrong(Oracle::Cost, format!("a comparison is asked for, and the host lives: {how:?}"));
        }
        // It died behind its last job: the sidecar says that all is well.
        let clean = found.metas.iter().flatten().any(|meta| meta.clean.is_some());
        match how {
            Ended::Clean => {}
            Ended::Process if clean => {}
            Ended::Process if now != open => {
                self.is_wrong(Oracle::Cost, "other blocks are dirty than when the process died".into());
            }
            Ended::Process => self.counts.add("deaths of a process that cost nothing"),
            Ended::Host => self.check_budget(&now, &pending),
        }
    }

    /// After the host's death no more is read again than the intents hold.
    fn check_budget(&mut self, now: &Blocks, pending: &Blocks) {
        for disk in 0..self.disks.len() {
            let geometry = &self.geometry[disk];
            let failed = self.cost.failed.get(disk).copied().unwrap_or(0);
            let regions = self.settings.bounds.regions_cap.max(4 * failed);
            let budget = regions << (geometry.region_shift - geometry.block_shift);
            let more = now[disk].difference(&pending[disk]).count() as u64;
            self.counts.more("blocks read again for the host's death", more);
            if more > budget {
                let what = {
                    let which: Vec<_> = now[disk].difference(&pending[disk]).collect();
                    format!("disk {disk}: {more} blocks are read again, the budget is {budget}: {which:?}")
                };
                self.is_wrong(Oracle::Cost, what);
            }
        }
        self.counts.add("deaths of the host within the budget");
    }

    /// A log was sealed: it contains all older ones.
    pub(super) fn cost_of_seal(&mut self) {
        self.cost.sealed = std::mem::take(&mut self.cost.unsealed);
    }

    /// Promise 5.
    pub(super) fn check_space(&mut self) {
        if self.is_hurt() {
            return;
        }
        let bounds = self.settings.bounds;
        // Cuts that are undone because the disk can't be synced leave a log each, until a meta has no room for more. What syncs
        // failed where copies come from is not known.
        let unsynced = self.cost.doubt || self.cost.copied || self.counts.get("failed syncs") > 0;
        let older = if unsynced { LOGS_MAX } else { OLDER };
        let most_logs = older + LOGS + 2 * self.cost.unsealed;
        let mut wrong = Vec::new();
        for (disk, folder) in self.folders.iter().enumerate() {
            let Geometry { size, block_shift, .. } = self.geometry[disk];
            let blocks = self.geometry[disk].blocks();
            let kept = size.next_multiple_of(1 << block_shift);
            // Beyond its bound a log grows by one append, and by what it is sealed with: each at most all of a map.
            let longest = bounds.log_live_max.max(2 * blocks) + 2 * (256 + 8 * blocks);
            let (mut logs, mut others) = (0, 0);
            for (name, bytes, preserved) in folder.sizes() {
                let is_log = name.ends_with(".changes");
                (logs, others) = (logs + usize::from(is_log), others + usize::from(!is_log));
                if (is_log && bytes > longest) || preserved * SECTOR > kept {
                    wrong.push(format!("{name} has {bytes} bytes and {preserved} sectors"));
                }
            }
            if logs > most_logs || others > NAMES {
                wrong.push(format!("the sidecar has {logs} logs and {others} other files"));
            }
        }
        let maps = self.maps.count();
        if maps > 2 + MAPS * self.disks.len() {
            wrong.push(format!("there are {maps} maps: {:?} {:?}", self.maps.listing(), self.state()));
        }
        if let Some(what) = wrong.pop() {
            self.is_wrong(Oracle::Cost, format!("an outage costs more and more: {what}"));
        }
    }
}
