//! `disk.meta`: what is durably known of a disk. Replaced atomically, its folder synced.

use super::envelope::{self, BadFile};
use crate::codec;
use crate::id::{Anchor, BootId, Cut, DiskId, Generation, Session, StartId, TargetId};
use bincode::{Decode, Encode};

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"TWLMET\x1a\n";
/// 1: first version.
pub const VERSION: u16 = 1;

/// What the kernel says of a disk file, to notice a change behind our back (S3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Fingerprint {
    /// Bytes.
    pub size: u64,
    /// Inode; 0 for a block device.
    pub inode: u64,
    /// Birth, nanoseconds since 1970; 0 if the file system has none.
    pub birth_ns: i128,
    /// Last change of content; for a block device its count of sectors written.
    pub mtime_ns: i128,
    /// Last change of the inode; for a block device its disk sequence number.
    pub ctime_ns: i128,
}

/// A change log that recovery needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LogLength {
    /// Its generation.
    pub generation: Generation,
    /// Bytes that are known to be durable.
    pub length: u64,
}

/// A change log that is not released, and that a start must find again unless a later sealed log contains it: a file that
/// is missing or short was lost, not released (promise 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PendingLog {
    /// Its generation.
    pub generation: Generation,
    /// The session that made it.
    pub session: Session,
    /// Bytes that are known to be durable.
    pub length: u64,
    /// It is sealed, for this cut. An entry of the cut may be in a vault, also if the log can't be read (V2).
    pub cut: Option<Cut>,
}

/// The most pending logs that a meta lists. A session without a cut leaves one; from a few on the machine cuts for itself.
pub const LOGS_MAX: usize = 256;

/// A clean stop.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Clean {
    /// The disk at the stop, after an fsync.
    pub fingerprint: Fingerprint,
    /// The open generation's log, which holds the whole open map.
    pub log: LogLength,
}

/// Why frozen blocks must be compared with the vault (DESIGN 2: resynchronization).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Recheck {
    /// Every freeze that ends this generation or a later one is compared; the release of one ends the matter.
    pub since: Generation,
    /// The whole disk, not only what is marked.
    pub whole: bool,
    /// For people.
    pub reason: String,
}

/// The content of `disk.meta`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Meta {
    /// The disk.
    pub disk: DiskId,
    /// The disks of its group, itself included, in order: only they share its generations and its anchor.
    pub members: Vec<DiskId>,
    /// Bytes.
    pub size: u64,
    /// log2 of the block size.
    pub block_shift: u8,
    /// log2 of the region size.
    pub region_shift: u8,
    /// The session that serves, or served last.
    pub session: Session,
    /// The start that made it: the maps that continue this session name it too (S1).
    pub start: StartId,
    /// The boot in which it served.
    pub boot: BootId,
    /// The name of the intents file in force.
    pub intents: String,
    /// Set by a clean stop, cleared before serving.
    pub clean: Option<Clean>,
    /// The disk as of the last fsync that we waited for.
    pub stamp: Fingerprint,
    /// When that was, nanoseconds since 1970.
    pub stamped_ns: i128,
    /// Undone cuts whose frozen blocks are all pending (V2); the newest ones.
    pub vouched: Vec<Cut>,
    /// Comparison required.
    pub recheck: Option<Recheck>,
    /// A sync failed: a host crash means resynchronization (W6).
    pub doubtful: bool,
    /// The target of the anchor.
    pub target: Option<TargetId>,
    /// The last released entry.
    pub anchor: Option<Anchor>,
    /// The generation that it released: logs up to it are done with.
    pub released: Generation,
    /// Pending logs that the marks in this session's intents don't name: those of dead sessions, and those that this one
    /// has sealed or left unsealed. Who stores the meta fills it in ([`crate::sidecar::jobs::Home::logs`]); the machine only
    /// counts them.
    pub logs: Vec<PendingLog>,
}

