//! A folder of small files as the sidecar needs it, so that the simulator can run the same code over a file system
//! that loses what was not synced.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file being written.
pub trait FolderFile {
    /// Writes all bytes at an offset.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes everything written durable, the file's size included; its name is the folder's to sync.
    ///
    /// # Errors
    /// Whatever the file system says; the file is dead then, for a second sync could lie.
    fn sync(&self) -> io::Result<()>;

    /// Sets the file's size: sparse.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn set_len(&self, length: u64) -> io::Result<()>;
}

/// A folder.
pub trait Folder {
    /// Its files.
    type File: FolderFile;

    /// A fresh, empty inode under this name; one that was there is unlinked first, never truncated (C3).
    ///
    /// # Errors
    /// Whatever the file system says.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file for appending to it by offset.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// The content of a file.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// The names in it.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Replaces `to` by `from`.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Deletes a file; no error if there is none.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names durable.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn sync(&self) -> io::Result<()>;

    /// Whether too little space is left to go on preserving (C5).
    fn low_on_space(&self) -> bool;
}

impl FolderFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        File::set_len(self, length)
    }
}

/// A real folder.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Opens the folder, and makes it, for its owner alone, if it is missing.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn new(path: &Path) -> io::Result<Self> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {
                let parent =
                    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
                File::open(parent)?.sync_all()?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) => return Err(error),
        }
        Ok(Self(path.to_path_buf()))
    }

    /// A folder that is not looked at before its first use.
    pub(super) fn unchecked(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A fresh descriptor for reading (R1).
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open_read(&self, name: &str) -> io::Result<OwnedFd> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(self.0.join(name))?;
        Ok(file.into())
    }
}

impl Folder for Directory {
    type File = File;

    fn create(&self, name: &str) -> io::Result<File> {
        self.remove(name)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        options.open(self.0.join(name))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(self.0.join(name))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.0.join(name))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    fn low_on_space(&self) -> bool {
        let Ok(stat) = nix::sys::statvfs::statvfs(&self.0) else { return true };
        let (free, all) =
            (stat.blocks_available() * stat.fragment_size(), stat.blocks() * stat.fragment_size());
        super::low_on_space(free, all)
    }
}
