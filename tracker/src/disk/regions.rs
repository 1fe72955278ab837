//! The intents of one disk: an activity log of regions (W1, I1, I4), without I/O.
//!
//! A region is *ready* when it stands in the latest durable version of the set and in the version being written, if
//! one is. Adding makes it ready when the version that has it is durable; dropping takes readiness away when the
//! version that lacks it begins to be written: from then on that version may be what recovery finds.
//!
//! A region leaves in two steps (I4). *Cleaning*: its dirty blocks are being appended to the change log, or, if it has
//! none, a sync behind its last write is awaited. *Clean*: that is durable. A write to it in between cancels both.

use crate::mutant;
use std::collections::BTreeSet;
use std::ops::Range;

/// What is known of one region: 8 bytes, for a disk of 1 PiB has 2^28 of them.
#[derive(Clone, Copy, Debug, Default)]
struct Region {
    /// Requests between their first check and their end.
    pins: u16,
    flags: u8,
    _spare: u8,
    /// The disk's count of begun syncs at the region's last completed write.
    sync_epoch: u32,
}

const _: () = assert!(size_of::<Region>() == 8);

const READY: u8 = 1;
/// In the set that is durable or being written, or will be in the next.
const MEMBER: u8 = 2;
/// The clock hand gives it a second round.
const REFERENCED: u8 = 4;
const CLEANING: u8 = 8;
const CLEAN: u8 = 16;
/// A failed write lies in it: it stays (W5, I4).
const FAILED: u8 = 32;

/// Regions that one cleaning batch takes at most.
const BATCH: usize = 256;

/// The intents of a disk.
#[derive(Debug)]
pub(crate) struct Regions {
    table: Vec<Region>,
    /// The set: what the next version will hold.
    members: Vec<u32>,
    hand: usize,
    budget: usize,
    /// Regions that get ready when the version being written is durable.
    adding: Vec<u32>,
    writing: bool,
    cleaning: Vec<Cleaning>,
    /// Regions with a failed write.
    failed: BTreeSet<u32>,
}

/// A region on its way out.
#[derive(Clone, Copy, Debug)]
struct Cleaning {
    region: u32,
    /// Its dirty blocks are in the record; else it had none and needs a sync instead.
    recorded: bool,
}

/// Whether the `done`-th sync began after `epoch` had begun. The counts wrap; 2^31 syncs lie between no two that meet.
pub(crate) fn later(done: u32, epoch: u32) -> bool {
    done.wrapping_sub(epoch) as i32 > 0
}

impl Regions {
    /// `durable` is the set of the file as it was made (I3): all of them are ready.
    pub(crate) fn new(regions: u64, budget: usize, durable: &[u32]) -> Self {
        let mut table = vec![Region::default(); regions as usize];
        for region in durable {
            table[*region as usize].flags = READY | MEMBER;
        }
        Self {
            table,
            members: durable.to_vec(),
            hand: 0,
            budget: budget.max(durable.len()),
            adding: Vec::new(),
            writing: false,
            cleaning: Vec::new(),
            failed: BTreeSet::new(),
        }
    }

    /// Regions that failed writes keep in the set.
    pub(crate) fn failed(&self) -> &BTreeSet<u32> {
        &self.failed
    }

    /// Whether every region with a failed write is in the set that is durable.
    pub(crate) fn keeps_failed(&self) -> bool {
        self.failed.iter().all(|region| self.table[*region as usize].flags & READY != 0)
    }

    /// Forgets the set: a fresh file that holds these regions takes its place (S4). Pins stay with their requests.
    pub(crate) fn reset(&mut self, durable: &BTreeSet<u32>, budget: usize) {
        for region in &mut self.table {
            region.flags &= FAILED;
        }
        for region in durable {
            self.table[*region as usize].flags |= READY | MEMBER;
        }
        self.members = durable.iter().copied().collect();
        self.budget = budget;
        self.adding.clear();
        self.cleaning.clear();
        (self.hand, self.writing) = (0, false);
    }

    /// Regions in the set.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// The most regions in a set.
    pub(crate) fn budget(&self) -> usize {
        self.budget
    }

    /// The set, as the next version will hold it.
    pub(crate) fn members(&self) -> &[u32] {
        &self.members
    }

