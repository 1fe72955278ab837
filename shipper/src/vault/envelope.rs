//! The sealed envelope: an object header, then sections, each with a tag of 16 bytes.
//!
//! A section is bound to everything that says where it belongs: vault, group, kind of object, the object's name, the
//! salt, and its position in the object. So a flipped bit, a truncation, a swap of two objects or of two sections of
//! one object is found by whoever opens it (T7). With the unkeyed suite this finds accidents and mix-ups; an
//! attacker who can write the store can make new tags. A suite with keys takes the same places (V13): key = KDF
//! (group key, kind, salt), nonce = position, associated data = the rest.

use super::layout::{self, array, object};
use super::names::GroupId;
use crate::{Error, Kind, Result};
use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};
use std::sync::LazyLock;
use towline_tracker::id::VaultId;

/// The first bytes of every object; the tail is no text, so that a transfer that converts line ends shows.
pub const MAGIC: [u8; 8] = *b"\x89TOWL\r\n\x1a";
/// The version of the envelope and of all that is inside.
pub const VERSION: u16 = 1;
/// Bytes that sealing adds to a section.
pub const TAG: usize = 16;
/// The length of the object header.
pub const HEADER: usize = object::LENGTH;
/// The position of the object header's own tag.
const POSITION_HEADER: u64 = u64::MAX;
/// The position of a trailer.
pub const POSITION_TRAILER: u64 = u64::MAX - 1;
/// The position of a footer or directory.
pub const POSITION_TABLE: u64 = u64::MAX - 2;

/// How sections are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Authenticated by BLAKE3 without a secret; the data is in the clear.
    Unkeyed,
}

impl Suite {
    /// Its number in headers.
    pub fn number(self) -> u16 {
        match self {
            Self::Unkeyed => 0,
        }
    }

    /// The suite of a number; `None` for those of later versions.
    pub fn from_number(number: u64) -> Option<Self> {
        (number == 0).then_some(Self::Unkeyed)
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
}

/// Who seals: the vault and the group with its suite and, later, its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The suite of new objects.
    pub suite: Suite,
    /// The vault.
    pub vault: VaultId,
    /// The group, or [`GroupId::NONE`].
    pub group: GroupId,
}

impl Seal {
    /// Begins an object of this kind and full name, with a fresh salt where the suite has one.
    pub fn sealer(&self, kind: ObjectKind, name: &str) -> Sealer {
        let mut header = [0; HEADER];
        header[object::MAGIC].copy_from_slice(&MAGIC);
        layout::set(&mut header, object::VERSION, VERSION.into());
        layout::set(&mut header, object::SUITE, self.suite.number().into());
        layout::set(&mut header, object::KIND, kind as u64);
        let salt = match self.suite {
            Suite::Unkeyed => [0; 32],
        };
        header[object::SALT].copy_from_slice(&salt);
        let key = self.key(kind, name, &salt);
        let tag = tag(&key, POSITION_HEADER, &header[..object::TAG.start]);
        header[object::TAG].copy_from_slice(&tag);
        Sealer { header, key }
    }

    /// Opens the object that begins with `bytes`.
    ///
    /// # Errors
    /// `NewerVault` for a version or suite that is not known, `Damage` for anything else that is not as sealed.
    pub fn opener(&self, kind: ObjectKind, name: &str, bytes: &[u8]) -> Result<Opener> {
        let (version, suite) = check_header(name, bytes).map_err(|error| match error.kind() {
            Kind::NewerVault if self.was_sealed(kind, name, bytes) => {
                Error::damage(name, "its version is not as it was sealed")
            }
            _ => error,
        })?;
        debug_assert_eq!((version, suite), (VERSION, self.suite));
        if layout::get(bytes, object::KIND) != kind as u64 || !layout::is_zero(bytes, object::RESERVED) {
            return Err(Error::damage(name, "it is an object of another kind"));
        }
        let salt: [u8; 32] = array(bytes, object::SALT);
        let opener = self.opener_with_salt(kind, name, &salt);
        let expected = tag(&opener.key, POSITION_HEADER, &bytes[..object::TAG.start]);
        if expected != bytes[object::TAG] {
            return Err(Error::damage(name, "its header is not as it was sealed"));
        }
        Ok(opener)
    }

    /// Whether this header was sealed by this version, but for what it says of its version: rot, which is mended like other
    /// rot, not a vault that only an update can read.
    fn was_sealed(&self, kind: ObjectKind, name: &str, bytes: &[u8]) -> bool {
        let mut header: [u8; HEADER] = array(bytes, 0..HEADER);
        layout::set(&mut header, object::VERSION, VERSION.into());
        layout::set(&mut header, object::SUITE, self.suite.number().into());
        let opener = self.opener_with_salt(kind, name, &array(bytes, object::SALT));
        tag(&opener.key, POSITION_HEADER, &header[..object::TAG.start]) == header[object::TAG]
    }

