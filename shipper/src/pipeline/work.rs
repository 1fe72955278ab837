//! A worker: reads the blocks of its jobs, drops what is zero or unchanged, hashes and compresses the rest.

use super::Counters;
use super::assemble::Cycle;
use super::below::{Below, BelowBlock};
use super::jobs::Job;
use super::lately::Lately;
use crate::Result;
use crate::source::{Buffer, Filled, Reader, Source};
use crate::vault::frame::{BlockHash, BlockHasher, EncodedFrame, FrameEncoder, blocks_per_frame};
use crossbeam_channel::{Receiver, Sender};
use std::collections::VecDeque;
use std::ops::Range;
use towline_tracker::mutant;

/// Batches that a worker has under way: deep enough for a device, few enough for memory.
const DEPTH: usize = 8;

/// Holes of up to this many blocks are looked up in the image below, so that many small ones don't fill an index.
const HOLE_BLOCKS_LOOKED_AT: u64 = 1 << 20;
/// How many of them at once.
const HOLE_WINDOW: usize = 1 << 16;

/// A finished job.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) job: Job,
    pub(super) frames: Vec<EncodedFrame>,
    /// Runs that must read as zeros: holes, and blocks found zero that are not zero below.
    pub(super) zeros: Vec<Range<u64>>,
    pub(super) bytes_read: u64,
    pub(super) blocks_zero: u64,
    pub(super) blocks_unchanged: u64,
    pub(super) blocks_put: u64,
}

impl Done {
    /// A block is zero and must be said to be.
    fn zero(&mut self, block: u64) {
        self.blocks_zero += 1;
        match self.zeros.last_mut() {
            Some(last) if last.end == block => last.end += 1,
            _ => self.zeros.push(block..block + 1),
        }
    }
}

/// What all workers share.
pub(super) struct Shop<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) below: &'a dyn Below,
    /// For each disk, whether its blocks are compared with the image below.
    pub(super) compare: &'a [bool],
    /// What was put lately, for disks that are not compared.
    pub(super) lately: Option<&'a Lately>,
    pub(super) hasher: BlockHasher,
    pub(super) counters: &'a Counters,
}

impl<'a> Shop<'a> {
    /// For this cycle.
    pub(super) fn of(cycle: &'a Cycle<'_>) -> Self {
        Self {
            source: cycle.source,
            below: cycle.below,
            compare: cycle.compare,
            lately: cycle.lately,
            hasher: cycle.group.hasher(),
            counters: cycle.counters,
        }
    }
}

/// Works until there are no more jobs or nobody listens.
pub(super) fn work(shop: &Shop<'_>, jobs: &Receiver<Job>, done: &Sender<Result<Said>>) {
    if let Err(error) = Worker::new(shop).and_then(|mut worker| worker.run(jobs, done)) {
        let _ = done.send(Err(error));
    }
}

/// What workers and the planner say.
pub(super) enum Said {
    /// A job is finished.
    Done(Done),
    /// All frozen parts are cut into so many jobs.
    End(u64),
}

/// Reads and encodes jobs, one after another.
pub(super) struct Worker<'a> {
    shop: &'a Shop<'a>,
    reader: Box<dyn Reader + 'a>,
    free: Vec<Buffer>,
    begun: VecDeque<Begun>,
    encoder: Option<(u8, FrameEncoder)>,
    stage: Stage,
    below: Vec<BelowBlock>,
    /// What is put of the batch that is being encoded.
    put: Vec<(u64, BlockHash)>,
}

/// A job whose batches are being read.
struct Begun {
    done: Done,
    /// The next batch to hand to the reader.
    next: usize,
    /// Batches that are not encoded yet.
    left: usize,
}

/// A frame being filled. Its data stay where they were read as long as they stand there one after another; only what
/// has to wait, or does not join, is copied.
#[derive(Default)]
struct Stage {
    blocks: Vec<u64>,
    hashes: Vec<BlockHash>,
    /// What was copied: the first of the blocks.
    data: Vec<u8>,
    /// Where the others stand in the buffer that is being encoded.
    span: Range<usize>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(shop: &'a Shop<'a>) -> Result<Self> {
        Ok(Self {
            shop,
            reader: shop.source.reader()?,
            free: Vec::new(),
            begun: VecDeque::new(),
            encoder: None,
            stage: Stage::default(),
            below: Vec::new(),
            put: Vec::new(),
        })
    }

