//! Frames: up to 64 KiB of blocks, hashed, compressed where that gains, ready to be sealed into a pack.
//!
//! Encoding is the heavy part and knows nothing of packs, so that any number of threads can do it; sealing a frame
//! into its place is the light part and is done in order.

#[cfg(test)]
pub(crate) mod builder;

use super::keys::GroupKeys;
use super::layout::{self, frame as at};
use super::limits::{FRAME_BLOCKS_MAX, FRAME_DATA, FRAME_DATA_MAX};
use crate::{Error, Result};
use std::cell::RefCell;
use towline_tracker::id::VaultId;

/// The hash of a block's data.
pub type BlockHash = [u8; 32];

const RAW: u64 = 0;
const ZSTD: u64 = 1;
/// The level of compression.
const LEVEL: i32 = 1;

/// Hashes blocks: every decision that drops data rests on this, because the guest chooses the data (V7).
#[derive(Clone, Copy)]
pub struct BlockHasher {
    key: [u8; 32],
}

impl BlockHasher {
    /// The hasher of a vault that is not sealed: its key comes from the vault id.
    pub fn unkeyed(vault: VaultId) -> Self {
        Self { key: blake3::derive_key("towline 2026-11 block hash", &vault.0) }
    }

    /// The hasher of a group with keys.
    pub fn keyed(keys: &GroupKeys) -> Self {
        Self { key: *keys.hash_key().bytes() }
    }

    /// The hash of a block, a disk's last one padded with zeros.
    pub fn hash(&self, data: &[u8]) -> BlockHash {
        *blake3::keyed_hash(&self.key, data).as_bytes()
    }
}

/// How many blocks a frame holds at most.
pub fn blocks_per_frame(block_shift: u8) -> usize {
    (FRAME_DATA >> block_shift).max(1)
}

/// A frame that is not in a pack yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFrame {
    body: Vec<u8>,
    blocks: Vec<u64>,
    hashes: Vec<BlockHash>,
}

impl EncodedFrame {
    /// The section's body: header and data.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The blocks, ascending.
    pub fn blocks(&self) -> &[u64] {
        &self.blocks
    }

    /// The hash of each block.
    pub fn hashes(&self) -> &[BlockHash] {
        &self.hashes
    }
}

/// Encodes frames.
pub struct FrameEncoder {
    block_shift: u8,
    scratch: Vec<u8>,
    /// Frames in a row that did not gain, and frames still to be stored without trying.
    fruitless: u32,
    skip: u32,
}

impl FrameEncoder {
    /// For disks with this block size.
    pub fn new(block_shift: u8) -> Self {
        Self { block_shift, scratch: Vec::new(), fruitless: 0, skip: 0 }
    }

    /// A frame of `blocks` (ascending, at most [`blocks_per_frame`]) with their data, one after another, and their
    /// hashes. Data that a frame does not shrink by a sixteenth is stored as it is; after several such frames in a
    /// row compression is only tried now and then, up to one frame in nine.
    ///
    /// # Panics
    /// If the lengths don't fit each other: the caller's mistake.
    pub fn encode(&mut self, blocks: &[u64], hashes: &[BlockHash], data: &[u8]) -> EncodedFrame {
        assert!((1..=blocks_per_frame(self.block_shift)).contains(&blocks.len()));
        assert!(blocks.is_sorted_by(|a, b| a < b));
        assert_eq!(blocks.len(), hashes.len());
        assert_eq!(blocks.len() << self.block_shift, data.len());
        let worth = data.len() - data.len() / 16;
        let compressed = if self.skip > 0 {
            self.skip -= 1;
            None
        } else {
            self.scratch.clear();
            self.scratch.reserve(worth);
            // No room for more than is worth it: then the compressor fails, and early.
            let gained = compress(data, &mut self.scratch).ok().filter(|length| *length <= worth);
            self.fruitless = if gained.is_some() { 0 } else { (self.fruitless + 1).min(11) };
            self.skip = self.fruitless.saturating_sub(3);
            gained
        };
        let (codec, stored) = match compressed {
            Some(length) => (ZSTD, &self.scratch[..length]),
            None => (RAW, data),
        };
        let mut body = vec![0; at::LENGTH];
        layout::set(&mut body, at::CODEC, codec);
        layout::set(&mut body, at::RAW, data.len() as u64);
        body.reserve_exact(stored.len() + super::envelope::TAG);
        body.extend_from_slice(stored);
        EncodedFrame { body, blocks: blocks.to_vec(), hashes: hashes.to_vec() }
    }
}

