//! The cut and the road of a freeze (DESIGN 3.3): C1 the instant, C2 what follows it in order, release. What is forgotten: `undo`.

use super::action::{Action, Ticket};
use super::job::{Job, JobError, SealDisk, Spare};
use super::{Freeze, Group, PendingCut, before, parity};
use crate::control::message::{Answer, Frozen, FrozenDisk as FrozenInfo, Refusal};
use crate::disk::{Disk, Fold, FrozenDisk, Log, SyncWaiter};
use crate::format::changes::Seal;
use crate::format::meta::Recheck;
use crate::id::{Anchor, AttachNumber, CutId, DiskIndex, Generation, TargetId};
use crate::limits::clip_reason;
use crate::map::header::{CutRecord, Road};
use crate::mutant;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// More pending logs of dead sessions than these are replaced by a cut of the machine's own.
const OLDER_MAX: usize = 16;

/// A release that failed (the sidecar's file system) is tried again after this.
pub(crate) const RELEASE_RETRY: Duration = Duration::from_secs(1);

impl Group {
    /// A shipper asks for a cut: it happens as soon as it can.
    pub(super) fn ask_cut(&mut self, ticket: Ticket, full: bool, time_ns: u64, actions: &mut Vec<Action>) {
        if self.stopping {
            let answer = Refusal::Unable("the tracker is stopping".into()).into();
            actions.push(Action::answer(ticket, answer));
            return;
        }
        if let Some(freeze) = &self.freeze
            && !freeze.internal
            && matches!(self.state.road, Road::Draining | Road::Synced | Road::Sealed)
        {
            let answer = Refusal::Busy { cut: freeze.cut }.into();
            actions.push(Action::answer(ticket, answer));
            return;
        }
        self.refuse_cut("another cut was asked for", actions);
        self.pending_cut = Some(PendingCut {
            ticket: Some(ticket),
            full,
            filled: false,
            asked_ns: time_ns,
            asked: self.now,
        });
        self.unsettled = true;
    }

    /// Keeps the open logs small, however often regions leave the intents (promise 5). While nobody cuts: by a cut that is
    /// undone as soon as it is sealed, which leaves one log that contains all. A live freeze stands in the way of that:
    /// nobody ships it, or too slowly for what the guest writes meanwhile. Far beyond, or when space runs out, it gives way;
    /// its blocks stay pending (C4).
    pub(super) fn bound_logs(&mut self) {
        if self.freeze.is_none() {
            let older = |disk: &Disk| disk.meta.logs.len() > OLDER_MAX;
            if self.logs_are_large() || self.disks.iter().any(older) {
                self.cut_unasked();
            }
            return;
        }
        let most = |disk: &Disk| self.config.bounds.log_live_max.max(2 * disk.geometry.blocks());
        if self.disks.iter().any(|disk| disk.log.end > most(disk)) {
            self.undo_now("nobody took it while the change log grew");
        }
    }

    /// Whether some open log has more in it than a sealed one would.
    pub(super) fn logs_are_large(&self) -> bool {
        self.disks.iter().any(|disk| self.is_large(disk, &disk.log))
    }

    fn is_large(&self, disk: &Disk, log: &Log) -> bool {
        log.end > self.config.bounds.log_max.max(disk.geometry.blocks() / 4)
    }

    /// Space runs out (C5): no more is preserved, and a freeze that keeps the logs from being small gives way.
    pub(super) fn space_is_low(&mut self, actions: &mut Vec<Action>) {
        if self.exact() {
            self.turn_fuzzy("the sidecar's file system runs out of space", actions);
        }
        if self.logs_are_large() {
            self.undo_now("the sidecar's file system runs out of space");
        }
    }

    /// A cut that no shipper asked for, unless one is coming already.
    pub(super) fn cut_unasked(&mut self) {
        if self.pending_cut.is_none() && !self.stopping {
            self.pending_cut =
                Some(PendingCut { ticket: None, full: false, filled: false, asked_ns: 0, asked: self.now });
            self.unsettled = true;
        }
    }