    /// Works until there are no more jobs or nobody listens.
    pub(super) fn run(&mut self, jobs: &Receiver<Job>, done: &Sender<Result<Said>>) -> Result<()> {
        let mut reading = 0;
        let mut more = true;
        loop {
            // Keep the reader busy: read ahead into the next job while this one is encoded.
            while more && reading < self.reader.depth().min(DEPTH) {
                if self.feed()? {
                    reading += 1;
                    continue;
                }
                let message = if self.begun.is_empty() { jobs.recv().ok() } else { jobs.try_recv().ok() };
                match message {
                    Some(job) => self.take(job)?,
                    None if self.begun.is_empty() => more = false,
                    None => break,
                }
                // A job without data is done at once.
                if !self.deliver(done) {
                    return Ok(());
                }
            }
            if !more && reading < DEPTH && self.feed()? {
                reading += 1;
                continue;
            }
            let Some(filled) = self.reader.complete()? else {
                if more {
                    continue;
                }
                return Ok(());
            };
            reading -= 1;
            self.encode(filled)?;
            if !self.deliver(done) {
                return Ok(());
            }
        }
    }

    fn take(&mut self, job: Job) -> Result<()> {
        let left = job.batches.len();
        let mut done = Done { job, ..Done::default() };
        for run in std::mem::take(&mut done.job.zeros) {
            if let Some(lately) = self.shop.lately {
                lately.forget(done.job.disk, run.clone());
            }
            self.hole(&mut done, run)?;
        }
        self.begun.push_back(Begun { done, next: 0, left });
        Ok(())
    }

    /// A hole as of the cut: nothing needs to be said of it where the image below is known to be zero. One run says the
    /// rest, from the first block that needs it to the last: what lies between reads as zeros all the same. So the runs
    /// of a job are bounded by its holes, whatever the image below is.
    fn hole(&mut self, done: &mut Done, run: Range<u64>) -> Result<()> {
        if !self.shop.compare[done.job.disk] || run.end - run.start > HOLE_BLOCKS_LOOKED_AT {
            done.blocks_zero += run.end - run.start;
            done.zeros.push(run);
            return Ok(());
        }
        let mut needed: Option<Range<u64>> = None;
        for first in run.clone().step_by(HOLE_WINDOW) {
            let part = first..(first + HOLE_WINDOW as u64).min(run.end);
            self.below.clear();
            self.shop.below.look(done.job.disk, part.clone(), &mut self.below)?;
            for (block, below) in part.zip(&self.below) {
                match below {
                    BelowBlock::Zeros => done.blocks_unchanged += 1,
                    BelowBlock::Data(_) | BelowBlock::Unknown => {
                        done.blocks_zero += 1;
                        needed = Some(needed.map_or(block, |needed| needed.start)..block + 1);
                    }
                }
            }
        }
        done.zeros.extend(needed);
        Ok(())
    }

    /// Hands one more batch to the reader, if there is one.
    fn feed(&mut self) -> Result<bool> {
        let Some(begun) = self.begun.iter_mut().find(|begun| begun.next < begun.done.job.batches.len())
        else {
            return Ok(false);
        };
        let batch = begun.done.job.batches[begun.next].clone();
        begun.next += 1;
        let shift = self.shop.source.disks()[batch.disk].block_shift;
        let needed = (batch.blocks() as usize) << shift;
        let mut buffer = self.free.pop().unwrap_or_else(|| Buffer::new(needed));
        if buffer.len() < needed {
            buffer = Buffer::new(needed);
        }
        self.reader.begin(batch, buffer)?;
        Ok(true)
    }

    /// Sends finished jobs; false when nobody listens.
    fn deliver(&mut self, done: &Sender<Result<Said>>) -> bool {
        while self.begun.front().is_some_and(|begun| begun.left == 0) {
            let begun = self.begun.pop_front().expect("looked at");
            if done.send(Ok(Said::Done(begun.done))).is_err() {
                return false;
            }
        }
        true
    }

