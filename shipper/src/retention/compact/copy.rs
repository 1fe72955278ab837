//! Copying the blocks that show into new packs, and writing the indexes anew that name them.

use super::super::collect::Progress;
use super::weigh::Shown;
use crate::vault::access::{Index, Reader};
use crate::vault::cycle::Maker;
use crate::vault::entry::IndexRef;
use crate::vault::frame::{BlockHash, FrameEncoder, blocks_per_frame};
use crate::vault::index::{FinishedIndex, IndexWriter, PackRef, Page, PageFrame, PageRun};
use crate::vault::names::ObjectName;
use crate::vault::pack::{self, PackBuilder};
use crate::{Error, Kind, Result};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use towline_tracker::id::DiskId;
use towline_tracker::mutant;

/// The most that is read in one request.
const READ: u64 = 8 << 20;
/// What lies between two frames is read too, up to this many bytes.
const GAP: u64 = 64 << 10;

/// Where a block was: pack, frame, slot.
type Old = (ObjectName, u32, u16);

/// Where a block is now.
#[derive(Clone, Copy)]
struct Place {
    /// Among the new packs.
    pack: u32,
    frame: u32,
    slot: u16,
}

/// A new pack, as indexes name it, and its frames.
struct NewPack {
    reference: PackRef,
    frames: Vec<PageFrame>,
}

/// Everything that is copied for one catalog.
pub(super) struct Copies {
    reader: Arc<Reader>,
    maker: Maker,
    pack_size: usize,
    open: Option<Open>,
    packs: Vec<NewPack>,
    places: HashMap<Old, Place>,
    /// The packs that were copied from.
    from: HashSet<ObjectName>,
    put: u64,
}

/// A pack that is being filled, with blocks of one disk.
struct Open {
    disk: DiskId,
    block_shift: u8,
    encoder: FrameEncoder,
    builder: PackBuilder,
    frames: u32,
    /// The next frame.
    blocks: Vec<u64>,
    hashes: Vec<BlockHash>,
    data: Vec<u8>,
    places: Vec<(Old, Place)>,
}

impl Copies {
    pub(super) fn new(reader: &Arc<Reader>, maker: Maker, pack_size: usize) -> Self {
        Self {
            reader: reader.clone(),
            maker,
            pack_size,
            open: None,
            packs: Vec::new(),
            places: HashMap::new(),
            from: HashSet::new(),
            put: 0,
        }
    }

    /// Nothing was copied.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Copies these blocks of these packs, which stand pack by pack. A pack that is damaged there is left alone.
    ///
    /// # Errors
    /// The store's, the progress's.
    pub(super) fn all(
        &mut self,
        (packs, shown): (Vec<PackRef>, Vec<Shown>),
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let (mut done, total) = (0, shown.len() as u64);
        for shown in shown.chunk_by(|a, b| a.pack == b.pack) {
            let pack = &packs[shown[0].pack as usize];
            match self.read(pack, shown) {
                // As far as it was copied it is the same; only what is whole is made use of.
                Err(error) if error.kind() == Kind::Damage => {
                    tracing::warn!(error = error.line(), "a pack is damaged, and is left where it is");
                    self.places.retain(|(name, ..), _| *name != pack.name);
                    if let Some(open) = &mut self.open {
                        open.places.retain(|((name, ..), _)| *name != pack.name);
                    }
                }
                read => {
                    read?;
                    self.from.insert(pack.name);
                }
            }
            done += shown.len() as u64;
            progress.copied(done, total)?;
        }
        Ok(())
    }

