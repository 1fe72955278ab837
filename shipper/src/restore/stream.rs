//! A pipe takes a disk in block order (V12). The requests of a window come back in any order: they are gathered in
//! memory, and written when the window is whole. So nothing leaves that is not verified, and memory is bounded; but a
//! frame is fetched anew for each window that needs something of it.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Mutex;

/// Bytes of a disk that are gathered.
pub const STREAM_WINDOW: usize = 64 << 20;

/// What is gathered for a pipe, or for anything else that has no positions.
#[derive(Default)]
pub struct Stream {
    gathered: Mutex<Gathered>,
}

#[derive(Default)]
struct Gathered {
    /// The first byte's place on the disk.
    offset: u64,
    bytes: Vec<u8>,
}

impl Stream {
    /// The bytes `[offset, offset + length)` of the disk come next: zeros, where nothing else is written before
    /// [`Self::flush`].
    pub fn begin(&self, offset: u64, length: usize) {
        let mut gathered = self.gathered.lock().expect("no thread panics with the lock");
        gathered.offset = offset;
        gathered.bytes.clear();
        gathered.bytes.resize(length, 0);
    }

    /// Data of what was begun.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let mut gathered = self.gathered.lock().expect("no thread panics with the lock");
        let at = usize::try_from(offset - gathered.offset).expect("inside the window");
        gathered.bytes[at..at + data.len()].copy_from_slice(data);
    }

    /// Hands what was begun on into `file`: it is whole.
    ///
    /// # Errors
    /// The reader's, who may have gone.
    pub fn flush(&self, mut file: &File) -> io::Result<()> {
        let gathered = self.gathered.lock().expect("no thread panics with the lock");
        file.write_all(&gathered.bytes)
    }
}
