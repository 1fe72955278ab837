//! Schedules of the machine that random seeds seldom meet, step by step: a test says what completes, and when.

use super::job::{Job, JobDone, Spare, SpareDisk};
use super::*;
use crate::disk::geometry::Geometry;
use crate::disk::regions::Regions;
use crate::disk::{FrozenDisk, Log};
use crate::format::changes::Header;
use crate::id::BootId;
use crate::map::{Words, bits};
use std::collections::BTreeSet;

#[cfg(loom)]
mod models;

/// 32 KiB regions of 4 KiB blocks.
const REGION_SHIFT: u8 = 15;
const BUDGET: usize = 8;
const SECOND: u64 = 1_000_000_000;

/// What an operation in flight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Guest,
    /// Of a frozen block, to the store.
    Copy,
    Sync,
    Slot,
    Append(Generation),
}

/// The machine of one disk. Jobs are done at once; operations wait in `flying` until a test completes them.
struct Rig {
    group: Group,
    geometry: Geometry,
    config: GroupConfig,
    flying: Vec<(OpId, Doing)>,
    replies: BTreeSet<u64>,
    answers: Vec<Answer>,
    now: u64,
    tokens: u64,
    cuts: u8,
}

fn words(geometry: Geometry) -> Words {
    Words::private(bits::words_for(geometry.blocks()))
}

impl Rig {
    fn new(regions: u64, bounds: Bounds) -> Self {
        let geometry =
            Geometry { size: regions << REGION_SHIFT, block_shift: 12, region_shift: REGION_SHIFT };
        let config = GroupConfig {
            name: "rig".into(),
            session: Session(1),
            preserve_limit: None,
            preserve_deadline: Duration::from_secs(1),
            strict: false,
            off: false,
            bounds,
        };
        let open = Generation::first_of(Session(1));
        let header = GroupHeader::create(
            Words::private(GroupHeader::WORDS),
            BootId::default(),
            (Session(1), crate::id::StartId(1)),
            open,
            &[(Default::default(), geometry.size)],
            &[],
        );
        let mut disk = Disk::untracked("disk".into(), "disk".into(), geometry, true, 512);
        disk.open = words(geometry);
        disk.regions = Regions::new(geometry.regions(), BUDGET, &[]);
        disk.intent_capacity = BUDGET;
        disk.log = Log::new(Header { generation: open, ..disk.log.header });
        Self::of(header, disk, geometry, config)
    }

    fn of(header: GroupHeader, disk: Disk, geometry: Geometry, config: GroupConfig) -> Self {
        let first_pending = header.state().open;
        let mut actions = Vec::new();
        let group = Group::new(
            Start {
                config: config.clone(),
                header,
                disks: vec![disk],
                target: None,
                anchor: None,
                vouched: Vec::new(),
                first_pending,
                fill: Vec::new(),
                now: Nanos(SECOND),
            },
            &mut actions,
        );
        let (flying, replies, answers) = (Vec::new(), BTreeSet::new(), Vec::new());
        let mut rig =
            Self { group, geometry, config, flying, replies, answers, now: SECOND, tokens: 0, cuts: 0 };
        rig.take(actions);
        rig
    }

