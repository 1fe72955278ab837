//! The keys of a sealed vault (V13), and what follows from them:
//!
//! ```text
//! master key, 32 random bytes a generation: with the administrator, wrapped in slots
//! ├ commitment    in the descriptor: which master key is this vault's
//! ├ names key     group names to group ids
//! └ group key     of one group: all that a host needs, and all that it can be given
//!   ├ hash key    of blocks
//!   └ object key  of one object: of its kind, its name and a fresh salt
//! ```
//!
//! Each step is BLAKE3's key derivation under a context of its own, so none leads back. A new generation seals what is new;
//! what is there stays sealed by the older ones, which the new master key opens ([`slots`](super::slots)). Ids and hashes
//! are those of the first generation: blocks must compare over all of them.

use super::names::GroupId;
use crate::edge::Draw;
use crate::{Error, Kind, Result};
use std::fmt::{self, Write};
use std::str::FromStr;
use std::sync::Arc;
use towline_tracker::id::VaultId;
use zeroize::{Zeroize, Zeroizing};

/// Generations of master keys that a vault can have.
pub const GENERATIONS_MAX: usize = 1000;

/// A secret of 256 bits: never shown, wiped when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// A random one.
    pub fn draw(draw: Draw) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        bytes[..16].copy_from_slice(&draw());
        bytes[16..].copy_from_slice(&draw());
        Self(bytes)
    }

    /// Of these bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*bytes))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Another secret that follows from this one, for one purpose; `parts` have fixed lengths, but for the last.
    pub fn derive(&self, context: &'static str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&*self.0);
        for part in parts {
            hasher.update(part);
        }
        let secret = Self::from_bytes(hasher.finalize().as_bytes());
        hasher.zeroize();
        secret
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The master keys of a vault, the first generation first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masters(Vec<Secret>);

impl Masters {
    /// Of one generation or more.
    ///
    /// # Panics
    /// If there are none, or more than [`GENERATIONS_MAX`].
    pub fn new(generations: Vec<Secret>) -> Self {
        assert!((1..=GENERATIONS_MAX).contains(&generations.len()), "{} master keys", generations.len());
        Self(generations)
    }

    /// All of them, the first generation first.
    pub fn generations(&self) -> &[Secret] {
        &self.0
    }

    /// The newest generation, and its number from 1.
    pub fn newest(&self) -> (u16, &Secret) {
        let number = u16::try_from(self.0.len()).expect("bounded");
        (number, self.0.last().expect("there is one"))
    }

    /// What the descriptor says of them.
    pub fn commitment(&self, vault: VaultId) -> [u8; 32] {
        *self.0[0].derive("towline 2026-11 key commitment", &[&vault.0]).bytes()
    }

    fn names(&self, vault: VaultId) -> Secret {
        self.0[0].derive("towline 2026-11 names key", &[&vault.0])
    }

    /// The keys of a group.
    pub fn group(&self, vault: VaultId, group: GroupId) -> GroupKeys {
        let key = |master: &Secret| master.derive("towline 2026-11 group key", &[&vault.0, &group.0]);
        GroupKeys { names: self.names(vault), generations: self.0.iter().map(key).collect(), first: 1 }
    }
}

/// The keys of one group, a generation each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupKeys {
    names: Secret,
    generations: Vec<Secret>,
    /// The generation of the first one here.
    first: u16,
}

impl GroupKeys {
    /// One generation alone, for what belongs to the vault as a whole.
    pub(super) fn only(generation: u16, key: Secret) -> Self {
        Self { names: key.clone(), generations: vec![key], first: generation }
    }

    /// What a new object is sealed by, with its generation.
    pub fn newest(&self) -> (u16, &Secret) {
        let last = u16::try_from(self.generations.len() - 1).expect("bounded");
        (self.first + last, self.generations.last().expect("there is one"))
    }

    /// The key of a generation, if it is known.
    pub fn generation(&self, generation: u16) -> Option<&Secret> {
        self.generations.get(usize::from(generation.checked_sub(self.first)?))
    }

