//! Small file systems that can be filled up, and block devices: what only root can make. A plain user's tests go
//! through sudo for the making alone. Everything is taken away by its owner's end.

use super::process::{Outcome, run};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A command that root runs: itself if we are root, else by sudo without a password.
///
/// Without either it fails, and so does the test: nothing is skipped silently.
pub fn as_root(program: &str) -> Command {
    if nix::unistd::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}

#[track_caller]
fn root(program: &str, arguments: &[&str], path: &Path) -> Outcome {
    let outcome = run(as_root(program).args(arguments).arg(path));
    assert_eq!(
        outcome.code,
        Some(0),
        "{program} {arguments:?}: {}\nthis test needs root, or sudo without a password, for mount and losetup",
        outcome.stderr
    );
    outcome
}

/// A file system of its own, mounted.
#[derive(Debug)]
pub struct Room {
    at: PathBuf,
    /// Holds the mount point and the image; last, when nothing is mounted any more.
    _folder: TempDir,
}

impl Room {
    /// A tmpfs of so many MiB.
    ///
    /// # Panics
    /// If it can't be mounted.
    #[track_caller]
    pub fn memory(mib: u64) -> Self {
        let (folder, at) = Self::place();
        root("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m,mode=0777"), "tmpfs"], &at);
        Self { at, _folder: folder }
    }

    /// An ext4 of so many MiB on a loop device over a file.
    ///
    /// # Panics
    /// If it can't be made or mounted.
    #[track_caller]
    pub fn disk(mib: u64) -> Self {
        let (folder, at) = Self::place();
        let image = folder.path().join("image");
        File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("an image");
        // Nothing reserved for root, so that full is full for everybody.
        let options = ["-q", "-F", "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=1,nodiscard"];
        run(Command::new("mkfs.ext4").args(options).arg(&image)).good();
        root("mount", &["-o", "loop", image.to_str().expect("a plain path")], &at);
        let room = Self { at, _folder: folder };
        root("chmod", &["0777"], &room.at);
        room
    }

    fn place() -> (TempDir, PathBuf) {
        let folder = tempfile::Builder::new().prefix("tow").tempdir().expect("a folder");
        let at = folder.path().join("room");
        fs::create_dir(&at).expect("a mount point");
        (folder, at)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Stalls it: whoever writes waits in the kernel until what this gives is dropped. Not for [`Self::memory`].
    ///
    /// # Panics
    /// If it can't be frozen.
    #[track_caller]
    pub fn stall(&self) -> Stalled<'_> {
        root("fsfreeze", &["--freeze"], &self.at);
        Stalled(self)
    }

    fn thaw(&self) {
        // It may not be frozen.
        let _ = run(as_root("fsfreeze").arg("--unfreeze").arg(&self.at));
    }

    /// Fills it to the last byte.
    ///
    /// # Panics
    /// If that ends otherwise than with "no space".
    #[track_caller]
    pub fn fill(&self) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.filler()).expect("a file");
        for size in [1 << 20, 4096, 1] {
            loop {
                match file.write_all(&vec![1; size]) {
                    Ok(()) => {}
                    Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => break,
                    Err(error) => panic!("{}: {error}", self.at.display()),
                }
            }
            // What the file system has promised so far, it must keep: then it is full for certain.
            let _ = file.sync_all();
        }
    }

    /// Takes away what filled it.
    ///
    /// # Panics
    /// If it was not filled.
    #[track_caller]
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }
}

/// A file system that does not answer. To be declared after whoever may hang in it: a test that fails drops this first, and
/// can then wait for their end.
#[must_use = "it answers as soon as this is dropped"]
#[derive(Debug)]
pub struct Stalled<'a>(&'a Room);

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.thaw();
        // Lazily, if somebody is still in it: it goes with the last one.
        if run(as_root("umount").arg(&self.at)).code != Some(0) {
            let _ = run(as_root("umount").arg("--lazy").arg(&self.at));
        }
    }
}

/// A block device: a loop device over a file.
#[derive(Debug)]
pub struct Device {
    at: PathBuf,
    _folder: TempDir,
}

impl Device {
    /// A device with this content.
    ///
    /// # Panics
    /// If it can't be made.
    #[track_caller]
    pub fn new(content: &[u8]) -> Self {
        let folder = tempfile::Builder::new().prefix("tow").tempdir().expect("a folder");
        let image = folder.path().join("image");
        fs::write(&image, content).expect("an image");
        let said = root("losetup", &["--find", "--show", "--direct-io=on"], &image);
        let device = Self { at: said.stdout.trim().into(), _folder: folder };
        // A device of root's is of no use to a plain user.
        root("chmod", &["0666"], &device.at);
        device.forget();
        device
    }

    /// Trackers keep a device's mark by its name, and the next device may have this one's.
    fn forget(&self) {
        if let Ok(mark) = towline_tracker::sidecar::disk_file::state_path(&self.at) {
            let _ = fs::remove_file(mark);
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Its whole content, past every cache.
    ///
    /// # Panics
    /// If it can't be read.
    #[track_caller]
    pub fn content(&self) -> Vec<u8> {
        root("blockdev", &["--flushbufs"], &self.at);
        fs::read(&self.at).expect("a device can be read")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.forget();
        let _ = run(as_root("losetup").arg("--detach").arg(&self.at));
    }
}
