//! The world of one seed: host, tracker, guest, shippers, and the order of what happens.

use super::counts::Counts;
use super::disk::{Disk, Facts, SECTOR, SyncPromise};
use super::fault::{Crashed, Faults};
use super::folder::{SimFile, SimFolder};
use super::maps::SimMaps;
use super::rng::Rng;
use super::shipper::{Port, Shipper, Step};
use super::vault::Vault;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;
use towline_tracker::control::message::Answer;
use towline_tracker::disk::geometry::Geometry;
use towline_tracker::group::job::{Job, JobDone};
use towline_tracker::group::{
    Action, Change, Errno, Group, GroupConfig, OpId, Question, Request, RequestId, SidecarFile, Ticket, Token,
};
use towline_tracker::id::{BootId, CutId, DiskId, DiskIndex, Generation, Nanos, Session};
use towline_tracker::limits::Bounds;
use towline_tracker::map::header::{GroupHeader, Road, State};
use towline_tracker::sidecar::jobs::{Jobs, Outcome};
use towline_tracker::sidecar::start::{Candidate, HEADER, Now, Running, start};

/// What dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// The tracker's process.
    Process,
    /// The host.
    Host,
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
    /// One crash at exactly this step.
    pub crash_at: Option<(u64, CrashKind)>,
    /// Keep a trace.
    pub trace: bool,
}

impl Plan {
    /// The random campaign's plan.
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x51a2);
        Self { seed, events: 600 + rng.below(2400), mischief: true, crash_at: None, trace: false }
    }
}

/// A promise was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Of which seed.
    pub seed: u64,
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
    /// What happened.
    pub counts: Counts,
}

thread_local! {
    static NAMES: Cell<u64> = const { Cell::new(0) };
}

fn name() -> [u8; 16] {
    NAMES.set(NAMES.get() + 1);
    let mut bytes = [0; 16];
    let mixed = Rng::new(NAMES.get()).draw();
    bytes[..8].copy_from_slice(&NAMES.get().to_be_bytes());
    bytes[8..].copy_from_slice(&mixed.to_le_bytes());
    bytes
}

fn cut_name() -> CutId {
    CutId(name())
}

fn disk_name() -> DiskId {
    DiskId(name())
}

#[derive(Debug)]
enum Operation {
    Write { id: OpId, disk: usize, name: u64, range: Range<usize>, durable: bool },
    Sync { id: OpId, disk: usize, promise: SyncPromise },
    Preserve { id: OpId, disk: usize, store: SimFile, range: Range<usize>, read: Option<Vec<u64>> },
    Persist { id: OpId, file: SimFile, offset: u64, bytes: Vec<u8> },
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
    stopping: bool,
    stop_begun: bool,
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
}

#[derive(Debug)]
struct GuestFlush {
    disk: usize,
    /// What it vouches for: sector, number of its newest value when the flush was issued.
    vouches: BTreeMap<usize, u64>,
}

/// The disks at the instant of a cut.
struct Snapshot {
    images: Vec<Vec<u64>>,
    /// Other values that a power cut could have left.
    others: Vec<BTreeMap<usize, Vec<u64>>>,
    quiet: bool,
}

struct Settings {
    depth: usize,
    write_errors: u64,
    sync_errors: u64,
    call_errors: u64,
    persist_errors: u64,
    preserve_errors: u64,
    direct: bool,
    strict: bool,
    preserve_limit: Option<u64>,
    bounds: Bounds,
    jumps: u64,
    hot: u64,
}

/// The world.
pub struct World {
    plan: Plan,
    rng: Rng,
    faults: Faults,
    settings: Settings,
    geometry: Vec<Geometry>,
    disks: Vec<Rc<RefCell<Disk>>>,
    facts: Vec<Facts>,
    folders: Vec<SimFolder>,
    maps: SimMaps,
    mono: u64,
    wall: i128,
    boot: u64,
    boots: u64,
    boot_ns: i128,
    tracker: Option<Tracker>,
    armed: Option<CrashKind>,
    struck: bool,
    requests: BTreeMap<u64, GuestRequest>,
    flushes: BTreeMap<u64, GuestFlush>,
    acked: Vec<BTreeMap<usize, u64>>,
    next_token: u64,
    next_ticket: u64,
    tickets: BTreeMap<u64, usize>,
    vault: Vault,
    shippers: Vec<Shipper>,
    cuts: BTreeMap<CutId, Snapshot>,
    finishing: bool,
    counts: Counts,
    digest: u64,
    events: u64,
    trace: Vec<String>,
    wrong: Option<String>,
    touched: bool,
    starts_failed: u64,
    /// Sessions that began.
    sessions: u64,
    /// Another host, which the disk left: its maps, boot, clocks, and the sessions so far.
    other_host: Option<OtherHost>,
}

struct OtherHost {
    maps: SimMaps,
    boot: u64,
    boot_ns: i128,
    mono: u64,
    wall: i128,
    sessions: u64,
}

/// Runs one plan to its end.
///
/// # Errors
/// The promise that was broken.
pub fn run(plan: Plan) -> Result<Report, Failure> {
    let mut world = World::new(plan);
    let what = match catch_unwind(AssertUnwindSafe(|| world.live())) {
        Ok(Ok(())) => {
            let digest = world.final_digest();
            return Ok(Report { digest, steps: world.faults.steps(), counts: world.counts });
        }
        Ok(Err(what)) => what,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_string()));
            format!("panic: {}", text.unwrap_or_default())
        }
    };
    Err(Failure { seed: world.plan.seed, what, trace: std::mem::take(&mut world.trace) })
}

