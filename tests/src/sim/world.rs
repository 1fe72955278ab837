//! The world of one seed: host, tracker, guest, shippers, and the order of what happens.

mod client;
mod coping;
mod cost;
mod engine;
mod finish;
mod guest;
mod hang;
mod harsh;
mod mischief;
mod settings;
mod shipping;
mod stand;
mod start;
mod successor;
mod twin;
mod workload;

use self::client::Again;
use self::coping::Unmet;
use self::cost::{Cost, Ended};
use self::hang::Hang;
use self::harsh::Harsh;
use self::settings::Settings;
use self::successor::Unjudged;
pub use self::workload::Workload;
use super::coroutine;
use super::counts::Counts;
use super::disk::{Disk, Facts, SECTOR, SyncPromise};
use super::fault::{Crashed, Faults};
use super::flat::SectorMap;
use super::folder::{SimFile, SimFolder};
use super::leaves::{Fate, Leaves};
use super::maps::SimMaps;
use super::name::{self, cut_name, disk_name, start_name};
use super::oracle::{Oracle, Wrong};
use super::rng::Rng;
use super::shipper::Shipper;
use super::store::Moods;
use super::target::{Snapshot, Target};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;
use towline::store::memory::MemoryStore;
use towline_tracker::control::message::Answer;
use towline_tracker::disk::geometry::Geometry;
use towline_tracker::format::meta::Meta;
use towline_tracker::group::job::{Job, JobDone};
use towline_tracker::group::{
    Action, Change, Errno, Group, GroupConfig, OpId, Question, Request, RequestId, SidecarFile, Ticket, Token,
};
use towline_tracker::id::{BootId, CutId, DiskIndex, Generation, Nanos, Session};
use towline_tracker::map::header::{GroupHeader, Road, State};
use towline_tracker::sidecar::jobs::{DiskFacts, Jobs, Outcome};
use towline_tracker::sidecar::start::{Candidate, HEADER, Now, Running, start};

/// What dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// The tracker's process.
    Process,
    /// The host.
    Host,
    /// A shipper, if it is its turn; the tracker lives on.
    Shipper,
}

/// A crash at exactly one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// Which.
    pub step: u64,
    /// What dies.
    pub kind: CrashKind,
    /// What is left of what was under way.
    pub leaves: Leaves,
}

/// What a seed is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Events before the faults stop.
    pub events: u64,
    /// Random crashes, clean stops and other people's mischief.
    pub mischief: bool,
    /// Not a random life, but a small one of this.
    pub workload: Option<Workload>,
    /// Crashes, one after the other.
    pub strikes: Vec<Strike>,
    /// Keep a trace.
    pub trace: bool,
    /// Misconduct that no image shows is a failure too. Not for mutants: they die by what comes of it.
    pub conduct: bool,
}

impl Plan {
    /// The random campaign's plan.
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x51a2);
        Self {
            seed,
            events: 800 + rng.below(2800),
            mischief: true,
            workload: None,
            strikes: Vec::new(),
            trace: false,
            conduct: true,
        }
    }
}

/// A promise was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Of which seed.
    pub seed: u64,
    /// What noticed.
    pub oracle: Oracle,
    /// What was broken.
    pub what: String,
    /// What had happened, if a trace was kept.
    pub trace: Vec<String>,
}

/// What a good run leaves.
#[derive(Clone, Debug)]
pub struct Report {
    /// Over all that happened.
    pub digest: u64,
    /// Steps, for crashes at each of them.
    pub steps: u64,
    /// Events.
    pub events: u64,
    /// Those at which a shipper can die.
    pub shipper_steps: Vec<u64>,
    /// Those of the workload.
    pub workload: Range<u64>,
    /// Those from the last crash until the tracker had recovered.
    pub recovery: Range<u64>,
    /// Of the plan's crashes, those that have struck.
    pub strikes: usize,
    /// What happened.
    pub counts: Counts,
}

