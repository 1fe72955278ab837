//! Work that may take long and never runs on the event loop (S5): the sidecar's worker does it, in order. A job
//! carries all that it needs as values; the machine says what must be durable before what by the order of jobs and
//! by what it waits for.

use crate::disk::Stamp;
use crate::format::changes::{Encoder, Header, Seal};
use crate::format::intents::LogMark;
use crate::format::meta::Meta;
use crate::id::{CutId, DiskIndex, Generation};
use crate::map::Words;
use std::collections::BTreeSet;

/// What is to be done.
#[derive(Debug)]
pub enum Job {
    /// Make maps and files for the cut that will end `open`: fresh inodes, prefaulted, the log's header durable.
    Prepare {
        /// The open generation: the freeze-to-be gets its store and preserved map, the next one its map and log.
        open: Generation,
    },
    /// Give the preserved maps of the coming freeze all their memory. Not earlier: without a freeze nobody needs it. And
    /// not later: a touch of a page for which there is no room kills the process.
    Reserve {
        /// The open generation.
        open: Generation,
    },
    /// Append the frozen maps to the change logs and make them durable; say so in the metas; and then delete older logs,
    /// which they contain (C6).
    Seal {
        /// The frozen generation.
        generation: Generation,
        /// For each disk of the group.
        disks: Vec<SealDisk>,
    },
    /// Store the metas with the new anchor, then delete the logs up to `generation`, its store and its maps (V9, C6).
    Release {
        /// The frozen generation.
        generation: Generation,
        /// Its cut.
        cut: CutId,
        /// The metas, one a disk.
        metas: Vec<Meta>,
    },
    /// Delete the store and the maps of an undone freeze; its log stays (C4).
    Forget {
        /// The frozen generation.
        generation: Generation,
        /// Its cut.
        cut: CutId,
        /// If it was not sealed: what was recorded in its logs and is relied on. The metas list it first.
        left: Vec<(DiskIndex, LogMark, Meta)>,
    },
    /// Store metas.
    StoreMeta {
        /// Comes back with the answer.
        number: u64,
        /// The disks and their metas.
        metas: Vec<(DiskIndex, Meta)>,
    },
    /// Put "resynchronization required" on the disk itself (S4). On a thread of its own: the sidecar may hang.
    Mark {
        /// The disk.
        disk: DiskIndex,
    },
    /// Make a fresh intents file, durable, for when the next cut heals the tracking of this disk (S4).
    RenewIntents {
        /// The disk.
        disk: DiskIndex,
        /// The file's name.
        name: String,
        /// Regions of failed writes: nothing else need be in it.
        regions: BTreeSet<u32>,
        /// Regions that a slot must be able to hold.
        capacity: usize,
    },
    /// Clear the mark: tracking is whole again (S4). On a thread of its own, too.
    Unmark {
        /// The disk.
        disk: DiskIndex,
    },
    /// Look whether the sidecars' file systems run out of space (C5).
    Watch,
    /// Read what the kernel says of the disks (S3). The machine syncs them, then has it stored.
    Stamp,
    /// Store metas with fresh stamps. If that fails, the older ones go on to count.
    StoreStamps {
        /// The metas, one a disk.
        metas: Vec<Meta>,
    },
    /// The clean stop, once the disks are synced: append what is open to the logs, sync them, store clean metas. The last
    /// job of a session.
    Stop {
        /// For each disk of the group; none if the stop can't be a clean one.
        disks: Vec<StopDisk>,
        /// A freeze is live: a successor in this boot goes on with the maps. Otherwise they are deleted: the logs have it
        /// all, and a stopped machine keeps no memory.
        keep_maps: bool,
    },
}

/// What sealing needs of one disk.
#[derive(Debug)]
pub struct SealDisk {
    /// The frozen map: nobody changes it any more (C3).
    pub frozen: Words,
    /// The log's header.
    pub header: Header,
    /// Goes on where eviction ended.
    pub encoder: Encoder,
    /// Where the next record goes.
    pub end: u64,
    /// Blocks of the disk.
    pub blocks: u64,
    /// All goes to a fresh inode: an append to the old one failed, so that it is dead (F6), or there is more in it than is
    /// worth keeping (promise 5).
    pub fresh: bool,
    /// The seal; its count of blocks is the machine's, asserted by the worker.
    pub seal: Seal,
    /// The meta that will list the log as sealed.
    pub meta: Meta,
}

