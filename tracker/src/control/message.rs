//! What a shipper says to a tracker and what it hears. Each message is one frame ([`super::frame`]); answers to
//! [`Request::Cut`] and [`Request::Reopen`] carry descriptors, in the order that [`FrozenDisk`] gives.
//!
//! A connection begins with [`Request::Hello`]. Every request gets exactly one answer, in order.

use crate::id::{Anchor, AttachNumber, Cut, CutId, DiskId, Generation, Session, TargetId};
use bincode::{Decode, Encode};
use serde::Serialize;

/// The version of the messages; a tracker answers any other with [`Refusal::Version`].
pub const VERSION: u32 = 1;

/// What a shipper asks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// First on every connection.
    Hello {
        /// The sender's [`VERSION`].
        version: u32,
    },
    /// Takes the next attach number and so revokes the shipper that had the one before (V9).
    Attach {
        /// The target that this shipper serves.
        target: TargetId,
    },
    /// Cuts the group. The answer comes when the freeze is durable and sealed (C2).
    Cut {
        /// From [`Answer::Attached`].
        attach: AttachNumber,
        /// Freeze every block, not only those that changed.
        full: bool,
    },
    /// Hands the descriptors of the live freeze out again (a restarted shipper). Waits until it is sealed.
    Reopen {
        /// From [`Answer::Attached`].
        attach: AttachNumber,
        /// The live freeze's cut id.
        cut: CutId,
    },
    /// Asks, after the last read and before the point is put, whether the freeze is still exact (R2).
    Confirm {
        /// From [`Answer::Attached`].
        attach: AttachNumber,
        /// The freeze's cut id.
        cut: CutId,
    },
    /// Tells of an entry of the live freeze that need not hold what was cut: a checkpoint, or a fuzzy one. It says what this
    /// freeze's shipper read since the cut, so another copy of this host's memory, which has the same freeze, has no use
    /// for it. The next attach is told the last one (V10).
    Shipped {
        /// From [`Answer::Attached`].
        attach: AttachNumber,
        /// The freeze's cut id.
        cut: CutId,
        /// The hash of the entry's header.
        entry: [u8; 32],
    },
    /// Ends a freeze whose entry is published: its blocks are no longer pending (V9). Idempotent.
    Release {
        /// Must be the target of the attach.
        target: TargetId,
        /// From [`Answer::Attached`].
        attach: AttachNumber,
        /// The freeze's cut id.
        cut: CutId,
        /// The published entry.
        anchor: Anchor,
    },
    /// Forgets a freeze: its blocks stay pending and are in the next cut (C4). Idempotent.
    Undo {
        /// From [`Answer::Attached`].
        attach: AttachNumber,
        /// The freeze's cut id.
        cut: CutId,
    },
    /// Asks the tracker to compare everything at the next cut: sets the durable resynchronization mark.
    Resynchronize {
        /// From [`Answer::Attached`].
        attach: AttachNumber,
        /// Shown in status and logs.
        reason: String,
    },
    /// What `towline status` shows. Needs no attach.
    Status,
}

/// What the tracker answers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// To [`Request::Hello`].
    Hello {
        /// The tracker's [`VERSION`].
        version: u32,
    },
    /// To [`Request::Attach`].
    Attached(Attached),
    /// To [`Request::Cut`] and [`Request::Reopen`]; descriptors follow.
    Frozen(Frozen),
    /// To [`Request::Confirm`]: false if the freeze has turned fuzzy.
    Confirmed {
        /// Every frozen block can still be read as it was at the cut.
        exact: bool,
    },
    /// To [`Request::Shipped`], [`Request::Release`], [`Request::Undo`] and [`Request::Resynchronize`].
    Done,
    /// To [`Request::Status`].
    Status(Status),
    /// The request was understood and can't be done.
    Refused(Refusal),
}

/// Why a request can't be done.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Refusal {
    /// The messages' version differs; the tracker's is given.
    Version(u32),
    /// A newer shipper attached (V9). The connection closes.
    Revoked {
        /// The newest attach number.
        newest: AttachNumber,
    },
    /// A freeze is live: release, undo or finish it (C4).
    Busy {
        /// Its cut id.
        cut: CutId,
    },
    /// No freeze of this cut id is live.
    NoSuchFreeze,
    /// The anchor, target or cut id of a release does not fit the live freeze.
    Mismatch(String),
    /// Tracking is off, the tracker is read-only or a disk failed; the reason for people.
    Unable(String),
    /// The peer may not ask this.
    Denied,
    /// The message makes no sense here (no hello, unknown request).
    Protocol(String),
}

/// Answer to an attach: all that the attach table (V10) needs from the tracker's side.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Attached {
    /// To be given with every later request.
    pub attach: AttachNumber,
    /// The group's name, from the command line.
    pub group: String,
    /// The tracker's session.
    pub session: Session,
    /// The disks in their order; complete.
    pub disks: Vec<DiskInfo>,
    /// The last released entry, if any.
    pub anchor: Option<Anchor>,
    /// The live freeze, if any.
    pub live: Option<LiveFreeze>,
    /// Cuts whose frozen blocks are all still pending, the live one and undone ones, oldest first. An entry of such
    /// a cut may be the base of a claim (V2).
    pub vouched: Vec<Cut>,
}

/// A disk of the group.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DiskInfo {
    /// Its identity.
    pub id: DiskId,
    /// Its name in the group; the NBD export name, the argument of `restore --disk`.
    pub name: String,
    /// Its size in bytes; changes show in [`FrozenDisk::size`].
    pub size: u64,
    /// log2 of the block size in bytes: 12 to 20.
    pub block_shift: u8,
    /// Why the next freeze holds the whole disk, if it does.
    pub resync: Option<String>,
}

