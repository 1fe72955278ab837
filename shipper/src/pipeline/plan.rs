//! How much of everything fits the memory that was allowed.

use crate::source::BATCH_BYTES;
use crate::vault::limits::{ATTACHED_MAX, PACK_SIZE_MAX, PACK_SIZE_MIN};

/// The least memory that can be asked for, in bytes.
pub const MEMORY_MIN: u64 = 64 << 20;
/// The data of a job in bytes.
const JOB_BYTES: usize = 4 << 20;
/// The data of a batch: small enough for a core's own cache.
const BATCH: usize = BATCH_BYTES / 4;
/// An index holds some 50 bytes a block while it is built, and its bytes are made beside it.
const INDEX_BYTES_PER_BLOCK: u64 = 100;
/// A run of zeros in an index that is being built.
const INDEX_BYTES_PER_RUN: u64 = 48;

/// The sizes of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Threads that read, hash and compress.
    pub workers: usize,
    /// Threads that put objects.
    pub putters: usize,
    /// Jobs between the planner and the packs.
    pub window: usize,
    /// The data of a job in bytes, whole blocks.
    pub job_bytes: usize,
    /// The most data of a batch in bytes; at least a block.
    pub batch_bytes: usize,
    /// A pack is closed when it reaches this many bytes.
    pub pack_size: usize,
    /// A cycle of up to this many bytes rides inside its entry.
    pub attached_max: usize,
    /// An index under construction is closed by a checkpoint when it has grown to this.
    pub index_bytes: u64,
    /// For pages of the image below, when blocks are compared.
    pub cache_bytes: u64,
}

impl Plan {
    /// For `memory` bytes (at least [`MEMORY_MIN`]), packs of `pack_size` if they fit, and a machine of `cores`.
    ///
    /// Packs take at most eight parts of sixteen: there are seven (two open ones where disks are many, one waiting, four
    /// being put), and each is at most a sixteenth more than a part. Jobs in flight and their frames take at most four, the
    /// index two, the image below one, folding a half. One part is left for code, stacks, the allocator and the entry.
    pub fn new(memory: u64, pack_size: usize, cores: usize) -> Self {
        let memory = memory.max(MEMORY_MIN);
        let part = memory / 16;
        let fits = usize::try_from(part + part / 16).unwrap_or(PACK_SIZE_MAX);
        let pack_size = pack_size.min(fits).clamp(PACK_SIZE_MIN, PACK_SIZE_MAX);
        let jobs = usize::try_from(3 * part / JOB_BYTES as u64).unwrap_or(usize::MAX);
        let workers = cores.clamp(1, 8).min(jobs / 2).max(1);
        let putters = ((5 * part) as usize / pack_size).clamp(1, 4);
        Self {
            workers,
            putters,
            window: (jobs * 5 / 6).min(2 * workers + 2).max(2),
            job_bytes: JOB_BYTES,
            batch_bytes: BATCH,
            pack_size,
            attached_max: ATTACHED_MAX,
            index_bytes: 2 * part,
            cache_bytes: part,
        }
    }

    /// What folding may hold (V6), also while a cycle is shipped: half a part.
    pub fn fold_bytes(&self) -> u64 {
        self.cache_bytes / 2
    }

    /// What an index of this many blocks and zero runs takes while it is built.
    pub fn index_weight(blocks: u64, zero_runs: u64) -> u64 {
        blocks * INDEX_BYTES_PER_BLOCK + zero_runs * INDEX_BYTES_PER_RUN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_fits_its_memory() {
        for memory in [MEMORY_MIN, 100 << 20, 256 << 20, 1 << 30, 64 << 30] {
            for pack_size in [1, 1 << 20, 32 << 20, usize::MAX] {
                for cores in [1, 2, 8, 200] {
                    let plan = Plan::new(memory, pack_size, cores);
                    let packs = (3 + plan.putters) * plan.pack_size;
                    // A job's data stand in read buffers and in frames at once.
                    let jobs = (plan.window + plan.workers) * JOB_BYTES;
                    let sum = (packs + jobs) as u64 + plan.index_bytes + plan.cache_bytes + plan.fold_bytes();
                    assert!(sum <= memory * 15 / 16, "{memory} {pack_size} {cores}: {sum} {plan:?}");
                    assert!(plan.workers >= 1 && plan.window > plan.workers && plan.putters >= 1);
                }
            }
        }
    }
}
