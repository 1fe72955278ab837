//! What is found after a power cut: the disk with its sidecar, and the vault; and what must be so.

use super::guest::{SIZE, site};
use super::image::Image;
use super::load::{BATCH_BYTES, Load, Tears, WRITERS};
use super::mark::Mark;
use super::mounted::Mounted;
use super::record::Record;
use crate::live::process::{Site, data_at, same, towline};
use crate::live::stamp::BLOCK;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The drives' places in a record.
pub const DRIVES: [&str; 2] = ["near", "far"];

/// What a digest reads at once.
const STEP: u64 = 64 << 10;
/// Bytes of a region ([`crate::live::process::WANDERING`]).
const REGION: u64 = 16 << 20;

/// What the machine had said when its power was cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The last batch of each writer that was acknowledged and flushed.
    pub durable: Vec<u64>,
    /// The newest entry that was in the vault.
    pub entry: u64,
}

impl Said {
    /// Up to a moment of a record, in this life.
    pub fn until(record: &Record, moment: usize, life: u64) -> Self {
        let mut said = Self { durable: vec![0; WRITERS as usize], entry: 0 };
        for (_, text) in record.marks(moment) {
            match Mark::read(text) {
                Some(Mark::Durable { life: of, writer, batch }) if of == life => {
                    said.durable[writer as usize] = batch;
                }
                Some(Mark::Entry(number)) => said.entry = number,
                _ => {}
            }
        }
        said
    }
}

/// The points of a vault, by id, with what they restore to.
pub type Points = BTreeMap<String, blake3::Hash>;

/// Both drives, mounted.
#[derive(Debug)]
pub struct Scene {
    /// The tracker and shipper of this scene.
    pub site: Site,
    // Unmounted behind the site's programs.
    near: Mounted,
    _far: Mounted,
    /// For images that are restored.
    folder: TempDir,
}

impl Scene {
    /// Mounts the drives of a machine.
    ///
    /// # Panics
    /// If a file system did not survive.
    #[track_caller]
    pub fn new(images: &[Image]) -> Self {
        let [near, far, ..] = images else { panic!("a disk's drive and a vault's") };
        let (near, far) = (Mounted::new(near), Mounted::new(far));
        Self { site: site(near.path(), far.path()), near, _far: far, folder: folder() }
    }

    /// The disk.
    pub fn disk(&self) -> PathBuf {
        self.near.path().join("disk.raw")
    }

    /// A point (or `latest`), restored.
    ///
    /// # Errors
    /// It can't be.
    pub fn restore(&self, point: &str) -> Result<PathBuf, String> {
        let to = self.folder.path().join(point);
        let vault = self.site.vault();
        let mut arguments: Vec<&OsStr> =
            ["restore", "--force", "--group", "disk", "--point", point, "--vault"].map(OsStr::new).into();
        arguments.extend([vault.as_os_str(), OsStr::new("--to"), to.as_os_str()]);
        let outcome = towline(arguments);
        if outcome.code == Some(0) { Ok(to) } else { Err(format!("point {point}: {}", outcome.stderr)) }
    }

    /// Checks that a tracker that recovered here has lost nothing, by its status and the first point that it made;
    /// `written` batches at most had been written since the point before. Bytes that were read again.
    ///
    /// # Errors
    /// A promise is broken.
    pub fn recovered(&self, status: &Value, point: &Value, written: u64) -> Result<u64, String> {
        let disk = &status["disks"][0];
        if !disk["resync"].is_null() || disk["doubtful"] == true {
            return Err(format!("a power cut costs no resynchronization: {status}"));
        }
        let number = |value: &Value| value.as_u64().unwrap_or(u64::MAX);
        // Promise 4.
        let budget = number(&disk["intent_budget"]).saturating_mul(REGION);
        let read = number(&point["bytes_read"]);
        if read > budget.saturating_add(written * BATCH_BYTES) {
            return Err(format!("more was read again than {budget} and {written} batches: {point}"));
        }
        self.newest_is_the_disk(point)?;
        Ok(read)
    }

    /// Checks that the newest entry, of which the shipper says this, is a point and holds what the disk holds.
    ///
    /// # Errors
    /// It is not so.
    pub fn newest_is_the_disk(&self, point: &Value) -> Result<(), String> {
        if point["kind"] != "point" {
            return Err(format!("nobody writes, and it is no point: {point}"));
        }
        let image = self.restore("latest")?;
        equal(&self.disk(), &image)?;
        fs::remove_file(image).map_err(|error| error.to_string())
    }

    /// Checks what the machine had said against the disk and the vault as they are now.
    ///
    /// # Errors
    /// A promise is broken.
    pub fn kept(&self, load: &Load, before: &Path, said: &Said, tears: Tears) -> Result<(), String> {
        load.check(&self.disk(), before, &said.durable, tears)?;
        if self.entries() < said.entry {
            return Err(format!("the vault had entry {} and ends with {}", said.entry, self.entries()));
        }
        Ok(())
    }

    /// Entries of the only group's log.
    fn entries(&self) -> u64 {
        let groups = fs::read_dir(self.site.vault().join("groups")).into_iter().flatten().flatten();
        groups.map(|group| fs::read_dir(group.path().join("log")).into_iter().flatten().count() as u64).sum()
    }

    /// The ids of the points, oldest first.
    pub fn points(&self) -> Vec<String> {
        let id = |point: &Value| point["id"].as_str().expect("an id").to_owned();
        self.site.points().iter().filter(|point| point["abandoned"] == false).map(id).collect()
    }

    /// What a point restores to.
    ///
    /// # Errors
    /// It can't be restored.
    pub fn digest(&self, point: &str) -> Result<blake3::Hash, String> {
        let image = self.restore(point)?;
        let failed = |error: std::io::Error| format!("{}: {error}", image.display());
        let file = File::open(&image).map_err(failed)?;
        let (mut hasher, mut bytes) = (blake3::Hasher::new(), vec![0; STEP as usize]);
        let mut at = data_at(&file, 0) / STEP * STEP;
        while at < SIZE {
            file.read_exact_at(&mut bytes, at).map_err(failed)?;
            for (place, block) in (at..).step_by(BLOCK).zip(bytes.chunks(BLOCK)) {
                // A hole and written zeros are the same.
                if block.iter().any(|&byte| byte != 0) {
                    hasher.update(&place.to_le_bytes()).update(block);
                }
            }
            at = data_at(&file, at + STEP) / STEP * STEP;
        }
        fs::remove_file(&image).map_err(failed)?;
        Ok(hasher.finalize())
    }

    /// Every object of the vault, as `towline verify` reads it.
    ///
    /// # Errors
    /// What it says.
    pub fn verify(&self) -> Result<(), String> {
        let vault = self.site.vault();
        let outcome = towline([OsStr::new("verify"), OsStr::new("--vault"), vault.as_os_str()]);
        if outcome.code == Some(0) { Ok(()) } else { Err(format!("{}\n{}", outcome.stdout, outcome.stderr)) }
    }
}

/// A folder in memory.
///
/// # Panics
/// If there can be none.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("tow").tempdir_in("/dev/shm").expect("a folder")
}

/// A disk that was never written.
///
/// # Panics
/// If there is no room for a hole.
pub fn blank(path: &Path) -> PathBuf {
    File::create(path).and_then(|file| file.set_len(SIZE)).expect("a file");
    path.to_owned()
}

/// As [`same`], told.
fn equal(left: &Path, right: &Path) -> Result<(), String> {
    let told = std::panic::catch_unwind(|| same(left, right));
    told.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        format!("the newest point is not the disk: {}", text.unwrap_or_default())
    })
}