    /// Cuts, if one is asked for and nothing stands in its way.
    pub(super) fn try_cut(&mut self, actions: &mut Vec<Action>) {
        let Some(pending) = &mut self.pending_cut else { return };
        let Some(spare) = self.spare.as_ref().filter(|_| self.freeze.is_none() && !self.stopping) else {
            return;
        };
        if !spare.reserved {
            if !self.reserving {
                self.reserving = true;
                self.post(Job::Reserve { open: self.state.open }, actions);
            }
            return;
        }
        if self.metas_in_flight > 0 {
            return;
        }
        if self.disks.iter().any(|disk| disk.fold.is_some()) {
            return;
        }
        if pending.full && !pending.filled {
            pending.filled = true;
            self.disks.iter_mut().for_each(|disk| disk.fold = Some(Fold { source: None, next: 0 }));
            return;
        }
        // The parity of the generation to come must be free of what an undone cut left in flight.
        let next = self.state.open.next();
        if self.disks.iter().any(|disk| disk.in_flight[parity(next)] > 0) {
            return;
        }
        let pending = self.pending_cut.take().expect("looked at above");
        self.cut(pending, actions);
    }

    /// C1: the instant. Nothing is submitted while this runs, on any disk of the group: there is one loop. The word
    /// stored to the header is the cut; the rest derives from it or follows off the write path.
    fn cut(&mut self, pending: PendingCut, actions: &mut Vec<Action>) {
        let Spare { generation: open, cut, disks: spares, .. } = self.spare.take().expect("checked");
        let generation = self.state.open;
        self.counts.compactions += u64::from(pending.ticket.is_none() && self.logs_are_large());
        assert_eq!(open, generation.next(), "the spare is for the next generation");
        let waited = self.now.0.saturating_sub(pending.asked.0);
        let time_ns = pending.asked_ns + waited;
        let internal = pending.ticket.is_none();
        let record = CutRecord { cut, time_ns, first: self.first_pending, internal };
        // Mutant: the record comes after the word that makes it count.
        if !mutant::active("word-before-record") {
            self.header.write_cut(generation, record);
        }
        self.state.open = open;
        self.state.road = Road::Draining;
        self.state.fuzzy = false;
        self.header.store(self.state);
        if mutant::active("word-before-record") {
            self.header.write_cut(generation, record);
        }
        for (index, (disk, spare)) in self.disks.iter_mut().zip(spares).enumerate() {
            let recheck = disk.meta.recheck.as_ref();
            disk.frozen = Some(FrozenDisk {
                frozen: std::mem::replace(&mut disk.open, spare.open),
                preserved: spare.preserved,
                log: std::mem::replace(&mut disk.log, Log::new(spare.log)),
                size: disk.geometry.size,
                blocks: disk.geometry.blocks(),
                frozen_blocks: std::mem::take(&mut disk.dirty_blocks),
                preserved_blocks: 0,
                compare: disk.filled || recheck.is_some(),
                whole: disk.filled,
                synced: false,
            });
            disk.filled = false;
            disk.left = Default::default();
            // W5: what a failed write may still change is dirty in every generation.
            for blocks in disk.failed.extents().collect::<Vec<_>>() {
                // Mutant: only in the generation in which it failed.
                if !mutant::active("failed-write-forgotten-at-cut") {
                    disk.mark(blocks);
                }
            }
            self.counts.in_flight_at_cuts += u64::from(disk.in_flight[parity(generation)]);
            tracing::debug!(%cut, %generation, disk = index, "cut");
        }
        (0..self.disks.len()).for_each(|index| self.heal_at_cut(index));
        self.freeze = Some(Freeze {
            cut,
            generation,
            first: record.first,
            time_ns,
            fuzzy: None,
            sealed: false,
            readers: pending.ticket.into_iter().collect(),
            tickets: Vec::new(),
            internal,
            release: None,
        });
        self.counts.cuts += 1;
        self.try_sync(actions);
    }

    /// A write of an earlier generation completed.
    pub(super) fn drained_one(&mut self, slot: u32, actions: &mut Vec<Action>) {
        if let Some(waiters) = self.drain_waiters.remove(&slot) {
            self.ready.extend(waiters);
        }
        self.try_sync(actions);
    }

