//! W6: whoever's sync meets an error of the disk, the guest is told and the disk is doubtful. The product's machine, jobs
//! and start over a simulated disk; the test decides how each sync ends.

use crate::mutants::judge;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;
use towline_tests::sim::disk::{Disk, Facts};
use towline_tests::sim::fault::Faults;
use towline_tests::sim::folder::{SimFile, SimFolder};
use towline_tests::sim::leaves::{Fate, Leaves};
use towline_tests::sim::maps::SimMaps;
use towline_tests::sim::rng::Rng;
use towline_tracker::control::message::{Answer, Attached, Frozen};
use towline_tracker::disk::geometry::Geometry;
use towline_tracker::error::Error;
use towline_tracker::format::meta::{Mark, Meta};
use towline_tracker::group::{
    Action, Change, Errno, Group, GroupConfig, Question, Request, SidecarFile, Ticket, Token,
};
use towline_tracker::id::{
    Anchor, AttachNumber, BootId, CutId, DiskId, DiskIndex, Nanos, Session, StartId, TargetId, VaultId,
};
use towline_tracker::limits::Bounds;
use towline_tracker::map::bits;
use towline_tracker::map::header::{GroupHeader, Road};
use towline_tracker::sidecar::files::store_meta;
use towline_tracker::sidecar::jobs::{DiskFacts, Jobs, map_name};
use towline_tracker::sidecar::maps::Maps as _;
use towline_tracker::sidecar::start::{Candidate, HEADER, Now, Running, start};

const DISK: DiskIndex = DiskIndex(0);
const EIO: Result<(), Errno> = Err(Errno(5));

/// What outlives a session.
pub(crate) struct Host {
    disk: Rc<RefCell<Disk>>,
    pub(crate) folder: SimFolder,
    pub(crate) maps: SimMaps,
    /// Of the disk's own calls.
    faults: Faults,
    /// Of the sidecar's.
    sidecar_faults: Faults,
    direct: bool,
    /// Of the intents, in bytes.
    budget: u64,
    starts: Cell<u64>,
}

/// A session, its engine the test itself.
pub(crate) struct Sitting<'a> {
    host: &'a Host,
    group: Group,
    jobs: Jobs<SimFolder, Facts, SimMaps>,
    files: BTreeMap<(DiskIndex, SidecarFile), SimFile>,
    now: Nanos,
    /// How many writes to the disk fail from now on, how many syncs with the inode, and how many writes to the sidecar.
    bad_writes: u32,
    bad_syncs: u32,
    bad_persists: u32,
    /// The worker takes its time: what it is asked for now is not done yet.
    pub(crate) busy: bool,
    /// The disk does not answer syncs.
    hangs: bool,
    replies: BTreeMap<u64, Result<(), Errno>>,
    /// What shippers were told.
    pub(crate) answers: Vec<Answer>,
}

/// A name for each disk.
fn disk_name() -> DiskId {
    thread_local!(static NAMES: Cell<u128> = const { Cell::new(3) });
    NAMES.set(NAMES.get() + 1);
    DiskId(NAMES.get().to_le_bytes())
}

/// A name for each cut.
fn cut_name() -> CutId {
    thread_local!(static NAMES: Cell<u128> = const { Cell::new(3) });
    NAMES.set(NAMES.get() + 1);
    CutId(NAMES.get().to_le_bytes())
}

impl Host {
    pub(crate) fn new(direct: bool) -> Self {
        let rng = || Rng::new(7);
        let sidecar_faults = Faults::new(rng());
        Self {
            disk: Rc::new(RefCell::new(Disk::new(8192, 1_000_000_000_000, &mut rng()))),
            folder: SimFolder::new(sidecar_faults.clone()),
            maps: SimMaps::new(sidecar_faults.clone()),
            sidecar_faults,
            faults: Faults::new(rng()),
            direct,
            budget: 4 << 20,
            starts: Cell::new(1),
        }
    }

    pub(crate) fn facts(&self) -> Facts {
        let rng = Rc::new(RefCell::new(Rng::new(9)));
        Facts { disk: self.disk.clone(), faults: self.faults.clone(), rng }
    }

    pub(crate) fn meta(&self) -> Meta {
        Meta::decode(&self.folder.peek("disk.meta").unwrap()).unwrap()
    }

