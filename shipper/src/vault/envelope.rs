//! The sealed envelope: an object header, then sections, each with a tag of 16 bytes.
//!
//! A section is bound to everything that says where it belongs: vault, group, kind of object, the object's name, the
//! salt, and its position in the object. So a flipped bit, a truncation, a swap of two objects or of two sections of
//! one object is found by whoever opens it (T7). With the unkeyed suite this finds accidents and mix-ups; an
//! attacker who can write the store can make new tags. With keys (V13) sections are encrypted, too.
//!
//! All but the position is in the key of the object, and no other object has that key: its salt is fresh (T6). The position
//! is the nonce, and goes up. AES-GCM does not commit to its key, so the header's tag, which does, is keyed BLAKE3 in
//! both suites.

use super::keys::GroupKeys;
use super::layout::{self, array, object};
use super::names::GroupId;
use crate::edge::{self, Draw};
use crate::{Error, Kind, Result};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};
use std::cell::Cell;
use std::sync::{Arc, LazyLock};
use towline_tracker::id::VaultId;
use towline_tracker::mutant;
use zeroize::Zeroizing;

/// The first bytes of every object; the tail is no text, so that a transfer that converts line ends shows.
pub const MAGIC: [u8; 8] = *b"\x89TOWL\r\n\x1a";
/// The version of the envelope and of all that is inside.
pub const VERSION: u16 = 1;
/// Bytes that sealing adds to a section.
pub const TAG: usize = 16;
/// The length of the object header.
pub const HEADER: usize = object::LENGTH;
/// The position of a trailer.
pub const POSITION_TRAILER: u64 = u64::MAX - 1;
/// The position of a footer or directory.
pub const POSITION_TABLE: u64 = u64::MAX - 2;
/// The position of the object header's own tag.
const POSITION_HEADER: u64 = u64::MAX;

/// How sections are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Authenticated by BLAKE3 without a secret; the data is in the clear.
    Unkeyed,
    /// Encrypted and authenticated by AES-256-GCM.
    Aes256Gcm,
}

impl Suite {
    /// Its number in headers.
    pub fn number(self) -> u16 {
        match self {
            Self::Unkeyed => 0,
            Self::Aes256Gcm => 1,
        }
    }

    /// The suite of a number; `None` for those of later versions.
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Unkeyed),
            1 => Some(Self::Aes256Gcm),
            _ => None,
        }
    }
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum ObjectKind {
    /// The `vault` object.
    Descriptor = 1,
    /// An entry of a log.
    Entry = 2,
    /// A pack.
    Pack = 3,
    /// An index.
    Index = 4,
    /// A master key, wrapped.
    Slot = 5,
    /// The master keys before the newest.
    Ring = 6,
    /// Which points of a group are kept.
    Catalog = 7,
}

/// Who seals: the vault and the group with its keys. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Seal {
    /// The vault.
    pub vault: VaultId,
    /// The group, or [`GroupId::NONE`].
    pub group: GroupId,
    /// Its keys; none: the unkeyed suite.
    pub keys: Option<Arc<GroupKeys>>,
    /// Draws salts and the names of new objects.
    pub draw: Draw,
}

/// What the sections of one object are sealed with.
enum Cipher {
    /// The key of the tags.
    Unkeyed([u8; 32]),
    Aes(Box<LessSafeKey>),
    /// The key of this generation is not known.
    Missing {
        generation: u16,
        newest: u16,
    },
}

impl Seal {
    /// Without keys.
    pub const fn unkeyed(vault: VaultId, group: GroupId) -> Self {
        Self { vault, group, keys: None, draw: edge::kernel }
    }

    /// The id of the group of this name.
    pub fn group_of(&self, name: &str) -> GroupId {
        self.keys.as_ref().map_or_else(|| GroupId::of(self.vault, name), |keys| keys.group_id(name))
    }

