//! The image over which a cycle's indexes will be laid, as the comparison sees it (V7).

use crate::source::SourceDisk;
use crate::vault::Group;
use crate::vault::access::Reader;
use crate::vault::cycle::DiskShape;
use crate::vault::entry::Content;
use crate::vault::frame::BlockHash;
use crate::vault::image::{Found, Image};
use crate::vault::index::PackRef;
use crate::vault::names::{self, ObjectName, Parsed};
use crate::{Kind, Result, store};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use towline_tracker::mutant;

/// A block of the image below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BelowBlock {
    /// It reads as zeros.
    Zeros,
    /// Its data have this hash, and the pack that holds them is present with the right length.
    Data(BlockHash),
    /// It can't be told, or its pack is missing: ship the block.
    Unknown,
}

/// Knows the blocks of the image below. Asked by several threads at once; its memory is bounded by itself.
pub trait Below: Send + Sync {
    /// The blocks of `run` of the disk at this place in the group's order, appended to `blocks` in order.
    ///
    /// # Errors
    /// The store's. Damage is no error here but [`BelowBlock::Unknown`].
    fn look(&self, disk: usize, run: Range<u64>, blocks: &mut Vec<BelowBlock>) -> Result<()>;
}

/// Nothing is known, so everything is shipped.
#[derive(Clone, Copy, Debug)]
pub struct NothingBelow;

impl Below for NothingBelow {
    fn look(&self, _disk: usize, run: Range<u64>, blocks: &mut Vec<BelowBlock>) -> Result<()> {
        blocks.extend(run.map(|_| BelowBlock::Unknown));
        Ok(())
    }
}

/// The images of a content, looked at by their index pages.
pub struct ImageBelow {
    /// For each disk, if it has an image that can be read.
    images: Vec<Option<Looked>>,
    met_damage: AtomicBool,
}

/// An image, and which of its packs are there.
struct Looked {
    image: Image,
    /// By the pack's number in the image: a listing showed it with the right length.
    present: Vec<bool>,
}

/// The object that holds a pack: itself or an entry.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Pack(ObjectName),
    Entry(u64),
}

impl Holder {
    fn of(pack: &PackRef) -> Self {
        if pack.offset == 0 { Self::Pack(pack.name) } else { Self::Entry(pack.entry) }
    }
}

/// Lists the group once, before anything is skipped (V7), and keeps what is asked for: a few bytes for each pack of the
/// images, however many others the group has.
fn mark(group: &Group, images: &mut [Option<Looked>]) -> Result<()> {
    let sorted = |looked: &Looked| {
        let packs = looked.image.packs();
        let mut order: Vec<u32> = (0u32..).take(packs.len()).collect();
        order.sort_unstable_by_key(|number| Holder::of(&packs[*number as usize]));
        order
    };
    let orders: Vec<_> = images.iter().flatten().map(sorted).collect();
    store::each(&*group.store, &names::group(group.id()), "", |object| {
        let holder = match names::parse(&object.name) {
            Some(Parsed::Data { name, index: false, .. } | Parsed::Moved { name, index: false, .. }) => {
                Holder::Pack(name)
            }
            Some(Parsed::Entry { seq, .. }) => Holder::Entry(seq),
            _ => return Ok(()),
        };
        for (looked, order) in images.iter_mut().flatten().zip(&orders) {
            let packs = looked.image.packs();
            let first = order.partition_point(|number| Holder::of(&packs[*number as usize]) < holder);
            for number in order[first..].iter().map(|number| *number as usize) {
                let pack = &packs[number];
                if Holder::of(pack) != holder {
                    break;
                }
                looked.present[number] = match pack.offset {
                    0 => pack.length == object.length,
                    offset => offset.saturating_add(pack.length) <= object.length,
                };
            }
        }
        Ok::<_, crate::Error>(())
    })
}

impl ImageBelow {
    /// Opens the images in `base` of those disks that are compared; pages are cached up to `cache` bytes. One that is
    /// damaged is left out: see [`Self::has`].
    ///
    /// # Errors
    /// The store's.
    pub fn open(
        group: &Group,
        base: &Content,
        disks: &[SourceDisk],
        compare: &[bool],
        cache: u64,
    ) -> Result<Self> {
        let reader = Arc::new(Reader::new(group.clone(), usize::try_from(cache).unwrap_or(usize::MAX)));
        let mut images = Vec::with_capacity(disks.len());
        for (disk, compare) in disks.iter().zip(compare) {
            let image = shape(disk).base_image(Some(base)).filter(|_| *compare);
            images.push(match image.map(|image| Image::open(reader.clone(), image)) {
                None => None,
                Some(Ok(image)) => Some(Looked { present: vec![false; image.packs().len()], image }),
                Some(Err(error)) if error.kind() == Kind::Damage => {
                    tracing::warn!(
                        disk = disk.name,
                        error = error.line(),
                        "its image in the vault can't be used any more"
                    );
                    None
                }
                Some(Err(error)) => return Err(error),
            });
        }
        mark(group, &mut images)?;
        // What a verification found damaged is nothing to be equal to. Indexes show it by themselves.
        let damaged = group.known.damaged();
        for looked in images.iter_mut().flatten() {
            for (pack, present) in looked.image.packs().iter().zip(&mut looked.present) {
                *present &= !damaged.contains(&pack.name);
            }
        }
        Ok(Self { images, met_damage: AtomicBool::new(false) })
    }

    /// Whether the disk at this place in the group's order has an image that could be opened.
    pub fn has(&self, disk: usize) -> bool {
        self.images[disk].is_some()
    }

    /// Whether a part of an image could not be looked at.
    pub fn met_damage(&self) -> bool {
        self.met_damage.load(Ordering::Relaxed)
    }
}

impl Below for ImageBelow {
    fn look(&self, disk: usize, run: Range<u64>, blocks: &mut Vec<BelowBlock>) -> Result<()> {
        let Some(Looked { image, present }) = &self.images[disk] else {
            return NothingBelow.look(disk, run, blocks);
        };
        let count = usize::try_from(run.end - run.start).expect("a run is a part of a batch");
        let window = match image.window(run.start, count) {
            Ok(window) => window,
            Err(error) if error.kind() == Kind::Damage => {
                if !self.met_damage.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        error = error.line(),
                        "a part of the image can't be compared with; shipping it"
                    );
                }
                return NothingBelow.look(disk, run, blocks);
            }
            Err(error) => return Err(error),
        };
        blocks.extend(run.map(|block| match window.get(block) {
            Found::Zero => BelowBlock::Zeros,
            // Mutant: what an index names is there.
            Found::Data { frame, hash, .. }
                if present[frame.pack as usize] || mutant::active("missing-pack-is-unchanged") =>
            {
                BelowBlock::Data(*hash)
            }
            Found::Data { .. } => BelowBlock::Unknown,
        }));
        Ok(())
    }
}

/// A disk as the vault sees it.
pub fn shape(disk: &SourceDisk) -> DiskShape {
    DiskShape { id: disk.id, name: disk.name.clone(), size: disk.size, block_shift: disk.block_shift }
}
