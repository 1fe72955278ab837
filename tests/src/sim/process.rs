//! The shipper as a process: the product's loop, and its doors to the simulated world.

use super::coroutine::{self, Process, call, dice};
use super::name::name;
use super::store::{self, Done};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use towline::edge::Edge;
use towline::limit::Rules;
use towline::pipeline::{Begun, Counters, Crew, Plan, Retry, Turn, Turns};
use towline::retention::collect::collect;
use towline::retention::compact::{Bounds, compact};
use towline::retention::policy::Policy;
use towline::retention::prune::prune;
use towline::ship::{Answered, Control, Ended, Options, Report, Stop, Summary, Surroundings, run_in};
use towline::source::{Opened, OpenedDisk, OpenedFreeze};
use towline::store::{Listed, Put, Store, StoreError};
use towline::vault::Vault;
use towline_tracker::control::client::ClientError;
use towline_tracker::control::message::{Answer, Attached, Status};
use towline_tracker::group::Question;
use towline_tracker::id::{Anchor, AttachNumber, CutId, TargetId};
use towline_tracker::map::Words;

/// What a shipper asks of the world.
#[derive(Debug)]
pub enum Ask {
    /// To be connected to the tracker.
    Connect,
    /// Of the tracker, over its connection.
    Tracker(Question),
    /// Whether the tracker has said something.
    Idle,
    /// Sectors of a disk.
    Disk {
        /// Through the page cache, although the tracker writes past it (W7).
        stale: bool,
        /// Which disk.
        disk: usize,
        /// Which sectors.
        sectors: Range<usize>,
    },
    /// Of a disk, where it has holes.
    Holes {
        /// Which disk.
        disk: usize,
        /// Which bytes.
        range: Range<u64>,
    },
    /// Preserved sectors.
    Preserved {
        /// The open file's number.
        file: usize,
        /// Which sectors.
        sectors: Range<usize>,
    },
    /// Of the store.
    Store(store::Request),
    /// Time.
    Sleep(Duration),
}

/// What it is told.
#[derive(Debug)]
pub enum Reply {
    /// To [`Ask::Connect`] and [`Ask::Idle`].
    Heard(Answered<()>),
    /// To [`Ask::Tracker`], with what is opened.
    Answer(Answered<Box<(Answer, Vec<OpenedDisk>)>>),
    /// Values of sectors, fewer than asked for as the world likes.
    Sectors(io::Result<Vec<u64>>),
    /// Data (`true`) and holes.
    Holes(Vec<(bool, Range<u64>)>),
    /// The store's answer.
    Store(Result<Done, StoreError>),
    /// Time has passed.
    Slept,
}

/// What a shipper is told to do.
#[derive(Clone, Debug)]
pub struct Orders {
    /// The time from one cut to the next; none: one point.
    pub every: Option<Duration>,
    /// Everything is compared at first.
    pub full: bool,
    /// And nothing in the vault is believed.
    pub distrust: bool,
    /// The word.
    pub take_over: bool,
    /// Bytes after which a checkpoint is put.
    pub checkpoint_every: u64,
    /// So many indexes are folded into one.
    pub fold_every: usize,
    /// How fast it may upload.
    pub limit: Rules,
    /// Sizes.
    pub plan: Plan,
}

/// A shipper that runs.
pub type Running = Process<Ask, Reply, towline::Result<Ended>>;

/// Begins one; it ends by itself when `stop` is asked.
pub fn ship(orders: Orders, stop: Stop) -> Running {
    Process::new(move || {
        let options = Options {
            tracker: PathBuf::from("tracker"),
            every: orders.every,
            full: orders.full,
            distrust: orders.distrust,
            resync_at: 0,
            take_over: orders.take_over,
            memory: 64 << 20,
            pack_size: orders.plan.pack_size,
            checkpoint_every: orders.checkpoint_every,
            fold_every: orders.fold_every,
            retry: Retry { first: Duration::from_millis(2), tries: 3 },
            limit: orders.limit,
            minute: Duration::from_millis(60),
            audit: 64 << 10,
            tally: Arc::default(),
        };
        let surroundings =
            Surroundings { edge: EDGE, connect, crew: Crew::InLine(&Dice), plan: Some(orders.plan) };
        let vault = super::target::open(Arc::new(Door { deletes: false }))?;
        run_in(&surroundings, vault, &options, &stop, &mut Nobody)
    })
}

/// Whoever lets points go and collects.
pub type Collecting = Process<Ask, Reply, towline::Result<()>>;

/// Begins one; it keeps the last points, or lets none go, and copies so much.
pub fn collecting(last: Option<u32>, budget: u64) -> Collecting {
    Process::new(move || {
        let vault = super::target::open(Arc::new(Door { deletes: true }))?;
        let vault = Vault { draw: name, ..vault };
        let (group, now) = (vault.group(super::target::GROUP), coroutine::wall_ns());
        if let Some(last) = last {
            let policy = Policy { last, ..Policy::default() };
            prune(&vault, &group, &policy, &jiff::tz::TimeZone::UTC, now)?;
        }
        compact(&group, Bounds { budget, pack_size: 1 << 16 }, now, &mut ())?;
        collect(&group, now, &mut ()).map(drop)
    })
}

