//! Blocks of failed writes (W5): the data of such a write may still land. They are marked again at every cut until a
//! later write there succeeded and was synced.

use std::ops::Range;

/// More extents than this are joined into their hull.
const EXTENTS_MAX: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Extent {
    blocks: Range<u64>,
    /// The disk's count of begun syncs when a later write over it completed.
    rewritten: Option<u32>,
}

/// The failed writes of a disk.
#[derive(Debug, Default)]
pub(crate) struct Failed(Vec<Extent>);

impl Failed {
    /// From a header: none was written again.
    pub(crate) fn new(extents: Vec<Range<u64>>) -> Self {
        Self(extents.into_iter().map(|blocks| Extent { blocks, rewritten: None }).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub(crate) fn extents(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|extent| extent.blocks.clone())
    }

    /// A write to these blocks failed.
    pub(crate) fn add(&mut self, blocks: Range<u64>) {
        self.cover(blocks.clone(), None);
        if !self.0.iter().any(|extent| extent.blocks.start <= blocks.start && blocks.end <= extent.blocks.end)
        {
            self.0.push(Extent { blocks, rewritten: None });
        }
        if self.0.len() > EXTENTS_MAX {
            let start = self.extents().map(|blocks| blocks.start).min().expect("not empty");
            let end = self.extents().map(|blocks| blocks.end).max().expect("not empty");
            self.0 = vec![Extent { blocks: start..end, rewritten: None }];
        }
    }

    /// A later write of all of these blocks succeeded, when `begun` syncs had begun.
    pub(crate) fn rewritten(&mut self, blocks: Range<u64>, begun: u32) {
        if !blocks.is_empty() {
            self.cover(blocks, Some(begun));
        }
    }

    fn cover(&mut self, blocks: Range<u64>, rewritten: Option<u32>) {
        let mut rest = Vec::new();
        self.0.retain_mut(|extent| {
            let shared = extent.blocks.start.max(blocks.start)..extent.blocks.end.min(blocks.end);
            if shared.is_empty() {
                return true;
            }
            for outside in [extent.blocks.start..shared.start, shared.end..extent.blocks.end] {
                if !outside.is_empty() {
                    rest.push(Extent { blocks: outside, rewritten: extent.rewritten });
                }
            }
            rest.push(Extent { blocks: shared, rewritten });
            false
        });
        self.0.append(&mut rest);
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
        failed.rewritten(12..14, 5);
        assert!(!failed.synced(5), "a sync that began before the write completed proves nothing");
        assert!(failed.synced(6));
        let mut left: Vec<_> = failed.extents().collect();
        left.sort_by_key(|blocks| blocks.start);
        assert_eq!(left, [10..12, 14..20]);
        failed.rewritten(0..100, 6);
        failed.add(15..16);
        failed.synced(7);
        assert_eq!(failed.extents().collect::<Vec<_>>(), [15..16]);
    }
}
