//! A folder of small files as the sidecar needs it, so that the simulator can run the same code over a file system
//! that loses what was not synced.

use nix::dir::Dir;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, fcntl, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

    /// The content of a small file.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        io::Read::read_to_end(&mut self.reader(name)?, &mut content)?;
        Ok(content)
    }

    /// Reads a file from its beginning, whatever its size.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn reader(&self, name: &str) -> io::Result<impl io::Read>;

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

/// A real folder, by its descriptor: whatever becomes of its path, these are its files. Names of files that we didn't make
/// are not followed or believed, for a link planted among them would have us overwrite, or hand out, what it leads to.
#[derive(Clone, Debug)]
pub struct Directory {
    fd: Arc<OwnedFd>,
    path: PathBuf,
}

impl Directory {
    /// Opens the folder, and makes it, for its owner alone, if it is missing.
    ///
    /// # Errors
    /// Whatever the file system says; a link in the folder's place; a folder of another user.
    pub fn new(path: &Path) -> io::Result<Self> {
        Self::open_or(path, true)
    }

    /// Opens the folder.
    ///
    /// # Errors
    /// As [`Self::new`], and `NotFound`.
    pub fn existing(path: &Path) -> io::Result<Self> {
        Self::open_or(path, false)
    }

    fn open_or(path: &Path, make: bool) -> io::Result<Self> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        // Links further up are the operator's own.
        let parent = openat(AT_FDCWD, parent, flags, Mode::empty())?;
        match if make { mkdirat(&parent, name, Mode::S_IRWXU) } else { Err(nix::Error::EEXIST) } {
            Ok(()) => nix::unistd::fsync(&parent)?,
            Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let opened = openat(&parent, name, flags | OFlag::O_NOFOLLOW, Mode::empty());
        let fd = File::from(opened.map_err(|error| link_or(error, "it is a link, or no folder"))?);
        ours("folder", fd.metadata()?.uid(), 1)?;
        Ok(Self { fd: Arc::new(fd.into()), path: path.to_path_buf() })
    }

    /// Where it is, for people.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which folder it is: its device and inode.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let found = nix::sys::stat::fstat(&self.fd)?;
        Ok((found.st_dev, found.st_ino))
    }

    /// A fresh descriptor for reading (R1).
    ///
    /// # Errors
    /// Whatever the file system says; a file that is not ours alone.
    pub fn open_read(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(self.open_as(name, OFlag::O_RDONLY)?.into())
    }

    /// Opens a file that we made: a regular one, under this one name, of this user.
    fn open_as(&self, name: &str, access: OFlag) -> io::Result<File> {
        // O_NONBLOCK: whoever put a pipe there would stop us for ever.
        let flags = access | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let opened = openat(&self.fd, plain(name)?, flags, Mode::empty());
        let file = File::from(opened.map_err(|error| link_or(error, &format!("{name} is a link")))?);
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other(format!("{name} is no regular file")));
        }
        ours(name, found.uid(), found.nlink())?;
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
        Ok(file)
    }
}

/// A file of another user, or one that has a second name somewhere, may be changed by others, or be theirs to lose.
fn ours(name: &str, owner: u32, names: u64) -> io::Result<()> {
    let me = nix::unistd::geteuid().as_raw();
    // Root's files are believed: who could plant them could do anything.
    if owner != me && owner != 0 {
        return Err(io::Error::other(format!("{name} belongs to user {owner}, and this is user {me}")));
    }
    if names != 1 {
        return Err(io::Error::other(format!("{name} has {names} names (hard links)")));
    }
    Ok(())
}

/// A name within the folder and nothing else: some of them come out of files.
fn plain(name: &str) -> io::Result<&str> {
    let inside = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    if inside { Ok(name) } else { Err(io::Error::other(format!("{name:?} is no file's name"))) }
}

/// What `O_NOFOLLOW` answers to a link, in words.
fn link_or(error: nix::Error, link: &str) -> io::Error {
    match error {
        nix::Error::ELOOP | nix::Error::ENOTDIR => io::Error::other(link.to_owned()),
        error => error.into(),
    }
}

impl Folder for Directory {
    type File = File;

    fn create(&self, name: &str) -> io::Result<File> {
        self.remove(name)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(&self.fd, plain(name)?, flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into())
    }

    fn open(&self, name: &str) -> io::Result<File> {
        self.open_as(name, OFlag::O_RDWR)
    }