const EDGE: Edge = Edge {
    now: coroutine::now,
    wall_ns: coroutine::wall_ns,
    sleep: |time| drop(call::<Ask, Reply>(Ask::Sleep(time))),
    draw: name,
    host: || "sim".into(),
};

struct Nobody;

impl Report for Nobody {
    fn progress(&mut self, _: &Counters) {}

    fn published(&mut self, summary: &Summary) {
        AUDITED.set(AUDITED.get() + summary.bytes_audited);
    }
}

// ---- the pipeline ----

/// A put that the process began: what becomes of it does not depend on the process's life.
#[derive(Clone, Debug)]
pub struct Flying {
    /// The object.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Only if there is none.
    pub entry: bool,
}

/// The bytes that were audited since it was last asked.
pub fn audited() -> u64 {
    AUDITED.take()
}

thread_local! {
    static AUDITED: Cell<u64> = const { Cell::new(0) };
    static BEGUN: RefCell<Vec<Flying>> = const { RefCell::new(Vec::new()) };
}

/// The puts that were begun since it was last asked.
pub fn begun() -> Vec<Flying> {
    BEGUN.take()
}

/// Chooses by the seed.
struct Dice;

impl Turns for Dice {
    fn next(&self, jobs: usize, puts: usize) -> Turn {
        let all = jobs + puts;
        if all == 0 {
            (EDGE.sleep)(Duration::from_millis(100));
            return Turn::Idle;
        }
        match dice(|rng| rng.index(all)) {
            job if job < jobs => Turn::Work(job),
            put => Turn::Put(put - jobs),
        }
    }

    fn begun(&self, put: &Begun<'_>) {
        let (name, bytes, entry) = (put.name.to_owned(), put.bytes.to_vec(), put.entry);
        BEGUN.with_borrow_mut(|begun| begun.push(Flying { name, bytes, entry }));
    }
}

// ---- the tracker ----

/// A connection.
struct Connection;

fn connect(_: &std::path::Path, stop: &Stop) -> Answered<Box<dyn Control>> {
    if stop.is_asked() {
        return Err(ClientError::Stopped);
    }
    match call(Ask::Connect) {
        Reply::Heard(heard) => heard.map(|()| Box::new(Connection) as Box<dyn Control>),
        other => panic!("{other:?} is no answer to this"),
    }
}

fn ask(question: Question) -> Answered<(Answer, Vec<OpenedDisk>)> {
    match call(Ask::Tracker(question)) {
        Reply::Answer(answer) => answer.map(|told| *told),
        other => panic!("{other:?} is no answer to this"),
    }
}

fn freeze(question: Question) -> Answered<OpenedFreeze> {
    match ask(question)? {
        (Answer::Frozen(frozen), disks) => Ok(OpenedFreeze { frozen, disks }),
        _ => Err(ClientError::Unexpected),
    }
}

fn done(question: Question) -> Answered<()> {
    match ask(question)? {
        (Answer::Done, _) => Ok(()),
        _ => Err(ClientError::Unexpected),
    }
}

impl Control for Connection {
    fn attach(&mut self, target: TargetId) -> Answered<Attached> {
        match ask(Question::Attach { target })? {
            (Answer::Attached(attached), _) => Ok(attached),
            _ => Err(ClientError::Unexpected),
        }
    }

    fn cut(&mut self, attach: AttachNumber, full: bool) -> Answered<OpenedFreeze> {
        freeze(Question::Cut { attach, full })
    }

    fn reopen(&mut self, attach: AttachNumber, cut: CutId) -> Answered<OpenedFreeze> {
        freeze(Question::Reopen { attach, cut })
    }

    fn confirm(&mut self, attach: AttachNumber, cut: CutId) -> Answered<bool> {
        match ask(Question::Confirm { attach, cut })? {
            (Answer::Confirmed { exact }, _) => Ok(exact),
            _ => Err(ClientError::Unexpected),
        }
    }

    fn shipped(&mut self, attach: AttachNumber, cut: CutId, entry: [u8; 32]) -> Answered<()> {
        done(Question::Shipped { attach, cut, entry })
    }

    fn release(
        &mut self,
        target: TargetId,
        attach: AttachNumber,
        cut: CutId,
        anchor: Anchor,
    ) -> Answered<()> {
        done(Question::Release { attach, target, cut, anchor })
    }

    fn undo(&mut self, attach: AttachNumber, cut: CutId) -> Answered<()> {
        done(Question::Undo { attach, cut })
    }

    fn resynchronize(&mut self, attach: AttachNumber, reason: &str) -> Answered<()> {
        done(Question::Resynchronize { attach, reason: reason.to_owned() })
    }

    fn status(&mut self) -> Answered<Status> {
        match ask(Question::Status)? {
            (Answer::Status(status), _) => Ok(status),
            _ => Err(ClientError::Unexpected),
        }
    }

