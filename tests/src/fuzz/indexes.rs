//! Indexes, read as an image. Made by us: each block is what was shipped. Made up, with good seals: refused, or every
//! block found lies inside a frame that lies inside a pack that is listed.
//!
//! What is made up is one of a few indexes of ours, built once, with bytes changed and sealed again; of the one that is read
//! in pieces only the directory.

use super::{Input, seal, told};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use towline::store::Store;
use towline::store::memory::MemoryStore;
use towline::vault::Group;
use towline::vault::access::Reader;
use towline::vault::cycle::Maker;
use towline::vault::entry::{ATTACHED, DiskImage, IndexRef};
use towline::vault::envelope::{HEADER, ObjectKind, POSITION_TABLE, POSITION_TRAILER, Seal, TAG};
use towline::vault::frame::{BlockHash, blocks_per_frame};
use towline::vault::image::{Found, Image};
use towline::vault::index::{FinishedIndex, IndexBuilder, IndexHead, locate_directory, open_directory};
use towline::vault::layout::{self, directory, directory_page, trailer};
use towline::vault::names::{self, ObjectName};
use towline::vault::pack::{PackSummary, PackedFrame, TRAILER};
use towline_tracker::id::{CutId, DiskId};

const CUT: CutId = CutId([3; 16]);
const DISK: DiskId = DiskId([4; 16]);
const WINDOW: usize = 64;
/// Fewer bytes than a large page has.
const CACHE: usize = 16 << 10;
/// Indexes to be changed, the last one large.
const MADE: u8 = 8;
const LARGE: usize = MADE as usize - 1;

/// Reads a made-up index.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() {
        which @ 0..128 => made_up(&mut input, usize::from(which % (MADE - 1))),
        128..136 => made_up(&mut input, LARGE),
        _ => read_back(&mut input),
    }
}

fn read_back(input: &mut Input<'_>) {
    let seal = seal();
    let base = input.number() >> 18;
    let items = usize::from(input.u8() % 8);
    let Made { index, size, shift, model } = ours(input, &seal, base, items);
    let image = open(&seal, &index.object, &index.bytes, index.reference, size, shift).expect("our own");
    assert_eq!((image.size(), image.block_shift(), image.reader().group().id()), (size, shift, seal.group));
    let data = model.values().flatten().count();
    assert_eq!(image.data_blocks_bound(), data as u64);
    if base == 0 {
        let windows = image.windows(WINDOW).map(|window| window.expect("our own").data_blocks());
        assert_eq!(windows.sum::<usize>(), data);
    }
    for first in [base, base + u64::from(input.u8())] {
        let window = image.window(first, WINDOW).expect("our own");
        for block in first..first + WINDOW as u64 {
            match (window.get(block), model.get(&block)) {
                (Found::Zero, None | Some(None)) => {}
                (Found::Data { hash, .. }, Some(Some(expected))) => assert_eq!(hash, expected),
                (found, expected) => panic!("block {block} is {found:?}, not {expected:?}"),
            }
        }
    }
}

/// The indexes to be changed: with one page or none, but for the last one, and of a few packs.
fn made(which: usize) -> (u64, Rc<Made>) {
    thread_local! {
        static INDEXES: Vec<(u64, Rc<Made>)> = (0..MADE).map(|which| {
            let items = if usize::from(which) == LARGE { 8000 } else { usize::from(which) };
            let mut bytes = vec![0; items * 8];
            blake3::Hasher::new().update(&[which]).finalize_xof().fill(&mut bytes);
            let base = if which % 2 == 0 { 0 } else { 1 << 20 };
            (base, Rc::new(ours(&mut Input::new(&bytes), &seal(), base, items)))
        }).collect();
    }
    INDEXES.with(|indexes| indexes[which].clone())
}

fn made_up(input: &mut Input<'_>, which: usize) {
    let seal = seal();
    let (base, made) = made(which);
    let Made { index, size, shift, .. } = &*made;
    let (bytes, mut reference) = changed(input, &seal, index, which < LARGE);
    let size = if input.bool() { *size } else { input.number() };
    match input.u8() {
        0..224 => {}
        224..248 => (reference.entry, reference.offset) = (9, ATTACHED as u64),
        _ => reference.length = input.number(),
    }
    let Some(image) = told(open(&seal, &index.object, &bytes, reference, size, *shift)) else { return };
    for first in [base, input.number() % (image.blocks() + 1)] {
        let Some(window) = told(image.window(first, WINDOW)) else { continue };
        for (block, frame, slot, _) in window.data() {
            assert!((first..first + WINDOW as u64).contains(&block) && block < image.blocks());
            assert!(u32::from(slot) < frame.blocks && frame.blocks as usize <= blocks_per_frame(*shift));
            assert!((frame.pack as usize) < image.packs().len());
            let length = image.pack(frame.pack).length;
            assert!(frame.offset + u64::from(frame.sealed) <= length, "{frame:?} of {length}");
        }
    }
}

