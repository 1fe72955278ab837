//! The files of a disk beside the disk, and the order of their syncs.

pub mod disk_file;
pub mod examine;
pub mod files;
pub mod folder;
pub mod jobs;
mod look;
pub mod maps;
pub mod start;
mod worker;

use crate::disk::geometry::Geometry;
use crate::error::{Error, Kind};
use crate::format::changes;
use crate::format::checksum::checksum;
use crate::group::job::JobDone;
use crate::group::{Action, Group, GroupConfig, SidecarFile, Start};
use crate::id::{CutId, DiskId, DiskIndex, Generation, Nanos, Session, StartId};
use crate::map::Words;
use crate::map::header::GroupHeader;
use disk_file::DiskFile;
use folder::{Directory, Folder};
use jobs::Jobs;
use maps::Tmpfs;
use start::Candidate;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
pub use worker::Worker;

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
    /// The machine's first actions, to be executed before anything else.
    pub actions: Vec<Action>,
}

/// Opens read-only descriptors for a shipper (R1). Used by the control thread, never by the loop (S5).
#[derive(Clone, Debug)]
pub struct Handout {
    maps: Option<Tmpfs>,
    disks: Vec<(Directory, Arc<DiskFile>, bool)>,
}

impl Handout {
    /// Fresh read-only descriptors of a sealed freeze: for each disk in order the disk, the change log, the
    /// preserved map, the preserved data and the open map ([`crate::control::message::DESCRIPTORS_PER_DISK`]). Never a
    /// duplicate of the locked descriptor: it would carry the lock.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(&self, generation: Generation, cut: CutId) -> io::Result<Vec<OwnedFd>> {
        let maps = self.maps.as_ref().ok_or_else(|| io::Error::other("nothing is tracked"))?;
        let mut all = Vec::new();
        for (index, (folder, disk, direct)) in self.disks.iter().enumerate() {
            // W7: the same cache mode as the tracker's.
            let flags = if *direct { libc::O_DIRECT } else { 0 };
            // By descriptor: the path may name another file by now.
            let path = format!("/proc/self/fd/{}", disk.as_fd().as_raw_fd());
            all.push(OpenOptions::new().read(true).custom_flags(flags).open(path)?.into());
            all.push(sealed_log(folder, generation, cut)?);
            all.push(maps.open_read(&jobs::preserved_name(generation, index))?);
            all.push(folder.open_read(&files::store_name(cut))?);
            // While this freeze lives no other cut can be made (C4): the generation behind it stays the open one.
            all.push(maps.open_read(&jobs::map_name(generation.next(), index))?);
        }
        Ok(all)
    }
}

/// The log of the generation that is sealed for this cut; a successor may have made a second one. Of each only what
/// identifies it is read.
fn sealed_log(folder: &Directory, generation: Generation, cut: CutId) -> io::Result<OwnedFd> {
    for name in folder.names()? {
        if files::parse_log_name(&name).is_none_or(|(of, _)| of != generation) {
            continue;
        }
        let file = File::from(folder.open_read(&name)?);
        let (mut first, mut last) = ([0; changes::HEADER], [0; changes::SEALED_END]);
        let length = file.metadata()?.len();
        if length < (changes::HEADER + changes::SEALED_END) as u64 {
            continue;
        }
        file.read_exact_at(&mut first, 0)?;
        file.read_exact_at(&mut last, length - changes::SEALED_END as u64)?;
        let sealed = changes::sealed(&first, &last);
        if sealed.is_ok_and(|(header, seal)| {
            header.generation == generation && seal.is_some_and(|seal| seal.cut == cut)
        }) {
            return Ok(file.into());
        }
    }
    Err(io::Error::other("the change log of the freeze is gone"))
}

/// Too little space to go on preserving (C5): below 5 % and below the smaller of 2 GiB and 20 %.
fn low_on_space(free: u64, all: u64) -> bool {
    free < all / 20 && free < (2 << 30).min(all / 5)
}

