//! What shows of each pack in the images that exist, and which packs are worth being moved.

use super::super::collect::{Progress, State};
use crate::vault::access::Reader;
use crate::vault::entry::{Content, DiskImage};
use crate::vault::frame::BlockHash;
use crate::vault::image::{FrameRef, Image, Window};
use crate::vault::index::{PackRef, blocks_of};
use crate::vault::names::{self, ObjectName};
use crate::{Error, Kind, Result, store};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use towline_tracker::id::DiskId;

/// Blocks looked at together: a gibibyte of the smallest blocks.
const WINDOW: usize = 1 << 18;

/// A pack of which something shows.
pub(super) struct Weight {
    pack: PackRef,
    /// Of each frame, by its number: which of its at most sixteen blocks show.
    masks: Vec<u16>,
    /// Bytes of it that show, as far as a frame's bytes are its blocks'.
    live: u64,
}

impl Weight {
    /// A block shows; whether that is new.
    fn show(&mut self, frame: &FrameRef, slot: u16) -> bool {
        let at = frame.number as usize;
        if self.masks.len() <= at {
            self.masks.resize(at + 1, 0);
        }
        let (mask, bit) = (&mut self.masks[at], 1 << slot);
        let is_new = *mask & bit == 0;
        *mask |= bit;
        if is_new {
            self.live += u64::from(frame.sealed) / u64::from(frame.blocks.max(1));
        }
        is_new
    }
}

/// Packs by name.
pub(super) type Weights = HashMap<ObjectName, Weight>;

/// What shows of each pack.
///
/// # Errors
/// `Damage`, the store's, the progress's.
pub(super) fn weigh(
    reader: &Arc<Reader>,
    contents: &[Content],
    progress: &mut dyn Progress,
) -> Result<Weights> {
    let mut weights = Weights::new();
    walk(reader, contents, &mut |_, image, window, (done, total)| {
        for (_, frame, slot, _) in window.data() {
            let pack = image.pack(frame.pack);
            let new = || Weight { pack: *pack, masks: Vec::new(), live: 0 };
            weights.entry(pack.name).or_insert_with(new).show(frame, slot);
        }
        progress.looked(done, total)
    })?;
    Ok(weights)
}

/// What is to be moved.
#[derive(Default)]
pub(super) struct Victims {
    /// The packs, each object's together; of an entry all that ride in it.
    pub(super) packs: Vec<PackRef>,
    /// Objects, and their bytes.
    pub(super) emptied: (u64, u64),
    /// Bytes of these that show.
    pub(super) live: u64,
}

/// Objects of which less than half shows, those with the least first, as many as the budget lets copy. So where none is left
/// more than half of what the group has in frames is live. Of a pack only its frames count, as its footer tells them: of one that
/// was just made all show, so it is no victim, however small they are beside the rest of it.
///
/// # Errors
/// The store's.
pub(super) fn victims(reader: &Reader, state: &State, weights: &Weights, budget: u64) -> Result<Victims> {
    let group = reader.group();
    let mut objects: HashMap<String, (u64, Vec<PackRef>)> = HashMap::new();
    // What is known to be damaged is not copied.
    let damaged = group.known.damaged();
    for weight in weights.values().filter(|weight| !damaged.contains(&weight.pack.name)) {
        let object = objects.entry(reader.pack_place(&weight.pack).object).or_default();
        object.0 += weight.live;
        object.1.push(weight.pack);
    }
    // An entry that exists stays, whatever rides in it.
    let stays: HashSet<String> = state.entries().map(|entry| group.name_of(entry.header.seq)).collect();
    let mut found = Vec::new();
    store::each(&*group.store, &names::group(group.id()), "", |object| {
        let free = names::parse(&object.name).is_some_and(|name| state.may_go(&name));
        if free
            && !stays.contains(&object.name)
            && let Some((live, packs)) = objects.remove(&object.name)
            && 2 * live < object.length
        {
            found.push((live, object.length, packs));
        }
        Ok::<_, Error>(())
    })?;
    found.sort_by_key(|(live, length, packs)| (live * 1000 / length.max(&1), packs[0].name));
    let mut victims = Victims::default();
    for (live, length, mut packs) in found {
        let is_worn = match &packs[..] {
            [pack] if pack.offset == 0 => reader
                .frames(pack)
                .map(|frames| 2 * live < frames.iter().map(|frame| u64::from(frame.sealed)).sum()),
            // Of an entry nothing is to stay.
            _ => Ok(true),
        };
        match is_worn {
            Ok(true) => {}
            Err(error) if error.kind() != Kind::Damage => return Err(error),
            _ => continue,
        }
        if victims.live + live > budget && victims.emptied.0 > 0 {
            break;
        }
        victims.live += live;
        victims.emptied = (victims.emptied.0 + 1, victims.emptied.1 + length);
        packs.sort_by_key(|pack| pack.offset);
        victims.packs.append(&mut packs);
    }
    Ok(victims)
}

