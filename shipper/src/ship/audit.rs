//! The self-audit: at each cut a sample of the blocks that no map calls changed is read again and compared with the
//! hashes in the vault. One that differs is a change that was not tracked: a write past the tracker, a fault of the
//! disk, or a bug of ours.
//!
//! The disk is read first, and only then it is looked whether the block was changed since the cut: a write is marked
//! before it is submitted (W4), so what the guest does meanwhile raises no alarm. Frozen blocks are about to be shipped
//! and are let pass.
//!
//! **What is found.** The samples go through all disks of the group, one after another, from a random place on. At S
//! bytes a cut and C cuts a day a change that was lost, and whose block is not written again (which would mark it after
//! all), is found within a day with the probability S x C / (bytes of all disks), at most 1.

use crate::pipeline::shape;
use crate::source::{BATCH_BYTES, Batch, Buffer, Part, Source, SourceDisk};
use crate::vault::Group;
use crate::vault::access::Reader;
use crate::vault::entry::{Content, DiskImage};
use crate::vault::frame::BlockHasher;
use crate::vault::image::{Found, Image};
use crate::{Kind, Result};
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use towline_tracker::id::DiskId;

/// What an audit found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Audit {
    /// Bytes that were compared.
    pub(super) bytes: u64,
    /// Blocks that differ although nobody changed them, as disk and block.
    pub(super) differing: Vec<(usize, u64)>,
    /// A part of the image could not be compared with.
    pub(super) met_damage: bool,
}

/// Looks at a sample after the other.
pub(super) struct Auditor {
    bytes: u64,
    at: u64,
    reader: Arc<Reader>,
    hasher: BlockHasher,
    /// Opened at an earlier audit.
    images: BTreeMap<DiskId, Image>,
}

impl Auditor {
    /// Looks at `bytes` at each audit, from the byte `at` of all disks on; pages are cached up to `cache` bytes.
    pub(super) fn new(group: &Group, bytes: u64, at: u64, cache: u64) -> Self {
        let reader = Arc::new(Reader::new(group.clone(), usize::try_from(cache).unwrap_or(usize::MAX)));
        Self { bytes, at, reader, hasher: group.hasher(), images: BTreeMap::new() }
    }

    /// Audits the next sample of a freeze against the image below it.
    ///
    /// # Errors
    /// The store's, the change log's. What can't be read from a disk is passed over: whoever needs the block will tell.
    pub(super) fn audit(&mut self, source: &dyn Source, base: &Content) -> Result<Audit> {
        let mut audit = Audit::default();
        for (disk, blocks) in sample(source.disks(), &mut self.at, self.bytes) {
            let about = &source.disks()[disk];
            // Of a disk that is frozen whole, or that a host's crash left unsure, much is compared anyway.
            let image = shape(about).base_image(Some(base)).filter(|_| !about.whole && !about.compare);
            let Some(image) = image else { continue };
            match self.compare(source, disk, blocks, image, &mut audit) {
                Err(error) if error.kind() == Kind::Damage => {
                    tracing::warn!(disk = about.name, error = error.line(), "its image can't be audited");
                    self.images.remove(&about.id);
                    audit.met_damage = true;
                }
                Err(error) if error.kind() == Kind::Unreadable => {
                    tracing::warn!(disk = about.name, error = error.line(), "a part can't be audited");
                }
                done => done?,
            }
        }
        let_frozen_pass(source, &mut audit.differing)?;
        Ok(audit)
    }

    fn compare(
        &mut self,
        source: &dyn Source,
        disk: usize,
        blocks: Range<u64>,
        image: &DiskImage,
        audit: &mut Audit,
    ) -> Result<()> {
        let about = &source.disks()[disk];
        let image = match self.images.remove(&about.id) {
            Some(opened) => opened.then(image)?,
            None => Image::open(self.reader.clone(), image)?,
        };
        let image = self.images.entry(about.id).or_insert(image);
        let mut reader = source.reader()?;
        let most = ((BATCH_BYTES / 4) >> about.block_shift).max(1);
        for first in blocks.clone().step_by(most) {
            let run = first..blocks.end.min(first + most as u64);
            let count = usize::try_from(run.end - run.start).expect("a part of a batch");
            let window = image.window(first, count)?;
            let batch = Batch { disk, runs: vec![run.clone()] };
            reader.begin(batch, Buffer::new(count << about.block_shift))?;
            let filled = reader.complete()?.expect("one is under way");
            audit.bytes += (count << about.block_shift) as u64;
            for (block, data) in run.zip(filled.buffer.chunks_exact(about.block_bytes())) {
                let same = match window.get(block) {
                    Found::Zero => data.iter().all(|byte| *byte == 0),
                    Found::Data { hash, .. } => self.hasher.hash(data) == *hash,
                };
                if !same && !source.changed_since(disk, block) {
                    audit.differing.push((disk, block));
                }
            }
        }
        Ok(())
    }
}

