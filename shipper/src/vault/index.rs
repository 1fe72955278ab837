//! Indexes: which blocks of a disk lie where, with the hash of each, so that comparing needs only index pages (V6).

use super::entry::IndexRef;
use super::envelope::{HEADER, ObjectKind, Opener, POSITION_TABLE, Seal, TAG};
use super::frame::{BlockHash, blocks_per_frame};
use super::layout::{self, array, directory, directory_pack, directory_page, page, page_frame, page_run};
use super::limits::{
    BLOCK_SHIFT_MAX, BLOCK_SHIFT_MIN, DIRECTORY_MAX, DISK_SIZE_MAX, FRAME_SEALED_MAX, INDEX_PACKS_MAX,
    INDEX_PAGES_MAX, PACK_FRAMES_MAX, PACK_MAX, PAGE_MAX, PAGE_SEALED_MAX,
};
use super::names::{self, ObjectName};
use super::pack::{self, PackSummary, TRAILER};
use crate::{Error, Result};
use std::collections::HashMap;
use towline_tracker::id::{CutId, DiskId};

/// The frame number of a run that stands for zeros.
const ZEROS: u64 = 0xffff;
const HASH: usize = 32;

/// Blocks of a disk of `size` bytes.
pub fn blocks_of(size: u64, block_shift: u8) -> u64 {
    size.div_ceil(1 << block_shift)
}

/// What an index is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexHead {
    /// Whose blocks it holds.
    pub disk: DiskId,
    /// The size of the disk in bytes.
    pub size: u64,
    /// log2 of the block size.
    pub block_shift: u8,
    /// 0: of one cut.
    pub level: u8,
}

/// A pack that an index refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackRef {
    /// Its own name.
    pub name: ObjectName,
    /// The cut in its full name.
    pub cut: CutId,
    /// The writer epoch in its full name.
    pub epoch: u64,
    /// The entry that it is attached to; 0 with an offset: the one that the index is attached to.
    pub entry: u64,
    /// Its offset in that entry; 0: an object of its own.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Its salt.
    pub salt: [u8; 32],
}

/// An index with all its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedIndex {
    /// The full name to put it under.
    pub object: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// For the lists in entries; its `offset` is set when it is attached instead of put.
    pub reference: IndexRef,
    /// Blocks in data runs.
    pub data_blocks: u64,
    /// Blocks in zero runs.
    pub zero_blocks: u64,
}

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

    /// Adds all frames of a pack.
    pub fn add_pack(&mut self, summary: PackSummary) {
        let pack = u32::try_from(self.packs.len()).expect("packs are counted in four bytes");
        for (number, frame) in summary.frames.iter().enumerate() {
            let number = u32::try_from(number).expect("frames are counted in four bytes");
            let mut slot = 0;
            for run in frame.blocks.chunk_by(|a, b| a + 1 == *b) {
                let place = Some((pack, number, slot));
                self.runs.push(Run { block: run[0], count: run.len() as u64, place });
                slot += u16::try_from(run.len()).expect("a frame has few blocks");
            }
        }
        self.packs.push(summary);
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
    pub fn finish(mut self, seal: &Seal, epoch: u64, cut: CutId) -> FinishedIndex {
        let name = ObjectName::random();
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

/// A page as the directory tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRef {
    /// Its first block.
    pub first: u64,
    /// One past its last block.
    pub end: u64,
    /// Where its sealed bytes begin in the index.
    pub offset: u64,
    /// How many they are.
    pub sealed: u32,
    /// Its runs.
    pub runs: u32,
    /// BLAKE3 of the page.
    pub hash: [u8; 32],
}

/// The directory of an index: all but its pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// What the index is about.
    pub head: IndexHead,
    /// Its pages, in block order.
    pub pages: Vec<PageRef>,
    /// The packs that its frames lie in.
    pub packs: Vec<PackRef>,
    /// Blocks in data runs.
    pub data_blocks: u64,
    /// Blocks in zero runs.
    pub zero_blocks: u64,
}

/// Where an index's directory is, from the index's last [`TRAILER`] bytes.
///
/// # Errors
/// `Damage`.
pub fn locate_directory(opener: &Opener, tail: &[u8], length: u64) -> Result<(u64, usize)> {
    pack::open_trailer(opener, tail, length, DIRECTORY_MAX)
}

