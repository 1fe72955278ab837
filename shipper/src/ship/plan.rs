//! What the shipping loop decides, as values: no I/O, no clock.

use crate::Kind;
use crate::pipeline::shape;
use crate::source::SourceDisk;
use crate::vault::attach::{Decision, takes_up};
use crate::vault::entry::{Content, EntryKind};
use std::time::Duration;
use towline_tracker::control::message::LiveFreeze;
use towline_tracker::mutant;

/// What to do with the freeze that is open at an attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Its entry is published: release it.
    Release,
    /// Ship it; with `resume`, what the base's checkpoint covers is not shipped again.
    Finish {
        /// The base is a checkpoint of this very freeze.
        resume: bool,
    },
}

/// What to do with the open freeze after this decision.
pub fn opening(decision: &Decision, live: LiveFreeze) -> Opening {
    match decision {
        Decision::Adopt(_) => Opening::Release,
        decision => Opening::Finish {
            resume: decision
                .base()
                // Mutant: a checkpoint is a checkpoint.
                .filter(|base| takes_up(live, &base.header) || mutant::active("resume-any-checkpoint"))
                .is_some_and(|base| base.header.kind == EntryKind::Checkpoint),
        },
    }
}

/// Whether everything must be frozen after this decision.
pub fn needs_whole(decision: &Decision) -> bool {
    matches!(decision, Decision::Initial | Decision::Resync { .. })
}

/// Whether a freeze completes the image that it will be laid over: a disk without an image below must be frozen whole,
/// and so must every disk when everything is to be compared.
pub fn fits(disks: &[SourceDisk], base: Option<&Content>, whole: bool) -> bool {
    disks.iter().all(|disk| disk.whole || !whole && shape(disk).base_image(base).is_some())
}

/// For each disk, whether its blocks are compared with the image below before they are shipped (V7): when the tracker
/// asks for it, when everything is frozen although there is an image, or when so many per cent of the disk have changed
/// (0: never; DESIGN 4.2).
///
/// A comparison reads the index pages that speak of the changed blocks, some 40 bytes a block of what they cover: about 1 % of
/// the disk if all of them are read, so at half of it at most 2 % of what would be shipped, and blocks are hashed in any case.
/// It pays if more than these 2 % are as they were, which is likely of a change of that size (a restore, a defragmentation, a
/// file system that was written anew). Of few changes, all over the disk, each block may need a page of its own, of the size of
/// sixteen blocks: there shipping is cheaper, and what was put lately is known without the vault.
pub fn compare(disks: &[SourceDisk], base: Option<&Content>, resync_at: u8) -> Vec<bool> {
    let much = |disk: &SourceDisk| {
        let part = u128::from(disk.size) * u128::from(resync_at);
        resync_at > 0 && disk.frozen_bytes > 0 && u128::from(disk.frozen_bytes) * 100 >= part
    };
    let wanted = |disk: &SourceDisk| disk.compare || disk.whole || much(disk);
    disks.iter().map(|disk| wanted(disk) && shape(disk).base_image(base).is_some()).collect()
}

/// How often a fuzzy entry is followed by another cut at once.
pub const FUZZY_AGAIN: u32 = 5;

/// Counts fuzzy entries in a row and the rate at which the guest overwrites.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fuzzy {
    /// Fuzzy entries in a row.
    pub in_a_row: u32,
    last_cut_ns: Option<u64>,
    /// Bytes per second that the guest changed between the last two cuts, if there were two.
    pub rate: Option<f64>,
}

impl Fuzzy {
    /// A freeze of `changed` bytes, cut at `time_ns`, was published as this.
    pub fn published(&mut self, kind: EntryKind, time_ns: u64, changed: u64) {
        self.in_a_row = if kind == EntryKind::Fuzzy { self.in_a_row + 1 } else { 0 };
        let between = self.last_cut_ns.and_then(|last| time_ns.checked_sub(last)).filter(|ns| *ns > 0);
        self.rate = between.map(|ns| changed as f64 / (ns as f64 / 1e9));
        self.last_cut_ns = Some(time_ns);
    }

    /// The entries so far were of a freeze that somebody else cut: only what follows is counted.
    pub fn begin(&mut self) {
        self.in_a_row = 0;
    }

    /// Whether to cut again at once.
    pub fn again(&self) -> bool {
        (1..=FUZZY_AGAIN).contains(&self.in_a_row)
    }

