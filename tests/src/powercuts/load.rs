//! The load on the disk, known beforehand: each writer has a part of the disk for itself and goes through batches,
//! whose requests follow from a seed. A batch is sent at once and flushed (or is a single write with FUA), then the
//! writer marks it as durable, and only when the mark is in the record the next batch begins. So a mark says to the
//! block what must be there after a power cut, and what may be.
//!
//! A batch that its tracker died under is sent again: it is the same.

use super::mark::{Mark, Marks};
use crate::live::process::data_at;
use crate::live::stamp::{self, BLOCK, Content, WriteId};
use crate::sim::rng::Rng;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use towline_tracker::frontend::nbd::client::{Client, Operation};

/// The load of one life of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Where the randomness begins.
    pub seed: u64,
    /// The number of the life; stamps of different lives differ.
    pub life: u64,
    /// Blocks of the disk.
    pub blocks: u64,
}

/// Writers of a life.
pub const WRITERS: u64 = 2;
/// Blocks of a writer's part that half of the requests go to, so that freezes are overwritten.
const HOT: u64 = 1024;
const BATCH_MAX: u64 = 12;
const BLOCKS_MAX: u64 = 4;
/// The most that a batch writes.
pub const BATCH_BYTES: u64 = BATCH_MAX * BLOCKS_MAX * BLOCK as u64;
/// The pause after a batch, at most, in milliseconds: a machine without hardware is slow, and others are to have a
/// turn.
const PAUSE_MS: u64 = 50;

/// What a batch does to some blocks.
#[derive(Clone, Copy, Debug)]
struct Request {
    id: WriteId,
    block: u64,
    count: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    Zero,
    Trim,
}

/// A batch: its requests, and whether it is one write with FUA instead of a flush behind all.
struct Batch {
    requests: Vec<Request>,
    fua: bool,
}

impl Load {
    /// A writer's blocks.
    fn part(&self, writer: u64) -> std::ops::Range<u64> {
        let length = self.blocks / WRITERS;
        writer * length..(writer + 1) * length
    }

    /// A batch; the first has number 1.
    fn batch(&self, writer: u64, number: u64) -> Batch {
        let mut rng = Rng::new(self.seed ^ self.life << 40 ^ writer << 32 ^ number);
        let part = self.part(writer);
        let fua = rng.chance(150);
        let count = if fua { 1 } else { 1 + rng.below(BATCH_MAX) };
        let requests = (0..count).map(|place| {
            let count = 1 + rng.below(BLOCKS_MAX);
            let within = if rng.chance(600) { HOT } else { part.end - part.start };
            let block = part.start + rng.below(within - count);
            let kind = match rng.below(40) {
                0 if !fua => Kind::Zero,
                1 if !fua => Kind::Trim,
                _ => Kind::Write,
            };
            Request {
                id: WriteId(self.life << 48 | writer << 40 | number << 8 | (place + 1)),
                block,
                count,
                kind,
            }
        });
        Batch { requests: requests.collect(), fua }
    }

    /// Whose stamp it is: the writer and its batch.
    fn whose(&self, id: WriteId) -> Option<(u64, u64)> {
        let (writer, number) = (id.0 >> 40 & 0xff, id.0 >> 8 & 0xffff_ffff);
        (id.0 >> 48 == self.life && writer < WRITERS).then_some((writer, number))
    }
}

/// What a power cut may have done to the content of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tears {
    /// Blocks that were being written may be mixtures, sector by sector.
    Sectors,
    /// None: every block is whole, as in a point.
    Nothing,
}

impl Load {
    /// Checks a disk after a power cut. `before` is what it held before this life, `durable` the last batch of each
    /// writer that was marked: those are there, and nothing is there that came after the batch behind them.
    ///
    /// # Errors
    /// The first block with something else in it.
    pub fn check(&self, disk: &Path, before: &Path, durable: &[u64], tears: Tears) -> Result<(), String> {
        let begun: Vec<u64> = durable.iter().map(|batch| batch + 1).collect();
        self.compare(disk, before, durable, &begun, tears)
    }

