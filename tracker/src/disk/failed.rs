//! Blocks of failed writes (W5): the data of such a write may still land. They are marked again at every cut until a
//! later write there succeeded and was synced, by the first sync behind it: a good one behind a failed one vouches for
//! nothing that came before (W6).

use std::ops::Range;

/// Of more extents than this, those that lie nearest to each other are joined: whatever lies between is dirty at every cut.
const EXTENTS_MAX: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Extent {
    blocks: Range<u64>,
    /// Which failure it was.
    number: u32,
    /// The disk's count of begun syncs when a later write over it completed.
    rewritten: Option<u32>,
}

/// The failed writes of a disk.
#[derive(Debug, Default)]
pub(crate) struct Failed(Vec<Extent>, u32);

impl Failed {
    /// From a header: none was written again.
    pub(crate) fn new(extents: Vec<Range<u64>>) -> Self {
        Self(extents.into_iter().map(|blocks| Extent { blocks, number: 0, rewritten: None }).collect(), 0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Failures so far. A write that is submitted now comes after all of them.
    pub(crate) fn count(&self) -> u32 {
        self.1
    }

    /// All of them.
    pub(crate) fn extents(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|extent| extent.blocks.clone())
    }

    /// A write to these blocks failed.
    pub(crate) fn add(&mut self, blocks: Range<u64>) {
        self.1 = self.1.wrapping_add(1);
        let number = self.1;
        self.cover(blocks.clone(), None, number);
        if !self.0.iter().any(|extent| extent.blocks.start <= blocks.start && blocks.end <= extent.blocks.end)
        {
            self.0.push(Extent { blocks, number, rewritten: None });
        }
        self.join_nearest();
    }

    /// Bounds the number of extents. A joined one counts as failed last and not written again: more work, never less.
    fn join_nearest(&mut self) {
        if self.0.len() <= EXTENTS_MAX {
            return;
        }
        self.0.sort_unstable_by_key(|extent| extent.blocks.start);
        while self.0.len() > EXTENTS_MAX {
            let gap = |at: &usize| self.0[at + 1].blocks.start.saturating_sub(self.0[*at].blocks.end);
            let at = (0..self.0.len() - 1).min_by_key(gap).expect("there are many");
            let next = self.0.remove(at + 1);
            let one = &mut self.0[at];
            one.blocks.end = one.blocks.end.max(next.blocks.end);
            one.rewritten = None;
            if super::regions::later(next.number, one.number) {
                one.number = next.number;
            }
        }
    }

    /// A later write of all of these blocks succeeded, when `begun` syncs had begun. `seen` is the [`Self::count`] of when
    /// it was submitted: of what failed while it was in flight it says nothing, for that may land after it.
    pub(crate) fn rewritten(&mut self, blocks: Range<u64>, begun: u32, seen: u32) {
        if !blocks.is_empty() {
            self.cover(blocks, Some(begun), seen);
            self.join_nearest();
        }
    }

    /// Sets what is known of the shared part of every extent that a failure or a write of this number comes after.
    fn cover(&mut self, blocks: Range<u64>, rewritten: Option<u32>, number: u32) {
        let mut rest = Vec::new();
        self.0.retain_mut(|extent| {
            let shared = extent.blocks.start.max(blocks.start)..extent.blocks.end.min(blocks.end);
            if shared.is_empty() || super::regions::later(extent.number, number) {
                return true;
            }
            let inside = if rewritten.is_none() { number } else { extent.number };
            for outside in [extent.blocks.start..shared.start, shared.end..extent.blocks.end] {
                if !outside.is_empty() {
                    rest.push(Extent { blocks: outside, number: extent.number, rewritten: extent.rewritten });
                }
            }
            rest.push(Extent { blocks: shared, number: inside, rewritten });
            false
        });
        self.0.append(&mut rest);
    }

    /// A sync failed: what is in flight or was written again may be lost, and no later sync tells (W6). All is as if it had
    /// failed now.
    pub(crate) fn sync_failed(&mut self) {
        self.1 = self.1.wrapping_add(1);
        for extent in &mut self.0 {
            (extent.number, extent.rewritten) = (self.1, None);
        }
    }

    /// A sync, the `done`-th to begin, succeeded. True if that ended the matter for some.
    pub(crate) fn synced(&mut self, done: u32) -> bool {
        let before = self.0.len();
        self.0.retain(|extent| extent.rewritten.is_none_or(|begun| !super::regions::later(done, begun)));
        self.0.len() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_block_stays_until_a_later_write_is_synced() {
        let mut failed = Failed::default();
        failed.add(10..20);
        failed.rewritten(12..14, 5, failed.count());
        assert!(!failed.synced(5), "a sync that began before the write completed proves nothing");
        assert!(failed.synced(6));
        let mut left: Vec<_> = failed.extents().collect();
        left.sort_by_key(|blocks| blocks.start);
        assert_eq!(left, [10..12, 14..20]);
        failed.rewritten(0..100, 6, failed.count());
        failed.add(15..16);
        failed.synced(7);
        assert_eq!(failed.extents().collect::<Vec<_>>(), [15..16]);
    }

    /// W6: the drive loses the later write when a sync fails, and the next one is good over it: the failed one may land yet.
    #[test]
    fn a_failed_block_is_not_ended_by_what_was_written_again_before_a_sync_failed() {
        let mut failed = Failed::default();
        failed.add(10..20);
        let in_flight = failed.count();
        failed.rewritten(10..15, 5, failed.count());
        failed.sync_failed();
        assert!(!failed.synced(7), "a later sync vouches for nothing before");
        failed.rewritten(15..20, 7, in_flight);
        assert!(!failed.synced(8), "nor for what was in flight");
        failed.rewritten(10..20, 8, failed.count());
        assert!(failed.synced(9) && failed.is_empty());
    }

    #[test]
    fn many_failures_cover_little_more_than_themselves_and_their_number_is_bounded() {
        let mut failed = Failed::default();
        // Two places far apart; in each, one block in eight.
        let places = |extent: u64| extent % 2 * 1_000_000_000 + extent / 2 * 8;
        for extent in 0..4096 {
            failed.add(places(extent)..places(extent) + 1);
            assert!(failed.0.len() <= EXTENTS_MAX);
        }
        let covered: u64 = failed.extents().map(|blocks| blocks.end - blocks.start).sum();
        assert!((4096..=4096 * 8).contains(&covered), "{covered} blocks are dirty at every cut");
        for extent in 0..4096 {
            assert!(failed.extents().any(|blocks| blocks.contains(&places(extent))));
        }
        // One large extent, written again in many small parts.
        let mut failed = Failed::default();
        failed.add(0..1 << 20);
        for block in (0..1 << 13).map(|part| part * 64) {
            failed.rewritten(block..block + 1, 5, failed.count());
            assert!(failed.0.len() <= EXTENTS_MAX);
        }
        failed.rewritten(0..1 << 20, 6, failed.count());
        assert!(failed.synced(7) && failed.is_empty());
    }

    #[test]
    fn a_write_that_was_in_flight_at_a_failure_ends_nothing() {
        let mut failed = Failed::default();
        let seen = failed.count();
        failed.add(10..20);
        failed.rewritten(0..30, 5, seen);
        assert!(!failed.synced(6), "the failed write may land after the one that came before it");
        failed.rewritten(0..30, 6, failed.count());
        assert!(failed.synced(7) && failed.is_empty());
    }
}