    /// The suite of new objects.
    pub fn suite(&self) -> Suite {
        self.keys.as_ref().map_or(Suite::Unkeyed, |_| Suite::Aes256Gcm)
    }

    /// Begins an object of this kind and full name, with a fresh salt where the suite has one.
    pub fn sealer(&self, kind: ObjectKind, name: &str) -> Sealer {
        let mut header = [0; HEADER];
        header[object::MAGIC].copy_from_slice(&MAGIC);
        layout::set(&mut header, object::VERSION, VERSION.into());
        layout::set(&mut header, object::SUITE, self.suite().number().into());
        layout::set(&mut header, object::KIND, kind as u64);
        let salt = self.keys.as_ref().map_or([0; 32], |keys| self.salt(keys.newest().0));
        header[object::SALT].copy_from_slice(&salt);
        let (cipher, own) = self.cipher(kind, name, &salt);
        let tag = tag(&own, POSITION_HEADER, &header[..object::TAG.start]);
        header[object::TAG].copy_from_slice(&tag);
        Sealer { header, cipher, last: Cell::new(None) }
    }

    /// The generation of the key, then random bits.
    fn salt(&self, generation: u16) -> [u8; 32] {
        let mut salt = [0; 32];
        // Mutant: one for all.
        if !mutant::active("salt-reused") {
            salt[..16].copy_from_slice(&(self.draw)());
            salt[16..].copy_from_slice(&(self.draw)());
        }
        salt[..2].copy_from_slice(&generation.to_le_bytes());
        salt
    }

    /// Opens the object that begins with `bytes`.
    ///
    /// # Errors
    /// `NewerVault` for a version or suite that is not known, `Locked` if its key is not, `Damage` for anything else that is
    /// not as sealed.
    pub fn opener(&self, kind: ObjectKind, name: &str, bytes: &[u8]) -> Result<Opener> {
        let (version, suite) = check_header(name, bytes).map_err(|error| match error.kind() {
            Kind::NewerVault if self.was_sealed(kind, name, bytes) => {
                Error::damage(name, "its version is not as it was sealed")
            }
            _ => error,
        })?;
        debug_assert_eq!(version, VERSION);
        if suite != self.suite() {
            return Err(Error::damage(name, "it is not sealed as this vault's objects are"));
        }
        if layout::get(bytes, object::KIND) != kind as u64 || !layout::is_zero(bytes, object::RESERVED) {
            return Err(Error::damage(name, "it is an object of another kind"));
        }
        let salt: [u8; 32] = array(bytes, object::SALT);
        let (cipher, own) = self.cipher(kind, name, &salt);
        if let Cipher::Missing { generation, newest } = cipher {
            return Err(missing(name, generation, newest));
        }
        if tag(&own, POSITION_HEADER, &bytes[..object::TAG.start]) != bytes[object::TAG] {
            return Err(Error::damage(name, "its header is not as it was sealed"));
        }
        Ok(Opener { cipher, name: name.to_owned() })
    }

    /// Whether this header was sealed by this version, but for what it says of its version: rot, which is mended like other
    /// rot, not a vault that only an update can read.
    fn was_sealed(&self, kind: ObjectKind, name: &str, bytes: &[u8]) -> bool {
        let mut header: [u8; HEADER] = array(bytes, 0..HEADER);
        layout::set(&mut header, object::VERSION, VERSION.into());
        layout::set(&mut header, object::SUITE, self.suite().number().into());
        let (_, own) = self.cipher(kind, name, &array(bytes, object::SALT));
        tag(&own, POSITION_HEADER, &header[..object::TAG.start]) == header[object::TAG]
    }

    /// Opens sections of an object whose salt is known from elsewhere, without its header.
    pub fn opener_with_salt(&self, kind: ObjectKind, name: &str, salt: &[u8; 32]) -> Opener {
        Opener { cipher: self.cipher(kind, name, salt).0, name: name.to_owned() }
    }

