//! Building an index: runs in any order, sorted, written.

use super::{FinishedIndex, HASH, IndexHead, IndexWriter, PackRef, PageFrame};
use crate::vault::cycle::Maker;
use crate::vault::layout::{directory_pack, page_run};
use crate::vault::pack::PackSummary;
use towline_tracker::mutant;

#[derive(Clone, Copy)]
struct Run {
    block: u64,
    count: u64,
    /// Pack, frame, slot; `None`: zeros.
    place: Option<(u32, u32, u16)>,
}

/// Collects what was shipped of one disk, in any order, and sorts it when it is finished. Holds some 50 bytes a block:
/// what a checkpoint covers.
#[derive(Clone)]
pub struct IndexBuilder {
    head: IndexHead,
    packs: Vec<PackSummary>,
    runs: Vec<Run>,
}

impl IndexBuilder {
    /// An empty one: also what is published when only the size changed.
    pub fn new(head: IndexHead) -> Self {
        Self { head, packs: Vec::new(), runs: Vec::new() }
    }

    /// Nothing was added.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Bytes that it has at the least when it is finished.
    pub fn least(&self) -> usize {
        let data: u64 = self.runs.iter().filter(|run| run.place.is_some()).map(|run| run.count).sum();
        let hashes = usize::try_from(data).expect("blocks of packs in memory") * HASH;
        self.runs.len() * page_run::LENGTH + hashes + self.packs.len() * directory_pack::LENGTH
    }

    /// Adds all frames of a pack.
    pub fn add_pack(&mut self, summary: PackSummary) {
        let pack = u32::try_from(self.packs.len()).expect("packs are counted in four bytes");
        for (number, frame) in summary.frames.iter().enumerate() {
            let number = u32::try_from(number).expect("frames are counted in four bytes");
            let mut slot = 0;
            for run in frame.blocks.chunk_by(|a, b| a + 1 == *b) {
                // Mutant: every run begins where the frame begins.
                let place =
                    Some((pack, number, if mutant::active("slots-of-split-frame") { 0 } else { slot }));
                self.runs.push(Run { block: run[0], count: run.len() as u64, place });
                slot += u16::try_from(run.len()).expect("a frame has few blocks");
            }
        }
        self.packs.push(summary);
    }

    /// Keeps only these packs; answers the first block that was in another.
    pub fn retain(&mut self, mut keep: impl FnMut(&PackSummary) -> bool) -> Option<u64> {
        let (kept, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.packs).into_iter().partition(|pack| keep(pack));
        self.runs.retain(|run| run.place.is_none());
        kept.into_iter().for_each(|summary| self.add_pack(summary));
        gone.iter().flat_map(|pack| &pack.frames).flat_map(|frame| &frame.blocks).min().copied()
    }

    /// Adds `count` blocks of zeros.
    pub fn add_zeros(&mut self, block: u64, count: u64) {
        if count == 0 {
            return;
        }
        if let Some(last) = self.runs.last_mut()
            && last.place.is_none()
            && last.block + last.count == block
        {
            last.count += count;
            return;
        }
        self.runs.push(Run { block, count, place: None });
    }

    /// Sorts and writes, under a random name.
    ///
    /// # Panics
    /// If a block was added twice or lies outside the disk: the caller's mistake.
    pub fn finish(mut self, maker: &Maker) -> FinishedIndex {
        self.runs.sort_unstable_by_key(|run| run.block);
        let mut writer = IndexWriter::new(self.head, maker);
        for run in &self.runs {
            let Some((pack, number, slot)) = run.place else {
                writer.zeros(run.block, run.count);
                continue;
            };
            let of = &self.packs[pack as usize].frames[number as usize];
            let frame = PageFrame {
                pack,
                number,
                offset: of.offset,
                sealed: of.sealed,
                blocks: u32::try_from(of.blocks.len()).expect("a frame has few blocks"),
            };
            let slots = usize::from(slot)..usize::from(slot) + usize::try_from(run.count).expect("few");
            writer.data(run.block, &frame, slot, &of.hashes[slots]);
        }
        let packs: Vec<_> = self.packs.iter().map(PackRef::of).collect();
        let finished = writer.finish(&packs);
        assert!(finished.bytes.len() >= self.least(), "an index holds its runs, hashes and packs");
        finished
    }
}
