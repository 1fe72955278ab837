//! What this shipper put lately (V7): a guest that writes the same bytes again, as journals and databases do, ships
//! nothing. Kept in a table of fixed size, so that it costs no read of the vault; what fell out of it is shipped.
//!
//! The table stands for exactly one image: the entry whose hash it carries. While a cycle runs it stands for none, and
//! it is believed again only when that cycle's entry is published; so a cycle that fails, a new attach, another size of
//! a disk or a cycle that did not tell the table leaves it empty. Fuzzy entries are images like others: what is
//! remembered is what was put, not what was cut.

use super::below::BelowBlock;
use crate::source::SourceDisk;
use crate::vault::entry::EntryRef;
use crate::vault::frame::BlockHash;
use std::ops::Range;
use std::sync::Mutex;
use towline_tracker::id::DiskId;
use towline_tracker::mutant;

/// Bytes of a slot: a key and a hash.
const SLOT: u64 = 8 + size_of::<BlockHash>() as u64;
/// A block's number takes this many bits of a key, its disk's place the rest.
const BLOCK_BITS: u32 = 48;

/// A disk as far as an index depends on it.
type Shape = (DiskId, u64, u8);

/// Hashes of blocks of one image.
pub struct Lately {
    slots: usize,
    /// The image, and the disks in their order.
    of: Option<(EntryRef, Vec<Shape>)>,
    table: Mutex<Table>,
}

/// One slot a key: a newer block takes the place of an older one.
#[derive(Default)]
struct Table {
    /// One more than the key, so that memory that nobody touched costs nothing; 0: free.
    keys: Vec<u64>,
    hashes: Vec<BlockHash>,
}

impl Lately {
    /// An empty table that grows to at most this many bytes.
    pub fn new(bytes: u64) -> Self {
        let most = usize::try_from(bytes / SLOT).unwrap_or(usize::MAX).max(2);
        // The power of two at or below it.
        let slots = 1 << (usize::BITS - 1 - most.leading_zeros());
        Self { slots, of: None, table: Mutex::default() }
    }

    /// A cycle begins over this image; `used` says whether the cycle looks here and tells what it puts. From now on the
    /// table stands for no image.
    pub fn begin(&mut self, base: Option<EntryRef>, disks: &[SourceDisk], used: bool) {
        // Mutant: whatever becomes of the cycle, it goes on standing for an image.
        let of = if mutant::active("hash-cache-kept") { self.of.clone() } else { self.of.take() };
        let table = self.table.get_mut().expect("no thread panics with the lock");
        if !used {
            *table = Table::default();
        } else if table.keys.is_empty() || of.is_none() || of != base.map(|base| (base, shapes(disks))) {
            *table = Table { keys: vec![0; self.slots], hashes: vec![[0; 32]; self.slots] };
        }
    }

    /// The cycle that began is this entry now.
    pub fn published(&mut self, entry: EntryRef, disks: &[SourceDisk]) {
        self.of = Some((entry, shapes(disks)));
    }

    /// The blocks of `run` of the disk at this place in the order, appended to `blocks` in order.
    pub(super) fn look(&self, disk: usize, run: Range<u64>, blocks: &mut Vec<BelowBlock>) {
        let table = self.table.lock().expect("no thread panics with the lock");
        blocks.extend(run.map(|block| match key(disk, block) {
            Some(key) if table.keys[table.slot(key)] == key => {
                BelowBlock::Data(table.hashes[table.slot(key)])
            }
            _ => BelowBlock::Unknown,
        }));
    }

    /// These blocks of the disk are put.
    pub(super) fn note(&self, disk: usize, blocks: &[(u64, BlockHash)]) {
        let mut table = self.table.lock().expect("no thread panics with the lock");
        for (block, hash) in blocks {
            let Some(key) = key(disk, *block) else { continue };
            let slot = table.slot(key);
            (table.keys[slot], table.hashes[slot]) = (key, *hash);
        }
    }

