//! The preserved map and store of a frozen disk, as its reader sees them.

use super::Opened;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;
use towline_tracker::map::{Words, bits};

/// The blocks that the tracker has copied before the guest overwrote them.
#[derive(Debug)]
pub(super) struct Preserved {
    map: Words,
    store: Box<dyn Opened>,
}

/// A read-only mapping, unmapped when it goes.
struct Mapping {
    start: NonNull<libc::c_void>,
    length: usize,
}

// SAFETY: the mapping is only an address range to be unmapped once.
unsafe impl Send for Mapping {}
// SAFETY: as above; it has no methods.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and reachable only through clones of the words that
        // own this value.
        let _ = unsafe { munmap(self.start, self.length) };
    }
}

/// The first `count` words of a map, as its writer changes them.
///
/// # Errors
/// A map that is too short, or that can't be mapped.
pub(super) fn map(map: &File, count: usize) -> io::Result<Words> {
    let needed = count * 8;
    let length = usize::try_from(map.metadata()?.len()).map_err(io::Error::other)?;
    if length < needed {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a map of blocks is too short"));
    }
    let Some(size) = NonZeroUsize::new(needed) else { return Ok(Words::private(0)) };
    // SAFETY: a fresh shared read-only mapping of a file that the tracker never truncates (C3).
    let start = unsafe { mmap(None, size, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, map.as_fd(), 0) }?;
    let keep = Arc::new(Mapping { start, length: needed });
    // SAFETY: page-aligned, `needed` bytes long, read only by atomic loads, and unmapped with the last clone.
    Ok(unsafe { Words::from_raw(start.cast(), needed / 8, keep) })
}

impl Preserved {
    /// Of a disk of so many blocks.
    ///
    /// # Errors
    /// A map that is too short, or that can't be mapped.
    pub(super) fn new(map: &dyn Opened, store: Box<dyn Opened>, blocks: u64) -> io::Result<Self> {
        Ok(Self { map: map.words(bits::words_for(blocks))?, store })
    }

    /// The preserved runs of `range`, in order, as of now; what was read or sought before stays before (R1).
    pub(super) fn runs(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        bits::look(&self.map, range)
    }

    /// Whether a block is preserved, as of now.
    pub(super) fn has(&self, block: u64) -> bool {
        self.runs(block..block + 1).next().is_some()
    }

    /// Fills `buffer` from the store; what lies beyond the store's end (the disk's last block) is zeros.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.store.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(got) => filled += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer[filled..].fill(0);
        Ok(())
    }
}
