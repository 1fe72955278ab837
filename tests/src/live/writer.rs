//! Writers that load the disks of a group through NBD, many requests at once, and remember what they did.

use super::history::{NEVER, Time, Write};
use super::stamp::{self, BLOCK, WriteId};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use towline_tracker::frontend::nbd::client::{Client, Operation};

/// The clock of all writers: nanoseconds since it was made, never zero.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Default for Clock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock {
    /// Now.
    pub fn now(&self) -> Time {
        self.0.elapsed().as_nanos() as Time + 1
    }
}

/// What the writers do.
#[derive(Clone, Debug)]
pub struct Load {
    /// The tracker's NBD socket.
    pub socket: PathBuf,
    /// The disks: export name and blocks.
    pub disks: Vec<(String, u64)>,
    /// Threads, each with a connection to every disk.
    pub writers: u64,
    /// Requests of a writer in flight on each disk.
    pub depth: usize,
    /// The most blocks of a request.
    pub blocks_max: u64,
    /// Of a hundred requests, so many go to the first blocks of a disk.
    pub hot: u64,
    /// How many blocks these are.
    pub hot_blocks: u64,
    /// Of a hundred requests, so many zero or discard.
    pub zeros: u64,
    /// A pause after so many requests of a writer, to leave the machine to the others.
    pub pause: (u64, Duration),
    /// Where the randomness begins.
    pub seed: u64,
    /// The first writer's number: writers of one history have different ones.
    pub first_writer: u64,
}

impl Load {
    /// Where the next request goes: disk, first block, blocks.
    pub(super) fn place(&self, draw: &mut impl FnMut(u64) -> u64) -> (usize, u64, u64) {
        let disk = draw(self.disks.len() as u64) as usize;
        let blocks = self.disks[disk].1;
        let count = 1 + draw(self.blocks_max);
        let within = if draw(100) < self.hot { self.hot_blocks.min(blocks) } else { blocks };
        let block = draw(within.saturating_sub(count).max(1));
        (disk, block, count.min(blocks - block))
    }

    /// Numbers for one of its threads.
    pub(super) fn draws(&self, thread: u64) -> impl FnMut(u64) -> u64 + use<> {
        let mut state = (self.seed ^ (thread + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
        move |below| {
            state = stamp::next(state);
            (state >> 11) % below
        }
    }
}

/// Running writers.
#[derive(Debug)]
pub struct Writers {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    threads: Vec<JoinHandle<(Vec<Write>, io::Result<()>)>>,
}

impl Writers {
    /// Starts them.
    pub fn start(load: &Load, clock: Clock) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..load.writers).map(|writer| {
            let writer = load.first_writer + writer;
            let (load, stop, written) = (load.clone(), Arc::clone(&stop), Arc::clone(&written));
            std::thread::spawn(move || {
                let mut writes = Vec::new();
                let ended = write(&load, writer, clock, &stop, &written, &mut writes);
                (writes, ended)
            })
        });
        Self { threads: threads.collect(), stop, written }
    }

    /// Bytes acknowledged so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether one has ended by itself, which is a failure that [`Self::finish`] tells.
    pub fn failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Ends them and collects what they did.
    ///
    /// # Errors
    /// A request failed.
    ///
    /// # Panics
    /// If a writer has panicked.
    pub fn finish(self) -> io::Result<Vec<Write>> {
        self.collect().into_iter().try_fold(Vec::new(), |mut all, (mut writes, ended)| {
            ended?;
            all.append(&mut writes);
            Ok(all)
        })
    }

    /// Collects what they did until the server died under them.
    ///
    /// # Panics
    /// If a writer has panicked.
    pub fn interrupted(self) -> Vec<Write> {
        self.collect().into_iter().flat_map(|(writes, _)| writes).collect()
    }

    fn collect(self) -> Vec<(Vec<Write>, io::Result<()>)> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("a writer panicked")).collect()
    }
}

/// Fills a disk file with stamps, as the first content, and says what was written.
///
/// # Errors
/// The file can't be written.
pub fn first_content(path: &Path, disk: usize, blocks: u64) -> io::Result<Vec<Write>> {
    use std::io::Write as _;
    let mut file = io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    let mut bytes = vec![0; BLOCK];
    let mut writes = Vec::new();
    for block in 0..blocks {
        let id = WriteId(1 << 63 | (disk as u64) << 48 | (block + 1));
        stamp::fill(&mut bytes, id, disk, block);
        file.write_all(&bytes)?;
        writes.push(Write { id, disk, block, count: 1, zeros: false, issued: 0, acked: 0 });
    }
    file.flush()?;
    Ok(writes)
}

/// Where a write's number has its writer's.
const WRITER_SHIFT: u32 = 40;

/// Which writer's write it is.
pub fn writer_of(id: WriteId) -> u64 {
    (id.0 >> WRITER_SHIFT) - 1
}

struct Connection {
    client: Client,
    /// By cookie, the place in the list of writes.
    waiting: HashMap<u64, usize>,
}

fn write(
    load: &Load,
    writer: u64,
    clock: Clock,
    stop: &AtomicBool,
    written: &AtomicU64,
    writes: &mut Vec<Write>,
) -> io::Result<()> {
    let mut connections = Vec::new();
    for (name, _) in &load.disks {
        connections
            .push(Connection { client: Client::connect(&load.socket, name)?, waiting: HashMap::new() });
    }
    let mut draw = load.draws(writer);
    let mut bytes = vec![0; load.blocks_max as usize * BLOCK];
    while !stop.load(Ordering::Relaxed) {
        let (disk, block, count) = load.place(&mut draw);
        let connection = &mut connections[disk];
        while connection.waiting.len() >= load.depth {
            receive(connection, writes, clock, written)?;
        }
        let id = WriteId((writer + 1) << WRITER_SHIFT | (writes.len() as u64 + 1));
        let zeros = draw(100) < load.zeros;
        let (offset, length) = (block * BLOCK as u64, count as usize * BLOCK);
        let operation = match (zeros, draw(2)) {
            (true, 0) => Operation::Trim { offset, length: length as u32 },
            (true, _) => Operation::Zero { offset, length: length as u32, may_punch: true },
            (false, fua) => {
                for (at, one) in bytes[..length].chunks_exact_mut(BLOCK).enumerate() {
                    stamp::fill(one, id, disk, block + at as u64);
                }
                Operation::Write { offset, data: &bytes[..length], fua: fua == 0 && draw(50) == 0 }
            }
        };
        let cookie = writes.len() as u64;
        connection.waiting.insert(cookie, writes.len());
        writes.push(Write { id, disk, block, count, zeros, issued: clock.now(), acked: NEVER });
        connection.client.send(&operation, cookie)?;
        if load.pause.0 > 0 && cookie.is_multiple_of(load.pause.0) {
            // One at a time is who takes the time of each: its reply is not left lying.
            while load.depth == 1 && !connection.waiting.is_empty() {
                receive(connection, writes, clock, written)?;
            }
            std::thread::sleep(load.pause.1);
        }
    }
    for connection in &mut connections {
        while !connection.waiting.is_empty() {
            receive(connection, writes, clock, written)?;
        }
    }
    Ok(())
}

fn receive(
    connection: &mut Connection,
    writes: &mut [Write],
    clock: Clock,
    written: &AtomicU64,
) -> io::Result<()> {
    let reply = connection.client.receive()?;
    let acked = clock.now();
    reply.result?;
    let index = connection.waiting.remove(&reply.cookie).expect("only what was asked is answered");
    writes[index].acked = acked;
    written.fetch_add(writes[index].count * BLOCK as u64, Ordering::Relaxed);
    Ok(())
}
