//! Names of objects. Random names are written once; the log's are dense numbers of fixed width, so that a listing
//! is in order. Names carry nothing of the guest: a group's folder is a hash of its name.

use crate::edge::Draw;
use bincode::{Decode, Encode};
use std::fmt::{self, Write};
use std::str::FromStr;
use towline_tracker::id::{self, CutId, VaultId};

/// The name of the descriptor.
pub const DESCRIPTOR: &str = "vault";
/// Where groups are.
pub const GROUPS: &str = "groups/";

/// Where a sealed vault's keys are, wrapped.
pub const KEYS: &str = "keys/";

/// A slot: a master key, wrapped. Of a generation, and its own random name.
pub fn slot(generation: u16, name: ObjectName) -> String {
    format!("{KEYS}{generation:05}-{name}.slot")
}

/// The master keys before this generation's.
pub fn ring(generation: u16) -> String {
    format!("{KEYS}{generation:05}.ring")
}

/// A group of a vault: BLAKE3 of vault id and name, or of a key and the name. The name itself is in every claim, sealed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub [u8; 16]);

impl GroupId {
    /// The id of the group of this name in a vault that is not sealed.
    pub fn of(vault: VaultId, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("towline 2026-11 group id");
        hasher.update(&vault.0).update(name.as_bytes());
        Self(hasher.finalize().as_bytes()[..16].try_into().expect("16 bytes"))
    }