    /// Whether to give up: the entries above did not help.
    pub fn hopeless(&self) -> bool {
        self.in_a_row > FUZZY_AGAIN
    }
}

/// So many freezes in a row of which a block can't be read end the loop. Before, one is undone and another cut: what
/// the guest has overwritten since may be readable (C5).
pub const UNREADABLE_MAX: u32 = 2;

/// What may pass by itself, and how it is waited for: a store and a tracker each on a ladder of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    store_failures: u32,
    tracker_failures: u32,
    minute: Duration,
}

/// Waits for a store or for space (DESIGN 4.2): 1, 2, 4, 8 and 10 minutes, then every 30.
const STORE_MINUTES: [u32; 5] = [1, 2, 4, 8, 10];
const STORE_MINUTES_THEN: u32 = 30;
/// Waits for a tracker double from this to [`TRACKER_MAX`]: it restarts within moments.
const TRACKER_FIRST: Duration = Duration::from_millis(200);
const TRACKER_MAX: Duration = Duration::from_secs(10);

impl Backoff {
    /// Waits for a store are counted in this unit.
    pub fn new(minute: Duration) -> Self {
        Self { store_failures: 0, tracker_failures: 0, minute }
    }

    /// The wait after a failure of this kind; `None` if an administrator must act.
    pub fn failed(&mut self, kind: Kind) -> Option<Duration> {
        let count = |failures: &mut u32| {
            let before = *failures;
            *failures = before.saturating_add(1);
            before
        };
        match kind {
            Kind::Unreachable | Kind::NoSpace => {
                let before = count(&mut self.store_failures) as usize;
                let minutes = STORE_MINUTES.get(before).copied().unwrap_or(STORE_MINUTES_THEN);
                Some(self.minute * minutes)
            }
            Kind::TrackerNotRunning | Kind::TrackerRefused => {
                let before = count(&mut self.tracker_failures);
                Some((TRACKER_FIRST * (1 << before.min(10))).min(TRACKER_MAX))
            }
            _ => None,
        }
    }

