//! The write path of one request (DESIGN 3.1): intent, wait, preserve, then mark-tag-submit as one step.

use super::action::{Action, Change, Errno, OpId, Request, RequestId};
use super::slots::{Phase, Slot};
use super::{Group, Op};
use crate::disk::{IntentMode, SyncWaiter};
use crate::map::header::Road;
use crate::mutant;

/// What a step of the write path came to.
enum Step {
    Go,
    /// The request waits; who ends the wait runs it again from W1.
    Wait,
    /// A discard has passed over its piece without touching it (W3): the next piece.
    Skipped,
}

impl Group {
    /// See [`Group::request`].
    pub(super) fn begin(&mut self, request: Request, actions: &mut Vec<Action>) -> RequestId {
        assert!(request.length > 0 && request.offset < u64::MAX - request.length);
        let disk = &mut self.disks[request.disk.index()];
        assert!(request.offset + request.length <= disk.geometry.size, "the frontend checks the range");
        disk.writes += 1;
        let index = self.slots.insert(Slot {
            token: request.token,
            piece: request.offset..request.offset,
            end: request.offset + request.length,
            generation: self.state.open,
            pinned: 0..0,
            preserve_left: self.config.bounds.zero_preserve_max,
            syncs_failed: disk.syncs.failed,
            writes_failed: disk.failed.count(),
            disk: request.disk,
            change: request.change,
            fua: request.fua,
            phase: Phase::Held,
            abandoned: false,
        });
        self.advance(index, actions);
        RequestId(index)
    }

    /// Runs a request from W1 until it is submitted or waits. "Any wait that ends starts again at 1."
    pub(super) fn advance(&mut self, index: u32, actions: &mut Vec<Action>) {
        loop {
            let slot = self.slots.get(index);
            slot.phase = Phase::Held;
            let fresh = slot.piece.is_empty();
            if fresh {
                slot.piece.end = slot.end;
                if slot.change != Change::Write {
                    // Pieces end at multiples of the piece size: never inside a block.
                    let stop = (slot.piece.start / self.piece + 1) * self.piece;
                    slot.piece.end = slot.end.min(stop);
                }
            }
            if !self.tracking {
                return self.submit(index, actions);
            }
            if fresh && mutant::active("mark-before-waits") {
                let (disk, blocks) = self.blocks_at_work(index);
                self.disks[disk].mark(blocks);
            }
            if let Step::Wait = self.intend(index) {
                return;
            }
            if self.freeze.is_some() {
                match self.respect_freeze(index, actions) {
                    Step::Go => {}
                    Step::Wait => return,
                    Step::Skipped => continue,
                }
            }
            return self.mark_and_submit(index, actions);
        }
    }

    /// W1: each region touched is in the latest durable version of the intents and in the one being written. All
    /// regions at once, pinned until the request ends.
    #[inline]
    fn intend(&mut self, index: u32) -> Step {
        let slot = self.slots.get(index);
        let disk = &mut self.disks[slot.disk.index()];
        match disk.intent_mode {
            IntentMode::Kept => {}
            // The mark on the disk is durable: recovery reads the whole disk, no intent is needed (S4).
            IntentMode::Bypassed => return Step::Go,
            IntentMode::Marking | IntentMode::Strict => {
                slot.phase = Phase::Intent;
                disk.intent_queue.push_back(index);
                self.counts.waited_intent += 1;
                return Step::Wait;
            }
        }
        if !slot.pinned.is_empty() {
            debug_assert!(disk.regions.ready(slot.pinned.clone()), "a pinned region stays ready");
            return Step::Go;
        }
        let range = disk.geometry.regions_of(slot.piece.clone());
        if disk.regions.pin_if_ready(range.clone()) {
            slot.pinned = range;
            return Step::Go;
        }
        slot.phase = Phase::Intent;
        disk.intent_queue.push_back(index);
        self.counts.waited_intent += 1;
        self.unsettled = true;
        Step::Wait
    }

    fn blocks_at_work(&mut self, index: u32) -> (usize, std::ops::Range<u64>) {
        let slot = self.slots.get(index);
        let disk = slot.disk.index();
        (disk, self.disks[disk].geometry.blocks_of(slot.piece.clone()))
    }