    /// No group: what belongs to the vault as a whole.
    pub const NONE: Self = Self([0; 16]);
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        id::hex(&self.0, f)
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What distinguishes one pack or index from another: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct ObjectName(pub [u8; 16]);

impl ObjectName {
    /// A new one.
    pub fn draw(draw: Draw) -> Self {
        Self(draw())
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        id::hex(&self.0, f)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The folder of a group.
pub fn group(group: GroupId) -> String {
    format!("{GROUPS}{group}/")
}

/// The folder of a group's log.
pub fn log(group: GroupId) -> String {
    format!("{GROUPS}{group}/log/")
}

/// An entry of a group's log.
pub fn entry(group: GroupId, seq: u64) -> String {
    format!("{GROUPS}{group}/log/{seq:020}")
}

/// The folder of packs and indexes of a group.
pub fn packs(group: GroupId) -> String {
    format!("{GROUPS}{group}/packs/")
}

/// A pack: of a writer epoch, a cut, and its own random name. Also what a pack inside an entry is sealed under. Without a cut
/// ([`NO_CUT`]) a compaction made it, for the catalog of that number.
pub fn pack(group: GroupId, epoch: u64, cut: CutId, name: ObjectName) -> String {
    data(group, epoch, cut, name, "pack")
}

/// An index, likewise.
pub fn index(group: GroupId, epoch: u64, cut: CutId, name: ObjectName) -> String {
    data(group, epoch, cut, name, "index")
}

/// The cut of what was made for no cut: what a compaction moved. No cut's id is drawn so.
pub const NO_CUT: CutId = CutId([0; 16]);

/// The folder of what compactions moved.
pub fn moved_all(group: GroupId) -> String {
    format!("{GROUPS}{group}/moved/")
}

/// Where a group's catalogs are.
pub fn catalogs(group: GroupId) -> String {
    format!("{GROUPS}{group}/catalog/")
}

/// A catalog of a group.
pub fn catalog(group: GroupId, number: u64) -> String {
    format!("{GROUPS}{group}/catalog/{number:020}")
}

/// Its second copy.
pub fn catalog_copy(group: GroupId, number: u64) -> String {
    format!("{GROUPS}{group}/catalog/{number:020}{COPY}")
}

const COPY: &str = ".copy";

/// The folder of folded indexes of a group.
pub fn folds(group: GroupId) -> String {
    format!("{GROUPS}{group}/folds/")
}

/// A fold, or a part of one: made by the writer of this epoch, and its own random name. What it ends at is in the list that
/// it stands in, and not in its name: until it stands in one it is nothing (V6).
pub fn fold(group: GroupId, epoch: u64, name: ObjectName) -> String {
    format!("{GROUPS}{group}/folds/{epoch:020}-{name}.index")
}

/// Made whole at once: they are long, and asked for more often than anything is read.
fn data(group: GroupId, epoch: u64, cut: CutId, name: ObjectName, extension: &str) -> String {
    const LENGTH: usize = "groups//packs/-/.index".len() + 3 * 32 + 20;
    let mut text = String::with_capacity(LENGTH);
    if cut == NO_CUT {
        write!(text, "{GROUPS}{group}/moved/{epoch:020}-{name}.{extension}").expect("memory");
        return text;
    }
    write!(text, "{GROUPS}{group}/packs/{epoch:020}-{cut}/{name}.{extension}").expect("memory");
    text
}

/// What a name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// `vault`.
    Descriptor,
    /// A slot of a generation.
    Slot {
        /// The generation.
        generation: u16,
        /// Its own name.
        name: ObjectName,
    },
    /// The ring of a generation: with it that generation is in force.
    Ring {
        /// The generation.
        generation: u16,
    },
    /// An entry.
    Entry {
        /// Of this group.
        group: GroupId,
        /// Its number.
        seq: u64,
    },
    /// A catalog.
    Catalog {
        /// Of this group.
        group: GroupId,
        /// Its number.
        number: u64,
        /// It is the second copy.
        copy: bool,
    },
    /// A pack or an index.
    Data {
        /// Of this group.
        group: GroupId,
        /// Put by this writer.
        epoch: u64,
        /// For this cut.
        cut: CutId,
        /// Its own name.
        name: ObjectName,
        /// It is an index, not a pack.
        index: bool,
    },
    /// A pack or an index that a compaction made.
    Moved {
        /// Of this group.
        group: GroupId,
        /// For the catalog of this number.
        number: u64,
        /// Its own name.
        name: ObjectName,
        /// It is an index, not a pack.
        index: bool,
    },
    /// A folded index.
    Fold {
        /// Of this group.
        group: GroupId,
        /// Made by this writer.
        epoch: u64,
        /// Its own name.
        name: ObjectName,
    },
}

/// Reads a name back; `None` for names that are not ours.
pub fn parse(name: &str) -> Option<Parsed> {
    if name == DESCRIPTOR {
        return Some(Parsed::Descriptor);
    }
    if let Some(name) = name.strip_prefix(KEYS) {
        let generation = |text: &str| {
            (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
        };
        if let Some(of) = name.strip_suffix(".ring") {
            return Some(Parsed::Ring { generation: generation(of)? });
        }
        let (of, name) = name.strip_suffix(".slot")?.split_once('-')?;
        return Some(Parsed::Slot { generation: generation(of)?, name: ObjectName(hex(name)?) });
    }
    let mut parts = name.strip_prefix(GROUPS)?.split('/');
    let group = GroupId(hex(parts.next()?)?);
    let parsed = match parts.next()? {
        "log" => Parsed::Entry { group, seq: number(parts.next()?)? },
        "catalog" => {
            let name = parts.next()?;
            let first = name.strip_suffix(COPY);
            Parsed::Catalog { group, number: number(first.unwrap_or(name))?, copy: first.is_some() }
        }
        "packs" => {
            let (epoch, cut) = parts.next()?.split_once('-')?;
            let (name, index) = data_name(parts.next()?)?;
            let cut = Some(CutId(hex(cut)?)).filter(|cut| *cut != NO_CUT)?;
            Parsed::Data { group, epoch: number(epoch)?, cut, name, index }
        }
        "moved" => {
            let (of, name) = parts.next()?.split_once('-')?;
            let (name, index) = data_name(name)?;
            Parsed::Moved { group, number: number(of)?, name, index }
        }
        "folds" => {
            let (epoch, name) = parts.next()?.strip_suffix(".index")?.split_once('-')?;
            Parsed::Fold { group, epoch: number(epoch)?, name: ObjectName(hex(name)?) }
        }
        _ => return None,
    };
    parts.next().is_none().then_some(parsed)
}

/// Whether it is an index, not a pack.
fn data_name(text: &str) -> Option<(ObjectName, bool)> {
    let (name, extension) = text.split_once('.')?;
    let index = match extension {
        "index" => true,
        "pack" => false,
        _ => return None,
    };
    Some((ObjectName(hex(name)?), index))
}

fn hex(text: &str) -> Option<[u8; 16]> {
    // One spelling only: an object has one name.
    let plain = !text.bytes().any(|letter| letter.is_ascii_uppercase());
    CutId::from_str(text).ok().filter(|_| plain).map(|id| id.0)
}

fn number(text: &str) -> Option<u64> {
    (text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_sorted_and_read_back() {
        let g = GroupId::of(VaultId([1; 16]), "db");
        assert_ne!(g, GroupId::of(VaultId([2; 16]), "db"));
        let (cut, name) = (CutId::random(), ObjectName::draw(crate::edge::kernel));
        let cases = [
            (DESCRIPTOR.to_owned(), Parsed::Descriptor),
            (entry(g, 7), Parsed::Entry { group: g, seq: 7 }),
            (catalog(g, 7), Parsed::Catalog { group: g, number: 7, copy: false }),
            (catalog_copy(g, 7), Parsed::Catalog { group: g, number: 7, copy: true }),
            (pack(g, 3, cut, name), Parsed::Data { group: g, epoch: 3, cut, name, index: false }),
            (index(g, 3, cut, name), Parsed::Data { group: g, epoch: 3, cut, name, index: true }),
            (fold(g, 3, name), Parsed::Fold { group: g, epoch: 3, name }),
            (pack(g, 3, NO_CUT, name), Parsed::Moved { group: g, number: 3, name, index: false }),
            (index(g, 3, NO_CUT, name), Parsed::Moved { group: g, number: 3, name, index: true }),
        ];
        for (text, parsed) in cases {
            crate::store::check_name(&text).unwrap();
            assert_eq!(parse(&text), Some(parsed));
            assert_eq!(parse(&format!("{text}x")), None);
            assert_eq!(parse(&format!("{text}/x")), None);
        }
        assert!(entry(g, 9) < entry(g, 10) && entry(g, u64::MAX).len() == entry(g, 0).len());
    }
}
