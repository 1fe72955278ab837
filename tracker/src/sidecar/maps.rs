//! Maps on tmpfs (S1): they survive the death of any process and vanish exactly when the page cache does.

use super::folder::{Directory, Folder};
use crate::map::Words;
use nix::sys::mman::{self, MapFlags, ProtFlags};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where maps come from.
pub trait Maps {
    /// A fresh inode with zeroed words. `dense`: allocated, prefaulted, and locked in memory if that is allowed (S5).
    ///
    /// # Errors
    /// Whatever the file system says; no memory left.
    fn create(&self, name: &str, words: usize, dense: bool) -> io::Result<Words>;

    /// Gives a map that is not dense all its memory; its content stays.
    ///
    /// # Errors
    /// Whatever the file system says; no memory left.
    fn reserve(&self, name: &str) -> io::Result<()>;

    /// The words under this name, of exactly this size.
    ///
    /// # Errors
    /// Missing, or of another size.
    fn open(&self, name: &str, words: usize, dense: bool) -> io::Result<Words>;

    /// Replaces `to` by `from`, at once; who has the words of either keeps them.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Deletes the name; who has the words keeps them.
    fn remove(&self, name: &str);

    /// The names that are there.
    fn names(&self) -> Vec<String>;
}

/// A mapping, unmapped at its end.
#[derive(Debug)]
struct Mapping {
    start: NonNull<libc::c_void>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory; it is reached through `Words`, whose accesses are atomic.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map`, and every `Words` over it is gone.
        let _ = unsafe { mman::munmap(self.start, self.bytes) };
    }
}

/// Maps the words of a file, shared with whoever else maps it.
///
/// # Errors
/// Whatever the kernel says.
pub fn map(file: &OwnedFd, words: usize, write: bool) -> io::Result<Words> {
    let bytes = words * 8;
    let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
    let access = if write { ProtFlags::PROT_READ | ProtFlags::PROT_WRITE } else { ProtFlags::PROT_READ };
    // SAFETY: a fresh shared mapping of a file; the kernel chooses the place.
    let start = unsafe { mman::mmap(None, length, access, MapFlags::MAP_SHARED, file, 0)? };
    let keep = Arc::new(Mapping { start, bytes });
    // SAFETY: page-aligned, `words` words long, lives as long as `keep`, and reached by atomic operations only.
    Ok(unsafe { Words::from_raw(start.cast(), words, keep) })
}

/// Maps on a real tmpfs.
#[derive(Clone, Debug)]
pub struct Tmpfs {
    /// None: nothing is tracked, and nothing is there.
    folder: Option<Directory>,
    /// Every dense map could be locked.
    locked: Arc<AtomicBool>,
}

impl Tmpfs {
    /// The folder of this user's group under `root`, which must be a tmpfs: maps that outlive the page cache would lie.
    ///
    /// # Errors
    /// No tmpfs; not writable; not ours alone. Each names the folder.
    pub fn new(root: &Path, name: &str) -> io::Result<Self> {
        let kind = nix::sys::statfs::statfs(root)?.filesystem_type();
        if kind != nix::sys::statfs::TMPFS_MAGIC {
            return Err(io::Error::other(format!("{} is no tmpfs", root.display())));
        }
        let user = nix::unistd::geteuid();
        let home = root.join(format!("towline-{user}"));
        Directory::new(&home).map_err(|error| {
            io::Error::new(error.kind(), format!("{} can't be made: {error}", home.display()))
        })?;
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::symlink_metadata(&home)?;
        if !found.is_dir() || found.uid() != user.as_raw() || found.mode() & 0o077 != 0 {
            return Err(io::Error::other(format!("{} is not ours alone", home.display())));
        }
        let folder = Some(Directory::new(&home.join(name))?);
        Ok(Self { folder, locked: Arc::new(AtomicBool::new(true)) })
    }

    /// For a group that tracks nothing.
    pub(super) fn nowhere() -> Self {
        Self { folder: None, locked: Arc::new(AtomicBool::new(false)) }
    }

    fn folder(&self) -> io::Result<&Directory> {
        self.folder.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Whether every dense map could be locked in memory so far.
    pub fn locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }

    /// A fresh descriptor for reading (R1).
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open_read(&self, name: &str) -> io::Result<OwnedFd> {
        self.folder()?.open_read(name)
    }

    fn finish(&self, file: std::fs::File, words: usize, dense: bool) -> io::Result<Words> {
        let file = OwnedFd::from(file);
        let map = map(&file, words, true)?;
        if dense {
            let start = NonNull::from(&map[..]).cast::<libc::c_void>();
            // SAFETY: the range is the mapping just made.
            if unsafe { mman::mlock(start, words * 8) }.is_err() {
                self.locked.store(false, Ordering::Relaxed);
                // Not locked, but at least there: a first touch in the loop must not fault.
                // SAFETY: as above; MADV_POPULATE_WRITE changes no content.
                let _ = unsafe { mman::madvise(start, words * 8, mman::MmapAdvise::MADV_POPULATE_WRITE) };
            }
        }
        Ok(map)
    }
}

impl Maps for Tmpfs {
    fn create(&self, name: &str, words: usize, dense: bool) -> io::Result<Words> {
        let file = self.folder()?.create(name)?;
        let bytes = (words * 8) as i64;
        if dense {
            nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, bytes)?;
        } else {
            file.set_len(bytes as u64)?;
        }
        self.finish(file, words, dense)
    }

    fn reserve(&self, name: &str) -> io::Result<()> {
        let file = self.folder()?.open(name)?;
        let bytes = i64::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        Ok(nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, bytes)?)
    }

    fn open(&self, name: &str, words: usize, dense: bool) -> io::Result<Words> {
        let file = self.folder()?.open(name)?;
        if file.metadata()?.len() != (words * 8) as u64 {
            return Err(io::Error::other("the map has another size"));
        }
        self.finish(file, words, dense)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.folder()?.rename(from, to)
    }

    fn remove(&self, name: &str) {
        let _ = self.folder().and_then(|folder| folder.remove(name));
    }

    fn names(&self) -> Vec<String> {
        self.folder().and_then(Folder::names).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::sync::atomic::Ordering::Relaxed;

    /// S1: maps that outlive the page cache would be believed after a host's death.
    #[test]
    fn a_folder_that_is_no_tmpfs_is_refused_and_named() {
        let root = tempfile::tempdir().unwrap();
        let refused = Tmpfs::new(root.path(), "maps").unwrap_err().to_string();
        assert!(
            refused.contains("is no tmpfs") && refused.contains(root.path().to_str().unwrap()),
            "{refused}"
        );
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "nothing is made there");
        let missing = Tmpfs::new(Path::new("/dev/shm/towline-nowhere"), "maps").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_tmpfs_that_can_not_be_written_is_refused_and_the_folder_named() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
        let path = root.path().to_owned();
        // For root every folder can be written: nobody asks, on a thread of his own.
        let asked = std::thread::spawn(move || {
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
            Tmpfs::new(&path, "maps").unwrap_err()
        });
        let refused = asked.join().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(refused.to_string().contains(&format!("{}/towline-", root.path().display())), "{refused}");
    }

    /// F50: whoever could write a map, or put his own in its place, could make a change unseen.
    #[test]
    fn a_folder_of_maps_that_is_not_ours_alone_is_refused_and_named() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let home = root.path().join(format!("towline-{}", nix::unistd::geteuid()));
        let refused = |why: &str| {
            let error = Tmpfs::new(root.path(), "maps").unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        std::fs::create_dir(&home).unwrap();
        for mode in [0o750, 0o701, 0o777] {
            std::fs::set_permissions(&home, std::fs::Permissions::from_mode(mode)).unwrap();
            refused(&format!("{} is not ours alone", home.display()));
        }
        assert_eq!(std::fs::read_dir(&home).unwrap().count(), 0, "nothing is made there");
        std::fs::remove_dir(&home).unwrap();
        // A link to a folder that is ours alone is somebody else's choice of a folder.
        let elsewhere = root.path().join("elsewhere");
        Directory::new(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &home).unwrap();
        refused("it is a link");
        std::fs::remove_file(&home).unwrap();
        std::fs::write(&home, "").unwrap();
        assert!(Tmpfs::new(root.path(), "maps").is_err(), "a file is no folder");
        std::fs::remove_file(&home).unwrap();
        Tmpfs::new(root.path(), "maps").unwrap();
        // Somebody else's, whatever its mode: only root can make that.
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&home, Some(65534), None).unwrap();
            refused("belongs to user 65534");
        }
    }

    /// A page that is not there when it is touched needs memory that may not be there either: SIGBUS.
    #[test]
    fn a_sparse_map_has_no_memory_until_it_is_reserved_and_keeps_its_content() {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let maps = Tmpfs::new(root.path(), "maps").unwrap();
        let words = maps.create("preserved", 8192, false).unwrap();
        let allocated =
            || std::fs::metadata(maps.folder().unwrap().path().join("preserved")).unwrap().blocks() * 512;
        assert_eq!(allocated(), 0);
        words[7].store(9, Relaxed);
        maps.reserve("preserved").unwrap();
        assert_eq!((allocated(), words[7].load(Relaxed), words[8000].load(Relaxed)), (8192 * 8, 9, 0));
        assert!(maps.reserve("missing").is_err());
    }
}
