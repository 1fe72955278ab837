//! One bit a block over [`super::Words`]. Stores are plain loads and stores of the one writer, not read-modify-write
//! operations: no other thread ever stores to an open map.

use super::sync::{AtomicU64, fence};
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Blocks per word.
pub const WORD_BLOCKS: u64 = 64;

/// Words that a map of `blocks` blocks needs.
pub fn words_for(blocks: u64) -> usize {
    usize::try_from(blocks.div_ceil(WORD_BLOCKS)).expect("a map fits memory")
}

/// The bits of `word` that lie in `range`, and that word's index.
#[inline]
fn mask(word: u64, range: &Range<u64>) -> u64 {
    let base = word * WORD_BLOCKS;
    let low = range.start.max(base) - base;
    let high = range.end.min(base + WORD_BLOCKS) - base;
    (u64::MAX << low) & (u64::MAX >> (WORD_BLOCKS - high))
}

/// Whether the bit is set. `Acquire`: who sees a preserved bit also sees the copy (R1).
#[inline]
pub fn get(words: &[AtomicU64], block: u64) -> bool {
    words[(block / WORD_BLOCKS) as usize].load(Ordering::Acquire) >> (block % WORD_BLOCKS) & 1 == 1
}

/// Sets the bits of `range` and returns how many were clear. `Release`: whoever sees a preserved bit must see the
/// copy that came before it (W3).
#[inline]
pub fn set(words: &[AtomicU64], range: Range<u64>) -> u64 {
    let mut fresh = 0;
    if range.is_empty() {
        return 0;
    }
    // A single block, the usual write: one bit, nothing to count.
    if range.end - range.start == 1 {
        let word = &words[(range.start / WORD_BLOCKS) as usize];
        let (old, bit) = (word.load(Ordering::Relaxed), 1 << (range.start % WORD_BLOCKS));
        if old & bit != 0 {
            return 0;
        }
        word.store(old | bit, Ordering::Release);
        return 1;
    }
    for index in range.start / WORD_BLOCKS..=(range.end - 1) / WORD_BLOCKS {
        let word = &words[index as usize];
        let old = word.load(Ordering::Relaxed);
        let new = old | mask(index, &range);
        if new != old {
            word.store(new, Ordering::Release);
            fresh += u64::from((new ^ old).count_ones());
        }
    }
    fresh
}

/// Whether any bit of `range` is set in what `load` gives for a word.
#[inline]
pub fn any(range: Range<u64>, load: impl Fn(usize) -> u64) -> bool {
    if range.is_empty() {
        return false;
    }
    (range.start / WORD_BLOCKS..=(range.end - 1) / WORD_BLOCKS)
        .any(|index| load(index as usize) & mask(index, &range) != 0)
}

/// How many bits are set.
pub fn count(words: &[AtomicU64]) -> u64 {
    words.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
}

/// The maximal runs of set bits within `range` of what `load` gives for a word, in order.
pub fn runs(range: Range<u64>, load: impl Fn(usize) -> u64) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    let end = range.end;
    std::iter::from_fn(move || {
        let start = next_bit(at, end, true, &load)?;
        let stop = next_bit(start, end, false, &load).unwrap_or(end);
        at = stop;
        Some(start..stop)
    })
}

/// The preserved runs of `range`, in order, as of now. For a reader of a freeze, when its read or seek has completed (a
/// system call returned, a completion was reaped): what may have seen new bytes finds their blocks here (R1).
pub fn look(words: &[AtomicU64], range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    // The loads must not move up before the read; `Acquire`: who sees a bit sees the copy.
    fence(Ordering::SeqCst);
    runs(range, |index| words[index].load(Ordering::Acquire))
}

/// The first block at or after `at` and before `end` whose bit equals `set`.
fn next_bit(mut at: u64, end: u64, set: bool, load: &impl Fn(usize) -> u64) -> Option<u64> {
    while at < end {
        let index = at / WORD_BLOCKS;
        let word = load(index as usize);
        let hit = (if set { word } else { !word }) & mask(index, &(at..end));
        if hit != 0 {
            return Some(index * WORD_BLOCKS + u64::from(hit.trailing_zeros()));
        }
        at = (index + 1) * WORD_BLOCKS;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Words;
    use proptest::prelude::*;

    proptest! {
        /// Random sets against a vector of booleans: same bits, same count of fresh ones, same runs.
        #[test]
        fn a_map_is_a_vector_of_booleans(
            sets in proptest::collection::vec((0u64..1000, 0u64..200), 0..40),
            from in 0u64..1000, length in 0u64..1000,
        ) {
            let words = Words::private(words_for(1200));
            let mut model = vec![false; 1200];
            for (start, length) in sets {
                let fresh = set(&words, start..start + length);
                let range = start as usize..(start + length) as usize;
                prop_assert_eq!(fresh, model[range.clone()].iter().filter(|bit| !**bit).count() as u64);
                model[range].fill(true);
            }
            let range = from..(from + length).min(1200);
            let load = |index: usize| words[index].load(Ordering::Relaxed);
            let mut seen = vec![false; 1200];
            let mut last = None;
            for run in runs(range.clone(), load) {
                prop_assert!(run.start < run.end && last.is_none_or(|end| end < run.start), "runs are maximal");
                last = Some(run.end);
                seen[run.start as usize..run.end as usize].fill(true);
            }
            for block in 0..1200u64 {
                prop_assert_eq!(get(&words, block), model[block as usize]);
                prop_assert_eq!(seen[block as usize], range.contains(&block) && model[block as usize]);
            }
            prop_assert_eq!(super::any(range.clone(), load), range.clone().any(|block| model[block as usize]));
            prop_assert_eq!(count(&words), model.iter().filter(|bit| **bit).count() as u64);
        }
    }
}
