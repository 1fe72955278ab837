//! Small lives, each of one piece of work, so that a crash can be had at each single step of it.
//!
//! Up to its crash a life is the same each time: the one without a crash tells which steps belong to the work. What comes
//! after a crash is the end of every life: recovery, shipping, and the comparison of what was shipped with the disks.

use super::*;
use crate::sim::process::Ask;
use crate::sim::shipper::Waits;
use crate::sim::store::Request;
use towline::vault::names;

/// A piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Guests write, zero, discard and flush, and nobody ships.
    Write,
    /// A cut, until the disks are synced behind it.
    Cut,
    /// Guests overwrite what is frozen.
    Preserve,
    /// The change logs of a freeze are made durable.
    Seal,
    /// Regions leave the intents, for the log.
    Evict,
    /// A freeze is over: the anchor is stored, logs are deleted.
    Release,
    /// A freeze is forgotten, for it can't be read.
    Undo,
    /// A clean stop, and the start behind it.
    CleanStop,
    /// The start after something of this kind has died, with a freeze in this state.
    Recovery(Road, CrashKind),
    /// A disk becomes larger or smaller between two sessions, until a point has it.
    Resize,
    /// A sidecar is lost, and everything is compared.
    Resynchronization,
    /// A sealed freeze is read, put and published.
    Publish,
    /// A shipper begins.
    Claim,
    /// A large freeze is published in parts.
    Checkpoint,
    /// Indexes are folded, and the next point lists what came of them.
    Fold,
}

/// Why a script does not go on.
enum Over {
    /// The crash has struck.
    Struck,
    /// A promise is broken.
    Wrong(Wrong),
}

/// Events that anything may take.
const PATIENCE: u64 = 4_000;

impl Workload {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let roads = [Road::None, Road::Draining, Road::Synced, Road::Sealed, Road::Releasing, Road::Undoing];
        let kinds = [CrashKind::Process, CrashKind::Host];
        let recoveries = roads.into_iter().flat_map(|road| kinds.map(|kind| Self::Recovery(road, kind)));
        [
            Self::Write,
            Self::Cut,
            Self::Preserve,
            Self::Seal,
            Self::Evict,
            Self::Release,
            Self::Undo,
            Self::CleanStop,
            Self::Resize,
            Self::Resynchronization,
            Self::Publish,
            Self::Claim,
            Self::Checkpoint,
            Self::Fold,
        ]
        .into_iter()
        .chain(recoveries)
        .collect()
    }

    /// Its name in tables: recoveries are told together.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Cut => "cut",
            Self::Preserve => "preserve",
            Self::Seal => "seal",
            Self::Evict => "evict",
            Self::Release => "release",
            Self::Undo => "undo",
            Self::CleanStop => "clean stop",
            Self::Recovery(..) => "recovery",
            Self::Resize => "resize",
            Self::Resynchronization => "resynchronization",
            Self::Publish => "publish",
            Self::Claim => "claim",
            Self::Checkpoint => "checkpoint",
            Self::Fold => "fold",
        }
    }
}

impl World {
    /// Does this work, or what the crash leaves of it.
    pub(super) fn perform(&mut self, workload: Workload) -> Result<(), Wrong> {
        match self.script(workload) {
            Ok(()) | Err(Over::Struck) => Ok(()),
            Err(Over::Wrong(wrong)) => Err(wrong),
        }
    }

    /// The tracker runs, and nothing is left to do of its start, a cut or a release.
    pub(super) fn is_settled(&self) -> bool {
        let Some(tracker) = &self.tracker else { return false };
        let idle = tracker.operations.is_empty()
            && tracker.queue.is_empty()
            && tracker.marks.is_empty()
            && tracker.reports.is_empty();
        idle && !tracker.stopping && matches!(self.road(), Road::None | Road::Sealed)
    }

    fn road(&self) -> Road {
        self.state().map_or(Road::None, |state| state.road)
    }

