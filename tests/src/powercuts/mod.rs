//! Power cuts (F3, F7, F10): a machine of its own, emulated by QEMU, in which tracker, guests and shipper run; its
//! drives are served and recorded by us ([`drives`]), with a cache that a cut empties of any part of what was not
//! flushed ([`record`]). QEMU can write such a log too (blklogwrites), of one drive: here the order over both drives,
//! and of what the machine knew in between, is what the comparison rests on.
//!
//! Two campaigns:
//! - [`Campaign::Boots`]: the machine's power is cut in a state that it was told to wait for, by its own reset or
//!   by pulling the plug. It boots again, recovers, and makes a point; then disk, point, vault and what had been
//!   acknowledged and flushed are compared.
//! - [`Campaign::Replays`]: a machine wanders through all that a tracker does. The record of its drives is cut at
//!   flush marks and between them, thousands of times; the tracker recovers on this host, where the file system
//!   (ext4, XFS, Btrfs) is mounted as the cut left it.

mod boots;
pub mod drives;
mod first;
pub mod guest;
pub mod image;
pub mod load;
pub mod machine;
pub mod mark;
mod monitor;
pub mod mounted;
pub mod record;
mod replays;
pub mod scene;

pub use boots::stalled;

use crate::kills::eye::State;
use crate::kills::states::States;
use crate::sim::rng::Rng;
use image::Image;
use machine::{Kind, Machine};
use record::Loss;
use std::fmt;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Bytes of each drive: XFS wants so many, and few of them are ever written.
const DRIVE: u64 = 2 << 30;

/// Legs that run side by side: who waits for one machine has time for another.
const LANES: usize = 2;

/// So many cuts tell whether all states are hit as often as they should; of fewer, some may be hit by none.
pub const MANY: usize = 100;

/// A campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Campaign {
    /// Cuts of the machine.
    Boots,
    /// Cuts of a record.
    Replays,
}

impl Campaign {
    /// Its word in the table of campaigns.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boots => "powercuts",
            Self::Replays => "replays",
        }
    }

    /// Cuts of a leg; a run of replays has one for each kind of file system at least.
    fn leg(self, count: usize) -> usize {
        match self {
            Self::Boots => 10,
            Self::Replays => count.div_ceil(Kind::ALL.len()).clamp(1, 100),
        }
    }
}

/// What a campaign did.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// The states at the cuts.
    pub states: States,
    /// Batches of writes, acknowledged and flushed before a cut, that were found behind it.
    pub batches: u64,
    /// Points that were made before a cut and compared behind it.
    pub points: usize,
    /// Cuts by the kind of the file system.
    pub kinds: [usize; Kind::ALL.len()],
    /// Cuts of a record where a flush of the disk's drive was answered, or was not yet.
    pub at_flushes: usize,
    /// Starts behind a cut.
    pub starts: u64,
    /// Bytes that they read in all.
    pub read: u64,
    /// The most that one read.
    pub read_most: u64,
    /// Legs that broke a promise.
    pub failures: usize,
}

impl Tally {
    fn recovered(&mut self, read: u64) {
        self.starts += 1;
        self.read += read;
        self.read_most = self.read_most.max(read);
    }

    fn cut(&mut self, kind: Kind, state: State) {
        self.states.count(state);
        self.kinds[kind as usize] += 1;
    }

    fn add(&mut self, leg: &Self) {
        self.states.add(&leg.states);
        self.kinds.iter_mut().zip(leg.kinds).for_each(|(all, of)| *all += of);
        self.batches += leg.batches;
        self.points += leg.points;
        self.at_flushes += leg.at_flushes;
        self.starts += leg.starts;
        self.read += leg.read;
        self.read_most = self.read_most.max(leg.read_most);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        write!(f, "{}; ", self.states)?;
        for (kind, cuts) in Kind::ALL.iter().zip(self.kinds) {
            write!(f, "{} {cuts}, ", kind.name())?;
        }
        if self.at_flushes > 0 {
            write!(f, "at a flush {}; ", self.at_flushes)?;
        }
        write!(
            f,
            "{} flushed batches found, {} points compared; read again {} MiB of {} on average, {} at most",
            self.batches,
            self.points,
            mib(self.read / self.starts.max(1)),
            mib(guest::SIZE),
            mib(self.read_most)
        )
    }
}