    /// What the sections of an object are sealed with, and the key of its header's tag.
    fn cipher(&self, kind: ObjectKind, name: &str, salt: &[u8; 32]) -> (Cipher, Zeroizing<[u8; 32]>) {
        static UNKEYED: LazyLock<ContextKey> =
            LazyLock::new(|| hash_derive_key_context("towline 2026-11 unkeyed seal"));
        static KEYED: LazyLock<ContextKey> =
            LazyLock::new(|| hash_derive_key_context("towline 2026-11 seal"));
        let mut hasher = blake3::Hasher::new_from_context_key(match self.keys {
            None => &UNKEYED,
            Some(_) => &KEYED,
        });
        let generation = u16::from_le_bytes(array(salt, 0..2));
        if let Some(keys) = &self.keys {
            let Some(key) = keys.generation(generation) else {
                let newest = keys.newest().0;
                return (Cipher::Missing { generation, newest }, Zeroizing::new([0; 32]));
            };
            hasher.update(key.bytes());
        }
        hasher.update(&self.vault.0).update(&self.group.0).update(&(kind as u16).to_le_bytes());
        hasher.update(salt).update(name.as_bytes());
        let mut keys = Zeroizing::new([0; 64]);
        hasher.finalize_xof().fill(&mut *keys);
        let (first, second) = keys.split_at(32);
        match self.keys {
            None => (Cipher::Unkeyed(array(first, 0..32)), Zeroizing::new(array(first, 0..32))),
            Some(_) => {
                let key = UnboundKey::new(&AES_256_GCM, first).expect("a key of 256 bits");
                (Cipher::Aes(Box::new(LessSafeKey::new(key))), Zeroizing::new(array(second, 0..32)))
            }
        }
    }
}

fn missing(name: &str, generation: u16, newest: u16) -> Error {
    if generation != newest + 1 {
        return Error::damage(name, "it names a key that the vault never had");
    }
    let line = format!(
        "{name} is sealed by generation {generation} of the vault's key, which the key given does not know: the key was \
         rotated; use the new one, or export the group's key again"
    );
    Error::new(Kind::Locked, line)
}

/// Version and suite of the object that begins with `bytes`, checked to be known.
///
/// # Errors
/// `NewerVault`, or `Damage` if it is no object of ours.
pub fn check_header(name: &str, bytes: &[u8]) -> Result<(u16, Suite)> {
    if bytes.len() < HEADER || bytes[object::MAGIC] != MAGIC {
        return Err(Error::damage(name, "it does not begin as an object of a vault does"));
    }
    let version = layout::get(bytes, object::VERSION);
    if version != u64::from(VERSION) {
        return Err(newer(name, format_args!("format {version}")));
    }
    let suite = layout::get(bytes, object::SUITE);
    let suite = Suite::from_number(suite).ok_or_else(|| newer(name, format_args!("suite {suite}")))?;
    Ok((VERSION, suite))
}

/// The error for what only a newer version can read.
pub fn newer(name: &str, what: impl std::fmt::Display) -> Error {
    Error::new(
        Kind::NewerVault,
        format!("{name} needs a newer version of towline ({what}); update towline, nothing was changed"),
    )
}

/// Seals the sections of one object.
pub struct Sealer {
    header: [u8; HEADER],
    cipher: Cipher,
    /// The position that was sealed last: no two have one nonce.
    last: Cell<Option<u64>>,
}

impl Sealer {
    /// The object's header: its first bytes.
    pub fn header(&self) -> &[u8; HEADER] {
        &self.header
    }

    /// The object's salt.
    pub fn salt(&self) -> [u8; 32] {
        array(&self.header, object::SALT)
    }

