//! The disk itself, opened, locked and questioned.

use super::jobs::DiskFacts;
use crate::error::{Error, Kind};
use crate::format::meta::{Fingerprint, Mark};
use crate::sidecar::DiskConfig;
use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The extended attribute that travels with the disk.
const MARK: &CStr = c"user.towline";

/// QEMU's lock bytes (its `block/file-posix.c`): permissions in use from 100, permissions not shared from 200. 0 consistent
/// read, 1 write, 3 resize. Holding these refuses QEMU's writers and theirs refuse us (S2).
const LOCKED: [i64; 4] = [100, 101, 201, 203];
/// Bytes that somebody else must not hold: they write, or they refuse us to.
const REFUSED: [i64; 2] = [101, 201];

/// An open disk file or device.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    path: PathBuf,
    device: bool,
    /// Where the mark is kept if not in an extended attribute.
    state: Option<PathBuf>,
}

/// Gives the lock up, at the end of a clean stop: the ring's own end, and so that of the file description, comes some
/// time after the process's, and whoever waits for the process may want the disk.
///
/// # Errors
/// Whatever the kernel says.
pub fn unlock(disk: BorrowedFd<'_>) -> io::Result<()> {
    // All of QEMU's lock bytes.
    let all = libc::flock {
        l_type: libc::F_UNLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 100,
        l_len: 200,
        l_pid: 0,
    };
    nix::fcntl::fcntl(disk, nix::fcntl::FcntlArg::F_OFD_SETLK(&all))?;
    Ok(())
}

/// What was found out about a disk.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Bytes.
    pub size: u64,
    /// Open with `O_DIRECT`.
    pub direct: bool,
    /// Alignment of requests, bytes.
    pub align: u32,
    /// Alignment of memory, bytes.
    pub memory_align: u32,
    /// `RWF_NOWAIT` works.
    pub nowait: bool,
    /// A block device.
    pub device: bool,
}

/// Opens the disk; makes the file if asked to.
///
/// # Errors
/// Missing, a folder, of a bad size: one clear line each.
pub fn open(
    config: &DiskConfig,
    create: Option<u64>,
    read_only: bool,
    direct: Option<bool>,
) -> Result<(DiskFile, Probe), Error> {
    let path = &config.path;
    let shown = path.display();
    let bad = |what: String| Error::new(Kind::Disk, format!("disk {shown} {what}"));
    if let (Some(size), false) = (create, path.exists()) {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        file.and_then(|file| file.set_len(size).and_then(|()| file.sync_all()))
            .map_err(|error| Error::caused(Kind::Disk, format!("disk {shown} can't be created"), error))?;
    }
    let metadata = std::fs::metadata(path).map_err(|error| {
        let what = if error.kind() == io::ErrorKind::NotFound {
            format!("disk {shown} does not exist: check the path, or make it with --create SIZE")
        } else {
            format!("disk {shown} can't be looked at")
        };
        Error::caused(Kind::Disk, what, error)
    })?;
    if metadata.is_dir() {
        return Err(bad("is a folder: name the disk file itself".into()));
    }
    let device = metadata.file_type().is_block_device();
    if !device && !metadata.is_file() {
        return Err(bad("is neither a regular file nor a block device".into()));
    }
    let exclusive = if device && !read_only { libc::O_EXCL } else { 0 };
    let open = |flags: i32| {
        let open =
            || OpenOptions::new().read(true).write(!read_only).custom_flags(flags | exclusive).open(path);
        let mut opened = open();
        // S2: as with locks, a dead tracker's requests keep the device until they are done.
        let busy = |opened: &io::Result<File>| matches!(opened, Err(error) if error.raw_os_error() == Some(libc::EBUSY));
        let mut patience = Patience::new(path);
        while exclusive != 0 && busy(&opened) && patience.wait() {
            opened = open();
        }
        opened
    };
    let refused = |error: io::Error| match error.raw_os_error() {
        Some(libc::EBUSY) => in_use(path),
        _ => Error::caused(Kind::Disk, format!("disk {shown} can't be opened; check its permissions"), error),
    };
    let plain = open(0).map_err(refused)?;
    let size = size_of(&plain).map_err(refused)?;
    // W7: direct wherever the file supports it.
    let (file, direct) = match direct {
        Some(false) => (plain, false),
        wanted => {
            drop(plain);
            match open(libc::O_DIRECT) {
                Ok(file) => (file, true),
                Err(_) if wanted.is_none() => (open(0).map_err(refused)?, false),
                Err(error) => {
                    let what = format!("disk {shown} can't be opened with O_DIRECT: use --cache buffered");
                    return Err(Error::caused(Kind::Disk, what, error));
                }
            }
        }
    };
    let (align, memory_align) = if direct { direct_align(&file) } else { (1, 1) };
    if size == 0 || size % 512 != 0 || size % u64::from(align) != 0 {
        let sector = align.max(512);
        return Err(bad(format!(
            "has {size} bytes, which is no multiple of its sector of {sector}: resize it"
        )));
    }
    if size > crate::limits::DISK_MAX {
        return Err(bad(format!("has {size} bytes, more than {}", crate::limits::DISK_MAX)));
    }
    let nowait = nowait(&file, direct, align.max(512) as usize);
    let file = DiskFile { file, path: path.clone(), device, state: None };
    Ok((file, Probe { size, direct, align, memory_align, nowait, device }))
}