impl Meta {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        envelope::wrap(MAGIC, VERSION, &codec::encode::<_, { envelope::BODY_MAX }>(self))
    }

    /// The content of a file.
    ///
    /// # Errors
    /// Another file, a newer version, or damage.
    pub fn decode(file: &[u8]) -> Result<Self, BadFile> {
        let body = envelope::unwrap(MAGIC, VERSION, file)?;
        codec::decode::<_, { envelope::BODY_MAX }>(body).map_err(|_| BadFile::Damaged)
    }
}

/// The mark that travels with the disk: an extended attribute of the file (S4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Mark {
    /// The disk.
    pub disk: DiskId,
    /// Resynchronization is required: writes went untracked.
    pub untracked: bool,
}

/// First bytes of the mark.
pub const MARK_MAGIC: [u8; 8] = *b"TWLMRK\x1a\n";

impl Mark {
    /// The attribute's value. Both states have the same length, so that setting it needs no new space.
    pub fn encode(&self) -> Vec<u8> {
        envelope::wrap(MARK_MAGIC, VERSION, &codec::encode::<_, 64>(self))
    }

    /// The mark in an attribute's value.
    ///
    /// # Errors
    /// Another value, a newer version, or damage.
    pub fn decode(value: &[u8]) -> Result<Self, BadFile> {
        codec::decode::<_, 64>(envelope::unwrap(MARK_MAGIC, VERSION, value)?).map_err(|_| BadFile::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::CutId;
    use crate::limits::clip_reason;

    fn meta() -> Meta {
        Meta {
            disk: DiskId([1; 16]),
            members: vec![DiskId([1; 16])],
            size: 1 << 30,
            block_shift: 12,
            region_shift: 22,
            session: Session(4),
            start: StartId(7),
            boot: BootId([2; 16]),
            intents: "4.intents".into(),
            clean: None,
            stamp: Fingerprint::default(),
            stamped_ns: 0,
            vouched: vec![Cut { id: CutId([5; 16]), time_ns: 5 }],
            recheck: Some(Recheck { since: Generation(3), whole: true, reason: "asked for".into() }),
            doubtful: false,
            target: None,
            anchor: None,
            released: Generation(2),
            logs: vec![PendingLog {
                generation: Generation(3),
                session: Session(4),
                length: 128,
                cut: Some(Cut { id: CutId([6; 16]), time_ns: 6 }),
            }],
        }
    }

    /// F5: rot.
    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let file = meta().encode();
        assert_eq!(Meta::decode(&file).unwrap(), meta());
        // Miri is slow.
        let (bits, lengths) = if cfg!(miri) { (101, 17) } else { (1, 1) };
        for bit in (0..file.len() * 8).step_by(bits) {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::decode(&bad).is_err(), "bit {bit}");
        }
        for length in (0..file.len()).step_by(lengths) {
            assert!(Meta::decode(&file[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn the_largest_meta_fits_its_envelope() {
        let mut meta = meta();
        meta.members = vec![DiskId::default(); crate::limits::DISKS_MAX];
        meta.vouched = vec![Cut::default(); 64];
        meta.logs = vec![meta.logs[0]; LOGS_MAX];
        meta.recheck.as_mut().unwrap().reason = clip_reason(&"x".repeat(1 << 16)).to_owned();
        meta.intents = "x".repeat(255);
        assert_eq!(Meta::decode(&meta.encode()), Ok(meta));
    }

    #[test]
    fn a_mark_keeps_its_length() {
        let mark = |untracked| Mark { disk: DiskId([1; 16]), untracked };
        assert_eq!(mark(true).encode().len(), mark(false).encode().len());
        assert_eq!(Mark::decode(&mark(true).encode()), Ok(mark(true)));
    }

    #[test]
    fn a_newer_version_is_named() {
        let file = envelope::wrap(MAGIC, VERSION + 1, b"?");
        assert_eq!(Meta::decode(&file), Err(BadFile::Newer(VERSION + 1)));
    }
}
