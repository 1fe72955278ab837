//! Packs and their frames. Made by us: read back. Made up, with good seals: refused, or frames that fill the pack and
//! have the data of their blocks.

use super::{Input, VAULT, seal, told};
use std::cell::RefCell;
use std::sync::LazyLock;
use towline::vault::cycle::Maker;
use towline::vault::envelope::{HEADER, ObjectKind, POSITION_TABLE, POSITION_TRAILER};
use towline::vault::frame::{BlockHash, BlockHasher, EncodedFrame, FrameEncoder, blocks_per_frame, decode};
use towline::vault::layout::{self, footer, footer_frame, footer_run, frame, trailer};
use towline::vault::names::{self, ObjectName};
use towline::vault::pack::{PackBuilder, PackReader, TRAILER};
use towline_tracker::id::{CutId, DiskId};

const CUT: CutId = CutId([3; 16]);
const DISK: DiskId = DiskId([4; 16]);
const BLOCK: usize = 4096;

/// Reads a made-up pack.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() % 4 {
        0 => drop(told(PackReader::open(&seal(), "pack", input.rest().to_vec()))),
        1 => ours(&mut input),
        2 => made_up(&mut input),
        _ => {
            let blocks = usize::from(input.u8() % 20);
            let block_shift = if input.u8() < 240 { 12 } else { 12 + input.u8() % 9 };
            if let Some(data) = told(decode("frame", input.rest(), blocks, block_shift)) {
                assert_eq!(data.len(), blocks << block_shift);
            }
        }
    }
}

/// How many blocks a frame has: seldom as many as it can.
fn few(input: &mut Input<'_>) -> usize {
    match input.u8() {
        count @ 0..248 => 1 + usize::from(count) % 2,
        count => 1 + usize::from(count - 248) * 15 / 7,
    }
}

/// A block of one letter, or of one that does not compress.
fn fill(kind: u8, block: &mut [u8]) {
    static NOISE: LazyLock<[u8; BLOCK + 256]> = LazyLock::new(|| {
        let mut noise = [0; BLOCK + 256];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        noise
    });
    match usize::from(kind) {
        0..128 => block.fill(kind),
        at => block.copy_from_slice(&NOISE[at..at + BLOCK]),
    }
}

/// A frame: one encoder for all inputs, for it is dear. What it saw of earlier ones decides at most whether it tries to
/// compress.
fn encode(blocks: &[u64], hashes: &[BlockHash], data: &[u8]) -> EncodedFrame {
    thread_local! {
        static ENCODER: RefCell<FrameEncoder> = RefCell::new(FrameEncoder::new(12));
    }
    ENCODER.with_borrow_mut(|encoder| encoder.encode(blocks, hashes, data))
}

fn ours(input: &mut Input<'_>) {
    let (seal, hasher) = (seal(), BlockHasher::unkeyed(VAULT));
    let mut pack = PackBuilder::new(&Maker { seal: seal.clone(), epoch: 5, cut: CUT }, DISK, 12, Vec::new());
    let (mut expected, mut next) = (Vec::new(), input.number() >> 12);
    for _ in 0..input.u8() % 4 {
        let count = few(input);
        let (mut blocks, mut data) = (Vec::new(), vec![0; count * BLOCK]);
        for block in data.chunks_mut(BLOCK) {
            next += u64::from(input.u8() / 128 * 3);
            blocks.push(next);
            next += 1;
            fill(input.u8(), block);
        }
        let hashes: Vec<_> = data.chunks(BLOCK).map(|block| hasher.hash(block)).collect();
        pack.push(encode(&blocks, &hashes, &data));
        expected.push((blocks, data));
    }
    let pack = pack.finish();
    let reader = PackReader::open(&seal, &pack.object, pack.bytes.clone()).expect("our own");
    assert_eq!((reader.disk, reader.block_shift, reader.frames.len()), (DISK, 12, expected.len()));
    for (number, (blocks, data)) in expected.iter().enumerate() {
        assert_eq!(&reader.frames[number].blocks, blocks);
        assert_eq!(&reader.frame(number).expect("our own"), data);
    }
    let mut bytes = pack.bytes;
    let at = (input.u32() as usize) % bytes.len();
    bytes[at] ^= 1 << (input.u8() % 8);
    let sound = PackReader::open(&seal, &pack.object, bytes)
        .and_then(|reader| (0..reader.frames.len()).try_for_each(|number| reader.frame(number).map(drop)));
    assert!(sound.is_err(), "damage at byte {at}");
}