    fn candidate(&self, name: &str) -> Candidate<SimFolder, Facts> {
        Candidate {
            name: name.into(),
            path: name.into(),
            folder: self.folder.clone(),
            facts: self.facts(),
            geometry: Geometry {
                size: self.disk.borrow().sectors() as u64 * 512,
                block_shift: 12,
                region_shift: 15,
            },
            direct: self.direct,
            align: 512,
        }
    }

    pub(crate) fn start(&self) -> Sitting<'_> {
        self.start_with(&[])
    }

    /// Starts it in one group with other hosts' disks, which nobody uses.
    pub(crate) fn start_with(&self, others: &[&Host]) -> Sitting<'_> {
        self.try_start(others).expect("it starts")
    }

    /// Whether nothing is left of what failed writes may still do, as it must be or not.
    fn judge_failed(&self, ended: bool) {
        let header = GroupHeader::new(self.maps.get(HEADER).expect("it is there"));
        let is = header.failed(0).expect("few enough").is_empty();
        assert!(is || !ended, "it is ended");
        let lost = "what lands later is in no generation".to_string();
        judge("image", if is == ended { Ok(()) } else { Err(lost) });
    }

    /// The line with which such a start is refused.
    pub(crate) fn refused(&self, others: &[&Host]) -> String {
        self.try_start(others).map(|_| ()).expect_err("it is refused").to_string()
    }

    fn try_start(&self, others: &[&Host]) -> Result<Sitting<'_>, Error> {
        let mut candidates = vec![self.candidate("d")];
        candidates.extend(others.iter().zip(["e", "f"]).map(|(other, name)| other.candidate(name)));
        let config = GroupConfig {
            name: "g".into(),
            session: Session(0),
            preserve_limit: None,
            preserve_deadline: Duration::from_millis(250),
            strict: false,
            off: false,
            bounds: Bounds { write_max: 1 << 16, ..Bounds::default() },
        };
        let wall_ns = self.disk.borrow().wall;
        // The host was never suspended.
        let since_boot = Nanos(wall_ns as u64);
        let now = Now {
            boot: BootId([1; 16]),
            boot_ns: 0,
            wall_ns,
            monotonic: since_boot,
            since_boot,
            start: StartId(self.starts.replace(self.starts.get() + 1)),
        };
        let started = start(candidates, &self.maps, config, self.budget, now, disk_name)?;
        let Running { group, actions, jobs, opened } = started.run(self.maps.clone(), cut_name);
        let files = opened.into_iter().map(|(disk, file, handle)| ((disk, file), handle)).collect();
        let (replies, answers) = (BTreeMap::new(), Vec::new());
        let (now, bad_writes, bad_syncs, bad_persists) = (since_boot, 0, 0, 0);
        let mut session = Sitting {
            host: self,
            group,
            jobs,
            files,
            now,
            bad_writes,
            bad_syncs,
            bad_persists,
            busy: false,
            hangs: false,
            replies,
            answers,
        };
        session.execute(actions);
        Ok(session)
    }
}

