//! Which indexes of a list are folded, as a pure function of the list (V6).
//!
//! A list is looked at in units: the indexes of one cut (its checkpoints', which list hardly a block twice), or the parts of
//! one fold. A unit's level is that of its indexes, or a higher one that its size has earned: the index of an initial
//! replication is not written anew for each sixteen small ones on top of it. And it is at least that of every unit above it,
//! so that along a list, from the oldest on, levels never rise, whatever was put when. A tier is all units of a level.
//!
//! Folded are the *oldest* `every` units of a full tier into one of the next level; a next tier that this one fills is
//! folded with it at once. So when all is folded that is due, each tier has fewer than `every` units, each byte of an
//! index was written about once for each level, and there are as many levels as the list's units, or the largest one's size,
//! have digits to the base `every`.

use crate::vault::entry::IndexRef;
use std::ops::Range;

/// A unit up to this size has earned no level; up to `every` times as much, the first one, and so on.
const SMALL: u64 = 64 << 10;

/// A fold that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// Which indexes of the list.
    pub(super) range: Range<usize>,
    /// The level of what comes of them.
    pub(super) level: u8,
}

struct Unit {
    start: usize,
    level: u32,
}

/// The units of a list, the oldest first.
fn units(list: &[IndexRef], every: u64) -> Vec<Unit> {
    let mut units = Vec::new();
    let mut start = 0;
    for indexes in list.chunk_by(|a, b| (a.level, a.cut) == (b.level, b.cut)) {
        let bytes = indexes.iter().fold(0u64, |sum, index| sum.saturating_add(index.length));
        let (mut earned, mut size) = (0, SMALL);
        while bytes > size {
            (earned, size) = (earned + 1, size.saturating_mul(every));
        }
        units.push(Unit { start, level: earned.max(indexes[0].level.into()) });
        start += indexes.len();
    }
    let mut least = 0;
    for unit in units.iter_mut().rev() {
        least = unit.level.max(least);
        unit.level = least;
    }
    units
}

/// What is to be folded next, if anything is; `every` is at least 2.
pub(super) fn due(list: &[IndexRef], every: usize) -> Option<Due> {
    let units = units(list, every as u64);
    let tier = |end: usize, level: u32| units[..end].partition_point(|unit| unit.level > level);
    let mut end = units.len();
    while end > 0 {
        let mut level = units[end - 1].level;
        let mut from = tier(end, level);
        if end - from < every {
            end = from;
            continue;
        }
        let to = from + every;
        level += 1;
        loop {
            let above = tier(from, level);
            if above == from || from - above + 1 < every {
                break;
            }
            (from, level) = (above, level + 1);
        }
        let until = units.get(to).map_or(list.len(), |unit| unit.start);
        return Some(Due { range: units[from].start..until, level: u8::try_from(level).ok()? });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::names::ObjectName;
    use proptest::prelude::*;
    use towline_tracker::id::CutId;

    fn index(number: u64, level: u8, length: u64) -> IndexRef {
        let mut cut = [0; 16];
        cut[..8].copy_from_slice(&number.to_le_bytes());
        let name = ObjectName(cut);
        IndexRef { epoch: 1, cut: CutId(cut), name, entry: 0, offset: 0, length, hash: [0; 32], level }
    }

    fn levels(list: &[IndexRef], every: usize) -> Vec<u32> {
        units(list, every as u64).iter().map(|unit| unit.level).collect()
    }

    /// Folds all that is due; answers the bytes that were written for it.
    fn fold(list: &mut Vec<IndexRef>, every: usize) -> u64 {
        let mut written = 0;
        while let Some(Due { range, level }) = due(list, every) {
            let length = list[range.clone()].iter().map(|index| index.length).sum();
            written += length;
            let newest = list[range.end - 1];
            list.splice(range, [IndexRef { level, length, ..newest }]);
        }
        written
    }

    #[test]
    fn sixteen_of_a_level_are_one_of_the_next() {
        let mut list: Vec<_> = (0..15).map(|n| index(n, 0, 400)).collect();
        assert_eq!(due(&list, 16), None);
        list.push(index(15, 0, 400));
        assert_eq!(due(&list, 16), Some(Due { range: 0..16, level: 1 }));
        // Of more than that, the oldest: what is above them stays above.
        list.push(index(16, 0, 400));
        assert_eq!(due(&list, 16), Some(Due { range: 0..16, level: 1 }));
        // One that fills the next tier goes with it.
        let mut list: Vec<_> = (0..15).map(|n| index(n, 1, 6000)).collect();
        list.extend((15..31).map(|n| index(n, 0, 400)));
        assert_eq!(due(&list, 16), Some(Due { range: 0..31, level: 2 }));
    }

    #[test]
    fn a_large_index_is_not_written_anew_for_sixteen_small_ones() {
        let mut list = vec![index(0, 0, 9 << 30)];
        list.extend((1..17).map(|n| index(n, 0, 400)));
        assert_eq!(due(&list, 16), Some(Due { range: 1..17, level: 1 }));
        // Nor do small ones below one stay for ever: they are of its level.
        let list = [index(0, 0, 400), index(1, 0, 400), index(2, 0, 9 << 30), index(3, 0, 400)];
        let found = levels(&list, 16);
        assert!(found[0] == found[2] && found[1] == found[2] && found[3] == 0, "{found:?}");
    }

    #[test]
    fn checkpoints_of_a_cut_are_one_unit_and_so_are_parts_of_a_fold() {
        let list: Vec<_> = (0..40).map(|n| index(n / 20, (n / 20 == 0).into(), 400)).collect();
        assert_eq!(levels(&list, 16), [1, 0]);
    }

    proptest! {
        /// Goal: whatever is put on top, the list is bounded and the cost of it too. Method: lists that grow by units of
        /// any size and are folded now and then.
        #[test]
        fn lists_and_what_folding_writes_are_bounded(
            every in 2usize..20,
            puts in prop::collection::vec((prop_oneof![20 => Just(400u64), 1 => 0u64..1 << 30], any::<bool>()), 1..600),
        ) {
            let mut list = Vec::new();
            let (mut written, mut put) = (0, 0);
            for (number, (length, now)) in (0..).zip(&puts) {
                list.push(index(number, 0, *length));
                put += length;
                if *now {
                    written += fold(&mut list, every);
                }
                let found = levels(&list, every);
                prop_assert!(found.is_sorted_by(|a, b| a >= b), "{found:?}");
            }
            written += fold(&mut list, every);
            let found = levels(&list, every);
            for tier in found.chunk_by(|a, b| a == b) {
                prop_assert!(tier.len() < every, "{found:?}");
            }
            let highest = found.first().copied().unwrap_or(0);
            let digits = |mut number: u64| { let mut n = 0; while number > 0 { (number, n) = (number / every as u64, n + 1); } n };
            prop_assert!(highest <= digits(puts.len() as u64) + digits(put / SMALL) + 1, "{highest}");
            prop_assert!(written <= put * u64::from(highest), "{written} of {put}, {highest} levels");
        }
    }
}
