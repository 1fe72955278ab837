//! A fold while it is made: in steps, each a few requests to the store, so that whoever makes it can do something else in
//! between. What a crash leaves of it are orphans.

use super::merge::{Merge, Run};
use super::tiers::Due;
use crate::Result;
use crate::store::Store;
use crate::vault::access::Reader;
use crate::vault::cycle::Maker;
use crate::vault::entry::{DiskImage, IndexRef};
use crate::vault::image::Image;
use crate::vault::index::{FinishedIndex, IndexHead, IndexWriter, PackRef, PageFrame};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use towline_tracker::id::DiskId;
use towline_tracker::mutant;

/// A fold that is being made.
pub(super) struct Fold {
    pub(super) disk: DiskId,
    /// What it will stand for.
    pub(super) of: Vec<IndexRef>,
    /// It is the beginning of its list: nothing is below.
    pub(super) bottom: bool,
    /// It goes to the end of its list as it was.
    pub(super) whole: bool,
    level: u8,
    store: Arc<dyn Store>,
    stage: Stage,
    parts: Parts,
}

enum Stage {
    /// Of the indexes some are open.
    Opening(Image),
    Merging(Merge, IndexHead),
}

impl Fold {
    /// Nothing is read yet. A part is closed when it has reached `part_bytes`.
    pub(super) fn new(
        reader: Arc<Reader>,
        epoch: u64,
        disk: &DiskImage,
        due: Due,
        part_bytes: usize,
    ) -> Self {
        let of = disk.indexes[due.range.clone()].to_vec();
        let cut = of.last().expect("at least one is folded").cut;
        let maker = Maker { seal: reader.group().seal.clone(), epoch, cut };
        Self {
            disk: disk.id,
            of,
            bottom: due.range.start == 0,
            whole: due.range.end == disk.indexes.len(),
            level: due.level,
            store: reader.group().store.clone(),
            stage: Stage::Opening(Image::empty(reader, disk.block_shift)),
            parts: Parts { maker, part_bytes, open: None, made: Vec::new(), unput: VecDeque::new() },
        }
    }

    /// Goes on a little; answers the parts when all of them are durable. What failed can be tried again.
    ///
    /// # Errors
    /// `Damage`, the store's.
    pub(super) fn step(&mut self) -> Result<Option<Vec<IndexRef>>> {
        if let Some(part) = self.parts.unput.front() {
            let put = self.store.put(&part.object, &part.bytes);
            // Mutant: whatever was to be put is there.
            if !mutant::active("fold-listed-before-put") {
                put?;
            }
            self.parts.unput.pop_front();
            return Ok(None);
        }
        match &mut self.stage {
            Stage::Opening(image) => {
                let opened = image.layers().len();
                image.lay(self.disk, &self.of[opened])?;
                if opened + 1 == self.of.len() {
                    let nothing = Image::empty(image.reader().clone(), image.block_shift());
                    let merge = Merge::new(std::mem::replace(image, nothing), self.bottom);
                    let head = merge.head(self.level);
                    self.stage = Stage::Merging(merge, head);
                }
            }
            Stage::Merging(merge, head) if !merge.is_over() => {
                merge.step(&mut |run| self.parts.add(*head, run))?;
            }
            Stage::Merging(_, head) => {
                // Also one that says nothing has the disk's size to tell.
                if self.parts.open.is_none() && !self.parts.made.is_empty() {
                    return Ok(Some(std::mem::take(&mut self.parts.made)));
                }
                self.parts.close(*head);
            }
        }
        Ok(None)
    }
}

/// The indexes that a fold consists of: one, or for a large disk several, of one range of blocks each.
struct Parts {
    maker: Maker,
    part_bytes: usize,
    open: Option<Part>,
    /// Those that are whole.
    made: Vec<IndexRef>,
    /// Of these, those that are not durable yet.
    unput: VecDeque<FinishedIndex>,
}

/// A part that is being written, and the packs of which something shows in it.
struct Part {
    writer: IndexWriter,
    packs: Vec<PackRef>,
    /// Of the image's packs, their numbers here.
    numbers: HashMap<u32, u32>,
}

impl Part {
    fn new(head: IndexHead, maker: &Maker) -> Self {
        Self { writer: IndexWriter::new(head, maker), packs: Vec::new(), numbers: HashMap::new() }
    }
}

impl Parts {
    fn add(&mut self, head: IndexHead, run: Run<'_>) {
        let part = self.open.get_or_insert_with(|| Part::new(head, &self.maker));
        match run {
            Run::Zeros(blocks) => part.writer.zeros(blocks.start, blocks.end - blocks.start),
            Run::Data { block, pack, frame, slot, hashes } => {
                let number = *part.numbers.entry(frame.pack).or_insert_with(|| {
                    part.packs.push(*pack);
                    u32::try_from(part.packs.len() - 1).expect("packs are counted in four bytes")
                });
                part.writer.data(block, &PageFrame { pack: number, ..frame }, slot, hashes);
            }
        }
        if part.writer.written() >= self.part_bytes {
            self.close(head);
        }
    }

    fn close(&mut self, head: IndexHead) {
        let part = self.open.take().unwrap_or_else(|| Part::new(head, &self.maker));
        let index = part.writer.finish(&part.packs);
        self.made.push(index.reference);
        self.unput.push_back(index);
    }
}
