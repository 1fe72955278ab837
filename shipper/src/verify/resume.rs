//! What a verification that was interrupted had read already, remembered on this host: a line for each pack that was read
//! whole, with the index by which it was checked, and found as it must be. Both are written once under random names, so a
//! line stays true of them for as long as the store keeps what it has; that it still had it when the verification went on is
//! what skipping does without.
//!
//! A line that is cut off, or not one of ours, says nothing. A file that is not of the same kind of verification begins anew,
//! and so does one that is older than [`AGE_MAX`]: what was sound then need not be.

use super::Depth;
use crate::vault::Group;
use crate::vault::index::PackRef;
use crate::vault::names::ObjectName;
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// What an interrupted verification had read counts for so long.
const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where verifications are remembered, and when this one began.
#[derive(Clone, Copy, Debug)]
pub struct Notes<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// Nanoseconds since 1970.
    pub now_ns: u64,
    /// Begin anew.
    pub anew: bool,
}

/// What was read of a group, and is being read. The file is this process's alone as long as it is open.
pub(super) struct Verified {
    path: PathBuf,
    file: Mutex<File>,
    known: HashSet<String>,
    /// When the first of the runs that were interrupted began.
    pub(super) since_ns: u64,
    /// Draws the same sample in each of them.
    pub(super) seed: [u8; 16],
}

impl Verified {
    /// Of a group of the vault, to this depth. `seed` is for a verification that begins anew. `None` if another process
    /// verifies the same.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn open(
        notes: &Notes<'_>,
        group: &Group,
        depth: Depth,
        seed: [u8; 16],
    ) -> io::Result<Option<Self>> {
        DirBuilder::new().recursive(true).mode(0o700).create(notes.folder)?;
        let path = notes.folder.join(format!("{}-{}", group.seal.vault, group.id()));
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        if file.try_lock().is_err() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // What a kill cut off is no line.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text = String::from_utf8_lossy(&bytes[..whole]);
        let (head, lines) = text.split_once('\n').unwrap_or_default();
        let told = head.strip_prefix("towline verify 1 ").and_then(|head| {
            let (of, rest) = head.rsplit_once(" since ")?;
            let (since, seed) = rest.split_once(' ')?;
            let since_ns = since.parse().ok()?;
            let age = Duration::from_nanos(notes.now_ns.checked_sub(since_ns)?);
            let same = of == format!("{depth:?}") && age <= AGE_MAX && !notes.anew;
            same.then_some((since_ns, u128::from_str_radix(seed, 16).ok()?.to_be_bytes()))
        });
        if told.is_none() {
            file.set_len(0)?;
            file.rewind()?;
            let seed = u128::from_be_bytes(seed);
            writeln!(file, "towline verify 1 {depth:?} since {} {seed:032x}", notes.now_ns)?;
        } else {
            file.set_len(whole as u64)?;
            file.seek(io::SeekFrom::End(0))?;
        }
        let known = told.map_or_else(HashSet::new, |_| lines.lines().map(String::from).collect());
        let (since_ns, seed) = told.unwrap_or((notes.now_ns, seed));
        Ok(Some(Self { path, file: Mutex::new(file), known, since_ns, seed }))
    }

    /// Whether an interrupted verification had read this pack for this index.
    pub(super) fn has(&self, index: ObjectName, pack: &PackRef) -> bool {
        !self.known.is_empty() && self.known.contains(&line(index, pack))
    }

    /// It was read, and is as it must be.
    pub(super) fn note(&self, index: ObjectName, pack: &PackRef) {
        let mut file = self.file.lock().expect("no thread panics with the lock");
        // What is not remembered is read again.
        let _ = file.write_all(format!("{}\n", line(index, pack)).as_bytes());
    }

    /// The verification is finished: the next one begins anew.
    pub(super) fn end(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// What a pack and the index by which it is checked are known by.
fn line(index: ObjectName, pack: &PackRef) -> String {
    format!("{index} {} {} {} {}", pack.name, pack.entry, pack.offset, pack.length)
}