impl Sitting<'_> {
    fn drive(&mut self, call: impl FnOnce(&mut Group, Nanos, &mut Vec<Action>)) {
        let mut actions = Vec::new();
        call(&mut self.group, self.now, &mut actions);
        self.execute(actions);
    }

    fn execute(&mut self, actions: Vec<Action>) {
        let mut queue = VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            let mut more = Vec::new();
            let now = self.now;
            match action {
                Action::Submit { id, offset, length, token, .. } => {
                    let sectors = (offset / 512) as usize..((offset + length) / 512) as usize;
                    let name = self.host.disk.borrow_mut().submit(sectors, token.0);
                    let good = self.bad_writes == 0;
                    self.bad_writes -= u32::from(!good);
                    match good {
                        true => self.host.disk.borrow_mut().complete(name),
                        false => self.host.disk.borrow_mut().fail(name, true, &mut Rng::new(1)),
                    }
                    self.group.completed(id, if good { Ok(()) } else { EIO }, now, &mut more);
                }
                Action::Sync { .. } if self.hangs => {}
                Action::Sync { id, inode, .. } => {
                    let promise = self.host.disk.borrow().sync_begins(inode);
                    let good = !inode || self.bad_syncs == 0;
                    self.bad_syncs -= u32::from(!good);
                    self.host.disk.borrow_mut().sync_ends(promise, good, &mut Rng::new(1));
                    self.group.completed(id, if good { Ok(()) } else { EIO }, now, &mut more);
                }
                Action::Persist { id, disk, file, offset, bytes } => {
                    let good = self.bad_persists == 0;
                    self.bad_persists -= u32::from(!good);
                    if good {
                        self.files[&(disk, file)].persist(offset, &bytes);
                    }
                    self.group.completed(id, if good { Ok(()) } else { EIO }, now, &mut more);
                }
                Action::Job(_) if self.busy => {}
                Action::Job(job) => {
                    let outcome = self.jobs.run(*job);
                    let opened = outcome.opened.into_iter();
                    self.files.extend(opened.map(|(disk, file, handle)| ((disk, file), handle)));
                    self.group.job_done(outcome.done, now, &mut more);
                }
                Action::Reply { token, result } => drop(self.replies.insert(token.0, result)),
                Action::Reopen { .. } => drop(self.host.disk.borrow_mut().drop_cache()),
                Action::Answer { answer, .. } => self.answers.push(*answer),
                Action::Preserve { .. } => unreachable!("nobody writes in a freeze"),
            }
            queue.extend(more);
        }
    }

    /// A shipper asks.
    pub(crate) fn ask(&mut self, question: Question) {
        self.drive(|group, now, actions| group.ask(question, Ticket(1), 1, now, actions));
    }

    pub(crate) fn attach(&mut self, target: TargetId) -> Attached {
        self.ask(Question::Attach { target });
        match self.answers.pop() {
            Some(Answer::Attached(attached)) => attached,
            answer => panic!("it does not attach: {answer:?}"),
        }
    }

    /// A cut that is handed out.
    pub(crate) fn cut(&mut self, attach: AttachNumber) -> Frozen {
        self.ask(Question::Cut { attach, full: false });
        self.pass(2);
        match self.answers.pop() {
            Some(Answer::Frozen(frozen)) => frozen,
            answer => panic!("it is not cut: {answer:?}"),
        }
    }

    pub(crate) fn write(&mut self, token: u64) {
        self.change(Change::Write, token);
    }

    fn change(&mut self, change: Change, token: u64) {
        let request = Request {
            disk: DISK,
            change,
            fua: false,
            offset: token << 15,
            length: 4096,
            token: Token(token),
        };
        self.drive(|group, now, actions| {
            group.request(request, now, actions);
        });
    }

    fn flush(&mut self, token: u64) -> Result<(), Errno> {
        self.drive(|group, now, actions| group.flush(DISK, Token(token), now, actions));
        self.replies[&token]
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now.after(Duration::from_secs(1));
            self.host.disk.borrow_mut().wall += 1_000_000_000;
            self.drive(|group, now, actions| group.tick(now, actions));
        }
    }

    fn stop(mut self) -> Option<String> {
        self.drive(|group, now, actions| group.stop(now, actions));
        // Folds go on by slices.
        self.pass(3);
        assert!(self.group.stopped());
        self.group.stop_failure().map(str::to_owned)
    }
}

#[test]
fn an_error_that_the_stamp_meets_is_told_by_the_guests_next_flush() {
    let host = Host::new(true);
    let mut session = host.start();
    session.write(1);
    let before = host.meta().stamped_ns;
    session.bad_syncs = 1;
    session.pass(61);
    assert_eq!((session.bad_syncs, host.meta().doubtful), (0, true), "the stamp has met it");
    assert_eq!(host.meta().stamped_ns, before, "and vouches for nothing");
    assert_eq!(session.flush(2), EIO);
    assert_eq!(session.flush(3), Ok(()));
    session.pass(61);
    assert!(host.meta().stamped_ns > before);
}