    /// Appends `body`, sealed for its position, to `out`. Positions go up.
    ///
    /// # Panics
    /// If they don't: our own mistake.
    pub fn seal(&self, position: u64, body: &[u8], out: &mut Vec<u8>) {
        assert!(self.last.replace(Some(position)) < Some(position), "a position is sealed twice");
        let start = out.len();
        out.extend_from_slice(body);
        match &self.cipher {
            Cipher::Unkeyed(key) => out.extend_from_slice(&tag(key, position, body)),
            Cipher::Aes(key) => {
                let tag = key
                    .seal_in_place_separate_tag(nonce(position), Aad::empty(), &mut out[start..])
                    .expect("a section is small");
                out.extend_from_slice(tag.as_ref());
            }
            Cipher::Missing { .. } => unreachable!("a sealer has the newest key"),
        }
    }
}

/// Opens the sections of one object.
pub struct Opener {
    cipher: Cipher,
    name: String,
}

impl Opener {
    /// The body of a section that was sealed for this position.
    ///
    /// # Errors
    /// `Damage`; `Locked` if the key is not known.
    pub fn open<'a>(&self, position: u64, sealed: &'a mut [u8]) -> Result<&'a mut [u8]> {
        let Some(length) = sealed.len().checked_sub(TAG) else {
            return Err(Error::damage(&self.name, "it ends too early"));
        };
        let is_sound = match &self.cipher {
            Cipher::Unkeyed(key) => tag(key, position, &sealed[..length]) == sealed[length..],
            Cipher::Aes(key) => key.open_in_place(nonce(position), Aad::empty(), sealed).is_ok(),
            Cipher::Missing { generation, newest } => return Err(missing(&self.name, *generation, *newest)),
        };
        match is_sound {
            true => Ok(&mut sealed[..length]),
            false => Err(Error::damage(&self.name, "its bytes are not as they were sealed")),
        }
    }

    /// The object's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn nonce(position: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&position.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn tag(key: &[u8; 32], position: u64, body: &[u8]) -> [u8; TAG] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&position.to_le_bytes()).update(&(body.len() as u64).to_le_bytes()).update(body);
    hasher.finalize().as_bytes()[..TAG].try_into().expect("16 bytes")
}

#[cfg(test)]
mod tests {
    use super::super::keys::{Masters, Secret};
    use super::*;

    fn seals() -> [Seal; 2] {
        let (vault, group) = (VaultId([1; 16]), GroupId([2; 16]));
        let masters = Masters::new(vec![Secret::draw(edge::kernel), Secret::draw(edge::kernel)]);
        let unkeyed = Seal::unkeyed(vault, group);
        [Seal { keys: Some(Arc::new(masters.group(vault, group))), ..unkeyed.clone() }, unkeyed]
    }

