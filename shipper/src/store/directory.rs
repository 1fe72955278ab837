//! A folder of files. Every object is written in the folder `.unfinished`, synced, moved to its name without replacing
//! anything, and its folder synced, before the answer is given. A folder counts as durable only after *this* process
//! has synced the folder above it: one made by another process, or by a thread still on its way, may be lost.
//!
//! What is assumed of the file system: it is one for the whole vault, rename without replacement (or link) is atomic,
//! and an fsync of a file and of its folder makes both durable. What a killed writer leaves is all in that one folder,
//! which is part of no object's name and of no listing, and the next writer's first put removes it.
//!
//! Not files without a name (`O_TMPFILE`), although a kill would leave none: some file systems (btrfs) make nothing
//! durable of a file that has no name, so that its sync would count for nothing when it gets one.

use super::{Listed, Put, Store, StoreError, StoreErrorKind, check_name};
use crate::unfinished;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use towline_tracker::id::CutId;

/// Where objects are written, below the root: no name of an object begins with a dot.
const UNFINISHED: &str = ".unfinished";

/// A store in a folder. Files are 0600, folders 0700.
pub struct DirectoryStore {
    root: PathBuf,
    durable: Mutex<HashSet<PathBuf>>,
}

impl DirectoryStore {
    /// A store in `root`, which is created by the first put. Nothing is touched before.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), durable: Mutex::new(HashSet::new()) }
    }

    /// Makes sure that `folder` exists and that its name survives a crash. Holding the lock meanwhile keeps another
    /// thread from taking a folder for durable that is only just made.
    fn ensure_folder(&self, folder: &Path) -> io::Result<()> {
        let mut durable = self.durable.lock().expect("no thread panics with the lock");
        self.ensure(&mut durable, folder)
    }

    /// The folder for what is being written. Whoever comes to it first removes what killed writers left.
    fn unfinished(&self) -> io::Result<PathBuf> {
        let folder = self.root.join(UNFINISHED);
        let mut durable = self.durable.lock().expect("no thread panics with the lock");
        if !durable.contains(&folder) {
            self.ensure(&mut durable, &folder)?;
            unfinished::sweep(&folder, |_| true);
        }
        Ok(folder)
    }

    fn ensure(&self, durable: &mut HashSet<PathBuf>, folder: &Path) -> io::Result<()> {
        if durable.contains(folder) {
            return Ok(());
        }
        let above = match folder.parent() {
            Some(above) if above.as_os_str().is_empty() => Path::new("."),
            Some(above) => above,
            None => return Ok(()),
        };
        match DirBuilder::new().mode(0o700).create(folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.ensure(durable, above)?;
                DirBuilder::new().mode(0o700).create(folder)?;
            }
            Err(error) => return Err(error),
        }
        if folder.starts_with(&self.root) && folder != self.root {
            self.ensure(durable, above)?;
        }
        // The folder above the root may not be ours to open; then its durability is its owner's business.
        match File::open(above).and_then(|file| file.sync_all()) {
            Err(error) if folder == self.root && error.kind() == io::ErrorKind::PermissionDenied => {}
            done => done?,
        }
        durable.insert(folder.to_owned());
        Ok(())
    }

    fn write(&self, name: &str, data: &[u8], replace: bool) -> Result<Put, StoreError> {
        check_name(name)?;
        let target = self.root.join(name);
        let folder = target.parent().expect("a name is below the root").to_owned();
        let written = self.ensure_folder(&folder).and_then(|()| {
            let unfinished = self.unfinished()?;
            let (file, path) = unfinished::create(|| unfinished.join(CutId::random().to_string()))?;
            let put = write_and_move(file, &path, &target, data, replace);
            if !matches!(put, Ok(Put::Created)) {
                let _ = fs::remove_file(&path);
            }
            // Also when somebody else's object was there: what is read now must not be gone after a crash.
            put.and_then(|put| File::open(&folder)?.sync_all().map(|()| put))
        });
        written.map_err(|error| match StoreError::io(name, error) {
            // Writing found no folder, although we made it: the file system was unmounted under us, and may come back.
            // That is no missing object.
            error if error.kind() == StoreErrorKind::NotFound => {
                StoreError { kind: StoreErrorKind::Transient, ..error }
            }
            error => error,
        })
    }

    fn open(&self, name: &str) -> Result<(File, u64), StoreError> {
        check_name(name)?;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(self.root.join(name))
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENOTDIR) => StoreError::new(StoreErrorKind::NotFound, name),
                _ => StoreError::io(name, error),
            })?;
        let meta = file.metadata().map_err(|error| StoreError::io(name, error))?;
        if !meta.is_file() {
            return Err(StoreError::new(StoreErrorKind::NotFound, name));
        }
        Ok((file, meta.len()))
    }
}

