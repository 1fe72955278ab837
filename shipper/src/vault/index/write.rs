//! Writing an index: runs in block order, packed into pages as they come, sealed, and a directory behind them.

use super::{FinishedIndex, HASH, IndexHead, PackRef, PageFrame, ZEROS, blocks_of};
use crate::vault::cycle::Maker;
use crate::vault::entry::IndexRef;
use crate::vault::envelope::{ObjectKind, Sealer};
use crate::vault::frame::BlockHash;
use crate::vault::layout::{self, directory, directory_pack, directory_page, page, page_frame, page_run};
use crate::vault::limits::{INDEX_PACKS_MAX, INDEX_PAGES_MAX, PAGE_MAX};
use crate::vault::names::ObjectName;
use crate::vault::pack;
use std::collections::HashMap;

/// An index that is being written. Holds its bytes, whatever it is made from.
pub struct IndexWriter {
    head: IndexHead,
    reference: IndexRef,
    object: String,
    sealer: Sealer,
    bytes: Vec<u8>,
    /// The directory's records of the pages so far.
    pages: Vec<u8>,
    open: OpenPage,
    /// One past the last block so far.
    end: u64,
    data_blocks: u64,
    zero_blocks: u64,
}

impl IndexWriter {
    /// An empty one, under a random name.
    pub fn new(head: IndexHead, maker: &Maker) -> Self {
        let Maker { seal, epoch, cut } = maker;
        let reference = IndexRef {
            epoch: *epoch,
            cut: *cut,
            name: ObjectName::draw(seal.draw),
            entry: 0,
            offset: 0,
            length: 0,
            hash: [0; 32],
            level: head.level,
        };
        let object = reference.object(seal.group);
        let sealer = seal.sealer(ObjectKind::Index, &object);
        let bytes = sealer.header().to_vec();
        let (pages, open) = (Vec::new(), OpenPage::default());
        Self { head, reference, object, sealer, bytes, pages, open, end: 0, data_blocks: 0, zero_blocks: 0 }
    }

    /// Bytes of it so far, without its directory.
    pub fn written(&self) -> usize {
        self.bytes.len() + self.open.used()
    }

    /// The next run of blocks with data: in this frame (its pack by number in the directory), from this slot on, with a
    /// hash for each.
    ///
    /// # Panics
    /// If it is not behind the runs before it, or outside the disk: the caller's mistake.
    pub fn data(&mut self, block: u64, frame: &PageFrame, slot: u16, hashes: &[BlockHash]) {
        let count = hashes.len() as u64;
        self.begin(block, count);
        self.data_blocks += count;
        if !self.open.fits(Some(frame), hashes.len()) {
            self.close();
        }
        self.open.push(block, count, Some((frame, slot, hashes)));
    }

    /// The next run of blocks that are zeros.
    ///
    /// # Panics
    /// As [`Self::data`].
    pub fn zeros(&mut self, mut block: u64, mut count: u64) {
        self.begin(block, count);
        self.zero_blocks += count;
        while count > 0 {
            let part = count.min(u32::MAX.into());
            if !self.open.fits(None, 0) {
                self.close();
            }
            self.open.push(block, part, None);
            block += part;
            count -= part;
        }
    }

    fn begin(&mut self, block: u64, count: u64) {
        assert!(self.end <= block, "a block is indexed twice");
        self.end = block + count;
        assert!(self.end <= blocks_of(self.head.size, self.head.block_shift), "a block is outside the disk");
    }

    fn close(&mut self) {
        let open = std::mem::take(&mut self.open);
        let body = open.encode();
        let (number, offset) = (self.pages.len() / directory_page::LENGTH, self.bytes.len());
        self.sealer.seal(number as u64, &body, &mut self.bytes);
        let mut record = [0; directory_page::LENGTH];
        layout::set(&mut record, directory_page::FIRST, open.first);
        layout::set(&mut record, directory_page::END, open.end);
        layout::set(&mut record, directory_page::OFFSET, offset as u64);
        layout::set(&mut record, directory_page::SEALED, (self.bytes.len() - offset) as u64);
        layout::set(&mut record, directory_page::RUNS, (open.runs.len() / page_run::LENGTH) as u64);
        record[directory_page::HASH].copy_from_slice(blake3::hash(&body).as_bytes());
        self.pages.extend_from_slice(&record);
    }

    /// The whole index, whose frames lie in these packs.
    pub fn finish(mut self, packs: &[PackRef]) -> FinishedIndex {
        if !self.open.runs.is_empty() {
            self.close();
        }
        let table = self.directory(packs);
        pack::close(&self.sealer, &table, &mut self.bytes);
        let Self { mut reference, object, bytes, data_blocks, zero_blocks, .. } = self;
        (reference.length, reference.hash) = (bytes.len() as u64, *blake3::hash(&table).as_bytes());
        FinishedIndex { object, bytes, reference, data_blocks, zero_blocks }
    }

