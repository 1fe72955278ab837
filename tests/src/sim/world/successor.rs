//! What a start did of what was left to it: the row of its table for each disk, how it went on with a freeze, and which of the
//! crashes and other mishaps since the last start have changed that.
//!
//! Not counted, for they can't happen here: *more pending logs than a meta lists* takes hundreds of sessions without a cut,
//! and the machine cuts for itself long before; the row is tested where it is decided (`recover`).

use super::cost::Ended;
use super::*;
use towline_tracker::map::bits;
use towline_tracker::sidecar::jobs::map_name;

/// Blocks of each disk.
pub(super) type Blocks = Vec<BTreeSet<u64>>;

/// A crash that no start has coped with yet.
struct Crash {
    name: String,
    road: Road,
    /// What was frozen and not open: whoever forgets the freeze must not forget them.
    only_frozen: Blocks,
}

/// What no start has been asked about yet.
#[derive(Default)]
pub(super) struct Unjudged {
    crashes: Vec<Crash>,
    mishaps: Vec<&'static str>,
    /// A sealed freeze that a session has found, and the counts that matter if somebody gets to read it.
    carried: Option<(CutId, Vec<String>)>,
    /// The time of the last cut.
    last_cut: u64,
}

impl Unjudged {
    /// Whether others than a crash have had their hands in it since the last start.
    pub(super) fn has_mishaps(&self) -> bool {
        !self.mishaps.is_empty()
    }
}

/// What a start is about to find.
pub(super) struct Found {
    pub(super) metas: Vec<Option<Meta>>,
    state: Option<State>,
    session: Session,
    /// The maps are of this boot and of these disks.
    fits: bool,
    latched: Vec<bool>,
    only_frozen: Blocks,
    changes: u64,
}

/// What it did.
struct Outcome {
    /// It goes on in the same maps.
    continued: bool,
    state: State,
    /// Of each disk: the row, and whether it mattered.
    rows: Vec<(&'static str, bool)>,
    open: Blocks,
    /// It is compared as a whole.
    whole: Vec<bool>,
    /// The freeze is synced, sealed or released again.
    repeated: [bool; 3],
}

/// The rows that ask for a resynchronization, by the reason that they give. Each matters if none was due before.
const RESYNCS: [(&str, &str); 11] = [
    ("the disk is new in the group", "start: new in the group"),
    ("the disk is new", "start: no meta, no mark"),
    ("its sidecar is missing or damaged", "start: no meta"),
    ("writes went untracked", "start: written untracked"),
    ("the disk changed while it was not tracked", "start: changed behind our back"),
    ("a sync of the disk had failed before the host went down", "start: doubtful, in another boot"),
    ("a sync of the disk had failed", "start: doubtful, buffered"),
    ("the intents are damaged", "start: bad intents"),
    ("the sidecar is damaged", "start: a bad log"),
    ("tracking was off", "start: tracking off"),
    ("more writes failed than can be remembered", "start: too many failed writes"),
];

/// The other rows: where the maps are good, the blocks that they hold matter, or their freeze; where they are not, the blocks
/// that were found otherwise and, unless the stop was a clean one, that they are to be compared now.
fn row(
    before: &Meta,
    after: &Meta,
    continued: bool,
    boot: BootId,
    dirty: bool,
    live: bool,
) -> (&'static str, bool) {
    let compare = before.recheck.is_none() && after.recheck.is_some();
    match (continued, before.clean.is_some()) {
        (true, true) => ("start: clean, maps good", dirty || live),
        (true, false) => ("start: killed, maps good", dirty || live),
        (false, true) => ("start: clean, maps not good", dirty),
        (false, false) if before.boot == boot => ("start: killed, maps not good", dirty && compare),
        (false, false) => ("start: host died", dirty && compare),
    }
}

impl Outcome {
    fn has(&self, row: &str) -> bool {
        self.rows.contains(&(row, true))
    }

    /// In the same maps: what this road asked for was done. A sealed freeze matters later, when somebody reads it.
    fn went_on(&self, road: Road, found: &Found) -> bool {
        let undone = self.state.road == Road::Undoing;
        let [synced, sealed, released] = self.repeated;
        match road {
            Road::None => self.open.iter().any(|open| !open.is_empty()),
            Road::Draining => synced || undone,
            Road::Synced => sealed || undone,
            Road::Sealed => undone,
            Road::Releasing => released || self.state.road == Road::Sealed,
            Road::Undoing => found.only_frozen.iter().any(|blocks| !blocks.is_empty()),
        }
    }

    /// In other maps: what only the freeze had is open again, or everything is compared.
    fn took_back(&self, crash: &Crash) -> bool {
        let mut disks = crash.only_frozen.iter().zip(&self.open).zip(&self.whole);
        match crash.road {
            Road::None => self.rows.iter().any(|(_, mattered)| *mattered),
            _ => disks
                .any(|((frozen, open), whole)| !frozen.is_empty() && (*whole || !frozen.is_disjoint(open))),
        }
    }

