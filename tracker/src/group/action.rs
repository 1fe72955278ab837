//! What goes into the machine and what comes out. The machine owns no descriptor, reads no clock and draws no
//! random number: an engine executes actions and brings back what became of them.

use crate::control::message::{Answer, Refusal};
use crate::id::{Anchor, AttachNumber, CutId, DiskIndex, Generation, TargetId};

/// The engine's name for a client's request. The machine hands it back and never looks inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// The engine's name for a question of a shipper that is answered later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// An operation that the machine asked for. The engine gives it back with the operation's outcome, exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpId(pub u32);

/// A request that the machine has taken. Valid until its [`Action::Reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub u32);

/// An error number for the guest's side: a Linux errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// What a client asks that can change bytes. Reads go past the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write the request's data; at most [`crate::limits::WRITE_MAX`] bytes.
    Write,
    /// Make the range read as zeros.
    Zero {
        /// The range need not stay allocated.
        may_punch: bool,
    },
    /// Deallocate the range: what it changes reads as zeros (W7).
    Discard,
}

/// A client's request that can change bytes.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The disk.
    pub disk: DiskIndex,
    /// What to do.
    pub change: Change,
    /// Reply only when the change is durable.
    pub fua: bool,
    /// First byte. The range lies inside the disk and is a multiple of the disk's request alignment (W9): the
    /// frontend has checked both.
    pub offset: u64,
    /// Bytes, more than 0.
    pub length: u64,
    /// Handed back in the reply and in [`Action::Submit`], so that the engine finds the data.
    pub token: Token,
}

/// A file of a disk's sidecar that the engine writes for the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SidecarFile {
    /// The intents of this session; one at a time.
    Intents,
    /// The change log of a generation.
    Changes(Generation),
    /// The preserved data of the freeze of a generation.
    Store(Generation),
}

/// What the machine wants done. Actions of one call are executed in order of the list; their effects may overlap.
#[derive(Debug)]
pub enum Action {
    /// Change bytes of a disk. For a write the data is that of `token`'s request, whole. A short write is
    /// continued by the engine until all is written or an error occurs (W5). Never cancelled once submitted.
    Submit {
        /// Completes by [`super::Group::completed`].
        id: OpId,
        /// The disk.
        disk: DiskIndex,
        /// What to do.
        change: Change,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// FUA: `RWF_DSYNC` (only on writes).
        durable: bool,
        /// The request whose data it is.
        token: Token,
    },
    /// Sync the disk. Must be handed to the kernel after every completion that the engine has already reported (C2).
    Sync {
        /// Completes by [`super::Group::completed`].
        id: OpId,
        /// The disk.
        disk: DiskIndex,
        /// With what its inode says, times and attributes: `fsync`, not `fdatasync`.
        inode: bool,
    },
    /// Copy bytes of the disk, as they are now, to the same offset of the freeze's store (W3). Completes when the
    /// whole range stands in the store's page cache; never synced.
    Preserve {
        /// Completes by [`super::Group::completed`].
        id: OpId,
        /// The disk.
        disk: DiskIndex,
        /// The freeze whose store takes the copy.
        freeze: Generation,
        /// First byte; a multiple of the block size.
        offset: u64,
        /// Bytes; a multiple of the block size but at the disk's end. At most 1 MiB or one block.
        length: u64,
    },
    /// Write bytes to a sidecar file and make them durable (`RWF_DSYNC`).
    Persist {
        /// Completes by [`super::Group::completed`].
        id: OpId,
        /// The disk whose sidecar it is.
        disk: DiskIndex,
        /// The file.
        file: SidecarFile,
        /// First byte.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Answer a client's request or flush; its [`RequestId`] is dead.
    Reply {
        /// The request.
        token: Token,
        /// How it ended.
        result: Result<(), Errno>,
    },
    /// Work for the sidecar's worker, which may take long. Jobs are done in order.
    Job(Box<super::job::Job>),
    /// Answer a shipper.
    Answer {
        /// The question.
        ticket: Ticket,
        /// The answer. For [`Answer::Frozen`] the control server adds descriptors.
        answer: Box<Answer>,
    },
    /// The disk's cached pages can't be trusted (W6, buffered): open a fresh descriptor after dropping its cache and
    /// use it for all that is submitted from now on.
    Reopen {
        /// The disk.
        disk: DiskIndex,
    },
}

impl Action {
    /// Boxed: the actions of the write path are small and many.
    pub(super) fn job(job: super::job::Job) -> Self {
        Self::Job(Box::new(job))
    }

    /// See [`Self::job`].
    pub(super) fn answer(ticket: Ticket, answer: Answer) -> Self {
        Self::Answer { ticket, answer: Box::new(answer) }
    }
}

const _: () = assert!(size_of::<Action>() <= 64, "the write path moves actions");

/// What a shipper asks of the machine. Questions that need descriptors or peer checks are the control server's.
#[derive(Clone, Debug)]
pub enum Question {
    /// Takes the next attach number.
    Attach {
        /// The target.
        target: TargetId,
    },
    /// Cuts the group.
    Cut {
        /// Who asks.
        attach: AttachNumber,
        /// Every block.
        full: bool,
    },
    /// Waits until the live freeze is sealed and describes it.
    Reopen {
        /// Who asks.
        attach: AttachNumber,
        /// Which freeze.
        cut: CutId,
    },
    /// Is it still exact?
    Confirm {
        /// Who asks.
        attach: AttachNumber,
        /// Which freeze.
        cut: CutId,
    },
    /// An entry of it that need not hold what was cut is in the log (V10).
    Shipped {
        /// Who asks.
        attach: AttachNumber,
        /// Which freeze.
        cut: CutId,
        /// The hash of the entry's header.
        entry: [u8; 32],
    },
    /// Its entry is published.
    Release {
        /// Who asks.
        attach: AttachNumber,
        /// For which target.
        target: TargetId,
        /// Which freeze.
        cut: CutId,
        /// The entry.
        anchor: Anchor,
    },
    /// Forget it.
    Undo {
        /// Who asks.
        attach: AttachNumber,
        /// Which freeze.
        cut: CutId,
    },
    /// Compare everything at the next cut.
    Resynchronize {
        /// Who asks.
        attach: AttachNumber,
        /// For people.
        reason: String,
    },
    /// The state.
    Status,
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