    /// Nothing that was there before a batch of `durable` is there, and nothing of one after those of `begun`.
    fn compare(
        &self,
        disk: &Path,
        before: &Path,
        durable: &[u64],
        begun: &[u64],
        tears: Tears,
    ) -> Result<(), String> {
        let open = |path: &Path| File::open(path).map_err(|error| format!("{}: {error}", path.display()));
        let (disk, before) = (open(disk)?, open(before)?);
        let mut blocks: Vec<Vec<Request>> = vec![Vec::new(); self.blocks as usize];
        for (writer, (&durable, &begun)) in durable.iter().zip(begun).enumerate() {
            for number in 1..=begun {
                let requests = self.batch(writer as u64, number).requests;
                if number <= durable {
                    // What was there before a durable batch is gone.
                    for request in &requests {
                        (request.block..request.block + request.count).for_each(|block| {
                            blocks[block as usize].retain(|held| held.id.0 >> 8 == request.id.0 >> 8)
                        });
                    }
                }
                for request in requests {
                    (request.block..request.block + request.count)
                        .for_each(|block| blocks[block as usize].push(request));
                }
            }
        }
        let (mut found, mut base, mut wanted) = (vec![0; BLOCK], vec![0; BLOCK], vec![0; BLOCK]);
        let mut data = 0;
        for (block, requests) in (0u64..).zip(&blocks) {
            // What nobody wrote to and holds nothing takes no time.
            data = if data <= block * BLOCK as u64 { next_data(&[&disk, &before], block) } else { data };
            if requests.is_empty() && data >= (block + 1) * BLOCK as u64 {
                continue;
            }
            let read = |file: &File, bytes: &mut [u8]| {
                file.read_exact_at(bytes, block * BLOCK as u64)
                    .map_err(|error| format!("block {block}: {error}"))
            };
            read(&disk, &mut found)?;
            read(&before, &mut base)?;
            let writer = block / (self.blocks / WRITERS).max(1);
            let certain = durable.get(writer as usize).is_some_and(|&durable| {
                requests
                    .iter()
                    .any(|request| self.whose(request.id).is_some_and(|(_, number)| number <= durable))
            });
            let mut missing = [true; BLOCK / super::image::SECTOR];
            let mut offer = |bytes: &[u8]| {
                let sectors = found.chunks(super::image::SECTOR).zip(bytes.chunks(super::image::SECTOR));
                match tears {
                    Tears::Sectors => {
                        missing
                            .iter_mut()
                            .zip(sectors)
                            .for_each(|(missing, (one, other))| *missing &= one != other);
                    }
                    Tears::Nothing if found == bytes => missing.fill(false),
                    Tears::Nothing => {}
                }
            };
            if !certain {
                offer(&base);
            }
            for request in requests {
                match request.kind {
                    Kind::Write => stamp::fill(&mut wanted, request.id, 0, block),
                    Kind::Zero | Kind::Trim => wanted.fill(0),
                }
                offer(&wanted);
            }
            if missing.contains(&true) {
                let is = stamp::read(&found, 0, block);
                let may: Vec<_> =
                    requests.iter().map(|request| (request.kind, self.whose(request.id))).collect();
                let is = match is {
                    Content::Stamp(id) => format!("{is:x?}, life {} {:?}", id.0 >> 48, self.whose(id)),
                    _ => format!("{is:?}"),
                };
                return Err(format!(
                    "block {block} holds {is}; of writer {writer} {durable:?} were durable, and it may hold {may:?}{}",
                    if certain { "" } else { " or what was there before" }
                ));
            }
        }
        Ok(())
    }