/// S2: whoever has the disk may be a dead tracker's last requests: they are waited for, and after a second that is told.
struct Patience<'a> {
    path: &'a Path,
    since: Instant,
    told: bool,
}

impl<'a> Patience<'a> {
    fn new(path: &'a Path) -> Self {
        Self { path, since: Instant::now(), told: false }
    }

    /// Waits a moment. False: long enough, somebody alive has it.
    fn wait(&mut self) -> bool {
        if self.since.elapsed() > Duration::from_secs(3) {
            return false;
        }
        if !self.told && self.since.elapsed() > Duration::from_secs(1) {
            tracing::warn!(disk = %self.path.display(), "waiting for the disk's lock");
            self.told = true;
        }
        std::thread::sleep(Duration::from_millis(5));
        true
    }
}

fn in_use(path: &Path) -> Error {
    let shown = path.display();
    Error::new(Kind::InUse, format!("disk {shown} is in use by another program: stop that one first"))
}

fn size_of(file: &File) -> io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    let mut file = file;
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    Ok(size)
}

/// What direct I/O needs: of offset and length, and of memory (statx, else a careful guess).
fn direct_align(file: &File) -> (u32, u32) {
    // SAFETY: an all-zero statx is a valid value, and the kernel fills it.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let (empty, mask) = (c"".as_ptr(), libc::STATX_DIOALIGN);
    // SAFETY: the descriptor is open, the path is empty, the buffer is a statx.
    let result = unsafe { libc::statx(file.as_raw_fd(), empty, libc::AT_EMPTY_PATH, mask, &mut found) };
    if result == 0 && found.stx_mask & libc::STATX_DIOALIGN != 0 && found.stx_dio_offset_align > 0 {
        return (found.stx_dio_offset_align, found.stx_dio_mem_align.max(1));
    }
    // tmpfs takes anything; a sector is what every client can do.
    (512, 512)
}

/// Whether a read with `RWF_NOWAIT` is understood: if not, io_uring hands everything to worker threads.
fn nowait(file: &File, direct: bool, length: usize) -> bool {
    let layout = std::alloc::Layout::from_size_align(length, 4096).expect("a small power of two");
    // SAFETY: the layout has a size above 0.
    let buffer = unsafe { std::alloc::alloc_zeroed(layout) };
    if buffer.is_null() {
        return false;
    }
    let iov = libc::iovec { iov_base: buffer.cast(), iov_len: length };
    // SAFETY: the vector names `length` bytes of ours.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &iov, 1, 0, libc::RWF_NOWAIT) };
    let understood = read >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EOPNOTSUPP);
    // SAFETY: allocated above with the same layout.
    unsafe { std::alloc::dealloc(buffer, layout) };
    let _ = direct;
    understood
}

/// Takes our lock on one more description of a disk that we have locked.
///
/// # Errors
/// Whatever the kernel says.
pub fn hold_lock(fd: &OwnedFd) -> io::Result<()> {
    for byte in LOCKED {
        nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_OFD_SETLK(&one_byte(byte, libc::F_RDLCK)))?;
    }
    Ok(())
}

fn one_byte(start: i64, kind: i32) -> libc::flock {
    let (l_type, l_whence) = (kind as i16, libc::SEEK_SET as i16);
    libc::flock { l_type, l_whence, l_start: start, l_len: 1, l_pid: 0 }
}

impl DiskFile {
    /// S2: open-file-description locks on the bytes that QEMU's tools respect. A dead tracker's requests keep its
    /// description and so its locks until they are done: we wait for them, never steal. Somebody alive is an error.
    ///
    /// # Errors
    /// Somebody else has the disk.
    pub fn lock(&self, read_only: bool) -> Result<(), Error> {
        let (hold, refuse): (&[i64], &[i64]) = if read_only { (&[100], &[201]) } else { (&LOCKED, &REFUSED) };
        let mut patience = Patience::new(&self.path);
        loop {
            match self.try_lock(hold, refuse) {
                Ok(true) => return Ok(()),
                // Mutant: whoever has it will be gone.
                Ok(false) if crate::mutant::active("lock-not-taken") => return Ok(()),
                Ok(false) if patience.wait() => {}
                Ok(false) => return Err(in_use(&self.path)),
                Err(error) => {
                    let what = format!("disk {} can't be locked", self.path.display());
                    return Err(Error::caused(Kind::InUse, what, error));
                }
            }
        }
    }

