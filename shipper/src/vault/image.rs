//! The image of a disk: indexes laid one over the other, looked at through windows of blocks.
//!
//! A window is filled from the newest index down, and only where nothing newer is, so a walk over a whole image reads
//! every overlapping page once and holds some 50 bytes a block of the window, whatever the disk's size.

use super::access::{Index, Reader};
use super::entry::{DiskImage, IndexRef};
use super::frame::BlockHash;
use super::index::{PackRef, blocks_of};
use crate::{Error, Result};
use std::ops::Range;
use std::sync::Arc;
use towline_tracker::id::DiskId;
use towline_tracker::mutant;

/// A frame that holds blocks of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameRef {
    /// Which pack of the image: see [`Image::pack`].
    pub pack: u32,
    /// Where its sealed bytes begin in the pack.
    pub offset: u64,
    /// How many they are.
    pub sealed: u32,
    /// Its number in the pack.
    pub number: u32,
    /// Its blocks.
    pub blocks: u32,
}

/// What an image has at a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// Zeros, or nothing, which reads as zeros.
    Zero,
    /// Data.
    Data {
        /// The frame.
        frame: &'a FrameRef,
        /// The block's place in the frame.
        slot: u16,
        /// The block's hash.
        hash: &'a BlockHash,
    },
}

/// The image of a disk in an entry.
pub struct Image {
    reader: Arc<Reader>,
    size: u64,
    block_shift: u8,
    /// The oldest first.
    layers: Vec<Layer>,
    packs: Vec<PackRef>,
}

pub(super) struct Layer {
    pub(super) index: Index,
    /// Blocks from here on are clipped by a newer index for a smaller disk, or by the image's own size.
    pub(super) end: u64,
    /// Its first pack among the image's.
    pub(super) first_pack: u32,
}

impl Image {
    /// Opens the directories of all indexes of an image.
    ///
    /// # Errors
    /// `Damage`, `NewerVault`, the store's.
    pub fn open(reader: Arc<Reader>, disk: &DiskImage) -> Result<Self> {
        Self::empty(reader, disk.block_shift).then(disk)
    }

    /// Of no disk yet, and without an index.
    pub(super) fn empty(reader: Arc<Reader>, block_shift: u8) -> Self {
        Self { reader, size: 0, block_shift, layers: Vec::new(), packs: Vec::new() }
    }

