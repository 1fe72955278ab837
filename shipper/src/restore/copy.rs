//! Copies an image into an output: windows one after another, the requests of a window by several threads.
//!
//! What an interrupted restore left is looked at first, and a block that has the hash that the index names is not fetched. So
//! it does not matter of which point it is, what a power cut took from it, or who else wrote to it: nothing is taken on trust,
//! no order of syncs has to be kept, and no note of what is done can be wrong. The price is to read it: where it is, not from
//! the store.

use super::output::Output;
use super::plan::{Fetch, Plan};
use crate::vault::frame::BlockHasher;
use crate::vault::image::{Found, Image, Window};
use crate::vault::pack;
use crate::{Error, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use towline_tracker::mutant;

/// Blocks of a window: some 25 MB of memory. A 2 GiB disk of 4 KiB blocks is one window.
pub const WINDOW: usize = 1 << 19;
/// The most threads that make sense here.
pub const JOBS_MAX: usize = 64;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of data written.
    pub data_bytes: u64,
    /// Bytes of packs fetched.
    pub fetched_bytes: u64,
    /// Bytes of data that were there already.
    pub kept_bytes: u64,
}

/// Bytes that are read together of what is there already; at least a block.
const LOOK: usize = 1 << 20;

/// Copies all of an image with `jobs` threads, `window` blocks at a time ([`WINDOW`] but in tests); `tell` hears how
/// many bytes of the disk are done.
///
/// # Errors
/// `Damage`, the store's, the output's. The first failure stops all threads.
pub fn copy(
    image: &Image,
    hasher: BlockHasher,
    output: &Output,
    jobs: usize,
    window: usize,
    tell: &(dyn Fn(u64) + Sync),
) -> Result<Copied> {
    let job = Job {
        image,
        hasher,
        output,
        data: AtomicU64::new(0),
        fetched: AtomicU64::new(0),
        kept: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let jobs = jobs.clamp(1, JOBS_MAX);
    let window = output.window().map_or(window, |bytes| window.min(bytes >> image.block_shift()).max(1));
    for window in image.windows(window) {
        let window = window?;
        let from = window.first() << image.block_shift();
        let to = ((window.first() + window.count() as u64) << image.block_shift()).min(image.size());
        output.begin(from, to - from);
        // Mutant: what is not data is not written.
        if !output.is_fresh() && !mutant::active("restore-over-old-bytes") {
            job.zero(&window)?;
        }
        let has = if output.has_left() { job.look(&window, jobs)? } else { Vec::new() };
        job.window(&window, &has, jobs)?;
        output.end()?;
        tell(to);
    }
    Ok(Copied {
        data_bytes: job.data.into_inner(),
        fetched_bytes: job.fetched.into_inner(),
        kept_bytes: job.kept.into_inner(),
    })
}

struct Job<'a> {
    image: &'a Image,
    hasher: BlockHasher,
    output: &'a Output,
    data: AtomicU64,
    fetched: AtomicU64,
    kept: AtomicU64,
    stop: AtomicBool,
}

