//! The vault: one dense log per group, packs and indexes.
//!
//! How a cycle is written, by its one writer:
//!
//! ```text
//! decide (attach table, V10)  -> base, epoch          attach::decide
//! claim      put-if-absent at head+1 -> writer epoch  Group::append(head, 0, claim draft)
//! frames     any thread: hash, compress               FrameEncoder
//! packs      put, any order, parallel                 Assembler::frame -> FinishedPack
//! indexes    put, before the entry that lists them    Assembler::checkpoint / finish
//! [checkpoint]  put-if-absent at head+1
//! confirm    with the tracker: still exact? (R2)
//! point      put-if-absent at head+1, after everything that it names is durable
//! release    with the tracker (V9)
//! folds      put, between cycles; the next entry lists them (V6)   fold::Folder
//! ```
//!
#![doc = include_str!("format.md")]

pub mod access;
pub mod attach;
pub mod catalog;
pub mod cycle;
pub mod descriptor;
pub mod entry;
pub mod envelope;
pub mod fold;
pub mod frame;
pub mod image;
pub mod index;
pub mod keys;
pub mod layout;
pub mod limits;
pub mod log;
pub mod names;
pub mod numbers;
pub mod pack;
pub mod publish;
#[cfg(test)]
pub(crate) mod sample;
pub mod slots;

use crate::edge::{self, Draw};
use crate::store::{Put, Store, StoreErrorKind, probe};
use crate::{Error, Kind, Result};
use catalog::Known;
use descriptor::Descriptor;
use envelope::Seal;
use frame::BlockHasher;
use keys::{Keys, Masters, Secret};
use names::{GroupId, Parsed};
use slots::{Making, Secrets};
use std::sync::Arc;
use towline_tracker::id::VaultId;

/// An open vault.
#[derive(Clone)]
pub struct Vault {
    /// Where it is.
    pub store: Arc<dyn Store>,
    /// What it says of itself.
    pub descriptor: Descriptor,
    /// What is known of its keys.
    pub keys: Keys,
    /// Draws the names and salts of what is put.
    pub draw: Draw,
}

/// A group of a vault: where its objects are and how they are sealed. Cheap to clone.
#[derive(Clone)]
pub struct Group {
    /// Where the objects are.
    pub store: Arc<dyn Store>,
    /// How they are sealed.
    pub seal: Seal,
    /// The group's name.
    pub name: String,
    /// What the newest catalog that was seen says.
    pub known: Arc<Known>,
}

impl Vault {
    /// Makes a new, empty vault in an empty store, not sealed.
    ///
    /// # Errors
    /// `OutputExists` if something is there already; `Other` if the store does not keep "create if absent", without
    /// which two writers could both publish (F40); the store's.
    pub fn init(store: Arc<dyn Store>, created_ns: u64) -> Result<Self> {
        check_empty(&*store)?;
        Self::create(store, Descriptor::new(VaultId::random(), created_ns), Keys::None)
    }

    /// Makes a new, empty vault in an empty store, sealed with a new master key in one slot.
    ///
    /// # Errors
    /// As [`Self::init`].
    pub fn init_sealed(store: Arc<dyn Store>, slot: &Making<'_>) -> Result<Self> {
        check_empty(&*store)?;
        let vault = VaultId::random();
        let masters = Masters::new(vec![Secret::draw(slot.draw)]);
        // First the key, then the vault: the other way round a crash would leave one that nobody opens.
        let object = slots::put(&*store, vault, &masters, slot)?;
        let descriptor = Descriptor::sealed(vault, slot.created_ns, &masters);
        let made = Self::create(store.clone(), descriptor, Keys::Masters(Arc::new(masters)));
        // Otherwise it may have been made all the same (F31).
        if made.as_ref().is_err_and(|error| error.kind() == Kind::OutputExists) {
            let _ = store.delete(&object);
        }
        made
    }

    fn create(store: Arc<dyn Store>, descriptor: Descriptor, keys: Keys) -> Result<Self> {
        match store.put_if_absent(names::DESCRIPTOR, &descriptor.encode())? {
            Put::Created => Ok(Self { store, descriptor, keys, draw: edge::kernel }),
            Put::AlreadyExists => Err(Error::new(
                Kind::OutputExists,
                format!("{} became a vault just now; nothing was changed", store.url()),
            )),
        }
    }

    /// Opens the vault in a store, one that is not sealed.
    ///
    /// # Errors
    /// As [`Self::open_with`].
    pub fn open(store: Arc<dyn Store>) -> Result<Self> {
        Self::open_with(store, &Secrets::default())
    }

