//! Reading packs and indexes of a group, whether they are objects of their own or ride inside an entry, with a cache
//! of opened index pages that is bounded in bytes.

use super::Group;
use super::entry::IndexRef;
use super::envelope::{HEADER, ObjectKind, Opener};
use super::index::{self, Directory, PackRef, Page};
use super::limits::DIRECTORY_MAX;
use super::names::{self, ObjectName};
use super::pack::{self, FooterFrame, TRAILER};
use crate::{Error, Kind, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Indexes of up to this many bytes are read in one request, with all their pages.
const SMALL: u64 = 256 << 10;
/// How much of a larger index's end is read at first, in the hope that the directory is in it.
const TAIL: u64 = 64 << 10;
/// Memory for opened pages, unless asked otherwise.
pub const CACHE: usize = 32 << 20;

/// Pages of different numbers, by this, are fetched at the same time.
const LANES: usize = 32;

/// Where an object's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The full name that it is sealed under.
    pub name: String,
    /// The object of the store that holds it: itself or an entry.
    pub object: String,
    /// Where it begins in that object.
    pub offset: u64,
    /// Its length.
    pub length: u64,
}

/// Reads a group. Shared by any number of threads.
pub struct Reader {
    group: Group,
    cache: Mutex<Cache>,
    /// Who fetches a page holds one of these: who needs the same one meanwhile waits, and finds it in the cache.
    fetching: [Mutex<()>; LANES],
}

/// An index that was opened: its directory; pages come when they are needed.
pub struct Index {
    /// What the entry says of it.
    pub listed: IndexRef,
    /// What stands for that and was opened: the same, unless it was moved.
    pub reference: IndexRef,
    /// All but the pages.
    pub directory: Directory,
    place: Place,
    opener: Opener,
}

impl Reader {
    /// With a cache of this many bytes.
    pub fn new(group: Group, cache: usize) -> Self {
        let cache = Mutex::new(Cache { capacity: cache, ..Cache::default() });
        Self { group, cache, fetching: [const { Mutex::new(()) }; LANES] }
    }

    /// The group.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Where an index is.
    pub fn index_place(&self, index: &IndexRef) -> Place {
        self.place(index.object(self.group.id()), index.entry, index.offset, index.length)
    }

    /// Where a pack is.
    pub fn pack_place(&self, pack: &PackRef) -> Place {
        let name = names::pack(self.group.id(), pack.epoch, pack.cut, pack.name);
        self.place(name, pack.entry, pack.offset, pack.length)
    }

    fn place(&self, name: String, entry: u64, offset: u64, length: u64) -> Place {
        let object = if offset == 0 { name.clone() } else { names::entry(self.group.id(), entry) };
        Place { name, object, offset, length }
    }

    /// The bytes `[offset, offset + length)` of what is at a place, all of them.
    ///
    /// # Errors
    /// `Damage` if the object is missing or shorter; the store's.
    pub fn read(&self, place: &Place, offset: u64, length: usize) -> Result<Vec<u8>> {
        let bytes = self.group.store.get_range(&place.object, place.offset.saturating_add(offset), length)?;
        if bytes.len() != length {
            return Err(Error::damage(&place.object, "it ends too early"));
        }
        Ok(bytes)
    }

    /// Opens what seals the frames of a pack; nothing is read.
    pub fn pack_opener(&self, pack: &PackRef) -> Opener {
        let name = names::pack(self.group.id(), pack.epoch, pack.cut, pack.name);
        self.group.seal.opener_with_salt(ObjectKind::Pack, &name, &pack.salt)
    }

    /// The frames of a pack, by number: two requests.
    ///
    /// # Errors
    /// `Damage`, the store's.
    pub fn frames(&self, pack: &PackRef) -> Result<Vec<FooterFrame>> {
        let (place, opener) = (self.pack_place(pack), self.pack_opener(pack));
        let Some(end) = pack.length.checked_sub(TRAILER as u64) else {
            return Err(Error::damage(&place.name, "it is too short"));
        };
        let tail = self.read(&place, end, TRAILER)?;
        let (offset, sealed) = pack::locate_footer(&opener, &tail, pack.length)?;
        pack::open_footer(&opener, &mut self.read(&place, offset, sealed)?)
    }

    /// Opens an index, or what stands for it now: one request for a small one, three for others.
    ///
    /// # Errors
    /// `Damage`, `NewerVault`, the store's.
    pub fn open_index(&self, listed: &IndexRef) -> Result<Index> {
        let read = self.group.known.stands_for(listed);
        match self.open(listed, &read) {
            // They say the same; what is listed may be there yet.
            Err(error) if error.kind() == Kind::Damage && read != *listed => {
                self.open(listed, listed).map_err(|_| error)
            }
            opened => opened,
        }
    }

