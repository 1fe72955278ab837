//! Building an index: runs in any order, sorted, packed into pages, sealed.

use super::{FinishedIndex, HASH, IndexHead, ZEROS, blocks_of};
use crate::vault::cycle::Maker;
use crate::vault::entry::IndexRef;
use crate::vault::envelope::ObjectKind;
use crate::vault::layout::{self, directory, directory_pack, directory_page, page, page_frame, page_run};
use crate::vault::limits::{INDEX_PACKS_MAX, INDEX_PAGES_MAX, PAGE_MAX};
use crate::vault::names::{self, ObjectName};
use crate::vault::pack::{self, PackSummary};
use std::collections::HashMap;
use towline_tracker::mutant;

#[derive(Clone, Copy)]
struct Run {
    block: u64,
    count: u64,
    /// Pack, frame, slot; `None`: zeros.
    place: Option<(u32, u32, u16)>,
}

/// Collects what was shipped of one disk, in any order, and sorts it when it is finished. Holds some 50 bytes a block:
/// what a checkpoint covers.
#[derive(Clone)]
pub struct IndexBuilder {
    head: IndexHead,
    packs: Vec<PackSummary>,
    runs: Vec<Run>,
}

impl IndexBuilder {
    /// An empty one: also what is published when only the size changed.
    pub fn new(head: IndexHead) -> Self {
        Self { head, packs: Vec::new(), runs: Vec::new() }
    }

    /// Nothing was added.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Bytes that it has at the least when it is finished.
    pub fn least(&self) -> usize {
        let data: u64 = self.runs.iter().filter(|run| run.place.is_some()).map(|run| run.count).sum();
        let hashes = usize::try_from(data).expect("blocks of packs in memory") * HASH;
        self.runs.len() * page_run::LENGTH + hashes + self.packs.len() * directory_pack::LENGTH
    }

    /// Adds all frames of a pack.
    pub fn add_pack(&mut self, summary: PackSummary) {
        let pack = u32::try_from(self.packs.len()).expect("packs are counted in four bytes");
        for (number, frame) in summary.frames.iter().enumerate() {
            let number = u32::try_from(number).expect("frames are counted in four bytes");
            let mut slot = 0;
            for run in frame.blocks.chunk_by(|a, b| a + 1 == *b) {
                // Mutant: every run begins where the frame begins.
                let place =
                    Some((pack, number, if mutant::active("slots-of-split-frame") { 0 } else { slot }));
                self.runs.push(Run { block: run[0], count: run.len() as u64, place });
                slot += u16::try_from(run.len()).expect("a frame has few blocks");
            }
        }
        self.packs.push(summary);
    }

    /// Keeps only these packs; answers the first block that was in another.
    pub fn retain(&mut self, mut keep: impl FnMut(&PackSummary) -> bool) -> Option<u64> {
        let (kept, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.packs).into_iter().partition(|pack| keep(pack));
        self.runs.retain(|run| run.place.is_none());
        kept.into_iter().for_each(|summary| self.add_pack(summary));
        gone.iter().flat_map(|pack| &pack.frames).flat_map(|frame| &frame.blocks).min().copied()
    }

    /// Adds `count` blocks of zeros.
    pub fn add_zeros(&mut self, block: u64, count: u64) {
        if count == 0 {
            return;
        }
        if let Some(last) = self.runs.last_mut()
            && last.place.is_none()
            && last.block + last.count == block
        {
            last.count += count;
            return;
        }
        self.runs.push(Run { block, count, place: None });
    }