    fn read(&mut self, pack: &PackRef, shown: &[Shown]) -> Result<()> {
        let reader = self.reader.clone();
        let (place, opener) = (reader.pack_place(pack), reader.pack_opener(pack));
        let hasher = reader.group().hasher();
        let frames: Vec<&[Shown]> = shown.chunk_by(|a, b| a.frame.number == b.frame.number).collect();
        let end = |shown: &[Shown]| shown[0].frame.offset + u64::from(shown[0].frame.sealed);
        let mut at = 0;
        while at < frames.len() {
            let first = frames[at][0].frame.offset;
            let mut to = at + 1;
            while to < frames.len()
                && frames[to][0].frame.offset <= end(frames[to - 1]) + GAP
                && end(frames[to]) - first <= READ
            {
                to += 1;
            }
            let length = usize::try_from(end(frames[to - 1]) - first).expect("a request is small");
            let mut bytes = reader.read(&place, first, length)?;
            for shown in &frames[at..to] {
                let frame = shown[0].frame;
                let from = usize::try_from(frame.offset - first).expect("inside the request");
                let sealed = &mut bytes[from..from + frame.sealed as usize];
                let (number, blocks, shift) = (frame.number, frame.blocks as usize, shown[0].block_shift);
                let data = pack::open_frame(&opener, number.into(), sealed, blocks, shift)?;
                for shown in *shown {
                    let from = usize::from(shown.slot) << shift;
                    let data = &data[from..from + (1 << shift)];
                    if hasher.hash(data) != shown.hash {
                        let what = format_args!("block {} is not the one that the index names", shown.block);
                        return Err(Error::damage(&place.name, what));
                    }
                    self.add((pack.name, number, shown.slot), shown, data)?;
                }
            }
            at = to;
        }
        Ok(())
    }

    fn add(&mut self, old: Old, shown: &Shown, data: &[u8]) -> Result<()> {
        let of = (shown.disk, shown.block_shift);
        if self.open.as_ref().is_some_and(|open| (open.disk, open.block_shift) != of) {
            self.close()?;
        }
        let maker = &self.maker;
        let open = self.open.get_or_insert_with(|| Open::new(maker, shown));
        // Blocks of a frame ascend. What two points have at one place are two blocks of two frames.
        if open.blocks.len() == blocks_per_frame(open.block_shift)
            || open.blocks.last().is_some_and(|last| *last >= shown.block)
        {
            open.flush();
        }
        let slot = u16::try_from(open.blocks.len()).expect("a frame has few blocks");
        let pack = u32::try_from(self.packs.len()).expect("packs are counted in four bytes");
        open.places.push((old, Place { pack, frame: open.frames, slot }));
        open.blocks.push(shown.block);
        open.hashes.push(shown.hash);
        open.data.extend_from_slice(data);
        if open.builder.len() + open.data.len() >= self.pack_size || open.builder.is_full(self.pack_size) {
            self.close()?;
        }
        Ok(())
    }

    /// Puts the open pack.
    fn close(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        open.flush();
        let pack = open.builder.finish();
        let store = &self.reader.group().store;
        store.put(&pack.object, &pack.bytes)?;
        // What it is copied from goes, and no disk has it any more.
        if store.get(&pack.object, pack.bytes.len())? != pack.bytes {
            return Err(Error::new(
                Kind::Other,
                format!("{} is not what was put; nothing is moved", pack.object),
            ));
        }
        self.put += pack.bytes.len() as u64;
        let reference = PackRef::of(&pack.summary);
        let number = u32::try_from(self.packs.len()).expect("packs are counted in four bytes");
        let frames = (0..).zip(&pack.summary.frames).map(|(at, frame)| PageFrame {
            pack: number,
            number: at,
            offset: frame.offset,
            sealed: frame.sealed,
            blocks: u32::try_from(frame.blocks.len()).expect("a frame has few blocks"),
        });
        self.packs.push(NewPack { reference, frames: frames.collect() });
        self.places.extend(open.places);
        Ok(())
    }

    /// All that was put is there.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn are_there(&self) -> Result<bool> {
        let there = |pack: &NewPack| {
            let place = self.reader.pack_place(&pack.reference);
            self.reader.group().has_object(&place.object)
        };
        self.packs.iter().try_fold(true, |all, pack| Ok(all && there(pack)?))
    }

    /// Everything that was copied is durable; answers its bytes.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn finish(&mut self) -> Result<u64> {
        self.close()?;
        Ok(self.put)
    }
}