    /// W2 and W3: what a freeze asks of a request to its blocks.
    fn respect_freeze(&mut self, index: u32, actions: &mut Vec<Action>) -> Step {
        let (disk, blocks) = self.blocks_at_work(index);
        // W2a: an in-flight write of the generation being drained belongs to the freeze; what overwrites it must come
        // after it. While one drains, the slab is scanned. An undone freeze needs no order any more, and nobody would
        // end the wait.
        let frozen = super::before(self.state.open);
        let draining =
            self.state.road == Road::Draining && self.disks[disk].in_flight[super::parity(frozen)] > 0;
        if draining {
            let geometry = self.disks[disk].geometry;
            let ahead = self.slots.iter().find(|(_, other)| {
                other.phase == Phase::InFlight
                    && other.generation == frozen
                    && other.disk.index() == disk
                    && super::overlap(&geometry.blocks_of(other.piece.clone()), &blocks)
            });
            if let Some((ahead, _)) = ahead {
                self.drain_waiters.entry(ahead).or_default().push(index);
                self.counts.waited_drain += 1;
                return Step::Wait;
            }
        }
        if !self.exact() || mutant::active("no-preserve") {
            return Step::Go;
        }
        // Mutant: a running preserve may read the new block.
        let running =
            |one: &super::Preserve| one.live && one.disk == disk && super::overlap(&one.blocks, &blocks);
        if mutant::active("no-preserve-wait") && self.preserves.iter().flatten().any(running) {
            return Step::Go;
        }
        // W2b: a running preserve still reads the old block.
        if self.wait_for_preserve(index, disk, &blocks) {
            self.counts.waited_preserve += 1;
            return Step::Wait;
        }
        self.preserve_for(index, disk, blocks, actions)
    }

    /// W3 for the blocks of a piece: start copying what is wanted, or say what else to do.
    fn preserve_for(
        &mut self,
        index: u32,
        disk: usize,
        blocks: std::ops::Range<u64>,
        actions: &mut Vec<Action>,
    ) -> Step {
        let geometry = self.disks[disk].geometry;
        let Some(frozen) = &self.disks[disk].frozen else { return Step::Go };
        // Beyond the frozen size there is nothing to preserve.
        let blocks = blocks.start..blocks.end.min(frozen.blocks).max(blocks.start);
        let slot = self.slots.get(index);
        let most =
            if slot.change == Change::Write { u64::MAX } else { slot.preserve_left >> geometry.block_shift };
        let mut wanted = Vec::new();
        let mut total = 0;
        for run in crate::map::bits::runs(blocks, |word| frozen.wanted(word)) {
            total += run.end - run.start;
            wanted.push(run);
            if total > most {
                break;
            }
        }
        let Some(first) = wanted.first().cloned() else { return Step::Go };
        if slot.change != Change::Write {
            let bytes = total << geometry.block_shift;
            if total > most {
                // From now on the first wanted run is enough to know.
                slot.preserve_left = 0;
                if slot.change != Change::Discard {
                    // Mutant: blocks that nobody preserved are overwritten in an exact freeze.
                    if !mutant::active("zeros-over-limit-stay-exact") {
                        self.turn_fuzzy("a write of zeros over more than 16 MiB of frozen blocks", actions);
                    }
                    return Step::Go;
                }
                // A discard may leave what it likes: unmarked, untouched, read as before.
                let run = geometry.bytes_of(first);
                if run.start > slot.piece.start {
                    slot.piece.end = run.start;
                    return Step::Go;
                }
                slot.piece.end = slot.piece.end.min(run.end);
                return self.finish_piece(index, actions);
            }
            slot.preserve_left -= bytes;
        }
        if self.over_preserve_limit(disk, total) {
            // Mutant: what is over the limit is overwritten in an exact freeze.
            if !mutant::active("limit-stays-exact") {
                self.turn_fuzzy("the limit of preserved data is reached", actions);
            }
            return Step::Go;
        }
        for run in wanted {
            self.start_preserves(disk, run, actions);
        }
        assert!(self.wait_for_preserve(index, disk, &first), "it was just started");
        self.counts.waited_preserve += 1;
        Step::Wait
    }

    /// A discard's piece is over without a submission.
    fn finish_piece(&mut self, index: u32, actions: &mut Vec<Action>) -> Step {
        self.unpin(index);
        let slot = self.slots.get(index);
        slot.piece.start = slot.piece.end;
        if slot.piece.start < slot.end {
            return Step::Skipped;
        }
        self.finish(index, actions);
        Step::Wait
    }