/// Opens a directory from its sealed bytes, which begin at `offset` of the index. `reference` says what it must be;
/// packs that lie in the same entry get its number.
///
/// # Errors
/// `Damage`.
pub fn open_directory(
    opener: &Opener,
    sealed: &mut [u8],
    offset: u64,
    reference: &IndexRef,
) -> Result<Directory> {
    let body = &*opener.open(POSITION_TABLE, sealed)?;
    if *blake3::hash(body).as_bytes() != reference.hash {
        return Err(Error::damage(opener.name(), "it is not the index that the entry names"));
    }
    let directory =
        decode_directory(body, offset, reference).map_err(|what| Error::damage(opener.name(), what))?;
    if directory.head.level != reference.level {
        return Err(Error::damage(opener.name(), "its level is not what the entry says"));
    }
    Ok(directory)
}

fn decode_directory(
    body: &[u8],
    offset: u64,
    reference: &IndexRef,
) -> std::result::Result<Directory, &'static str> {
    if body.len() < directory::LENGTH
        || !layout::is_zero(body, directory::RESERVED)
        || !layout::is_zero(body, directory::RESERVED2)
    {
        return Err("its directory has another form");
    }
    let count = |field| usize::try_from(layout::get(body, field)).expect("four bytes");
    let (pages, packs) = (count(directory::PAGES), count(directory::PACKS));
    let page_bytes = pages * directory_page::LENGTH;
    if pages > INDEX_PAGES_MAX
        || packs > INDEX_PACKS_MAX
        || body.len() != directory::LENGTH + page_bytes + packs * directory_pack::LENGTH
    {
        return Err("its directory has another length");
    }
    let head = IndexHead {
        disk: DiskId(array(body, directory::DISK)),
        size: layout::get(body, directory::SIZE),
        block_shift: body[directory::BLOCK_SHIFT.start],
        level: body[directory::LEVEL.start],
    };
    if !(BLOCK_SHIFT_MIN..=BLOCK_SHIFT_MAX).contains(&head.block_shift) || head.size > DISK_SIZE_MAX {
        return Err("it is about an impossible disk");
    }
    let (page_records, pack_records) = body[directory::LENGTH..].split_at(page_bytes);
    let (mut at, mut end) = (HEADER as u64, 0);
    let mut found = Vec::with_capacity(pages);
    for record in page_records.chunks_exact(directory_page::LENGTH) {
        let sealed = layout::get(record, directory_page::SEALED);
        let runs = layout::get(record, directory_page::RUNS);
        let page = PageRef {
            first: layout::get(record, directory_page::FIRST),
            end: layout::get(record, directory_page::END),
            offset: layout::get(record, directory_page::OFFSET),
            sealed: u32::try_from(sealed).expect("four bytes"),
            runs: u32::try_from(runs).expect("four bytes"),
            hash: array(record, directory_page::HASH),
        };
        if page.offset != at
            || sealed > PAGE_SEALED_MAX as u64
            || page.first < end
            || page.end <= page.first
            || runs == 0
        {
            return Err("its directory lists impossible pages");
        }
        (at, end) = (at + sealed, page.end);
        found.push(page);
    }
    if at != offset || end > blocks_of(head.size, head.block_shift) {
        return Err("its pages don't fill it");
    }
    let mut refs = Vec::with_capacity(packs);
    for record in pack_records.chunks_exact(directory_pack::LENGTH) {
        let mut pack = PackRef {
            name: ObjectName(array(record, directory_pack::NAME)),
            cut: CutId(array(record, directory_pack::CUT)),
            epoch: layout::get(record, directory_pack::EPOCH),
            entry: layout::get(record, directory_pack::ENTRY),
            offset: layout::get(record, directory_pack::OFFSET),
            length: layout::get(record, directory_pack::TOTAL),
            salt: array(record, directory_pack::SALT),
        };
        if pack.offset != 0 && pack.entry == 0 {
            pack.entry = reference.entry;
        }
        if (pack.entry == 0) != (pack.offset == 0) || pack.length > PACK_MAX as u64 {
            return Err("its directory lists impossible packs");
        }
        refs.push(pack);
    }
    Ok(Directory {
        head,
        pages: found,
        packs: refs,
        data_blocks: layout::get(body, directory::DATA_BLOCKS),
        zero_blocks: layout::get(body, directory::ZERO_BLOCKS),
    })
}

/// A frame as a page tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFrame {
    /// Which pack of the directory.
    pub pack: u32,
    /// Its number in the pack.
    pub number: u32,
    /// Where its sealed bytes begin in the pack.
    pub offset: u64,
    /// How many they are.
    pub sealed: u32,
    /// Its blocks.
    pub blocks: u32,
}

/// A run of blocks in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// The first block.
    pub block: u64,
    /// How many.
    pub count: u32,
    /// Which frame of the page; `None`: zeros.
    pub frame: Option<u16>,
    /// The first block's place in the frame.
    pub slot: u16,
    /// Of a data run: its first hash in the page.
    pub hash: u32,
}

