//! A frozen generation, read without asking the tracker anything (DESIGN 3.4).
//!
//! **R1.** The disk is read first; only then, the read completed and a full fence passed, the preserved bits are looked
//! at, and a block whose bit is set is taken from the freeze's store instead. The tracker sets the bit after the copy
//! and before it submits the overwriting write, so a read that could have seen new bytes always sees the bit. A hole
//! is found by seeking; the seek is its read, and the same order holds.
//!
//! **Fuzzy freezes.** One that is fuzzy when it is handed out is read as it is now, whatever its store holds. One that
//! turns fuzzy while it is read goes on as before: a bit that is set still means a whole copy as of the cut (bits are
//! only set, and never after turning fuzzy), and a block whose bit is not set comes as it is now. Either content is
//! right in a fuzzy entry, because every block overwritten since the cut is dirty in the open generation and so in
//! the next point (C5).
//!
//! A disk's last block is padded with zeros to a whole block, as the vault's frames are.

mod buffer;
mod frozen;
mod holes;
mod memory;
mod opened;
mod plain;
mod preserved;
mod ring;
#[cfg(test)]
mod tests;

pub use buffer::Buffer;
pub use frozen::FrozenSource;
pub use memory::{MemoryDisk, MemorySource};
pub use opened::{Opened, OpenedDisk, OpenedFreeze};

use crate::Result;
use std::ops::{ControlFlow, Range};
use towline_tracker::id::{CutId, DiskId, Generation};

/// The most data of one [`Batch`], in bytes: as much as a core's cache holds, and at least the largest block.
pub const BATCH_BYTES: usize = 1 << 20;

const _: () = assert!(BATCH_BYTES >= 1 << towline_tracker::limits::BLOCK_SHIFT_MAX);

/// What is frozen.
#[derive(Clone, Copy, Debug)]
pub struct FreezeInfo {
    /// Its cut id.
    pub cut: CutId,
    /// The first generation whose changes it holds.
    pub first_generation: Generation,
    /// The generation that the cut ended.
    pub generation: Generation,
    /// The instant of the cut, nanoseconds since 1970.
    pub time_ns: u64,
    /// It was fuzzy when it was handed out.
    pub fuzzy: bool,
}

/// A disk of a freeze.
#[derive(Clone, Debug)]
pub struct SourceDisk {
    /// Its identity.
    pub id: DiskId,
    /// Its name in the group.
    pub name: String,
    /// Its size in bytes at the cut.
    pub size: u64,
    /// log2 of the block size.
    pub block_shift: u8,
    /// Its frozen blocks must be compared with the vault before they are shipped.
    pub compare: bool,
    /// Every block is frozen.
    pub whole: bool,
    /// Frozen bytes.
    pub frozen_bytes: u64,
}

impl SourceDisk {
    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        1 << self.block_shift
    }

    /// Blocks of the disk, the last one perhaps not whole.
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(1 << self.block_shift)
    }
}

/// Blocks to be read together: runs of one disk in block order, [`BATCH_BYTES`] of them at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Which disk.
    pub disk: usize,
    /// Runs of blocks, in order; their data stand one after another in the buffer.
    pub runs: Vec<Range<u64>>,
}

impl Batch {
    /// Blocks of all runs.
    pub fn blocks(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }
}

/// A batch that has been read.
#[derive(Debug)]
pub struct Filled {
    /// What was read.
    pub batch: Batch,
    /// The data, whole blocks; the disk's last one is padded with zeros.
    pub buffer: Buffer,
    /// Bytes read from the disk.
    pub bytes_read: u64,
    /// Blocks that came from the freeze's store because the guest has overwritten them.
    pub blocks_from_store: u64,
}

/// A part of a frozen extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// To be read.
    Data(Range<u64>),
    /// Zeros as of the cut: a hole of the file when it was looked at, and not preserved afterwards.
    Zeros(Range<u64>),
}

/// A freeze that can be read, by any number of threads.
pub trait Source: Send + Sync {
    /// What it is.
    fn info(&self) -> FreezeInfo;

    /// Its disks in the group's order.
    fn disks(&self) -> &[SourceDisk];

    /// Gives the frozen parts of a disk in block order to `each`, until that breaks. Memory is bounded whatever
    /// the number of extents.
    ///
    /// # Errors
    /// A change log that is damaged or of another cut, or whatever the file system says.
    fn parts(&self, disk: usize, each: &mut dyn FnMut(Part) -> ControlFlow<()>) -> Result<()>;

    /// A reader for one thread.
    ///
    /// # Errors
    /// Whatever the kernel says.
    fn reader(&self) -> Result<Box<dyn Reader + '_>>;

    /// Whether a block was changed since the cut, as of now, or nobody can tell. A write is marked before it is
    /// submitted (W4), so of a block that was read before and is found unchanged here, that read saw no newer write.
    fn changed_since(&self, _disk: usize, _block: u64) -> bool {
        true
    }
}

/// Reads batches, several under way at once, and gives them back in the order in which they were begun.
pub trait Reader {
    /// How many batches it gains to have under way at once.
    fn depth(&self) -> usize {
        1
    }

    /// Begins to read a batch into a buffer of at least its size.
    ///
    /// # Errors
    /// Whatever the kernel says; the reader is then of no more use.
    fn begin(&mut self, batch: Batch, buffer: Buffer) -> Result<()>;

    /// Waits for the oldest batch under way; `None` if there is none.
    ///
    /// # Errors
    /// A block that can neither be read nor taken from the store.
    fn complete(&mut self) -> Result<Option<Filled>>;
}