/// An index, and what it is of.
struct Made {
    index: FinishedIndex,
    /// The disk's size in bytes, and log2 of its block size.
    size: u64,
    shift: u8,
    /// What each block is: a hash, or zeros.
    model: BTreeMap<u64, Option<BlockHash>>,
}

/// A disk's index from `base` on.
fn ours(input: &mut Input<'_>, seal: &Seal, base: u64, items: usize) -> Made {
    let shift = 12 + input.u8() % 3;
    let (mut model, mut zeros, mut frames) = (BTreeMap::new(), Vec::new(), Vec::new());
    let (mut next, mut offset) = (base, HEADER as u64);
    for _ in 0..items {
        next += u64::from(input.u8() % 4);
        // Seldom as many as fit.
        let most = if input.u8() < 240 { 4 } else { blocks_per_frame(shift) };
        let count = 1 + u64::from(input.u8()) % most as u64;
        if input.bool() {
            zeros.push((next, count));
            model.extend((next..next + count).map(|block| (block, None)));
            next += count;
            continue;
        }
        let mut frame = PackedFrame { offset, sealed: 100, blocks: Vec::new(), hashes: Vec::new() };
        for _ in 0..count {
            next += u64::from(input.u8() / 200);
            let hash = [input.u8(); 32];
            model.insert(next, Some(hash));
            frame.blocks.push(next);
            frame.hashes.push(hash);
            next += 1;
        }
        offset += 100;
        frames.push(frame);
    }
    let size = (next + u64::from(input.u8())) << shift;
    let mut builder = IndexBuilder::new(IndexHead { disk: DISK, size, block_shift: shift, level: 0 });
    let packs = 1 + usize::from(input.u8()) % 3;
    for (number, frames) in frames.chunks(frames.len().div_ceil(packs).max(1)).enumerate() {
        let (name, salt) = (ObjectName([number as u8; 16]), [0; 32]);
        let length = offset + TRAILER as u64;
        builder.add_pack(PackSummary {
            name,
            epoch: 5,
            cut: CUT,
            length,
            salt,
            offset: 0,
            frames: frames.to_vec(),
        });
    }
    zeros.into_iter().for_each(|(first, count)| builder.add_zeros(first, count));
    Made { index: builder.finish(&Maker { seal: seal.clone(), epoch: 5, cut: CUT }), size, shift, model }
}

/// The index with its bodies, those of `pages` too, changed and sealed again.
fn changed(input: &mut Input<'_>, seal: &Seal, index: &FinishedIndex, pages: bool) -> (Vec<u8>, IndexRef) {
    let (bytes, length) = (&index.bytes, index.bytes.len());
    let opener = seal.opener(ObjectKind::Index, &index.object, bytes).expect("our own");
    let tail = &bytes[length - TRAILER..];
    let (offset, sealed) = locate_directory(&opener, tail, length as u64).expect("our own");
    let mut section = bytes[offset as usize..offset as usize + sealed].to_vec();
    let mut table = section[..sealed - TAG].to_vec();
    let found = open_directory(&opener, &mut section, offset, &index.reference).expect("our own");

    let sealer = seal.sealer(ObjectKind::Index, &index.object);
    let mut made = sealer.header().to_vec();
    input.patch(&mut table);
    for (number, page) in found.pages.iter().enumerate() {
        let at = page.offset as usize;
        let sealed = &bytes[at..at + page.sealed as usize];
        if !pages {
            made.extend_from_slice(sealed);
            continue;
        }
        let mut body = sealed[..sealed.len() - TAG].to_vec();
        input.patch(&mut body);
        sealer.seal(number as u64, &body, &mut made);
        let record = &mut table[directory::LENGTH + number * directory_page::LENGTH..];
        record[directory_page::HASH].copy_from_slice(blake3::hash(&body).as_bytes());
    }
    let offset = made.len();
    sealer.seal(POSITION_TABLE, &table, &mut made);
    let mut end = [0; trailer::LENGTH];
    layout::set(&mut end, trailer::OFFSET, offset as u64);
    layout::set(&mut end, trailer::SEALED, (made.len() - offset) as u64);
    layout::set(&mut end, trailer::TOTAL, (made.len() + TRAILER) as u64);
    sealer.seal(POSITION_TRAILER, &end, &mut made);
    let hash = *blake3::hash(&table).as_bytes();
    (made, IndexRef { hash, ..index.reference })
}

/// The image of one index, which is an object of its own or rides in an entry.
fn open(
    seal: &Seal,
    object: &str,
    bytes: &[u8],
    reference: IndexRef,
    size: u64,
    block_shift: u8,
) -> towline::Result<Image> {
    let store = MemoryStore::new();
    match reference.offset {
        0 => store.put(object, bytes),
        offset => {
            let entry = [&vec![0; offset as usize], bytes].concat();
            store.put(&names::entry(seal.group, reference.entry), &entry)
        }
    }
    .expect("memory");
    let group = Group { store: Arc::new(store), seal: seal.clone(), name: "g".into(), known: Arc::default() };
    let disk = DiskImage { id: DISK, name: "d".into(), size, block_shift, indexes: vec![reference] };
    Image::open(Arc::new(Reader::new(group, CACHE)), &disk)
}
