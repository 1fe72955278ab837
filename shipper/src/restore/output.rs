//! Where a disk is restored to: a new file that gets its name when it is whole, or a block device, in place.

use crate::{Error, Kind, Result};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::fstatvfs;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// An open output.
pub struct Output {
    file: File,
    target: PathBuf,
    kind: OutputKind,
}

enum OutputKind {
    /// A file without a name yet.
    Unnamed { force: bool },
    /// A file under a temporary name, where the file system knows no unnamed files; removed unless committed.
    Temporary { path: Temporary, force: bool },
    /// A block device.
    Device,
}

/// Removes the file of this name when dropped, unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Output {
    /// An output of `size` bytes at `target`. A file is sparse and all holes at first.
    ///
    /// # Errors
    /// `OutputExists` without `force`, for a folder also with it; `NoSpace` for a device that is too small or a file
    /// system that can't have such a file; the file system's.
    pub fn create(target: &Path, size: u64, force: bool) -> Result<Self> {
        let at = target.display();
        match fs::metadata(target) {
            Ok(meta) if meta.is_dir() => {
                let line = format!("{at} is a folder; give the path of a file, as --to {at}/disk.raw");
                return Err(Error::new(Kind::OutputExists, line));
            }
            Ok(_) if !force => {
                let line = format!("{at} exists; give another path, or --force to replace it");
                return Err(Error::new(Kind::OutputExists, line));
            }
            Ok(meta) if meta.file_type().is_block_device() => return Self::device(target, size),
            Ok(meta) if !meta.is_file() => {
                return Err(Error::new(
                    Kind::OutputExists,
                    format!("{at} is neither a file nor a block device"),
                ));
            }
            Ok(_) => refuse_in_use(target)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format_args!("{at} can't be looked at"), error)),
        }
        let folder = folder(target);
        let unnamed =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(&folder);
        let (file, kind) = match unnamed {
            Ok(file) => (file, OutputKind::Unnamed { force }),
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) =>
            {
                let path = temporary_name(target);
                let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
                let file =
                    file.map_err(|error| Error::io(format_args!("{} can't be made", path.display()), error))?;
                (file, OutputKind::Temporary { path: Temporary(path), force })
            }
            Err(error) => {
                return Err(Error::io(format_args!("no file can be made in {}", folder.display()), error));
            }
        };
        file.set_len(size).map_err(|error| Error::io(format_args!("{at} can't be {size} bytes"), error))?;
        Ok(Self { file, target: target.to_owned(), kind })
    }

    fn device(target: &Path, size: u64) -> Result<Self> {
        let at = target.display();
        refuse_in_use(target)?;
        // O_EXCL: a device that is mounted or otherwise in use is refused.
        let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(target);
        let mut file = opened.map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => in_use(target),
            _ => Error::io(format_args!("{at} can't be opened for writing"), error),
        })?;
        let there = file
            .seek(SeekFrom::End(0))
            .map_err(|error| Error::io(format_args!("{at} has no size"), error))?;
        if there < size {
            let line = format!("{at} has {there} bytes and the disk {size}; give a larger device");
            return Err(Error::new(Kind::NoSpace, line));
        }
        Ok(Self { file, target: target.to_owned(), kind: OutputKind::Device })
    }

    /// A file that is treated as a device is.
    #[cfg(test)]
    pub(super) fn in_place(file: File, target: &Path) -> Self {
        Self { file, target: target.to_owned(), kind: OutputKind::Device }
    }

    /// Whether it reads as zeros where nothing was written.
    pub fn is_fresh(&self) -> bool {
        !matches!(self.kind, OutputKind::Device)
    }

    /// Free bytes where a new file is made; `None` for a device.
    ///
    /// # Errors
    /// The file system's.
    pub fn free_space(&self) -> Result<Option<u64>> {
        if !self.is_fresh() {
            return Ok(None);
        }
        let stat = fstatvfs(&self.file).map_err(|error| self.failed(error.into()))?;
        Ok(Some(stat.blocks_available().saturating_mul(stat.fragment_size())))
    }

    /// Writes data.
    ///
    /// # Errors
    /// `NoSpace`, the file system's.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.file.write_all_at(data, offset).map_err(|error| self.failed(error))
    }

    /// Makes a range read as zeros.
    ///
    /// # Errors
    /// The device's.
    pub fn zero(&self, offset: u64, length: u64) -> Result<()> {
        let (Ok(from), Ok(bytes)) = (i64::try_from(offset), i64::try_from(length)) else {
            return Err(Error::new(Kind::Other, "the disk is too large for this system"));
        };
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if fallocate(&self.file, flags, from, bytes).is_ok() {
            return Ok(());
        }
        let zeros = vec![0; 1 << 20];
        let mut at = offset;
        while at < offset + length {
            let step = usize::try_from(offset + length - at).unwrap_or(zeros.len()).min(zeros.len());
            self.write(at, &zeros[..step])?;
            at += step as u64;
        }
        Ok(())
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// The file system's: then nothing of the output is to be believed.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| self.failed(error))
    }

    /// Gives the file its name, durably.
    ///
    /// # Errors
    /// `OutputExists` if something appeared there meanwhile; the file system's.
    pub fn commit(self) -> Result<()> {
        let (temporary, force) = match self.kind {
            OutputKind::Device => return Ok(()),
            OutputKind::Temporary { ref path, force } => (path.0.clone(), force),
            OutputKind::Unnamed { force: false } => {
                return self.link(&self.target).and_then(|()| self.sync_folder());
            }
            OutputKind::Unnamed { force: true } => {
                // A link never replaces: link beside it, then rename.
                let path = temporary_name(&self.target);
                self.link(&path)?;
                (path, true)
            }
        };
        let temporary = Temporary(temporary);
        let moved = match force {
            true => fs::rename(&temporary.0, &self.target),
            false => fs::hard_link(&temporary.0, &self.target),
        };
        moved.map_err(|error| self.failed(error))?;
        drop(temporary);
        self.sync_folder()
    }

    fn link(&self, path: &Path) -> Result<()> {
        let proc = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        nix::unistd::linkat(
            nix::fcntl::AT_FDCWD,
            &proc,
            nix::fcntl::AT_FDCWD,
            path,
            nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW,
        )
        .map_err(|error| self.failed(error.into()))
    }

    fn sync_folder(&self) -> Result<()> {
        File::open(folder(&self.target))
            .and_then(|folder| folder.sync_all())
            .map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> Error {
        let at = self.target.display();
        match error.kind() {
            io::ErrorKind::AlreadyExists => {
                let line = format!("{at} appeared meanwhile; give another path, or --force to replace it");
                Error::new(Kind::OutputExists, line)
            }
            _ => Error::io(format_args!("{at} can't be written"), error),
        }
    }
}

/// A disk that a tracker or an emulator has open must not be replaced: it would go on writing into the old file,
/// which nobody sees any more, or over what was restored. Both lock bytes of the file (S2).
fn refuse_in_use(target: &Path) -> Result<()> {
    let at = target.display();
    let file = File::open(target).map_err(|error| Error::io(format_args!("{at} can't be opened"), error))?;
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_GETLK(&mut lock))
        .map_err(|error| Error::io(format_args!("{at} can't be asked for its locks"), error.into()))?;
    if i32::from(lock.l_type) == libc::F_UNLCK {
        return Ok(());
    }
    Err(in_use(target))
}

fn in_use(target: &Path) -> Error {
    let at = target.display();
    let line = format!("{at} is in use by another process or mounted; stop that, or restore to another path");
    Error::new(Kind::OutputExists, line)
}

fn folder(target: &Path) -> PathBuf {
    match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn temporary_name(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let short: String = name.chars().take(32).collect();
    folder(target).join(format!(".{short}.{}.part", towline_tracker::id::CutId::random()))
}