    /// The image of the same disk in another entry: indexes that are the same in both are not opened again.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn then(mut self, disk: &DiskImage) -> Result<Self> {
        let known = &self.reader.group().known;
        let is_same = |(layer, of): &(&Layer, &IndexRef)| {
            layer.index.listed == **of && layer.index.reference == known.stands_for(of)
        };
        let same = self.layers.iter().zip(&disk.indexes).take_while(is_same).count();
        if let Some(layer) = self.layers.get(same) {
            self.packs.truncate(layer.first_pack as usize);
            self.layers.truncate(same);
        }
        self.block_shift = disk.block_shift;
        disk.indexes[same..].iter().try_for_each(|reference| self.lay(disk.id, reference))?;
        self.clip(disk.size);
        Ok(self)
    }

    /// Opens an index and lays it over the others; then they must be clipped.
    pub(super) fn lay(&mut self, disk: DiskId, reference: &IndexRef) -> Result<()> {
        let index = self.reader.open_index(reference)?;
        let head = &index.directory.head;
        if head.disk != disk || head.block_shift != self.block_shift {
            return Err(Error::damage(
                &self.reader.index_place(reference).name,
                "it is about another disk than the entry says",
            ));
        }
        let first_pack =
            u32::try_from(self.packs.len()).map_err(|_| Error::damage("an image", "too many packs"))?;
        self.packs.extend_from_slice(&index.directory.packs);
        self.layers.push(Layer { end: 0, index, first_pack });
        Ok(())
    }

    /// The disk has this size, and what lies beyond the end of anything newer is gone.
    pub(super) fn clip(&mut self, size: u64) {
        self.size = size;
        let mut end = blocks_of(size, self.block_shift);
        for layer in self.layers.iter_mut().rev() {
            let head = &layer.index.directory.head;
            let own = blocks_of(head.size, head.block_shift);
            end = end.min(own);
            // Mutant: each index ends where its own disk ended.
            layer.end = if mutant::active("index-not-clipped") { own } else { end };
        }
    }

    /// Its indexes, the oldest first.
    pub(super) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The disk's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// log2 of the block size.
    pub fn block_shift(&self) -> u8 {
        self.block_shift
    }

    /// The disk's size in blocks.
    pub fn blocks(&self) -> u64 {
        blocks_of(self.size, self.block_shift)
    }

    /// What reads the image's objects.
    pub fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// The packs that frames refer to.
    pub fn packs(&self) -> &[PackRef] {
        &self.packs
    }

    /// A pack that frames refer to.
    pub fn pack(&self, number: u32) -> &PackRef {
        &self.packs[number as usize]
    }

    /// At most this many blocks hold data: the sum over all indexes, not looking at what lies over what.
    pub fn data_blocks_bound(&self) -> u64 {
        let sum =
            self.layers.iter().map(|layer| layer.index.directory.data_blocks.min(layer.end)).sum::<u64>();
        sum.min(self.blocks())
    }

    /// The whole image in windows of up to `count` blocks, in block order.
    ///
    /// # Errors
    /// As [`Self::window`], for each.
    pub fn windows(&self, count: usize) -> impl Iterator<Item = Result<Window>> {
        (0..self.blocks()).step_by(count).map(move |first| {
            let rest = usize::try_from(self.blocks() - first).unwrap_or(count);
            self.window(first, count.min(rest))
        })
    }

    /// What the image has at the blocks `[first, first + count)`; beyond its end it has zeros.
    ///
    /// # Errors
    /// `Damage`, the store's.
    pub fn window(&self, first: u64, count: usize) -> Result<Window> {
        let mut window = Window::new(first, count);
        for layer in self.layers.iter().rev() {
            if window.unset == 0 {
                break;
            }
            let end = layer.end.min(first.saturating_add(count as u64));
            let pages = &layer.index.directory.pages;
            let from = pages.partition_point(|page| page.end <= first);
            for (number, page) in pages.iter().enumerate().skip(from).take_while(|(_, page)| page.first < end)
            {
                // What newer indexes have covered is not read: it may be damaged, and was shipped again for that.
                if !window.lacks(page.first..page.end.min(end)) {
                    continue;
                }
                let page = self.reader.page(&layer.index, number)?;
                window.fill(&page, layer.first_pack, end);
            }
        }
        Ok(window)
    }
}

/// A part of an image, resolved.
pub struct Window {
    first: u64,
    /// Per block: 0 nothing found, 1 zeros, else a cell + 2.
    codes: Vec<u32>,
    /// Per block with data: frame, slot.
    cells: Vec<(u32, u16)>,
    hashes: Vec<BlockHash>,
    frames: Vec<FrameRef>,
    unset: usize,
}

impl Window {
    fn new(first: u64, count: usize) -> Self {
        let (codes, cells, hashes, frames) = (vec![0; count], Vec::new(), Vec::new(), Vec::new());
        Self { first, codes, cells, hashes, frames, unset: count }
    }

    /// Whether nothing was found yet for some of these blocks, of those that are in the window.
    fn lacks(&self, blocks: Range<u64>) -> bool {
        let place = |block: u64| {
            usize::try_from(block.saturating_sub(self.first))
                .map_or(self.codes.len(), |at| at.min(self.codes.len()))
        };
        self.codes[place(blocks.start)..place(blocks.end)].contains(&0)
    }

    fn fill(&mut self, page: &super::index::Page, first_pack: u32, end: u64) {
        let begin = page.runs.partition_point(|run| run.block + u64::from(run.count) <= self.first);
        let mut known = vec![u32::MAX; page.frames.len()];
        for run in &page.runs[begin..] {
            if run.block >= end {
                break;
            }
            let from = run.block.max(self.first);
            let to = (run.block + u64::from(run.count)).min(end);
            for block in from..to {
                let code = &mut self.codes[usize::try_from(block - self.first).expect("inside the window")];
                if *code != 0 {
                    continue;
                }
                self.unset -= 1;
                let Some(frame) = run.frame else {
                    *code = 1;
                    continue;
                };
                let known = &mut known[usize::from(frame)];
                if *known == u32::MAX {
                    let frame = &page.frames[usize::from(frame)];
                    *known = u32::try_from(self.frames.len()).expect("fewer frames than blocks");
                    self.frames.push(FrameRef {
                        pack: first_pack + frame.pack,
                        offset: frame.offset,
                        sealed: frame.sealed,
                        number: frame.number,
                        blocks: frame.blocks,
                    });
                }
                let into = u32::try_from(block - run.block).expect("a data run is short");
                let slot = run.slot + u16::try_from(into).expect("a data run is short");
                *code = u32::try_from(self.cells.len()).expect("a window is small") + 2;
                self.cells.push((*known, slot));
                self.hashes.push(page.hashes[(run.hash + into) as usize]);
            }
        }
    }