    /// The process dies; the next one goes on with the same maps.
    fn successor(self) -> Self {
        let Self { mut group, geometry, config, .. } = self;
        let old = group.disks.remove(0);
        let mut disk = Disk::untracked("disk".into(), "disk".into(), geometry, true, 512);
        disk.regions = Regions::new(geometry.regions(), BUDGET, old.regions.members());
        disk.intent_capacity = BUDGET;
        disk.log = Log::new(old.log.header);
        disk.open = old.open;
        disk.frozen =
            old.frozen.map(|frozen| FrozenDisk { log: Log::new(frozen.log.header), synced: false, ..frozen });
        Self::of(group.header, disk, geometry, config)
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Submit { id, .. } => self.flying.push((id, Doing::Guest)),
                Action::Sync { id, .. } => self.flying.push((id, Doing::Sync)),
                Action::Persist { id, file: SidecarFile::Changes(of), .. } => {
                    self.flying.push((id, Doing::Append(of)));
                }
                Action::Persist { id, .. } => self.flying.push((id, Doing::Slot)),
                Action::Reply { token, .. } => drop(self.replies.insert(token.0)),
                Action::Answer { answer, .. } => self.answers.push(*answer),
                Action::Job(job) => self.work(*job),
                Action::Preserve { id, .. } => self.flying.push((id, Doing::Copy)),
                Action::Reopen { .. } => unreachable!("no test needs it"),
            }
        }
    }

    fn work(&mut self, job: Job) {
        let done = match job {
            Job::Prepare { open } => {
                self.cuts += 1;
                let header = Header { generation: open.next(), ..self.group.disks[0].log.header };
                let disk =
                    SpareDisk { open: words(self.geometry), preserved: words(self.geometry), log: header };
                let (generation, cut) = (open.next(), CutId([self.cuts; 16]));
                JobDone::Prepared(Ok(Spare { generation, cut, disks: vec![disk], reserved: false }))
            }
            Job::Reserve { .. } => JobDone::Reserved(Ok(())),
            Job::Seal { generation, .. } => JobDone::Sealed { generation, result: Ok(()) },
            Job::Release { generation, .. } => JobDone::Released { generation, result: Ok(()) },
            Job::Forget { .. } => JobDone::Forgotten { result: Ok(()) },
            Job::StoreMeta { number, .. } => JobDone::MetaStored { number, result: Ok(()) },
            Job::Mark { disk } => JobDone::Marked { disk, result: Ok(true) },
            Job::RenewIntents { disk, name, regions, capacity } => {
                JobDone::IntentsRenewed { disk, name, regions, capacity, result: Ok(1) }
            }
            Job::Unmark { disk } => JobDone::Unmarked { disk, result: Ok(true) },
            Job::Watch => JobDone::Watched { low: false },
            Job::Stamp => JobDone::Stamped(Vec::new()),
            Job::StoreStamps { .. } => JobDone::StampsStored,
            Job::Stop { .. } => JobDone::Stopped { result: Ok(()), unsynced: Vec::new() },
        };
        self.call(|group, now, actions| group.job_done(done, now, actions));
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut Group, Nanos, &mut Vec<Action>) -> T) -> T {
        let mut actions = Vec::new();
        let given = call(&mut self.group, Nanos(self.now), &mut actions);
        self.take(actions);
        given
    }

    /// Completes what is in flight, and what comes of it, except what is held.
    fn run(&mut self, held: impl Fn(Doing) -> bool) {
        while let Some(at) = self.flying.iter().position(|(_, doing)| !held(*doing)) {
            let (id, _) = self.flying.remove(at);
            self.call(|group, now, actions| group.completed(id, Ok(()), now, actions));
        }
    }

    fn tick(&mut self, passed: u64) {
        self.now += passed;
        self.call(|group, now, actions| group.tick(now, actions));
    }

    /// Lets time pass until folds and whatever else goes by ticks is done.
    fn rest(&mut self, held: impl Fn(Doing) -> bool) {
        for _ in 0..8 {
            self.tick(SECOND * 11 / 10);
            self.run(&held);
        }
    }

    /// The guest writes whole regions.
    fn write(&mut self, regions: std::ops::Range<u64>) -> u64 {
        self.tokens += 1;
        let request = Request {
            disk: DiskIndex(0),
            change: Change::Write,
            fua: false,
            offset: regions.start << REGION_SHIFT,
            length: (regions.end - regions.start) << REGION_SHIFT,
            token: Token(self.tokens),
        };
        self.call(|group, now, actions| group.request(request, now, actions));
        self.tokens
    }

    /// A shipper attaches and cuts.
    fn cut(&mut self) {
        let target = TargetId::default();
        self.ask(Question::Attach { target });
        let attach = self.group.attach;
        self.ask(Question::Cut { attach, full: false });
    }

    fn ask(&mut self, question: Question) {
        self.call(|group, now, actions| group.ask(question, Ticket(1), 0, now, actions));
    }
}

fn nothing(_: Doing) -> bool {
    false
}

/// Promise 5. Schedule: 1. a freeze is sealed and its target is down for days; 2. the guest touches more regions than the
/// intents hold, over and over, and each that leaves appends a record.
#[test]
fn a_freeze_that_nobody_ships_gives_way_before_the_log_outgrows_its_bound() {
    let mut rig = Rig::new(64, Bounds { log_max: 1 << 10, log_live_max: 8 << 10, ..Bounds::default() });
    rig.cut();
    rig.run(nothing);
    assert!(rig.answers.iter().any(|answer| matches!(answer, Answer::Frozen(_))), "{:?}", rig.answers);
    assert_eq!(rig.group.state.road, Road::Sealed);
    let mut largest = 0;
    for round in 0..5_000 {
        let region = round * 7 % 64;
        rig.write(region..region + 1);
        rig.run(nothing);
        if round % 8 == 0 {
            rig.tick(SECOND * 11 / 10);
            rig.run(nothing);
        }
        largest = largest.max(rig.group.disks[0].log.end);
    }
    assert_eq!(rig.replies.len() as u64, rig.tokens, "the guest waits for nobody");
    assert!((8 << 10..12 << 10).contains(&largest), "the log has grown to {largest} bytes");
    assert!(rig.group.counts.cuts > 2, "and is replaced from time to time after that");
    rig.rest(nothing);
    assert_eq!(rig.group.state.road, Road::None);
    assert_eq!(rig.group.disks[0].dirty_blocks, rig.geometry.blocks(), "its blocks are pending (C4)");
}