/// The file stays open, and so locked, until it has its name.
fn write_and_move(
    mut file: File,
    temporary: &Path,
    target: &Path,
    data: &[u8],
    replace: bool,
) -> io::Result<Put> {
    file.write_all(data)?;
    file.sync_all()?;
    if replace {
        fs::rename(temporary, target)?;
        return Ok(Put::Created);
    }
    match renameat2(AT_FDCWD, temporary, AT_FDCWD, target, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(Put::Created),
        Err(nix::Error::EEXIST) => Ok(Put::AlreadyExists),
        // Not every file system knows the flag; a link never replaces either.
        Err(nix::Error::EINVAL | nix::Error::ENOSYS) => match fs::hard_link(temporary, target) {
            Ok(()) => fs::remove_file(temporary).map(|()| Put::Created),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Put::AlreadyExists),
            Err(error) => Err(error),
        },
        Err(error) => Err(error.into()),
    }
}

impl Store for DirectoryStore {
    fn url(&self) -> String {
        let path = std::path::absolute(&self.root).unwrap_or_else(|_| self.root.clone());
        format!("file://{}", path.display())
    }

    fn put(&self, name: &str, data: &[u8]) -> Result<(), StoreError> {
        self.write(name, data, true).map(|_| ())
    }

    fn put_if_absent(&self, name: &str, data: &[u8]) -> Result<Put, StoreError> {
        self.write(name, data, false)
    }

    fn get(&self, name: &str, limit: usize) -> Result<Vec<u8>, StoreError> {
        let (file, length) = self.open(name)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > limit {
            return Err(StoreError::new(StoreErrorKind::TooLarge, name));
        }
        let mut bytes = Vec::with_capacity(length);
        file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(|error| StoreError::io(name, error))?;
        if bytes.len() > limit {
            return Err(StoreError::new(StoreErrorKind::TooLarge, name));
        }
        Ok(bytes)
    }

    fn get_range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        let (file, total) = self.open(name)?;
        let there = usize::try_from(total.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(there)];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::io(name, error)),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn len(&self, name: &str) -> Result<u64, StoreError> {
        self.open(name).map(|(_, length)| length)
    }

    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let mut found = Vec::new();
        // Start in the deepest folder that the prefix names whole.
        let start = prefix.rfind('/').map_or("", |slash| &prefix[..slash]);
        if !start.is_empty() {
            check_name(start)?;
        }
        walk(&self.root, start, prefix, after, limit, &mut found)
            .map_err(|error| StoreError::io(prefix, error))?;
        Ok(found)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        let path = self.root.join(name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => return Ok(()),
            Err(error) => return Err(StoreError::io(name, error)),
        }
        let folder = path.parent().expect("a name is below the root");
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| StoreError { kind: StoreErrorKind::Other, ..StoreError::io(name, error) })
    }
}