#[test]
fn an_error_that_the_mark_meets_is_told_and_the_writes_wait_for_a_mark_that_is_durable() {
    let host = Host::new(true);
    let mut session = host.start();
    (session.bad_syncs, session.bad_persists) = (1, 1);
    session.write(1);
    assert_eq!((session.bad_syncs, session.replies.get(&1)), (0, None), "the mark may not be durable (S4)");
    assert_eq!(session.flush(2), EIO);
    session.pass(2);
    assert_eq!(session.replies.get(&1), Some(&EIO), "a sync has failed since it came");
    session.write(3);
    assert_eq!(session.replies.get(&3), Some(&Ok(())), "it goes on");
    assert_eq!(host.facts().mark().unwrap(), Some(Mark { disk: host.meta().disk, untracked: true }));
}

#[test]
fn a_stop_whose_last_sync_fails_is_no_clean_one_and_the_next_session_tells() {
    for direct in [true, false] {
        let host = Host::new(direct);
        let mut session = host.start();
        session.write(1);
        session.bad_syncs = 1;
        let why = session.stop().expect("it is not a clean stop");
        assert!(why.contains("disk d"), "{why}");
        assert!(host.meta().clean.is_none() && host.meta().doubtful);
        let mut next = host.start();
        assert!(host.meta().recheck.is_some_and(|recheck| recheck.whole), "fresh, or lost pages");
        assert_eq!(next.flush(2), EIO);
        assert_eq!(next.flush(3), Ok(()));
        assert_eq!(next.stop(), None);
        assert!(host.meta().clean.is_some());
    }
}

/// W6, schedule: 1. a sync fails, and the guest is told; 2. the tracker is started with other maps, another sync fails, and it
/// dies before a flush; 3. it is started with the first maps. What these say of who was told is not of that error.
#[test]
fn maps_of_another_start_do_not_say_that_the_guest_was_told() {
    let host = Host::new(true);
    let mut session = host.start();
    session.bad_syncs = 1;
    session.pass(61);
    assert_eq!((session.flush(1), session.flush(2)), (EIO, Ok(())));
    drop(session);
    let first = host.maps.copy();
    host.maps.wipe();
    let mut theirs = host.start();
    theirs.flush(3).unwrap_err();
    theirs.flush(4).unwrap();
    theirs.bad_syncs = 1;
    theirs.pass(61);
    assert_eq!(theirs.bad_syncs, 0);
    drop(theirs);
    host.maps.replace(&first);
    assert_eq!(host.start().flush(5), EIO);
}

/// W6, schedule: 1. a cut drains; the process dies; 2. a start meets the error of a sync, and dies before it comes to the freeze;
/// 3. the next one's syncs are good. What was cut may be lost all the same: it is undone.
#[test]
fn a_freeze_whose_start_met_an_error_is_undone_by_the_next_start() {
    let host = Host::new(true);
    drop(host.start());
    store_meta(&host.folder, &Meta { recheck: None, ..host.meta() }).unwrap();
    let mut session = host.start();
    session.write(1);
    session.pass(2);
    let attached = session.attach(TargetId([1; 16]));
    session.hangs = true;
    session.ask(Question::Cut { attach: attached.attach, full: false });
    session.pass(1);
    drop(session);
    let header = GroupHeader::new(host.maps.get(HEADER).expect("it is there"));
    assert_eq!(header.state().road, Road::Draining);
    header.set_latched(0, true);
    header.set_doubtful(0);
    let mut next = host.start();
    next.pass(3);
    assert_eq!(header.state().road, Road::None);
    assert_eq!(next.flush(2), EIO);
}

/// W6, schedule: 1. a disk does not answer a sync; 2. the process is killed; the kernel tells nobody how the sync ends. Of a
/// sync that had just begun nothing is believed: most end well.
#[test]
fn a_sync_that_ran_for_seconds_when_the_process_died_counts_as_failed() {
    for seconds in [2, 10] {
        let host = Host::new(true);
        let mut session = host.start();
        session.write(1);
        session.hangs = true;
        session.drive(|group, now, actions| group.flush(DISK, Token(2), now, actions));
        session.pass(seconds);
        drop(session);
        let mut next = host.start();
        assert_eq!(next.flush(3).is_err(), seconds > 5);
        assert_eq!((next.flush(4), host.meta().doubtful), (Ok(()), seconds > 5));
    }
}