/// A block that is to be moved.
#[derive(Clone, Copy)]
pub(super) struct Shown {
    /// Whose it is, and where.
    pub(super) disk: DiskId,
    pub(super) block: u64,
    pub(super) block_shift: u8,
    /// Which of the packs it lies in, by number.
    pub(super) pack: u32,
    pub(super) frame: FrameRef,
    pub(super) slot: u16,
    pub(super) hash: BlockHash,
}

/// Every block of these packs that shows, once each: pack by pack, in the packs' order of blocks.
///
/// # Errors
/// As [`weigh`].
pub(super) fn shown(
    reader: &Arc<Reader>,
    contents: &[Content],
    packs: Vec<PackRef>,
) -> Result<(Vec<PackRef>, Vec<Shown>)> {
    let numbers: HashMap<ObjectName, u32> = packs.iter().map(|pack| pack.name).zip(0..).collect();
    let new = |pack: &PackRef| Weight { pack: *pack, masks: Vec::new(), live: 0 };
    let mut seen: Vec<Weight> = packs.iter().map(new).collect();
    let mut found = Vec::new();
    walk(reader, contents, &mut |disk, image, window, _| {
        for (block, frame, slot, hash) in window.data() {
            let Some(pack) = numbers.get(&image.pack(frame.pack).name).copied() else { continue };
            if seen[pack as usize].show(frame, slot) {
                let block_shift = image.block_shift();
                found.push(Shown {
                    disk: disk.id,
                    block,
                    block_shift,
                    pack,
                    frame: *frame,
                    slot,
                    hash: *hash,
                });
            }
        }
        Ok(())
    })?;
    // Packs in the order of their first blocks, so that what lay side by side does so again.
    let mut first: Vec<(DiskId, u64)> = vec![(DiskId([0xff; 16]), u64::MAX); packs.len()];
    for shown in &found {
        let first = &mut first[shown.pack as usize];
        *first = (*first).min((shown.disk, shown.block));
    }
    found.sort_by_key(|shown| (first[shown.pack as usize], shown.pack, shown.frame.number, shown.slot));
    Ok((packs, found))
}

type See<'a> = dyn FnMut(&DiskImage, &Image, &Window, (u64, u64)) -> Result<()> + 'a;

/// Looks at all images of these contents window by window, so that a page that several list is read once; `see` hears also how
/// many blocks are done, of how many.
fn walk(reader: &Arc<Reader>, contents: &[Content], see: &mut See<'_>) -> Result<()> {
    let mut disks: BTreeMap<DiskId, Vec<&DiskImage>> = BTreeMap::new();
    let images = contents.iter().flat_map(|content| &content.disks);
    images.for_each(|disk| disks.entry(disk.id).or_default().push(disk));
    let blocks = |images: &[&DiskImage]| {
        images.iter().map(|disk| blocks_of(disk.size, disk.block_shift)).max().unwrap_or(0)
    };
    let (mut done, total) = (0, disks.values().map(|images| blocks(images)).sum());
    for images in disks.values() {
        let opened =
            images.iter().map(|disk| Image::open(reader.clone(), disk)).collect::<Result<Vec<_>>>()?;
        for first in (0..blocks(images)).step_by(WINDOW) {
            for (disk, image) in images.iter().zip(&opened) {
                let rest = usize::try_from(image.blocks().saturating_sub(first)).unwrap_or(WINDOW);
                if rest > 0 {
                    see(disk, image, &image.window(first, rest.min(WINDOW))?, (done + first, total))?;
                }
            }
        }
        done += blocks(images);
    }
    Ok(())
}