/// Promise 5. Schedule: 1. the machine cuts for itself; 2. its process dies before the log is sealed; 3. no shipper comes.
#[test]
fn a_successor_ends_a_cut_that_nobody_asked_for() {
    let mut rig = Rig::new(64, Bounds { log_max: 1 << 10, ..Bounds::default() });
    for region in (0..64).cycle().take(400) {
        rig.write(region..region + 1);
        rig.run(nothing);
    }
    rig.tick(SECOND * 11 / 10);
    assert_eq!(rig.group.state.road, Road::Draining, "its sync is in flight");
    let mut rig = rig.successor();
    assert_eq!(rig.group.state.road, Road::Draining);
    rig.run(nothing);
    rig.rest(nothing);
    assert_eq!(rig.group.state.road, Road::None);
    rig.cut();
    rig.run(nothing);
    assert_eq!(rig.group.state.road, Road::Sealed);
    let mut rig = rig.successor();
    rig.rest(nothing);
    assert_eq!(rig.group.state.road, Road::Sealed, "what a shipper asked for stays");
}

/// W1. Schedule: 1. five regions of eight are in the intents: too few for cleaning ahead of need; 2. a request of six
/// others comes.
#[test]
fn a_request_that_fits_the_budget_is_admitted_however_full_the_intents_are() {
    for full in 0..=BUDGET as u64 {
        let mut rig = Rig::new(64, Bounds::default());
        for region in 0..full {
            rig.write(region..region + 1);
            rig.run(nothing);
        }
        for start in [20, 30, 3, 40] {
            let large = rig.write(start..start + 6);
            rig.run(nothing);
            assert!(rig.replies.contains(&large), "with {full} in the intents it waits for ever");
        }
    }
}

/// I4. Schedule: 1. a cleaning's append hangs; 2. the deadline passes, the disk is marked, fresh intents are made; 3. a cut
/// heals; 4. a new cleaning's append is in flight when the old one ends.
#[test]
fn what_an_old_append_ends_is_not_the_cleaning_of_fresh_intents() {
    let mut rig = Rig::new(64, Bounds::default());
    let append = |doing| matches!(doing, Doing::Append(_));
    for region in 0..6 {
        rig.write(region..region + 1);
        rig.run(append);
    }
    let (old, doing) = *rig.flying.first().expect("a cleaning is under way");
    let generation = rig.group.state.open;
    assert_eq!(doing, Doing::Append(generation));
    rig.rest(append);
    assert!(rig.group.state.open > generation, "it has cut for itself");
    assert_eq!(rig.group.disks[0].intent_mode, crate::disk::IntentMode::Kept);
    for region in 10..16 {
        rig.write(region..region + 1);
        rig.run(append);
    }
    let fresh = rig.group.disks[0].log.header.generation;
    assert!(rig.flying.iter().any(|(_, doing)| *doing == Doing::Append(fresh)), "{:?}", rig.flying);
    rig.flying.retain(|(id, _)| *id != old);
    rig.call(|group, now, actions| group.completed(old, Ok(()), now, actions));
    rig.run(append);
    // Were a region clean now, it would leave for the sake of these, and its blocks would be nowhere durable.
    let waiting: Vec<u64> = (20..24).map(|region| rig.write(region..region + 1)).collect();
    rig.run(append);
    assert!(!waiting.iter().all(|token| rig.replies.contains(token)), "regions left unrecorded");
    rig.run(nothing);
    assert!(waiting.iter().all(|token| rig.replies.contains(token)));
}

/// S3, promise 4. Schedule: 1. a clean stop's job hangs for seconds; 2. it goes on, and the disk's inode is changed; 3. the process
/// dies before the stop is complete: what it did must not be taken for somebody else's, or the whole disk is compared.
#[test]
fn a_stop_that_takes_long_gives_signs_of_life_and_sleeps_in_between() {
    let mut rig = Rig::new(64, Bounds::default());
    rig.write(0..1);
    rig.run(nothing);
    rig.call(|group, now, actions| group.stop(now, actions));
    rig.run(nothing);
    assert!(rig.group.stop_posted);
    for _ in 0..5 {
        rig.tick(SECOND * 11 / 10);
        assert_eq!(rig.group.header.heartbeat(), Nanos(rig.now));
        assert!(rig.group.wake_at().is_some_and(|at| at > Nanos(rig.now)), "it spins");
    }
}