/// W6, schedule: 1. a sync fails, and no flush of a guest follows; 2. a clean stop; 3. the sidecar is deleted. The guest's next
/// flush is told all the same.
#[test]
fn an_error_that_nobody_was_told_outlives_the_stop_and_the_sidecar() {
    let host = Host::new(true);
    let mut session = host.start();
    session.write(1);
    session.bad_syncs = 1;
    session.pass(61);
    assert_eq!((session.bad_syncs, session.stop()), (0, None));
    assert_eq!(host.maps.names(), [HEADER], "a clean stop leaves no maps");
    host.folder.wipe();
    let mut next = host.start();
    assert!(host.meta().doubtful);
    assert_eq!(next.flush(2), EIO);
    assert_eq!(next.flush(3), Ok(()));
    assert_eq!(host.start().stop(), None);
}

/// W6, schedule: 1. a sync fails, and the process dies before a meta tells; 2. the disk joins a group, whose start makes a header
/// of its own, and dies anywhere; 3. another start serves. The guest's next flush is told.
#[test]
fn an_error_that_only_a_header_knows_outlives_a_start_that_replaces_it() {
    for step in 1.. {
        let (host, other) = (Host::new(true), Host::new(true));
        drop(host.start());
        let header = GroupHeader::new(host.maps.get(HEADER).expect("it is there"));
        header.set_latched(0, true);
        header.set_doubtful(0);
        let others = [&other];
        host.sidecar_faults.arm(Some((host.sidecar_faults.steps() + step, Leaves::Some(1))));
        let came_up = catch_unwind(AssertUnwindSafe(|| drop(host.start_with(&others)))).is_ok();
        host.sidecar_faults.arm(None);
        assert_eq!(host.start_with(&others).flush(2), EIO, "the start died at step {step}");
        if came_up {
            assert!(step > 20, "{step} steps");
            break;
        }
    }
}

#[test]
fn a_start_whose_sync_fails_serves_and_tells() {
    for direct in [true, false] {
        let host = Host::new(direct);
        drop(host.start());
        // The comparison that a new disk asks for is over.
        store_meta(&host.folder, &Meta { recheck: None, ..host.meta() }).unwrap();
        host.faults.set_errors(1000);
        let mut next = host.start();
        host.faults.set_errors(0);
        assert!(host.meta().doubtful);
        let whole = host.meta().recheck.is_some_and(|recheck| recheck.whole);
        assert_eq!(whole, !direct, "a buffered disk's pages are clean and lost");
        assert_eq!(next.flush(2), EIO);
        assert_eq!(next.flush(3), Ok(()));
    }
}

/// W5, W6, schedule: 1. a write fails; 2. it is written again, well; 3. a sync fails, and the drive has lost that; 4. the next
/// one is good. The failed write may land yet.
#[test]
fn a_failed_write_is_not_ended_by_a_good_sync_behind_a_failed_one() {
    for fails in [false, true] {
        let host = Host::new(true);
        let mut session = host.start();
        session.bad_writes = 1;
        session.write(1);
        session.write(1);
        if fails {
            session.bad_syncs = 1;
            session.pass(61);
            assert_eq!((session.bad_syncs, session.flush(2)), (0, EIO));
        }
        assert_eq!(session.flush(3), Ok(()));
        host.judge_failed(!fails);
    }
}

/// W5, I4, schedule: 1. writes to as many regions as the intents have room for have failed; 2. the tracker is started again. The
/// failed regions don't leave the intents, and yet others come in: no guest's write waits for ever.
#[test]
fn failed_writes_leave_room_for_others_in_the_next_session() {
    let host = Host::new(true);
    host.disk.borrow_mut().resize(3 * 8192);
    drop(host.start());
    let header = GroupHeader::new(host.maps.get(HEADER).expect("it is there"));
    let regions_of_the_budget = (4 << 20) >> 15;
    header.set_failed(0, &[0..regions_of_the_budget * 8]);
    let mut next = host.start();
    next.write(regions_of_the_budget + 1);
    assert_eq!(next.replies.get(&(regions_of_the_budget + 1)), Some(&Ok(())));
    assert_eq!(header.failed(0).map(|failed| failed.len()), Some(1), "they are still known");
}

