//! What of a group is kept (V14): a boundary in its log, and the points at or below it that still exist.
//!
//! ```text
//!   log      1 . . 4 . . . 8 . . . | 12 13 14 15 16      at or below the boundary: what the catalog names, nothing else
//!   catalog  kept 4, 8; boundary 11 '---- above: everything
//! ```
//!
//! At or below the boundary only what is catalogued exists, whatever a listing or a read by name says; above it everything
//! does. The boundary never falls and a point that was let go never comes back, so names below it may be deleted in any
//! order and at any later time. Catalogs are numbered without a gap, put if absent, each with the hash of the one before,
//! and never deleted: whoever knows one finds the newest by asking for the next, with no listing (F35).
//!
//! Nobody can go on in a group whose newest catalog can't be read, so there are two of each: the second copy is put by who made
//! the first, or by the next who makes a catalog. It says the same, and is read where the first can't be (F34, F43).

use super::entry::{EntryHeader, EntryRef, IndexRef};
use super::envelope::{HEADER, ObjectKind, POSITION_TABLE, Seal, TAG};
use super::limits::CATALOG_MAX;
use super::names::{self, ObjectName};
use super::{Group, numbers};
use crate::store::{self, Put, StoreErrorKind};
use crate::{Error, Kind, Result};
use bincode::{Decode, Encode};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use towline_tracker::codec;
use towline_tracker::id::CutId;

/// A catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Catalog {
    /// Its number, from 1.
    pub number: u64,
    /// The hash of the one before; zero in the first.
    pub previous: [u8; 32],
    /// When it was made, in nanoseconds since 1970; for people.
    pub time_ns: u64,
    /// The group's name.
    pub group: String,
    /// The last entry of which only what is catalogued exists; seq 0: there is none.
    pub boundary: Option<EntryRef>,
    /// The newest claim, if it is not above the boundary: what says whose the group is.
    pub claim: Option<EntryRef>,
    /// The points at or below the boundary, the oldest first.
    pub kept: Vec<Kept>,
    /// For each base of an entry above the boundary that is let go: the newest kept point below it in its lineage, 0 if none.
    pub links: Vec<(u64, u64)>,
    /// Cuts whose shipment under that claim ended at or below the boundary, and of which there still are objects.
    pub shipped: Vec<CutId>,
    /// Folds of that claim that were listed by what is let go, and are by nothing that exists.
    pub folded: Vec<ObjectName>,
    /// Points that no rule lets go, wherever they are, the oldest first.
    pub pins: Vec<EntryRef>,
    /// Indexes that are listed and for which others stand, by name.
    pub moved: Vec<Moved>,
    /// The greatest number of a catalog that a condemned entry at or below the boundary rests on: the shipper knows it.
    pub settled: u64,
    /// Packs and indexes that a verification found damaged, by name.
    pub damaged: Vec<ObjectName>,
    /// Points that need such, the oldest first.
    pub spoiled: Vec<EntryRef>,
}

/// An index for which another one stands, which says the same of the same blocks: a compaction has moved some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Moved {
    /// The one that is listed.
    pub from: ObjectName,
    /// The one that is read.
    pub to: IndexRef,
}

impl Moved {
    /// It is an object of its own that was made for a catalog up to this one.
    fn is_possible(&self, number: u64) -> bool {
        let Self { from, to } = self;
        to.cut == names::NO_CUT
            && (1..=number).contains(&to.epoch)
            && to.name != *from
            && to.offset == 0
            && to.entry == 0
    }
}

/// What a process knows of a group's catalogs: of the newest that it has seen. Shared by all that read the group.
#[derive(Debug, Default)]
pub struct Known(Mutex<Newest>);

/// Of a catalog, what readers of images need.
#[derive(Debug, Default)]
struct Newest {
    number: u64,
    moved: HashMap<ObjectName, IndexRef>,
    damaged: Arc<HashSet<ObjectName>>,
}

impl Known {
    fn lock(&self) -> std::sync::MutexGuard<'_, Newest> {
        self.0.lock().expect("no thread panics with the lock")
    }

    /// The number of that catalog: the next one is looked for behind it. 0: none was seen.
    pub fn number(&self) -> u64 {
        self.lock().number
    }

    /// What is read where this index is listed.
    pub fn stands_for(&self, listed: &IndexRef) -> IndexRef {
        self.lock().moved.get(&listed.name).copied().unwrap_or(*listed)
    }

    /// Packs and indexes that a verification found damaged.
    pub fn damaged(&self) -> Arc<HashSet<ObjectName>> {
        self.lock().damaged.clone()
    }

    fn learn(&self, catalog: &Catalog) {
        let mut known = self.lock();
        if catalog.number > known.number {
            *known = Newest {
                number: catalog.number,
                moved: catalog.moved.iter().map(|moved| (moved.from, moved.to)).collect(),
                damaged: Arc::new(catalog.damaged.iter().copied().collect()),
            };
        }
    }
}