    /// W4: mark, tag, submit, as one indivisible step. Not earlier: a request that was marked and then waited across a
    /// cut would land in no generation.
    #[inline]
    fn mark_and_submit(&mut self, index: u32, actions: &mut Vec<Action>) {
        let slot = self.slots.get(index);
        let disk = &mut self.disks[slot.disk.index()];
        let mut blocks = disk.geometry.blocks_of(slot.piece.clone());
        // Mutant: the block that a discard ends in the middle of is not marked.
        if mutant::active("discard-tail-skipped") && slot.change == Change::Discard {
            blocks.end = (slot.piece.end >> disk.geometry.block_shift).max(blocks.start);
        }
        if !mutant::active("mark-before-waits") {
            disk.mark(blocks);
        }
        let pinned = !slot.pinned.is_empty();
        let regions = if pinned { slot.pinned.clone() } else { disk.geometry.regions_of(slot.piece.clone()) };
        disk.regions.marked(regions);
        slot.generation = self.state.open;
        disk.in_flight[super::parity(self.state.open)] += 1;
        self.submit(index, actions);
    }

    #[inline]
    fn submit(&mut self, index: u32, actions: &mut Vec<Action>) {
        let slot = self.slots.get(index);
        slot.phase = Phase::InFlight;
        slot.writes_failed = self.disks[slot.disk.index()].failed.count();
        actions.push(Action::Submit {
            id: Op::Request(index).id(),
            disk: slot.disk,
            change: slot.change,
            offset: slot.piece.start,
            length: slot.piece.end - slot.piece.start,
            durable: slot.fua && slot.change == Change::Write,
            token: slot.token,
        });
    }

    /// W5: a submitted piece ended.
    #[inline]
    pub(super) fn request_completed(
        &mut self,
        index: u32,
        result: Result<(), Errno>,
        actions: &mut Vec<Action>,
    ) {
        let slot = self.slots.get(index);
        assert!(slot.phase == Phase::InFlight, "a completion of something that is not in flight");
        slot.phase = Phase::Held;
        let (disk_index, fua, change) = (slot.disk, slot.fua, slot.change);
        if self.tracking {
            let piece = slot.piece.clone();
            let (generation, writes_failed) = (slot.generation, slot.writes_failed);
            let disk = &mut self.disks[disk_index.index()];
            disk.in_flight[super::parity(generation)] -= 1;
            // What it pinned is its regions, or nothing (S4).
            let pinned = std::mem::replace(&mut slot.pinned, 0..0);
            let held = !pinned.is_empty();
            let regions = if held { pinned } else { disk.geometry.regions_of(piece.clone()) };
            disk.regions.completed(regions, held, disk.syncs.begun);
            // A discard that succeeded may have written nothing. Mutant: it has written.
            let written =
                result.is_ok() && (change != Change::Discard || mutant::active("failure-ended-by-discard"));
            if result.is_err() || written && !disk.failed.is_empty() {
                let lasting = !matches!(
                    result,
                    Err(Errno(libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::EOPNOTSUPP))
                );
                let seen = written.then_some(writes_failed);
                self.note_failure(disk_index.index(), piece, seen, lasting);
                if self.disks[disk_index.index()].regions.failed().len()
                    > self.disks[disk_index.index()].regions.budget() / 4
                {
                    // They can't leave the intents: before they fill them, tracking is given up instead (S4).
                    self.tracking_failed(disk_index.index(), "too many writes to the disk failed", actions);
                }
            }
            if self.freeze.is_some() && generation != self.state.open {
                self.drained_one(index, actions);
            }
        }
        if let Err(errno) = result {
            // A durable write that failed may have eaten an error of the device's cache (W6); running out of space is
            // found before that.
            if fua && change == Change::Write && !matches!(errno.0, libc::ENOSPC | libc::EDQUOT) {
                self.sync_failed(disk_index.index(), false, actions);
            }
            return self.end(index, result, actions);
        }
        let slot = self.slots.get(index);
        slot.piece = slot.piece.end..slot.piece.end;
        if slot.piece.end < slot.end && !slot.abandoned {
            return self.advance(index, actions);
        }
        self.finish(index, actions);
    }

    /// All pieces are done: replies, after a sync if the request is a zero or a discard with FUA.
    #[inline]
    fn finish(&mut self, index: u32, actions: &mut Vec<Action>) {
        let slot = self.slots.get(index);
        if slot.fua && slot.change != Change::Write {
            slot.phase = Phase::Syncing;
            let disk = slot.disk.index();
            return self.want_sync(disk, SyncWaiter::Request(index), actions);
        }
        self.end(index, Ok(()), actions);
    }

