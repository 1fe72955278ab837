//! Slots: the master key, wrapped by a passphrase, by a key file, or by both.
//!
//! ```text
//! keys/<generation>-<random>.slot   the master key of that generation
//! keys/<generation>.ring            from the second on: those before, sealed by that of this generation
//! ```
//!
//! A slot is an object of its own, because no object is ever rewritten: one is added by a put and taken away by a delete. The
//! newest generation with a ring is in force (the first needs none). A rotation puts slots of the next generation, then its
//! ring, and then deletes the older slots: cut short before the ring it leaves slots that nobody looks at, behind it ones
//! that open only what they opened before.

use super::descriptor::Descriptor;
use super::envelope::{self, ObjectKind, POSITION_TABLE, Seal, Suite};
use super::keys::{GENERATIONS_MAX, GroupExport, GroupKeys, Keys, Masters, Secret};
use super::names::{self, GroupId, ObjectName, Parsed};
use crate::edge::Draw;
use crate::store::{self, Put, Store, StoreErrorKind};
use crate::{Error, Kind, Result};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use bincode::{Decode, Encode};
use std::sync::Arc;
use towline_tracker::codec;
use towline_tracker::id::VaultId;
use zeroize::Zeroizing;

/// The largest slot, with its label.
const SLOT_MAX: usize = 4096;
/// The largest ring.
const RING_MAX: usize = 16 + 32 * GENERATIONS_MAX;
/// The longest label, in bytes.
pub const LABEL_MAX: usize = 200;

/// What a person has to open a vault.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// A passphrase.
    pub passphrase: Option<Zeroizing<Vec<u8>>>,
    /// What a key file holds.
    pub key_file: Option<Zeroizing<Vec<u8>>>,
    /// What a host was given: one group's keys.
    pub group: Option<GroupExport>,
}

impl Secrets {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.passphrase.is_none() && self.key_file.is_none() && self.group.is_none()
    }
}

/// What a new slot is.
#[derive(Clone, Copy, Debug)]
pub struct Making<'a> {
    /// What opens it.
    pub secrets: &'a Secrets,
    /// A name for people; not secret.
    pub label: &'a str,
    /// When, in nanoseconds since 1970.
    pub created_ns: u64,
    /// Draws its name, its salt and new keys.
    pub draw: Draw,
}

/// How a passphrase is made a key: Argon2id (RFC 9106).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Stretch {
    /// Memory in KiB.
    pub memory: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Stretch {
    /// RFC 9106's second recommended choice, for where memory is scarce: 64 MiB, three passes.
    const NEW: Self = Self { memory: 64 << 10, passes: 3, lanes: 4 };

    /// Whether it can be done, for no more than a gibibyte and some seconds: who can write to the store chose it.
    fn is_bearable(self) -> bool {
        (1..=16).contains(&self.lanes)
            && (8 * self.lanes..=1 << 20).contains(&self.memory)
            && (1..=16).contains(&self.passes)
    }

    fn of(self, passphrase: &[u8], salt: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>> {
        let failed = |error: argon2::Error| {
            Error::new(Kind::Locked, format!("a passphrase can't be made a key: {error}"))
        };
        let params = argon2::Params::new(self.memory, self.passes, self.lanes, Some(32)).map_err(failed)?;
        let mut key = Zeroizing::new([0; 32]);
        argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
            .hash_password_into(passphrase, salt, &mut *key)
            .map_err(failed)?;
        Ok(key)
    }
}

/// A slot.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Slot {
    /// For people; not secret.
    pub label: String,
    /// When it was made, in nanoseconds since 1970.
    pub created_ns: u64,
    /// It needs a passphrase.
    pub passphrase: Option<Stretch>,
    /// It needs a key file.
    pub key_file: bool,
    salt: [u8; 32],
    /// The master key, encrypted.
    wrapped: [u8; 48],
}