#[derive(Debug)]
enum Operation {
    Write { id: OpId, disk: usize, name: u64, range: Range<usize>, durable: bool },
    Sync { id: OpId, disk: usize, promise: SyncPromise },
    Preserve { id: OpId, disk: usize, store: SimFile, range: Range<usize>, read: Option<Vec<u64>> },
    Persist { id: OpId, of: SidecarFile, file: SimFile, offset: u64, bytes: Vec<u8> },
    Failed { id: OpId, errno: i32 },
}

struct Tracker {
    group: Group,
    jobs: Jobs<SimFolder, Facts, SimMaps>,
    queue: VecDeque<Job>,
    /// Marks are set on threads of their own.
    marks: VecDeque<Job>,
    reports: VecDeque<Outcome<SimFile>>,
    handles: Vec<BTreeMap<SidecarFile, SimFile>>,
    operations: Vec<Operation>,
    cuts: u64,
    compactions: u64,
    stopping: bool,
    stop_begun: bool,
    /// Nothing is tracked.
    off: bool,
}

#[derive(Debug)]
struct GuestRequest {
    disk: usize,
    change: Change,
    fua: bool,
    range: Range<usize>,
    submitted: usize,
    id: Option<RequestId>,
    /// Sectors that may not be vouched for.
    forgotten: bool,
    /// Other requests that were under way at any time while it was: which of them came last nobody knows.
    beside: Vec<Range<usize>>,
}

#[derive(Debug)]
struct GuestFlush {
    disk: usize,
    /// What it vouches for: sector, number of its newest value when the flush was issued.
    vouches: SectorMap,
}

/// The world.
pub struct World {
    plan: Plan,
    rng: Rng,
    faults: Faults,
    settings: Settings,
    harsh: Option<Harsh>,
    hang: Option<Hang>,
    geometry: Vec<Geometry>,
    disks: Vec<Rc<RefCell<Disk>>>,
    facts: Vec<Facts>,
    folders: Vec<SimFolder>,
    maps: SimMaps,
    mono: u64,
    wall: i128,
    /// Time that has passed, whatever the clocks say.
    elapsed: u64,
    boot: u64,
    boots: u64,
    boot_ns: i128,
    tracker: Option<Tracker>,
    armed: Option<Strike>,
    struck: bool,
    /// Of the plan's crashes, those that have struck.
    strikes: usize,
    /// As in the report.
    workload: Range<u64>,
    recovery: Range<u64>,
    /// Guests ask for something now and then, and somebody supervises a shipper.
    guests: bool,
    ships: bool,
    /// Shippers make checkpoints as often as they can.
    checkpoints: bool,
    requests: BTreeMap<u64, GuestRequest>,
    flushes: BTreeMap<u64, GuestFlush>,
    /// What clients send again, in its order.
    again: VecDeque<Again>,
    acked: Vec<SectorMap>,
    /// What a guest knows of the content of its disk: by sector, what it wrote last and was told of.
    known: Vec<SectorMap>,
    /// Sectors of failed writes, which may still land.
    doubted: Vec<BTreeSet<usize>>,
    next_token: u64,
    next_ticket: u64,
    tickets: BTreeMap<u64, u64>,
    target: Rc<RefCell<Target>>,
    shippers: Vec<Shipper>,
    shippers_begun: u64,
    shipper_steps: Vec<u64>,
    /// Whose step the crash struck.
    striking: u64,
    /// Stores that shippers have open.
    opened: Vec<SimFile>,
    /// Shippers ran at the same time.
    rivals: bool,
    /// The sidecars are copies of ones that had been damaged, or met errors.
    hurt: bool,
    /// Somebody else may have gone on with the log.
    estranged: bool,
    /// An administrator gives the word to take over from now on.
    word: bool,
    /// He never does.
    obstinate: bool,
    /// And has everything compared, and nothing believed.
    heal: bool,
    /// A copy of the vault.
    backup: Option<Backup>,
    /// Until this event the store is in trouble.
    trouble: u64,
    finishing: bool,
    counts: Counts,
    /// Faults that no start has coped with yet.
    unjudged: Unjudged,
    /// Faults of shippers that nobody has coped with yet.
    unmet: Unmet,
    cost: Cost,
    /// A sync has failed, and no flush was told (W6).
    untold: bool,
    digest: u64,
    events: u64,
    trace: Vec<String>,
    wrong: Option<Wrong>,
    /// Others laid hands on what a start must look at, and no start has seen it yet.
    touched: bool,
    /// The clean stop began.
    stop_since: u64,
    starts_failed: u64,
    /// Sessions that began.
    sessions: u64,
    /// The maps of whoever else runs the tracker in this boot: another user, or with the disks in another order.
    other_maps: SimMaps,
    /// Another host, which the disk left: its maps, boot, clocks, and the sessions so far.
    other_host: Option<OtherHost>,
}