    /// Its first block.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Its blocks.
    pub fn count(&self) -> usize {
        self.codes.len()
    }

    /// Blocks with data.
    pub fn data_blocks(&self) -> usize {
        self.cells.len()
    }

    /// What the image has at a block, which must be in the window.
    pub fn get(&self, block: u64) -> Found<'_> {
        match self.codes[usize::try_from(block - self.first).expect("inside the window")] {
            0 | 1 => Found::Zero,
            code => {
                let cell = code as usize - 2;
                let (frame, slot) = self.cells[cell];
                Found::Data { frame: &self.frames[frame as usize], slot, hash: &self.hashes[cell] }
            }
        }
    }

    /// Every block that holds data, in block order.
    pub fn data(&self) -> impl Iterator<Item = (u64, &FrameRef, u16, &BlockHash)> {
        (self.first..).zip(&self.codes).filter(|(_, code)| **code >= 2).map(|(block, code)| {
            let cell = *code as usize - 2;
            let (frame, slot) = self.cells[cell];
            (block, &self.frames[frame as usize], slot, &self.hashes[cell])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{BLOCK, Change, World, with_edges};
    use super::*;
    use crate::vault::entry::EntryKind;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use towline_tracker::id::CutId;

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            any::<u64>().prop_map(Change::Noise),
            any::<u8>().prop_map(Change::Text),
            Just(Change::Zero)
        ]
    }

    fn disk() -> impl Strategy<Value = (u64, BTreeMap<u64, Change>)> {
        (1u64..400_000).prop_flat_map(|size| {
            let blocks = size.div_ceil(BLOCK as u64);
            (Just(size), prop::collection::btree_map(0..blocks, change(), 0..60))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Goal: whatever is laid over whatever, every point reads as the disk was. Method: random cycles of two
        /// disks with resizes, zeros, checkpoints and pack sizes against byte arrays, in random windows.
        #[test]
        fn every_point_reads_as_the_model(
            cycles in prop::collection::vec(([disk(), disk()], 5usize..80, any::<bool>()), 1..8),
            windows in prop::collection::vec((0u64..110, 1usize..110), 1..6),
            small in any::<bool>(),
        ) {
            let mut world = World::new();
            world.pack_size = if small { 1 << 16 } else { 1 << 20 };
            for (mut cycle, checkpoint, fuzzy) in cycles {
                with_edges(&mut cycle, &world.disks);
                if fuzzy {
                    world.publish(&cycle, CutId::random(), EntryKind::Fuzzy, checkpoint);
                } else {
                    world.publish(&cycle, CutId::random(), EntryKind::Point, checkpoint);
                }
            }
            let hasher = world.group.hasher();
            let reader = Arc::new(Reader::new(world.group.clone(), 4 << 10));
            let head = world.group.head(0).unwrap();
            let mut points = world.points.iter();
            for seq in 1..=head {
                let entry = world.group.entry_at(seq).unwrap();
                if entry.header.kind != EntryKind::Point {
                    continue;
                }
                let (cut, model) = points.next().unwrap();
                prop_assert_eq!(*cut, entry.header.cut);
                for (disk, model) in entry.content().unwrap().disks.iter().zip(model) {
                    let image = Image::open(reader.clone(), disk).unwrap();
                    prop_assert_eq!(image.size(), model.len() as u64);
                    for (first, count) in windows.iter().copied().chain([(0, 120)]) {
                        let window = image.window(first, count).unwrap();
                        prop_assert_eq!(window.data().count(), window.data_blocks());
                        for block in first..first + count as u64 {
                            let at = usize::try_from(block).unwrap() * BLOCK;
                            let mut bytes = model.get(at..model.len().min(at + BLOCK)).unwrap_or(&[]).to_vec();
                            bytes.resize(BLOCK, 0);
                            match window.get(block) {
                                Found::Zero => prop_assert!(bytes.iter().all(|byte| *byte == 0), "block {}", block),
                                Found::Data { hash, .. } => prop_assert_eq!(hasher.hash(&bytes), *hash, "block {}", block),
                            }
                        }
                    }
                }
            }
        }
    }
}