    /// The key with which blocks are hashed.
    pub fn hash_key(&self) -> Secret {
        self.generations[0].derive("towline 2026-11 keyed block hash", &[])
    }

    /// The id of the group of this name.
    pub fn group_id(&self, name: &str) -> GroupId {
        group_id(&self.names, name)
    }
}

fn group_id(names: &Secret, name: &str) -> GroupId {
    let id = names.derive("towline 2026-11 sealed group id", &[name.as_bytes()]);
    GroupId(id.bytes()[..16].try_into().expect("16 bytes"))
}

/// What a host is given of a sealed vault: the keys of its group, and nothing that opens another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupExport {
    /// The vault.
    pub vault: VaultId,
    /// The vault's commitment to its master key: another vault of this id shows.
    pub commitment: [u8; 32],
    /// The group's name.
    pub name: String,
    /// Its keys.
    pub keys: GroupKeys,
}

const TITLE: &str = "towline group key 1";

impl GroupExport {
    /// The file: lines of text, the last a check of those before.
    pub fn to_text(&self) -> Zeroizing<String> {
        // A name may have any letters; in JSON it is one line.
        let name = serde_json::Value::from(self.name.as_str());
        let mut text = Zeroizing::new(format!("{TITLE}\nvault {}\ngroup {name}\n", self.vault));
        let mut line = |word: &str, bytes: &[u8; 32]| {
            writeln!(text, "{word} {}", Hex(bytes)).expect("memory");
        };
        line("commitment", &self.commitment);
        line("names", self.keys.names.bytes());
        self.keys.generations.iter().for_each(|key| line("key", key.bytes()));
        let check = check(&text);
        writeln!(text, "check {check}").expect("memory");
        text
    }
}

fn check(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}

struct Hex<'a>(&'a [u8; 32]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for GroupExport {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |what: &str| Error::new(Kind::Locked, format!("the group key can't be read: {what}"));
        let text = text.trim_end();
        let (body, last) = text.rsplit_once('\n').ok_or_else(|| bad("it is no group key"))?;
        let mut lines = body.lines();
        match lines.next() {
            Some(TITLE) => {}
            Some(other) if other.starts_with("towline group key ") => {
                return Err(bad("it is of a newer version: update towline"));
            }
            _ => return Err(bad("it is no group key")),
        }
        if last.strip_prefix("check ") != Some(&check(&format!("{body}\n"))) {
            return Err(bad("it is damaged; export it again"));
        }
        let mut field = |word: &str| {
            let line = lines.next().and_then(|line| line.strip_prefix(word)?.strip_prefix(' '));
            line.ok_or_else(|| bad(&format!("its line `{word}` is missing")))
        };
        let secret = |text: &str| {
            let bytes = hex(text).ok_or_else(|| bad("a key is not 64 hexadecimal digits"))?;
            Ok::<_, Error>(Secret(bytes))
        };
        let vault = VaultId::from_str(field("vault")?).map_err(|_| bad("its vault is no id"))?;
        let name = serde_json::from_str(field("group")?).map_err(|_| bad("its group is no text"))?;
        let commitment = *secret(field("commitment")?)?.bytes();
        let names = secret(field("names")?)?;
        let mut generations = vec![secret(field("key")?)?];
        while let Ok(next) = field("key") {
            generations.push(secret(next)?);
        }
        if generations.len() > GENERATIONS_MAX || body.split('\n').count() != 4 + 1 + generations.len() {
            return Err(bad("it has lines that do not belong there"));
        }
        let keys = GroupKeys { names, generations, first: 1 };
        Ok(Self { vault, commitment, name, keys })
    }
}

/// 32 bytes from 64 hexadecimal digits.
fn hex(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(bytes)
}

/// What is known of a vault's keys.
#[derive(Clone, Debug)]
pub enum Keys {
    /// It is not sealed.
    None,
    /// All of it.
    Masters(Arc<Masters>),
    /// One group.
    Group(Arc<GroupExport>),
}

