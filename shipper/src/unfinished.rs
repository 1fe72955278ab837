//! Files that are not whole yet, under names of their own. Their writer holds a lock on them (flock), which ends with its
//! process however that ends: so whoever comes next tells what a killed one left behind from what a living one is
//! writing. Where the file system has no locks, nobody gets one, and nothing is removed.

use nix::unistd::geteuid;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Makes a new file, which is its owner's alone as long as it is open, and says under which name.
///
/// # Errors
/// The file system's.
pub fn create(mut name: impl FnMut() -> PathBuf) -> io::Result<(File, PathBuf)> {
    loop {
        let path = name();
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        // Shared: it is who removes that must be alone. An error means that there are no locks here. Somebody who looks
        // for leftovers may have found the file before: then it is gone when this returns.
        let _ = file.lock_shared();
        if file.metadata()?.nlink() > 0 {
            return Ok((file, path));
        }
    }
}

/// Locks a file, before it gets such a name, for as long as it is open.
pub fn hold(file: &File) {
    let _ = file.try_lock_shared();
}

/// Takes over the largest of the files of a folder that are of these names and that nobody holds: it is the caller's alone as
/// long as it is open. Only what this user has made for itself is taken: another may still have the file open, and would
/// read, or change, what is written into it.
pub fn take(folder: &Path, is_ours: impl Fn(&str) -> bool) -> Option<(File, PathBuf)> {
    let found = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| {
        entry.file_name().to_str().filter(|name| is_ours(name))?;
        let file = open_leftover(&entry.path()).ok()?;
        file.try_lock().ok()?;
        let meta = file.metadata().ok()?;
        let own = meta.is_file() && meta.uid() == geteuid().as_raw() && meta.mode() & 0o077 == 0;
        (own && meta.nlink() == 1).then_some((meta.blocks(), file, entry.path()))
    });
    found.max_by_key(|(blocks, ..)| *blocks).map(|(_, file, path)| (file, path))
}

fn open_leftover(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    // A lock for oneself alone needs the right to write where locks come from another host.
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

/// Removes the files of a folder that are of these names and that nobody holds. What can't be looked at or removed
/// stays: it harms nobody.
pub fn sweep(folder: &Path, is_ours: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(&is_ours) {
            continue;
        }
        let path = entry.path();
        let file = open_leftover(&path);
        if file.is_ok_and(|file| file.try_lock().is_ok() && fs::remove_file(&path).is_ok()) {
            tracing::info!(path = %path.display(), "removed what a killed process left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_writer_left_is_removed_and_a_living_ones_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (living, _) = create(|| at("living")).unwrap();
        drop(create(|| at("dead")).unwrap());
        fs::write(at("foreign"), "x").unwrap();
        sweep(folder.path(), |name| name != "foreign");
        assert_eq!([at("living"), at("dead"), at("foreign")].map(|path| path.exists()), [true, false, true]);
        drop(living);
        sweep(folder.path(), |name| name != "foreign");
        assert!(!at("living").exists());
    }

    #[test]
    fn the_largest_leftover_is_taken_over_and_nothing_that_others_can_open() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, bytes) in [("small", 1), ("large", 1 << 20), ("living", 2 << 20), ("open", 3 << 20)] {
            let (file, path) = create(|| at(name)).unwrap();
            fs::write(path, vec![1; bytes]).unwrap();
            if name == "living" {
                std::mem::forget(file);
            }
        }
        fs::set_permissions(at("open"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        fs::hard_link(at("large"), at("second")).unwrap();
        std::os::unix::fs::symlink(at("open"), at("link")).unwrap();
        let taken = |skip: &'static str| take(folder.path(), move |name| name != skip).map(|(_, path)| path);
        assert_eq!(taken(""), Some(at("small")), "one with two names is nobody's");
        fs::remove_file(at("second")).unwrap();
        assert_eq!(taken(""), Some(at("large")));
        assert_eq!(taken("large"), Some(at("small")));
        let held = take(folder.path(), |name| name == "small").unwrap();
        assert!(take(folder.path(), |name| name == "small").is_none(), "it has one owner");
        sweep(folder.path(), |name| name == "small");
        assert!(at("small").exists());
        drop(held);
    }

    /// Schedule: 1. a file is made; 2. before it is locked, somebody finds it, takes it for a leftover and removes it;
    /// 3. its writer makes another one.
    #[test]
    fn a_file_that_was_swept_before_it_was_locked_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut names = ["one", "two"].into_iter().map(|name| folder.path().join(name));
        let first = folder.path().join("one");
        std::thread::scope(|scope| {
            // Holds the first file's lock from its beginning on, as who removes it does.
            let swept = scope.spawn(|| {
                loop {
                    if let Ok(file) = OpenOptions::new().read(true).write(true).open(&first)
                        && file.try_lock().is_ok()
                    {
                        fs::remove_file(&first).unwrap();
                        return true;
                    }
                    if folder.path().join("done").exists() {
                        return false;
                    }
                }
            });
            let (_file, path) = create(|| names.next().unwrap()).unwrap();
            fs::write(folder.path().join("done"), "").unwrap();
            // Who came too late found it locked.
            assert_eq!(path.ends_with("two"), swept.join().unwrap());
            assert!(path.exists());
        });
    }
}
