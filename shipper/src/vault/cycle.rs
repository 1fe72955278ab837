//! One cycle's objects, without I/O: frames in, packs and indexes out, and the lists for the entry.
//!
//! A cycle that stays within [`ATTACHED_MAX`] rides inside its entry: one request (V1). Of a larger one what fits does: its
//! indexes first, then its small packs.

use super::entry::{ATTACHED, Content, DiskImage};
use super::envelope::Seal;
use super::frame::EncodedFrame;
use super::index::{IndexBuilder, IndexHead, blocks_of};
use super::limits::{ATTACHED_MAX, PACK_SIZE_MAX, PACK_SIZE_MIN};
use super::names;
use super::pack::{FinishedPack, PackBuilder, PackSummary};
use towline_tracker::id::{CutId, DiskId};
use towline_tracker::mutant;

/// A disk at the cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskShape {
    /// The disk.
    pub id: DiskId,
    /// Its name in the group.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// log2 of its block size.
    pub block_shift: u8,
}

impl DiskShape {
    /// The image in `base` over which an index of this disk can be laid: that of the same disk with the same block
    /// size. Without one everything that is not zero must be shipped.
    pub fn base_image<'a>(&self, base: Option<&'a Content>) -> Option<&'a DiskImage> {
        base?.disk(self.id).filter(|image| image.block_shift == self.block_shift)
    }
}

/// An object to put: its full name and bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The full name.
    pub name: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What ends a checkpoint or a cycle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// To be durable before the entry is put.
    pub objects: Vec<Object>,
    /// For [`super::entry::Draft::attached`].
    pub attached: Vec<u8>,
    /// For [`Content::disks`].
    pub disks: Vec<DiskImage>,
}

struct Disk {
    image: DiskImage,
    /// Blocks of the image below; beyond them it reads as zeros.
    below: u64,
    /// The size differs from that of the image below: an index must say so, also an empty one, because it clips.
    resized: bool,
    pack: Option<PackBuilder>,
    index: IndexBuilder,
}

fn head(image: &DiskImage) -> IndexHead {
    IndexHead { disk: image.id, size: image.size, block_shift: image.block_shift, level: 0 }
}

/// Who makes objects, and for what.
#[derive(Clone, Debug)]
pub struct Maker {
    /// How they are sealed, and where their names come from.
    pub seal: Seal,
    /// Put by the writer of this epoch.
    pub epoch: u64,
    /// For this cut.
    pub cut: CutId,
}

/// When a pack is closed, and what rides inside an entry.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// A pack is closed when it reaches this many bytes.
    pub pack: usize,
    /// A cycle of up to this many rides inside its entry: at most [`ATTACHED_MAX`].
    pub attached: usize,
}

/// Builds the objects of one cut.
pub struct Assembler {
    maker: Maker,
    pack_size: usize,
    attached_max: usize,
    disks: Vec<Disk>,
    /// Buffers of packs that have been put.
    spare: Vec<Vec<u8>>,
}

/// Buffers that are kept for the next packs: as many as may be open at once.
const SPARE_MAX: usize = 2;

impl Assembler {
    /// For a cut of `disks` (complete, in the group's order), laid over the content `base`.
    pub fn new(maker: Maker, sizes: Sizes, base: Option<&Content>, disks: &[DiskShape]) -> Self {
        let disks = disks
            .iter()
            .map(|shape| {
                let below = shape.base_image(base);
                let image = DiskImage {
                    id: shape.id,
                    name: shape.name.clone(),
                    size: shape.size,
                    block_shift: shape.block_shift,
                    indexes: below.map_or_else(Vec::new, |below| below.indexes.clone()),
                };
                Disk {
                    below: below.map_or(0, |below| blocks_of(below.size, below.block_shift)),
                    resized: below.is_some_and(|below| below.size != shape.size),
                    pack: None,
                    index: IndexBuilder::new(head(&image)),
                    image,
                }
            })
            .collect();
        let pack_size = sizes.pack.clamp(PACK_SIZE_MIN, PACK_SIZE_MAX);
        let attached_max = sizes.attached.min(ATTACHED_MAX);
        Self { maker, pack_size, attached_max, disks, spare: Vec::new() }
    }

