//! Intents of the disks (W1, I1-I4, S4): group commits of the set, and the cleaning of regions that are to leave.

use super::action::{Action, Errno, SidecarFile};
use super::job::{Job, JobError};
use super::slots::Phase;
use super::{Group, Op, PersistOp};
use crate::disk::{Healing, IntentMode, IntentWrite, SyncWaiter};
use crate::format::intents::{IntentSet, REGIONS_MAX, slot_stride};
use crate::id::{DiskIndex, Generation, Nanos};
use crate::map::header::Road;
use crate::mutant;
use crate::sidecar::files::renewed_intents_name;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A slot write or an append that takes longer than this is a failure of tracking (S4).
pub(crate) const INTENT_DEADLINE: Duration = Duration::from_secs(1);

impl Group {
    /// Starts what can be started for the disk's intents: a group commit for those that wait, cleaning of regions.
    pub(super) fn settle_intents(&mut self, index: usize, actions: &mut Vec<Action>) {
        // Once the clean stop writes the logs, nobody else appends to them.
        if self.disks[index].intent_mode != IntentMode::Kept || self.stop_posted {
            return;
        }
        self.commit(index, actions);
        self.clean(index, actions);
    }

    /// W1: one small durable write for all that wait, one in flight at a time, carrying the whole set.
    fn commit(&mut self, index: usize, actions: &mut Vec<Action>) {
        let disk = &mut self.disks[index];
        if disk.intent_write.is_some() {
            return;
        }
        let mut admitted = Vec::new();
        while let Some(&waiting) = disk.intent_queue.front() {
            let slot = self.slots.get(waiting);
            let range = disk.geometry.regions_of(slot.piece.clone());
            if !disk.regions.admit(range.clone()) {
                break;
            }
            slot.pinned = range;
            slot.phase = Phase::Admitted;
            disk.intent_queue.pop_front();
            admitted.push(waiting);
        }
        if !disk.regions.should_write() {
            self.ready.extend(admitted);
            return;
        }
        let added = disk.regions.begin_write();
        if mutant::active("intent-after-write") {
            self.ready.extend(admitted.drain(..));
        }
        disk.intent_sequence += 1;
        let before = disk.frozen.as_ref().map_or(disk.left, |frozen| frozen.log.mark());
        let mut logs = [disk.log.mark(), before];
        // Mutant: nobody knows how much of the logs must be there.
        if mutant::active("log-length-forgotten") {
            logs = Default::default();
        }
        // Mutant: the set as it was before those that wait for this version.
        let stale = |region: &u32| !mutant::active("set-without-its-waiters") || !added.contains(region);
        let set = IntentSet {
            sequence: disk.intent_sequence,
            session: disk.meta.session,
            logs,
            regions: disk.regions.members().iter().copied().filter(stale).collect(),
        };
        let bytes = set.encode(disk.meta.disk, disk.intent_capacity);
        let offset = (set.slot() * slot_stride(disk.intent_capacity)) as u64;
        disk.intent_write = Some(IntentWrite { added, admitted });
        let op = PersistOp::Intents(index, disk.intent_epoch);
        self.persist(op, index, SidecarFile::Intents, offset, bytes, actions);
    }

    fn persist(
        &mut self,
        op: PersistOp,
        disk: usize,
        file: SidecarFile,
        offset: u64,
        bytes: Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        let index = match self.persists.iter().position(Option::is_none) {
            Some(index) => index,
            None => {
                self.persists.push(None);
                self.persists.len() - 1
            }
        };
        self.persists[index] = Some((op, self.now));
        let id = Op::Persist(index as u32).id();
        actions.push(Action::Persist { id, disk: DiskIndex(disk as u16), file, offset, bytes });
    }