impl Open {
    fn new(maker: &Maker, shown: &Shown) -> Self {
        let Shown { disk, block_shift, .. } = *shown;
        Self {
            disk,
            block_shift,
            encoder: FrameEncoder::new(block_shift),
            builder: PackBuilder::new(maker, disk, block_shift, Vec::new()),
            frames: 0,
            blocks: Vec::new(),
            hashes: Vec::new(),
            data: Vec::new(),
            places: Vec::new(),
        }
    }

    /// Closes the frame.
    fn flush(&mut self) {
        if self.blocks.is_empty() {
            return;
        }
        self.builder.push(self.encoder.encode(&self.blocks, &self.hashes, &self.data));
        self.frames += 1;
        self.blocks.clear();
        self.hashes.clear();
        self.data.clear();
    }
}

/// An index that says the same as another one.
pub(super) struct Rewritten {
    pub(super) index: FinishedIndex,
    /// What stands for the other from now on.
    pub(super) to: IndexRef,
}

impl Copies {
    /// The index that is read where `listed` is listed, with the new places of what was copied; `None`: it names nothing of
    /// that.
    ///
    /// # Errors
    /// `Damage`, the store's.
    pub(super) fn rewrite(&self, listed: &IndexRef, maker: &Maker) -> Result<Option<Rewritten>> {
        let index = self.reader.open_index(listed)?;
        if !index.directory.packs.iter().any(|pack| self.from.contains(&pack.name)) {
            return Ok(None);
        }
        let mut writing = Writing {
            copies: self,
            index: &index,
            writer: IndexWriter::new(index.directory.head, maker),
            packs: Vec::new(),
            numbers: HashMap::new(),
            moved: false,
        };
        for number in 0..index.directory.pages.len() {
            writing.page(&*self.reader.page(&index, number)?);
        }
        let Writing { writer, packs, moved, .. } = writing;
        if !moved {
            return Ok(None);
        }
        let index = writer.finish(&packs);
        let to = index.reference;
        Ok(Some(Rewritten { index, to }))
    }
}

struct Writing<'a> {
    copies: &'a Copies,
    index: &'a Index,
    writer: IndexWriter,
    packs: Vec<PackRef>,
    /// Of a pack, its number in the new index.
    numbers: HashMap<ObjectName, u32>,
    moved: bool,
}

impl Writing<'_> {
    fn page(&mut self, page: &Page) {
        for run in &page.runs {
            match run.frame {
                None => self.writer.zeros(run.block, run.count.into()),
                Some(frame) => self.data(page, run, &page.frames[usize::from(frame)]),
            }
        }
    }

    /// A run of blocks in one frame, of which each may have been moved.
    fn data(&mut self, page: &Page, run: &PageRun, frame: &PageFrame) {
        let pack = self.index.directory.packs[frame.pack as usize];
        let slot = |at: u32| run.slot + u16::try_from(at).expect("a data run is short");
        let place = |at: u32| self.copies.places.get(&(pack.name, frame.number, slot(at))).copied();
        let mut at = 0;
        while at < run.count {
            let from = place(at);
            let mut count = 1;
            // Side by side before and after is one run.
            while at + count < run.count
                && match (from, place(at + count)) {
                    (None, None) => true,
                    (Some(a), Some(b)) => {
                        (a.pack, a.frame, u32::from(a.slot) + count) == (b.pack, b.frame, b.slot.into())
                    }
                    _ => false,
                }
            {
                count += 1;
            }
            let (of, in_it, first) = match from {
                None => (pack, *frame, slot(at)),
                Some(place) => {
                    self.moved = true;
                    let new = &self.copies.packs[place.pack as usize];
                    // Mutant: a block is in its frame where it was.
                    let first = if mutant::active("moved-slot-kept") { slot(at) } else { place.slot };
                    (new.reference, new.frames[place.frame as usize], first)
                }
            };
            let next = u32::try_from(self.packs.len()).expect("packs are counted in four bytes");
            let number = *self.numbers.entry(of.name).or_insert(next);
            if number == next {
                self.packs.push(of);
            }
            let from = (run.hash + at) as usize;
            let hashes = &page.hashes[from..from + count as usize];
            self.writer.data(run.block + u64::from(at), &PageFrame { pack: number, ..in_it }, first, hashes);
            at += count;
        }
    }
}