    /// Sorts, packs into pages and seals, under a random name.
    ///
    /// # Panics
    /// If a block was added twice or lies outside the disk: the caller's mistake.
    pub fn finish(mut self, maker: &Maker) -> FinishedIndex {
        let Maker { seal, epoch, cut } = maker;
        let (epoch, cut) = (*epoch, *cut);
        let name = ObjectName::draw(seal.draw);
        let object = names::index(seal.group, epoch, cut, name);
        self.runs.sort_unstable_by_key(|run| run.block);
        let end = blocks_of(self.head.size, self.head.block_shift);
        assert!(self.runs.is_sorted_by(|a, b| a.block + a.count <= b.block), "a block is indexed twice");
        assert!(
            self.runs.last().is_none_or(|run| run.block + run.count <= end),
            "a block is outside the disk"
        );

        let sealer = seal.sealer(ObjectKind::Index, &object);
        let mut bytes = sealer.header().to_vec();
        let mut pages = Vec::new();
        let (mut data_blocks, mut zero_blocks) = (0, 0);
        let mut open = OpenPage::default();
        let mut close = |open: &mut OpenPage, bytes: &mut Vec<u8>| {
            let body = open.encode();
            let offset = bytes.len();
            sealer.seal(pages.len() as u64 / directory_page::LENGTH as u64, &body, bytes);
            let mut record = [0; directory_page::LENGTH];
            layout::set(&mut record, directory_page::FIRST, open.first);
            layout::set(&mut record, directory_page::END, open.end);
            layout::set(&mut record, directory_page::OFFSET, offset as u64);
            layout::set(&mut record, directory_page::SEALED, (bytes.len() - offset) as u64);
            layout::set(&mut record, directory_page::RUNS, open.runs.len() as u64 / page_run::LENGTH as u64);
            record[directory_page::HASH].copy_from_slice(blake3::hash(&body).as_bytes());
            pages.extend_from_slice(&record);
            *open = OpenPage::default();
        };
        for run in &self.runs {
            match run.place {
                Some(_) => data_blocks += run.count,
                None => zero_blocks += run.count,
            }
            let mut rest = *run;
            while rest.count > 0 {
                let part = Run { count: rest.count.min(u32::MAX.into()), ..rest };
                if !open.fits(&part) {
                    close(&mut open, &mut bytes);
                }
                open.push(&part, &self.packs);
                rest.block += part.count;
                rest.count -= part.count;
            }
        }
        if !open.runs.is_empty() {
            close(&mut open, &mut bytes);
        }
        let table = self.directory(&pages, data_blocks, zero_blocks);
        pack::close(&sealer, &table, &mut bytes);
        assert!(bytes.len() >= self.least(), "an index holds its runs, hashes and packs");
        let reference = IndexRef {
            epoch,
            cut,
            name,
            entry: 0,
            offset: 0,
            length: bytes.len() as u64,
            hash: *blake3::hash(&table).as_bytes(),
            level: self.head.level,
        };
        FinishedIndex { object, bytes, reference, data_blocks, zero_blocks }
    }

    fn directory(&self, pages: &[u8], data_blocks: u64, zero_blocks: u64) -> Vec<u8> {
        let count = pages.len() / directory_page::LENGTH;
        assert!(count <= INDEX_PAGES_MAX && self.packs.len() <= INDEX_PACKS_MAX, "an index is too large");
        let mut table = vec![0; directory::LENGTH];
        table[directory::DISK].copy_from_slice(&self.head.disk.0);
        layout::set(&mut table, directory::SIZE, self.head.size);
        layout::set(&mut table, directory::BLOCK_SHIFT, self.head.block_shift.into());
        layout::set(&mut table, directory::LEVEL, self.head.level.into());
        layout::set(&mut table, directory::PAGES, count as u64);
        layout::set(&mut table, directory::PACKS, self.packs.len() as u64);
        layout::set(&mut table, directory::DATA_BLOCKS, data_blocks);
        layout::set(&mut table, directory::ZERO_BLOCKS, zero_blocks);
        table.extend_from_slice(pages);
        for pack in &self.packs {
            let mut record = [0; directory_pack::LENGTH];
            record[directory_pack::NAME].copy_from_slice(&pack.name.0);
            record[directory_pack::CUT].copy_from_slice(&pack.cut.0);
            layout::set(&mut record, directory_pack::EPOCH, pack.epoch);
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
    fn fits(&self, run: &Run) -> bool {
        let used = page::LENGTH + self.frames.len() + self.runs.len() + self.hashes.len();
        let more = match run.place {
            Some((pack, frame, _)) => {
                let known = self.numbers.contains_key(&(pack, frame));
                let hashes = usize::try_from(run.count).expect("a frame has few blocks") * HASH;
                page_run::LENGTH + hashes + if known { 0 } else { page_frame::LENGTH }
            }
            None => page_run::LENGTH,
        };
        used + more <= PAGE_MAX
    }

    fn push(&mut self, run: &Run, packs: &[PackSummary]) {
        if self.runs.is_empty() {
            self.first = run.block;
        }
        self.end = run.block + run.count;
        let mut record = [0; page_run::LENGTH];
        layout::set(&mut record, page_run::BLOCK, run.block);
        layout::set(&mut record, page_run::COUNT, run.count);
        layout::set(&mut record, page_run::FRAME, ZEROS);
        if let Some((pack, number, slot)) = run.place {
            let frame = &packs[pack as usize].frames[number as usize];
            let next = self.numbers.len() as u64;
            let place = *self.numbers.entry((pack, number)).or_insert_with(|| {
                let mut record = [0; page_frame::LENGTH];
                layout::set(&mut record, page_frame::PACK, pack.into());
                layout::set(&mut record, page_frame::NUMBER, number.into());
                layout::set(&mut record, page_frame::OFFSET, frame.offset);
                layout::set(&mut record, page_frame::SEALED, frame.sealed.into());
                layout::set(&mut record, page_frame::BLOCKS, frame.blocks.len() as u64);
                self.frames.extend_from_slice(&record);
                next
            });
            layout::set(&mut record, page_run::FRAME, place);
            layout::set(&mut record, page_run::SLOT, slot.into());
            let slots = usize::from(slot)..usize::from(slot) + usize::try_from(run.count).expect("few");
            frame.hashes[slots].iter().for_each(|hash| self.hashes.extend_from_slice(hash));
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
