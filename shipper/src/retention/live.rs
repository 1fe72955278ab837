//! Which objects the images of some entries need: every index that they list, and every pack of which a block shows.
//! A pack whose blocks are all overwritten is needed by nobody, although the index over it still names it.

use crate::vault::access::Reader;
use crate::vault::entry::{Content, DiskImage};
use crate::vault::image::Image;
use crate::vault::names::{self, Parsed};
use crate::{Kind, Result};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use towline_tracker::id::{CutId, DiskId};

/// Blocks looked at together: a gibibyte of the smallest blocks.
const WINDOW: usize = 1 << 18;

/// What is needed.
#[derive(Debug, Default)]
pub struct Live {
    /// Objects, by name.
    pub names: HashSet<String>,
    /// All that a shipment has put, by its epoch and cut: an index of it can't be read.
    pub folders: HashSet<(u64, CutId)>,
}

impl Live {
    /// Whether an object of this name is needed.
    pub fn needs(&self, name: &str) -> bool {
        self.names.contains(name)
            || matches!(names::parse(name), Some(Parsed::Data { epoch, cut, .. }) if self.folders.contains(&(epoch, cut)))
    }
}

/// What these contents need. Looks at all of them window by window, so that a page that several list is read once; `tell`
/// hears how much is done of how much. What was moved for a catalog up to `settled` is read by everybody where it is now. Where what is to be looked at is damaged, all that it may show is needed.
///
/// # Errors
/// `Damage` of a fold's directory, the store's.
pub fn live(
    reader: &Arc<Reader>,
    contents: &[Content],
    settled: u64,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<Live> {
    let mut disks: BTreeMap<DiskId, Vec<&DiskImage>> = BTreeMap::new();
    contents
        .iter()
        .flat_map(|content| &content.disks)
        .for_each(|disk| disks.entry(disk.id).or_default().push(disk));
    let mut live = Live::default();
    let (mut done, total) = (0, disks.values().map(|images| blocks(images)).sum());
    for images in disks.values() {
        let mut opened: Vec<Shown> = Vec::new();
        for disk in images {
            for index in &disk.indexes {
                let read = reader.group().known.stands_for(index);
                live.names.insert(reader.index_place(&read).object);
                // Who knows no newer catalog opens what is listed.
                if read == *index || read.epoch > settled {
                    live.names.insert(reader.index_place(index).object);
                }
            }
            match unless_damaged(Shown::open(reader, disk))? {
                Some(shown) => opened.push(shown),
                None => live.all_of(reader, disk)?,
            }
        }
        for first in (0..blocks(images)).step_by(WINDOW) {
            opened.iter_mut().try_for_each(|image| image.look(first))?;
            tell(done + first, total);
        }
        done += blocks(images);
        for image in &opened {
            let shown = image.image.packs().iter().zip(&image.shown).filter(|(_, shown)| **shown);
            live.names.extend(shown.map(|(pack, _)| reader.pack_place(pack).object));
        }
    }
    Ok(live)
}

impl Live {
    /// Everything that the indexes of a disk name, and everything beside those that can't be read.
    fn all_of(&mut self, reader: &Reader, disk: &DiskImage) -> Result<()> {
        for reference in &disk.indexes {
            // The packs that a fold shows are anywhere, and so are those that were moved.
            let is_own = reference.level == 0 && reader.group().known.stands_for(reference) == *reference;
            let index = match is_own {
                true => unless_damaged(reader.open_index(reference))?,
                false => Some(reader.open_index(reference)?),
            };
            match index {
                Some(index) => {
                    self.names
                        .extend(index.directory.packs.iter().map(|pack| reader.pack_place(pack).object));
                }
                // Its packs are in its own folder, or in the entry that lists it first.
                None => drop(self.folders.insert((reference.epoch, reference.cut))),
            }
        }
        Ok(())
    }
}

fn unless_damaged<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), Kind::Damage) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The blocks of the largest of these images.
fn blocks(images: &[&DiskImage]) -> u64 {
    images.iter().map(|disk| crate::vault::index::blocks_of(disk.size, disk.block_shift)).max().unwrap_or(0)
}

/// An image, and which of its packs show.
struct Shown {
    image: Image,
    shown: Vec<bool>,
    hidden: usize,
}

impl Shown {
    fn open(reader: &Arc<Reader>, disk: &DiskImage) -> Result<Self> {
        let image = Image::open(reader.clone(), disk)?;
        let hidden = image.packs().len();
        Ok(Self { shown: vec![false; hidden], image, hidden })
    }

    fn look(&mut self, first: u64) -> Result<()> {
        let rest = usize::try_from(self.image.blocks().saturating_sub(first)).unwrap_or(WINDOW);
        // What shows all over need not be looked at any more.
        if self.hidden == 0 || rest == 0 {
            return Ok(());
        }
        let Some(window) = unless_damaged(self.image.window(first, rest.min(WINDOW)))? else {
            self.shown.fill(true);
            self.hidden = 0;
            return Ok(());
        };
        for (_, frame, ..) in window.data() {
            let shown = &mut self.shown[frame.pack as usize];
            self.hidden -= usize::from(!std::mem::replace(shown, true));
        }
        Ok(())
    }
}