    #[test]
    fn a_section_opens_only_where_it_was_sealed() {
        for seal in seals() {
            let sealer = seal.sealer(ObjectKind::Pack, "a");
            let mut sealed = Vec::new();
            sealer.seal(3, b"body", &mut sealed);
            assert_eq!(sealed.starts_with(b"body"), seal.suite() == Suite::Unkeyed);
            let salt = sealer.salt();
            let open = |seal: &Seal, kind, name, position| {
                let opener = seal.opener_with_salt(kind, name, &salt);
                opener.open(position, &mut sealed.clone()).map(|body| body.to_vec())
            };
            assert_eq!(open(&seal, ObjectKind::Pack, "a", 3).unwrap(), b"body");
            assert!(open(&seal, ObjectKind::Pack, "a", 4).is_err());
            assert!(open(&seal, ObjectKind::Pack, "b", 3).is_err());
            assert!(open(&seal, ObjectKind::Index, "a", 3).is_err());
            let other = Seal { group: GroupId::NONE, ..seal.clone() };
            assert!(open(&other, ObjectKind::Pack, "a", 3).is_err());
            let other = Seal { vault: VaultId([9; 16]), ..seal.clone() };
            assert!(open(&other, ObjectKind::Pack, "a", 3).is_err());
            let opener = seal.opener_with_salt(ObjectKind::Pack, "a", &salt);
            for length in 0..sealed.len() {
                assert!(opener.open(3, &mut sealed.clone()[..length]).is_err());
            }
            for bit in 0..sealed.len() * 8 {
                let mut sealed = sealed.clone();
                sealed[bit / 8] ^= 1 << (bit % 8);
                assert!(opener.open(3, &mut sealed).is_err());
            }
            for bit in 16..256 {
                let mut salt = salt;
                salt[bit / 8] ^= 1 << (bit % 8);
                let opener = seal.opener_with_salt(ObjectKind::Pack, "a", &salt);
                assert!(opener.open(3, &mut sealed.clone()).is_err());
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_damage_and_a_newer_one_is_named() {
        for seal in seals() {
            let sealer = seal.sealer(ObjectKind::Entry, "e");
            assert!(seal.opener(ObjectKind::Entry, "e", sealer.header()).is_ok());
            for bit in 0..HEADER * 8 {
                let mut header = *sealer.header();
                header[bit / 8] ^= 1 << (bit % 8);
                let error = seal.opener(ObjectKind::Entry, "e", &header).err().expect("found");
                // The first two bytes of the salt name a key; generation 3 would be the next one, and 2 is not 3 by one bit, but
                // for this.
                let next = seal.keys.is_some() && bit == object::SALT.start * 8;
                let kind = if next { Kind::Locked } else { Kind::Damage };
                assert_eq!(error.kind(), kind, "bit {bit}: {}", error.line());
            }
            for field in [object::VERSION, object::SUITE] {
                let mut header = *sealer.header();
                layout::set(&mut header, field, 7);
                // Sealed as that version seals.
                header[object::TAG].fill(7);
                let error = seal.opener(ObjectKind::Entry, "e", &header).err().expect("found");
                assert_eq!(error.kind(), Kind::NewerVault, "{}", error.line());
            }
        }
    }

    /// T6: no two objects have one key, whatever their names.
    #[test]
    fn a_salt_is_fresh_and_names_the_newest_generation() {
        let [seal, _] = seals();
        let salts: Vec<_> = (0..100).map(|_| seal.sealer(ObjectKind::Entry, "e").salt()).collect();
        for (n, salt) in salts.iter().enumerate() {
            assert_eq!(salt[..2], [2, 0]);
            assert!(!salts[..n].contains(salt));
        }
    }

    #[test]
    fn an_older_generation_is_opened_and_an_unknown_one_named() {
        let (vault, group) = (VaultId([1; 16]), GroupId([2; 16]));
        let masters = [0; 3].map(|_| Secret::draw(edge::kernel));
        let seal = |known: usize| {
            let keys = Masters::new(masters[..known].to_vec()).group(vault, group);
            Seal { keys: Some(Arc::new(keys)), ..Seal::unkeyed(vault, group) }
        };
        for (sealed_by, opened_by) in [(1, 3), (2, 3), (3, 3), (3, 2)] {
            let sealer = seal(sealed_by).sealer(ObjectKind::Pack, "a");
            let mut sealed = Vec::new();
            sealer.seal(0, b"body", &mut sealed);
            let opened = seal(opened_by)
                .opener(ObjectKind::Pack, "a", sealer.header())
                .and_then(|opener| opener.open(0, &mut sealed).map(|body| body.to_vec()));
            match opened {
                Ok(body) => assert!(body == b"body" && sealed_by <= opened_by),
                Err(error) => assert!(error.kind() == Kind::Locked && sealed_by > opened_by),
            }
        }
    }

    #[test]
    #[should_panic(expected = "sealed twice")]
    fn a_position_is_never_sealed_twice() {
        let sealer = seals()[0].sealer(ObjectKind::Pack, "a");
        sealer.seal(1, b"", &mut Vec::new());
        sealer.seal(1, b"", &mut Vec::new());
    }
}