    fn directory(&self, packs: &[PackRef]) -> Vec<u8> {
        let count = self.pages.len() / directory_page::LENGTH;
        assert!(count <= INDEX_PAGES_MAX && packs.len() <= INDEX_PACKS_MAX, "an index is too large");
        let mut table = vec![0; directory::LENGTH];
        table[directory::DISK].copy_from_slice(&self.head.disk.0);
        layout::set(&mut table, directory::SIZE, self.head.size);
        layout::set(&mut table, directory::BLOCK_SHIFT, self.head.block_shift.into());
        layout::set(&mut table, directory::LEVEL, self.head.level.into());
        layout::set(&mut table, directory::PAGES, count as u64);
        layout::set(&mut table, directory::PACKS, packs.len() as u64);
        layout::set(&mut table, directory::DATA_BLOCKS, self.data_blocks);
        layout::set(&mut table, directory::ZERO_BLOCKS, self.zero_blocks);
        table.extend_from_slice(&self.pages);
        for pack in packs {
            let mut record = [0; directory_pack::LENGTH];
            record[directory_pack::NAME].copy_from_slice(&pack.name.0);
            record[directory_pack::CUT].copy_from_slice(&pack.cut.0);
            layout::set(&mut record, directory_pack::EPOCH, pack.epoch);
            layout::set(&mut record, directory_pack::ENTRY, pack.entry);
            layout::set(&mut record, directory_pack::OFFSET, pack.offset);
            layout::set(&mut record, directory_pack::TOTAL, pack.length);
            record[directory_pack::SALT].copy_from_slice(&pack.salt);
            table.extend_from_slice(&record);
        }
        table
    }
}

/// A page being filled.
#[derive(Default)]
struct OpenPage {
    first: u64,
    end: u64,
    numbers: HashMap<(u32, u32), u64>,
    frames: Vec<u8>,
    runs: Vec<u8>,
    hashes: Vec<u8>,
}

impl OpenPage {
    fn used(&self) -> usize {
        page::LENGTH + self.frames.len() + self.runs.len() + self.hashes.len()
    }

    fn fits(&self, frame: Option<&PageFrame>, hashes: usize) -> bool {
        let known = frame.is_none_or(|frame| self.numbers.contains_key(&(frame.pack, frame.number)));
        let more = page_run::LENGTH + hashes * HASH + if known { 0 } else { page_frame::LENGTH };
        self.used() + more <= PAGE_MAX
    }

    fn push(&mut self, block: u64, count: u64, data: Option<(&PageFrame, u16, &[BlockHash])>) {
        if self.runs.is_empty() {
            self.first = block;
        }
        self.end = block + count;
        let mut record = [0; page_run::LENGTH];
        layout::set(&mut record, page_run::BLOCK, block);
        layout::set(&mut record, page_run::COUNT, count);
        layout::set(&mut record, page_run::FRAME, ZEROS);
        if let Some((frame, slot, hashes)) = data {
            let next = self.numbers.len() as u64;
            let place = *self.numbers.entry((frame.pack, frame.number)).or_insert_with(|| {
                let mut record = [0; page_frame::LENGTH];
                layout::set(&mut record, page_frame::PACK, frame.pack.into());
                layout::set(&mut record, page_frame::NUMBER, frame.number.into());
                layout::set(&mut record, page_frame::OFFSET, frame.offset);
                layout::set(&mut record, page_frame::SEALED, frame.sealed.into());
                layout::set(&mut record, page_frame::BLOCKS, frame.blocks.into());
                self.frames.extend_from_slice(&record);
                next
            });
            layout::set(&mut record, page_run::FRAME, place);
            layout::set(&mut record, page_run::SLOT, slot.into());
            hashes.iter().for_each(|hash| self.hashes.extend_from_slice(hash));
        }
        self.runs.extend_from_slice(&record);
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = vec![0; page::LENGTH];
        layout::set(&mut body, page::FRAMES, (self.frames.len() / page_frame::LENGTH) as u64);
        layout::set(&mut body, page::RUNS, (self.runs.len() / page_run::LENGTH) as u64);
        layout::set(&mut body, page::HASHES, (self.hashes.len() / HASH) as u64);
        body.extend_from_slice(&self.frames);
        body.extend_from_slice(&self.runs);
        body.extend_from_slice(&self.hashes);
        assert!(body.len() <= PAGE_MAX);
        body
    }
}
