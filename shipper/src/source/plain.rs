//! Reads by plain calls: where the file system can't do non-blocking I/O (tmpfs), handing reads to a ring's worker
//! threads costs more than the reads.

use super::frozen::FrozenDiskFiles;
use super::{Batch, Buffer, Filled, Reader};
use crate::Result;
use std::collections::VecDeque;
use std::io;

/// Reads when asked to complete.
pub(super) struct PlainReader<'a> {
    disks: &'a [FrozenDiskFiles],
    begun: VecDeque<(Batch, Buffer)>,
}

impl<'a> PlainReader<'a> {
    /// A reader of these disks.
    pub(super) fn new(disks: &'a [FrozenDiskFiles]) -> Self {
        Self { disks, begun: VecDeque::new() }
    }
}

impl Reader for PlainReader<'_> {
    fn begin(&mut self, batch: Batch, buffer: Buffer) -> Result<()> {
        self.begun.push_back((batch, buffer));
        Ok(())
    }

    fn complete(&mut self) -> Result<Option<Filled>> {
        let Some((batch, mut buffer)) = self.begun.pop_front() else { return Ok(None) };
        let disk = &self.disks[batch.disk];
        let mut failed = Vec::new();
        let mut at = 0;
        for run in &batch.runs {
            let length = ((run.end - run.start) as usize) << disk.shift;
            let target = &mut buffer[at..at + length];
            if let Err(error) = read_padded(disk, run.start << disk.shift, target, 0) {
                failed.push((run.clone(), error));
            }
            at += length;
        }
        disk.finish(batch, buffer, failed).map(Some)
    }
}

/// Reads to the end of `target` from `filled` on; what lies beyond the end of the file is zeros.
pub(super) fn read_padded(
    disk: &FrozenDiskFiles,
    offset: u64,
    target: &mut [u8],
    mut filled: usize,
) -> io::Result<()> {
    while filled < target.len() {
        match disk.file.read_at(&mut target[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A direct read that goes on behind an odd end of the file.
            Err(error)
                if error.raw_os_error() == Some(libc::EINVAL) && filled as u64 + offset >= disk.size =>
            {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    target[filled..].fill(0);
    Ok(())
}