    /// Encodes a batch of the oldest job; the last one of a job closes its frame.
    fn encode(&mut self, filled: Filled) -> Result<()> {
        let begun = self.begun.front_mut().expect("a batch belongs to a job");
        begun.left -= 1;
        let last = begun.left == 0;
        let done = &mut begun.done;
        done.bytes_read += filled.bytes_read;
        Counters::add(&self.shop.counters.read, filled.bytes_read);
        Counters::add(&self.shop.counters.from_store, filled.blocks_from_store);
        let disk = filled.batch.disk;
        let shift = self.shop.source.disks()[disk].block_shift;
        if self.encoder.as_ref().is_none_or(|(of, _)| *of != shift) {
            self.encoder = Some((shift, FrameEncoder::new(shift)));
        }
        let (_, encoder) = self.encoder.as_mut().expect("made above");
        let compare = self.shop.compare[disk];
        let mut at = 0;
        for run in &filled.batch.runs {
            let bytes = ((run.end - run.start) as usize) << shift;
            let (data, start) = (&filled.buffer[at..at + bytes], at);
            at += bytes;
            self.below.clear();
            if compare {
                self.shop.below.look(disk, run.clone(), &mut self.below)?;
            } else if let Some(lately) = self.shop.lately {
                lately.look(disk, run.clone(), &mut self.below);
            }
            for (index, (block, data)) in run.clone().zip(data.chunks_exact(1 << shift)).enumerate() {
                let below = self.below.get(index).copied().unwrap_or(BelowBlock::Unknown);
                if is_zero(data) {
                    if below == BelowBlock::Zeros {
                        done.blocks_unchanged += 1;
                        continue;
                    }
                    if let (Some(lately), BelowBlock::Data(_)) = (self.shop.lately, below) {
                        lately.forget(disk, block..block + 1);
                    }
                    done.zero(block);
                    continue;
                }
                let hash = self.shop.hasher.hash(data);
                if below == BelowBlock::Data(hash) {
                    done.blocks_unchanged += 1;
                    continue;
                }
                done.blocks_put += 1;
                self.put.push((block, hash));
                let from = start + (index << shift);
                let place = from..from + (1 << shift);
                done.frames.extend(self.stage.push(encoder, shift, (block, hash), &filled.buffer, place));
            }
        }
        // Mutant: what a fuzzy freeze puts is not remembered, and what was put before it still is.
        let forgets = self.shop.source.info().fuzzy && mutant::active("unchanged-across-fuzzy");
        if let Some(lately) = self.shop.lately.filter(|_| !forgets) {
            lately.note(disk, &self.put);
        }
        self.put.clear();
        if last {
            done.frames.extend(self.stage.close(encoder, &filled.buffer));
        } else {
            self.stage.copy(&filled.buffer);
        }
        self.free.push(filled.buffer);
        Ok(())
    }
}

impl Stage {
    /// Adds the block whose data stand at `place` of `buffer`; answers the frame that it filled.
    fn push(
        &mut self,
        encoder: &mut FrameEncoder,
        shift: u8,
        (block, hash): (u64, BlockHash),
        buffer: &[u8],
        place: Range<usize>,
    ) -> Option<EncodedFrame> {
        if self.span.end != place.start {
            self.copy(buffer);
            self.span = place.start..place.start;
        }
        self.span.end = place.end;
        self.blocks.push(block);
        self.hashes.push(hash);
        if self.blocks.len() == blocks_per_frame(shift) { self.close(encoder, buffer) } else { None }
    }

    /// Copies what still stands in the buffer, which is about to be used again.
    fn copy(&mut self, buffer: &[u8]) {
        self.data.extend_from_slice(&buffer[self.span.clone()]);
        self.span = 0..0;
    }

    fn close(&mut self, encoder: &mut FrameEncoder, buffer: &[u8]) -> Option<EncodedFrame> {
        if self.blocks.is_empty() {
            return None;
        }
        let frame = if self.data.is_empty() {
            encoder.encode(&self.blocks, &self.hashes, &buffer[self.span.clone()])
        } else {
            self.copy(buffer);
            encoder.encode(&self.blocks, &self.hashes, &self.data)
        };
        self.span = 0..0;
        self.blocks.clear();
        self.hashes.clear();
        self.data.clear();
        Some(frame)
    }
}

/// Whether all bytes are zero: a look at the first word spares most blocks the rest.
fn is_zero(data: &[u8]) -> bool {
    let (head, rest) = data.split_at(64.min(data.len()));
    head.iter().all(|byte| *byte == 0)
        && rest.chunks(512).all(|chunk| chunk.iter().fold(0, |sum, byte| sum | byte) == 0)
}