/// A freeze that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LiveFreeze {
    /// Its cut id.
    pub cut: CutId,
    /// The generation that it ended.
    pub generation: Generation,
    /// The instant of the cut, as in [`Frozen`].
    pub time_ns: u64,
    /// It is sealed and can be read.
    pub sealed: bool,
    /// It is not, or no longer, exact.
    pub fuzzy: bool,
    /// The hash of the last entry that [`Request::Shipped`] told of. Zeros, or one of an earlier freeze, if none did.
    pub shipped: [u8; 32],
}

impl LiveFreeze {
    /// The cut.
    pub fn identity(&self) -> Cut {
        Cut { id: self.cut, time_ns: self.time_ns }
    }
}

/// A sealed freeze, ready to be read.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Frozen {
    /// Its cut id.
    pub cut: CutId,
    /// The first generation whose changes it holds.
    pub first_generation: Generation,
    /// The generation that it ended.
    pub generation: Generation,
    /// The instant of the cut, in nanoseconds since 1970 (the tracker's clock).
    pub time_ns: u64,
    /// It turned fuzzy already.
    pub fuzzy: bool,
    /// The disks in the group's order; each comes with five descriptors, read-only, opened afresh (R1): the disk,
    /// the change log, the preserved map (a file of 64-bit words on tmpfs), the preserved data, and the map of what the
    /// guest has changed since the cut, which lets the shipper audit what was not frozen.
    pub disks: Vec<FrozenDisk>,
}

/// Descriptors per disk that follow a [`Frozen`].
pub const DESCRIPTORS_PER_DISK: usize = 5;

/// What is frozen of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FrozenDisk {
    /// Its identity.
    pub id: DiskId,
    /// Its size in bytes at the cut.
    pub size: u64,
    /// log2 of the block size.
    pub block_shift: u8,
    /// The disk must be read with `O_DIRECT` (W7): the same cache mode as the tracker's.
    pub direct: bool,
    /// Required alignment of direct reads, in bytes (offset, length and memory).
    pub align: u32,
    /// Its frozen blocks must be compared with the vault's hashes before they are shipped (crash recovery,
    /// resynchronization): most are expected to be equal.
    pub compare: bool,
    /// Every block is frozen.
    pub whole: bool,
    /// Frozen bytes.
    pub frozen_bytes: u64,
}

/// The tracker's state for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Status {
    /// The group's name.
    pub group: String,
    /// The tracker's session.
    pub session: u64,
    /// The open generation.
    pub generation: u64,
    /// `availability`, `strict` or `off`.
    pub tracking: String,
    /// The tracker's version.
    pub version: String,
    /// The tracker's process id.
    pub pid: u32,
    /// Seconds since it started to serve.
    pub uptime_s: u64,
    /// Where the NBD server listens.
    pub nbd: String,
    /// The newest attach number; 0: none yet.
    pub attach: u64,
    /// The state of the freeze: none, draining, synced, sealed, releasing, undoing.
    pub freeze: String,
    /// Its cut id, in hexadecimal, if one is live.
    pub cut: Option<String>,
    /// It is fuzzy, and why.
    pub fuzzy: Option<String>,
    /// The anchor as `vault/seq`, if any.
    pub anchor: Option<String>,
    /// Nanoseconds that the loop held writes for the last cut, and the longest.
    pub cut_hold_ns_last: u64,
    /// The longest hold of a cut.
    pub cut_hold_ns_max: u64,
    /// Of the last hold, what the loop's thread ran: without the time in which the host ran others.
    pub cut_cpu_ns_last: u64,
    /// The most that the loop's thread ran in a hold.
    pub cut_cpu_ns_max: u64,
    /// Cuts since start.
    pub cuts: u64,
    /// Requests that waited, by rule: intents (W1), drain (W2a), a running preserve (W2b, W3).
    pub waited_intent: u64,
    /// Requests that waited for a write of a draining generation.
    pub waited_drain: u64,
    /// Requests that waited for a preserve.
    pub waited_preserve: u64,
    /// Blocks preserved since start.
    pub preserved_blocks: u64,
    /// Writes in flight at cuts, summed.
    pub in_flight_at_cuts: u64,
    /// Writes that the guest overwrote unpreserved or failed to preserve: freezes that turned fuzzy.
    pub fuzzy_freezes: u64,
    /// Maps are locked in memory.
    pub memory_locked: bool,
    /// I/O buffers are registered with the kernel.
    pub buffers_registered: bool,
    /// Open client connections.
    pub connections: u32,
    /// The disks.
    pub disks: Vec<DiskStatus>,
}

/// The state of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct DiskStatus {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// Its path.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its block size in bytes.
    pub block_size: u64,
    /// `direct` or `buffered`.
    pub cache: String,
    /// Bytes changed in the open generation, at block granularity.
    pub dirty_bytes: u64,
    /// Bytes in the live freeze.
    pub frozen_bytes: u64,
    /// Bytes preserved for it.
    pub preserved_bytes: u64,
    /// Regions with a durable intent.
    pub intent_regions: u64,
    /// The budget of regions.
    pub intent_budget: u64,
    /// Why the disk will be resynchronized, if it will.
    pub resync: Option<String>,
    /// Tracking is degraded: intents can't be written (S4).
    pub degraded: bool,
    /// A sync of the disk failed (W6).
    pub doubtful: bool,
    /// Writes served.
    pub writes: u64,
    /// Reads served.
    pub reads: u64,
}
