//! Recovery points as anybody restores them: by the product's own readers, from what the store has.

use super::disk::SECTOR;
use super::sector;
use super::store::SimStore;
use std::collections::HashMap;
use std::sync::Arc;
use towline::restore::plan::Plan;
use towline::vault::access::Reader;
use towline::vault::entry::{Content, DiskImage, EntryHeader, IndexRef};
use towline::vault::image::Image;
use towline::vault::names::ObjectName;
use towline::vault::{Group, pack};
use towline::{Error, Result};
use towline_tracker::id::DiskId;

/// A point's image: for each disk the numbers of its sectors.
pub type Images = Vec<Vec<u64>>;

/// A frame that was opened: the hash and the sectors of each of its blocks; no number: they are of no guest.
struct Frame {
    blocks: Vec<([u8; 32], Vec<Option<u64>>)>,
}

/// Restores, and remembers what it has opened and checked: while an object is the same, it is not read twice.
#[derive(Default)]
pub struct Restorer {
    frames: HashMap<(String, u64, u64), Arc<Frame>>,
    opened: Option<Opened>,
}

/// The indexes of a group that were opened.
struct Opened {
    reader: Arc<Reader>,
    /// What was read, by its name.
    indexes: HashMap<ObjectName, IndexRef>,
    /// The objects that it stood in, and their versions.
    sources: HashMap<String, u64>,
    /// The images of the point that was restored last.
    images: HashMap<DiskId, Image>,
    /// The catalog by which it was opened.
    catalog: u64,
}

impl Opened {
    /// Nothing opened yet.
    fn new(group: &Group) -> Self {
        let reader = Arc::new(Reader::new(group.clone(), 1 << 22));
        let catalog = group.known.number();
        Self { reader, indexes: HashMap::new(), sources: HashMap::new(), images: HashMap::new(), catalog }
    }

    /// Whether what was opened is still what the store has, and what this content means.
    fn holds(&self, store: &SimStore, group: &Group, content: &Content) -> bool {
        let same = |(object, version): (&String, &u64)| store.version(object) == Some(*version);
        let meant = |index: &IndexRef| self.indexes.get(&index.name).is_none_or(|known| known == index);
        self.reader.group().id() == group.id()
            && self.catalog == group.known.number()
            && self.sources.iter().all(same)
            && content.disks.iter().flat_map(|disk| &disk.indexes).all(meant)
    }
}

/// What a point was restored from: objects and their versions.
pub type Sources = Vec<(String, u64)>;

impl Restorer {
    /// The group, read without a fault.
    ///
    /// # Errors
    /// There is no vault.
    pub fn group(store: &SimStore, name: &str) -> Result<Group> {
        Ok(super::target::open(Arc::new(store.objects.clone()))?.group(name))
    }

    /// The images of an entry.
    ///
    /// # Errors
    /// `Damage`.
    pub fn restore(
        &mut self,
        store: &SimStore,
        group: &Group,
        header: &EntryHeader,
        content: &Content,
    ) -> Result<(Images, Sources)> {
        let entry = group.name_of(header.seq);
        let mut sources = vec![(entry.clone(), store.version(&entry).unwrap_or(0))];
        let opened = self.opened.take().filter(|opened| opened.holds(store, group, content));
        let mut opened = opened.unwrap_or_else(|| Opened::new(group));
        let images = content.disks.iter().map(|disk| self.disk(store, &mut opened, disk, &mut sources));
        let images = images.collect::<Result<Images>>()?;
        self.opened = Some(opened);
        sources.sort_unstable();
        sources.dedup();
        Ok((images, sources))
    }

    fn disk(
        &mut self,
        store: &SimStore,
        opened: &mut Opened,
        disk: &DiskImage,
        sources: &mut Sources,
    ) -> Result<Vec<u64>> {
        let reader = opened.reader.clone();
        let image = match opened.images.remove(&disk.id) {
            Some(image) => image.then(disk)?,
            None => Image::open(reader.clone(), disk)?,
        };
        for index in &disk.indexes {
            let object = reader.index_place(&reader.group().known.stands_for(index)).object;
            let version = store.version(&object).unwrap_or(0);
            opened.indexes.insert(index.name, *index);
            opened.sources.insert(object.clone(), version);
            sources.push((object, version));
        }
        let image = &*opened.images.entry(disk.id).or_insert(image);
        let shift = image.block_shift();
        let per = (1usize << shift) / SECTOR as usize;
        let mut sectors = vec![0; (image.size() / SECTOR) as usize];
        for window in image.windows(1 << 12) {
            let window = window?;
            for fetch in Plan::new(&window) {
                let pack = image.pack(fetch.pack);
                let place = reader.pack_place(pack);
                let version = store.version(&place.object).unwrap_or(0);
                sources.push((place.object.clone(), version));
                for needed in &fetch.frames {
                    let key = (place.name.clone(), needed.frame.offset, version);
                    let frame = match self.frames.get(&key) {
                        Some(frame) => frame.clone(),
                        None => {
                            let (frame, opener) = (&needed.frame, reader.pack_opener(pack));
                            let mut sealed = reader.read(&place, frame.offset, frame.sealed as usize)?;
                            let blocks = frame.blocks as usize;
                            let number = frame.number.into();
                            let data = pack::open_frame(&opener, number, &mut sealed, blocks, shift)?;
                            let hasher = reader.group().hasher();
                            let block = |data: &[u8]| {
                                let sectors = data.chunks(SECTOR as usize).map(sector::read).collect();
                                (hasher.hash(data), sectors)
                            };
                            let blocks = data.chunks(1 << shift).map(block).collect();
                            self.frames.entry(key).or_insert(Arc::new(Frame { blocks })).clone()
                        }
                    };
                    for (slot, block, hash) in &needed.blocks {
                        let (found, values) = &frame.blocks[usize::from(*slot)];
                        if found != hash {
                            return Err(Error::damage(
                                &place.name,
                                "a block is not the one that the index names",
                            ));
                        }
                        let first = *block as usize * per;
                        for (sector, value) in sectors[first..].iter_mut().zip(values) {
                            *sector = value.unwrap_or(u64::MAX);
                        }
                    }
                }
            }
        }
        Ok(sectors)
    }
}