impl Job<'_> {
    /// Which blocks of a window are there already, by their hashes.
    fn look(&self, window: &Window, jobs: usize) -> Result<Vec<bool>> {
        let mut has = vec![false; window.count()];
        let share = has.len().div_ceil(jobs).max(1);
        std::thread::scope(|scope| {
            let lookers: Vec<_> = has
                .chunks_mut(share)
                .zip((window.first()..).step_by(share))
                .map(|(has, first)| scope.spawn(move || self.look_at(window, first, has)))
                .collect();
            lookers.into_iter().try_for_each(|looker| looker.join().expect("a looker does not panic"))
        })?;
        Ok(has)
    }

    fn look_at(&self, window: &Window, first: u64, has: &mut [bool]) -> Result<()> {
        let shift = self.image.block_shift();
        let mut bytes = vec![0; LOOK.max(1 << shift)];
        let most = bytes.len() >> shift;
        let hash_at = |at: usize| match window.get(first + at as u64) {
            Found::Data { hash, .. } => Some(hash),
            Found::Zero => None,
        };
        let mut at = 0;
        while at < has.len() {
            let run = (at..has.len()).take(most).take_while(|at| hash_at(*at).is_some()).count();
            let offset = (first + at as u64) << shift;
            let length =
                (run << shift).min(usize::try_from(self.image.size() - offset).unwrap_or(usize::MAX));
            // What lies beyond the disk's end counts as zeros.
            bytes[length..run << shift].fill(0);
            if run > 0 {
                self.output.read(offset, &mut bytes[..length])?;
            }
            for (at, data) in (at..at + run).zip(bytes.chunks_exact(1 << shift)) {
                // Most of what is missing is a hole; no data are all zeros.
                let data_there = data.iter().any(|byte| *byte != 0);
                // Mutant: what an interrupted restore left is the disk's.
                let believed = data_there && mutant::active("left-block-believed");
                has[at] = believed || data_there && Some(&self.hasher.hash(data)) == hash_at(at);
                if has[at] {
                    self.kept.fetch_add(1 << shift, Ordering::Relaxed);
                }
            }
            at += run.max(1);
        }
        Ok(())
    }

    fn window(&self, window: &Window, has: &[bool], jobs: usize) -> Result<()> {
        let (send, receive) = crossbeam_channel::bounded::<Fetch>(jobs);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs)
                .map(|_| {
                    let receive = receive.clone();
                    scope.spawn(move || {
                        for fetch in receive {
                            if self.stop.load(Ordering::Relaxed) {
                                break;
                            }
                            if let Err(error) = self.fetch(&fetch) {
                                self.stop.store(true, Ordering::Relaxed);
                                return Err(error);
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            drop(receive);
            for fetch in Plan::without(window, has) {
                if self.stop.load(Ordering::Relaxed) || send.send(fetch).is_err() {
                    break;
                }
            }
            drop(send);
            workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
        })
    }

    fn fetch(&self, fetch: &Fetch) -> Result<()> {
        let pack = self.image.pack(fetch.pack);
        let reader = self.image.reader();
        let place = reader.pack_place(pack);
        let mut bytes = reader.read(&place, fetch.offset, fetch.length)?;
        self.fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let opener = reader.pack_opener(pack);
        let shift = self.image.block_shift();
        for needed in &fetch.frames {
            let frame = &needed.frame;
            let start = usize::try_from(frame.offset - fetch.offset).expect("inside the request");
            let sealed = &mut bytes[start..start + frame.sealed as usize];
            let data = pack::open_frame(&opener, frame.number.into(), sealed, frame.blocks as usize, shift)?;
            for (slot, block, hash) in &needed.blocks {
                let at = usize::from(*slot) << shift;
                if self.hasher.hash(&data[at..at + (1 << shift)]) != *hash {
                    let what = format_args!("block {block} is not the one that the index names");
                    return Err(Error::damage(&place.name, what));
                }
            }
            // Blocks that lie side by side in the frame and on the disk are one write.
            for run in needed.blocks.chunk_by(|a, b| a.0 + 1 == b.0 && a.1 + 1 == b.1) {
                let from = usize::from(run[0].0) << shift;
                let offset = run[0].1 << shift;
                let length = (run.len() << shift)
                    .min(usize::try_from(self.image.size() - offset).unwrap_or(usize::MAX));
                self.output.write(offset, &data[from..from + length])?;
                self.data.fetch_add(length as u64, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Makes what is not data read as zeros, where something was before.
    fn zero(&self, window: &Window) -> Result<()> {
        let shift = self.image.block_shift();
        let end = window.first() + window.count() as u64;
        let mut block = window.first();
        while block < end {
            let from = block;
            while block < end && window.get(block) == Found::Zero {
                block += 1;
            }
            if block > from {
                let offset = from << shift;
                let until = (block << shift).min(self.image.size());
                self.output.zero(offset, until - offset)?;
            }
            while block < end && window.get(block) != Found::Zero {
                block += 1;
            }
        }
        Ok(())
    }
}
