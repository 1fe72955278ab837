//! Folding (V6): several indexes of an image become one that says the same, so that a point lists a bounded number of them
//! and a restore reads what its image needs, not its history (V12).
//!
//! ```text
//! list of a disk, the oldest first      [2][1][1][0][0][0][0]
//! tiers: which are due (pure)                    └────────┘
//! making: open, merge, put                [1]  durable, an orphan
//! splice: into the base                 [2][1][1][1]
//! the next entry lists it               [2][1][1][1][0]  and now it is real
//! ```
//!
//! A fold is made between cycles, in steps, and never on the way of one. It stands for indexes that it knows by name and
//! hash, and is used only where they stand side by side in the list of the base that the next entry is laid over; else it is
//! an orphan, as it is after a crash or another's claim at any step. A [`Folder`] belongs to one claim: a fold of an older epoch
//! that no entry lists may be collected, so it is never listed later.

mod making;
mod merge;
mod tiers;
mod unlisted;

use super::Group;
use super::access::Reader;
use super::entry::{Content, DiskImage, IndexRef};
use super::limits::FOLD_PART_MAX;
use crate::{Error, Kind};
use making::Fold;
use std::collections::HashMap;
use std::sync::Arc;
use tiers::Due;
use towline_tracker::id::DiskId;
pub use unlisted::Unlisted;

/// So many of a level fold into one of the next, unless asked otherwise.
pub const EVERY: usize = 16;

/// Folds the lists of a group, for the writer of one epoch.
pub struct Folder {
    group: Group,
    epoch: u64,
    every: usize,
    cache: usize,
    part_bytes: usize,
    /// One at a time: it is the memory of one.
    running: Option<Fold>,
    /// Disks of whose lists a part can't be folded.
    failed: HashMap<DiskId, Failed>,
    /// It was said that the store does not take folds, or does not hand out what they are made of.
    told: bool,
}

/// What was tried in vain.
#[derive(Clone, Copy)]
struct Failed {
    /// How long the list was.
    length: usize,
    /// All that is newer was to be folded too. What heals a damaged page is newer.
    whole: bool,
}

impl Folder {
    /// For the writer of `epoch`; `every` of a level (at least 2) fold into one of the next. Takes about `memory` bytes, and a
    /// little for each page and pack of what is folded.
    pub fn new(group: &Group, epoch: u64, every: usize, memory: u64) -> Self {
        let half = usize::try_from(memory / 2).unwrap_or(usize::MAX);
        Self {
            group: group.clone(),
            epoch,
            every: every.max(2),
            cache: half,
            part_bytes: half.min(FOLD_PART_MAX),
            running: None,
            failed: HashMap::new(),
            told: false,
        }
    }

    /// Goes on a little with what is due in `base`, the content that the next entry will be laid over; what is folded is replaced
    /// there at once, and waits in `unlisted` of that entry's publisher. False if there is nothing to do, or nothing can be done for now: that stops nobody.
    pub fn step(&mut self, base: &mut Content, unlisted: &mut Unlisted) -> bool {
        // Blocks of what is being folded may have been moved.
        if unlisted.was_collected() {
            self.running = None;
        }
        if self.running.is_none() {
            self.running = base.disks.iter().find_map(|disk| self.begin(disk));
        }
        let Some(fold) = &mut self.running else { return false };
        match fold.step() {
            Ok(None) => true,
            Ok(Some(parts)) => {
                let fold = self.running.take().expect("it is running");
                self.failed.remove(&fold.disk);
                let list =
                    base.disks.iter_mut().find(|disk| disk.id == fold.disk).map(|disk| &mut disk.indexes);
                let count = (fold.of.len(), parts.len());
                let used = list.is_some_and(|list| splice(list, &fold.of, fold.bottom, &parts));
                if used {
                    unlisted.wait(fold.of, parts);
                }
                tracing::debug!(disk = %fold.disk, indexes = count.0, parts = count.1, used, "folded");
                true
            }
            Err(error) => self.failed(base, &error),
        }
    }

    fn begin(&mut self, disk: &DiskImage) -> Option<Fold> {
        let length = disk.indexes.len();
        // It began anew.
        self.failed.retain(|id, failed| *id != disk.id || failed.length <= length);
        let due = tiers::due(&disk.indexes, self.every)?;
        let due = match self.failed.get(&disk.id) {
            None => due,
            Some(failed) if failed.whole && length < failed.length + self.every => return None,
            Some(_) => Due { range: due.range.start..length, ..due },
        };
        let reader = Arc::new(Reader::new(self.group.clone(), self.cache));
        Some(Fold::new(reader, self.epoch, disk, due, self.part_bytes))
    }

    /// A step failed: whether there may be something else to do.
    fn failed(&mut self, base: &Content, error: &Error) -> bool {
        let line = error.line();
        if !matches!(error.kind(), Kind::Damage | Kind::NewerVault) {
            match std::mem::replace(&mut self.told, true) {
                false => tracing::warn!(error = line, "indexes can't be folded for now; shipping goes on"),
                true => tracing::debug!(error = line, "indexes can't be folded for now"),
            }
            return false;
        }
        let fold = self.running.take().expect("it is running");
        let length = base.disk(fold.disk).map_or(0, |disk| disk.indexes.len());
        match self.failed.insert(fold.disk, Failed { length, whole: fold.whole }) {
            None => {
                tracing::warn!(disk = %fold.disk, error = line, "its indexes can't be folded; shipping goes on")
            }
            Some(_) => tracing::debug!(disk = %fold.disk, error = line, "its indexes can't be folded"),
        }
        true
    }
}

/// Puts the parts of a fold in the place of what they stand for, if that is all there, side by side; what was folded over
/// nothing must lie over nothing.
fn splice(list: &mut Vec<IndexRef>, of: &[IndexRef], bottom: bool, parts: &[IndexRef]) -> bool {
    let Some(at) = list.windows(of.len()).position(|some| some == of) else { return false };
    if bottom && at > 0 {
        return false;
    }
    list.splice(at..at + of.len(), parts.iter().copied());
    true
}

#[cfg(test)]
mod tests;