    /// These blocks of the disk are zeros now.
    pub(super) fn forget(&self, disk: usize, run: Range<u64>) {
        let mut table = self.table.lock().expect("no thread panics with the lock");
        if run.end - run.start < table.keys.len() as u64 {
            for key in run.filter_map(|block| key(disk, block)) {
                let slot = table.slot(key);
                if table.keys[slot] == key {
                    table.keys[slot] = 0;
                }
            }
            return;
        }
        for slot in &mut table.keys {
            let block = slot.wrapping_sub(1) & ((1 << BLOCK_BITS) - 1);
            if *slot != 0 && (*slot - 1) >> BLOCK_BITS == disk as u64 && run.contains(&block) {
                *slot = 0;
            }
        }
    }
}

impl Table {
    fn slot(&self, key: u64) -> usize {
        let bits = self.keys.len().trailing_zeros();
        (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)) as usize
    }
}

/// One more than the key; `None` for a block that has none: it is not remembered.
fn key(disk: usize, block: u64) -> Option<u64> {
    let disk = u16::try_from(disk).ok()?;
    (block < (1 << BLOCK_BITS) - 1).then(|| (u64::from(disk) << BLOCK_BITS | block) + 1)
}

fn shapes(disks: &[SourceDisk]) -> Vec<Shape> {
    disks.iter().map(|disk| (disk.id, disk.size, disk.block_shift)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn disk(size: u64) -> Vec<SourceDisk> {
        let (name, block_shift, frozen_bytes) = (String::new(), 12, 0);
        let one = |id: u8| SourceDisk {
            id: DiskId([id; 16]),
            name: name.clone(),
            size,
            block_shift,
            compare: false,
            whole: false,
            frozen_bytes,
        };
        vec![one(1), one(2)]
    }

    fn entry(seq: u64) -> EntryRef {
        EntryRef { seq, hash: [seq as u8; 32] }
    }

    fn known(lately: &Lately, disk: usize, block: u64) -> Option<BlockHash> {
        let mut found = Vec::new();
        lately.look(disk, block..block + 1, &mut found);
        match found[..] {
            [BelowBlock::Data(hash)] => Some(hash),
            _ => None,
        }
    }

    #[test]
    fn it_is_believed_only_over_the_image_that_it_stands_for() {
        let mut lately = Lately::new(1 << 16);
        let fill = |lately: &mut Lately| {
            lately.begin(Some(entry(1)), &disk(1 << 20), true);
            lately.note(0, &[(7, [9; 32])]);
            lately.published(entry(2), &disk(1 << 20));
        };
        fill(&mut lately);
        lately.begin(Some(entry(2)), &disk(1 << 20), true);
        assert_eq!(known(&lately, 0, 7), Some([9; 32]));
        // That cycle failed: nothing was published.
        lately.begin(Some(entry(2)), &disk(1 << 20), true);
        assert_eq!(known(&lately, 0, 7), None);
        for (base, disks) in [(entry(3), disk(1 << 20)), (entry(2), disk(1 << 21))] {
            fill(&mut lately);
            lately.begin(Some(base), &disks, true);
            assert_eq!(known(&lately, 0, 7), None, "another image, or another size");
        }
        fill(&mut lately);
        lately.begin(Some(entry(2)), &disk(1 << 20), false);
        lately.published(entry(3), &disk(1 << 20));
        lately.begin(Some(entry(3)), &disk(1 << 20), true);
        assert_eq!(known(&lately, 0, 7), None, "the cycle between told nothing");
    }

    proptest! {
        /// What is known is always what was said last; much may have fallen out.
        #[test]
        fn it_never_knows_better(
            said in proptest::collection::vec((0usize..2, 0u64..200, 0u64..150, any::<u8>(), any::<bool>()), 0..200),
        ) {
            let mut lately = Lately::new(64 * SLOT);
            lately.begin(None, &disk(1 << 20), true);
            let mut model: HashMap<(usize, u64), u8> = HashMap::new();
            for (disk, block, count, value, zero) in said {
                if zero {
                    lately.forget(disk, block..block + count);
                    model.retain(|(of, at), _| *of != disk || !(block..block + count).contains(at));
                } else {
                    lately.note(disk, &[(block, [value; 32])]);
                    model.insert((disk, block), value);
                    prop_assert_eq!(known(&lately, disk, block), Some([value; 32]));
                }
                for disk in 0..2 {
                    for block in 0..400 {
                        let found = known(&lately, disk, block);
                        let said = model.get(&(disk, block)).map(|value| [*value; 32]);
                        prop_assert!(found.is_none() || found == said);
                    }
                }
            }
        }
    }
}