    /// Whether somebody else's doing has changed what this start did.
    fn is_due_to(&self, mishap: &str, found: &Found, others: &[&str]) -> bool {
        let touched = ["foreign writes", "disks shrunk", "disks grown"];
        let anew = self.has("start: killed, maps not good") || self.has("start: clean, maps not good");
        match mishap {
            mishap if touched.contains(&mishap) => self.has("start: changed behind our back"),
            "clock jumps" => {
                self.has("start: changed behind our back")
                    && !touched.iter().any(|other| others.contains(other))
            }
            "sidecars wiped" => self.has("start: no meta"),
            "disks of another group" => self.has("start: new in the group"),
            "intents damaged" => self.has("start: bad intents"),
            "logs damaged" => {
                let sealed = found.state.is_some_and(|state| state.road == Road::Sealed);
                self.has("start: a bad log") || sealed && self.state.road == Road::Undoing
            }
            "maps wiped" => anew,
            // Maps that would do, but for the starts that they name.
            _ => !self.continued && (found.fits || anew),
        }
    }
}

impl World {
    /// The blocks that only the frozen map has.
    fn only_frozen(&self, state: State) -> Blocks {
        let of = |disk: usize| {
            let get = |generation| self.maps.get(&map_name(generation, disk));
            let live = state.road != Road::None;
            let maps = live.then(|| get(Generation(state.open.0 - 1)).zip(get(state.open))).flatten();
            let Some((frozen, open)) = maps else { return BTreeSet::new() };
            let all = bits::look(&frozen, 0..frozen.len() as u64 * 64).flatten();
            all.filter(|block| !bits::get(&open, *block)).collect()
        };
        (0..self.disks.len()).map(of).collect()
    }

    /// Something that only a start can notice.
    pub(super) fn mishap(&mut self, name: &'static str) {
        self.counts.add(name);
        self.unjudged.mishaps.push(name);
    }

    /// The time of a cut. One before the last one's matters: points are ordered by it for people.
    pub(super) fn cut_at(&mut self, time_ns: u64) {
        let Unjudged { last_cut, mishaps, .. } = &mut self.unjudged;
        let back = time_ns < std::mem::replace(last_cut, time_ns);
        if back && let Some(at) = mishaps.iter().position(|name| *name == "clock jumps") {
            mishaps.swap_remove(at);
            self.counts.matter("clock jumps", true);
        }
    }

    /// Something has crashed; nothing is lost yet.
    pub(super) fn crashed(&mut self, kind: CrashKind, state: State) {
        // Undone is undone.
        let fuzzy = if state.fuzzy && state.road != Road::Undoing { ", fuzzy" } else { "" };
        let name = format!("{kind:?} crash: {}{fuzzy}", state.road.name());
        self.counts.add(&name);
        let only_frozen = self.only_frozen(state);
        self.session_ends(Ended::Process);
        self.unjudged.crashes.push(Crash { name, road: state.road, only_frozen });
    }

    /// What was to be said of the maps is said: they are gone.
    pub(super) fn maps_are_gone(&mut self) {
        let of_maps = ["maps wiped", "starts with other maps", "returns to a host with old maps"];
        self.unjudged.mishaps.retain(|name| !of_maps.contains(name));
        self.unjudged.carried = None;
    }

    /// What was found by a start, before it.
    pub(super) fn found(&self) -> Found {
        let metas = self.metas();
        let header = self.header();
        let ids = metas.iter().flatten().map(|meta| meta.disk);
        let sizes: Vec<_> = ids.zip(&self.geometry).map(|(id, geometry)| (id, geometry.size)).collect();
        let says = |disk| header.as_ref().is_some_and(|header| header.latched(disk));
        let state = header.as_ref().map(GroupHeader::state);
        Found {
            state,
            session: header.as_ref().map_or(Session(0), GroupHeader::session),
            fits: sizes.len() == metas.len()
                && header.as_ref().is_some_and(|header| header.fits(self.boot_id(), &sizes)),
            latched: (0..self.disks.len()).map(says).collect(),
            only_frozen: state.map_or_else(Vec::new, |state| self.only_frozen(state)),
            changes: self.changes(),
            metas,
        }
    }

    /// What the sidecars say of their disks, if it can be read.
    pub(super) fn metas(&self) -> Vec<Option<Meta>> {
        let of = |folder: &SimFolder| Meta::decode(&folder.peek("disk.meta")?).ok();
        self.folders.iter().map(of).collect()
    }

    /// How often sidecars were changed.
    pub(super) fn changes(&self) -> u64 {
        self.folders.iter().map(SimFolder::changes).sum()
    }