    /// I4: chooses regions to leave and makes durable what recovery needs of them before they may.
    fn clean(&mut self, index: usize, actions: &mut Vec<Action>) {
        if self.disks[index].cleaning_parts > 0 {
            return;
        }
        // A frozen map counts as long as no durable log holds it: before sealing, and after an undone cut.
        let unsealed = self.frozen_is_unsealed();
        let disk = &mut self.disks[index];
        if disk.log.appending || disk.log.dead {
            return;
        }
        let (open, geometry) = (disk.open.clone(), disk.geometry);
        let frozen = disk.frozen.as_ref().filter(|_| unsealed).map(|frozen| frozen.frozen.clone());
        // Mutant: what is frozen is left to the log that is not sealed yet.
        let frozen = frozen.filter(|_| !mutant::active("evict-forgets-frozen"));
        let load = |word: usize| {
            open[word].load(Relaxed) | frozen.as_ref().map_or(0, |frozen| frozen[word].load(Relaxed))
        };
        let first = disk.intent_queue.front().map(|waiting| self.slots.get(*waiting).piece.clone());
        let first = first.map_or(0..0, |piece| geometry.regions_of(piece));
        let mut bytes = Vec::new();
        let encoder = &mut disk.log.encoder;
        let chosen = disk.regions.begin_cleaning(first, |region| {
            let before = bytes.len();
            let blocks = geometry.region_blocks(region);
            encoder.blocks(true, blocks.start & !63..blocks.end, load, &mut bytes);
            bytes.len() > before
        });
        if !chosen {
            return;
        }
        let needs_sync = disk.regions.cleaning_needs_sync(disk.syncs.done);
        let epoch = disk.intent_epoch;
        disk.cleaning_parts = u8::from(!bytes.is_empty()) + u8::from(needs_sync);
        if disk.cleaning_parts == 0 {
            disk.regions.cleaned(disk.syncs.done);
            self.unsettled = true;
            return;
        }
        if !bytes.is_empty() {
            let (generation, offset) = (disk.log.header.generation, disk.log.end);
            disk.log.appending = true;
            disk.log.end += bytes.len() as u64;
            if mutant::active("evict-before-durable") {
                disk.regions.cleaned(disk.syncs.done.wrapping_add(u32::MAX / 2));
            }
            let op = PersistOp::Append(index, epoch, generation);
            self.persist(op, index, SidecarFile::Changes(generation), offset, bytes, actions);
        }
        if needs_sync {
            self.want_sync(index, SyncWaiter::Cleaning(epoch), actions);
        }
    }

    /// Whether there is a frozen map that no durable log holds.
    pub(super) fn frozen_is_unsealed(&self) -> bool {
        match self.state.road {
            Road::Draining | Road::Synced => true,
            Road::Undoing => self.freeze.as_ref().is_some_and(|freeze| !freeze.sealed),
            Road::None | Road::Sealed | Road::Releasing => false,
        }
    }

    /// The append or the sync of a cleaning ended. One of an earlier epoch is over: the regions being cleaned now are
    /// others, or wait for other records.
    pub(super) fn cleaning_part_done(&mut self, index: usize, epoch: u32, good: bool) {
        let disk = &mut self.disks[index];
        if disk.cleaning_parts == 0 || epoch != disk.intent_epoch {
            return;
        }
        disk.cleaning_parts -= 1;
        if !good {
            disk.regions.cleaning_failed();
        } else if disk.cleaning_parts == 0 {
            disk.regions.cleaned(disk.syncs.done);
        }
        self.unsettled = true;
    }

    /// A write to a sidecar file ended.
    pub(super) fn persist_completed(
        &mut self,
        op: usize,
        result: Result<(), Errno>,
        actions: &mut Vec<Action>,
    ) {
        let (op, _) = self.persists[op].take().expect("a write completes once");
        match op {
            PersistOp::Intents(index, epoch) => {
                let disk = &mut self.disks[index];
                // A slot of a file that was given up (S4): who waited for it waits for another.
                if epoch != disk.intent_epoch {
                    return;
                }
                let Some(write) = disk.intent_write.take() else { return };
                if let Err(errno) = result {
                    disk.intent_write = Some(write);
                    return self.tracking_failed(
                        index,
                        &format!("intents can't be written (error {})", errno.0),
                        actions,
                    );
                }
                disk.regions.written(&write.added);
                self.ready.extend(write.admitted);
            }
            PersistOp::Append(index, epoch, generation) => {
                let disk = &mut self.disks[index];
                let log = match &mut disk.frozen {
                    Some(frozen) if frozen.log.header.generation == generation => &mut frozen.log,
                    _ => &mut disk.log,
                };
                if log.header.generation == generation {
                    log.appending = false;
                    match result {
                        Ok(()) => log.durable = log.end,
                        Err(_) => log.dead = true,
                    }
                }
                self.cleaning_part_done(index, epoch, result.is_ok());
                if let Err(errno) = result
                    && epoch == self.disks[index].intent_epoch
                {
                    let why = format!("the change log can't be written (error {})", errno.0);
                    self.tracking_failed(index, &why, actions);
                }
                self.try_seal(actions);
            }
        }
        self.unsettled = true;
    }