/// An opened page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The frames that its runs refer to.
    pub frames: Vec<PageFrame>,
    /// Its runs, in block order.
    pub runs: Vec<PageRun>,
    /// The hashes of the blocks in data runs.
    pub hashes: Vec<BlockHash>,
}

impl Page {
    /// Memory that it takes, about.
    pub fn weight(&self) -> usize {
        128 + self.frames.len() * size_of::<PageFrame>()
            + self.runs.len() * size_of::<PageRun>()
            + self.hashes.len() * HASH
    }
}

/// Opens page `number` of an index from its sealed bytes.
///
/// # Errors
/// `Damage`.
pub fn open_page(opener: &Opener, directory: &Directory, number: usize, sealed: &mut [u8]) -> Result<Page> {
    let reference = &directory.pages[number];
    let body = &*opener.open(number as u64, sealed)?;
    if *blake3::hash(body).as_bytes() != reference.hash {
        return Err(Error::damage(opener.name(), "a page is not the one that its directory names"));
    }
    decode_page(body, directory, reference).map_err(|what| Error::damage(opener.name(), what))
}

fn decode_page(
    body: &[u8],
    directory: &Directory,
    reference: &PageRef,
) -> std::result::Result<Page, &'static str> {
    if body.len() < page::LENGTH
        || !layout::is_zero(body, page::RESERVED)
        || body.len() + TAG > PAGE_SEALED_MAX
    {
        return Err("a page has another form");
    }
    let count = |field| usize::try_from(layout::get(body, field)).expect("four bytes");
    let (frames, runs, hashes) = (count(page::FRAMES), count(page::RUNS), count(page::HASHES));
    let length = |count: usize, each: usize| count.checked_mul(each).filter(|length| *length <= PAGE_MAX);
    let lengths = (length(frames, page_frame::LENGTH), length(runs, page_run::LENGTH), length(hashes, HASH));
    let (Some(frame_bytes), Some(run_bytes), Some(hash_bytes)) = lengths else {
        return Err("a page has another length");
    };
    if body.len() != page::LENGTH + frame_bytes + run_bytes + hash_bytes || runs != reference.runs as usize {
        return Err("a page has another length");
    }
    let (frame_records, rest) = body[page::LENGTH..].split_at(frame_bytes);
    let (run_records, hash_records) = rest.split_at(run_bytes);
    let per_frame = blocks_per_frame(directory.head.block_shift) as u64;
    let mut found =
        Page { frames: Vec::with_capacity(frames), runs: Vec::with_capacity(runs), hashes: Vec::new() };
    for record in frame_records.chunks_exact(page_frame::LENGTH) {
        let field = |field| u32::try_from(layout::get(record, field)).expect("four bytes");
        let frame = PageFrame {
            pack: field(page_frame::PACK),
            number: field(page_frame::NUMBER),
            offset: layout::get(record, page_frame::OFFSET),
            sealed: field(page_frame::SEALED),
            blocks: field(page_frame::BLOCKS),
        };
        let pack =
            directory.packs.get(frame.pack as usize).ok_or("a page refers to a pack that is not listed")?;
        let end = frame.offset.checked_add(frame.sealed.into());
        if frame.number as usize >= PACK_FRAMES_MAX
            || frame.sealed as usize > FRAME_SEALED_MAX
            || end.is_none_or(|end| end + TRAILER as u64 > pack.length)
            || u64::from(frame.blocks) > per_frame
        {
            return Err("a page refers to an impossible frame");
        }
        found.frames.push(frame);
    }
    let (mut end, mut hash) = (reference.first, 0);
    for record in run_records.chunks_exact(page_run::LENGTH) {
        let (block, count) = (layout::get(record, page_run::BLOCK), layout::get(record, page_run::COUNT));
        let (frame, slot) = (layout::get(record, page_run::FRAME), layout::get(record, page_run::SLOT));
        let next = block.checked_add(count).filter(|next| *next <= reference.end);
        let (Some(next), true) = (next, count > 0 && block >= end) else {
            return Err("a page holds runs out of order");
        };
        let run = PageRun {
            block,
            count: u32::try_from(count).expect("four bytes"),
            frame: (frame != ZEROS).then(|| u16::try_from(frame).expect("two bytes")),
            slot: u16::try_from(slot).expect("two bytes"),
            hash,
        };
        match run.frame {
            None if slot != 0 => return Err("a page holds an impossible run"),
            None => {}
            Some(frame) => {
                let blocks = found.frames.get(usize::from(frame)).map(|frame| u64::from(frame.blocks));
                if blocks.is_none_or(|blocks| slot + count > blocks) {
                    return Err("a page holds an impossible run");
                }
                hash += run.count;
            }
        }
        end = next;
        found.runs.push(run);
    }
    if hash as usize != hashes
        || end != reference.end
        || found.runs.first().is_none_or(|run| run.block != reference.first)
    {
        return Err("a page contradicts itself");
    }
    found.hashes = hash_records.chunks_exact(HASH).map(|hash| hash.try_into().expect("32 bytes")).collect();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::envelope::{Suite, TAG};
    use super::super::frame::{BlockHasher, FrameBuilder};
    use super::super::names::GroupId;
    use super::super::pack::PackBuilder;
    use super::*;
    use proptest::prelude::*;
    use towline_tracker::id::VaultId;

    const SEAL: Seal = Seal { suite: Suite::Unkeyed, vault: VaultId([1; 16]), group: GroupId([2; 16]) };
    const CUT: CutId = CutId([3; 16]);
    const DISK: DiskId = DiskId([4; 16]);

    fn index(blocks: impl Iterator<Item = u64>, size: u64) -> FinishedIndex {
        let mut pack = PackBuilder::new(SEAL, 5, CUT, DISK, 12);
        let mut frames = FrameBuilder::new(BlockHasher::new(SEAL.vault), 12).unwrap();
        blocks
            .for_each(|block| frames.push(block, &[7; 4096]).into_iter().for_each(|frame| pack.push(frame)));
        frames.finish().into_iter().for_each(|frame| pack.push(frame));
        let mut builder = IndexBuilder::new(IndexHead { disk: DISK, size, block_shift: 12, level: 0 });
        builder.add_pack(pack.finish().summary);
        builder.add_zeros((size >> 12) - 10, 7);
        builder.finish(&SEAL, 5, CUT)
    }

    fn open(index: &FinishedIndex) -> (Opener, Directory) {
        let opener = SEAL.opener(ObjectKind::Index, &index.object, &index.bytes).unwrap();
        let (tail, length) = (&index.bytes[index.bytes.len() - TRAILER..], index.bytes.len() as u64);
        let (offset, sealed) = locate_directory(&opener, tail, length).unwrap();
        let start = usize::try_from(offset).unwrap();
        let mut section = index.bytes[start..start + sealed].to_vec();
        let directory = open_directory(&opener, &mut section, offset, &index.reference).unwrap();
        (opener, directory)
    }

    #[test]
    fn pages_are_bounded_and_metadata_stays_small() {
        // Every third block: the worst for an index, each block a run of its own.
        let index = index((0..30_000).map(|n| n * 3), 90_010 << 12);
        let (opener, directory) = open(&index);
        assert!(
            directory.pages.len() > 10
                && directory.pages.iter().all(|page| page.sealed as usize <= PAGE_SEALED_MAX)
        );
        let mut blocks = Vec::new();
        for (number, page) in directory.pages.iter().enumerate() {
            let start = usize::try_from(page.offset).unwrap();
            let mut sealed = index.bytes[start..start + page.sealed as usize].to_vec();
            let page = open_page(&opener, &directory, number, &mut sealed).unwrap();
            blocks.extend(page.runs.iter().filter(|run| run.frame.is_some()).map(|run| run.block));
        }
        assert!(blocks.iter().copied().eq((0..30_000).map(|n| n * 3)));
        // 50 bytes for a block of 4096 at random: 1.2 %.
        assert!(index.bytes.len() < 30_000 * 51, "{}", index.bytes.len());
        assert_eq!((directory.data_blocks, directory.zero_blocks), (30_000, 7));
    }

    proptest! {
        /// Goal: an index that somebody made, with good seals, never panics a reader. Method: change the bodies and
        /// decode them without their seals.
        #[test]
        fn made_up_directories_and_pages_are_refused_or_sound(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            length in any::<prop::sample::Index>(),
            cut in any::<bool>(),
        ) {
            let index = index((0..40).map(|n| n * 2), 1 << 20);
            let (_, directory) = open(&index);
            let end = index.bytes.len() - TRAILER - TAG;
            let page_end = HEADER + directory.pages[0].sealed as usize - TAG;
            let offset = (page_end + TAG) as u64;
            for (from, to) in [(page_end + TAG, end), (HEADER, page_end)] {
                let mut body = index.bytes[from..to].to_vec();
                for (at, value) in &changes {
                    let at = at.index(body.len());
                    body[at] = *value;
                }
                if cut {
                    body.truncate(length.index(body.len()));
                }
                if from == HEADER {
                    if let Ok(page) = decode_page(&body, &directory, &directory.pages[0]) {
                        let data: u32 = page.runs.iter().filter(|run| run.frame.is_some()).map(|run| run.count).sum();
                        prop_assert_eq!(data as usize, page.hashes.len());
                    }
                } else {
                    let _ = decode_directory(&body, offset, &index.reference);
                }
            }
        }
    }
}
