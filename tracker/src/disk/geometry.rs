//! A disk's sizes, and the arithmetic between bytes, blocks and regions.

use std::ops::Range;

/// Sizes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes.
    pub size: u64,
    /// log2 of the block size.
    pub block_shift: u8,
    /// log2 of the region size.
    pub region_shift: u8,
}

impl Geometry {
    /// Blocks; the last may be partial.
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(1 << self.block_shift)
    }

    /// Regions; the last may be partial.
    pub fn regions(&self) -> u64 {
        self.size.div_ceil(1 << self.region_shift)
    }

    /// Whether every region has a number: they take 32 bits in the intents (F17).
    pub fn can_number_regions(&self) -> bool {
        u32::try_from(self.regions()).is_ok()
    }

    /// The blocks that bytes touch.
    #[inline]
    pub fn blocks_of(&self, bytes: Range<u64>) -> Range<u64> {
        bytes.start >> self.block_shift..((bytes.end - 1) >> self.block_shift) + 1
    }

    /// The regions that bytes touch.
    #[inline]
    pub fn regions_of(&self, bytes: Range<u64>) -> Range<u32> {
        (bytes.start >> self.region_shift) as u32..((bytes.end - 1) >> self.region_shift) as u32 + 1
    }

    /// The bytes of blocks, within the disk.
    pub fn bytes_of(&self, blocks: Range<u64>) -> Range<u64> {
        blocks.start << self.block_shift..(blocks.end << self.block_shift).min(self.size)
    }

    /// The blocks of a region, within the disk.
    pub fn region_blocks(&self, region: u32) -> Range<u64> {
        let per = self.region_shift - self.block_shift;
        u64::from(region) << per..((u64::from(region) + 1) << per).min(self.blocks())
    }

    /// The bytes in a number of blocks.
    pub fn block_bytes(&self, blocks: u64) -> u64 {
        (blocks << self.block_shift).min(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::Geometry;

    /// F17: sizes.
    #[test]
    fn small_regions_of_a_large_disk_run_out_of_numbers() {
        let of = |size, region_shift| Geometry { size, block_shift: 12, region_shift }.can_number_regions();
        assert!(of(16 << 40, 13) && of((16 << 40) - 4096, 12));
        assert!(!of((16 << 40) + 4096, 12));
    }
}