fn made_up(input: &mut Input<'_>) {
    let seal = seal();
    let name = names::pack(seal.group, 5, CUT, ObjectName([6; 16]));
    let sealer = seal.sealer(ObjectKind::Pack, &name);
    let mut bytes = sealer.header().to_vec();
    let (mut frames, mut runs) = (Vec::new(), Vec::new());
    let count = input.u8() % 6;
    for number in 0..count {
        let blocks = few(input);
        let mut body = vec![0; frame::LENGTH];
        layout::set(&mut body, frame::RAW, (blocks * BLOCK) as u64);
        match input.u8() % 3 {
            0 => body.resize(frame::LENGTH + blocks * BLOCK, number),
            1 => {
                layout::set(&mut body, frame::CODEC, 1);
                let length = usize::from(input.u8());
                body.extend_from_slice(input.take(length));
            }
            _ => {
                let length = usize::from(input.u8());
                body = input.take(length).to_vec();
            }
        }
        let offset = bytes.len();
        sealer.seal(number.into(), &body, &mut bytes);
        let mut record = [0; footer_frame::LENGTH];
        layout::set(&mut record, footer_frame::OFFSET, offset as u64);
        layout::set(&mut record, footer_frame::SEALED, (bytes.len() - offset) as u64);
        layout::set(&mut record, footer_frame::RUNS, 1);
        layout::set(&mut record, footer_frame::BLOCKS, blocks as u64);
        frames.extend_from_slice(&record);
        let mut record = [0; footer_run::LENGTH];
        layout::set(&mut record, footer_run::BLOCK, input.number());
        layout::set(&mut record, footer_run::COUNT, blocks as u64);
        runs.extend_from_slice(&record);
    }
    let mut table = vec![0; footer::LENGTH];
    table[footer::DISK].copy_from_slice(&DISK.0);
    layout::set(&mut table, footer::FRAMES, count.into());
    layout::set(&mut table, footer::RUNS, count.into());
    layout::set(&mut table, footer::BLOCK_SHIFT, 12);
    table.extend(frames);
    table.extend(runs);
    input.patch(&mut table);
    let offset = bytes.len();
    sealer.seal(POSITION_TABLE, &table, &mut bytes);
    let mut end = [0; trailer::LENGTH];
    layout::set(&mut end, trailer::OFFSET, offset as u64);
    layout::set(&mut end, trailer::SEALED, (bytes.len() - offset) as u64);
    layout::set(&mut end, trailer::TOTAL, (bytes.len() + TRAILER) as u64);
    input.patch(&mut end);
    sealer.seal(POSITION_TRAILER, &end, &mut bytes);

    let Some(reader) = told(PackReader::open(&seal, &name, bytes)) else { return };
    let mut at = HEADER as u64;
    for (number, frame) in reader.frames.iter().enumerate() {
        assert_eq!(frame.offset, at);
        at += u64::from(frame.sealed);
        assert!((1..=blocks_per_frame(reader.block_shift)).contains(&frame.blocks.len()));
        assert!(frame.blocks.is_sorted_by(|a, b| a < b), "{:?}", frame.blocks);
        if let Some(data) = told(reader.frame(number)) {
            assert_eq!(data.len(), frame.blocks.len() << reader.block_shift);
        }
    }
    assert_eq!(at, offset as u64, "frames fill the pack");
}