    /// Takes back the buffer of an object that has been put.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        // An index is smaller; what a pack of odd data has grown to is not kept.
        let fits = self.pack_size..=2 * self.pack_size;
        if self.spare.len() < SPARE_MAX && fits.contains(&buffer.capacity()) {
            self.spare.push(buffer);
        }
    }

    /// Adds a frame of the disk at this place in the order; answers a pack that is full and can be put.
    pub fn frame(&mut self, disk: usize, frame: EncodedFrame) -> Option<Object> {
        let state = &mut self.disks[disk];
        let (id, shift) = (state.image.id, state.image.block_shift);
        let pack = state.pack.get_or_insert_with(|| {
            // Room for the last frame and the footer too: what is not touched costs nothing.
            let room = || Vec::with_capacity(self.pack_size + self.pack_size / 16);
            let buffer = self.spare.pop().unwrap_or_else(room);
            PackBuilder::new(&self.maker, id, shift, buffer)
        });
        pack.push(frame);
        if pack.is_full(self.pack_size) {
            return self.close(disk);
        }
        // Many disks must not hold many open packs: together at most two.
        let open = |disk: &Disk| disk.pack.as_ref().map_or(0, PackBuilder::len);
        if self.disks.iter().map(open).sum::<usize>() < 2 * self.pack_size {
            return None;
        }
        let largest = (0..self.disks.len()).max_by_key(|disk| open(&self.disks[*disk]))?;
        self.close(largest)
    }

    /// Adds `count` blocks of zeros. Where no image is below, nothing needs to be said: it reads as zeros.
    pub fn zeros(&mut self, disk: usize, block: u64, count: u64) {
        let state = &mut self.disks[disk];
        // Mutant: what is not there reads as zeros.
        if block < state.below && !mutant::active("zeros-not-said") {
            state.index.add_zeros(block, count.min(state.below - block));
        }
    }

    /// Closes all that is open, so that an entry can name all that was added: for a checkpoint.
    pub fn checkpoint(&mut self) -> Flushed {
        let mut objects = Vec::new();
        for disk in 0..self.disks.len() {
            objects.extend(self.close(disk));
            let state = &mut self.disks[disk];
            if state.index.is_empty() && !state.resized {
                continue;
            }
            let index = std::mem::replace(&mut state.index, IndexBuilder::new(head(&state.image)));
            let index = index.finish(&self.maker);
            state.resized = false;
            state.image.indexes.push(index.reference);
            objects.push(Object { name: index.object, bytes: index.bytes });
        }
        Flushed { objects, attached: Vec::new(), disks: self.images() }
    }

    /// Closes all that is open: for the entry that ends the cycle. As much as fits rides in it, for each object is a request.
    pub fn finish(mut self) -> Flushed {
        let mut packs: Vec<Option<FinishedPack>> =
            self.disks.iter_mut().map(|disk| disk.pack.take().map(PackBuilder::finish)).collect();
        let mut objects = Vec::new();
        loop {
            if let Some(flushed) = self.attach(&packs) {
                return Flushed { objects, ..flushed };
            }
            // Without the largest there may be room for all others, and at last for the indexes alone.
            let length = |disk: &usize| packs[*disk].as_ref().map(|pack| pack.bytes.len());
            let Some(largest) = (0..packs.len()).max_by_key(length) else { break };
            let Some(pack) = packs[largest].take() else { break };
            self.disks[largest].index.add_pack(pack.summary);
            objects.push(Object { name: pack.object, bytes: pack.bytes });
        }
        let mut flushed = self.checkpoint();
        objects.append(&mut flushed.objects);
        Flushed { objects, ..flushed }
    }

    /// For a cycle that ends early: only what is in packs that are durable, by their full names, in indexes that ride in
    /// the entry, and for each disk the first block that is not in them. `None` if that does not fit.
    pub fn salvage(mut self, durable: impl Fn(&str) -> bool) -> Option<(Flushed, Vec<Option<u64>>)> {
        let mut missing = Vec::new();
        for disk in &mut self.disks {
            let open = disk.pack.take().and_then(|pack| pack.first());
            let put = |pack: &PackSummary| {
                durable(&names::pack(self.maker.seal.group, pack.epoch, pack.cut, pack.name))
            };
            missing.push(disk.index.retain(put).into_iter().chain(open).min());
        }
        let packs = vec![None; self.disks.len()];
        Some((self.attach(&packs)?, missing))
    }

    /// The end of a cycle with these packs and their indexes inside the entry, if they fit.
    fn attach(&self, packs: &[Option<FinishedPack>]) -> Option<Flushed> {
        // What is far too large is not copied only to see that.
        let packed = packs.iter().flatten().map(|pack| pack.bytes.len());
        if self.disks.iter().map(|disk| disk.index.least()).chain(packed).sum::<usize>() > self.attached_max {
            return None;
        }
        let mut attached = Vec::new();
        let mut append = |bytes: &[u8]| {
            let offset = (ATTACHED + attached.len()) as u64;
            attached.extend_from_slice(bytes);
            (attached.len() <= self.attached_max).then_some(offset)
        };
        let mut disks = self.images();
        for ((disk, pack), image) in self.disks.iter().zip(packs).zip(&mut disks) {
            let mut index = disk.index.clone();
            if let Some(pack) = pack {
                let mut summary = pack.summary.clone();
                summary.offset = append(&pack.bytes)?;
                index.add_pack(summary);
            }
            if index.is_empty() && !disk.resized {
                continue;
            }
            let mut index = index.finish(&self.maker);
            index.reference.offset = append(&index.bytes)?;
            image.indexes.push(index.reference);
        }
        Some(Flushed { objects: Vec::new(), attached, disks })
    }

    fn close(&mut self, disk: usize) -> Option<Object> {
        let state = &mut self.disks[disk];
        let pack = state.pack.take()?.finish();
        state.index.add_pack(pack.summary);
        Some(Object { name: pack.object, bytes: pack.bytes })
    }

    fn images(&self) -> Vec<DiskImage> {
        self.disks.iter().map(|disk| disk.image.clone()).collect()
    }
}
