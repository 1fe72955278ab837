//! What the next start would make of a disk that nobody serves: the same look and the same table ([`crate::recover`]), and
//! nothing is changed or locked.

use super::disk_file::{self, DiskFile};
use super::folder::Directory;
use super::look::{look, read_identity};
use super::start::Candidate;
use super::{DiskConfig, now};
use crate::disk::geometry::Geometry;
use crate::error::{Error, Kind};
use crate::format::meta::Meta;
use crate::id::{Anchor, DiskId};
use crate::recover::{Stop, Verdict};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A disk that was looked at.
#[derive(Clone, Debug)]
pub struct Examination {
    /// Somebody has it open for writing: a tracker, whose word counts and not this, or another program.
    pub in_use: bool,
    /// Its identity; `None`: it was never tracked.
    pub disk: Option<DiskId>,
    /// How the last session ended; `None`: there is no sidecar that can be read.
    pub stop: Option<Stop>,
    /// What the next start does if the maps in memory are good, as they are after a process's death.
    pub with_maps: Verdict,
    /// And if they are not.
    pub without_maps: Verdict,
    /// A comparison that is still to be done, from before: its reason.
    pub recheck: Option<String>,
    /// That comparison is one of the whole disk.
    pub recheck_whole: bool,
    /// A sync of the disk failed, and the host has not been started again since (W6).
    pub doubtful: bool,
    /// Bytes in regions that may have been written when the session ended.
    pub intent_bytes: u64,
    /// Bytes of blocks in change logs that no release has ended.
    pub pending_bytes: u64,
    /// The last entry that was released.
    pub anchor: Option<Anchor>,
    /// The disk's size.
    pub size: u64,
}

/// Looks at a disk and at its sidecar. Only a start that has the lock decides; in between things may change.
///
/// # Errors
/// The disk or its sidecar can't be read, or the sidecar is another disk's or a newer program's: one clear line.
pub fn examine(disk: &DiskConfig, sidecar: &Path) -> Result<Examination, Error> {
    let (mut file, probe) = disk_file::open(disk, None, true, Some(false))?;
    if !file.can_carry_mark() {
        let state = disk_file::state_path(&disk.path)
            .map_err(|error| Error::caused(Kind::Sidecar, "the state folder can't be used", error))?;
        file.keep_mark_in(state);
    }
    let in_use = file.is_in_use().unwrap_or(false);
    let unreadable = |error| {
        Error::caused(Kind::Sidecar, format!("the sidecar {} can't be read", sidecar.display()), error)
    };
    let folder = match Directory::existing(sidecar) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(without_sidecar(&file, probe.size, in_use));
        }
        Err(error) => return Err(unreadable(error)),
    };
    let mut candidate = Candidate {
        name: disk.name.clone(),
        path: disk.path.display().to_string(),
        folder,
        facts: Arc::new(file),
        // Until its meta says better.
        geometry: Geometry { size: probe.size, block_shift: 12, region_shift: 22 },
        direct: probe.direct,
        align: probe.align,
    };
    let identity = read_identity(&candidate, DiskId::default)?;
    let Some(meta) = identity.1.clone() else {
        return Ok(without_sidecar(&candidate.facts, probe.size, in_use));
    };
    // As it was tracked: a start with other sizes compares everything, and says so.
    (candidate.geometry.block_shift, candidate.geometry.region_shift) = (meta.block_shift, meta.region_shift);
    let now = now().map_err(|error| Error::caused(Kind::Other, "the clocks can't be read", error))?;
    let (candidates, identities) = ([candidate], [identity]);
    let mut seen = Vec::new();
    for good in [true, false] {
        seen.extend(
            look(&candidates, &identities, Some(&meta), None, good, now)
                .map_err(|(_, error)| unreadable(error))?,
        );
    }
    let [with_maps, without_maps] = &seen[..] else { unreachable!("one disk, looked at twice") };
    let mut pending_blocks = 0;
    let each = |blocks: Range<u64>| pending_blocks += blocks.end - blocks.start;
    without_maps.read_pending(&candidates[0].folder, each).map_err(unreadable)?;
    let Meta { disk, recheck, doubtful, anchor, boot, clean, .. } = meta;
    Ok(Examination {
        in_use,
        disk: Some(disk),
        stop: Some(match (clean.is_some(), boot == now.boot) {
            (true, _) => Stop::Clean,
            (false, true) => Stop::Process,
            (false, false) => Stop::Host,
        }),
        with_maps: with_maps.verdict.clone(),
        without_maps: without_maps.verdict.clone(),
        recheck_whole: recheck.as_ref().is_some_and(|recheck| recheck.whole),
        recheck: recheck.map(|recheck| recheck.reason),
        doubtful: doubtful && boot == now.boot,
        intent_bytes: (without_maps.intents.regions.len() as u64) << candidates[0].geometry.region_shift,
        pending_bytes: pending_blocks << candidates[0].geometry.block_shift,
        anchor,
        size: probe.size,
    })
}

fn without_sidecar(file: &DiskFile, size: u64, in_use: bool) -> Examination {
    use super::jobs::DiskFacts;
    let mark = file.mark().ok().flatten();
    let why = if mark.is_some() { "its sidecar is missing or damaged" } else { "the disk is new" };
    let verdict = Verdict::Resync(why.into());
    Examination {
        in_use,
        disk: mark.map(|mark| mark.disk),
        stop: None,
        with_maps: verdict.clone(),
        without_maps: verdict,
        recheck: None,
        recheck_whole: false,
        doubtful: false,
        intent_bytes: 0,
        pending_bytes: 0,
        anchor: None,
        size,
    }
}