    /// Replies, and forgets the request.
    #[inline]
    pub(super) fn end(&mut self, index: u32, mut result: Result<(), Errno>, actions: &mut Vec<Action>) {
        let slot = self.slots.get(index);
        // W6: a sync that failed since it came may have lost what it had written by then, and no later flush would say so.
        if self.disks[slot.disk.index()].syncs.failed != slot.syncs_failed {
            result = result.and(Err(Errno(libc::EIO)));
        }
        actions.push(Action::Reply { token: slot.token, result });
        self.slots.remove(index);
    }

    #[inline]
    pub(super) fn unpin(&mut self, index: u32) {
        let slot = self.slots.get(index);
        let pinned = std::mem::replace(&mut slot.pinned, 0..0);
        let regions = &mut self.disks[slot.disk.index()].regions;
        for region in pinned {
            regions.unpin(region);
        }
    }

    /// W5: blocks of a failed write are marked again at its completion and at every cut, until a later write there
    /// succeeded and was synced: its data may still land. `success`: the failures that were known when a write that
    /// succeeded was submitted.
    fn note_failure(
        &mut self,
        index: usize,
        piece: std::ops::Range<u64>,
        success: Option<u32>,
        lasting: bool,
    ) {
        let disk = &mut self.disks[index];
        let geometry = disk.geometry;
        if let Some(seen) = success {
            // Only whole blocks: the rest of a partly written one may still change.
            let start = piece.start.div_ceil(1 << geometry.block_shift);
            let end = if piece.end == geometry.size {
                geometry.blocks()
            } else {
                piece.end >> geometry.block_shift
            };
            // Mutant: of what failed while it was in flight it says as much as of what failed before.
            let seen =
                if mutant::active("failure-ended-by-write-in-flight") { disk.failed.count() } else { seen };
            disk.failed.rewritten(start..end.max(start), disk.syncs.begun, seen);
            return;
        }
        let blocks = geometry.blocks_of(piece.clone());
        if !lasting {
            // Found before anything was written, or over when it was reported: nothing lands later.
            disk.mark(blocks);
            return;
        }
        disk.failed.add(blocks.clone());
        if !mutant::active("failed-write-not-marked") {
            disk.mark(blocks);
        }
        for region in geometry.regions_of(piece) {
            disk.regions.set_failed(region, true);
        }
        self.store_failed(index);
    }

    /// Writes the failed extents to the header, for a successor.
    pub(super) fn store_failed(&mut self, index: usize) {
        let failed: Vec<_> = self.disks[index].failed.extents().collect();
        self.header.set_failed(index, &failed);
    }

    /// See [`Group::abandon`].
    pub(super) fn abandon_request(&mut self, index: u32) -> bool {
        let slot = self.slots.get(index);
        match slot.phase {
            Phase::Free => unreachable!("a request id is used after its reply"),
            Phase::InFlight | Phase::Syncing => {
                slot.abandoned = true;
                false
            }
            // Mutant: it is said to be dropped, and stays in its queue.
            _ if mutant::active("dead-connection-submits") => true,
            Phase::Intent | Phase::Admitted | Phase::Held => {
                let disk = slot.disk.index();
                self.unpin(index);
                self.disks[disk].intent_queue.retain(|other| *other != index);
                if let Some(write) = &mut self.disks[disk].intent_write {
                    write.admitted.retain(|other| *other != index);
                }
                self.forget_waiter(index);
                self.slots.remove(index);
                true
            }
        }
    }
}

impl Op {
    /// What the engine gives back.
    pub(super) fn id(self) -> OpId {
        let (kind, index) = match self {
            Self::Request(index) => (0, index),
            Self::Sync(disk) => (1, disk),
            Self::Preserve(index) => (2, index),
            Self::Persist(index) => (3, index),
        };
        assert!(index < 1 << 30);
        OpId(kind << 30 | index)
    }

    pub(super) fn of(id: OpId) -> Self {
        let index = id.0 & ((1 << 30) - 1);
        match id.0 >> 30 {
            0 => Self::Request(index),
            1 => Self::Sync(index),
            2 => Self::Preserve(index),
            _ => Self::Persist(index),
        }
    }
}