impl World {
    /// A new host with new disks.
    pub fn new(plan: Plan) -> Self {
        NAMES.set(plan.seed << 20);
        let mut rng = Rng::new(plan.seed);
        let faults = Faults::new(Rng::new(plan.seed ^ 0xfa17));
        let wall = 1_700_000_000_000_000_000;
        let count = if rng.chance(300) { 2 } else { 1 };
        let block_shift = if rng.chance(200) { 13 } else { 12 };
        let (mut geometry, mut disks) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let mut sectors = (64 + rng.below(200)) * 8;
            if rng.chance(300) {
                sectors += 1 + rng.below(7);
            }
            geometry.push(Geometry { size: sectors * SECTOR, block_shift, region_shift: 15 });
            disks.push(Rc::new(RefCell::new(Disk::new(sectors as usize, wall, &mut rng))));
        }
        let mischief = plan.mischief;
        let mut some = |chance, per_mille| if mischief && rng.chance(chance) { per_mille } else { 0 };
        let settings = Settings {
            write_errors: some(250, 15) + some(100, 100),
            sync_errors: some(150, 30),
            call_errors: some(250, 12),
            persist_errors: some(200, 20),
            preserve_errors: some(200, 20),
            jumps: some(300, 30),
            depth: 1 + rng.index(14),
            direct: !mischief || !rng.chance(150),
            strict: mischief && rng.chance(120),
            preserve_limit: (mischief && rng.chance(100)).then(|| rng.below(6) * 8192),
            bounds: Bounds {
                write_max: 32 << 10,
                zero_preserve_max: *[64 << 10, 16 << 10, 1 << 20].get(rng.index(3)).expect("below 3"),
                copy_max: *[8 << 10, 1 << 20].get(rng.index(2)).expect("below 2"),
                fold_slice: 1 + rng.below(2),
            },
            hot: 4 + rng.below(24),
        };
        let folders: Vec<_> = disks.iter().map(|_| SimFolder::new(faults.clone())).collect();
        let dice = Rc::new(RefCell::new(Rng::new(plan.seed ^ 0xd15c)));
        let facts = disks
            .iter()
            .map(|disk| Facts { disk: disk.clone(), faults: faults.clone(), rng: dice.clone() })
            .collect();
        let armed = plan.crash_at.map(|(step, kind)| {
            faults.arm(Some(step));
            kind
        });
        Self {
            acked: vec![BTreeMap::new(); disks.len()],
            rng,
            faults,
            settings,
            geometry,
            disks,
            facts,
            folders,
            maps: SimMaps::default(),
            mono: 1_000_000_000,
            wall,
            boot: 1,
            boots: 1,
            boot_ns: wall - 1_000_000_000,
            tracker: None,
            armed,
            struck: false,
            requests: BTreeMap::new(),
            flushes: BTreeMap::new(),
            next_token: 1,
            next_ticket: 1,
            tickets: BTreeMap::new(),
            vault: Vault::default(),
            shippers: vec![Shipper::default()],
            cuts: BTreeMap::new(),
            finishing: false,
            counts: Counts::default(),
            digest: plan.seed,
            events: 0,
            trace: Vec::new(),
            wrong: None,
            touched: false,
            starts_failed: 0,
            sessions: 0,
            other_host: None,
            plan,
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
        self.digest ^ self.vault.len()
    }

    fn now(&self) -> Nanos {
        Nanos(self.mono)
    }

    fn pass(&mut self, nanos: u64) {
        self.mono += nanos;
        self.wall += i128::from(nanos);
        for disk in &self.disks {
            disk.borrow_mut().wall = self.wall;
        }
    }

    /// The whole life: faults, then quiet, then the comparison.
    fn live(&mut self) -> Result<(), String> {
        self.start_tracker();
        self.faults.set_errors(self.settings.call_errors);
        for _ in 0..self.plan.events {
            self.event()?;
        }
        self.finish()
    }

    /// No more faults: replication catches up by itself, and then the newest point equals the disks.
    fn finish(&mut self) -> Result<(), String> {
        self.note(1, || "--- the faults stop".into());
        self.finishing = true;
        if self.plan.crash_at.is_none() {
            self.faults.arm(None);
            self.armed = None;
        }
        self.faults.set_errors(0);
        self.folders.iter().for_each(|folder| folder.set_low(false));
        self.settings.write_errors = 0;
        self.settings.sync_errors = 0;
        self.settings.persist_errors = 0;
        self.settings.preserve_errors = 0;
        self.settings.preserve_limit = None;
        let mut quiet_from = None;
        for _ in 0..6_000 {
            self.event()?;
            let busy = !self.requests.is_empty() || !self.flushes.is_empty() || self.tracker.is_none();
            if busy {
                quiet_from = None;
                continue;
            }
            let from = *quiet_from.get_or_insert(self.vault.len());
            let newest = self.vault.entry(self.vault.tip);
            let Some(entry) = newest.filter(|entry| entry.seq > from && entry.exact) else { continue };
            if !self.cuts.get(&entry.cut).is_some_and(|cut| cut.quiet) {
                continue;
            }
            let disks: Vec<_> = self.disks.iter().map(|disk| disk.borrow().image()).collect();
            if *entry.images != disks {
                let images = entry.images.clone();
                return Err(format!(
                    "the last point differs from the disk: {}",
                    differences(&images, &disks)
                ));
            }
            return Ok(());
        }
        let states: Vec<_> = self.shippers.iter().map(Shipper::state).collect();
        Err(format!(
            "replication does not catch up: {} requests, {} flushes, tracker {}, shippers {states:?}, road {:?}",
            self.requests.len(),
            self.flushes.len(),
            self.tracker.is_some(),
            self.state(),
        ))
    }

