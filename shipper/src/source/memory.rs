//! A freeze in memory, for tests and the simulator.

use super::{Batch, Buffer, Filled, FreezeInfo, Part, Reader, Source, SourceDisk};
use crate::Result;
use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};

/// Blocks of a hole, at multiples of this.
const HOLE: u64 = 4;

/// A disk of a freeze in memory.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    /// What the freeze says of it.
    pub about: SourceDisk,
    /// Its content as of the cut, [`SourceDisk::size`] bytes.
    pub data: Vec<u8>,
    /// The frozen extents in block order.
    pub frozen: Vec<Range<u64>>,
}

/// A freeze in memory. Four blocks in a row that are all zero, at a multiple of four, are a hole.
#[derive(Clone, Debug)]
pub struct MemorySource {
    info: FreezeInfo,
    about: Vec<SourceDisk>,
    disks: Vec<MemoryDisk>,
}

impl MemorySource {
    /// The freeze of these disks.
    pub fn new(info: FreezeInfo, disks: Vec<MemoryDisk>) -> Self {
        Self { info, about: disks.iter().map(|disk| disk.about.clone()).collect(), disks }
    }
}

impl Source for MemorySource {
    fn info(&self) -> FreezeInfo {
        self.info
    }

    fn disks(&self) -> &[SourceDisk] {
        &self.about
    }

    fn parts(&self, disk: usize, each: &mut dyn FnMut(Part) -> ControlFlow<()>) -> Result<()> {
        let disk = &self.disks[disk];
        let zero = |hole: u64| {
            let start = ((hole * HOLE) << disk.about.block_shift) as usize;
            let end = start + ((HOLE as usize) << disk.about.block_shift);
            disk.data.get(start..end).is_some_and(|data| data.iter().all(|byte| *byte == 0))
        };
        for extent in &disk.frozen {
            let mut at = extent.start;
            while at < extent.end {
                let hole = zero(at / HOLE);
                let mut end = (at / HOLE + 1) * HOLE;
                while end < extent.end && zero(end / HOLE) == hole {
                    end += HOLE;
                }
                let range = at..end.min(extent.end);
                at = end;
                if each(if hole { Part::Zeros(range) } else { Part::Data(range) }).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(MemoryReader { disks: &self.disks, begun: VecDeque::new() }))
    }
}

struct MemoryReader<'a> {
    disks: &'a [MemoryDisk],
    begun: VecDeque<(Batch, Buffer)>,
}

impl Reader for MemoryReader<'_> {
    fn begin(&mut self, batch: Batch, buffer: Buffer) -> Result<()> {
        self.begun.push_back((batch, buffer));
        Ok(())
    }

    fn complete(&mut self) -> Result<Option<Filled>> {
        let Some((batch, mut buffer)) = self.begun.pop_front() else { return Ok(None) };
        let disk = &self.disks[batch.disk];
        let mut at = 0;
        for run in &batch.runs {
            let length = ((run.end - run.start) as usize) << disk.about.block_shift;
            let start = ((run.start << disk.about.block_shift) as usize).min(disk.data.len());
            let end = (start + length).min(disk.data.len());
            buffer[at..at + end - start].copy_from_slice(&disk.data[start..end]);
            buffer[at + end - start..at + length].fill(0);
            at += length;
        }
        Ok(Some(Filled { batch, buffer, bytes_read: at as u64, blocks_from_store: 0 }))
    }
}
