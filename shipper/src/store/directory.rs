//! A folder of files. Every object is written under a temporary name, synced, moved to its name without replacing
//! anything, and the folder synced, before the answer is given. A folder counts as durable only after *this* process
//! has synced the folder above it: one made by another process, or by a thread still on its way, may be lost.
//!
//! What is assumed of the file system: rename without replacement (or link) is atomic, and an fsync of a file and of
//! its folder makes both durable. A crash leaves `.tmp-*` files, which no listing shows.

use super::{Listed, Put, Store, StoreError, StoreErrorKind, check_name};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

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
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(io::Error::other)?;
            let temporary = folder.join(format!(".tmp-{:016x}", u64::from_le_bytes(random)));
            let put = write_and_move(&temporary, &target, data, replace);
            if !matches!(put, Ok(Put::Created)) {
                let _ = fs::remove_file(&temporary);
            }
            // Also when somebody else's object was there: what is read now must not be gone after a crash.
            put.and_then(|put| File::open(&folder)?.sync_all().map(|()| put))
        });
        written.map_err(|error| match StoreError::io(name, error) {
            // Writing found no folder: it was removed under us. That is no missing object.
            error if error.kind() == StoreErrorKind::NotFound => {
                StoreError { kind: StoreErrorKind::Other, ..error }
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

fn write_and_move(temporary: &Path, target: &Path, data: &[u8], replace: bool) -> io::Result<Put> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    file.write_all(data)?;
    file.sync_all()?;
    drop(file);
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
    fn leftovers_of_a_crash_are_not_listed_and_modes_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(folder.path().join("v"));
        store.put("a/b", b"x").unwrap();
        fs::write(folder.path().join("v/a/.tmp-1"), b"torn").unwrap();
        assert_eq!(store.list("", "", 10).unwrap().len(), 1);
        let mode = |path: &str| fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("v"), mode("v/a"), mode("v/a/b")), (0o700, 0o700, 0o600));
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
