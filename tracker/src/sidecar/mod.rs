//! The files of a disk beside the disk, and the order of their syncs.

use crate::error::{Error, Kind};
use crate::group::job::{Job, JobDone};
use crate::group::{Group, SidecarFile};
use crate::id::{CutId, DiskId, DiskIndex, Generation};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

/// The settings of a group, from the command line.
#[derive(Clone, Debug)]
pub struct Config {
    /// The group's name.
    pub group: String,
    /// The disks in their order.
    pub disks: Vec<DiskConfig>,
    /// log2 of the block size.
    pub block_shift: u8,
    /// log2 of the region size.
    pub region_shift: u8,
    /// Intent budget in bytes per disk.
    pub intent_budget: u64,
    /// The most bytes of preserved data per freeze and disk; `None`: only the file system's free space limits it.
    pub preserve_limit: Option<u64>,
    /// How long a preserve may take before the freeze turns fuzzy (C5).
    pub preserve_deadline: Duration,
    /// `None`: direct where the file can.
    pub direct: Option<bool>,
    /// Where sidecars live instead of beside the disk.
    pub log_dir: Option<PathBuf>,
    /// What happens when tracking fails (S4), or no tracking at all.
    pub tracking: Tracking,
    /// Serve reads only; nothing is tracked or changed.
    pub read_only: bool,
    /// Create missing disk files with this size.
    pub create: Option<u64>,
}

/// A disk on the command line.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// Its name: export name, and name in the vault.
    pub name: String,
    /// Its file or device.
    pub path: PathBuf,
}

/// What happens when tracking itself fails (S4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// The guest goes on; "resynchronization required" is durable first.
    Availability,
    /// The guest's writes wait.
    Strict,
    /// Nothing is tracked; "resynchronization required" is durable before serving.
    Off,
}

/// A disk that is open, locked and recovered: what the engine needs to serve it.
#[derive(Debug)]
pub struct OpenDisk {
    /// Its name.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
    /// Its identity.
    pub id: DiskId,
    /// The locked descriptor, open for reading and (unless read-only) writing.
    pub fd: OwnedFd,
    /// Bytes.
    pub size: u64,
    /// It is open with `O_DIRECT` (W7).
    pub direct: bool,
    /// Requests must be multiples of this, offset and length (W9): 1 in buffered mode.
    pub align: u32,
    /// Memory of direct requests must be aligned to this.
    pub memory_align: u32,
    /// The file system can do non-blocking I/O (`RWF_NOWAIT`): use the ring. Otherwise plain calls in the loop.
    pub nowait: bool,
    /// Sidecar files live in memory (tmpfs): plain calls never wait for a device.
    pub sidecar_in_memory: bool,
    /// A block device.
    pub device: bool,
    /// log2 of the block size.
    pub block_shift: u8,
}

/// A sidecar file that the worker opened for the engine.
#[derive(Debug)]
pub struct Opened {
    /// Whose sidecar.
    pub disk: DiskIndex,
    /// Which file. A later one of the same name replaces it.
    pub file: SidecarFile,
    /// Open for writing.
    pub fd: OwnedFd,
}

/// What the worker says.
#[derive(Debug)]
pub struct Report {
    /// To be installed before `done` is given to the machine.
    pub opened: Vec<Opened>,
    /// To be closed.
    pub closed: Vec<(DiskIndex, SidecarFile)>,
    /// For [`Group::job_done`].
    pub done: JobDone,
}

/// The thread that does jobs, in order.
#[derive(Debug)]
pub struct Worker {
    wakeup: OwnedFd,
}

impl Worker {
    /// Queues a job; never blocks.
    pub fn post(&self, _job: Job) {}

    /// Readable (an eventfd) when [`Self::poll`] has something; the engine reads it empty before polling.
    pub fn wakeup(&self) -> BorrowedFd<'_> {
        self.wakeup.as_fd()
    }

    /// The next report, if one is there.
    pub fn poll(&self) -> Option<Report> {
        None
    }
}

/// A group that is ready to be served.
#[derive(Debug)]
pub struct Opening {
    /// The machine, recovered.
    pub group: Group,
    /// Its worker.
    pub worker: Worker,
    /// The disks in their order.
    pub disks: Vec<OpenDisk>,
    /// Files that are open from the start.
    pub opened: Vec<Opened>,
    /// The sidecar folder of the first disk: the control socket's default home.
    pub sidecar: PathBuf,
    /// Opens what a shipper is handed.
    pub handout: Handout,
}

/// Opens read-only descriptors for a shipper (R1). Used by the control thread, never by the loop (S5).
#[derive(Clone, Debug)]
pub struct Handout {}

impl Handout {
    /// Fresh read-only descriptors of a sealed freeze: for each disk in order the disk, the change log, the
    /// preserved map and the preserved data ([`crate::control::message::DESCRIPTORS_PER_DISK`]).
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(&self, _generation: Generation, _cut: CutId) -> std::io::Result<Vec<OwnedFd>> {
        Ok(Vec::new())
    }
}

/// Opens, locks and recovers the disks of a group (DESIGN 3.5), and makes their sidecars ready.
///
/// # Errors
/// One clear line with the remedy; see [`Error`].
pub fn open(_config: &Config) -> Result<Opening, Error> {
    Err(Error::new(Kind::Other, "the sidecar is being built"))
}
