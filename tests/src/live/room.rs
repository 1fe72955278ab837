//! Small file systems that can be filled up, stalled, broken and taken away, and block devices: what only root can make. A
//! plain user's tests go through sudo for that alone. Everything is taken away by its owner's end.

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

/// For images and mount points: in memory, so that nobody else's load on the machine's disk is taken for a stall.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("tow").tempdir_in(parent).expect("a folder")
}

/// How an ext4 is mounted: after an error of its own it is read-only, as Debian's are.
const PLAIN: &str = "loop,errors=remount-ro";

/// A file system of its own, mounted.
#[derive(Debug)]
pub struct Room {
    at: PathBuf,
    /// What it lies on, if not in memory.
    image: Option<PathBuf>,
    /// How it is mounted.
    options: &'static str,
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
        Self { at, image: None, options: "", _folder: folder }
    }

    /// An ext4 of so many MiB on a loop device over a file.
    ///
    /// # Panics
    /// If it can't be made or mounted.
    #[track_caller]
    pub fn disk(mib: u64) -> Self {
        Self::disk_in(folder(), mib, &[], PLAIN)
    }

    /// The same with few inodes.
    ///
    /// # Panics
    /// As [`Self::disk`].
    #[track_caller]
    pub fn of_few_names(mib: u64) -> Self {
        Self::disk_in(folder(), mib, &["-N", "128"], PLAIN)
    }

    /// The same in another room: while that one is stalled nothing reaches the image, and whoever needs no more than the page
    /// cache goes on: times of files need no more either, and nobody initializes tables beside.
    ///
    /// # Panics
    /// As [`Self::disk`].
    #[track_caller]
    pub fn within(outer: &Self, mib: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("tow").tempdir_in(&outer.at).expect("a folder");
        Self::disk_in(folder, mib, &[], "loop,errors=remount-ro,lazytime,noinit_itable")
    }

    /// A file system of another kind, in which files can share blocks.
    ///
    /// # Panics
    /// As [`Self::disk`].
    #[track_caller]
    pub fn of_kind(kind: &str, mib: u64) -> Self {
        let folder = folder();
        let image = folder.path().join("image");
        File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("an image");
        run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image)).good();
        let room = Self::over(folder, image, "loop");
        root("chmod", &["0777"], &room.at);
        room
    }

    fn disk_in(folder: TempDir, mib: u64, more: &[&str], options: &'static str) -> Self {
        let image = folder.path().join("image");
        File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("an image");
        // Nothing reserved for root, so that full is full for everybody.
        let made = ["-q", "-F", "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=1,nodiscard"];
        run(Command::new("mkfs.ext4").args(made).args(more).arg(&image)).good();
        let room = Self::over(folder, image, options);
        root("chmod", &["0777"], &room.at);
        room
    }

    /// A copy of an image, as the next boot finds it.
    ///
    /// # Panics
    /// If it can't be copied or mounted.
    #[track_caller]
    pub fn copy_of(image: &Path) -> Self {
        let folder = folder();
        let copy = folder.path().join("image");
        run(Command::new("cp").arg("--sparse=always").arg(image).arg(&copy)).good();
        Self::over(folder, copy, PLAIN)
    }

    fn over(folder: TempDir, image: PathBuf, options: &'static str) -> Self {
        let at = folder.path().join("room");
        fs::create_dir(&at).expect("a mount point");
        let room = Self { at, image: Some(image), options, _folder: folder };
        room.mount();
        room
    }

    fn mount(&self) {
        let image = self.image.as_ref().and_then(|image| image.to_str()).expect("a plain path");
        root("mount", &["-o", self.options, image], &self.at);
    }

    fn place() -> (TempDir, PathBuf) {
        let folder = folder();
        let at = folder.path().join("room");
        fs::create_dir(&at).expect("a mount point");
        (folder, at)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// What it lies on.
    ///
    /// # Panics
    /// If it lies in memory.
    pub fn image(&self) -> &Path {
        self.image.as_ref().expect("it lies on an image")
    }

    /// Its device finds an error: from then on nobody writes.
    ///
    /// # Panics
    /// If it lies in memory.
    #[track_caller]
    pub fn make_read_only(&self) {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("there are mounts");
        let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mine = lines.find(|fields| Path::new(fields[1]) == self.at).expect("it is mounted");
        let name =
            Path::new(mine[0]).file_name().expect("a device has a name").to_string_lossy().into_owned();
        root("sh", &["-c", "echo x > /sys/fs/ext4/$0/trigger_fs_error", &name], &self.at);
    }

    /// Its device is gone: every call on it fails, with EIO.
    ///
    /// # Panics
    /// If it lies in memory.
    #[track_caller]
    pub fn break_off(&self) {
        // EXT4_IOC_SHUTDOWN, 2: without its journal. Python is what the tests have for calls that need root.
        let call = "import fcntl,os,sys; \
                    fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, (2).to_bytes(4, 'little'))";
        root("/usr/bin/python3", &["-c", call], &self.at);
    }

    /// Its place is empty; whoever has it open has it still.
    ///
    /// # Panics
    /// If it can't be unmounted.
    #[track_caller]
    pub fn detach(&self) {
        root("umount", &["--lazy"], &self.at);
    }

    /// Takes it down, checks it and mounts it again. Nobody is in it.
    ///
    /// # Panics
    /// If it lies in memory, or can't be mended.
    #[track_caller]
    pub fn mend(&self) {
        self.down();
        let checked = run(Command::new("e2fsck").args(["-f", "-y"]).arg(self.image()));
        assert!(matches!(checked.code, Some(0 | 1)), "{checked:?}");
        self.mount();
    }

    /// Takes it down, puts another image in its place and mounts that: what a host's death left. Nobody is in it.
    ///
    /// # Panics
    /// If it lies in memory, or can't be mounted.
    #[track_caller]
    pub fn put_back(&self, image: &Path) {
        self.down();
        fs::copy(image, self.image()).expect("an image can be copied");
        self.mount();
    }

    /// From here on it lies on a thin device: all that it may write has its space there, but the blocks of this file, of
    /// zeros, have none.
    ///
    /// # Panics
    /// If it lies in memory, or the image's file system has no holes.
    #[track_caller]
    pub fn take_space_below(&self, file: &Path) {
        use nix::fcntl::{FallocateFlags as Flags, fallocate};
        self.sync();
        let image = OpenOptions::new().write(true).open(self.image()).expect("an image");
        let length = image.metadata().expect("an open file has a size").len();
        fallocate(&image, Flags::empty(), 0, length as i64).expect("space for all of it");
        // As filefrag tells its extents: number, first and last block in the file, first and last of the device.
        let found = run(Command::new("filefrag").args(["-v", "-b4096"]).arg(file)).good();
        let extents = found.stdout.lines().filter_map(|line| {
            let mut fields = line.split(':').skip(2);
            let (first, last) = fields.next()?.split_once("..")?;
            Some(first.trim().parse::<i64>().ok()?..=last.trim().parse::<i64>().ok()?)
        });
        let mut blocks = 0;
        for extent in extents {
            let count = extent.end() - extent.start() + 1;
            let flags = Flags::FALLOC_FL_PUNCH_HOLE | Flags::FALLOC_FL_KEEP_SIZE;
            fallocate(&image, flags, extent.start() * 4096, count * 4096).expect("a hole");
            blocks += count as u64 * 4096;
        }
        assert_eq!(blocks, fs::metadata(file).expect("it is there").len(), "{}", found.stdout);
    }

    fn down(&self) {
        // Whoever was killed may not be gone yet.
        super::process::until("it can be unmounted", || run(as_root("umount").arg(&self.at)).code == Some(0));
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

    /// What is in the page cache is written.
    ///
    /// # Panics
    /// If it can't be.
    #[track_caller]
    pub fn sync(&self) {
        root("sync", &["--file-system"], &self.at);
    }

    /// Fills it to the last byte.
    ///
    /// # Panics
    /// If that ends otherwise than with "no space".
    #[track_caller]
    pub fn fill(&self) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.filler()).expect("a file");
        // The most of it at once, where that is possible; the file system knows best how little is left.
        let mut end = 0;
        for size in [256 << 20, 64 << 20, 16 << 20, 4 << 20, 1 << 20] {
            while nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), end, size).is_ok() {
                end += size;
            }
        }
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

    /// Takes all its inodes.
    ///
    /// # Panics
    /// If that ends otherwise than with "no space".
    #[track_caller]
    pub fn take_all_names(&self) {
        let folder = self.at.join("names");
        fs::create_dir(&folder).expect("a folder");
        let mut names = 0..;
        let error = names.find_map(|n| File::create(folder.join(format!("{n}"))).err()).expect("they end");
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    }

    /// Gives them back.
    ///
    /// # Panics
    /// If they were not taken.
    #[track_caller]
    pub fn give_names(&self) {
        fs::remove_dir_all(self.at.join("names")).expect("they were taken");
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
        if !fs::read_to_string("/proc/self/mounts").is_ok_and(|all| all.contains(&*self.at.to_string_lossy()))
        {
            return;
        }
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
        Self::over(folder, &image)
    }

    /// A device of zeros that takes no space.
    ///
    /// # Panics
    /// If it can't be made.
    #[track_caller]
    pub fn sized(bytes: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("tow").tempdir().expect("a folder");
        let image = folder.path().join("image");
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("an image");
        Self::over(folder, &image)
    }

    #[track_caller]
    fn over(folder: TempDir, image: &Path) -> Self {
        let said = root("losetup", &["--find", "--show", "--direct-io=on"], image);
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