    /// C2: when the last tagged write of the generation has completed, every disk is synced, by a sync that is
    /// submitted after that completion.
    pub(super) fn try_sync(&mut self, actions: &mut Vec<Action>) {
        if self.state.road != Road::Draining {
            return;
        }
        let frozen = before(self.state.open);
        let drained = self.disks.iter().all(|disk| disk.in_flight[parity(frozen)] == 0);
        let Some(freeze) = &mut self.freeze else { return };
        if (!drained && !mutant::active("sync-before-drain"))
            || freeze.release.is_some()
            || self.syncing_freeze
        {
            return;
        }
        self.syncing_freeze = true;
        // Mutant: what is published may not be on the disk after a power cut.
        if mutant::active("seal-without-sync") {
            self.state.road = Road::Synced;
            self.header.store(self.state);
            return self.try_seal(actions);
        }
        for index in 0..self.disks.len() {
            self.want_sync(index, SyncWaiter::Freeze(frozen), actions);
        }
    }

    /// The sync behind the generation's writes succeeded on one disk.
    pub(super) fn disk_synced(&mut self, index: usize, generation: Generation, actions: &mut Vec<Action>) {
        if self.state.road != Road::Draining || before(self.state.open) != generation {
            return;
        }
        self.disks[index].frozen.as_mut().expect("a freeze has every disk").synced = true;
        // Mutant: the first of them stands for all.
        let all = self.disks.iter().all(|disk| disk.frozen.as_ref().is_some_and(|frozen| frozen.synced));
        if all || mutant::active("one-disk-synced") {
            self.state.road = Road::Synced;
            self.header.store(self.state);
            self.try_seal(actions);
        }
    }

    /// C2: seals the change log, once no append to it is in flight.
    pub(super) fn try_seal(&mut self, actions: &mut Vec<Action>) {
        if self.state.road != Road::Synced || self.sealing {
            return;
        }
        let freeze = self.freeze.as_ref().expect("synced is a state of a freeze");
        let frozen = |disk: &Disk| disk.frozen.as_ref().is_some_and(|frozen| frozen.log.appending);
        if self.disks.iter().any(frozen) {
            return;
        }
        let each = self.disks.iter().filter_map(|disk| disk.frozen.as_ref().map(|frozen| (disk, frozen)));
        let disks = each.map(|(disk, frozen)| SealDisk {
            frozen: frozen.frozen.clone(),
            header: frozen.log.header,
            encoder: frozen.log.encoder.clone(),
            end: frozen.log.end,
            blocks: frozen.blocks,
            fresh: frozen.log.dead || self.is_large(disk, &frozen.log),
            seal: Seal {
                cut: freeze.cut,
                first: freeze.first,
                last: freeze.generation,
                size: frozen.size,
                time_ns: freeze.time_ns,
                blocks: frozen.frozen_blocks,
                compare: frozen.compare,
                whole: frozen.whole,
            },
            meta: disk.meta.clone(),
        });
        self.post(Job::Seal { generation: freeze.generation, disks: disks.collect() }, actions);
        self.sealing = true;
    }

    /// The change log is durable: the freeze goes to the shipper.
    pub(super) fn sealed(
        &mut self,
        generation: Generation,
        result: Result<(), JobError>,
        actions: &mut Vec<Action>,
    ) {
        self.sealing = false;
        let Some(freeze) = &mut self.freeze else { return };
        if freeze.generation != generation {
            return;
        }
        if let Err(error) = result {
            self.undo_now(&format!("the change log can't be sealed: {}", error.0));
            return;
        }
        freeze.sealed = true;
        // The log that was just sealed contains those up to its generation.
        self.disks.iter_mut().for_each(|disk| disk.meta.logs.retain(|log| log.generation > generation));
        // Mutant: the log has it all, so the frozen map is not needed any more.
        for frozen in self.disks.iter().filter_map(|disk| disk.frozen.as_ref()) {
            frozen
                .frozen
                .iter()
                .filter(|_| mutant::active("frozen-cleared-when-sealed"))
                .for_each(|word| word.store(0, Relaxed));
        }
        self.heal_at_seal(generation, actions);
        let Some(freeze) = &mut self.freeze else { return };
        if self.state.road != Road::Synced {
            // Undone while it was being sealed: its log is durable all the same and stays pending (C4).
            self.finish_undo(actions);
            return;
        }
        if freeze.internal {
            return self.undo_now("its log is durable");
        }
        self.vouched.push(freeze.identity());
        self.state.road = Road::Sealed;
        self.header.store(self.state);
        for ticket in std::mem::take(&mut self.freeze.as_mut().expect("looked at above").readers) {
            let answer = Answer::Frozen(self.describe_freeze());
            actions.push(Action::answer(ticket, answer));
        }
    }