/// Opens, locks and recovers the disks of a group (DESIGN 3.5), and makes their sidecars ready.
///
/// # Errors
/// One clear line with the remedy; see [`Error`].
pub fn open(config: &Config) -> Result<Opening, Error> {
    let mut candidates = Vec::new();
    let mut opens = Vec::new();
    let mut handout = Handout { maps: None, disks: Vec::new() };
    let mut places = Places::default();
    for disk in &config.disks {
        places.take_disk(&disk.path)?;
        let (mut file, probe) = disk_file::open(disk, config.create, config.read_only, config.direct)?;
        file.lock(config.read_only)?;
        let shown = disk.path.display();
        let home = sidecar_path(config.log_dir.as_deref(), &disk.path);
        if probe.device && config.log_dir.is_none() && !config.read_only {
            let what =
                format!("disk {shown} is a block device: say with --log-dir where its sidecar shall be");
            return Err(Error::new(Kind::Usage, what));
        }
        if !config.read_only && !file.can_carry_mark() {
            let state = disk_file::state_path(&disk.path).map_err(|error| {
                let what = format!(
                    "disk {shown} can't carry an extended attribute, and no state folder can be made"
                );
                Error::caused(Kind::Sidecar, what, error)
            })?;
            file.keep_mark_in(state);
        }
        let fd = file.duplicate().map_err(|error| Error::caused(Kind::Disk, "no descriptor", error))?;
        let geometry =
            Geometry { size: probe.size, block_shift: config.block_shift, region_shift: config.region_shift };
        if !geometry.can_number_regions() {
            let what =
                format!("disk {shown} has more regions than can be told apart; use a larger --region-size");
            return Err(Error::new(Kind::Usage, what));
        }
        let mut open = OpenDisk {
            name: disk.name.clone(),
            path: disk.path.clone(),
            id: DiskId::default(),
            fd,
            size: probe.size,
            direct: probe.direct,
            align: probe.align,
            memory_align: probe.memory_align,
            nowait: probe.nowait,
            sidecar_in_memory: false,
            device: probe.device,
            block_shift: config.block_shift,
        };
        if !config.read_only {
            let folder = Directory::new(&home).map_err(|error| {
                let what = format!("the sidecar {} can't be used; see --log-dir", home.display());
                Error::caused(Kind::Sidecar, what, error)
            })?;
            places.take_sidecar(&disk.path, &folder)?;
            let kind = nix::sys::statfs::statfs(&home).map(|found| found.filesystem_type());
            open.sidecar_in_memory = kind == Ok(nix::sys::statfs::TMPFS_MAGIC);
            let file = Arc::new(file);
            handout.disks.push((folder.clone(), file.clone(), probe.direct));
            candidates.push(Candidate {
                name: disk.name.clone(),
                path: shown.to_string(),
                folder,
                facts: file,
                geometry,
                direct: probe.direct,
                align: probe.align,
            });
        }
        opens.push(open);
    }
    let sidecar = sidecar_path(config.log_dir.as_deref(), &config.disks[0].path);
    let group_config = GroupConfig {
        name: config.group.clone(),
        session: Session(0),
        preserve_limit: config.preserve_limit,
        preserve_deadline: config.preserve_deadline,
        strict: config.tracking == Tracking::Strict,
        off: config.tracking == Tracking::Off || config.read_only,
        bounds: Default::default(),
    };
    if config.read_only {
        let (group, worker) = read_only(config, group_config, &opens)?;
        return Ok(Opening {
            group,
            worker,
            disks: opens,
            opened: Vec::new(),
            sidecar,
            handout,
            actions: Vec::new(),
        });
    }
    let name = maps_name(&config.disks);
    let maps = Tmpfs::new(Path::new("/dev/shm"), &name).map_err(|error| {
        Error::caused(Kind::Other, "the maps need a tmpfs at /dev/shm with a folder of ours", error)
    })?;
    handout.maps = Some(maps.clone());
    let now = now().map_err(|error| Error::caused(Kind::Other, "the clocks can't be read", error))?;
    let started = start::start(candidates, &maps, group_config, config.intent_budget, now, DiskId::random)?;
    for (open, home) in opens.iter_mut().zip(&started.homes) {
        open.id = home.id;
    }
    let into = |(disk, file, fd): (_, _, std::fs::File)| Opened { disk, file, fd: fd.into() };
    let start::Running { group, actions, jobs, opened } = started.run(maps, CutId::random);
    let opened = opened.into_iter().map(into).collect();
    let worker = Worker::start(jobs)
        .map_err(|error| Error::caused(Kind::Other, "the sidecar's thread can't be started", error))?;
    Ok(Opening { group, worker, disks: opens, opened, sidecar, handout, actions })
}

/// What the disks of a command line stand on: each file or device, and each sidecar, belongs to one of them. The disk's lock
/// does not tell our own hands apart from somebody else's, and paths don't tell one file from another.
#[derive(Default)]
struct Places(HashMap<(u64, u64), PathBuf>);

impl Places {
    fn take_disk(&mut self, path: &Path) -> Result<(), Error> {
        // One that is missing is complained of when it is opened.
        let Ok(found) = std::fs::metadata(path) else { return Ok(()) };
        let of =
            if found.file_type().is_block_device() { (0, found.rdev()) } else { (found.dev(), found.ino()) };
        self.take(of, path, |other, this| format!("{other} and {this} are the same disk: give it once"))
    }

    fn take_sidecar(&mut self, disk: &Path, sidecar: &Directory) -> Result<(), Error> {
        let identity = sidecar.identity();
        let of =
            identity.map_err(|error| Error::caused(Kind::Sidecar, "a sidecar can't be looked at", error))?;
        let place = sidecar.path().display();
        self.take(of, disk, |other, this| {
            format!("{other} and {this} would share the sidecar {place}: use --log-dir")
        })
    }