    /// One event.
    fn event(&mut self) -> Result<(), String> {
        self.events += 1;
        let step = 1_000 + self.rng.below(300_000);
        self.pass(step);
        if self.tracker.is_none() {
            self.event_without_tracker();
        } else {
            self.event_with_tracker();
        }
        if self.struck {
            self.struck = false;
            let kind = self.armed.take().unwrap_or(CrashKind::Process);
            self.crash(kind);
        }
        match self.wrong.take() {
            Some(what) => Err(what),
            None => Ok(()),
        }
    }

    fn event_without_tracker(&mut self) {
        let ships = self.shippers.iter().position(|shipper| shipper.can_step(false));
        let orphans = self.folders.iter().any(SimFolder::has_orphans);
        let mischief = self.plan.mischief && !self.finishing;
        let weights =
            [10, if ships.is_some() { 15 } else { 0 }, 5 * u64::from(orphans), 3 * u64::from(mischief)];
        match self.rng.weighted(&weights) {
            Some(1) => self.ship(ships.expect("weighed")),
            Some(2) => self.land_orphan(),
            Some(3) => self.mischief_while_down(),
            _ => self.start_tracker(),
        }
    }

    fn land_orphan(&mut self) {
        self.counts.add("orphaned sidecar writes");
        for folder in &self.folders {
            folder.land_orphan(&mut self.rng);
        }
    }

    /// What other people do while no tracker runs.
    fn mischief_while_down(&mut self) {
        match self.rng.below(20) {
            0 if !self.touched => {
                // Only what S3 can notice: later than the last sign of life, with the maps there.
                self.pass(3_500_000_000);
                self.touched = true;
                let disk = self.rng.index(self.disks.len());
                let sectors = self.disks[disk].borrow().sectors();
                for _ in 0..1 + self.rng.below(3) {
                    let sector = self.rng.index(sectors);
                    let value = 1 << 41 | self.rng.below(1 << 30);
                    self.disks[disk].borrow_mut().foreign_write(sector, value);
                }
                self.counts.add("foreign writes");
                self.note(2, || format!("somebody writes to disk {disk}"));
            }
            // Nobody else may know of a sync that has just failed.
            1 if !self.touched && self.settings.sync_errors == 0 => {
                self.maps.wipe();
                self.touched = true;
                self.counts.add("maps wiped");
                self.note(3, || "the maps are wiped".into());
            }
            2 if self.rng.chance(200) => {
                let disk = self.rng.index(self.disks.len());
                self.folders[disk].wipe();
                self.counts.add("sidecars wiped");
                self.note(4, || format!("the sidecar of disk {disk} is deleted"));
            }
            3 => self.host_crash(),
            4 | 5 => self.travel(),
            6 | 7 => self.damage_a_log(),
            _ => {}
        }
    }

    /// A change log is deleted or cut off, whichever it is.
    fn damage_a_log(&mut self) {
        let disk = self.rng.index(self.disks.len());
        let folder = self.folders[disk].clone();
        let logs: Vec<_> = folder.listing().into_iter().filter(|name| name.ends_with(".changes")).collect();
        if logs.is_empty() {
            return;
        }
        let name = &logs[self.rng.index(logs.len())];
        let length = folder.peek(name).map_or(0, |bytes| bytes.len());
        let length = self.rng.chance(500).then(|| self.rng.index(length + 1));
        folder.damage(name, length);
        self.counts.add("logs damaged");
        self.note(38, || format!("{name} of disk {disk} is cut off at {length:?}"));
    }