    /// What a shipper is told of the sealed freeze.
    fn describe_freeze(&self) -> Frozen {
        let freeze = self.freeze.as_ref().expect("a sealed freeze");
        let disks = self.disks.iter().filter_map(|disk| disk.frozen.as_ref().map(|frozen| (disk, frozen)));
        Frozen {
            cut: freeze.cut,
            first_generation: freeze.first,
            generation: freeze.generation,
            time_ns: freeze.time_ns,
            fuzzy: self.state.fuzzy,
            disks: disks
                .map(|(disk, frozen)| FrozenInfo {
                    id: disk.meta.disk,
                    size: frozen.size,
                    block_shift: disk.geometry.block_shift,
                    // Mutant: the page cache is as good.
                    direct: disk.direct && !mutant::active("buffered-reader"),
                    align: disk.align,
                    compare: frozen.compare,
                    whole: frozen.whole,
                    frozen_bytes: disk.geometry.block_bytes(frozen.frozen_blocks),
                })
                .collect(),
        }
    }

    /// Describes the live freeze when it is sealed.
    pub(super) fn ask_reopen(&mut self, ticket: Ticket, cut: CutId, actions: &mut Vec<Action>) {
        let answer = match &mut self.freeze {
            Some(freeze) if freeze.cut == cut && self.state.road == Road::Sealed => {
                Answer::Frozen(self.describe_freeze())
            }
            Some(freeze) if freeze.cut == cut && self.state.road < Road::Sealed => {
                freeze.readers.push(ticket);
                return;
            }
            _ => Refusal::NoSuchFreeze.into(),
        };
        actions.push(Action::answer(ticket, answer));
    }

    /// R2.
    pub(super) fn ask_confirm(&self, cut: CutId) -> Answer {
        match &self.freeze {
            Some(freeze) if freeze.cut == cut && self.state.road == Road::Sealed => {
                // Mutant: that it is there is all that is looked at.
                Answer::Confirmed { exact: !self.state.fuzzy || mutant::active("fuzzy-confirmed") }
            }
            _ => Refusal::NoSuchFreeze.into(),
        }
    }

    /// V10: what successors of this shipper, and of this process, may take up again.
    pub(super) fn ask_shipped(&self, cut: CutId, entry: [u8; 32]) -> Answer {
        match &self.freeze {
            Some(freeze) if freeze.cut == cut && self.state.road == Road::Sealed => {
                self.header.set_shipped(entry);
                Answer::Done
            }
            _ => Refusal::NoSuchFreeze.into(),
        }
    }

    /// V9: the entry of the freeze is published. Refused unless target and cut id match and the entry is a new one; the
    /// attach number is checked.
    pub(super) fn ask_release(
        &mut self,
        ticket: Ticket,
        target: TargetId,
        cut: CutId,
        anchor: Anchor,
        actions: &mut Vec<Action>,
    ) {
        let answer = match &mut self.freeze {
            _ if Some(target) != self.target => Refusal::Mismatch("it is for another target".into()).into(),
            Some(freeze) if freeze.cut == cut && self.state.road == Road::Sealed => {
                if self.anchor == Some(anchor) {
                    // No entry is two cuts': with it, blocks that no entry has would no longer be pending.
                    let why = "the entry is that of an earlier cut".to_string();
                    actions.push(Action::answer(ticket, Refusal::Mismatch(why).into()));
                    return;
                }
                freeze.release = Some(anchor);
                freeze.tickets.push(ticket);
                self.state.road = Road::Releasing;
                self.header.store(self.state);
                self.wake_preserve_waiters();
                return self.store_release(actions);
            }
            Some(freeze) if freeze.cut == cut && freeze.release == Some(anchor) => {
                freeze.tickets.push(ticket);
                return;
            }
            // The answer to an earlier release was lost. Of an earlier session's only the entry is known.
            _ if self.anchor == Some(anchor) && self.released.is_none_or(|last| last == cut) => Answer::Done,
            _ => Refusal::NoSuchFreeze.into(),
        };
        actions.push(Action::answer(ticket, answer));
    }

