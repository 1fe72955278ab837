//! Preserving (W3, C5): before a frozen block is overwritten, its old content is copied to the freeze's store.

use super::action::{Action, Errno};
use super::{Group, Op, overlap};
use crate::id::{DiskIndex, Generation, Nanos};
use crate::map::bits;
use crate::mutant;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

/// A copy under way.
#[derive(Debug)]
pub(crate) struct Preserve {
    pub(crate) disk: usize,
    pub(crate) blocks: Range<u64>,
    /// The freeze that it is for; if that one is gone or fuzzy when it completes, it changes nothing.
    pub(crate) generation: Generation,
    pub(crate) since: Nanos,
    /// Requests that wait for it. Emptied when the freeze ends: then it only waits for its completion.
    pub(crate) waiters: Vec<u32>,
    pub(crate) live: bool,
}

impl Group {
    /// Starts copying a run of wanted blocks.
    pub(super) fn start_preserves(&mut self, disk: usize, run: Range<u64>, actions: &mut Vec<Action>) {
        let geometry = self.disks[disk].geometry;
        let generation = super::before(self.state.open);
        let step = (self.config.bounds.copy_max >> geometry.block_shift).max(1);
        let frozen = self.disks[disk].frozen.as_mut().expect("a freeze has every disk");
        frozen.preserved_blocks += run.end - run.start;
        let size = frozen.size;
        let mut start = run.start;
        while start < run.end {
            let blocks = start..(start + step).min(run.end);
            start = blocks.end;
            let bytes = geometry.bytes_of(blocks.clone());
            let preserve =
                Preserve { disk, blocks, generation, since: self.now, waiters: Vec::new(), live: true };
            let index = match self.preserves.iter().position(Option::is_none) {
                Some(index) => index,
                None => {
                    self.preserves.push(None);
                    self.preserves.len() - 1
                }
            };
            // Mutant: who sees the bit may not see the copy.
            if mutant::active("preserved-before-copy") {
                bits::set(&frozen.preserved, preserve.blocks.clone());
            }
            self.preserves[index] = Some(preserve);
            actions.push(Action::Preserve {
                id: Op::Preserve(index as u32).id(),
                disk: DiskIndex(disk as u16),
                freeze: generation,
                offset: bytes.start,
                length: bytes.end.min(size) - bytes.start,
            });
        }
    }

    /// W2b: lets the request wait for a running copy of one of these blocks, if there is one.
    pub(super) fn wait_for_preserve(&mut self, index: u32, disk: usize, blocks: &Range<u64>) -> bool {
        let running = self
            .preserves
            .iter_mut()
            .flatten()
            .find(|one| one.live && one.disk == disk && overlap(&one.blocks, blocks));
        running.map(|one| one.waiters.push(index)).is_some()
    }

    /// A copy ended.
    pub(super) fn preserve_completed(
        &mut self,
        index: usize,
        result: Result<(), Errno>,
        actions: &mut Vec<Action>,
    ) {
        let one = self.preserves[index].take().expect("a copy completes once");
        // Its freeze must still be the one, and exact: a copy for a freeze that is gone changes nothing (W3).
        let current = one.live && super::before(self.state.open) == one.generation;
        // Mutant: any exact freeze takes it for its own.
        if self.exact() && (current || mutant::active("gone-freeze-preserves")) {
            // Mutant: however the copy ended, it counts as complete.
            let result = if mutant::active("failed-preserve-stays-exact") { Ok(()) } else { result };
            match result {
                Ok(()) => {
                    let frozen = self.disks[one.disk].frozen.as_ref().expect("a freeze has every disk");
                    // Release: who sees the bit sees the copy (R1). Only now may the overwriting write be submitted.
                    bits::set(&frozen.preserved, one.blocks.clone());
                    // Mutant: C3 broken, the frozen map loses what is preserved.
                    for block in one.blocks.clone().filter(|_| mutant::active("preserving-clears-frozen")) {
                        let word = &frozen.frozen[(block / bits::WORD_BLOCKS) as usize];
                        word.store(word.load(Relaxed) & !(1 << (block % bits::WORD_BLOCKS)), Relaxed);
                    }
                    self.counts.preserved_blocks += one.blocks.end - one.blocks.start;
                }
                Err(errno) => {
                    self.turn_fuzzy(&format!("a block could not be preserved (error {})", errno.0), actions)
                }
            }
        }
        self.ready.extend(one.waiters);
    }

    /// Whether preserving `more` blocks would pass `--preserve-limit`.
    pub(super) fn over_preserve_limit(&self, disk: usize, more: u64) -> bool {
        let Some(limit) = self.config.preserve_limit else { return false };
        let disk = &self.disks[disk];
        let blocks = disk.frozen.as_ref().map_or(0, |frozen| frozen.preserved_blocks) + more;
        blocks << disk.geometry.block_shift > limit
    }

    /// C5: the freeze is read as it is now from here on. The state is stored before the first unpreserved overwrite
    /// can be submitted: those that wait are only run again after this.
    pub(super) fn turn_fuzzy(&mut self, why: &str, _actions: &mut Vec<Action>) {
        let Some(freeze) = &mut self.freeze else { return };
        if self.state.fuzzy {
            return;
        }
        tracing::warn!(cut = %freeze.cut, reason = why, "the freeze turns fuzzy");
        freeze.fuzzy = Some(why.to_string());
        self.state.fuzzy = true;
        if !mutant::active("fuzzy-not-stored") {
            self.header.store(self.state);
        }
        self.counts.fuzzy_freezes += 1;
        self.wake_preserve_waiters();
    }

    /// The freeze ended or turned fuzzy: nobody waits for its copies any more.
    pub(super) fn wake_preserve_waiters(&mut self) {
        for one in self.preserves.iter_mut().flatten() {
            one.live = false;
            self.ready.extend(one.waiters.drain(..));
        }
    }

    /// C5: copies that took longer than the deadline.
    pub(super) fn check_preserve_deadline(&mut self, actions: &mut Vec<Action>) {
        if let Some(deadline) = self.preserve_deadline()
            && deadline <= self.now
        {
            self.turn_fuzzy("preserving took longer than its deadline", actions);
        }
    }

    /// When the oldest running copy is late.
    pub(super) fn preserve_deadline(&self) -> Option<Nanos> {
        let live = self.preserves.iter().flatten().filter(|one| one.live);
        live.map(|one| one.since).min().map(|since| since.after(self.config.preserve_deadline))
    }
}