    /// S4: tracking itself fails. The sidecar's files are dead to us: never written again by this session.
    pub(super) fn tracking_failed(&mut self, index: usize, why: &str, actions: &mut Vec<Action>) {
        let disk = &mut self.disks[index];
        // Healing that waits for a meta in vain begins again: else writes that wait (strict) would wait for ever.
        if matches!(disk.healing, Healing::Naming(_)) {
            disk.healing = Healing::None;
        }
        if disk.intent_mode != IntentMode::Kept {
            return;
        }
        // Healing that had begun has failed with it: its meta may still be stored, the mark stays.
        disk.healing = Healing::None;
        disk.intent_epoch += 1;
        disk.cleaning_parts = 0;
        if let Some(write) = disk.intent_write.take() {
            for slot in write.admitted {
                disk.intent_queue.push_back(slot);
            }
        }
        if self.config.strict {
            tracing::error!(disk = %disk.name, reason = why, "tracking fails; writes wait (strict)");
            disk.intent_mode = IntentMode::Strict;
            return;
        }
        tracing::error!(disk = %disk.name, reason = why, "tracking fails; the guest goes on, resynchronization required");
        disk.intent_mode = IntentMode::Marking;
        disk.degraded = Some(why.to_string());
        disk.unmark_again = false;
        // Mutant: nobody waits for the mark.
        if mutant::active("untracked-before-mark") {
            disk.intent_mode = IntentMode::Bypassed;
            self.ready.extend(disk.intent_queue.drain(..));
        }
        self.mark(index, true, actions);
    }

    /// Sets or clears the mark. The last one asked for wins, whatever the order in which they end.
    fn mark(&mut self, index: usize, untracked: bool, actions: &mut Vec<Action>) {
        self.disks[index].marking += 1;
        let disk = DiskIndex(index as u16);
        self.post(if untracked { Job::Mark { disk } } else { Job::Unmark { disk } }, actions);
    }

    /// The mark on the disk is durable: who waited may go on untracked by intents. Not before (S4).
    pub(super) fn marked(&mut self, index: usize, result: Result<(), JobError>) {
        let disk = &mut self.disks[index];
        disk.marking -= 1;
        if let Err(error) = result {
            tracing::error!(disk = %disk.name, error = error.0, "the disk can't be marked either: its writes wait");
            disk.mark_again = true;
            return;
        }
        disk.intent_mode = IntentMode::Bypassed;
        for slot in std::mem::take(&mut disk.intent_queue) {
            self.ready.push_back(slot);
        }
    }

    /// The mark is cleared, or could not be. Left over it would cost a resynchronization, so it is tried again; but not if
    /// tracking has failed since, and the mark says so until that is healed too.
    pub(super) fn unmarked(&mut self, index: usize, result: Result<(), JobError>) {
        let disk = &mut self.disks[index];
        disk.marking -= 1;
        if let Err(error) = result {
            tracing::warn!(disk = %disk.name, error = error.0, "the mark can't be cleared; trying again");
            disk.unmark_again = disk.degraded.is_none();
        }
    }

    /// S4: begins to heal, by a fresh intents file. Who waits on the old one still hangs in the sidecar's file system?
    /// Then the worker does too, or the file is made and all is well.
    pub(super) fn try_heal(&mut self, actions: &mut Vec<Action>) {
        for index in 0..self.disks.len() {
            if std::mem::take(&mut self.disks[index].mark_again) {
                self.mark(index, true, actions);
            } else if std::mem::take(&mut self.disks[index].unmark_again) {
                self.mark(index, false, actions);
            }
            let disk = &mut self.disks[index];
            let broken = matches!(disk.intent_mode, IntentMode::Bypassed | IntentMode::Strict);
            let wanted = match &disk.healing {
                Healing::None => true,
                Healing::Renewed { regions, .. } => !regions.is_superset(disk.regions.failed()),
                Healing::Renewing | Healing::Cut(..) | Healing::Naming(_) => false,
            };
            // W5: the data of a failed write may still land, and in strict mode nobody can write it again: its region is in
            // the fresh set from the beginning, and enough room beside it.
            let capacity = disk.intent_capacity.max(4 * disk.regions.failed().len());
            if broken && wanted && capacity <= REGIONS_MAX {
                disk.healing = Healing::Renewing;
                let name = renewed_intents_name(self.config.session, self.state.open);
                let disk_index = DiskIndex(index as u16);
                let regions = disk.regions.failed().clone();
                self.post(Job::RenewIntents { disk: disk_index, name, regions, capacity }, actions);
            }
        }
    }

    /// S4: what heals is a cut, and nobody may come to ask for one while writes wait for it (strict): one of our own
    /// then, undone as soon as it is sealed.
    pub(super) fn cut_to_heal(&mut self) {
        let wants_a_cut = |disk: &crate::disk::Disk| match &disk.healing {
            Healing::Renewed { regions, .. } => regions.is_superset(disk.regions.failed()),
            // Its sealing failed.
            Healing::Cut(..) => true,
            _ => false,
        };
        if self.freeze.is_none() && self.disks.iter().any(wants_a_cut) {
            self.cut_unasked();
        }
    }