    fn reader(&self, name: &str) -> io::Result<impl io::Read> {
        self.open_as(name, OFlag::O_RDONLY)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        // A description of its own: reading moves it.
        let mut folder = Dir::openat(&self.fd, ".", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut names = Vec::new();
        for entry in folder.iter() {
            names.extend(
                entry?.file_name().to_str().ok().filter(|name| plain(name).is_ok()).map(str::to_owned),
            );
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.fd, plain(from)?, &self.fd, plain(to)?)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.fd, plain(name)?, UnlinkatFlags::NoRemoveDir) {
            Err(error) if error != nix::Error::ENOENT => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        Ok(nix::unistd::fsync(self.fd.as_fd())?)
    }

    fn low_on_space(&self) -> bool {
        let Ok(stat) = nix::sys::statvfs::fstatvfs(&self.fd) else { return true };
        let (free, all) =
            (stat.blocks_available() * stat.fragment_size(), stat.blocks() * stat.fragment_size());
        super::low_on_space(free, all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn place() -> (tempfile::TempDir, Directory) {
        let place = tempfile::tempdir().unwrap();
        let folder = Directory::new(&place.path().join("sidecar")).unwrap();
        (place, folder)
    }

    /// FAILURES F50: a link in the place of the folder or of a file leads nowhere, whoever planted it.
    #[test]
    fn a_link_in_the_place_of_the_folder_or_a_file_is_not_followed() {
        let (place, folder) = place();
        let treasure = place.path().join("treasure");
        fs::write(&treasure, "precious").unwrap();
        symlink(&treasure, folder.path().join("soft")).unwrap();
        fs::hard_link(&treasure, folder.path().join("hard")).unwrap();
        nix::unistd::mkfifo(&folder.path().join("pipe"), Mode::S_IRWXU).unwrap();
        for (name, told) in [("soft", "is a link"), ("hard", "2 names"), ("pipe", "no regular file")] {
            for refused in [folder.open(name).err(), folder.open_read(name).err(), folder.read(name).err()] {
                assert!(refused.expect("refused").to_string().contains(told), "{name}");
            }
        }
        // What is made anew takes the name and leaves the thing alone.
        for name in ["soft", "hard", "pipe"] {
            folder.create(name).unwrap().write_all_at(b"ours", 0).unwrap();
            assert_eq!(folder.read(name).unwrap(), b"ours");
        }
        assert_eq!(fs::read(&treasure).unwrap(), b"precious");
        let there = place.path().join("elsewhere");
        fs::create_dir(&there).unwrap();
        let link = place.path().join("link");
        symlink(&there, &link).unwrap();
        assert!(Directory::new(&link).unwrap_err().to_string().contains("a link"));
        symlink(place.path().join("nowhere"), place.path().join("dangling")).unwrap();
        assert!(Directory::new(&place.path().join("dangling")).is_err());
        assert!(Directory::new(&treasure).is_err(), "a file");
        assert_eq!(fs::read_dir(&there).unwrap().count(), 0);
    }

    #[test]
    fn a_name_leads_out_of_the_folder_never() {
        let (place, folder) = place();
        fs::write(place.path().join("outside"), "precious").unwrap();
        for name in ["../outside", "/etc/passwd", ".", "..", "", "a/b"] {
            assert!(folder.read(name).is_err() && folder.create(name).is_err(), "{name}");
            assert!(folder.remove(name).is_err() && folder.rename("x", name).is_err(), "{name}");
        }
        assert!(place.path().join("outside").exists());
    }

    /// FAILURES F50, T14: who renames the folder away and puts another in its place changes nothing.
    #[test]
    fn the_folder_stays_the_one_that_was_opened() {
        let (place, folder) = place();
        folder.create("mine").unwrap();
        fs::rename(folder.path(), place.path().join("away")).unwrap();
        fs::create_dir(folder.path()).unwrap();
        fs::write(folder.path().join("mine"), "planted").unwrap();
        assert_eq!(folder.read("mine").unwrap(), b"");
        folder.create("more").unwrap();
        assert_eq!(folder.names().unwrap(), ["mine", "more"]);
        assert_eq!(fs::read_dir(place.path().join("away")).unwrap().count(), 2);
    }

    #[test]
    fn what_is_made_is_its_owners_alone() {
        let (_place, folder) = place();
        folder.create("file").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(folder.path()), mode(&folder.path().join("file"))), (0o700, 0o600));
    }

    #[test]
    fn a_file_of_another_user_or_with_a_second_name_is_not_ours() {
        let me = nix::unistd::geteuid().as_raw();
        assert!(ours("x", me, 1).is_ok() && ours("x", 0, 1).is_ok());
        assert!(ours("x", me, 2).is_err() && ours("x", me + 1, 1).is_err());
        assert!(ours("x", me, 0).is_err(), "deleted meanwhile");
    }
}