    fn try_lock(&self, hold: &[i64], refuse: &[i64]) -> io::Result<bool> {
        let lock = one_byte;
        for byte in hold {
            // Shared locks, as QEMU's are: conflicts are found by asking for the opposite byte.
            let wanted = lock(*byte, libc::F_RDLCK);
            match nix::fcntl::fcntl(&self.file, nix::fcntl::FcntlArg::F_OFD_SETLK(&wanted)) {
                Ok(_) => {}
                Err(nix::Error::EAGAIN | nix::Error::EACCES) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        for byte in refuse {
            let mut asked = lock(*byte, libc::F_WRLCK);
            // SAFETY: F_OFD_GETLK fills the flock that it is given.
            if unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_GETLK, &mut asked) } != 0 {
                return Err(io::Error::last_os_error());
            }
            if i32::from(asked.l_type) != libc::F_UNLCK {
                let release = lock(100, libc::F_UNLCK);
                let all = libc::flock { l_len: 200, ..release };
                let _ = nix::fcntl::fcntl(&self.file, nix::fcntl::FcntlArg::F_OFD_SETLK(&all));
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether somebody has it open for writing, as far as locks tell (S2).
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn is_in_use(&self) -> io::Result<bool> {
        let mut asked = one_byte(REFUSED[0], libc::F_WRLCK);
        nix::fcntl::fcntl(&self.file, nix::fcntl::FcntlArg::F_OFD_GETLK(&mut asked))?;
        Ok(i32::from(asked.l_type) != libc::F_UNLCK)
    }

    /// The same open description again: with its lock.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }

    /// Where the mark is kept for what can't carry an extended attribute (S4).
    pub fn keep_mark_in(&mut self, state: PathBuf) {
        self.state = Some(state);
    }

    /// Whether extended attributes of users work on it.
    pub fn can_carry_mark(&self) -> bool {
        !self.device
            && !matches!(self.get_attribute(), Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP))
    }

    fn get_attribute(&self) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0u8; 4096];
        // SAFETY: the buffer has the length that is told.
        let length = unsafe {
            libc::fgetxattr(self.file.as_raw_fd(), MARK.as_ptr(), value.as_mut_ptr().cast(), value.len())
        };
        if length >= 0 {
            value.truncate(length as usize);
            return Ok(Some(value));
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
            error => Err(error),
        }
    }
}

impl AsFd for DiskFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl DiskFacts for DiskFile {
    fn fingerprint(&self) -> io::Result<Fingerprint> {
        let found = self.file.metadata()?;
        if self.device {
            return device_fingerprint(&self.file, found.rdev());
        }
        let birth = found.created().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let ns = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Ok(Fingerprint {
            size: found.len(),
            inode: found.ino(),
            birth_ns: birth.map_or(0, |birth| birth.as_nanos() as i128),
            mtime_ns: ns(found.mtime(), found.mtime_nsec()),
            ctime_ns: ns(found.ctime(), found.ctime_nsec()),
        })
    }

    fn fsync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn mark(&self) -> io::Result<Option<Mark>> {
        let value = match &self.state {
            Some(path) => match std::fs::read(path) {
                Ok(value) => Some(value),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            },
            None => self.get_attribute()?,
        };
        // What can't be read as a mark is none: the sidecar says who the disk is, or it is new.
        Ok(value.and_then(|value| Mark::decode(&value).ok()))
    }

    fn set_mark(&self, mark: &Mark) -> io::Result<bool> {
        let value = mark.encode();
        if let Some(path) = &self.state {
            let new = path.with_extension("new");
            let file = File::create(&new)?;
            io::Write::write_all(&mut &file, &value)?;
            file.sync_all()?;
            std::fs::rename(&new, path)?;
            File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
            return Ok(true);
        }
        // SAFETY: the value has the length that is told.
        let result = unsafe {
            libc::fsetxattr(self.file.as_raw_fd(), MARK.as_ptr(), value.as_ptr().cast(), value.len(), 0)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(false)
    }

    fn drop_cache(&self) -> io::Result<()> {
        let all = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        Ok(nix::fcntl::posix_fadvise(&self.file, 0, 0, all)?)
    }
}

/// A block device's times are its count of writes and its sequence number.
fn device_fingerprint(file: &File, device: u64) -> io::Result<Fingerprint> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let read = |name: &str| std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/{name}"));
    let written = read("stat")?.split_whitespace().nth(6).and_then(|field| field.parse::<i128>().ok());
    let sequence = read("diskseq").ok().and_then(|text| text.trim().parse::<i128>().ok());
    Ok(Fingerprint {
        size: size_of(file)?,
        inode: 0,
        birth_ns: 0,
        mtime_ns: written.unwrap_or(0),
        ctime_ns: sequence.unwrap_or(0),
    })
}

/// The state directory for marks of disks that can't carry one.
pub fn state_path(path: &Path) -> io::Result<PathBuf> {
    let home = if nix::unistd::geteuid().is_root() {
        PathBuf::from("/var/lib/towline")
    } else {
        let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
        let base =
            base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")));
        base.ok_or_else(|| io::Error::other("neither XDG_STATE_HOME nor HOME is set"))?.join("towline")
    };
    std::fs::create_dir_all(&home)?;
    // As it was named: links that go on naming one device, whatever its number is now, stay the same.
    let full = std::path::absolute(path)?;
    let name = CString::new(full.as_os_str().as_bytes())?;
    let sum = crate::format::checksum::checksum(0, name.as_bytes());
    Ok(home.join(format!("{sum:016x}.mark")))
}