/// A point that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Kept {
    /// Its entry.
    pub entry: EntryRef,
    /// The newest kept point below it in its lineage; 0: none.
    pub below: u64,
}

impl Catalog {
    /// The boundary's number; 0: everything exists.
    pub fn bound(&self) -> u64 {
        self.boundary.map_or(0, |boundary| boundary.seq)
    }

    /// A point at or below the boundary.
    pub fn kept(&self, seq: u64) -> Option<&Kept> {
        self.kept.binary_search_by_key(&seq, |kept| kept.entry.seq).ok().map(|at| &self.kept[at])
    }

    /// What stands in a lineage for an entry: itself if it exists, else the newest kept point below it; 0: nothing.
    pub fn stands_for(&self, seq: u64) -> u64 {
        if seq > self.bound() || self.kept(seq).is_some() {
            return seq;
        }
        self.links.binary_search_by_key(&seq, |link| link.0).map_or(0, |at| self.links[at].1)
    }

    /// What lies below an image that exists.
    pub fn below(&self, header: &EntryHeader) -> u64 {
        self.kept(header.seq).map_or_else(|| self.stands_for(header.base), |kept| kept.below)
    }

    /// Whether an entry exists, if it is there.
    pub fn has(&self, entry: EntryRef) -> bool {
        entry.seq > self.bound() || self.kept(entry.seq).is_some_and(|kept| kept.entry == entry)
    }

    /// Whether a point is pinned.
    pub fn is_pinned(&self, entry: EntryRef) -> bool {
        self.pins.contains(&entry)
    }

    /// What the next one names it by.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&codec::encode_any(self)).as_bytes()
    }

    /// The object's bytes.
    ///
    /// # Errors
    /// `GroupFull` if it keeps more than a catalog holds.
    pub fn encode(&self, seal: &Seal) -> Result<Vec<u8>> {
        self.encode_as(seal, &names::catalog(seal.group, self.number))
    }

    fn encode_as(&self, seal: &Seal, name: &str) -> Result<Vec<u8>> {
        let body = codec::encode_any(self);
        if body.len() > CATALOG_MAX {
            let line =
                format!("group {} keeps more points than a catalog holds: let some of them go", self.group);
            return Err(Error::new(Kind::GroupFull, line));
        }
        let sealer = seal.sealer(ObjectKind::Catalog, name);
        let mut bytes = sealer.header().to_vec();
        sealer.seal(POSITION_TABLE, &body, &mut bytes);
        Ok(bytes)
    }

    /// Reads catalog `number`.
    ///
    /// # Errors
    /// `NewerVault`, `Damage`.
    pub fn decode(seal: &Seal, number: u64, bytes: &[u8]) -> Result<Self> {
        Self::decode_as(seal, &names::catalog(seal.group, number), number, bytes)
    }

    fn decode_as(seal: &Seal, name: &str, number: u64, bytes: &[u8]) -> Result<Self> {
        let opener = seal.opener(ObjectKind::Catalog, name, bytes)?;
        let mut section = bytes[HEADER..].to_vec();
        let body = opener.open(POSITION_TABLE, &mut section)?;
        let catalog: Self = codec::decode::<_, CATALOG_MAX>(body)
            .map_err(|error| Error::caused(Kind::Damage, format!("{name} is damaged"), error))?;
        match catalog.check(seal, number) {
            true => Ok(catalog),
            false => Err(Error::damage(name, "it contradicts itself")),
        }
    }

    fn check(&self, seal: &Seal, number: u64) -> bool {
        let bound = self.bound();
        let kept = |seq: u64| seq == 0 || self.kept(seq).is_some();
        // Something can follow both: whoever knows one asks for the next.
        self.number == number
            && (1..u64::MAX).contains(&number)
            && bound < u64::MAX
            && (number == 1) == (self.previous == [0; 32])
            && seal.group_of(&self.group) == seal.group
            && self.kept.is_sorted_by(|a, b| a.entry.seq < b.entry.seq)
            && self.links.is_sorted_by(|a, b| a.0 < b.0)
            && self.pins.is_sorted_by(|a, b| a.seq < b.seq)
            && self.shipped.is_sorted_by(|a, b| a < b)
            && self.folded.is_sorted_by(|a, b| a < b)
            && self.claim.is_none_or(|claim| claim.seq <= bound)
            && self.kept.iter().all(|k| k.entry.seq <= bound && k.below < k.entry.seq && kept(k.below))
            && self.links.iter().all(|(base, to)| *base <= bound && to < base && kept(*to))
            && self.pins.iter().all(|pin| self.has(*pin))
            && self.settled <= number
            && self.spoiled.is_sorted_by(|a, b| a.seq < b.seq)
            && self.spoiled.iter().all(|point| self.has(*point))
            && self.damaged.is_sorted_by(|a, b| a < b)
            && self.moved.is_sorted_by(|a, b| a.from < b.from)
            && self.moved.iter().all(|moved| moved.is_possible(number))
    }
}