impl Keys {
    /// The id of the group of this name. Of a group that the keys do not open it is one that nothing has.
    pub fn group_id(&self, vault: VaultId, name: &str) -> GroupId {
        match self {
            Self::None => GroupId::of(vault, name),
            Self::Masters(masters) => group_id(&masters.names(vault), name),
            Self::Group(export) => export.keys.group_id(name),
        }
    }

    /// The keys of a group; `None` in a vault that is not sealed.
    pub fn group(&self, vault: VaultId, group: GroupId) -> Option<Arc<GroupKeys>> {
        match self {
            Self::None => None,
            Self::Masters(masters) => Some(Arc::new(masters.group(vault, group))),
            Self::Group(export) => Some(Arc::new(export.keys.clone())),
        }
    }

    /// What a host of this group may be given; `None` without master keys.
    pub fn export(&self, vault: VaultId, name: &str) -> Option<GroupExport> {
        let Self::Masters(masters) = self else { return None };
        let keys = masters.group(vault, self.group_id(vault, name));
        Some(GroupExport { vault, commitment: masters.commitment(vault), name: name.to_owned(), keys })
    }

    /// Whether they open this group.
    pub fn opens_id(&self, group: GroupId) -> bool {
        match self {
            Self::None | Self::Masters(_) => true,
            Self::Group(export) => export.keys.group_id(&export.name) == group,
        }
    }

    /// That they open the group of this name.
    ///
    /// # Errors
    /// `Locked`.
    pub fn check_open(&self, name: &str) -> Result<()> {
        match self {
            Self::Group(export) if export.name != name => {
                let line = format!("the key given is group {:?}'s: it does not open {name:?}", export.name);
                Err(Error::new(Kind::Locked, line))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge;

    const VAULT: VaultId = VaultId([7; 16]);

    fn keys() -> Keys {
        Keys::Masters(Arc::new(Masters::new((0..2).map(|_| Secret::draw(edge::kernel)).collect())))
    }

    #[test]
    fn what_a_host_is_given_is_its_groups_and_reads_back() {
        let keys = keys();
        let export = keys.export(VAULT, "db \"1\"\n").unwrap();
        let read: GroupExport = export.to_text().parse().unwrap();
        assert_eq!(read, export);
        let group = keys.group_id(VAULT, &export.name);
        assert_eq!(keys.group(VAULT, group).as_deref(), Some(&export.keys));
        assert_eq!(Keys::Group(Arc::new(read)).group_id(VAULT, &export.name), group);
        let other = keys.group(VAULT, keys.group_id(VAULT, "other")).unwrap();
        assert!(other.newest().1 != export.keys.newest().1 && other.hash_key() != export.keys.hash_key());
        assert!(
            keys.export(VaultId([8; 16]), &export.name).unwrap().keys.newest().1 != export.keys.newest().1
        );
    }

    #[test]
    fn a_damaged_group_key_is_refused() {
        let text = keys().export(VAULT, "db").unwrap().to_text();
        for (at, letter) in text.trim_end().char_indices() {
            for other in ['0', '1', ' ', '\n'] {
                if other != letter {
                    let mut text = text.trim_end().to_owned();
                    text.replace_range(at..at + 1, &other.to_string());
                    let error = GroupExport::from_str(&text).expect_err("it is found");
                    assert_eq!(error.kind(), Kind::Locked);
                }
            }
            assert!(GroupExport::from_str(&text[..at]).is_err());
        }
        let (body, _) = text.split_once("check ").unwrap();
        for more in ["\n", "key\n"] {
            let body = format!("{body}{more}");
            let error =
                GroupExport::from_str(&format!("{body}check {}\n", check(&body))).expect_err("it is more");
            assert!(error.line().contains("do not belong"), "{}", error.line());
        }
    }

    /// T18.
    #[test]
    fn no_secret_is_shown() {
        let keys = keys();
        let Keys::Masters(masters) = &keys else { unreachable!() };
        let shown = format!("{keys:?} {:?}", keys.export(VAULT, "db"));
        for secret in masters.generations() {
            let bytes = format!("{:?}", secret.bytes());
            assert!(!shown.contains(&bytes[1..20]) && shown.contains("Secret"), "{shown}");
        }
    }
}