impl Slot {
    /// What it needs, for people.
    pub fn needs(&self) -> &'static str {
        match (self.passphrase, self.key_file) {
            (Some(_), true) => "passphrase and key file",
            (Some(_), false) => "passphrase",
            _ => "key file",
        }
    }

    /// The key that wraps; `None` if a secret that it needs is not given.
    fn key(&self, secrets: &Secrets) -> Result<Option<LessSafeKey>> {
        let mut hasher = blake3::Hasher::new_derive_key("towline 2026-11 slot key");
        hasher.update(&self.salt).update(&[u8::from(self.passphrase.is_some()), u8::from(self.key_file)]);
        if self.key_file {
            let Some(file) = &secrets.key_file else { return Ok(None) };
            hasher.update(&*Zeroizing::new(blake3::derive_key("towline 2026-11 key file", file)));
        }
        if let Some(stretch) = self.passphrase {
            let Some(passphrase) = &secrets.passphrase else { return Ok(None) };
            hasher.update(&*stretch.of(passphrase, &self.salt)?);
        }
        let key = Zeroizing::new(*hasher.finalize().as_bytes());
        zeroize::Zeroize::zeroize(&mut hasher);
        Ok(Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key).expect("a key of 256 bits"))))
    }

    /// The master key; `None` if the secrets do not open it.
    fn open(&self, vault: VaultId, name: &str, secrets: &Secrets) -> Result<Option<Secret>> {
        let Some(key) = self.key(secrets)? else { return Ok(None) };
        let mut wrapped = Zeroizing::new(self.wrapped);
        Ok(match key.open_in_place(nonce(), bound(vault, name), &mut *wrapped) {
            Ok(master) => Some(Secret::from_bytes((&*master).try_into().expect("32 bytes"))),
            Err(_) => None,
        })
    }
}

/// The key is of one slot and seals one thing.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn bound(vault: VaultId, name: &str) -> Aad<Vec<u8>> {
    Aad::from([&vault.0[..], name.as_bytes()].concat())
}

/// A slot that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its object's name.
    pub object: String,
    /// The generation of the master key in it.
    pub generation: u16,
    /// What it says.
    pub slot: Slot,
}

impl Found {
    /// How a person names it.
    pub fn id(&self) -> String {
        id_of(&self.object)
    }
}

fn id_of(object: &str) -> String {
    match names::parse(object) {
        Some(Parsed::Slot { name, .. }) => name.to_string()[..8].to_owned(),
        _ => object.to_owned(),
    }
}

/// What is in the folder of keys.
#[derive(Debug)]
pub struct Listed {
    /// The generation in force.
    pub generation: u16,
    /// Its slots.
    pub slots: Vec<Found>,
    /// Those that can't be read, and why: the others open the vault all the same.
    pub damaged: Vec<(String, Error)>,
    /// Objects of older slots.
    older: Vec<String>,
}