    /// S4, at the instant of a cut: everything dirty is in the frozen map now, which is about to be sealed; what comes
    /// is kept in the fresh intents. In `availability` the mark still vouches for the time until then.
    pub(super) fn heal_at_cut(&mut self, index: usize) {
        let open = self.state.open;
        let disk = &mut self.disks[index];
        if !matches!(&disk.healing, Healing::Renewed { regions, .. } if regions.is_superset(disk.regions.failed()))
        {
            return;
        }
        let Healing::Renewed { name, sequence, regions, capacity } =
            std::mem::replace(&mut disk.healing, Healing::None)
        else {
            unreachable!("looked at above")
        };
        disk.intent_sequence = sequence;
        disk.healing = Healing::Cut(name, open);
        disk.intent_capacity = capacity;
        disk.regions.reset(&regions, disk.regions.budget().max(4 * regions.len()));
        if disk.intent_mode == IntentMode::Bypassed {
            disk.intent_mode = IntentMode::Kept;
        }
        // Mutant: as if all that went untracked were in a durable log already.
        if mutant::active("healed-before-seal") {
            disk.unmark_again = true;
        }
        // Whoever waits starts at W1 again, with the new set.
        let waiting = |slot: &super::slots::Slot| !matches!(slot.phase, Phase::InFlight | Phase::Syncing);
        let held: Vec<u32> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.disk.index() == index && waiting(slot))
            .map(|(slot, _)| slot)
            .collect();
        for slot in held {
            self.unpin(slot);
        }
    }

    /// S4: the log of the generation before the healing cut is durable. Now the meta may name the fresh intents.
    pub(super) fn heal_at_seal(&mut self, generation: Generation, actions: &mut Vec<Action>) {
        for index in 0..self.disks.len() {
            let disk = &mut self.disks[index];
            let Healing::Cut(name, open) = &disk.healing else { continue };
            if super::before(*open) > generation {
                continue;
            }
            if !disk.regions.keeps_failed() {
                // A write that was in flight at the cut has failed since, and its region is not in the fresh set: again.
                disk.healing = Healing::None;
                self.tracking_failed(index, "a write failed while tracking healed", actions);
                continue;
            }
            disk.meta.intents = name.clone();
            let number = self.store_metas(&[index], actions);
            self.disks[index].healing = Healing::Naming(number);
        }
    }

    /// S4: full intents are durable; only now the mark is cleared.
    pub(super) fn heal_at_meta(&mut self, number: u64, actions: &mut Vec<Action>) {
        for index in 0..self.disks.len() {
            let disk = &mut self.disks[index];
            if disk.healing != Healing::Naming(number) {
                continue;
            }
            disk.healing = Healing::None;
            disk.degraded = None;
            tracing::info!(disk = %disk.name, "tracking is whole again");
            if disk.intent_mode == IntentMode::Strict {
                disk.intent_mode = IntentMode::Kept;
                self.ready.extend(disk.intent_queue.drain(..));
            } else {
                self.mark(index, false, actions);
            }
        }
    }

    /// When the oldest write to a sidecar file that anything relies on is late.
    pub(super) fn intent_deadline(&self) -> Option<Nanos> {
        let relied_on = |op: &PersistOp| {
            let (PersistOp::Intents(disk, epoch) | PersistOp::Append(disk, epoch, _)) = op;
            *epoch == self.disks[*disk].intent_epoch
        };
        let running = self.persists.iter().flatten().filter(|(op, _)| relied_on(op));
        running.map(|(_, since)| since.after(INTENT_DEADLINE)).min()
    }

    /// S4: a slot write or an append that hangs is a failure too.
    pub(super) fn check_intent_deadlines(&mut self, actions: &mut Vec<Action>) {
        for index in 0..self.persists.len() {
            let Some((op, since)) = self.persists[index] else { continue };
            if since.after(INTENT_DEADLINE) <= self.now {
                let (PersistOp::Intents(disk, epoch) | PersistOp::Append(disk, epoch, _)) = op;
                if epoch != self.disks[disk].intent_epoch {
                    continue;
                }
                self.tracking_failed(disk, "the sidecar's file system does not answer", actions);
            }
        }
    }

    /// Whether tracking itself has failed (S4), and is not healed: asked by the simulator, which is a crate of its own.
    pub fn is_degraded(&self, disk: DiskIndex) -> bool {
        self.disks[disk.index()].intent_mode != IntentMode::Kept
    }

    /// The generation whose log is appended to, and how much of it is durable; for tests and status.
    pub fn log_of(&self, disk: DiskIndex) -> (Generation, u64) {
        let log = &self.disks[disk.index()].log;
        (log.header.generation, log.durable)
    }
}