    /// Opens the vault in a store. Where a key is given, the vault must be sealed: who can write to the store could put one
    /// that is not in its place, and would be sent everything in the clear.
    ///
    /// # Errors
    /// `NotAVault`, `NewerVault`, `Locked`, `Damage`, the store's.
    pub fn open_with(store: Arc<dyn Store>, secrets: &Secrets) -> Result<Self> {
        let descriptor = Self::describe(&*store)?;
        let keys = slots::open(&*store, &descriptor, secrets)?;
        Ok(Self { store, descriptor, keys, draw: edge::kernel })
    }

    /// What the vault in a store says of itself to everybody.
    ///
    /// # Errors
    /// `NotAVault`, `NewerVault`, `Damage`, the store's.
    pub fn describe(store: &dyn Store) -> Result<Descriptor> {
        let bytes = match store.get(names::DESCRIPTOR, limits::DESCRIPTOR_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == StoreErrorKind::NotFound => {
                let line =
                    format!("there is no vault at {}; make one with `towline vault init`", store.url());
                return Err(Error::new(Kind::NotAVault, line));
            }
            Err(error) => return Err(error.into()),
        };
        if !bytes.starts_with(&envelope::MAGIC) {
            let line = format!("{} is not a vault: its file `vault` is something else", store.url());
            return Err(Error::new(Kind::NotAVault, line));
        }
        Descriptor::decode(&bytes)
    }

    /// The vault's id.
    pub fn id(&self) -> VaultId {
        self.descriptor.vault
    }

    /// The group of this name; whether it has a log shows when it is read.
    pub fn group(&self, name: &str) -> Group {
        self.group_by_id(self.keys.group_id(self.id(), name), name.to_owned())
    }

    fn group_by_id(&self, group: GroupId, name: String) -> Group {
        let keys = self.keys.group(self.id(), group);
        let seal = Seal { vault: self.id(), group, keys, draw: self.draw };
        Group { store: self.store.clone(), seal, name, known: Arc::default() }
    }

    /// Every group that has a log and that the keys open, in the order of names. One listing request per group.
    ///
    /// # Errors
    /// The store's. A group whose first entry can't be read has its id in place of its name.
    pub fn groups(&self) -> Result<Vec<Group>> {
        let mut groups = Vec::new();
        let mut after = String::new();
        while let Some(object) = self.store.list(names::GROUPS, &after, 1)?.pop() {
            let parsed = names::parse(&object.name);
            let Some(
                Parsed::Entry { group, .. }
                | Parsed::Data { group, .. }
                | Parsed::Fold { group, .. }
                | Parsed::Moved { group, .. }
                | Parsed::Catalog { group, .. },
            ) = parsed
            else {
                after = object.name;
                continue;
            };
            // '~' is greater than anything in a name.
            after = format!("{}~", names::group(group));
            if !self.keys.opens_id(group) {
                continue;
            }
            let mut found = self.group_by_id(group, group.to_string());
            if let Ok(Some(name)) = found.told_name() {
                found.name = name;
            }
            if found.store.list(&names::log(group), "", 1)?.len() == 1 {
                groups.push(found);
            }
        }
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(groups)
    }
}

impl Group {
    /// The hasher of blocks.
    pub fn hasher(&self) -> BlockHasher {
        match &self.seal.keys {
            None => BlockHasher::unkeyed(self.seal.vault),
            Some(keys) => BlockHasher::keyed(keys),
        }
    }

    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.seal.group
    }

    /// The name that its newest catalog or its first entry says.
    fn told_name(&self) -> Result<Option<String>> {
        if let Some(catalog) = self.catalog(0)? {
            return Ok(Some(catalog.group));
        }
        Ok(self.entry(1)?.and_then(|first| first.claim().map(|claim| claim.group.clone())))
    }
}

/// That a new vault may be made in this store: nothing is there but what a crash left of making one, and it keeps its word.
fn check_empty(store: &dyn Store) -> Result<()> {
    let url = store.url();
    match store.len(names::DESCRIPTOR) {
        Ok(_) => {
            return Err(Error::new(
                Kind::OutputExists,
                format!("{url} is a vault already; nothing was changed"),
            ));
        }
        Err(error) if error.kind() == StoreErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let left = |name: &str| name.starts_with(probe::NAME) || name.starts_with(names::KEYS);
    if store.list("", "", 100)?.iter().any(|object| !left(&object.name)) {
        let line = format!("{url} is not empty and not a vault; give a new or empty folder");
        return Err(Error::new(Kind::OutputExists, line));
    }
    if !probe::keeps_creates(store)? {
        let line = format!(
            "{url} replaces objects that it was asked only to create, or lets several who ask at once believe that \
             they did; two shippers could both publish, so a vault needs another store"
        );
        return Err(Error::new(Kind::Other, line));
    }
    Ok(())
}
