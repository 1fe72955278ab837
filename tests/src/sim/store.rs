//! A store that has bad moments: what it is asked may fail before or after it is done, be done twice, be seen late in a
//! listing, or come long after its asker is dead. What it has answered it keeps, unless somebody damages it.

use super::counts::Counts;
use super::process::Flying;
use super::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use towline::store::memory::MemoryStore;
use towline::store::{Listed, Put, Store, StoreError, StoreErrorKind};
use towline::vault::envelope::HEADER;
use towline::vault::layout::{self, object};
use towline::vault::names;

/// What it is asked.
#[derive(Clone, Debug)]
pub enum Request {
    /// To keep an object, or to create it.
    Put(Flying),
    /// All of an object.
    Get {
        /// The object.
        name: String,
        /// At most so many bytes.
        limit: usize,
    },
    /// A part of an object.
    Range {
        /// The object.
        name: String,
        /// The first byte.
        offset: u64,
        /// Bytes.
        length: usize,
    },
    /// How long an object is.
    Length {
        /// The object.
        name: String,
    },
    /// To delete an object.
    Delete {
        /// The object.
        name: String,
    },
    /// A listing.
    List {
        /// Names begin so.
        prefix: String,
        /// And come after this.
        after: String,
        /// At most so many.
        limit: usize,
    },
}

impl Request {
    /// To keep an object.
    pub fn put(name: &str, data: &[u8]) -> Self {
        Self::Put(Flying { name: name.into(), bytes: data.to_vec(), entry: false })
    }

    /// To create one.
    pub fn create(name: &str, data: &[u8]) -> Self {
        Self::Put(Flying { name: name.into(), bytes: data.to_vec(), entry: true })
    }

    /// The object, or the beginning of their names.
    pub fn object(&self) -> &str {
        match self {
            Self::Put(Flying { name, .. })
            | Self::Get { name, .. }
            | Self::Range { name, .. }
            | Self::Delete { name }
            | Self::Length { name } => name,
            Self::List { prefix, .. } => prefix,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Done {
    /// To a put.
    Put(Put),
    /// To a read.
    Bytes(Vec<u8>),
    /// How long it is.
    Length(u64),
    /// A page.
    Listed(Vec<Listed>),
    /// It is not there.
    Deleted,
}

impl Done {
    pub(super) fn put(self) -> Put {
        let Self::Put(put) = self else { panic!("an answer to another request") };
        put
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        let Self::Bytes(bytes) = self else { panic!("an answer to another request") };
        bytes
    }

    pub(super) fn length(self) -> u64 {
        let Self::Length(length) = self else { panic!("an answer to another request") };
        length
    }

    pub(super) fn listed(self) -> Vec<Listed> {
        let Self::Listed(listed) = self else { panic!("an answer to another request") };
        listed
    }
}

/// How bad it is, in thousandths of its requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moods {
    /// Fails before anything is done.
    pub fails: u64,
    /// Is done, and the answer is lost.
    pub loses: u64,
    /// Is done twice, and the second answer is told.
    pub doubles: u64,
    /// A listing does not show some of what came lately.
    pub stale: u64,
    /// A page is shorter than asked for.
    pub short: u64,
}

/// It answers nothing well for a while. This and [`FAILED`], [`NO_SPACE`], [`OBJECT_LOST`] matter if whoever met it asks again, or
/// gives up by it.
pub const DOWN: &str = "store: down";
/// It fails once.
pub const FAILED: &str = "store: failed";
/// It has no space for a while.
pub const NO_SPACE: &str = "store: no space";
/// An object came to be, and its writer was not told.
pub const OBJECT_LOST: &str = "store: an object's answer lost";
/// The same of an entry. This and [`FAILED_AND_DONE`] matter if its writer then finds it there (V8).
pub const ENTRY_LOST: &str = "store: an entry's answer lost";
/// An entry came to be, and its writer was told that it failed.
pub const FAILED_AND_DONE: &str = "store: an entry that failed and was done";
/// A listing does not show what is there: it matters if whoever read it asks for that all the same (V3).
pub const NOT_LISTED: &str = "store: not listed";
/// A page is shorter than it could be: it matters if whoever read it asks for more.
pub const SHORT_PAGE: &str = "store: short pages";

/// The store.
pub struct SimStore {
    /// What is kept.
    pub objects: MemoryStore,
    /// Its moods.
    pub moods: Moods,
    /// Nothing is answered well for a while.
    pub down: bool,
    /// There is no space.
    pub full: bool,
    /// Each object's last change.
    versions: BTreeMap<String, u64>,
    changes: u64,
    /// Objects put so lately that a listing may not show them.
    fresh: Vec<String>,
    /// Puts of the dead, on their way.
    pub late: Vec<Flying>,
    /// Objects that are still to be deleted, for the dead.
    pub late_deletes: Vec<String>,
    /// Entries and catalogs that came into being since it was last asked.
    pub created: Vec<String>,
    /// Objects that somebody damaged.
    pub damaged: BTreeSet<String>,
    /// By name and salt, what each object key sealed: an attacker saw it, whatever became of the request.
    sealed: BTreeMap<(String, [u8; 32]), u64>,
    /// An object key that sealed two things (T6).
    pub reused: Option<String>,
}

impl SimStore {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            objects: MemoryStore::new(),
            moods: Moods::default(),
            down: false,
            full: false,
            versions: BTreeMap::new(),
            changes: 0,
            fresh: Vec::new(),
            late: Vec::new(),
            late_deletes: Vec::new(),
            created: Vec::new(),
            damaged: BTreeSet::new(),
            sealed: BTreeMap::new(),
            reused: None,
        }
    }