    /// The anchor goes to every disk's meta first, then the logs go (V9, C6). A comparison that this freeze has
    /// carried out is over.
    pub(super) fn store_release(&mut self, actions: &mut Vec<Action>) {
        let freeze = self.freeze.as_ref().expect("releasing is a state of a freeze");
        let Some(anchor) = freeze.release else { return };
        let (generation, cut) = (freeze.generation, freeze.cut);
        for disk in &mut self.disks {
            disk.meta.anchor = Some(anchor);
            disk.meta.target = self.target;
            // Mutant: what comes after the cut is released with it.
            disk.meta.released =
                if mutant::active("released-one-too-far") { generation.next() } else { generation };
            disk.meta.vouched.clear();
            let carried = disk.frozen.as_ref().is_some_and(|frozen| frozen.compare);
            let whole = disk.frozen.as_ref().is_some_and(|frozen| frozen.whole);
            disk.meta
                .recheck
                .take_if(|recheck| carried && recheck.since <= generation && (whole || !recheck.whole));
        }
        let metas = self.disks.iter().map(|disk| disk.meta.clone()).collect();
        self.release_retry = None;
        self.post(Job::Release { generation, cut, metas }, actions);
    }

    /// The release is durable.
    pub(super) fn released(
        &mut self,
        generation: Generation,
        result: Result<(), JobError>,
        actions: &mut Vec<Action>,
    ) {
        let Some(freeze) = &mut self.freeze else { return };
        if freeze.generation != generation || self.state.road != Road::Releasing {
            return;
        }
        if let Err(error) = result {
            tracing::warn!(error = error.0, "a release can't be stored; trying again");
            self.release_retry = Some(self.now.after(RELEASE_RETRY));
            return;
        }
        self.anchor = freeze.release;
        self.released = Some(freeze.cut);
        let tickets = std::mem::take(&mut freeze.tickets);
        self.vouched.clear();
        self.first_pending = self.state.open;
        self.end_freeze(actions);
        for ticket in tickets {
            actions.push(Action::answer(ticket, Answer::Done));
        }
    }

    /// No freeze any more: its maps go, the next cut's are made. Fresh inodes always: somebody may still read the old
    /// ones (C3).
    pub(super) fn end_freeze(&mut self, actions: &mut Vec<Action>) {
        self.wake_preserve_waiters();
        self.freeze = None;
        self.syncing_freeze = false;
        self.disks.iter_mut().for_each(|disk| disk.frozen = None);
        self.state.road = Road::None;
        self.state.fuzzy = false;
        self.header.store(self.state);
        self.post(Job::Prepare { open: self.state.open }, actions);
        self.unsettled = true;
    }

    /// Those that waited for writes of the frozen generation run again.
    pub(super) fn wake_drain_waiters(&mut self) {
        for waiters in std::mem::take(&mut self.drain_waiters).into_values() {
            self.ready.extend(waiters);
        }
    }

    /// The disk must be compared as a whole: every block becomes dirty. The caller stores the meta.
    pub(super) fn require_resync(&mut self, index: usize, why: &str) {
        let disk = &mut self.disks[index];
        disk.meta.recheck =
            Some(Recheck { since: self.state.open, whole: true, reason: clip_reason(why).to_owned() });
        disk.fold = Some(Fold { source: None, next: 0 });
        self.unsettled = true;
    }

    /// Stores metas; no cut happens before they are durable. Gives the number that comes back.
    pub(super) fn store_metas(&mut self, disks: &[usize], actions: &mut Vec<Action>) -> u64 {
        let metas =
            disks.iter().map(|index| (DiskIndex(*index as u16), self.disks[*index].meta.clone())).collect();
        self.metas_in_flight += 1;
        self.meta_number += 1;
        self.post(Job::StoreMeta { number: self.meta_number, metas }, actions);
        self.meta_number
    }

    /// The newest attach number may ask; others are told so (V9).
    pub(super) fn check_attach(&self, attach: AttachNumber) -> Result<(), Refusal> {
        if attach != self.attach {
            return Err(Refusal::Revoked { newest: self.attach });
        }
        if !self.tracking {
            return Err(Refusal::Unable("tracking is off".into()));
        }
        Ok(())
    }
}