    /// Opens the index `reference` itself, whatever may stand for it; it is listed as `listed`.
    ///
    /// # Errors
    /// As [`Self::open_index`].
    pub fn open(&self, listed: &IndexRef, reference: &IndexRef) -> Result<Index> {
        let place = self.index_place(reference);
        let length = reference.length;
        if length < (HEADER + TRAILER) as u64 {
            return Err(Error::damage(&place.name, "it is too short"));
        }
        let (header, tail) = if length <= SMALL {
            let whole = self.read(&place, 0, usize::try_from(length).expect("small"))?;
            (whole[..HEADER].to_vec(), whole)
        } else {
            let tail = usize::try_from(TAIL).expect("small");
            (self.read(&place, 0, HEADER)?, self.read(&place, length - TAIL, tail)?)
        };
        let opener = self.group.seal.opener(ObjectKind::Index, &place.name, &header)?;
        let (offset, sealed) = index::locate_directory(&opener, &tail[tail.len() - TRAILER..], length)?;
        let begin = length - tail.len() as u64;
        let mut section = match offset.checked_sub(begin) {
            Some(at) => {
                let at = usize::try_from(at).expect("inside the tail");
                tail[at..at + sealed].to_vec()
            }
            None => {
                debug_assert!(sealed <= DIRECTORY_MAX);
                self.read(&place, offset, sealed)?
            }
        };
        let directory = index::open_directory(&opener, &mut section, offset, reference)?;
        if begin == 0 {
            for (number, page) in directory.pages.iter().enumerate() {
                let at = usize::try_from(page.offset).expect("inside the index");
                let mut sealed = tail[at..at + page.sealed as usize].to_vec();
                // A damaged one is told to who needs it.
                if let Ok(page) = index::open_page(&opener, &directory, number, &mut sealed) {
                    self.lock().insert((reference.name, number), Arc::new(page));
                }
            }
        }
        Ok(Index { listed: *listed, reference: *reference, directory, place, opener })
    }

    /// A page of an index, from the cache or the store.
    ///
    /// # Errors
    /// `Damage`, the store's.
    pub fn page(&self, index: &Index, number: usize) -> Result<Arc<Page>> {
        let key = (index.reference.name, number);
        if let Some(page) = self.lock().get(&key) {
            return Ok(page);
        }
        let _fetching = self.fetching[number % LANES].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = self.lock().get(&key) {
            return Ok(page);
        }
        let reference = &index.directory.pages[number];
        let mut sealed = self.read(&index.place, reference.offset, reference.sealed as usize)?;
        let page = Arc::new(index::open_page(&index.opener, &index.directory, number, &mut sealed)?);
        self.lock().insert(key, page.clone());
        Ok(page)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().expect("no thread panics with the lock")
    }
}

type Key = (ObjectName, usize);

/// Opened pages; when it is over its capacity the older half, by last use, goes.
#[derive(Default)]
struct Cache {
    capacity: usize,
    weight: usize,
    tick: u64,
    pages: HashMap<Key, (Arc<Page>, u64)>,
}

impl Cache {
    fn get(&mut self, key: &Key) -> Option<Arc<Page>> {
        self.tick += 1;
        let (page, used) = self.pages.get_mut(key)?;
        *used = self.tick;
        Some(page.clone())
    }

    fn insert(&mut self, key: Key, page: Arc<Page>) {
        self.tick += 1;
        self.weight += page.weight();
        if let Some((old, _)) = self.pages.insert(key, (page, self.tick)) {
            self.weight -= old.weight();
        }
        if self.weight <= self.capacity {
            return;
        }
        let mut ages: Vec<u64> = self.pages.values().map(|(_, used)| *used).collect();
        let middle = ages.len() / 2;
        let oldest_kept = *ages.select_nth_unstable(middle).1;
        self.pages.retain(|_, (page, used)| {
            let keep = *used >= oldest_kept;
            if !keep {
                self.weight -= page.weight();
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_bounded_and_keeps_what_was_used_last() {
        let page = || Arc::new(Page { frames: Vec::new(), runs: Vec::new(), hashes: vec![[0; 32]; 100] });
        let weight = page().weight();
        let mut cache = Cache { capacity: 10 * weight, ..Cache::default() };
        let key = |n| (ObjectName([1; 16]), n);
        for n in 0..100 {
            cache.insert(key(n), page());
            cache.get(&key(0));
            assert!(cache.weight <= cache.capacity);
            assert_eq!(cache.weight, cache.pages.len() * weight);
        }
        assert!(
            cache.get(&key(0)).is_some() && cache.get(&key(99)).is_some() && cache.get(&key(1)).is_none()
        );
    }
}