    /// Checks a point that was made in this life: of each writer all batches up to one, and of that one any part.
    ///
    /// # Errors
    /// The first block with something else in it.
    pub fn check_point(&self, image: &Path, before: &Path) -> Result<(), String> {
        let file = File::open(image).map_err(|error| format!("{}: {error}", image.display()))?;
        let mut newest = [0; WRITERS as usize];
        let mut bytes = vec![0; BLOCK];
        let mut data = 0;
        for block in 0..self.blocks {
            data = if data <= block * BLOCK as u64 { next_data(&[&file], block) } else { data };
            if data >= (block + 1) * BLOCK as u64 {
                continue;
            }
            file.read_exact_at(&mut bytes, block * BLOCK as u64)
                .map_err(|error| format!("block {block}: {error}"))?;
            let first = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
            if let Some((writer, number)) = self.whose(WriteId(first)) {
                newest[writer as usize] = number.max(newest[writer as usize]);
            }
        }
        let durable = newest.map(|number: u64| number.saturating_sub(1));
        // Who zeroes leaves no stamp.
        let no_stamp = |request: &Request| request.kind != Kind::Write;
        let begun: Vec<u64> = (0..WRITERS)
            .zip(newest)
            .map(|(writer, newest)| {
                let mut later = newest + 1..;
                later
                    .find(|&number| !self.batch(writer, number).requests.iter().all(no_stamp))
                    .expect("there is one")
            })
            .collect();
        self.compare(image, before, &durable, &begun, Tears::Nothing)
    }
}

/// Where the next data of any of these files is, from a block on.
fn next_data(files: &[&File], block: u64) -> u64 {
    files.iter().map(|file| data_at(file, block * BLOCK as u64)).min().unwrap_or(0)
}

/// Running writers.
#[derive(Debug)]
pub struct Writers {
    stop: Arc<AtomicBool>,
    batches: Arc<[AtomicU64; WRITERS as usize]>,
    threads: Vec<JoinHandle<u64>>,
}

impl Writers {
    /// Starts them behind these batches.
    pub fn start(load: Load, socket: &Path, marks: &Marks, done: &[u64]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let batches: Arc<[AtomicU64; WRITERS as usize]> = Arc::default();
        let threads = (0..WRITERS).zip(done).map(|(writer, &done)| {
            let (socket, marks) = (socket.to_owned(), marks.clone());
            let (stop, batches) = (Arc::clone(&stop), Arc::clone(&batches));
            std::thread::spawn(move || write(load, writer, done, &socket, &marks, &stop, &batches[..]))
        });
        Self { threads: threads.collect(), stop, batches }
    }

    /// The last batch of each that is marked, of those that were written since they were started.
    pub fn batches(&self) -> [u64; WRITERS as usize] {
        self.batches.each_ref().map(|batch| batch.load(Ordering::Relaxed))
    }

    /// Ends them: the last batch of each.
    ///
    /// # Panics
    /// If one has panicked.
    pub fn finish(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("a writer panicked")).collect()
    }
}

