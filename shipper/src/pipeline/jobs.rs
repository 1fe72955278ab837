//! Frozen parts, cut into jobs.

use super::Plan;
use crate::Result;
use crate::source::{Batch, Part, Source};
use crate::vault::entry::Covered;
use std::ops::{ControlFlow, Range};

/// Runs of zeros of a job.
const JOB_ZERO_RUNS: usize = 4096;

/// A piece of work: what one worker reads and encodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Job {
    /// Its place in the order of all jobs, from 0.
    pub(super) number: u64,
    /// Which disk.
    pub(super) disk: usize,
    /// To be read.
    pub(super) batches: Vec<Batch>,
    /// Zeros as of the cut.
    pub(super) zeros: Vec<Range<u64>>,
    /// Everything frozen of the disk before this block is in this job or an earlier one.
    pub(super) end: u64,
    /// Blocks.
    pub(super) blocks: u64,
}

/// Cuts all frozen parts that `skip` does not cover into jobs and gives them to `each`, until that breaks. Answers how
/// many they are, unless it broke.
pub(super) fn plan(
    source: &dyn Source,
    skip: &[Covered],
    sizes: &Plan,
    each: &mut dyn FnMut(Job) -> ControlFlow<()>,
) -> Result<Option<u64>> {
    let mut cutter = Cutter { job: Job::default(), data: 0, sizes, each };
    for (index, disk) in source.disks().iter().enumerate() {
        let covered = joined(skip.iter().filter(|covered| covered.disk == disk.id));
        cutter.job = Job { number: cutter.job.number, disk: index, ..Job::default() };
        let mut gone = false;
        source.parts(index, &mut |part| {
            let flow = cutter.part(part, &covered, disk.block_shift);
            gone = flow.is_break();
            flow
        })?;
        // The disk is covered to its end, also behind its last frozen block.
        cutter.job.end = disk.blocks();
        if gone || cutter.flush().is_break() {
            return Ok(None);
        }
    }
    Ok(Some(cutter.job.number))
}

/// The most blocks of a batch: at least one.
fn batch_blocks(sizes: &Plan, block_shift: u8) -> u64 {
    (sizes.batch_bytes as u64 >> block_shift).max(1)
}

/// What is covered, in order, no two touching.
fn joined<'a>(covered: impl Iterator<Item = &'a Covered>) -> Vec<Range<u64>> {
    let mut ranges: Vec<_> =
        covered.map(|covered| covered.first..covered.first.saturating_add(covered.count)).collect();
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, before| {
        let touches = next.start <= before.end;
        if touches {
            before.end = before.end.max(next.end);
        }
        touches
    });
    ranges
}

struct Cutter<'a> {
    job: Job,
    data: usize,
    sizes: &'a Plan,
    each: &'a mut dyn FnMut(Job) -> ControlFlow<()>,
}

impl Cutter<'_> {
    fn part(&mut self, part: Part, covered: &[Range<u64>], block_shift: u8) -> ControlFlow<()> {
        let (range, zeros) = match part {
            Part::Data(range) => (range, false),
            Part::Zeros(range) => (range, true),
        };
        let mut at = range.start;
        for done in &covered[covered.partition_point(|done| done.end <= at)..] {
            if done.start >= range.end {
                break;
            }
            self.piece(at..done.start.max(at), zeros, block_shift)?;
            at = at.max(done.end).min(range.end);
        }
        self.piece(at..range.end, zeros, block_shift)
    }

    fn piece(&mut self, range: Range<u64>, zeros: bool, block_shift: u8) -> ControlFlow<()> {
        if zeros && !range.is_empty() {
            self.job.blocks += range.end - range.start;
            self.job.end = range.end;
            self.job.zeros.push(range);
            return if self.job.zeros.len() >= JOB_ZERO_RUNS {
                self.flush()
            } else {
                ControlFlow::Continue(())
            };
        }
        let (mut rest, most) = (range, batch_blocks(self.sizes, block_shift));
        while !rest.is_empty() {
            let (disk, batches) = (self.job.disk, &mut self.job.batches);
            let room = batches.last().map_or(0, |batch| most - batch.blocks());
            if room == 0 {
                batches.push(Batch { disk, runs: Vec::new() });
                continue;
            }
            let run = rest.start..rest.end.min(rest.start + room);
            let blocks = run.end - run.start;
            rest.start = run.end;
            self.job.end = run.end;
            self.job.blocks += blocks;
            batches.last_mut().expect("it has room").runs.push(run);
            self.data += (blocks as usize) << block_shift;
            if self.data >= self.sizes.job_bytes {
                self.flush()?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Gives the job away and begins the next one on the same disk.
    fn flush(&mut self) -> ControlFlow<()> {
        let next = Job { number: self.job.number + 1, disk: self.job.disk, ..Job::default() };
        let job = std::mem::replace(&mut self.job, next);
        self.data = 0;
        (self.each)(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{FreezeInfo, MemoryDisk, MemorySource, SourceDisk};
    use proptest::prelude::*;
    use towline_tracker::id::DiskId;

    proptest! {
        /// Every frozen block that is not covered is in exactly one job, in block order, and jobs are bounded.
        #[test]
        fn jobs_hold_every_block_once_in_order(
            gaps in proptest::collection::vec((0u64..3000, 1u64..4000), 0..12),
            done in proptest::collection::vec((0u64..20_000, 1u64..3000), 0..4),
        ) {
            let (mut at, mut frozen) = (0, Vec::new());
            for (gap, length) in gaps {
                frozen.push(at + gap..at + gap + length);
                at += gap + length + 1;
            }
            let about = SourceDisk {
                id: DiskId([1; 16]), name: "d".into(), size: (at + 5) << 12, block_shift: 12,
                compare: false, whole: false, frozen_bytes: 0,
            };
            let disk = MemoryDisk { about, data: Vec::new(), frozen: frozen.clone() };
            let info = FreezeInfo {
                cut: Default::default(), first_generation: Default::default(),
                generation: Default::default(), time_ns: 0, fuzzy: false,
            };
            let source = MemorySource::new(info, vec![disk.clone(), disk]);
            let skip: Vec<_> = done.iter()
                .map(|(first, count)| Covered { disk: DiskId([1; 16]), first: *first, count: *count })
                .collect();
            let sizes = Plan::new(0, 1 << 20, 1);
            let mut planned = Vec::new();
            let jobs = plan(&source, &skip, &sizes, &mut |job| {
                planned.push(job);
                ControlFlow::Continue(())
            });
            prop_assert_eq!(jobs.unwrap(), Some(planned.len() as u64));
            let expected: Vec<u64> = frozen.into_iter().flatten()
                .filter(|block| !done.iter().any(|(first, count)| (*first..first + count).contains(block)))
                .collect();
            let mut seen = [Vec::new(), Vec::new()];
            for (number, job) in (0..).zip(planned) {
                prop_assert_eq!(job.number, number);
                prop_assert!(job.batches.iter().map(Batch::blocks).sum::<u64>() << 12 <= sizes.job_bytes as u64);
                for batch in &job.batches {
                    prop_assert!(batch.blocks() <= batch_blocks(&sizes, 12) && batch.disk == job.disk);
                    seen[job.disk].extend(batch.runs.iter().cloned().flatten());
                }
                prop_assert!(seen[job.disk].last().is_none_or(|last| *last < job.end));
            }
            prop_assert_eq!(&seen[0], &expected);
            prop_assert_eq!(&seen[1], &expected);
        }
    }
}