/// A leg of a campaign: one machine and its drives.
struct Leg<'a> {
    machine: &'a Machine,
    kind: Kind,
    seed: u64,
    cuts: usize,
    /// The states that the campaign has hit so far.
    states: States,
    tally: Tally,
}

/// A campaign under way.
struct Course<T> {
    campaign: Campaign,
    count: usize,
    seed: u64,
    /// Cuts of the legs that have begun.
    begun: usize,
    /// Of the legs that are over.
    tally: Tally,
    told: T,
    broken: Option<String>,
}

impl<T: FnMut(&Tally)> Course<T> {
    fn next<'a>(&mut self, machine: &'a Machine) -> Option<Leg<'a>> {
        let all = self.campaign.leg(self.count);
        let blind = self.count >= MANY && self.tally.states.hit().is_err();
        let cuts = match self.count.saturating_sub(self.begun) {
            0 if blind && self.begun < self.count + 4 * all => all,
            left => left.min(all),
        };
        if cuts == 0 || self.broken.is_some() {
            return None;
        }
        let seed = self.seed + self.begun as u64;
        self.begun += cuts;
        let kind = Kind::ALL[(seed / all as u64) as usize % Kind::ALL.len()];
        let states = self.tally.states.clone();
        Some(Leg { machine, kind, seed, cuts, states, tally: Tally::default() })
    }

    fn over(&mut self, leg: &Leg<'_>, ended: Result<(), String>) {
        self.tally.add(&leg.tally);
        if let Err(why) = ended {
            self.tally.failures += 1;
            let cuts = leg.tally.states.all();
            self.broken = Some(format!("SEED={}, {}, behind {cuts} cuts: {why}", leg.seed, leg.kind.name()));
        }
        (self.told)(&self.tally);
    }
}

/// Cuts `count` times, from one seed on, and more while a state was not hit often enough; a leg's seed is that of
/// the campaign and the number of cuts before it. `told` hears of every leg that is over.
///
/// # Panics
/// At the first promise that is broken.
pub fn run(campaign: Campaign, count: usize, seed: u64, told: impl FnMut(&Tally) + Send) -> Tally {
    let machine = Machine::new(&scene::DRIVES);
    let course = Course { campaign, count, seed, begun: 0, tally: Tally::default(), told, broken: None };
    let course = Mutex::new(course);
    let at = || course.lock().unwrap_or_else(PoisonError::into_inner);
    let lane = || {
        // The lock is not held while a leg runs.
        let next = || at().next(&machine);
        while let Some(mut leg) = next() {
            let ended = catch_unwind(AssertUnwindSafe(|| match campaign {
                Campaign::Boots => boots::run(&mut leg),
                Campaign::Replays => replays::run(&mut leg),
            }));
            at().over(&leg, ended.unwrap_or_else(|_| Err("see above".into())));
        }
    };
    std::thread::scope(|scope| (0..LANES).for_each(|_| drop(scope.spawn(lane))));
    let Course { tally, broken, .. } = course.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(broken.is_none(), "{}", broken.unwrap_or_default());
    tally
}

/// Empty file systems for a machine: one of this kind, and the vault's.
fn first_drives(folder: &Path, kind: Kind) -> Vec<(&'static str, Image)> {
    let of = |name, kind: Kind| {
        let file = folder.join(name);
        File::create(&file).and_then(|file| file.set_len(DRIVE)).expect("a file");
        kind.make(&file);
        let image = Image::load(&file).expect("an image");
        std::fs::remove_file(file).expect("it was made");
        (name, image)
    };
    vec![of(scene::DRIVES[0], kind), of(scene::DRIVES[1], Kind::Ext4)]
}

/// A vault is elsewhere and keeps all that it was given (so that whatever it has that the disk has not must be
/// known to be missing), or loses its power as well.
fn far_loss(rng: &mut Rng) -> Loss {
    if rng.chance(600) { Loss::Nothing } else { Loss::Some(Kind::Ext4.whole()) }
}