fn write(
    load: Load,
    writer: u64,
    mut done: u64,
    socket: &Path,
    marks: &Marks,
    stop: &AtomicBool,
    batches: &[AtomicU64],
) -> u64 {
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        if client.is_none() {
            client = Client::connect(socket, "").ok();
        }
        let batch = load.batch(writer, done + 1);
        match client.as_mut().map(|client| send(client, &batch)) {
            Some(Ok(())) => {
                done += 1;
                marks.say(&Mark::Durable { life: load.life, writer, batch: done });
                batches[writer as usize].store(done, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(done % PAUSE_MS));
            }
            // The tracker is dead, or not there yet.
            _ => {
                client = None;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    done
}

fn send(client: &mut Client, batch: &Batch) -> io::Result<()> {
    let mut bytes = vec![0; BLOCKS_MAX as usize * BLOCK];
    for (cookie, request) in (0..).zip(&batch.requests) {
        let (offset, length) = (request.block * BLOCK as u64, request.count as usize * BLOCK);
        let operation = match request.kind {
            Kind::Write => {
                for (block, bytes) in (request.block..).zip(bytes[..length].chunks_exact_mut(BLOCK)) {
                    stamp::fill(bytes, request.id, 0, block);
                }
                Operation::Write { offset, data: &bytes[..length], fua: batch.fua }
            }
            Kind::Zero => Operation::Zero { offset, length: length as u32, may_punch: true },
            Kind::Trim => Operation::Trim { offset, length: length as u32 },
        };
        client.send(&operation, cookie)?;
    }
    for _ in &batch.requests {
        client.receive()?.result?;
    }
    if batch.fua { Ok(()) } else { client.flush() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load { seed: 3, life: 1, blocks: 8192 };

    fn apply(disk: &File, request: &Request) {
        let mut bytes = vec![0; BLOCK];
        for block in request.block..request.block + request.count {
            match request.kind {
                Kind::Write => stamp::fill(&mut bytes, request.id, 0, block),
                Kind::Zero | Kind::Trim => bytes.fill(0),
            }
            disk.write_all_at(&bytes, block * BLOCK as u64).unwrap();
        }
    }

    /// A blank disk, and one with these batches of both writers.
    fn disks(folder: &Path, batches: u64) -> (std::path::PathBuf, std::path::PathBuf, File) {
        let [before, disk] = ["before", "disk"].map(|name| folder.join(name));
        let files = [&before, &disk].map(|path| File::create(path).unwrap());
        files.iter().for_each(|file| file.set_len(LOAD.blocks * BLOCK as u64).unwrap());
        for number in 1..=batches {
            for writer in 0..WRITERS {
                LOAD.batch(writer, number).requests.iter().for_each(|request| apply(&files[1], request));
            }
        }
        let [_, file] = files;
        (before, disk, file)
    }

    #[test]
    fn a_disk_holds_what_was_durable_and_no_more_than_was_begun() {
        let folder = tempfile::tempdir().unwrap();
        let (before, disk, file) = disks(folder.path(), 40);
        let check = |durable: u64, tears| LOAD.check(&disk, &before, &[durable; WRITERS as usize], tears);
        assert_eq!(check(40, Tears::Nothing), Ok(()));
        assert_eq!(
            check(39, Tears::Nothing),
            Ok(()),
            "the last batch was sent, and nobody knows that it is durable"
        );
        assert!(check(38, Tears::Sectors).is_err(), "nobody had begun the last batch");
        assert!(check(41, Tears::Sectors).is_err(), "a batch is missing");
        // Half a block of the next batch.
        let next =
            (41..).flat_map(|number| LOAD.batch(0, number).requests).find(|next| next.kind == Kind::Write);
        let next = next.unwrap();
        let mut bytes = vec![0; BLOCK];
        stamp::fill(&mut bytes, next.id, 0, next.block);
        file.write_all_at(&bytes[..BLOCK / 2], next.block * BLOCK as u64).unwrap();
        let begun = LOAD.whose(next.id).unwrap().1 - 1;
        let check = |durable, tears| LOAD.check(&disk, &before, &[durable, 40], tears);
        let (torn, whole) = (check(begun, Tears::Sectors), check(begun, Tears::Nothing));
        assert!(begun > 40 || torn.is_ok() && whole.is_err(), "{torn:?}, {whole:?}");
    }

    #[test]
    fn a_point_is_one_instant_of_each_writer() {
        let folder = tempfile::tempdir().unwrap();
        let (before, disk, file) = disks(folder.path(), 40);
        assert_eq!(LOAD.check_point(&disk, &before), Ok(()));
        // A part of a later batch, as at a cut, and one that only zeroes, which leaves no stamp.
        LOAD.batch(1, 41).requests.iter().step_by(2).for_each(|request| apply(&file, request));
        assert_eq!(LOAD.check_point(&disk, &before), Ok(()));
        let zeroes =
            (41..).find(|&number| LOAD.batch(0, number).requests.iter().all(|one| one.kind != Kind::Write));
        let zeroes = zeroes.unwrap();
        for number in 41..=zeroes {
            LOAD.batch(0, number).requests.iter().for_each(|request| apply(&file, request));
        }
        assert_eq!(LOAD.check_point(&disk, &before), Ok(()));
        // A batch in the middle is missing.
        let lost = LOAD.batch(0, 20).requests.into_iter().find(|lost| {
            (21..=zeroes).flat_map(|number| LOAD.batch(0, number).requests).all(|later| {
                lost.kind == Kind::Write && !(later.block..later.block + later.count).contains(&lost.block)
            })
        });
        file.write_all_at(&[0; BLOCK], lost.unwrap().block * BLOCK as u64).unwrap();
        assert!(LOAD.check_point(&disk, &before).is_err());
    }
}
