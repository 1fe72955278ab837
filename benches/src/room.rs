//! Where a run works: folders of its own in memory and on a disk, gone afterwards, and the programs it needs.

use crate::{Options, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The folders and programs of a run.
#[derive(Debug)]
pub(crate) struct Room {
    /// On a file system in memory.
    pub(crate) memory: TempDir,
    /// On a disk.
    pub(crate) disk: TempDir,
    /// Where reports go.
    pub(crate) out: PathBuf,
    /// What `make tools` installs.
    tools: PathBuf,
    /// `towline-tracker`.
    pub(crate) tracker: PathBuf,
    /// `towline`.
    pub(crate) shipper: PathBuf,
}

impl Room {
    /// Finds or builds our programs and makes the folders.
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let here = std::env::current_exe()?;
        let target = here.parent().and_then(Path::parent).ok_or("no target folder")?;
        let programs = match &options.programs {
            Some(folder) => folder.clone(),
            None => {
                build()?;
                target.join("release")
            }
        };
        let program = |name: &str| {
            let path = programs.join(name);
            if path.exists() { Ok(path) } else { Err(format!("{} is not there", path.display())) }
        };
        let folder = |parent: &Path| tempfile::Builder::new().prefix("towline-bench-").tempdir_in(parent);
        Ok(Self {
            memory: folder(&options.memory_dir)?,
            disk: folder(&options.disk_dir)?,
            out: options.out.clone().unwrap_or_else(|| target.join("benches")),
            tools: target.join("tools"),
            tracker: program("towline-tracker")?,
            shipper: program("towline")?,
        })
    }

    /// Touches as much memory as a measurement is about to use, and gives it back. A virtual machine's host takes back what
    /// is free for long, and the first touch afterwards costs twenty times the copy that it is for.
    pub(crate) fn warm(&self, bytes: u64) -> Result<()> {
        let path = self.memory.path().join("warm");
        let mut file = File::create(&path)?;
        let chunk = vec![1; 1 << 20];
        for _ in 0..bytes >> 20 {
            file.write_all(&chunk)?;
        }
        Ok(std::fs::remove_file(path)?)
    }

    /// A server that `make tools` installs.
    pub(crate) fn tool(&self, name: &str) -> Result<PathBuf> {
        let path = self.tools.join(name);
        match path.exists() {
            true => Ok(path),
            false => Err(format!("{} is not there: make tools", path.display()).into()),
        }
    }

    /// Whether all these programs are there; one line if not.
    pub(crate) fn needs(programs: &[&str]) -> Result<()> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let there = |name: &&&str| std::env::split_paths(&path).any(|folder| folder.join(name).exists());
        let missing: Vec<_> = programs.iter().filter(|name| !there(name)).copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let what = missing.join(", ");
        let packages = "fio nbdkit libnbd-bin qemu-utils valgrind restic borgbackup rclone";
        Err(format!("missing: {what}; make bench installs it, or apt-get install {packages}").into())
    }
}

/// Builds our programs as they are shipped.
fn build() -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "-p", "towline-tracker", "-p", "towline", "--bins"]);
    if build.current_dir(env!("CARGO_MANIFEST_DIR")).status()?.success() {
        return Ok(());
    }
    Err("towline-tracker and towline can't be built".into())
}

/// Makes a file of `size` bytes whose first `filled` bytes are random, the rest a hole.
pub(crate) fn random_file(path: &Path, size: u64, filled: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut seed = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    let mut state = u64::from_le_bytes(seed);
    let mut chunk = vec![0; 1 << 20];
    let mut at = 0u64;
    while at < filled {
        for word in chunk.chunks_exact_mut(8) {
            word.copy_from_slice(&splitmix(&mut state).to_le_bytes());
        }
        let length = (filled - at).min(chunk.len() as u64) as usize;
        file.write_all(&chunk[..length])?;
        at += length as u64;
    }
    file.set_len(size)?;
    file.sync_all()?;
    Ok(())
}

/// SplitMix64 (Steele, Lea, Flood 2014): at the speed of memory, and nothing compresses it.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Removes the tracker's sidecar and mark: the next tracker meets a disk that it has never seen.
pub(crate) fn forget(disk: &Path) -> Result<()> {
    let mut sidecar = disk.as_os_str().to_owned();
    sidecar.push(".towline");
    match std::fs::remove_dir_all(&sidecar) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // The mark on the disk goes with a fresh inode of the same blocks' content: a copy would cost memory, so the
    // attribute itself is removed.
    let path = std::ffi::CString::new(disk.as_os_str().as_encoded_bytes())?;
    let mark = c"user.towline";
    // SAFETY: both are strings that end in NUL and live through the call.
    unsafe { libc::removexattr(path.as_ptr(), mark.as_ptr()) };
    Ok(())
}

/// The last line of a log.
pub(crate) fn last_line(log: &Path) -> String {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    said.lines().last().unwrap_or("it said nothing").to_owned()
}

/// Bytes of all files below a folder.
pub(crate) fn bytes_below(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        bytes += if kind.is_dir() { bytes_below(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