    /// Something was published: the next failure is a first one.
    pub fn succeeded(&mut self) {
        *self = Self::new(self.minute);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::attach::Base;
    use crate::vault::entry::{Consistency, DiskImage, EntryHeader, Totals};
    use towline_tracker::id::{AttachNumber, CutId, DiskId, Generation, Session};

    const LIVE: LiveFreeze = LiveFreeze {
        cut: CutId([1; 16]),
        generation: Generation(2),
        time_ns: 0,
        sealed: true,
        fuzzy: false,
        shipped: [0; 32],
    };

    fn base(kind: EntryKind, cut: CutId) -> Base {
        let header = EntryHeader {
            seq: 4,
            previous: [0; 32],
            epoch: 3,
            cut,
            kind,
            time_ns: 0,
            base: 0,
            attached: 0,
            payload: 0,
            payload_hash: [0; 32],
            salt: [0; 32],
        };
        let content = Content {
            first_generation: Generation(1),
            generation: Generation(1),
            session: Session(1),
            attach: AttachNumber(1),
            consistency: Consistency::Crash,
            disks: vec![DiskImage {
                id: DiskId([1; 16]),
                name: "d".into(),
                size: 1 << 20,
                block_shift: 12,
                indexes: Vec::new(),
            }],
            covered: Vec::new(),
            totals: Totals::default(),
        };
        Base { header, content }
    }

    fn disk(id: u8, whole: bool, compare: bool) -> SourceDisk {
        let (name, size, block_shift, frozen_bytes) = (String::new(), 1 << 20, 12, 0);
        SourceDisk { id: DiskId([id; 16]), name, size, block_shift, compare, whole, frozen_bytes }
    }

    #[test]
    fn an_open_freeze_is_released_resumed_or_shipped_from_its_beginning() {
        let ours = base(EntryKind::Checkpoint, LIVE.cut);
        let other = base(EntryKind::Checkpoint, CutId([9; 16]));
        let point = base(EntryKind::Point, LIVE.cut);
        let mut sibling = ours.clone();
        sibling.header.time_ns += 1;
        let resync = |base| Decision::Resync { base, reason: String::new(), taken_over: false };
        assert_eq!(opening(&Decision::Adopt(point), LIVE), Opening::Release);
        let live = LiveFreeze { shipped: ours.header.hash(), ..LIVE };
        for decision in [Decision::Continue(ours.clone()), resync(ours.clone())] {
            assert_eq!(opening(&decision, live), Opening::Finish { resume: true });
        }
        for decision in [Decision::Initial, Decision::Delta(other.clone()), resync(other), resync(sibling)] {
            assert_eq!(opening(&decision, LIVE), Opening::Finish { resume: false });
        }
        let untold = LiveFreeze { shipped: [0; 32], ..live };
        assert_eq!(opening(&resync(ours), untold), Opening::Finish { resume: false });
    }

    #[test]
    fn a_freeze_fits_only_an_image_that_it_completes() {
        let content = base(EntryKind::Point, LIVE.cut).content;
        let (part, whole, new) = (disk(1, false, false), disk(1, true, true), disk(2, false, false));
        assert!(fits(std::slice::from_ref(&part), Some(&content), false));
        assert!(!fits(std::slice::from_ref(&part), None, false), "nothing below");
        assert!(!fits(std::slice::from_ref(&part), Some(&content), true), "everything is to be compared");
        assert!(
            !fits(&[part.clone(), new.clone()], Some(&content), false),
            "a disk that the vault does not have"
        );
        let coarse = SourceDisk { block_shift: 16, ..part.clone() };
        assert!(!fits(&[coarse], Some(&content), false), "other blocks");
        assert!(
            fits(std::slice::from_ref(&whole), Some(&content), true)
                && fits(std::slice::from_ref(&whole), None, true)
        );
        let recovered = disk(1, false, true);
        assert_eq!(
            compare(&[part.clone(), whole.clone(), recovered, new], Some(&content), 50),
            [false, true, true, false]
        );
        assert_eq!(compare(&[whole], None, 50), [false]);
        let changed = |frozen_bytes| SourceDisk { frozen_bytes, ..part.clone() };
        let half = part.size / 2;
        for (changed, at, compared) in [
            (half - 4096, 50, false),
            (half, 50, true),
            (half, 51, false),
            (part.size, 100, true),
            (part.size, 0, false),
            (4096, 1, false),
        ]
        .map(|(bytes, at, compared)| (self::compare(&[changed(bytes)], Some(&content), at), at, compared))
        {
            assert_eq!(changed, [compared], "{at} %");
        }
    }

    #[test]
    fn fuzzy_entries_are_followed_by_five_more_cuts_and_then_given_up() {
        let mut fuzzy = Fuzzy::default();
        let mut cuts = 0;
        loop {
            cuts += 1;
            fuzzy.published(EntryKind::Fuzzy, cuts * 2_000_000_000, 500 << 20);
            if !fuzzy.again() {
                break;
            }
        }
        assert!(fuzzy.hopeless());
        assert_eq!(cuts, 1 + u64::from(FUZZY_AGAIN));
        assert_eq!(fuzzy.rate, Some(f64::from(250 << 20)));
        fuzzy.published(EntryKind::Point, 99_000_000_000, 0);
        assert!(!fuzzy.again() && !fuzzy.hopeless());
    }

    #[test]
    fn what_may_pass_is_waited_for_and_nothing_else() {
        let mut backoff = Backoff::new(Duration::from_secs(60));
        let minutes: Vec<_> =
            (0..7).map(|_| backoff.failed(Kind::Unreachable).unwrap().as_secs() / 60).collect();
        assert_eq!(minutes, [1, 2, 4, 8, 10, 30, 30]);
        backoff.succeeded();
        assert_eq!(backoff.failed(Kind::TrackerNotRunning), Some(TRACKER_FIRST));
        (0..100).for_each(|_| assert!(backoff.failed(Kind::TrackerRefused).unwrap() <= TRACKER_MAX));
        // A tracker that was away for long says nothing of the store, and the other way round.
        assert_eq!(backoff.failed(Kind::NoSpace), Some(Duration::from_secs(60)));
        backoff.succeeded();
        (0..100).for_each(|_| assert!(backoff.failed(Kind::Unreachable).is_some()));
        assert_eq!(backoff.failed(Kind::TrackerNotRunning), Some(TRACKER_FIRST));
        for kind in [
            Kind::Denied,
            Kind::BrokenLineage,
            Kind::ForeignOwner,
            Kind::Damage,
            Kind::Revoked,
            Kind::Stopped,
        ] {
            assert_eq!(backoff.failed(kind), None);
        }
    }
}