/// What the clean stop needs of one disk.
#[derive(Debug)]
pub struct StopDisk {
    /// The open map.
    pub open: Words,
    /// The map of a freeze that no durable log holds yet.
    pub unsealed: Option<Words>,
    /// The open generation's log.
    pub header: Header,
    /// Goes on where eviction ended.
    pub encoder: Encoder,
    /// Where the next record goes.
    pub end: u64,
    /// As in [`SealDisk`].
    pub dead: bool,
    /// Blocks of the disk.
    pub blocks: u64,
    /// The disk is marked, or may be: the log that is about to be written holds all that went untracked (S4).
    pub marked: bool,
    /// The meta to be stored, with the clean flag still to be filled in.
    pub meta: Meta,
}

/// What became of a job.
#[derive(Debug)]
pub enum JobDone {
    /// [`Job::Prepare`].
    Prepared(Result<Spare, JobError>),
    /// [`Job::Reserve`].
    Reserved(Result<(), JobError>),
    /// [`Job::Seal`].
    Sealed {
        /// The frozen generation.
        generation: Generation,
        /// How it ended.
        result: Result<(), JobError>,
    },
    /// [`Job::Release`].
    Released {
        /// The frozen generation.
        generation: Generation,
        /// How it ended.
        result: Result<(), JobError>,
    },
    /// [`Job::Forget`].
    Forgotten {
        /// Whether the metas list what they must.
        result: Result<(), JobError>,
    },
    /// [`Job::StoreMeta`].
    MetaStored {
        /// Which one.
        number: u64,
        /// How it ended.
        result: Result<(), JobError>,
    },
    /// [`Job::Mark`].
    Marked {
        /// The disk.
        disk: DiskIndex,
        /// How it ended; whether the mark is durable, or is so with the disk's next sync of its inode.
        result: Result<bool, JobError>,
    },
    /// [`Job::RenewIntents`].
    IntentsRenewed {
        /// The disk.
        disk: DiskIndex,
        /// The file's name.
        name: String,
        /// As given.
        regions: BTreeSet<u32>,
        /// As given.
        capacity: usize,
        /// The sequence of the newest slot, or how it failed.
        result: Result<u64, JobError>,
    },
    /// [`Job::Unmark`].
    Unmarked {
        /// The disk.
        disk: DiskIndex,
        /// As with [`Self::Marked`].
        result: Result<bool, JobError>,
    },
    /// [`Job::Watch`]: some sidecar's file system has too little space.
    Watched {
        /// Preserving must stop.
        low: bool,
    },
    /// [`Job::Stamp`], for each disk.
    Stamped(Vec<Result<Stamp, JobError>>),
    /// [`Job::StoreStamps`].
    StampsStored,
    /// [`Job::Stop`].
    Stopped {
        /// How it ended.
        result: Result<(), JobError>,
        /// Disks whose sync failed (W6).
        unsynced: Vec<DiskIndex>,
    },
}

/// A job failed; for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobError(pub String);

/// Fresh maps and files for the next cut, made ahead so that the cut itself is one store (C1).
#[derive(Debug)]
pub struct Spare {
    /// The generation that the maps will hold.
    pub generation: Generation,
    /// The name that the next cut will have, drawn by the worker.
    pub cut: CutId,
    /// For each disk of the group, in order.
    pub disks: Vec<SpareDisk>,
    /// The preserved maps have their memory ([`Job::Reserve`]).
    pub reserved: bool,
}

/// The part of a [`Spare`] for one disk.
#[derive(Debug)]
pub struct SpareDisk {
    /// The map that will be open: all zero, prefaulted.
    pub open: Words,
    /// The preserved map of the coming freeze: all zero, sparse until the cut is near ([`Job::Reserve`]).
    pub preserved: Words,
    /// The header of the log that [`Self::open`]'s generation appends to, durable in its file.
    pub log: Header,
}