    /// A crash inside a start: it mattered if something was left of that start.
    pub(super) fn start_cut_short(&mut self, found: &Found) {
        let session = self.header().map_or(Session(0), |header| header.session());
        let mattered = self.changes() != found.changes || session != found.session;
        self.counts.fault("crashes inside the start", mattered);
    }

    /// Whether a sync of the start has failed (W6).
    pub(super) fn start_latched(&self, found: &Found) -> bool {
        let header = self.header();
        let says = |disk| header.as_ref().is_some_and(|header| header.latched(disk));
        found.latched.iter().enumerate().any(|(disk, before)| says(disk) && !before)
    }

    fn outcome(&self, found: &Found, actions: &[Action]) -> Outcome {
        let state = self.state().expect("a session has a header");
        let continued = found.state.is_some_and(|before| before.open == state.open);
        let open = |disk| {
            let map = self.maps.get(&map_name(state.open, disk)).expect("a session has maps");
            bits::look(&map, 0..map.len() as u64 * 64).flatten().collect()
        };
        let open: Blocks = (0..self.disks.len()).map(open).collect();
        let (mut rows, mut whole) = (Vec::new(), Vec::new());
        for (disk, (before, after)) in found.metas.iter().zip(self.metas()).enumerate() {
            let after = after.expect("a session has metas");
            let recheck = |meta: &Meta| meta.recheck.clone().filter(|recheck| recheck.whole);
            let due = before.as_ref().and_then(recheck);
            let now = recheck(&after)
                .filter(|recheck| recheck.since == state.open && due.as_ref() != Some(recheck));
            let reason = now.as_ref().map_or("", |recheck| &recheck.reason);
            let resync = RESYNCS.iter().find(|(begins, _)| reason.starts_with(begins));
            rows.push(match (resync, before) {
                (Some((_, row)), _) => (*row, due.is_none()),
                (None, Some(before)) => {
                    let live = state.road != Road::None;
                    row(before, &after, continued, self.boot_id(), !open[disk].is_empty(), live)
                }
                (None, None) => unreachable!("without a meta everything is compared"),
            });
            whole.push(recheck(&after).is_some());
        }
        let job =
            |is: fn(&Job) -> bool| actions.iter().any(|action| matches!(action, Action::Job(job) if is(job)));
        let synced = actions.iter().any(|action| matches!(action, Action::Sync { .. }));
        let sealed = job(|job| matches!(job, Job::Seal { .. }));
        let released = job(|job| matches!(job, Job::Release { .. }));
        Outcome { continued, state, rows, open, whole, repeated: [synced, sealed, released] }
    }

    /// A start has come to its end, and these are its first actions, none of which is done yet.
    pub(super) fn judge(&mut self, found: &Found, actions: &[Action]) {
        let outcome = self.outcome(found, actions);
        outcome.rows.iter().for_each(|(row, mattered)| self.counts.fault(row, *mattered));
        let mishaps = std::mem::take(&mut self.unjudged.mishaps);
        for mishap in &mishaps {
            self.counts.matter(mishap, outcome.is_due_to(mishap, found, &mishaps));
        }
        let crashes = std::mem::take(&mut self.unjudged.crashes);
        let before = self.unjudged.carried.take();
        if !outcome.continued {
            self.begins_anew();
            if let Some(crash) = crashes.iter().rfind(|crash| crash.road != Road::None) {
                self.counts.fault("go on: a freeze forgotten", outcome.took_back(crash));
            }
            return crashes
                .iter()
                .for_each(|crash| self.counts.matter(&crash.name, outcome.took_back(crash)));
        }
        let road = found.state.map_or(Road::None, |state| state.road);
        let mut names: Vec<_> = crashes.iter().map(|crash| (crash.name.clone(), crash.road)).collect();
        if road != Road::None {
            let name = format!("go on: {}", road.name());
            self.counts.add(&name);
            names.push((name, road));
        }
        let cut = self.header().map(|header| header.read_cut(Generation(outcome.state.open.0 - 1)).cut);
        let sealed = cut.filter(|_| outcome.state.road == Road::Sealed);
        let mut carried =
            before.filter(|(cut, _)| sealed == Some(*cut)).map_or_else(Vec::new, |(_, names)| names);
        for (name, road) in names {
            let mattered = outcome.went_on(road, found);
            self.counts.matter(&name, mattered);
            if !mattered && road == Road::Sealed {
                carried.push(name);
            }
        }
        self.unjudged.carried = sealed.map(|cut| (cut, carried));
    }

    /// Somebody gets to read a freeze, or finds it released: it mattered that it was gone on with.
    pub(super) fn handed_out(&mut self, cut: CutId) {
        if let Some((_, names)) = self.unjudged.carried.take_if(|(carried, _)| *carried == cut) {
            names.iter().for_each(|name| self.counts.matter(name, true));
        }
    }
}