    /// W1 for a request's regions: pins all and returns true if all are ready; else changes nothing.
    #[inline]
    pub(crate) fn pin_if_ready(&mut self, range: Range<u32>) -> bool {
        let regions = &mut self.table[range.start as usize..range.end as usize];
        // Nearly every request lies in one region: no loops for it.
        if let [region] = regions {
            if region.flags & READY == 0 {
                return false;
            }
            region.pins = region.pins.checked_add(1).expect("fewer requests than 65,536 are in flight");
            region.flags |= REFERENCED;
            return true;
        }
        // Mutant: the first region answers for all.
        let asked = if mutant::active("first-region-only") { &regions[..1] } else { &regions[..] };
        if asked.iter().any(|region| region.flags & READY == 0) {
            return false;
        }
        for region in regions {
            region.pins = region.pins.checked_add(1).expect("fewer requests than 65,536 are in flight");
            region.flags |= REFERENCED;
        }
        true
    }

    /// Whether all are ready (a request that holds its pins already).
    #[inline]
    pub(crate) fn ready(&self, range: Range<u32>) -> bool {
        self.table[range.start as usize..range.end as usize].iter().all(|region| region.flags & READY != 0)
    }

    /// Takes all regions of a waiting request into the next version and pins them, if they fit (W1: who does not fit
    /// pins nothing).
    pub(crate) fn admit(&mut self, range: Range<u32>) -> bool {
        let missing = range.clone().filter(|region| self.table[*region as usize].flags & MEMBER == 0).count();
        // Regions of the request itself must not be dropped for it.
        for region in range.clone() {
            self.pin(region);
        }
        while self.members.len() + missing > self.budget {
            if !self.drop_one() {
                range.for_each(|region| self.unpin(region));
                return false;
            }
        }
        for region in range {
            let entry = &mut self.table[region as usize];
            entry.flags |= REFERENCED;
            if entry.flags & MEMBER == 0 {
                entry.flags |= MEMBER;
                self.members.push(region);
                self.adding.push(region);
            }
        }
        true
    }

    fn pin(&mut self, region: u32) {
        let entry = &mut self.table[region as usize];
        entry.pins = entry.pins.checked_add(1).expect("fewer requests than 65,536 are in flight");
    }

    /// The request completed, or was dropped.
    #[inline]
    pub(crate) fn unpin(&mut self, region: u32) {
        let entry = &mut self.table[region as usize];
        entry.pins -= 1;
    }

    /// A write was marked and submitted (W4): what was recorded of these regions is out of date.
    #[inline]
    pub(crate) fn marked(&mut self, range: Range<u32>) {
        // Mutant: what was recorded before it is enough.
        if mutant::active("written-while-cleaning") {
            return;
        }
        let regions = &mut self.table[range.start as usize..range.end as usize];
        if let [region] = regions {
            region.flags &= !(CLEANING | CLEAN);
            return;
        }
        for region in regions {
            region.flags &= !(CLEANING | CLEAN);
        }
    }

    /// A write completed when the disk had begun `sync_epoch` syncs; `pinned` says whether it holds pins on all of the
    /// range, which end.
    #[inline]
    pub(crate) fn completed(&mut self, range: Range<u32>, pinned: bool, sync_epoch: u32) {
        let regions = &mut self.table[range.start as usize..range.end as usize];
        if let [region] = regions {
            region.sync_epoch = sync_epoch;
            region.pins -= u16::from(pinned);
            return;
        }
        for region in regions {
            region.sync_epoch = sync_epoch;
            region.pins -= u16::from(pinned);
        }
    }

    /// A failed write lies, or no longer lies, in the region.
    pub(crate) fn set_failed(&mut self, region: u32, failed: bool) {
        let entry = &mut self.table[region as usize];
        if failed {
            self.failed.insert(region);
            entry.flags = (entry.flags | FAILED) & !(CLEANING | CLEAN);
        } else {
            self.failed.remove(&region);
            entry.flags &= !FAILED;
        }
    }

    /// Whether a version with changes waits to be written, and none is being written.
    pub(crate) fn should_write(&self) -> bool {
        !self.writing && !self.adding.is_empty()
    }

    /// Begins to write a version with the present [`Self::members`].
    pub(crate) fn begin_write(&mut self) -> Vec<u32> {
        assert!(!self.writing, "one in flight at a time");
        self.writing = true;
        // Room for those to come, as long as this version is written anyway.
        while self.members.len() > self.budget - self.budget / 8 && self.drop_one() {}
        std::mem::take(&mut self.adding)
    }