/// Looks at the slots that are in force; none of them is opened.
///
/// # Errors
/// The store's. Damage is not an error here: see [`Listed::damaged`].
pub fn list(store: &dyn Store, vault: VaultId) -> Result<Listed> {
    let mut listed = Listed { generation: 1, slots: Vec::new(), damaged: Vec::new(), older: Vec::new() };
    let mut slots = Vec::new();
    store::each(store, names::KEYS, "", |object| {
        match names::parse(&object.name) {
            Some(Parsed::Ring { generation }) => listed.generation = listed.generation.max(generation),
            Some(Parsed::Slot { generation, .. }) => slots.push((generation, object.name.clone())),
            _ => {}
        }
        Ok::<_, Error>(())
    })?;
    for (generation, object) in slots {
        if generation < listed.generation {
            listed.older.push(object);
        } else if generation == listed.generation {
            match read(store, vault, &object) {
                Ok(Some(slot)) => listed.slots.push(Found { object, generation, slot }),
                Ok(None) => {}
                Err(error) if matches!(error.kind(), Kind::Damage | Kind::NewerVault) => {
                    listed.damaged.push((object, error));
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(listed)
}

/// `None` if somebody took it away just now.
fn read(store: &dyn Store, vault: VaultId, object: &str) -> Result<Option<Slot>> {
    let bytes = match store.get(object, envelope::HEADER + SLOT_MAX + envelope::TAG) {
        Err(error) if error.kind() == StoreErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let slot = decode(vault, object, &bytes)?;
    Ok(Some(slot))
}

/// Reads a slot's bytes.
///
/// # Errors
/// `NewerVault`, `Damage`.
pub fn decode(vault: VaultId, object: &str, bytes: &[u8]) -> Result<Slot> {
    let opener = Seal::unkeyed(vault, GroupId::NONE).opener(ObjectKind::Slot, object, bytes)?;
    let mut section = bytes[envelope::HEADER..].to_vec();
    let slot: Slot = codec::decode::<_, SLOT_MAX>(opener.open(POSITION_TABLE, &mut section)?)
        .map_err(|error| Error::caused(Kind::Damage, format!("{object} is damaged"), error))?;
    let is_bearable = slot.passphrase.is_none_or(Stretch::is_bearable);
    if !is_bearable || slot.label.len() > LABEL_MAX || !slot.key_file && slot.passphrase.is_none() {
        return Err(Error::damage(object, "no slot is like that"));
    }
    Ok(slot)
}

/// Puts a slot of the newest generation and tells its object's name.
///
/// # Errors
/// `Usage` without a secret or with too long a label; the store's.
pub fn put(store: &dyn Store, vault: VaultId, masters: &Masters, new: &Making<'_>) -> Result<String> {
    let Making { secrets, label, created_ns, draw } = *new;
    if secrets.passphrase.is_none() && secrets.key_file.is_none() {
        return Err(Error::new(Kind::Usage, "a slot needs a passphrase or a key file"));
    }
    if label.len() > LABEL_MAX {
        return Err(Error::new(Kind::Usage, format!("a label has at most {LABEL_MAX} bytes")));
    }
    let (generation, master) = masters.newest();
    let object = names::slot(generation, ObjectName::draw(draw));
    let mut slot = Slot {
        label: label.to_owned(),
        created_ns,
        passphrase: secrets.passphrase.as_ref().map(|_| Stretch::NEW),
        key_file: secrets.key_file.is_some(),
        salt: *Secret::draw(draw).bytes(),
        wrapped: [0; 48],
    };
    let key = slot.key(secrets)?.expect("what it needs was given");
    let mut wrapped = Zeroizing::new(master.bytes().to_vec());
    key.seal_in_place_append_tag(nonce(), bound(vault, &object), &mut *wrapped).expect("it is small");
    slot.wrapped.copy_from_slice(&wrapped);
    let sealer = Seal::unkeyed(vault, GroupId::NONE).sealer(ObjectKind::Slot, &object);
    let mut bytes = sealer.header().to_vec();
    sealer.seal(POSITION_TABLE, &codec::encode::<_, SLOT_MAX>(&slot), &mut bytes);
    store.put(&object, &bytes)?;
    // It is worth something only if it opens (T9).
    let opened = read(store, vault, &object)?.map(|slot| slot.open(vault, &object, secrets)).transpose()?;
    match opened.flatten() {
        Some(opened) if opened == *master => Ok(object),
        _ => Err(Error::damage(&object, "the slot just made does not open")),
    }
}

/// What opens the objects of this vault.
///
/// # Errors
/// `Locked` if the secrets do not fit it; `Damage` if none of its slots opens and one can't be read; the store's.
pub fn open(store: &dyn Store, descriptor: &Descriptor, secrets: &Secrets) -> Result<Keys> {
    let locked = |what: &str| Err(Error::new(Kind::Locked, format!("the vault at {} {what}", store.url())));
    match (descriptor.suite, secrets.is_empty()) {
        (Suite::Unkeyed, true) => return Ok(Keys::None),
        (Suite::Unkeyed, false) => {
            return locked("is not sealed, although a key is given for it: it may have been exchanged");
        }
        (Suite::Aes256Gcm, true) => {
            return locked("is sealed: give --key-file, --passphrase-file or --group-key");
        }
        (Suite::Aes256Gcm, false) => {}
    }
    let vault = descriptor.vault;
    if let Some(export) = &secrets.group {
        if (export.vault, export.commitment) != (vault, descriptor.commitment) {
            return locked("is not the one that the group key is for");
        }
        let newest = export.keys.newest().0;
        return match list(store, vault)?.generation {
            newer if newer > newest => locked("has a newer key: export the group's key again"),
            older if older < newest => locked("is older than the group key: it was put back to a copy"),
            _ => Ok(Keys::Group(Arc::new(export.clone()))),
        };
    }
    let listed = list(store, vault)?;
    for found in &listed.slots {
        let Some(master) = found.slot.open(vault, &found.object, secrets)? else { continue };
        let masters = unroll(store, vault, found.generation, master)?;
        // A slot that a crash left of another attempt to make this vault opens something, too.
        if masters.commitment(vault) == descriptor.commitment {
            return Ok(Keys::Masters(Arc::new(masters)));
        }
    }
    if let Some((_, error)) = listed.damaged.into_iter().next() {
        return Err(error);
    }
    match listed.slots.is_empty() {
        true => locked("has no key slot: it is lost unless `keys/` can be brought back"),
        false => locked("is not opened by the passphrase or key file given"),
    }
}

/// What the ring of a generation is sealed by.
pub fn ring_seal(vault: VaultId, generation: u16, master: &Secret) -> Seal {
    let key = master.derive("towline 2026-11 ring key", &[&vault.0]);
    let keys = Some(Arc::new(GroupKeys::only(generation, key)));
    Seal { keys, ..Seal::unkeyed(vault, GroupId::NONE) }
}

/// All master keys, given the newest.
fn unroll(store: &dyn Store, vault: VaultId, generation: u16, master: Secret) -> Result<Masters> {
    if generation == 1 {
        return Ok(Masters::new(vec![master]));
    }
    let object = names::ring(generation);
    let bytes = store.get(&object, envelope::HEADER + RING_MAX + envelope::TAG)?;
    let opener = ring_seal(vault, generation, &master).opener(ObjectKind::Ring, &object, &bytes)?;
    let mut section = Zeroizing::new(bytes[envelope::HEADER..].to_vec());
    let body = opener.open(POSITION_TABLE, &mut section)?;
    if body.len() != 32 * (usize::from(generation) - 1) || usize::from(generation) > GENERATIONS_MAX {
        return Err(Error::damage(&object, "it does not hold every key before"));
    }
    let mut all: Vec<_> =
        body.chunks_exact(32).map(|key| Secret::from_bytes(key.try_into().expect("32 bytes"))).collect();
    all.push(master);
    Ok(Masters::new(all))
}

/// Takes a slot away, named by the beginning of its id, also one that can't be read. Tells its id.
///
/// # Errors
/// `Usage` if there is no such slot, or no other; the store's.
pub fn remove(store: &dyn Store, vault: VaultId, id: &str) -> Result<String> {
    let listed = list(store, vault)?;
    let sound = listed.slots.iter().map(|found| (&found.object, true));
    let damaged = listed.damaged.iter().map(|(object, _)| (object, false));
    let mut fit = sound.chain(damaged).filter(|(object, _)| !id.is_empty() && id_of(object).starts_with(id));
    let (Some((object, is_sound)), None) = (fit.next(), fit.next()) else {
        return Err(Error::new(
            Kind::Usage,
            format!("there is not one slot {id:?}: see `towline vault key list`"),
        ));
    };
    if listed.slots.len() == usize::from(is_sound) {
        return Err(Error::new(Kind::Usage, "it is the last slot: without it nobody opens the vault"));
    }
    store.delete(object)?;
    Ok(id_of(object))
}

/// A new generation of the master key, in the one slot that is made; the slots before it are deleted, and how many of them could
/// not be is told. What is in the vault stays as it is sealed.
///
/// # Errors
/// `Usage` as in [`put`], or if somebody else did so just now; the store's.
pub fn rotate(
    store: &dyn Store,
    vault: VaultId,
    masters: &Masters,
    making: &Making<'_>,
) -> Result<(Masters, usize)> {
    let before = list(store, vault)?;
    let raced =
        || Error::new(Kind::Usage, "the key was rotated by somebody else just now: nothing was changed");
    if before.generation != masters.newest().0 {
        return Err(raced());
    }
    if masters.generations().len() == GENERATIONS_MAX {
        return Err(Error::new(Kind::Usage, "the key was rotated too often: make a new vault"));
    }
    let new = Secret::draw(making.draw);
    let mut all = masters.generations().to_vec();
    let mut body = Zeroizing::new(Vec::with_capacity(32 * all.len()));
    all.iter().for_each(|key| body.extend_from_slice(key.bytes()));
    all.push(new);
    let next = Masters::new(all);
    let (generation, newest) = next.newest();
    let slot = put(store, vault, &next, making)?;
    let object = names::ring(generation);
    let sealer = ring_seal(vault, generation, newest).sealer(ObjectKind::Ring, &object);
    let mut bytes = sealer.header().to_vec();
    sealer.seal(POSITION_TABLE, &body, &mut bytes);
    if store.put_if_absent(&object, &bytes)? == Put::AlreadyExists
        && store.get(&object, bytes.len())? != bytes
    {
        let _ = store.delete(&slot);
        return Err(raced());
    }
    let damaged = before.damaged.iter().map(|(object, _)| object);
    let left = before.slots.iter().map(|found| &found.object).chain(damaged).chain(&before.older);
    let left = left.filter(|object| store.delete(object).is_err()).count();
    Ok((next, left))
}

#[cfg(test)]
mod tests;
