//! A host for schedules: the product's machine, jobs and start over a simulated disk. The test is the engine, and decides how
//! each write and each sync ends.

use super::disk::{Disk, Facts};
use super::fault::Faults;
use super::folder::{SimFile, SimFolder};
use super::maps::SimMaps;
use super::name::{cut_name, disk_name};
use super::rng::Rng;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;
use towline_tracker::control::message::{Answer, Attached, Frozen};
use towline_tracker::disk::geometry::Geometry;
use towline_tracker::error::Error;
use towline_tracker::format::meta::Meta;
use towline_tracker::group::{
    Action, Change, Errno, Group, GroupConfig, Question, Request, SidecarFile, Ticket, Token,
};
use towline_tracker::id::{AttachNumber, BootId, DiskIndex, Nanos, Session, StartId, TargetId};
use towline_tracker::limits::Bounds;
use towline_tracker::map::header::GroupHeader;
use towline_tracker::sidecar::jobs::Jobs;
use towline_tracker::sidecar::start::{Candidate, HEADER, Now, Running, start};

const DISK: DiskIndex = DiskIndex(0);

/// What fails, fails with this.
pub const EIO: Result<(), Errno> = Err(Errno(5));

/// What outlives a session.
pub struct Host {
    /// The disk.
    pub disk: Rc<RefCell<Disk>>,
    /// Its sidecar.
    pub folder: SimFolder,
    /// The maps of the group.
    pub maps: SimMaps,
    /// Of the disk's own calls.
    pub faults: Faults,
    /// Of the sidecar's.
    pub sidecar_faults: Faults,
    /// Of the intents, in bytes.
    pub budget: u64,
    direct: bool,
    starts: Cell<u64>,
}

/// A session, its engine the test itself.
pub struct Sitting<'a> {
    host: &'a Host,
    group: Group,
    jobs: Jobs<SimFolder, Facts, SimMaps>,
    files: BTreeMap<(DiskIndex, SidecarFile), SimFile>,
    now: Nanos,
    /// How many writes to the disk fail from now on.
    pub bad_writes: u32,
    /// How many syncs with the inode do.
    pub bad_syncs: u32,
    /// How many writes to the sidecar do.
    pub bad_persists: u32,
    /// The worker takes its time: what it is asked for now is not done yet.
    pub busy: bool,
    /// The disk does not answer syncs.
    pub hangs: bool,
    /// What guests were told, by token.
    pub replies: BTreeMap<u64, Result<(), Errno>>,
    /// What shippers were told.
    pub answers: Vec<Answer>,
}

impl Host {
    /// With a disk of 4 MiB, new, that is opened like this.
    pub fn new(direct: bool) -> Self {
        let rng = || Rng::new(7);
        let sidecar_faults = Faults::new(rng());
        Self {
            disk: Rc::new(RefCell::new(Disk::new(8192, 1_000_000_000_000, &mut rng()))),
            folder: SimFolder::new(sidecar_faults.clone()),
            maps: SimMaps::new(sidecar_faults.clone()),
            sidecar_faults,
            faults: Faults::new(rng()),
            budget: 4 << 20,
            direct,
            starts: Cell::new(1),
        }
    }

    /// The disk, as the jobs see it.
    pub fn facts(&self) -> Facts {
        let rng = Rc::new(RefCell::new(Rng::new(9)));
        Facts { disk: self.disk.clone(), faults: self.faults.clone(), rng }
    }

    /// What the sidecar's meta says.
    pub fn meta(&self) -> Meta {
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

    /// Starts it alone.
    pub fn start(&self) -> Sitting<'_> {
        self.start_with(&[])
    }

    /// Starts it in one group with other hosts' disks, which nobody uses.
    pub fn start_with(&self, others: &[&Host]) -> Sitting<'_> {
        self.try_start(others).expect("it starts")
    }

    /// Whether nothing is left of what failed writes may still do.
    pub fn is_done_with_failed(&self) -> bool {
        let header = GroupHeader::new(self.maps.get(HEADER).expect("it is there"));
        header.failed(0).expect("few enough").is_empty()
    }

    /// The line with which such a start is refused.
    pub fn refused(&self, others: &[&Host]) -> String {
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
    pub fn ask(&mut self, question: Question) {
        self.drive(|group, now, actions| group.ask(question, Ticket(1), 1, now, actions));
    }

    /// A shipper to this target attaches.
    pub fn attach(&mut self, target: TargetId) -> Attached {
        self.ask(Question::Attach { target });
        match self.answers.pop() {
            Some(Answer::Attached(attached)) => attached,
            answer => panic!("it does not attach: {answer:?}"),
        }
    }

    /// A cut that is handed out.
    pub fn cut(&mut self, attach: AttachNumber) -> Frozen {
        self.ask(Question::Cut { attach, full: false });
        self.pass(2);
        match self.answers.pop() {
            Some(Answer::Frozen(frozen)) => frozen,
            answer => panic!("it is not cut: {answer:?}"),
        }
    }

    /// A guest writes the first block of the region of this number.
    pub fn write(&mut self, token: u64) {
        self.change(Change::Write, token);
    }

    /// A guest does this to that block.
    pub fn change(&mut self, change: Change, token: u64) {
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

    /// A guest flushes, and is not told yet if the disk hangs.
    pub fn begin_flush(&mut self, token: u64) {
        self.drive(|group, now, actions| group.flush(DISK, Token(token), now, actions));
    }

    /// A guest flushes, and this is what he is told.
    pub fn flush(&mut self, token: u64) -> Result<(), Errno> {
        self.begin_flush(token);
        self.replies[&token]
    }

    /// So much time passes, second by second.
    pub fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now.after(Duration::from_secs(1));
            self.host.disk.borrow_mut().wall += 1_000_000_000;
            self.drive(|group, now, actions| group.tick(now, actions));
        }
    }

    /// Stops. Why, if that was no clean stop.
    pub fn stop(mut self) -> Option<String> {
        self.drive(|group, now, actions| group.stop(now, actions));
        // Folds go on by slices.
        self.pass(3);
        assert!(self.group.stopped());
        self.group.stop_failure().map(str::to_owned)
    }
}