/// Objects and their versions.
type Backup = (MemoryStore, BTreeMap<String, u64>);

struct OtherHost {
    maps: SimMaps,
    boot: u64,
    boot_ns: i128,
    mono: u64,
    elapsed: u64,
    sessions: u64,
}

/// Runs one plan to its end.
///
/// # Errors
/// The promise that was broken.
pub fn run(plan: Plan) -> Result<Report, Failure> {
    name::begin(plan.seed);
    coroutine::set_dice(Rng::new(plan.seed ^ 0x70c5));
    let target = Rc::new(RefCell::new(Target::new()));
    let mut world = World::new(plan, target);
    let (oracle, what) = match catch_unwind(AssertUnwindSafe(|| world.live())) {
        Ok(Ok(())) => {
            let digest = world.final_digest();
            let World { counts, shipper_steps, faults, events, workload, recovery, strikes, .. } = world;
            let steps = faults.steps();
            return Ok(Report { digest, steps, events, shipper_steps, workload, recovery, strikes, counts });
        }
        Ok(Err(wrong)) => wrong,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_string()));
            (Oracle::Panic, format!("panic: {}", text.unwrap_or_default()))
        }
    };
    Err(Failure { seed: world.plan.seed, oracle, what, trace: std::mem::take(&mut world.trace) })
}