    /// The version is durable: what it added is ready.
    pub(crate) fn written(&mut self, added: &[u32]) {
        self.writing = false;
        for region in added {
            let entry = &mut self.table[*region as usize];
            debug_assert!(entry.flags & MEMBER != 0);
            entry.flags |= READY;
        }
        if mutant::active("dropped-region-still-ready") {
            self.table
                .iter_mut()
                .filter(|entry| entry.flags & MEMBER == 0)
                .for_each(|entry| entry.flags &= !READY);
        }
    }

    /// Drops one clean, unpinned region from the set. Only between versions: it loses readiness at once, and the
    /// version that lacks it is the next to be written.
    fn drop_one(&mut self) -> bool {
        for _ in 0..self.members.len() {
            self.hand = if self.hand + 1 < self.members.len() { self.hand + 1 } else { 0 };
            let region = self.members[self.hand];
            let entry = &mut self.table[region as usize];
            // Mutant: a request that waits with its pin does not keep it.
            if entry.flags & CLEAN != 0
                && (entry.pins == 0 || mutant::active("region-dropped-under-a-waiter"))
            {
                // Mutant: it stays ready as long as the version that has it is the durable one.
                let ready = if mutant::active("dropped-region-still-ready") { 0 } else { READY };
                entry.flags &= !(CLEAN | MEMBER | ready);
                self.members.swap_remove(self.hand);
                return true;
            }
        }
        false
    }

    /// Chooses regions to clean by the clock, if no cleaning runs and the set is nearly full, or too full for the request
    /// that waits first, whose regions these are: they don't make room for themselves. `record` puts a region's dirty
    /// blocks down and says whether there were any. True if anything was chosen.
    pub(crate) fn begin_cleaning(&mut self, first: Range<u32>, mut record: impl FnMut(u32) -> bool) -> bool {
        if !self.cleaning.is_empty() {
            return false;
        }
        let missing = first.clone().filter(|region| self.table[*region as usize].flags & MEMBER == 0).count();
        let short = (self.members.len() + missing).saturating_sub(self.budget);
        let nearly_full = self.members.len() >= self.budget - self.budget / 4;
        let ahead = if nearly_full { (self.budget / 4).clamp(1, BATCH) } else { 0 };
        let own = |region: u32| short > 0 && first.contains(&region);
        let clean = |region: &&u32| self.table[**region as usize].flags & CLEAN != 0 && !own(**region);
        let wanted = ahead.max(short);
        if wanted == 0 || self.members.iter().filter(clean).count() >= wanted {
            return false;
        }
        for _ in 0..2 * self.members.len() {
            if self.cleaning.len() == wanted.min(BATCH) {
                break;
            }
            self.hand = if self.hand + 1 < self.members.len() { self.hand + 1 } else { 0 };
            let region = self.members[self.hand];
            let entry = &mut self.table[region as usize];
            let busy = entry.pins > 0 || entry.flags & READY == 0 || own(region);
            // Mutant: what a failed write may still do is forgotten.
            let failed = entry.flags & FAILED != 0 && !mutant::active("failed-region-leaves");
            if busy || failed || entry.flags & (CLEANING | CLEAN) != 0 {
                continue;
            }
            if entry.flags & REFERENCED != 0 {
                entry.flags &= !REFERENCED;
                continue;
            }
            entry.flags |= CLEANING;
            self.cleaning.push(Cleaning { region, recorded: record(region) });
        }
        !self.cleaning.is_empty()
    }

    /// Whether a region being cleaned has no dirty blocks and needs a sync that began after its last completed write.
    pub(crate) fn cleaning_needs_sync(&self, sync_done: u32) -> bool {
        self.cleaning
            .iter()
            .any(|one| !one.recorded && !later(sync_done, self.table[one.region as usize].sync_epoch))
    }

    /// What cleaning waited for is durable: those that no write touched meanwhile are clean.
    pub(crate) fn cleaned(&mut self, sync_done: u32) {
        for one in std::mem::take(&mut self.cleaning) {
            let entry = &mut self.table[one.region as usize];
            if entry.flags & CLEANING != 0 {
                entry.flags &= !CLEANING;
                if one.recorded || later(sync_done, entry.sync_epoch) {
                    entry.flags |= CLEAN;
                }
            }
        }
    }

    /// What cleaning waited for failed.
    pub(crate) fn cleaning_failed(&mut self) {
        for one in std::mem::take(&mut self.cleaning) {
            self.table[one.region as usize].flags &= !CLEANING;
        }
    }
}