    /// The disk and its sidecar move to another host, and later back to the first, whose maps are of old then.
    fn travel(&mut self) {
        match self.other_host.take() {
            None => {
                let (boot, boot_ns, mono, wall) = (self.boot, self.boot_ns, self.mono, self.wall);
                let (maps, sessions) = (self.maps.copy(), self.sessions);
                self.other_host = Some(OtherHost { maps, boot, boot_ns, mono, wall, sessions });
                self.host_crash();
            }
            Some(host) if host.sessions < self.sessions => {
                self.host_crash();
                self.counts.add("returns to a host with old maps");
                self.note(37, || "the disk is back on an earlier host".into());
                self.maps.replace(&host.maps);
                (self.boot, self.boot_ns) = (host.boot, host.boot_ns);
                self.mono = host.mono + (self.wall - host.wall) as u64;
                // What a host that is up did is not told from what others did (S3).
                self.touched = true;
            }
            same => self.other_host = same,
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
            for disk in &self.disks {
                disk.borrow_mut().drop_ghosts();
            }
            return self.drive(|group, now, actions| group.stop(now, actions));
        }
        if tracker.stop_begun && tracker.group.stopped() && tracker.operations.is_empty() {
            return self.stopped();
        }
        if tracker.group.wake_at().is_some_and(|at| at <= self.now()) && self.rng.chance(900) {
            return self.drive(|group, now, actions| group.tick(now, actions));
        }
        let calm = !self.finishing && !stopping;
        let mischief = self.plan.mischief && calm;
        let room = calm && self.requests.len() + self.flushes.len() < self.settings.depth;
        let steppers: Vec<_> =
            (0..self.shippers.len()).filter(|index| self.shippers[*index].can_step(true)).collect();
        let ghosts = self.disks.iter().any(|disk| !disk.borrow().ghosts().is_empty());
        let orphans = self.folders.iter().any(SimFolder::has_orphans);
        let weights = [
            if room { 30 } else { 0 },
            (operations * 12).min(60),
            if queue > 0 { 12 } else { 0 },
            if marks > 0 { 6 } else { 0 },
            if reports > 0 { 14 } else { 0 },
            if steppers.is_empty() { 0 } else { 26 },
            4,
            2 * u64::from(ghosts) + 2 * u64::from(orphans),
            if mischief { 3 } else { 0 },
            if room { 2 } else { 0 },
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
                for disk in &self.disks {
                    let ghosts = disk.borrow().ghosts();
                    for name in ghosts {
                        self.counts.add("ghost writes");
                        disk.borrow_mut().land_some(name, &mut self.rng);
                    }
                }
                if orphans {
                    self.land_orphan();
                }
            }
            Some(8) => self.mischief(),
            Some(9) => self.abandon(),
            _ => {
                let jump = match self.rng.below(1000) {
                    draw if draw < self.settings.jumps && calm => 1_200_000_000,
                    draw if draw < 500 => 20_000_000,
                    draw if draw < 520 => 61_000_000_000,
                    _ => 400_000_000,
                };
                self.pass(if self.finishing { 300_000_000 } else { jump });
                self.note(6, || "tick".into());
                self.drive(|group, now, actions| group.tick(now, actions));
            }
        }
    }

    /// Crashes, stops, second shippers.
    fn mischief(&mut self) {
        match self.rng.below(40) {
            0..=5 if self.armed.is_none() => {
                let at = self.faults.steps() + 1 + self.rng.below(60);
                self.faults.arm(Some(at));
                self.armed = Some(if self.rng.chance(500) { CrashKind::Host } else { CrashKind::Process });
            }
            6 => {
                self.tracker.as_mut().expect("it runs").stopping = true;
                self.note(7, || "a clean stop is asked for".into());
            }
            7 if self.shippers.len() < 2 => {
                self.shippers.push(Shipper::default());
                self.counts.add("second shippers");
            }
            9 => {
                let chosen = self.rng.index(self.shippers.len());
                self.kill_shipper(chosen);
            }
            11 => {
                let low = self.rng.chance(300);
                self.folders.iter().for_each(|folder| folder.set_low(low));
            }
            _ => {}
        }
    }

    fn kill_shipper(&mut self, chosen: usize) {
        self.shippers[chosen] = Shipper::default();
        self.tickets.retain(|_, of| *of != chosen);
        self.counts.add("shippers killed");
        self.note(8, || format!("shipper {chosen} is killed"));
    }

    // ---- the guest ----

    fn guest_asks(&mut self) {
        let disk = self.rng.index(self.disks.len());
        let token = self.next_token;
        self.next_token += 1;
        if self.rng.chance(90) {
            let flush = GuestFlush { disk, vouches: self.acked[disk].clone() };
            self.flushes.insert(token, flush);
            self.note(9, || format!("guest: flush {token} of disk {disk}"));
            return self.drive(|group, now, actions| {
                group.flush(DiskIndex(disk as u16), Token(token), now, actions)
            });
        }
        let sectors = self.disks[disk].borrow().sectors();
        let (change, longest) = match self.rng.below(100) {
            0..=78 => (Change::Write, if self.rng.chance(150) { 64 } else { 16 }),
            79..=88 => (Change::Zero { may_punch: self.rng.chance(500) }, 64),
            _ => (Change::Discard, 64),
        };
        let longest = if change != Change::Write && self.rng.chance(250) { 700 } else { longest };
        let start = if self.rng.chance(600) {
            self.rng.index((self.settings.hot as usize * 8).min(sectors))
        } else {
            self.rng.index(sectors)
        };
        let mut range = start..(start + 1 + self.rng.index(longest)).min(sectors);
        if self.rng.chance(400) {
            range = range.start / 8 * 8..range.end.next_multiple_of(8).min(sectors);
        }
        let fua = self.rng.chance(100);
        let request = Request {
            disk: DiskIndex(disk as u16),
            change,
            fua,
            offset: range.start as u64 * SECTOR,
            length: range.len() as u64 * SECTOR,
            token: Token(token),
        };
        let guest = GuestRequest {
            disk,
            change,
            fua,
            range: range.clone(),
            submitted: 0,
            id: None,
            forgotten: false,
        };
        self.requests.insert(token, guest);
        self.note(10, || format!("guest: {token} {change:?} disk {disk} sectors {range:?} fua {fua}"));
        let mut given = None;
        self.drive(|group, now, actions| given = Some(group.request(request, now, actions)));
        if let Some(guest) = self.requests.get_mut(&token) {
            guest.id = given;
        }
    }

    /// A connection dies (W8).
    fn abandon(&mut self) {
        if self.requests.is_empty() || !self.rng.chance(300) {
            return;
        }
        let at = self.rng.index(self.requests.len());
        let (token, request) = self.requests.iter_mut().nth(at).expect("below the count");
        let (token, Some(id), false) = (*token, request.id, request.forgotten) else { return };
        request.forgotten = true;
        self.note(11, || format!("guest: {token} is abandoned"));
        let mut gone = false;
        self.drive(|group, now, actions| gone = group.abandon(id, now, actions));
        self.counts.add("abandoned requests");
        if gone {
            self.requests.remove(&token);
        }
    }

    fn reply(&mut self, token: u64, result: Result<(), Errno>) {
        self.note(12, || format!("reply {token}: {result:?}"));
        if let Some(flush) = self.flushes.remove(&token) {
            let disk = flush.disk;
            if result.is_err() {
                // The guest is told: what it wrote before is in doubt.
                self.acked[disk].clear();
                self.counts.add("flushes that failed");
                self.flushes
                    .values_mut()
                    .filter(|other| other.disk == disk)
                    .for_each(|other| other.vouches.clear());
                return;
            }
            let cache = self.disks[disk].borrow();
            for (sector, seq) in flush.vouches {
                if cache.durable(sector) < seq {
                    let what =
                        format!("flush {token} was good, but sector {sector} of disk {disk} is not durable");
                    self.wrong.get_or_insert(what);
                }
                if self.acked[disk].get(&sector).is_some_and(|newest| *newest <= seq) {
                    self.acked[disk].remove(&sector);
                }
            }
            return;
        }
        let Some(request) = self.requests.remove(&token) else {
            self.wrong.get_or_insert(format!("a reply to {token}, which nobody awaits"));
            return;
        };
        if request.forgotten {
            return;
        }
        if result.is_err() {
            self.counts.add("requests that failed");
            if request.fua {
                self.acked[request.disk].clear();
                let same = |flush: &&mut GuestFlush| flush.disk == request.disk;
                self.flushes.values_mut().filter(same).for_each(|flush| flush.vouches.clear());
            }
            return;
        }
        self.counts.add("requests");
        if request.change != Change::Discard && request.submitted != request.range.len() {
            self.wrong.get_or_insert(format!("{token} was acknowledged and not written whole"));
        }
        if request.submitted != request.range.len() {
            // A discard that left some as they were (W3): of those it promises nothing.
            return;
        }
        let cache = self.disks[request.disk].borrow();
        for sector in request.range {
            if request.fua
                && request.change != Change::Discard
                && cache.durable(sector) < cache.newest(sector)
            {
                // Another write may be over it by now; only its own value counts.
                continue;
            }
            self.acked[request.disk].insert(sector, cache.newest(sector));
        }
    }

    // ---- the engine ----

    /// Calls the machine, looks whether it cut, and executes its actions.
    fn drive(&mut self, call: impl FnOnce(&mut Group, Nanos, &mut Vec<Action>)) {
        let now = self.now();
        let mut actions = Vec::new();
        let tracker = self.tracker.as_mut().expect("it runs");
        call(&mut tracker.group, now, &mut actions);
        self.execute(actions);
    }

    fn execute(&mut self, actions: Vec<Action>) {
        let tracker = self.tracker.as_mut().expect("it runs");
        let cuts = tracker.group.cuts();
        if cuts != tracker.cuts {
            tracker.cuts = cuts;
            self.snapshot(&actions);
        }
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            if self.faults.step() {
                self.struck = true;
                return;
            }
            self.act(action);
            if self.struck {
                return;
            }
        }
    }

    fn snapshot(&mut self, actions: &[Action]) {
        let state = self.state().expect("a tracker has a header");
        let cut = self.header().expect("as above").read_cut(Generation(state.open.0 - 1)).cut;
        self.counts.add("cuts");
        self.note(13, || format!("CUT {cut}"));
        let images: Vec<_> = self.disks.iter().map(|disk| disk.borrow().image()).collect();
        let mut others = vec![BTreeMap::<usize, Vec<u64>>::new(); self.disks.len()];
        for (disk, others) in self.disks.iter().zip(&mut others) {
            for (sector, value) in disk.borrow().may_land() {
                others.entry(sector).or_default().push(value);
            }
        }
        for action in actions {
            if let Action::Submit { disk, change, offset, length, token, .. } = action {
                let value = if *change == Change::Write { token.0 } else { 0 };
                for sector in offset / SECTOR..(offset + length) / SECTOR {
                    others[disk.index()].entry(sector as usize).or_default().push(value);
                }
            }
        }
        if others.iter().any(|other| !other.is_empty()) {
            self.counts.add("cuts with writes in flight");
        }
        let quiet = self.finishing && self.requests.is_empty() && others.iter().all(BTreeMap::is_empty);
        self.cuts.insert(cut, Snapshot { images, others, quiet });
    }

    fn header(&self) -> Option<GroupHeader> {
        self.maps.get(HEADER).map(GroupHeader::new)
    }

    fn state(&self) -> Option<State> {
        self.header().map(|header| header.state())
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Submit { id, disk, change, offset, length, durable, token } => {
                let disk = disk.index();
                let range = (offset / SECTOR) as usize..((offset + length) / SECTOR) as usize;
                let value = if change == Change::Write { token.0 } else { 0 };
                let name = self.disks[disk].borrow_mut().submit(range.clone(), value);
                self.note(14, || format!("submit {} disk {disk} {range:?}", token.0));
                match self.requests.get_mut(&token.0) {
                    Some(request) => request.submitted += range.len(),
                    None => self.wrong = Some(format!("{} is submitted after its reply", token.0)),
                }
                self.begin(Operation::Write { id, disk, name, range, durable });
            }
            Action::Sync { id, disk } => {
                let disk = disk.index();
                let promise = self.disks[disk].borrow().sync_begins();
                self.note(15, || format!("sync disk {disk}"));
                self.begin(Operation::Sync { id, disk, promise });
            }
            Action::Preserve { id, disk, freeze, offset, length } => {
                let disk = disk.index();
                let range = (offset / SECTOR) as usize..((offset + length) / SECTOR) as usize;
                self.note(16, || format!("preserve disk {disk} {range:?}"));
                let handle =
                    self.tracker.as_ref().and_then(|one| one.handles[disk].get(&SidecarFile::Store(freeze)));
                match handle.cloned() {
                    Some(store) => self.begin(Operation::Preserve { id, disk, store, range, read: None }),
                    None => self.begin(Operation::Failed { id, errno: libc_errno::EBADF }),
                }
            }
            Action::Persist { id, disk, file, offset, bytes } => {
                self.note(17, || {
                    format!("persist {file:?} disk {} at {offset}, {} bytes", disk.0, bytes.len())
                });
                let handle = self.tracker.as_ref().and_then(|one| one.handles[disk.index()].get(&file));
                match handle.cloned() {
                    Some(file) => self.begin(Operation::Persist { id, file, offset, bytes }),
                    None => self.begin(Operation::Failed { id, errno: libc_errno::EBADF }),
                }
            }
            Action::Reply { token, result } => self.reply(token.0, result),
            Action::Job(job) => {
                let job = *job;
                let tracker = self.tracker.as_mut().expect("it runs");
                match job {
                    Job::Mark { .. } | Job::Unmark { .. } => tracker.marks.push_back(job),
                    job => tracker.queue.push_back(job),
                }
            }
            Action::Answer { ticket, answer } => self.answer(ticket.0, *answer),
            Action::Reopen { disk } => {
                self.counts.add("caches dropped");
                self.note(18, || format!("the cache of disk {} is dropped", disk.0));
                self.disks[disk.index()].borrow_mut().drop_cache();
            }
        }
    }

    fn begin(&mut self, operation: Operation) {
        self.tracker.as_mut().expect("it runs").operations.push(operation);
    }

    /// Something in flight goes on or ends.
    fn operate(&mut self) {
        if self.faults.step() {
            self.struck = true;
            return;
        }
        let operations = &mut self.tracker.as_mut().expect("it runs").operations;
        let at = self.rng.index(operations.len());
        match &mut operations[at] {
            Operation::Write { disk, name, .. } if self.rng.chance(300) => {
                self.disks[*disk].borrow_mut().land_some(*name, &mut self.rng);
                return;
            }
            Operation::Preserve { disk, range, read: read @ None, .. } => {
                let disk = self.disks[*disk].borrow();
                *read = Some(range.clone().map(|sector| disk.read(sector)).collect());
                return;
            }
            _ => {}
        }
        let operation = operations.swap_remove(at);
        let (id, result) = self.ended(operation);
        self.drive(|group, now, actions| group.completed(id, result, now, actions));
    }

    fn ended(&mut self, operation: Operation) -> (OpId, Result<(), Errno>) {
        let eio = Err(Errno(libc_errno::EIO));
        match operation {
            Operation::Write { id, disk, name, range, durable } => {
                let mut cache = self.disks[disk].borrow_mut();
                if self.rng.chance(self.settings.write_errors) {
                    // A file system that refuses has nothing that could land later.
                    let errno = if self.rng.chance(300) { libc_errno::ENOSPC } else { libc_errno::EIO };
                    let ghost = errno == libc_errno::EIO && self.rng.chance(600);
                    cache.fail(name, ghost, &mut self.rng);
                    drop(cache);
                    self.counts.add("failed writes");
                    self.note(19, || format!("write of {range:?} fails"));
                    return (id, Err(Errno(errno)));
                }
                cache.complete(name);
                if durable {
                    let promise = cache.sync_begins().only(&range);
                    cache.sync_ends(promise, true, &mut self.rng);
                }
                drop(cache);
                self.note(20, || format!("write of {range:?} is complete"));
                (id, Ok(()))
            }
            Operation::Sync { id, disk, promise } => {
                let good = !self.rng.chance(self.settings.sync_errors);
                self.disks[disk].borrow_mut().sync_ends(promise, good, &mut self.rng);
                self.note(21, || format!("sync of disk {disk}: {good}"));
                if !good {
                    self.counts.add("failed syncs");
                }
                (id, if good { Ok(()) } else { eio })
            }
            Operation::Preserve { id, store, range, read, .. } => {
                if self.rng.chance(self.settings.preserve_errors) {
                    return (id, eio);
                }
                store.preserve(range.start, &read.expect("it was read"));
                self.counts.more("sectors preserved", range.len() as u64);
                self.note(22, || format!("preserved {range:?}"));
                (id, Ok(()))
            }
            Operation::Persist { id, file, offset, bytes } => {
                if self.rng.chance(self.settings.persist_errors) {
                    file.persist_some(offset, &bytes, &mut self.rng);
                    self.counts.add("failed persists");
                    self.note(23, || "a persist fails".into());
                    return (id, eio);
                }
                file.persist(offset, &bytes);
                self.note(24, || "persisted".into());
                (id, Ok(()))
            }
            Operation::Failed { id, errno } => (id, Err(Errno(errno))),
        }
    }

    /// The worker does a job, step by step; a crash may strike within.
    fn work(&mut self, mark: bool) {
        let tracker = self.tracker.as_mut().expect("it runs");
        let list = if mark { &mut tracker.marks } else { &mut tracker.queue };
        let job = list.pop_front().expect("weighed");
        let what = self.plan.trace.then(|| format!("{job:?}").chars().take(40).collect::<String>());
        match catch_unwind(AssertUnwindSafe(|| tracker.jobs.run(job))) {
            Ok(outcome) => {
                tracker.reports.push_back(outcome);
                self.note(25, || format!("job {}", what.unwrap_or_default()));
            }
            Err(panic) if panic.is::<Crashed>() => {
                self.counts.add("crashes inside a job");
                self.note(26, || format!("crash inside job {}", what.unwrap_or_default()));
                self.struck = true;
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    fn report(&mut self) {
        let tracker = self.tracker.as_mut().expect("it runs");
        let Outcome { opened, closed, done } = tracker.reports.pop_front().expect("weighed");
        for (disk, file, handle) in opened {
            tracker.handles[disk.index()].insert(file, handle);
        }
        let text = self.plan.trace.then(|| format!("{done:?}").chars().take(60).collect::<String>());
        self.note(27, || format!("report {}", text.unwrap_or_default()));
        match &done {
            JobDone::Marked { .. } => self.counts.add("marks"),
            JobDone::Unmarked { .. } => self.counts.add("heals"),
            _ => {}
        }
        self.drive(|group, now, actions| group.job_done(done, now, actions));
        if let Some(tracker) = &mut self.tracker {
            for (disk, file) in closed {
                tracker.handles[disk.index()].remove(&file);
            }
        }
    }

    // ---- the shippers ----

    fn with_port<T>(&mut self, call: impl FnOnce(&mut Vec<Shipper>, &mut Port) -> T) -> T {
        let mut port = Port {
            disks: &self.disks,
            folders: &self.folders,
            maps: &self.maps,
            vault: &mut self.vault,
            rng: &mut self.rng,
            counts: &mut self.counts,
            block_shift: self.geometry[0].block_shift,
            finish: self.finishing,
        };
        call(&mut self.shippers, &mut port)
    }

    fn ship(&mut self, chosen: usize) {
        if self.faults.step() {
            self.struck = true;
            return;
        }
        let step = self.with_port(|shippers, port| shippers[chosen].step(port));
        self.took(chosen, step);
    }

    fn answer(&mut self, ticket: u64, answer: Answer) {
        let Some(chosen) = self.tickets.remove(&ticket) else { return };
        let text = self.plan.trace.then(|| format!("{answer:?}").chars().take(300).collect::<String>());
        self.note(28, || format!("answer to shipper {chosen}: {}", text.unwrap_or_default()));
        let step = self.with_port(|shippers, port| shippers[chosen].answer(answer, port));
        self.took(chosen, step);
    }

    fn took(&mut self, chosen: usize, step: Step) {
        match step {
            Step::Went => {}
            Step::Ask(question) => {
                if self.tracker.is_none() {
                    return self.shippers[chosen].disconnected(true);
                }
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                self.tickets.insert(ticket, chosen);
                self.note(29, || format!("shipper {chosen} asks {question:?}"));
                self.ask(question, ticket);
            }
            Step::Put(seq) => self.put(chosen, seq),
            Step::Gone => {
                // It ends with its own exit code; the newer one ships on.
                if self.shippers.len() > 1 {
                    self.shippers.remove(chosen);
                    self.tickets.retain(|_, of| *of != chosen);
                    self.tickets.values_mut().for_each(|of| *of -= usize::from(*of > chosen));
                }
            }
            Step::Wrong(what) => {
                self.wrong.get_or_insert(what);
            }
        }
    }

    fn ask(&mut self, question: Question, ticket: u64) {
        let time = self.wall as u64;
        self.drive(|group, now, actions| group.ask(question, Ticket(ticket), time, now, actions));
    }

    /// Every published point is the instant of its cut: each sector is as it was, or as a write in flight made it.
    fn put(&mut self, chosen: usize, seq: u64) {
        let entry = self.vault.entry(seq).expect("it was put").clone();
        self.note(30, || format!("shipper {chosen} put {seq}, exact {}, cut {}", entry.exact, entry.cut));
        if !entry.exact {
            return;
        }
        let cut = &self.cuts[&entry.cut];
        for (disk, image) in entry.images.iter().enumerate() {
            for (sector, value) in image.iter().enumerate() {
                let was = cut.images[disk][sector];
                let legal = *value == was
                    || cut.others[disk].get(&sector).is_some_and(|others| others.contains(value));
                if !legal {
                    let others = cut.others[disk].get(&sector);
                    self.wrong.get_or_insert(format!(
                        "point {seq} of cut {} is not the instant of its cut: disk {disk} sector {sector} is {value}, \
                         was {was}, could become {others:?}",
                        entry.cut
                    ));
                    return;
                }
            }
        }
    }

    // ---- crashes and starts ----

    fn crash(&mut self, kind: CrashKind) {
        if let Some(state) = self.state() {
            let fuzzy = if state.fuzzy { ", fuzzy" } else { "" };
            let road = if self.tracker.is_some() { state.road.name() } else { "starting" };
            self.counts.add(&format!("{kind:?} crash: {road}{fuzzy}"));
            self.counts.add(&format!("crash: {road}"));
            if self.tracker.is_some() && state.road != Road::None && !state.fuzzy {
                self.counts.add("crashes in an exact freeze");
            }
        }
        self.note(31, || format!("CRASH {kind:?}"));
        self.counts.add(&format!("{kind:?} crashes"));
        let operations = self.tracker.take().map(|tracker| tracker.operations).unwrap_or_default();
        for operation in operations {
            match operation {
                Operation::Persist { file, offset, bytes, .. } => file.orphan(offset, bytes),
                Operation::Preserve { store, range, read: Some(read), .. } if self.rng.chance(500) => {
                    store.preserve(range.start, &read);
                }
                _ => {}
            }
        }
        for disk in &self.disks {
            disk.borrow_mut().process_crash(&mut self.rng);
        }
        self.lose_connections();
        if kind == CrashKind::Host {
            self.host_crash();
        }
    }

    fn lose_connections(&mut self) {
        self.requests.clear();
        self.flushes.clear();
        self.tickets.clear();
        for shipper in &mut self.shippers {
            let keep = self.rng.chance(700);
            shipper.disconnected(keep);
        }
        self.touched = false;
    }

    fn host_crash(&mut self) {
        self.counts.add("host restarts");
        self.note(32, || "the host restarts".into());
        for index in 0..self.shippers.len() {
            // The put may have been on its way.
            if self.shippers[index].is_publishing() && self.rng.chance(500) {
                let step = self.with_port(|shippers, port| shippers[index].step(port));
                if let Step::Put(seq) = step {
                    self.put(index, seq);
                }
            }
        }
        self.shippers = vec![Shipper::default()];
        self.maps.wipe();
        for (disk, folder) in self.disks.iter().zip(&self.folders) {
            disk.borrow_mut().host_crash(&mut self.rng);
            folder.host_crash(&mut self.rng);
        }
        self.acked.iter_mut().for_each(BTreeMap::clear);
        self.pass(5_000_000_000);
        self.boots += 1;
        self.boot = self.boots;
        self.boot_ns = self.wall;
        self.mono = 1_000_000_000;
        self.pass(1_000_000_000);
        // Foreign writes must come later than this boot and its slack.
        self.touched = false;
    }

    fn stopped(&mut self) {
        self.note(33, || "stopped".into());
        let state = self.state().map_or("none", |state| state.road.name());
        self.counts.add(&format!("clean stop: {state}"));
        self.counts.add("clean stops");
        self.tracker = None;
        self.lose_connections();
        if self.plan.mischief && !self.finishing && self.rng.chance(250) {
            self.travel();
        }
    }

    fn start_tracker(&mut self) {
        let candidates = (0..self.disks.len()).map(|index| Candidate {
            name: format!("disk{index}"),
            path: format!("disk{index}"),
            folder: self.folders[index].clone(),
            facts: self.facts[index].clone(),
            geometry: self.geometry[index],
            direct: self.settings.direct,
            align: 512,
        });
        let candidates: Vec<_> = candidates.collect();
        let config = GroupConfig {
            name: "sim".into(),
            session: Session(0),
            preserve_limit: self.settings.preserve_limit,
            preserve_deadline: Duration::from_millis(250),
            strict: self.settings.strict,
            off: false,
            bounds: self.settings.bounds,
        };
        let mut boot = [0; 16];
        boot[..8].copy_from_slice(&self.boot.to_le_bytes());
        let now =
            Now { boot: BootId(boot), boot_ns: self.boot_ns, wall_ns: self.wall, monotonic: self.now() };
        if self.plan.trace {
            for (disk, folder) in self.folders.clone().iter().enumerate() {
                for name in folder.listing() {
                    let bytes = folder.peek(&name).unwrap_or_default();
                    let log = towline_tracker::format::changes::read(&bytes[..], |_| ());
                    self.note(36, || format!("disk {disk}: {name}, {} bytes, {log:?}", bytes.len()));
                }
            }
        }
        let before = self.faults.injected();
        let budget = 8 << 15;
        let maps = self.maps.clone();
        let started =
            catch_unwind(AssertUnwindSafe(|| start(candidates, &maps, config, budget, now, disk_name)));
        let started = match started {
            Ok(Ok(started)) => started,
            Ok(Err(error)) => {
                self.note(34, || format!("the start is refused: {error}"));
                if self.faults.injected() == before {
                    self.wrong.get_or_insert(format!("the start is refused: {error}"));
                }
                self.counts.add("starts that failed");
                self.starts_failed += 1;
                if self.starts_failed > 5 {
                    self.faults.set_errors(0);
                }
                return;
            }
            Err(panic) if panic.is::<Crashed>() => {
                self.counts.add("crashes inside the start");
                self.struck = true;
                return;
            }
            Err(panic) => resume_unwind(panic),
        };
        self.starts_failed = 0;
        self.sessions += 1;
        let verdicts: Vec<String> = Vec::new();
        self.note(35, || format!("started session {} {verdicts:?}", started.session));
        let Running { group, actions, jobs, opened } = started.run(self.maps.clone(), cut_name);
        let mut handles = vec![BTreeMap::new(); self.disks.len()];
        for (disk, file, handle) in opened {
            handles[disk.index()].insert(file, handle);
        }
        self.tracker = Some(Tracker {
            cuts: group.cuts(),
            group,
            jobs,
            queue: VecDeque::new(),
            marks: VecDeque::new(),
            reports: VecDeque::new(),
            handles,
            operations: Vec::new(),
            stopping: false,
            stop_begun: false,
        });
        self.counts.add("starts");
        if let Some(state) = self.state() {
            self.counts.add(&format!("started in: {}", state.road.name()));
        }
        self.execute(actions);
    }
}

fn differences(image: &[Vec<u64>], disks: &[Vec<u64>]) -> String {
    let mut text = Vec::new();
    for (disk, (image, now)) in image.iter().zip(disks).enumerate() {
        for (sector, (image, now)) in image.iter().zip(now).enumerate() {
            if image != now && text.len() < 12 {
                text.push(format!("disk {disk} sector {sector}: {image} for {now}"));
            }
        }
    }
    text.join(", ")
}

/// Error numbers of Linux.
mod libc_errno {
    pub(super) const EIO: i32 = 5;
    pub(super) const EBADF: i32 = 9;
    pub(super) const ENOSPC: i32 = 28;
}