impl World {
    /// A new host with new disks, and this vault.
    pub fn new(plan: Plan, target: Rc<RefCell<Target>>) -> Self {
        let mut rng = Rng::new(plan.seed);
        let faults = Faults::new(Rng::new(plan.seed ^ 0xfa17));
        let wall = 1_700_000_000_000_000_000;
        let count = if rng.chance(300) { 2 } else { 1 };
        let count = if plan.workload.is_some() { 1 + plan.seed % 2 } else { count };
        let block_shift = if rng.chance(200) { 13 } else { 12 };
        let (mut geometry, mut disks) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let blocks = 40 + rng.below(120);
            // More regions than the intents hold.
            let blocks = if plan.workload == Some(Workload::Evict) { 160 } else { blocks };
            let mut sectors = blocks * 8;
            if rng.chance(300) {
                sectors += 1 + rng.below(7);
            }
            geometry.push(Geometry { size: sectors * SECTOR, block_shift, region_shift: 15 });
            disks.push(Rc::new(RefCell::new(Disk::new(sectors as usize, wall, &mut rng))));
        }
        let mut settings = Settings::draw(&plan, &mut rng);
        if let Some(workload) = plan.workload {
            settings.suit(workload, plan.seed);
        }
        let folders: Vec<_> = disks.iter().map(|_| SimFolder::new(faults.clone())).collect();
        let dice = Rc::new(RefCell::new(Rng::new(plan.seed ^ 0xd15c)));
        let facts = disks
            .iter()
            .map(|disk| Facts { disk: disk.clone(), faults: faults.clone(), rng: dice.clone() })
            .collect();
        target.borrow_mut().store.moods = settings.moods;
        let mut world = Self {
            acked: vec![SectorMap::default(); disks.len()],
            known: vec![SectorMap::default(); disks.len()],
            doubted: vec![BTreeSet::new(); disks.len()],
            rng,
            faults: faults.clone(),
            settings,
            harsh: Harsh::draw(&plan),
            hang: None,
            geometry,
            disks,
            facts,
            folders,
            maps: SimMaps::new(faults.clone()),
            mono: 1_000_000_000,
            wall,
            elapsed: 0,
            boot: 1,
            boots: 1,
            boot_ns: wall - 1_000_000_000,
            tracker: None,
            armed: None,
            struck: false,
            strikes: 0,
            workload: 0..0,
            recovery: 0..0,
            guests: true,
            ships: true,
            checkpoints: false,
            requests: BTreeMap::new(),
            flushes: BTreeMap::new(),
            again: VecDeque::new(),
            next_token: 1,
            next_ticket: 1,
            tickets: BTreeMap::new(),
            target,
            shippers: Vec::new(),
            shippers_begun: 0,
            shipper_steps: Vec::new(),
            striking: 0,
            opened: Vec::new(),
            rivals: false,
            hurt: false,
            estranged: false,
            word: false,
            obstinate: false,
            heal: false,
            backup: None,
            trouble: 0,
            finishing: false,
            counts: Counts::default(),
            unjudged: Unjudged::default(),
            unmet: Unmet::default(),
            cost: Cost::default(),
            untold: false,
            digest: plan.seed,
            events: 0,
            trace: Vec::new(),
            wrong: None,
            touched: false,
            stop_since: 0,
            starts_failed: 0,
            sessions: 0,
            other_maps: SimMaps::new(faults.clone()),
            other_host: None,
            plan,
        };
        world.arm_next();
        world
    }

    fn arm(&mut self, strike: Strike) {
        self.faults.arm(Some((strike.step, strike.leaves)));
        self.armed = Some(strike);
    }

    /// The plan's next crash.
    fn arm_next(&mut self) {
        if let Some(strike) = self.plan.strikes.get(self.strikes) {
            self.arm(*strike);
        }
    }

    fn note(&mut self, kind: u64, what: impl FnOnce() -> String) {
        self.digest =
            (self.digest ^ kind).wrapping_mul(0x100_0000_01b3).rotate_left(17) ^ self.faults.steps();
        if self.plan.trace {
            let line = format!("{:6} {}", self.faults.steps(), what());
            self.trace.push(line);
        }
    }

    fn final_digest(&mut self) -> u64 {
        for disk in &self.disks {
            for value in disk.borrow().image() {
                self.digest = (self.digest ^ value).wrapping_mul(0x100_0000_01b3).rotate_left(5);
            }
        }
        self.digest ^ self.target.borrow().length()
    }

    fn now(&self) -> Nanos {
        Nanos(self.mono)
    }

    fn pass(&mut self, nanos: u64) {
        self.mono += nanos;
        self.elapsed += nanos;
        self.wall += i128::from(nanos);
        for disk in &self.disks {
            disk.borrow_mut().wall = self.wall;
        }
    }

    /// The whole life: faults, then quiet, then the comparison.
    fn live(&mut self) -> Result<(), Wrong> {
        if let Some(workload) = self.plan.workload {
            self.perform(workload)?;
            return self.finish();
        }
        self.start_tracker();
        self.begin_shipper();
        self.faults.set_errors(self.settings.call_errors);
        let mut twin = None;
        for _ in 0..self.plan.events {
            self.with_twin(&mut twin)?;
        }
        self.part_with(twin);
        self.finish()
    }

    /// One event.
    fn event(&mut self) -> Result<(), Wrong> {
        self.events += 1;
        self.calm_store();
        self.be_harsh();
        self.hang();
        if self.events.is_multiple_of(16) {
            self.check_space();
        }
        let step = 1_000 + self.rng.below(300_000);
        self.pass(step);
        if self.tracker.is_none() {
            self.event_without_tracker();
        } else {
            self.event_with_tracker();
        }
        if self.struck {
            self.struck = false;
            let Strike { kind, leaves, .. } = self.armed.take().expect("what was armed struck");
            let mut fate = Fate::new(leaves);
            self.recovery.start = self.faults.steps() + 1;
            match kind {
                CrashKind::Shipper => self.strike_shipper(&mut fate),
                // What others did before the host went down is not told from what the tracker did (S3).
                CrashKind::Host if self.touched => self.crash(CrashKind::Process, &mut fate),
                kind => self.crash(kind, &mut fate),
            }
            self.look_again();
            self.strikes += 1;
            self.arm_next();
        }
        if self.recovery.end <= self.recovery.start && self.is_settled() {
            self.recovery.end = self.faults.steps() + 1;
        }
        match self.wrong.take() {
            Some(wrong) => Err(wrong),
            None => Ok(()),
        }
    }

    /// Shippers that would do something now.
    fn steppers(&self) -> Vec<usize> {
        let ready = |at: &usize| self.shippers[*at].can_step(self.events, self.mono);
        (0..self.shippers.len()).filter(ready).collect()
    }

    fn is_wrong(&mut self, oracle: Oracle, what: String) {
        self.note(40, || format!("{oracle:?}: {what}"));
        if self.plan.conduct || !matches!(oracle, Oracle::Conduct | Oracle::Cost) {
            self.wrong.get_or_insert((oracle, what));
        }
    }

    fn event_without_tracker(&mut self) {
        let ships = self.steppers();
        let late = !self.target.borrow().store.late.is_empty();
        let orphans = self.folders.iter().any(SimFolder::has_orphans);
        let mischief = self.plan.mischief && !self.finishing;
        let weights = [
            10,
            if ships.is_empty() { 0 } else { 15 },
            5 * u64::from(orphans),
            3 * u64::from(mischief),
            u64::from(late),
        ];
        match self.rng.weighted(&weights) {
            Some(1) => {
                let chosen = ships[self.rng.index(ships.len())];
                self.ship(chosen);
            }
            Some(2) => self.land_orphan(),
            Some(3) => self.mischief_while_down(),
            Some(4) => self.land_late(),
            _ => self.start_tracker(),
        }
    }

    fn event_with_tracker(&mut self) {
        let tracker = self.tracker.as_ref().expect("it runs");
        let (operations, queue) = (tracker.operations.len() as u64, tracker.queue.len());
        let (marks, reports) = (tracker.marks.len(), tracker.reports.len());
        let stopping = tracker.stopping;
        if stopping && self.requests.is_empty() && self.flushes.is_empty() && !tracker.stop_begun {
            self.tracker.as_mut().expect("it runs").stop_begun = true;
            self.note(5, || "stop".into());
            self.stop_since = self.mono;
            return self.drive(|group, now, actions| group.stop(now, actions));
        }
        if tracker.stop_begun && tracker.group.stopped() && tracker.operations.is_empty() {
            return self.stopped();
        }
        if tracker.stop_begun && self.stops_in_vain() {
            self.counts.add("stops that came to no end");
            let mut fate = Fate::draw(&mut self.rng);
            return self.crash(CrashKind::Process, &mut fate);
        }
        let [hangs, _] = self.hangs();
        if tracker.group.wake_at().is_some_and(|at| at <= self.now()) && self.rng.chance(900) {
            return self.drive(|group, now, actions| group.tick(now, actions));
        }
        let calm = !self.finishing && !stopping;
        let mischief = self.plan.mischief && calm;
        let room = calm && self.guests && self.requests.len() + self.flushes.len() < self.settings.depth;
        let again = self.next_again().filter(|_| !stopping);
        let steppers = self.steppers();
        let late = !self.target.borrow().store.late.is_empty();
        let ghosts = self.disks.iter().any(|disk| disk.borrow().has_ghosts());
        let orphans = self.folders.iter().any(SimFolder::has_orphans);
        let weights = [
            if room { 30 } else { 0 },
            (operations * 12).min(60),
            if queue > 0 && !hangs { 12 } else { 0 },
            if marks > 0 { 6 } else { 0 },
            if reports > 0 { 14 } else { 0 },
            if steppers.is_empty() { 0 } else { 40 },
            4,
            2 * u64::from(ghosts) + 2 * u64::from(orphans),
            if mischief { 2 } else { 0 },
            if room { 2 } else { 0 },
            if self.shippers.is_empty() && (self.ships || self.finishing) { 6 } else { 0 },
            u64::from(late),
            if again.is_some() { 30 } else { 0 },
        ];
        match self.rng.weighted(&weights) {
            Some(0) => self.guest_asks(),
            Some(1) => self.operate(),
            Some(2) => self.work(false),
            Some(3) => self.work(true),
            Some(4) => self.report(),
            Some(5) => {
                let chosen = steppers[self.rng.index(steppers.len())];
                self.ship(chosen);
            }
            Some(7) => {
                self.land_ghosts();
                if orphans {
                    self.land_orphan();
                }
            }
            Some(8) => self.mischief(),
            Some(9) => self.abandon(),
            Some(10) => self.begin_shipper(),
            Some(11) => self.land_late(),
            Some(12) => self.send_again(again.expect("weighed")),
            _ => {
                let jump = match self.rng.below(1000) {
                    draw if draw < self.settings.jumps && calm => 1_200_000_000,
                    // Longer than anybody waits.
                    draw if hangs && draw < 250 => 31_000_000_000,
                    draw if draw < 500 => 20_000_000,
                    draw if draw < 520 => 61_000_000_000,
                    _ => 400_000_000,
                };
                let jump = if self.finishing { 300_000_000 } else { jump };
                self.pass(jump);
                self.note(6, || "tick".into());
                let hanging = self.hanging(jump);
                self.drive_into(&hanging, |group, now, actions| group.tick(now, actions));
            }
        }
    }

    /// Writes that failed land, wholly, partly or not yet.
    fn land_ghosts(&mut self) {
        for disk in &self.disks {
            let ghosts = disk.borrow().ghosts();
            for name in ghosts {
                if self.settings.lazy_ghosts > 0 && self.rng.chance(self.settings.lazy_ghosts) {
                    continue;
                }
                let changed = disk.borrow_mut().land_some(name, &mut self.rng);
                self.counts.fault("ghost writes", changed);
            }
        }
    }

    fn stopped(&mut self) {
        self.note(33, || "stopped".into());
        let state = self.state().map_or("none", |state| state.road.name());
        self.counts.add(&format!("clean stop: {state}"));
        // W6: the last sync failed.
        let clean = self.tracker.as_ref().is_some_and(|tracker| tracker.group.stop_failure().is_none());
        self.counts.add(if clean { "clean stops" } else { "stops that are not clean" });
        let off = self.tracker.as_ref().is_some_and(|tracker| tracker.off);
        self.session_ends(if clean { Ended::Clean } else { Ended::Process });
        if clean && !off && self.faults.injected() == 0 && self.is_marked() {
            let what = "a clean stop leaves a mark that says that writes went untracked";
            self.is_wrong(Oracle::Conduct, what.into());
        }
        self.tracker = None;
        // What failed may land as long as the disk is locked (S2). Storage that applies it later is outside (DESIGN 1), and so a
        // clean stop leaves nothing in flight that a start would have to expect.
        self.land_ghosts();
        for disk in &self.disks {
            disk.borrow_mut().drop_ghosts();
        }
        self.lose_connections();
        if clean && self.plan.mischief && !self.finishing && self.rng.chance(250) {
            self.travel();
        }
    }

    /// Whether a disk says that it was written untracked.
    fn is_marked(&self) -> bool {
        self.facts.iter().any(|facts| matches!(facts.mark(), Ok(Some(mark)) if mark.untracked))
    }
}

/// Who else there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twin {
    /// Other disks, with our group's name.
    Stranger,
    /// Our disks and sidecars, copied.
    Clone,
}

/// Error numbers of Linux.
mod libc_errno {
    pub(super) const EIO: i32 = 5;
    pub(super) const EBADF: i32 = 9;
    pub(super) const ENOSPC: i32 = 28;
}
