//! Readers beside the writers: every block that comes back is checked to the last byte, and against the history once
//! that is known.

use super::history::Read;
use super::stamp::{self, BLOCK};
use super::writer::{Clock, Load};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use towline_tracker::frontend::nbd::client::Client;

/// A running reader, with a connection to every disk.
#[derive(Debug)]
pub struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Vec<Read>>>,
}

impl Reader {
    /// Starts one that reads where the load's writers write.
    pub fn start(load: &Load, clock: Clock) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (load, ends) = (load.clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || read(&load, clock, &ends));
        Self { stop, thread }
    }

    /// Whether it has ended by itself, which is a failure that [`Self::finish`] tells.
    pub fn failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it: all that it read.
    ///
    /// # Errors
    /// A request failed.
    ///
    /// # Panics
    /// If it has panicked.
    pub fn finish(self) -> io::Result<Vec<Read>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a reader panicked")
    }
}

fn read(load: &Load, clock: Clock, stop: &AtomicBool) -> io::Result<Vec<Read>> {
    let clients = load.disks.iter().map(|(name, _)| Client::connect(&load.socket, name));
    let mut clients = clients.collect::<io::Result<Vec<_>>>()?;
    let mut draw = load.draws(u64::MAX / 2 - load.first_writer);
    let mut reads = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let (disk, block, count) = load.place(&mut draw);
        let begun = clock.now();
        let data = clients[disk].read(block * BLOCK as u64, (count as usize * BLOCK) as u32)?;
        let ended = clock.now();
        for (block, bytes) in (block..).zip(data.chunks_exact(BLOCK)) {
            reads.push(Read { disk, block, content: stamp::read(bytes, disk, block), begun, ended });
        }
        std::thread::sleep(load.pause.1);
    }
    Ok(reads)
}