    /// Opens sections of an object whose salt is known from elsewhere, without its header.
    pub fn opener_with_salt(&self, kind: ObjectKind, name: &str, salt: &[u8; 32]) -> Opener {
        Opener { key: self.key(kind, name, salt), name: name.to_owned() }
    }

    fn key(&self, kind: ObjectKind, name: &str, salt: &[u8; 32]) -> [u8; 32] {
        static CONTEXT: LazyLock<ContextKey> =
            LazyLock::new(|| hash_derive_key_context("towline 2026-11 unkeyed seal"));
        let mut hasher = blake3::Hasher::new_from_context_key(&CONTEXT);
        hasher.update(&self.vault.0).update(&self.group.0).update(&(kind as u16).to_le_bytes());
        hasher.update(salt).update(name.as_bytes());
        *hasher.finalize().as_bytes()
    }
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
    key: [u8; 32],
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

    /// Appends `body`, sealed for its position, to `out`.
    pub fn seal(&self, position: u64, body: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(body);
        out.extend_from_slice(&tag(&self.key, position, body));
    }
}

/// Opens the sections of one object.
pub struct Opener {
    key: [u8; 32],
    name: String,
}

impl Opener {
    /// The body of a section that was sealed for this position.
    ///
    /// # Errors
    /// `Damage`.
    pub fn open<'a>(&self, position: u64, sealed: &'a mut [u8]) -> Result<&'a mut [u8]> {
        let Some(length) = sealed.len().checked_sub(TAG) else {
            return Err(Error::damage(&self.name, "it ends too early"));
        };
        let (body, found) = sealed.split_at_mut(length);
        if tag(&self.key, position, body) != found {
            return Err(Error::damage(&self.name, "its bytes are not as they were sealed"));
        }
        Ok(body)
    }

    /// The object's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn tag(key: &[u8; 32], position: u64, body: &[u8]) -> [u8; TAG] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&position.to_le_bytes()).update(&(body.len() as u64).to_le_bytes()).update(body);
    hasher.finalize().as_bytes()[..TAG].try_into().expect("16 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> Seal {
        Seal { suite: Suite::Unkeyed, vault: VaultId([1; 16]), group: GroupId([2; 16]) }
    }

    #[test]
    fn a_section_opens_only_where_it_was_sealed() {
        let sealer = seal().sealer(ObjectKind::Pack, "a");
        let mut sealed = Vec::new();
        sealer.seal(3, b"body", &mut sealed);
        let open = |seal: Seal, kind, name, position| {
            let opener = seal.opener_with_salt(kind, name, &[0; 32]);
            opener.open(position, &mut sealed.clone()).map(|body| body.to_vec())
        };
        assert_eq!(open(seal(), ObjectKind::Pack, "a", 3).unwrap(), b"body");
        assert!(open(seal(), ObjectKind::Pack, "a", 4).is_err());
        assert!(open(seal(), ObjectKind::Pack, "b", 3).is_err());
        assert!(open(seal(), ObjectKind::Index, "a", 3).is_err());
        assert!(open(Seal { group: GroupId::NONE, ..seal() }, ObjectKind::Pack, "a", 3).is_err());
        assert!(open(Seal { vault: VaultId([9; 16]), ..seal() }, ObjectKind::Pack, "a", 3).is_err());
        for length in 0..sealed.len() {
            let opener = seal().opener_with_salt(ObjectKind::Pack, "a", &[0; 32]);
            assert!(opener.open(3, &mut sealed.clone()[..length]).is_err());
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_damage_and_a_newer_one_is_named() {
        let sealer = seal().sealer(ObjectKind::Entry, "e");
        assert!(seal().opener(ObjectKind::Entry, "e", sealer.header()).is_ok());
        for bit in 0..HEADER * 8 {
            let mut header = *sealer.header();
            header[bit / 8] ^= 1 << (bit % 8);
            let error = seal().opener(ObjectKind::Entry, "e", &header).err().expect("found");
            assert_eq!(error.kind(), Kind::Damage, "bit {bit}: {}", error.line());
        }
        for field in [object::VERSION, object::SUITE] {
            let mut header = *sealer.header();
            layout::set(&mut header, field, 2);
            // Sealed as that version seals.
            header[object::TAG].fill(7);
            let error = seal().opener(ObjectKind::Entry, "e", &header).err().expect("found");
            assert_eq!(error.kind(), Kind::NewerVault, "{}", error.line());
        }
    }
}