    /// The number of an object's last change; none if it is not there.
    pub fn version(&self, name: &str) -> Option<u64> {
        self.versions.get(name).copied()
    }

    /// The names of all.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.versions.keys()
    }

    fn changed(&mut self, name: &str) {
        self.changes += 1;
        self.versions.insert(name.to_owned(), self.changes);
    }

    /// A put happens.
    pub fn land(&mut self, put: &Flying) -> Put {
        if put.entry {
            let answer = self.objects.put_if_absent(&put.name, &put.bytes).expect("a good name");
            if answer == Put::Created {
                self.changed(&put.name);
                self.created.push(put.name.clone());
                self.fresh.push(put.name.clone());
            }
            return answer;
        }
        let known = self.versions.contains_key(&put.name);
        let same = known && self.objects.get(&put.name, usize::MAX).is_ok_and(|found| found == put.bytes);
        self.objects.put(&put.name, &put.bytes).expect("a good name");
        if !same {
            self.changed(&put.name);
            self.fresh.push(put.name.clone());
        }
        Put::Created
    }

    /// An object is no more.
    pub fn delete(&mut self, name: &str) {
        self.objects.delete(name).expect("a good name");
        self.versions.remove(name);
        self.fresh.retain(|fresh| fresh != name);
    }

    /// Looks at what is asked to be put, as who reads the store's traffic does. A repeated request has the same bytes.
    fn saw(&mut self, put: &Flying) {
        let Some(header) = put.bytes.get(..HEADER).filter(|header| header[object::SALT] != [0; 32]) else {
            return;
        };
        let key = (put.name.clone(), layout::array(header, object::SALT));
        let what = xxhash_rust::xxh3::xxh3_64(&put.bytes);
        if *self.sealed.entry(key).or_insert(what) != what {
            self.reused = Some(format!("one key seals two objects of the name {}", put.name));
        }
    }

    /// Does what is asked, in its mood. Faults that its asker meets are told to `met`, each with the object that it must ask
    /// for again, or can find all the same, if it is to matter.
    ///
    /// # Errors
    /// As a store's.
    pub fn ask(
        &mut self,
        request: &Request,
        rng: &mut Rng,
        counts: &mut Counts,
        met: &mut Vec<(&'static str, String)>,
    ) -> Result<Done, StoreError> {
        let failed = |kind| StoreError::new(kind, request.object());
        let moods = self.moods;
        let mut meets = |fault: &'static str, object: &str| met.push((fault, object.to_owned()));
        if let Request::Put(put) = request {
            self.saw(put);
        }
        if self.down || rng.chance(moods.fails) {
            meets(if self.down { DOWN } else { FAILED }, request.object());
            // Of what failed some is done all the same.
            if let Request::Put(put) = request
                && rng.chance(200)
            {
                let entry = self.land(put) == Put::Created && put.entry;
                if entry {
                    meets(FAILED_AND_DONE, &put.name);
                } else {
                    counts.add("store: an object that failed and was done");
                }
            }
            return Err(failed(StoreErrorKind::Transient));
        }
        match request {
            Request::Put(_) if self.full => {
                meets(NO_SPACE, request.object());
                Err(failed(StoreErrorKind::NoSpace))
            }
            Request::Put(put) => {
                let mut answer = self.land(put);
                if rng.chance(moods.loses) {
                    meets(if put.entry { ENTRY_LOST } else { OBJECT_LOST }, &put.name);
                    return Err(failed(StoreErrorKind::Transient));
                }
                if rng.chance(moods.doubles) {
                    let first = std::mem::replace(&mut answer, self.land(put));
                    match put.entry {
                        // It is told that somebody was there before.
                        true => counts.fault("store: an entry that was done twice", first != answer),
                        false => counts.add("store: an object that was done twice"),
                    }
                }
                Ok(Done::Put(answer))
            }
            Request::Get { name, limit } => self.objects.get(name, *limit).map(Done::Bytes),
            Request::Range { name, offset, length } => {
                self.objects.get_range(name, *offset, *length).map(Done::Bytes)
            }
            Request::Length { name } => self.objects.len(name).map(Done::Length),
            Request::Delete { name } => {
                self.delete(name);
                match rng.chance(moods.loses) {
                    true => Err(failed(StoreErrorKind::Transient)),
                    false => Ok(Done::Deleted),
                }
            }
            Request::List { prefix, after, limit } => {
                let mut page = self.objects.list(prefix, after, *limit)?;
                if rng.chance(moods.stale) {
                    page.retain(|object| {
                        let shown = !self.fresh.contains(&object.name) || rng.chance(500);
                        if !shown {
                            meets(NOT_LISTED, &object.name);
                        }
                        shown
                    });
                    // A page of nothing but what is not shown would be the end.
                } else {
                    self.fresh.clear();
                }
                if page.len() > 1 && rng.chance(moods.short) {
                    page.truncate(1 + rng.index(page.len() - 1));
                    meets(SHORT_PAGE, prefix);
                }
                Ok(Done::Listed(page))
            }
        }
    }

    /// Somebody damages an object: it is lost, cut off, or a bit is flipped.
    pub fn damage(&mut self, name: &str, rng: &mut Rng) {
        let mut bytes = self.objects.get(name, usize::MAX).expect("it is there");
        self.damaged.insert(name.to_owned());
        self.changed(name);
        // An entry that is lost leaves a gap, which is no word's to close.
        match if name.contains("/log/") { 1 + rng.below(2) } else { rng.below(3) } {
            0 => {
                self.objects.delete(name).expect("a good name");
                self.versions.remove(name);
                return;
            }
            1 => bytes.truncate(rng.index(bytes.len())),
            _ => {
                let at = rng.index(bytes.len());
                bytes[at] ^= 1 << rng.below(8);
            }
        }
        self.objects.overwrite(name, bytes);
    }

    /// Somebody removes the entries that stand behind a gap of the log: a put under way when the store was put back.
    /// Up to `bound` not all have to be there.
    pub fn close_gap(&mut self, bound: u64) {
        let seq = |name: &String| match names::parse(name) {
            Some(names::Parsed::Entry { seq, .. }) => Some(seq),
            _ => None,
        };
        let above = |name: &&String| seq(name).is_some_and(|seq| seq > bound);
        let entries: Vec<_> = self.names().filter(above).cloned().collect();
        for (number, name) in (bound + 1..).zip(&entries) {
            if seq(name) != Some(number) {
                self.delete(name);
            }
        }
    }

    /// A copy of what is kept, for [`Self::put_back`].
    pub fn copy(&self) -> (MemoryStore, BTreeMap<String, u64>) {
        (self.objects.copy(), self.versions.clone())
    }

    /// The store is put back to an old copy.
    pub fn put_back(&mut self, copy: &(MemoryStore, BTreeMap<String, u64>)) {
        for name in self.versions.keys() {
            self.objects.delete(name).expect("a good name");
        }
        for name in copy.1.keys() {
            let bytes = copy.0.get(name, usize::MAX).expect("it was there");
            self.objects.overwrite(name, bytes);
        }
        self.versions = copy.1.clone();
        self.late.clear();
        self.late_deletes.clear();
        self.fresh.clear();
        self.created.clear();
    }
}

impl Default for SimStore {
    fn default() -> Self {
        Self::new()
    }
}
