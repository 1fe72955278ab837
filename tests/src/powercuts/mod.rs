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
pub mod guest;
pub mod image;
pub mod load;
pub mod machine;
pub mod mark;
pub mod mounted;
pub mod record;
mod replays;
pub mod scene;

pub use boots::stalled;

use crate::kills::states::States;
use crate::sim::rng::Rng;
use image::Image;
use machine::Kind;
use record::Loss;
use std::fmt;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Bytes of each drive: XFS wants so many, and few of them are ever written.
const DRIVE: u64 = 2 << 30;

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
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        write!(
            f,
            "{}; {} flushed batches found, {} points compared; read again {} MiB of {} on average, {} at most",
            self.states,
            self.batches,
            self.points,
            mib(self.read / self.starts.max(1)),
            mib(guest::SIZE),
            mib(self.read_most)
        )
    }
}

/// Cuts `count` times, from one seed on, and more while a state was not hit often enough; a leg's seed is that of
/// the campaign and the number of cuts before it. `told` hears of every leg that is over.
///
/// # Panics
/// At the first promise that is broken.
pub fn run(campaign: Campaign, count: usize, seed: u64, mut told: impl FnMut(&Tally)) -> Tally {
    let mut tally = Tally::default();
    let leg = campaign.leg(count);
    let mut kinds = Kind::ALL.into_iter().cycle();
    let blind = |tally: &Tally| count >= MANY && tally.states.hit().is_err();
    while tally.states.all() < count || blind(&tally) && tally.states.all() < count + 4 * leg {
        let done = tally.states.all();
        let left = if done < count { count - done } else { leg };
        let (seed, cuts) = (seed + done as u64, leg.min(left));
        let kind = kinds.next().expect("they go round");
        let ended = catch_unwind(AssertUnwindSafe(|| match campaign {
            Campaign::Boots => boots::run(seed, kind, cuts, &mut tally),
            Campaign::Replays => replays::run(seed, kind, cuts, &mut tally),
        }));
        let ended = ended.unwrap_or_else(|_| Err("see above".into()));
        tally.failures += usize::from(ended.is_err());
        told(&tally);
        ended.unwrap_or_else(|why| panic!("SEED={seed}, behind {} cuts: {why}", tally.states.all() - done));
    }
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
