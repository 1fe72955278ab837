//! Frames for tests, block by block. The pipeline batches by itself.

use super::{BlockHash, BlockHasher, EncodedFrame, FrameEncoder, blocks_per_frame};
use crate::Result;

/// Collects single blocks of one disk, in ascending order, into frames: hashes them and encodes full frames.
pub(crate) struct FrameBuilder {
    encoder: FrameEncoder,
    hasher: BlockHasher,
    blocks: Vec<u64>,
    hashes: Vec<BlockHash>,
    data: Vec<u8>,
}

impl FrameBuilder {
    /// For a disk with this block size.
    pub(crate) fn new(hasher: BlockHasher, block_shift: u8) -> Result<Self> {
        let encoder = FrameEncoder::new(block_shift);
        Ok(Self { encoder, hasher, blocks: Vec::new(), hashes: Vec::new(), data: Vec::new() })
    }

    /// Adds a block; answers the frame that it filled. The data may be shorter than a block: the disk's last.
    pub(crate) fn push(&mut self, block: u64, data: &[u8]) -> Option<EncodedFrame> {
        let end = (self.blocks.len() + 1) << self.encoder.block_shift;
        self.data.extend_from_slice(data);
        assert!(self.data.len() <= end, "more than a block");
        self.data.resize(end, 0);
        self.hashes.push(self.hasher.hash(&self.data[end - (1 << self.encoder.block_shift)..]));
        self.blocks.push(block);
        if self.blocks.len() == blocks_per_frame(self.encoder.block_shift) { self.finish() } else { None }
    }

    /// The frame of what is left, if anything is.
    pub(crate) fn finish(&mut self) -> Option<EncodedFrame> {
        if self.blocks.is_empty() {
            return None;
        }
        let frame = self.encoder.encode(&self.blocks, &self.hashes, &self.data);
        self.blocks.clear();
        self.hashes.clear();
        self.data.clear();
        Some(frame)
    }
}