/// W5, schedule: 1. a write fails; 2. its blocks are discarded and synced, well, which may write nothing; 3. or zeroed, which does.
#[test]
fn a_failed_write_is_ended_by_zeros_and_by_no_discard() {
    for (change, ends) in [(Change::Discard, false), (Change::Zero { may_punch: true }, true)] {
        let host = Host::new(true);
        let mut session = host.start();
        session.bad_writes = 1;
        session.write(1);
        session.change(change, 1);
        assert_eq!((session.replies[&1], session.flush(2)), (Ok(()), Ok(())));
        host.judge_failed(ends);
    }
}

/// W6, schedule: 1. a process dies, and its maps are gone too; 2. the next start meets the error of a sync, which is told once,
/// and dies anywhere behind it; 3. another start serves, and the disk may have grown, or left the group it was in. The guest's
/// next flush is told.
#[test]
fn an_error_that_a_start_meets_outlives_that_start() {
    for (grows, leaves) in [(false, false), (true, false), (false, true)] {
        let died: u32 =
            (1..).map_while(|step| told_behind_a_start_that_died(step, grows, leaves)).map(u32::from).sum();
        assert!(died > 5, "{died} starts died behind the sync");
    }
}

/// Whether a start that died at this step of the sidecar had met an error; None if it came up.
fn told_behind_a_start_that_died(step: u64, grows: bool, leaves: bool) -> Option<bool> {
    let (host, other) = (Host::new(true), Host::new(true));
    drop(host.start());
    host.maps.wipe();
    host.faults.set_errors(1000);
    host.sidecar_faults.arm(Some((host.sidecar_faults.steps() + step, Leaves::Some(1))));
    let others: Vec<_> = leaves.then_some(&other).into_iter().collect();
    let start = || drop(host.start_with(&others));
    let came_up = catch_unwind(AssertUnwindSafe(start)).is_ok();
    host.sidecar_faults.arm(None);
    host.faults.set_errors(0);
    if came_up {
        return None;
    }
    let met = host.faults.injected() > 0;
    if grows {
        host.disk.borrow_mut().resize(8200);
    }
    let mut next = host.start();
    assert_eq!(next.flush(2).is_err(), met, "it died at step {step}; grows: {grows}, leaves: {leaves}");
    assert_eq!(next.flush(3), Ok(()));
    Some(met)
}

/// I4, W5, schedule: 1. a write fails, and may land yet; 2. the guest writes to more regions than the intents hold; 3. a cut and its
/// release: what the log had of the failed write's region is gone; 4. the write lands; 5. the host dies. Its block is read again.
#[test]
fn a_failed_write_that_lands_behind_a_release_is_found_after_the_hosts_death() {
    let host = Host { budget: 8 << 15, ..Host::new(true) };
    drop(host.start());
    // What a first start has compared is no matter here.
    store_meta(&host.folder, &Meta { recheck: None, ..host.meta() }).unwrap();
    host.maps.wipe();
    let mut session = host.start();
    session.bad_writes = 1;
    session.write(1);
    assert_eq!(session.replies[&1], EIO);
    (2..40).for_each(|token| session.write(token));
    assert!((2..40).all(|token| session.replies[&token].is_ok()), "they found room");
    let target = TargetId([1; 16]);
    let attach = session.attach(target).attach;
    let frozen = session.cut(attach);
    let anchor = Anchor { vault: VaultId([2; 16]), seq: 1, hash: [3; 32] };
    session.ask(Question::Release { attach, target, cut: frozen.cut, anchor });
    session.pass(2);
    assert!(matches!(session.answers.pop(), Some(Answer::Done)));
    let before = host.disk.borrow().image();
    while host.disk.borrow().has_ghosts() {
        let ghosts = host.disk.borrow().ghosts();
        for name in ghosts {
            host.disk.borrow_mut().land_some(name, &mut Rng::new(1));
        }
    }
    assert_ne!(host.disk.borrow().image(), before, "it landed");
    drop(session);
    let mut fate = Fate::new(Leaves::Everything);
    host.disk.borrow_mut().host_crash(&mut fate);
    host.folder.host_crash(&mut fate);
    host.maps.wipe();
    drop(host.start());
    let header = GroupHeader::new(host.maps.get(HEADER).expect("it is there"));
    let open = host.maps.get(&map_name(header.state().open, 0)).expect("it is there");
    let found = bits::get(&open, (1 << 15) >> 12);
    judge("image", if found { Ok(()) } else { Err("no point gets what landed".into()) });
}