    fn script(&mut self, workload: Workload) -> Result<(), Over> {
        self.start_tracker();
        self.checkpoints = workload == Workload::Checkpoint;
        if workload == Workload::Checkpoint {
            self.until_road(Road::Sealed)?;
            self.begins();
            self.until_more("entries: checkpoint", 2)?;
            self.ends();
            return Ok(());
        }
        self.until_more("released", 1)?;
        self.until_more("requests", 6)?;
        match workload {
            Workload::Checkpoint => unreachable!("it is the first freeze"),
            Workload::Write => {
                self.rest()?;
                self.begins();
                self.guests = true;
                self.until_more("requests", 12)?;
            }
            Workload::Cut => {
                self.until_road(Road::None)?;
                self.begins();
                self.until_road(Road::Synced)?;
            }
            Workload::Preserve => {
                self.until_road(Road::None)?;
                self.until_road(Road::Draining)?;
                // The freeze stays.
                let now = self.events;
                self.shippers.iter_mut().for_each(|shipper| shipper.paused = now + PATIENCE);
                self.begins();
                self.until_more("sectors preserved", 8)?;
            }
            Workload::Seal => {
                self.until_road(Road::Synced)?;
                self.begins();
                self.until_road(Road::Sealed)?;
            }
            Workload::Evict => {
                self.rest()?;
                self.begins();
                self.guests = true;
                self.until_more("regions evicted", 3)?;
            }
            Workload::Release => {
                self.until_published(1)?;
                self.begins();
                self.until_more("released", 1)?;
            }
            Workload::Undo => {
                self.until_road(Road::None)?;
                self.until_road(Road::Sealed)?;
                self.begins();
                self.until_undoing()?;
                self.until_road(Road::None)?;
            }
            Workload::CleanStop => {
                self.begins();
                self.stop()?;
                self.guests = false;
                self.until("the next start has settled", Self::is_settled)?;
            }
            Workload::Recovery(road, kind) => {
                match road {
                    Road::Undoing => self.until_undoing()?,
                    road => self.until_road(road)?,
                }
                let mut fate = Fate::draw(&mut self.rng);
                self.crash(kind, &mut fate);
                self.guests = false;
                self.begins();
                self.until("the start has settled", Self::is_settled)?;
            }
            Workload::Resize => {
                self.stop()?;
                self.resize();
                self.begins();
                self.until_published(1)?;
                self.until_more("released", 1)?;
            }
            Workload::Resynchronization => {
                self.stop()?;
                let disk = self.rng.index(self.disks.len());
                self.folders[disk].wipe();
                self.mishap("sidecars wiped");
                self.begins();
                self.until_published(1)?;
                self.until_more("released", 1)?;
            }
            Workload::Publish => {
                self.until_road(Road::Sealed)?;
                self.begins();
                self.until_published(1)?;
            }
            Workload::Fold => {
                // What it reads before is nobody's loss.
                self.until("a fold is put", Self::puts_fold)?;
                self.begins();
                self.until_more("entries over folds", 1)?;
            }
            Workload::Claim => {
                // Over the last image, or over a freeze that its own shipper has left.
                let road = if self.rng.chance(500) { Road::None } else { Road::Sealed };
                self.until_road(road)?;
                self.kill_shippers();
                self.begins();
                self.until_more("entries: claim", 1)?;
            }
        }
        self.ends();
        Ok(())
    }

    fn begins(&mut self) {
        self.note(57, || "--- the workload begins".into());
        self.workload = self.faults.steps() + 1..0;
    }

    fn ends(&mut self) {
        self.workload.end = self.faults.steps() + 1;
        self.note(55, || "--- the workload ends".into());
    }

    /// Events until this holds.
    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<(), Over> {
        for _ in 0..PATIENCE {
            if holds(self) {
                return Ok(());
            }
            let strikes = self.strikes;
            self.event().map_err(Over::Wrong)?;
            if self.strikes > strikes {
                return Err(Over::Struck);
            }
        }
        Err(Over::Wrong((Oracle::Liveness, format!("it does not come to this: {what}"))))
    }

    fn until_more(&mut self, name: &str, count: u64) -> Result<(), Over> {
        let from = self.counts.get(name);
        self.until(name, |world| world.counts.get(name) >= from + count)
    }

    fn until_road(&mut self, road: Road) -> Result<(), Over> {
        self.until(road.name(), |world| world.road() == road)
    }

    /// Points, of one instant or fuzzy.
    fn until_published(&mut self, count: u64) -> Result<(), Over> {
        let all = |world: &Self| world.counts.get("entries: point") + world.counts.get("entries: fuzzy");
        let from = all(self);
        self.until("published", |world| all(world) >= from + count)
    }

    /// A shipper asks for a fold to be put.
    pub(super) fn puts_fold(&self) -> bool {
        self.shippers.iter().any(|shipper| match &shipper.waits {
            Waits::Ask(Ask::Store(Request::Put(put))) => {
                matches!(names::parse(&put.name), Some(names::Parsed::Fold { .. }))
            }
            _ => false,
        })
    }

    /// Nobody ships, and nobody writes.
    fn rest(&mut self) -> Result<(), Over> {
        self.until_road(Road::None)?;
        self.kill_shippers();
        (self.ships, self.guests) = (false, false);
        let idle = |world: &Self| world.requests.is_empty() && world.flushes.is_empty() && world.is_settled();
        self.until("rest", idle)
    }

    /// A freeze that can't be read is undone.
    fn until_undoing(&mut self) -> Result<(), Over> {
        self.settings.read_errors = 1000;
        self.until_road(Road::Undoing)?;
        self.settings.read_errors = 0;
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Over> {
        self.tracker.as_mut().expect("it runs").stopping = true;
        self.until("stopped", |world| world.tracker.is_none())
    }
}
