//! Indexes: which blocks of a disk lie where, with the hash of each, so that comparing needs only index pages (V6).

mod build;
mod write;

pub use build::IndexBuilder;
pub use write::IndexWriter;

use super::entry::IndexRef;
use super::envelope::{HEADER, Opener, POSITION_TABLE, TAG};
use super::frame::{BlockHash, blocks_per_frame};
use super::layout::{self, array, directory, directory_pack, directory_page, page, page_frame, page_run};
use super::limits::{
    BLOCK_SHIFT_MAX, BLOCK_SHIFT_MIN, DIRECTORY_MAX, DISK_SIZE_MAX, FRAME_SEALED_MAX, INDEX_PACKS_MAX,
    INDEX_PAGES_MAX, PACK_FRAMES_MAX, PACK_MAX, PAGE_MAX, PAGE_SEALED_MAX,
};
use super::names::ObjectName;
use super::pack::{self, PackSummary, TRAILER};
use crate::{Error, Result};
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
    /// 0: of one cut. Above: a fold.
    pub level: u8,
}

/// A pack that an index refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackRef {
    /// Its own name.
    pub name: ObjectName,
    /// The cut in its full name; none: it was moved.
    pub cut: CutId,
    /// The writer epoch in its full name; without a cut, the number of the catalog that it was made for.
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

impl PackRef {
    /// To a pack beside the index.
    pub(crate) fn of(pack: &PackSummary) -> Self {
        let PackSummary { name, epoch, cut, length, salt, offset, .. } = *pack;
        Self { name, cut, epoch, entry: 0, offset, length, salt }
    }
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
mod tests;