/// The next `bytes` from `at` on, of all disks one after another and then from the first again, as blocks; `at` goes on.
/// Never anything twice.
fn sample(disks: &[SourceDisk], at: &mut u64, bytes: u64) -> Vec<(usize, Range<u64>)> {
    let length = |disk: &SourceDisk| disk.blocks() << disk.block_shift;
    let total: u64 = disks.iter().map(length).sum();
    let (mut left, mut sample) = (bytes.min(total), Vec::new());
    while left > 0 {
        *at %= total;
        let mut before = 0;
        for (disk, about) in disks.iter().enumerate() {
            let end = before + length(about);
            if (before..end).contains(at) && left > 0 {
                let first = (*at - before) >> about.block_shift;
                let most = left.div_ceil(1 << about.block_shift);
                let last = (first + most).min(about.blocks());
                left = left.saturating_sub((last - first) << about.block_shift);
                *at = before + (last << about.block_shift);
                sample.push((disk, first..last));
            }
            before = end;
        }
    }
    sample
}

/// Drops the frozen ones of these blocks.
fn let_frozen_pass(source: &dyn Source, blocks: &mut Vec<(usize, u64)>) -> Result<()> {
    blocks.sort_unstable();
    let mut kept = Vec::new();
    for of_disk in blocks.chunk_by(|one, next| one.0 == next.0) {
        let mut rest = of_disk.iter().copied().peekable();
        source.parts(of_disk[0].0, &mut |part| {
            let (Part::Data(frozen) | Part::Zeros(frozen)) = part;
            while let Some(block) = rest.next_if(|(_, block)| *block < frozen.end) {
                kept.extend((block.1 < frozen.start).then_some(block));
            }
            if rest.peek().is_some() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        kept.extend(rest);
    }
    *blocks = kept;
    Ok(())
}

/// What is to be said of blocks that differ.
pub(super) fn describe(disks: &[SourceDisk], differing: &[(usize, u64)]) -> Option<String> {
    let (disk, block) = differing.first()?;
    let about = &disks[*disk];
    let more = match differing.len() {
        1 => String::new(),
        count => format!(" and {} other blocks", count - 1),
    };
    Some(format!(
        "the self-audit found changes that were not tracked: the block at byte {} of disk {}{more}",
        block << about.block_shift,
        about.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn disk(size: u64, block_shift: u8) -> SourceDisk {
        let (id, name) = (DiskId([1; 16]), String::new());
        SourceDisk { id, name, size, block_shift, compare: false, whole: false, frozen_bytes: 0 }
    }

    proptest! {
        /// Samples one after another look at every block of every disk as often as at any other, but for one round.
        #[test]
        fn samples_go_round_all_disks_and_look_at_nothing_twice(
            sizes in prop::collection::vec((0u64..300_000, 12u8..17), 1..4),
            start in any::<u64>(),
            bytes in 1u64..200_000,
        ) {
            let disks: Vec<_> = sizes.iter().map(|(size, shift)| disk(*size, *shift)).collect();
            let total: u64 = disks.iter().map(|disk| disk.blocks() << disk.block_shift).sum();
            let (mut at, mut looked) = (start, vec![0u64; disks.iter().map(|disk| disk.blocks() as usize).sum()]);
            let mut seen = 0;
            while seen < 3 * total {
                let sample = sample(&disks, &mut at, bytes);
                let got: u64 = sample.iter().map(|(of, run)| (run.end - run.start) << disks[*of].block_shift).sum();
                prop_assert!(got >= bytes.min(total) && got <= bytes + (2 << 16));
                seen += got;
                let mut once = std::collections::BTreeSet::new();
                for (of, block) in sample.into_iter().flat_map(|(of, run)| run.map(move |block| (of, block))) {
                    prop_assert!(block < disks[of].blocks());
                    let place = disks[..of].iter().map(|disk| disk.blocks()).sum::<u64>() + block;
                    once.insert(place);
                    looked[place as usize] += 1;
                }
                prop_assert!(!once.is_empty());
            }
            if let (Some(least), Some(most)) = (looked.iter().min(), looked.iter().max()) {
                prop_assert!(*least >= 2 && most - least <= 3, "{least} {most}");
            }
        }
    }
}
