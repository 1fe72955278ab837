//! Names and numbers that cross files, messages and crates. Two numbers that could be confused are two types.

use bincode::{Decode, Encode};
use std::fmt;
use std::str::FromStr;

/// Writes 16 bytes as 32 hexadecimal digits, at once: names of objects are made of them.
///
/// # Errors
/// The formatter's.
pub fn hex(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    f.write_str(std::str::from_utf8(&text).expect("digits"))
}

/// Makes a random 128-bit name type, printed as 32 hexadecimal digits.
macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Encode, Decode)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Draws a new one from the kernel.
            pub fn random() -> Self {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
                Self(bytes)
            }

            /// The name as two little-endian words, for headers made of words.
            pub fn words(&self) -> [u64; 2] {
                let (low, high) = self.0.split_at(8);
                [u64::from_le_bytes(low.try_into().expect("8 bytes")), u64::from_le_bytes(high.try_into().expect("8 bytes"))]
            }

            /// The inverse of [`Self::words`].
            pub fn from_words(words: [u64; 2]) -> Self {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&words[0].to_le_bytes());
                bytes[8..].copy_from_slice(&words[1].to_le_bytes());
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                if text.len() != 32 || !text.bytes().all(|letter| letter.is_ascii_hexdigit()) {
                    return Err(BadId);
                }
                let digit = |letter: u8| char::from(letter).to_digit(16).expect("looked at") as u8;
                let mut bytes = [0; 16];
                for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    *byte = digit(pair[0]) << 4 | digit(pair[1]);
                }
                Ok(Self(bytes))
            }
        }
    };
}

/// The text is not 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadId;

impl fmt::Display for BadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id is 32 hexadecimal digits")
    }
}

impl std::error::Error for BadId {}

id128! {
    /// A tracked disk, drawn at its first attach; kept in its sidecar and in an extended attribute of the disk.
    DiskId
}
id128! {
    /// The random name of a cut.
    CutId
}

/// A cut for certain. Its id alone does not say which one it is: it is drawn before its cut, and two trackers that went on
/// from one host's memory (a clone, a snapshot that was resumed twice) cut under the same one, at two instants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Cut {
    /// Its name.
    pub id: CutId,
    /// Its instant, nanoseconds since 1970.
    pub time_ns: u64,
}

id128! {
    /// The random name of a vault.
    VaultId
}
id128! {
    /// A vault that a group replicates to. Until a group has several targets it equals the vault's id.
    TargetId
}
id128! {
    /// One boot of the host, as the kernel names it.
    BootId
}

/// Makes a number type.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug, Encode, Decode)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// The time between two cuts of a group; never reused. A session that can't go on with the maps of the one
    /// before it starts at `session << 32`, so no write is needed to keep the promise.
    Generation
}
number! {
    /// One run of a tracker on a group; rises durably before it serves. Below 2^31.
    Session
}
number! {
    /// Rises with each shipper that attaches; only the newest may cut, confirm, release or undo.
    AttachNumber
}

number! {
    /// The random name of one attempt to start a session. Two attempts may use one session number, if the first failed;
    /// what stands in memory and what stands beside the disk are of the same attempt only if their names are equal (S1).
    StartId
}

impl StartId {
    /// Draws a new one from the kernel.
    pub fn random() -> Self {
        Self(getrandom::u64().expect("the kernel gives random bytes"))
    }
}

impl Generation {
    /// The first generation of a session that starts with fresh maps.
    pub fn first_of(session: Session) -> Self {
        Self(session.0 << 32)
    }

    /// The generation after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What the tracker knows of a target: the last released entry of the group's log (DESIGN 2, V9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Anchor {
    /// The vault that holds the log.
    pub vault: VaultId,
    /// The entry's number in the group's log.
    pub seq: u64,
    /// The entry's hash (BLAKE3 over its header).
    pub hash: [u8; 32],
}

/// A disk of the group, by its place in the order of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiskIndex(pub u16);

impl DiskIndex {
    /// For indexing slices.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Nanoseconds of the monotonic clock. Logic takes time as a value and reads no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The instant `later` after this one.
    pub fn after(self, later: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_nanos()).unwrap_or(u64::MAX)))
    }
}