    fn idle(&mut self) -> Answered<()> {
        match call(Ask::Idle) {
            Reply::Heard(heard) => heard,
            other => panic!("{other:?} is no answer to this"),
        }
    }
}

// ---- what a freeze is read from ----

/// A disk, opened.
#[derive(Debug)]
pub struct DiskHandle {
    /// Which.
    pub disk: usize,
    /// Read through the page cache, although the tracker writes past it (W7).
    pub stale: bool,
}

/// A freeze's store, opened, by the number of the open file.
#[derive(Debug)]
pub struct StoreHandle(pub usize);

/// A log: it does not change any more.
pub struct LogHandle(pub Vec<u8>);

/// A map.
#[derive(Debug)]
pub struct MapHandle(pub Words);

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogHandle({} bytes)", self.0.len())
    }
}

/// Reads whole sectors, as direct reads do.
fn sectors(buffer: &mut [u8], offset: u64, ask: impl FnOnce(Range<usize>) -> Ask) -> io::Result<usize> {
    const SECTOR: usize = super::disk::SECTOR as usize;
    assert!(offset.is_multiple_of(SECTOR as u64) && buffer.len().is_multiple_of(SECTOR), "a direct read");
    let first = offset as usize / SECTOR;
    let values = match call(ask(first..first + buffer.len() / SECTOR)) {
        Reply::Sectors(values) => values?,
        other => panic!("{other:?} is no answer to this"),
    };
    for (value, sector) in values.iter().zip(buffer.chunks_exact_mut(SECTOR)) {
        super::sector::fill(*value, sector);
    }
    Ok(values.len() * SECTOR)
}

fn not_this<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

type Each<'a> = &'a mut dyn FnMut(bool, Range<u64>) -> ControlFlow<()>;

impl Opened for DiskHandle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        sectors(buffer, offset, |sectors| Ask::Disk { disk: self.disk, sectors, stale: self.stale })
    }

    fn split(&self, range: Range<u64>, each: Each<'_>) -> io::Result<ControlFlow<()>> {
        let parts = match call(Ask::Holes { disk: self.disk, range }) {
            Reply::Holes(parts) => parts,
            other => panic!("{other:?} is no answer to this"),
        };
        Ok(parts.into_iter().try_for_each(|(data, part)| each(data, part)))
    }

    fn words(&self, _: usize) -> io::Result<Words> {
        not_this()
    }
}

impl Opened for StoreHandle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        sectors(buffer, offset, |sectors| Ask::Preserved { file: self.0, sectors })
    }

    fn split(&self, range: Range<u64>, each: Each<'_>) -> io::Result<ControlFlow<()>> {
        Ok(each(true, range))
    }

    fn words(&self, _: usize) -> io::Result<Words> {
        not_this()
    }
}

impl Opened for LogHandle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.0.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn split(&self, range: Range<u64>, each: Each<'_>) -> io::Result<ControlFlow<()>> {
        Ok(each(true, range))
    }

    fn words(&self, _: usize) -> io::Result<Words> {
        not_this()
    }
}

impl Opened for MapHandle {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        not_this()
    }

    fn split(&self, _: Range<u64>, _: Each<'_>) -> io::Result<ControlFlow<()>> {
        not_this()
    }

    fn words(&self, count: usize) -> io::Result<Words> {
        match self.0.len() >= count {
            true => Ok(self.0.clone()),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

// ---- the store ----

/// The store, from inside a process.
struct Door {
    /// It is a collector's.
    deletes: bool,
}

impl Door {
    fn ask(request: store::Request) -> Result<Done, StoreError> {
        match call(Ask::Store(request)) {
            Reply::Store(answer) => answer,
            other => panic!("{other:?} is no answer to this"),
        }
    }
}

impl Store for Door {
    fn url(&self) -> String {
        "sim:".into()
    }

    fn put(&self, name: &str, data: &[u8]) -> Result<(), StoreError> {
        Self::ask(store::Request::put(name, data)).map(drop)
    }

    fn put_if_absent(&self, name: &str, data: &[u8]) -> Result<Put, StoreError> {
        Self::ask(store::Request::create(name, data)).map(Done::put)
    }

    fn get(&self, name: &str, limit: usize) -> Result<Vec<u8>, StoreError> {
        Self::ask(store::Request::Get { name: name.into(), limit }).map(Done::bytes)
    }

    fn get_range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        Self::ask(store::Request::Range { name: name.into(), offset, length }).map(Done::bytes)
    }

    fn len(&self, name: &str) -> Result<u64, StoreError> {
        Self::ask(store::Request::Length { name: name.into() }).map(Done::length)
    }

    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let (prefix, after) = (prefix.into(), after.into());
        Self::ask(store::Request::List { prefix, after, limit }).map(Done::listed)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        assert!(self.deletes, "a shipper deletes nothing, and not {name}");
        Self::ask(store::Request::Delete { name: name.into() }).map(drop)
    }
}