    fn take(
        &mut self,
        of: (u64, u64),
        path: &Path,
        told: impl Fn(std::path::Display<'_>, std::path::Display<'_>) -> String,
    ) -> Result<(), Error> {
        match self.0.insert(of, path.to_path_buf()) {
            Some(other) => Err(Error::new(Kind::Usage, told(other.display(), path.display()))),
            None => Ok(()),
        }
    }
}

/// Serving reads only: nothing is looked at, made or changed beside the disks.
fn read_only(
    config: &Config,
    group_config: GroupConfig,
    opens: &[OpenDisk],
) -> Result<(Group, Worker), Error> {
    let disks = opens.iter().map(|open| {
        let geometry =
            Geometry { size: open.size, block_shift: config.block_shift, region_shift: config.region_shift };
        crate::disk::Disk::untracked(
            open.name.clone(),
            open.path.display().to_string(),
            geometry,
            open.direct,
            open.align,
        )
    });
    let start = Start {
        config: group_config,
        header: GroupHeader::create(
            Words::private(GroupHeader::WORDS),
            Default::default(),
            Default::default(),
            Generation(1),
            &[],
            &[],
        ),
        disks: disks.collect(),
        target: None,
        anchor: None,
        vouched: Vec::new(),
        first_pending: Generation(1),
        fill: Vec::new(),
        now: Nanos(0),
    };
    let maps = Tmpfs::nowhere();
    let worker = Worker::start(Jobs { homes: Vec::new(), maps, session: Session(0), draw: CutId::random })
        .map_err(|error| Error::caused(Kind::Other, "the sidecar's thread can't be started", error))?;
    Ok((Group::new(start, &mut Vec::new()), worker))
}

/// The sidecar's folder: `<disk>.towline`; in `--log-dir`, where disks of several folders may have one name, it has a
/// checksum of the disk's place as well. The place as it was named: links that go on naming one device stay the same.
pub fn sidecar_path(log_dir: Option<&Path>, disk: &Path) -> PathBuf {
    let mut name = disk.file_name().unwrap_or_default().to_os_string();
    match log_dir {
        Some(folder) => {
            let place = std::path::absolute(disk).unwrap_or_else(|_| disk.to_path_buf());
            name.push(format!(".{:016x}.towline", checksum(0, place.as_os_str().as_encoded_bytes())));
            folder.join(name)
        }
        None => {
            name.push(".towline");
            disk.with_file_name(name)
        }
    }
}

/// The name of the group's folder of maps: by its first disk's place. Whose maps they are is in the header.
pub(crate) fn maps_name(disks: &[DiskConfig]) -> String {
    let path = std::fs::canonicalize(&disks[0].path).unwrap_or_else(|_| disks[0].path.clone());
    format!("{:016x}", checksum(0, path.as_os_str().as_encoded_bytes()))
}

/// The clocks and the boot.
fn now() -> io::Result<start::Now> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let boot = boot.trim().replace('-', "").parse().map_err(io::Error::other)?;
    let wall =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_err(io::Error::other)?;
    let clock = |id| nix::time::clock_gettime(id).map(std::time::Duration::from);
    let monotonic = clock(nix::time::ClockId::CLOCK_MONOTONIC)?.as_nanos() as u64;
    let since_boot = clock(nix::time::ClockId::CLOCK_BOOTTIME)?.as_nanos() as u64;
    let wall_ns = wall.as_nanos() as i128;
    Ok(start::Now {
        start: StartId::random(),
        boot,
        boot_ns: wall_ns - i128::from(since_boot),
        wall_ns,
        monotonic: Nanos(monotonic),
        since_boot: Nanos(since_boot),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C5, at the edges of each of the two limits, of small file systems and of large ones.
    #[test]
    fn space_is_low_below_a_twentieth_and_below_the_smaller_of_two_gib_and_a_fifth() {
        const GIB: u64 = 1 << 30;
        let rows = [
            // Small: a twentieth is below a fifth, so it alone counts.
            (0, GIB, true),
            (GIB / 20 - 1, GIB, true),
            (GIB / 20, GIB, false),
            (GIB / 5 - 1, GIB, false),
            (GIB, GIB, false),
            // At 40 GiB a twentieth is 2 GiB.
            (2 * GIB - 1, 40 * GIB, true),
            (2 * GIB, 40 * GIB, false),
            // Large: 2 GiB are enough however small a part they are.
            (2 * GIB - 1, 1000 * GIB, true),
            (2 * GIB, 1000 * GIB, false),
            (49 * GIB, 1000 * GIB, false),
            // Nothing there: nothing to preserve into, and nothing that could be less.
            (0, 0, false),
        ];
        for (free, all, low) in rows {
            assert_eq!(low_on_space(free, all), low, "{free} of {all}");
        }
    }
}
