//! The world of one seed: host, tracker, guest, shippers, and the order of what happens.

mod client;
mod collecting;
mod coping;
mod cost;
mod engine;
mod event;
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
use self::collecting::Collector;
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
    collectors: Vec<Collector>,
    collectors_begun: u64,
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
            collectors: Vec::new(),
            collectors_begun: 0,
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

    fn is_wrong(&mut self, oracle: Oracle, what: String) {
        self.note(40, || format!("{oracle:?}: {what}"));
        if self.plan.conduct || !matches!(oracle, Oracle::Conduct | Oracle::Cost) {
            self.wrong.get_or_insert((oracle, what));
        }
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
