//! Reads by io_uring: deep, so that a device sees many at once.

use super::frozen::FrozenDiskFiles;
use super::plain::read_padded;
use super::{Batch, Buffer, Filled, Reader};
use crate::{Error, Result};
use io_uring::{IoUring, opcode, types};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::time::Duration;

/// Submission slots of a ring: a batch of the smallest runs fits.
const ENTRIES: u32 = 256;
/// The largest single read in bytes.
const READ_MAX: usize = 256 << 10;

/// How often, and after what pause, a ring is asked again that is short of memory: ten seconds in all.
const TRIES: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(10);

/// Whether this is no failure of the disk: the kernel was interrupted, or short of memory or of requests.
fn may_pass(errno: i32) -> bool {
    matches!(errno, libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM)
}

/// One reader's ring. Batches are read in any order and completed in the order of their beginnings.
pub(super) struct RingReader<'a> {
    disks: &'a [FrozenDiskFiles],
    ring: IoUring,
    begun: VecDeque<Begun>,
    /// The number of the oldest batch in `begun`.
    oldest: u64,
    /// Reads that the kernel has.
    flying: usize,
}

struct Begun {
    batch: Batch,
    buffer: Buffer,
    reads: Vec<Read>,
    /// How many of `reads` were handed to the kernel.
    sent: usize,
    /// How many came back.
    done: usize,
}

/// One read of a batch.
struct Read {
    blocks: Range<u64>,
    /// Where its data go in the buffer.
    at: usize,
    length: usize,
    outcome: Option<i32>,
}

impl<'a> RingReader<'a> {
    /// A reader of these disks.
    ///
    /// # Errors
    /// The kernel has no ring for us: read plainly instead.
    pub(super) fn new(disks: &'a [FrozenDiskFiles]) -> io::Result<Self> {
        let ring = IoUring::builder().setup_cqsize(4 * ENTRIES).build(ENTRIES)?;
        Ok(Self { disks, ring, begun: VecDeque::new(), oldest: 0, flying: 0 })
    }

    /// Hands over as many reads as fit, the oldest batch first.
    fn feed(&mut self) {
        for (ahead, begun) in self.begun.iter_mut().enumerate() {
            let disk = &self.disks[begun.batch.disk];
            let Some(descriptor) = disk.ring else { continue };
            while begun.sent < begun.reads.len() && self.flying < ENTRIES as usize {
                let read = &begun.reads[begun.sent];
                let target = begun.buffer[read.at..read.at + read.length].as_mut_ptr();
                let user = (self.oldest + ahead as u64) << 32 | begun.sent as u64;
                let entry = opcode::Read::new(types::Fd(descriptor), target, read.length as u32)
                    .offset(read.blocks.start << disk.shift)
                    .build()
                    .user_data(user);
                // SAFETY: the buffer neither moves nor is touched until its last completion was reaped: it stays in
                // `begun` until then, and dropping the reader waits. The descriptor outlives the reader.
                if unsafe { self.ring.submission().push(&entry) }.is_err() {
                    return;
                }
                begun.sent += 1;
                self.flying += 1;
            }
        }
    }

    /// Submits what is queued and takes what has completed, waiting for at least one if any is flying.
    fn turn(&mut self) -> io::Result<()> {
        let mut tried = 0;
        loop {
            let error = match self.ring.submit_and_wait(usize::from(self.flying > 0)) {
                Ok(_) => break,
                Err(error) => error,
            };
            // What has come back frees what the kernel is short of; otherwise others do.
            match error.raw_os_error() {
                Some(errno) if may_pass(errno) && !self.ring.completion().is_empty() => break,
                Some(errno) if may_pass(errno) && tried < TRIES => {
                    tried += 1;
                    std::thread::sleep(PAUSE);
                }
                _ => return Err(error),
            }
        }
        for completion in self.ring.completion() {
            let (number, read) = (completion.user_data() >> 32, completion.user_data() & 0xffff_ffff);
            let begun = &mut self.begun[(number - self.oldest) as usize];
            begun.reads[read as usize].outcome = Some(completion.result());
            begun.done += 1;
            self.flying -= 1;
        }
        Ok(())
    }
}

impl Reader for RingReader<'_> {
    fn depth(&self) -> usize {
        8
    }

    fn begin(&mut self, batch: Batch, buffer: Buffer) -> Result<()> {
        let shift = self.disks[batch.disk].shift;
        let step = ((READ_MAX >> shift) as u64).max(1);
        let mut reads = Vec::new();
        let mut at = 0;
        for run in &batch.runs {
            for first in (run.start..run.end).step_by(step as usize) {
                let blocks = first..(first + step).min(run.end);
                let length = ((blocks.end - blocks.start) as usize) << shift;
                reads.push(Read { blocks, at, length, outcome: None });
                at += length;
            }
        }
        self.begun.push_back(Begun { batch, buffer, reads, sent: 0, done: 0 });
        self.feed();
        self.ring.submit().map(drop).or_else(|error| match error.raw_os_error() {
            Some(errno) if may_pass(errno) => Ok(()),
            _ => Err(Error::io("reading the disk failed", error)),
        })
    }

    fn complete(&mut self) -> Result<Option<Filled>> {
        let Some(begun) = self.begun.front() else { return Ok(None) };
        let total = begun.reads.len();
        while self.begun[0].done < total {
            self.feed();
            self.turn().map_err(|error| Error::io("reading the disk failed", error))?;
        }
        let Begun { batch, mut buffer, reads, .. } = self.begun.pop_front().expect("looked at above");
        self.oldest += 1;
        self.feed();
        let disk = &self.disks[batch.disk];
        let mut failed = Vec::new();
        for read in reads {
            let target = &mut buffer[read.at..read.at + read.length];
            let offset = read.blocks.start << disk.shift;
            let outcome = match usize::try_from(read.outcome.expect("it completed")) {
                Ok(got) if got == target.len() => Ok(()),
                // A short read: the file's end, or a kernel that wants to be asked again.
                Ok(got) => read_padded(disk, offset, target, got),
                Err(_) => match -read.outcome.expect("it completed") {
                    errno if may_pass(errno) => read_padded(disk, offset, target, 0),
                    errno => Err(io::Error::from_raw_os_error(errno)),
                },
            };
            if let Err(error) = outcome {
                failed.push((read.blocks, error));
            }
        }
        disk.finish(batch, buffer, failed).map(Some)
    }
}

impl Drop for RingReader<'_> {
    fn drop(&mut self) {
        // The kernel may still write into the buffers.
        while self.flying > 0 {
            if self.turn().is_err() {
                // Leaking is safe, freeing is not.
                std::mem::forget(std::mem::take(&mut self.begun));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_is_short_of_memory_is_no_broken_disk() {
        for errno in [libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::ENOMEM] {
            assert!(may_pass(errno), "{errno}");
        }
        for errno in [libc::EIO, libc::EINVAL, libc::EBADF, libc::ENODATA] {
            assert!(!may_pass(errno), "{errno}");
        }
    }
}