/// The data of an opened frame's body, which must be that of `blocks` blocks.
///
/// # Errors
/// `Damage`, naming the object `name`.
pub fn decode(name: &str, body: &[u8], blocks: usize, block_shift: u8) -> Result<Vec<u8>> {
    let bad = |what: &str| Err(Error::damage(name, what));
    let raw = blocks << block_shift;
    if blocks == 0 || blocks > FRAME_BLOCKS_MAX || raw > FRAME_DATA_MAX {
        return bad("a frame has an impossible number of blocks");
    }
    if body.len() < at::LENGTH
        || !layout::is_zero(body, at::RESERVED)
        || layout::get(body, at::RAW) != raw as u64
    {
        return bad("a frame's header has another form");
    }
    let stored = &body[at::LENGTH..];
    match layout::get(body, at::CODEC) {
        RAW if stored.len() == raw => Ok(stored.to_vec()),
        ZSTD => match decompress(stored, raw) {
            Ok(data) if data.len() == raw => Ok(data),
            _ => bad("a frame does not decompress to its blocks"),
        },
        _ => bad("a frame has an unknown codec or another length"),
    }
}

/// Into the capacity of `out`, with the thread's own compressor, which outlives the encoders of a cycle.
fn compress(data: &[u8], out: &mut Vec<u8>) -> std::io::Result<usize> {
    thread_local! {
        static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    }
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some(compressor) => compressor,
            None => slot.insert(zstd::bulk::Compressor::new(LEVEL)?),
        };
        compressor.compress_to_buffer(data, out)
    })
}

/// At most `limit` bytes, with the thread's own decompressor: making one costs more than most frames.
fn decompress(stored: &[u8], limit: usize) -> std::io::Result<Vec<u8>> {
    thread_local! {
        static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    }
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(zstd::bulk::Decompressor::new()?),
        };
        decompressor.decompress(stored, limit)
    })
}

#[cfg(test)]
mod tests {
    use super::builder::FrameBuilder;
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        getrandom::fill(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn frames_read_back_compressed_or_not() {
        let mut builder = FrameBuilder::new(BlockHasher::unkeyed(VaultId([1; 16])), 12).unwrap();
        let mut frames = Vec::new();
        let mut expected = Vec::new();
        for block in 0..40u64 {
            let data = if block < 16 { vec![block as u8; 4096] } else { noise(4096) };
            frames.extend(builder.push(block * 3, &data));
            expected.push(data);
        }
        frames.extend(builder.finish());
        assert_eq!(frames.iter().map(|frame| frame.blocks().len()).collect::<Vec<_>>(), [16, 16, 8]);
        assert!(frames[0].body().len() < 8192, "compressed");
        assert_eq!(frames[1].body().len(), 8 + 65536, "stored");
        let mut data = Vec::new();
        for frame in &frames {
            data.extend(decode("f", frame.body(), frame.blocks().len(), 12).unwrap());
        }
        assert_eq!(data, expected.concat());
    }

    #[test]
    fn compressible_data_after_noise_is_compressed_again() {
        let mut encoder = FrameEncoder::new(12);
        let blocks: Vec<u64> = (0..16).collect();
        let hashes = [[0; 32]; 16];
        for _ in 0..50 {
            assert_eq!(encoder.encode(&blocks, &hashes, &noise(65536)).body().len(), 65544);
        }
        let lengths: Vec<_> =
            (0..20).map(|_| encoder.encode(&blocks, &hashes, &[7; 65536]).body().len()).collect();
        assert!(lengths.iter().filter(|length| **length > 1000).count() <= 8, "{lengths:?}");
        assert!(lengths[19] < 1000);
    }

    #[test]
    fn foreign_bodies_are_refused_without_panic() {
        let mut builder = FrameBuilder::new(BlockHasher::unkeyed(VaultId([1; 16])), 12).unwrap();
        builder.push(1, &[1; 4096]);
        let frame = builder.finish().unwrap();
        for (bytes, blocks) in
            [(&frame.body()[..7], 1), (frame.body(), 2), (frame.body(), 0), (frame.body(), 17), (&[], 1)]
        {
            assert!(decode("f", bytes, blocks, 12).is_err());
        }
        let mut bomb = frame.body().to_vec();
        bomb.truncate(8);
        bomb.extend(zstd::bulk::compress(&vec![0; 10 << 20], 1).unwrap());
        assert!(decode("f", &bomb, 1, 12).is_err());
    }
}
