//! What fails, and how.

use crate::live::process::Running;
use crate::live::room::{Room, Stalled};

/// A fault of the sidecar's file system or of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// No space is left beside the disk (F25).
    Full,
    /// Nobody answers who asks the sidecar's file system for a write (F29).
    Stalled,
    /// The sidecar's file system takes no writes any more (F28).
    ReadOnly,
    /// The sidecar's device is gone: every call on it fails (F28).
    Gone,
    /// No inode is left beside the disk (F25).
    NoNames,
    /// The sidecar is unmounted lazily: its place is empty, and who has it open has it still (F28).
    Detached,
    /// The vault's file system does not answer (F30).
    VaultStalled,
    /// The shipper does nothing (F30).
    ShipperStopped,
    /// No space is left in the vault (F30).
    VaultFull,
}

impl Fault {
    /// All, in their order.
    pub const ALL: [Self; 9] = [
        Self::Full,
        Self::Stalled,
        Self::ReadOnly,
        Self::Gone,
        Self::NoNames,
        Self::Detached,
        Self::VaultStalled,
        Self::ShipperStopped,
        Self::VaultFull,
    ];

    /// Its words in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Stalled => "stalled",
            Self::ReadOnly => "read-only",
            Self::Gone => "gone",
            Self::NoNames => "no inodes",
            Self::Detached => "unmounted",
            Self::VaultStalled => "vault stalled",
            Self::ShipperStopped => "shipper stopped",
            Self::VaultFull => "vault full",
        }
    }

    /// The guest's side has nothing to do with it.
    pub fn is_of_the_store(self) -> bool {
        matches!(self, Self::VaultStalled | Self::ShipperStopped | Self::VaultFull)
    }

    /// Whether changes can no longer be recorded; none: that depends on when it begins.
    pub fn ends_tracking(self) -> Option<bool> {
        match self {
            Self::Full | Self::Stalled | Self::ReadOnly | Self::Gone => Some(true),
            // A cut's files have their inodes; a meta that is replaced needs one.
            Self::NoNames => None,
            Self::Detached | Self::VaultStalled | Self::ShipperStopped | Self::VaultFull => Some(false),
        }
    }

    /// The room that it needs, for the sidecar or the vault.
    pub(super) fn room(self, in_memory: bool, mib: u64) -> Room {
        match self {
            Self::NoNames => Room::of_few_names(mib),
            Self::Full if in_memory => Room::memory(mib),
            _ => Room::disk(mib),
        }
    }

    /// Brings it about.
    pub(super) fn begin<'a>(self, room: &'a Room, shipper: &Running) -> Option<Stalled<'a>> {
        match self {
            Self::Full | Self::VaultFull => room.fill(),
            Self::Stalled | Self::VaultStalled => return Some(room.stall()),
            Self::ReadOnly => room.make_read_only(),
            Self::Gone => room.break_off(),
            Self::NoNames => room.take_all_names(),
            Self::Detached => room.detach(),
            Self::ShipperStopped => shipper.signal(libc::SIGSTOP),
        }
        None
    }

    /// It goes on: what the tracker gives back is taken too.
    pub(super) fn go_on(self, room: &Room) {
        if self == Self::Full {
            room.fill();
        }
    }

    /// Ends it, as far as it can be ended from outside; a stall ends with what [`Self::begin`] gave.
    pub(super) fn end(self, room: &Room, shipper: &Running) {
        match self {
            Self::Full | Self::VaultFull => room.free(),
            Self::NoNames => room.give_names(),
            Self::ShipperStopped => shipper.signal(libc::SIGCONT),
            Self::Stalled | Self::VaultStalled | Self::ReadOnly | Self::Gone | Self::Detached => {}
        }
    }
}