/// Lists below `folder` in the byte order of whole names: a folder sorts as its name with the slash.
fn walk(
    root: &Path,
    folder: &str,
    prefix: &str,
    after: &str,
    limit: usize,
    found: &mut Vec<Listed>,
) -> io::Result<()> {
    let entries = match fs::read_dir(root.join(folder)) {
        Ok(entries) => entries,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Some(part) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if part.starts_with('.') {
            continue;
        }
        let name = if folder.is_empty() { part } else { format!("{folder}/{part}") };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let name = name + "/";
            // Skip what lies wholly outside the prefix or wholly before the start.
            let inside = name.starts_with(prefix) || prefix.starts_with(&name);
            if inside && (name.as_str() > after || after.starts_with(&name)) {
                names.push(name);
            }
        } else if kind.is_file() && name.starts_with(prefix) && name.as_str() > after {
            names.push(name);
        }
    }
    names.sort_unstable();
    for name in names {
        if found.len() >= limit {
            return Ok(());
        }
        match name.strip_suffix('/') {
            Some(folder) => walk(root, folder, prefix, after, limit, found)?,
            None => match fs::symlink_metadata(root.join(&name)) {
                Ok(meta) => found.push(Listed { name, length: meta.len() }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_directory_store_keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let count = std::cell::Cell::new(0);
        super::super::conformance::run(|| {
            count.set(count.get() + 1);
            Box::new(DirectoryStore::new(folder.path().join(format!("deep/{}", count.get()))))
        });
    }

    #[test]
    fn files_are_their_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(folder.path().join("v"));
        store.put("a/b", b"x").unwrap();
        let mode = |path: &str| fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("v"), mode("v/a"), mode("v/a/b")), (0o700, 0o700, 0o600));
    }

    /// Schedule: 1. a writer is killed in the middle of a put, another one lives; 2. what they have written is no object,
    /// whoever asks; 3. the next writer's first put removes the dead one's file, and not the living one's.
    #[test]
    fn what_a_killed_writer_leaves_is_no_object_and_goes_with_the_next_put() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("v");
        DirectoryStore::new(&root).put("a/b", b"x").unwrap();
        let [dead, living] = ["dead", "living"].map(|name| root.join(UNFINISHED).join(name));
        drop(unfinished::create(|| dead.clone()).unwrap());
        let held = unfinished::create(|| living.clone()).unwrap();
        let store = DirectoryStore::new(&root);
        let names = |prefix| store.list(prefix, "", 10).unwrap().into_iter().map(|object| object.name);
        assert_eq!(names("").collect::<Vec<_>>(), ["a/b"]);
        for name in [".unfinished/dead", ".unfinished", "dead"] {
            assert!(store.get(name, 10).is_err() && store.len(name).is_err(), "{name}");
        }
        assert!(dead.exists(), "who reads removes nothing");
        store.put("a/c", b"y").unwrap();
        assert_eq!((dead.exists(), living.exists()), (false, true));
        drop(held);
        // What is put leaves nothing there, whatever becomes of it.
        assert_eq!(store.put_if_absent("a/c", b"z").unwrap(), Put::AlreadyExists);
        fs::create_dir(root.join("full")).unwrap();
        store.put("full", b"x").unwrap_err();
        let left: Vec<_> = fs::read_dir(root.join(UNFINISHED)).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(left, [living]);
    }

    /// Schedule: 1. a vault's file system is unmounted under its writer: what is left is an empty folder; 2. nothing is
    /// made there; 3. it is mounted again.
    #[test]
    fn an_unmounted_folder_is_waited_for_and_not_filled() {
        let folder = tempfile::tempdir().unwrap();
        let [root, away] = ["v", "away"].map(|name| folder.path().join(name));
        let store = DirectoryStore::new(&root);
        store.put("a/b", b"x").unwrap();
        fs::rename(&root, &away).unwrap();
        fs::create_dir(&root).unwrap();
        for name in ["a/c", "a/deeper/c"] {
            assert_eq!(store.put(name, b"y").unwrap_err().kind(), StoreErrorKind::Transient);
            assert_eq!(store.put_if_absent(name, b"y").unwrap_err().kind(), StoreErrorKind::Transient);
        }
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "nothing was made");
        fs::remove_dir(&root).unwrap();
        fs::rename(&away, &root).unwrap();
        store.put("a/deeper/c", b"y").unwrap();
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(folder.path().join("v"));
        store.put("a", b"x").unwrap();
        fs::write(folder.path().join("secret"), b"s").unwrap();
        std::os::unix::fs::symlink(folder.path().join("secret"), folder.path().join("v/b")).unwrap();
        assert!(store.get("b", 10).is_err());
        assert_eq!(store.list("", "", 10).unwrap().len(), 1);
    }
}
