//! A freeze in memory, for tests and the simulator.

use super::{Batch, Buffer, Filled, FreezeInfo, Part, Reader, Source, SourceDisk};
use crate::Result;
use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};

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

/// A freeze in memory. Extents are given as data, whatever they hold.
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
        let _ = self.disks[disk].frozen.iter().try_for_each(|extent| each(Part::Data(extent.clone())));
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