impl Group {
    /// The newest catalog; `None` if there is none: everything exists. `known` may be the number of one that there is; 0: look.
    ///
    /// # Errors
    /// `Damage`, `NewerVault`, the store's.
    pub fn catalog(&self, known: u64) -> Result<Option<Catalog>> {
        let mut start = known;
        if known == 0 {
            store::each(&*self.store, &names::catalogs(self.id()), "", |object| {
                if let Some(names::Parsed::Catalog { number, .. }) = names::parse(&object.name) {
                    start = start.max(number);
                }
                Ok::<_, Error>(())
            })?;
        }
        let first = |number| self.has_object(&names::catalog(self.id(), number));
        // One copy will do; but who only asks for the next is not to ask twice each time.
        let newest = numbers::last(start, |number| {
            Ok(first(number)? || known == 0 && self.has_object(&names::catalog_copy(self.id(), number))?)
        })?;
        match newest {
            0 => Ok(None),
            newest => self.catalog_at(newest).map(Some),
        }
    }

    /// A catalog newer than the one of this number; `None`: there is none. One request where nothing has changed.
    ///
    /// # Errors
    /// As [`Self::catalog`].
    pub fn newer_catalog(&self, known: u64) -> Result<Option<Catalog>> {
        match self.has_object(&names::catalog(self.id(), known + 1))? {
            true => self.catalog(known + 1),
            false => Ok(None),
        }
    }

    /// Catalog `number`, which must be there, from either of its copies.
    ///
    /// # Errors
    /// As [`Self::catalog`].
    pub fn catalog_at(&self, number: u64) -> Result<Catalog> {
        let [first, second] = self.catalog_names(number);
        let catalog = self.catalog_named(&first, number).or_else(|error| match error.kind() {
            Kind::Damage => self.catalog_named(&second, number).map_err(|_| error),
            _ => Err(error),
        })?;
        self.known.learn(&catalog);
        Ok(catalog)
    }

    /// Both copies of catalog `number`.
    pub fn catalog_names(&self, number: u64) -> [String; 2] {
        [names::catalog(self.id(), number), names::catalog_copy(self.id(), number)]
    }

    /// One copy of catalog `number`.
    ///
    /// # Errors
    /// As [`Self::catalog`].
    pub fn catalog_named(&self, name: &str, number: u64) -> Result<Catalog> {
        match self.store.get(name, HEADER + CATALOG_MAX + TAG) {
            Err(error) if error.kind() == StoreErrorKind::NotFound => {
                Err(Error::damage(name, "it is missing"))
            }
            bytes => Catalog::decode_as(&self.seal, name, number, &bytes?),
        }
    }

    /// Puts a catalog behind the one before it; `false`: somebody else was quicker, and everything must be looked at again.
    ///
    /// # Errors
    /// `GroupFull`, the store's; after one that may pass it may be there all the same.
    pub fn put_catalog(&self, catalog: &Catalog) -> Result<bool> {
        // Who made the one before may have died before its second copy.
        if catalog.number > 1 {
            self.put_copy(&self.catalog_at(catalog.number - 1)?)?;
        }
        let name = names::catalog(self.id(), catalog.number);
        let ours = match self.store.put_if_absent(&name, &catalog.encode(&self.seal)?)? {
            Put::Created => true,
            // Perhaps ours, by a try whose answer was lost: sealed anew, so compared by what it says.
            Put::AlreadyExists => self.catalog_at(catalog.number)? == *catalog,
        };
        if ours {
            self.put_copy(catalog)?;
        }
        Ok(ours)
    }

    /// Puts the second copy of a catalog that is there.
    fn put_copy(&self, catalog: &Catalog) -> Result<()> {
        let name = names::catalog_copy(self.id(), catalog.number);
        if !self.has_object(&name)? {
            self.store.put_if_absent(&name, &catalog.encode_as(&self.seal, &name)?)?;
        }
        Ok(())
    }

    /// Whether there is an object of this name.
    ///
    /// # Errors
    /// The store's.
    pub fn has_object(&self, name: &str) -> Result<bool> {
        match self.store.len(name) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
