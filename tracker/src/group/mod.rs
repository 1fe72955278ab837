//! The disks that are cut together, as one machine: events in, actions out. It owns no descriptor, reads no clock,
//! draws no random number.
//!
//! ```text
//!  request ──► W1 intend ──► W2 wait ──► W3 preserve ──► W4 mark, tag, submit ──► W5 complete ──► reply
//!                 ▲ (group commit)  ▲ (drain)   ▲ (copy)                              │
//!                 └─────────────────┴───────────┴──── any wait that ends starts at W1 ┘
//!
//!  cut ──► draining ──► synced ──► sealed (exact or fuzzy) ──► releasing ──► none
//!              └───────────┴──────────┴──► undoing (folds frozen into open) ──► none
//! ```

pub mod action;
mod cut;
mod done;
mod intent;
pub mod job;
mod preserve;
#[cfg(test)]
mod schedules;
mod slots;
mod status;
mod stop;
mod sync;
#[cfg(test)]
mod tests;
mod undo;
mod write;

use crate::control::message::{Answer, Refusal};
use crate::disk::{Disk, Fold};
use crate::id::{Anchor, AttachNumber, Cut, CutId, DiskIndex, Generation, Nanos, Session, TargetId};
use crate::limits::Bounds;
use crate::map::header::{GroupHeader, Road, State};
use crate::mutant;
pub use action::{Action, Change, Errno, OpId, Question, Request, RequestId, SidecarFile, Ticket, Token};
use job::{Job, Spare};
use preserve::Preserve;
use slots::Slots;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

/// The header gets a sign of life this often.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The disks are fsynced and stamped this often (S3).
const STAMP: Duration = Duration::from_secs(60);

/// The settings that the machine itself needs.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// The group's name.
    pub name: String,
    /// The session.
    pub session: Session,
    /// See [`crate::sidecar::Config::preserve_limit`].
    pub preserve_limit: Option<u64>,
    /// See [`crate::sidecar::Config::preserve_deadline`].
    pub preserve_deadline: Duration,
    /// When tracking fails, the guest's writes wait (S4).
    pub strict: bool,
    /// Nothing is tracked.
    pub off: bool,
    /// How work is divided.
    pub bounds: Bounds,
}

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Request(u32),
    Sync(u32),
    Preserve(u32),
    Persist(u32),
}

/// What a write to a sidecar file is for.
#[derive(Clone, Copy, Debug)]
enum PersistOp {
    /// A slot of the disk's intents, begun in this of their epochs.
    Intents(usize, u32),
    /// Evicted records in the log of a generation, for a cleaning of this epoch.
    Append(usize, u32, Generation),
}

/// A cut kept readable.
#[derive(Debug)]
struct Freeze {
    cut: CutId,
    generation: Generation,
    first: Generation,
    time_ns: u64,
    /// Why it is fuzzy; the state word says whether.
    fuzzy: Option<String>,
    /// Its log is durable.
    sealed: bool,
    /// Who waits for it to be sealed.
    readers: Vec<Ticket>,
    /// Who waits for its release or its undoing.
    tickets: Vec<Ticket>,
    /// Nobody asked for it: it is undone when its log is sealed, for the log's sake.
    internal: bool,
    /// The entry that releases it.
    release: Option<Anchor>,
}

impl Freeze {
    fn identity(&self) -> Cut {
        Cut { id: self.cut, time_ns: self.time_ns }
    }
}

/// A cut that was asked for.
#[derive(Debug)]
struct PendingCut {
    /// None: the machine wants it itself.
    ticket: Option<Ticket>,
    full: bool,
    filled: bool,
    asked_ns: u64,
    asked: Nanos,
}

/// Counts since the start, for status.
#[derive(Debug, Default)]
struct Counts {
    cuts: u64,
    cut_hold_ns_last: u64,
    cut_hold_ns_max: u64,
    cut_cpu_ns_last: u64,
    cut_cpu_ns_max: u64,
    waited_intent: u64,
    waited_drain: u64,
    waited_preserve: u64,
    preserved_blocks: u64,
    in_flight_at_cuts: u64,
    fuzzy_freezes: u64,
    compactions: u64,
}

/// What recovery found of a group: where the machine begins.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) config: GroupConfig,
    pub(crate) header: GroupHeader,
    pub(crate) disks: Vec<Disk>,
    pub(crate) target: Option<TargetId>,
    pub(crate) anchor: Option<Anchor>,
    pub(crate) vouched: Vec<Cut>,
    /// The oldest generation that is pending.
    pub(crate) first_pending: Generation,
    /// Disks whose open map must be filled because all of it is to be compared.
    pub(crate) fill: Vec<usize>,
    pub(crate) now: Nanos,
}

/// The machine. One thread calls it; every call takes the list that it appends its actions to. An engine calls it
/// for each event, then executes the actions.
#[derive(Debug)]
pub struct Group {
    config: GroupConfig,
    tracking: bool,
    header: GroupHeader,
    /// What the header's word says.
    state: State,
    disks: Vec<Disk>,
    slots: Slots,
    /// The largest piece of a zero or discard, in bytes.
    piece: u64,
    freeze: Option<Freeze>,
    preserves: Vec<Option<Preserve>>,
    persists: Vec<Option<(PersistOp, Nanos)>>,
    /// Requests that wait for an in-flight write of the frozen generation (W2a).
    drain_waiters: BTreeMap<u32, Vec<u32>>,
    /// Requests whose wait has ended.
    ready: VecDeque<u32>,
    /// Something changed that may let a wait end.
    unsettled: bool,
    spare: Option<Spare>,
    /// The spare's preserved maps are being given their memory.
    reserving: bool,
    pending_cut: Option<PendingCut>,
    syncing_freeze: bool,
    sealing: bool,
    metas_in_flight: u32,
    release_retry: Option<Nanos>,
    target: Option<TargetId>,
    attach: AttachNumber,
    anchor: Option<Anchor>,
    /// The cut that this session released last.
    released: Option<CutId>,
    vouched: Vec<Cut>,
    first_pending: Generation,
    /// The number of the newest job that stores metas.
    meta_number: u64,
    /// Questions answered when the job of this number is done.
    meta_tickets: Vec<(u64, Ticket)>,
    counts: Counts,
    now: Nanos,
    next_beat: Nanos,
    /// How long the host was suspended since it booted: `now` stands still then.
    suspended_ns: u64,
    next_stamp: Nanos,
    /// Steps of the stamp under way: the reading, then a sync for each disk.
    stamping: u32,
    watching: bool,
    /// Jobs that the worker has not done.
    jobs: u32,
    stopping: bool,
    /// Syncs of the clean stop that are not done, once they have begun.
    stop_syncs: Option<u32>,
    stop_posted: bool,
    stopped: bool,
    /// Why the stop is not a clean one.
    stop_failure: Option<String>,
}

impl Group {
    /// The machine of a recovered group. The first actions make the spare and go on where a freeze stood.
    pub(crate) fn new(start: Start, actions: &mut Vec<Action>) -> Self {
        let state = start.header.state();
        let least_budget =
            start.disks.iter().map(|disk| (disk.regions.budget() as u64) << disk.geometry.region_shift);
        // A piece must fit the intents several times over, or it could never be admitted.
        let piece = least_budget.min().unwrap_or(u64::MAX) / 2;
        let mut group = Self {
            tracking: !start.config.off,
            state,
            piece: piece.clamp(start.config.bounds.write_max.min(1 << 20), start.config.bounds.write_max),
            attach: start.header.attach(),
            header: start.header,
            config: start.config,
            disks: start.disks,
            slots: Slots::default(),
            freeze: None,
            preserves: Vec::new(),
            persists: Vec::new(),
            drain_waiters: BTreeMap::new(),
            ready: VecDeque::new(),
            unsettled: true,
            spare: None,
            reserving: false,
            pending_cut: None,
            syncing_freeze: false,
            sealing: false,
            metas_in_flight: 0,
            release_retry: None,
            target: start.target,
            anchor: start.anchor,
            released: None,
            vouched: start.vouched,
            first_pending: start.first_pending,
            meta_number: 0,
            meta_tickets: Vec::new(),
            counts: Counts::default(),
            now: start.now,
            next_beat: start.now,
            suspended_ns: 0,
            next_stamp: start.now.after(STAMP),
            stamping: 0,
            watching: false,
            jobs: 0,
            stopping: false,
            stop_syncs: None,
            stop_posted: false,
            stopped: false,
            stop_failure: None,
        };
        for index in start.fill {
            group.disks[index].fold = Some(Fold { source: None, next: 0 });
        }
        if group.tracking {
            group.go_on(actions);
        }
        group
    }

    /// A successor repeats what the header does not say is done (C2).
    fn go_on(&mut self, actions: &mut Vec<Action>) {
        if self.state.road == Road::None {
            self.post(Job::Prepare { open: self.state.open }, actions);
            return;
        }
        // Mutant: a freeze that is there is exact.
        self.state.fuzzy &= !mutant::active("fuzzy-forgotten-by-successor");
        let generation = before(self.state.open);
        let record = self.header.read_cut(generation);
        let sealed = matches!(self.state.road, Road::Sealed | Road::Releasing);
        self.freeze = Some(Freeze {
            cut: record.cut,
            generation,
            first: record.first,
            time_ns: record.time_ns,
            fuzzy: self.state.fuzzy.then(|| "before the tracker was started again".to_string()),
            sealed,
            readers: Vec::new(),
            tickets: Vec::new(),
            internal: record.internal,
            release: None,
        });
        match self.state.road {
            // All that the dead process had in flight is over: its lock was free (S2). Sync, seal, as if just drained.
            Road::Draining => self.try_sync(actions),
            Road::Synced => self.try_seal(actions),
            Road::Sealed => {
                if !self.vouched.contains(&record.identity()) {
                    self.vouched.push(record.identity());
                }
            }
            // Recovery has stored the anchor in all metas if any had it; otherwise the release never happened.
            Road::Releasing => {
                if self.disks.iter().all(|disk| disk.meta.released >= generation) {
                    self.freeze.as_mut().expect("set above").release = self.disks[0].meta.anchor;
                    self.store_release(actions);
                } else {
                    // Preserving had stopped: what was overwritten since is not what was cut.
                    self.state.road = Road::Sealed;
                    self.state.fuzzy = true;
                    self.header.store(self.state);
                    self.vouched.push(record.identity());
                }
            }
            // Mutant: the dead process had done it.
            Road::Undoing if mutant::active("undo-not-repeated") => {}
            Road::Undoing => self.start_undo_fold(),
            Road::None => unreachable!("looked at above"),
        }
    }

    /// A client's request that can change bytes. The reply comes as [`Action::Reply`], perhaps within this call.
    ///
    /// # Panics
    /// If the range is empty or not within the disk: the frontend's mistake.
    #[inline]
    pub fn request(&mut self, request: Request, now: Nanos, actions: &mut Vec<Action>) -> RequestId {
        self.now = now;
        let id = self.begin(request, actions);
        self.settle(actions);
        id
    }

    /// A client's flush: replied when everything completed before it is durable, with an error if a sync has failed
    /// since the last one (W6).
    pub fn flush(&mut self, disk: DiskIndex, token: Token, now: Nanos, actions: &mut Vec<Action>) {
        self.now = now;
        self.begin_flush(disk.index(), token, actions);
        self.settle(actions);
    }

    /// The connection of this request died (W8). True: it was not submitted, is forgotten, and no reply comes.
    /// False: it is in flight, and its reply will come. Who waited for what it held goes on at the next call.
    pub fn abandon(&mut self, request: RequestId, now: Nanos, _actions: &mut Vec<Action>) -> bool {
        self.now = now;
        self.unsettled = true;
        self.abandon_request(request.0)
    }

    /// An operation ended.
    #[inline]
    pub fn completed(&mut self, id: OpId, result: Result<(), Errno>, now: Nanos, actions: &mut Vec<Action>) {
        self.now = now;
        match Op::of(id) {
            Op::Request(index) => self.request_completed(index, result, actions),
            Op::Sync(disk) => self.sync_completed(disk as usize, result, actions),
            Op::Preserve(index) => self.preserve_completed(index as usize, result, actions),
            Op::Persist(index) => self.persist_completed(index as usize, result, actions),
        }
        self.settle(actions);
    }

    /// A shipper asks; [`Action::Answer`] follows, perhaps within this call. `time_ns` is the wall clock in
    /// nanoseconds since 1970.
    pub fn ask(
        &mut self,
        question: Question,
        ticket: Ticket,
        time_ns: u64,
        now: Nanos,
        actions: &mut Vec<Action>,
    ) {
        self.now = now;
        let attach = match &question {
            Question::Attach { .. } | Question::Status => None,
            Question::Cut { attach, .. }
            | Question::Reopen { attach, .. }
            | Question::Confirm { attach, .. }
            | Question::Shipped { attach, .. }
            | Question::Release { attach, .. }
            | Question::Undo { attach, .. }
            | Question::Resynchronize { attach, .. } => Some(*attach),
        };
        if self.stop_posted && !matches!(question, Question::Status) {
            // S2: nothing is asked of the worker behind the stop: a successor may have begun.
            actions.push(Action::answer(ticket, Refusal::Unable("the tracker is stopping".into()).into()));
            return;
        }
        if let Some(Err(refusal)) = attach.map(|attach| self.check_attach(attach)) {
            actions.push(Action::answer(ticket, refusal.into()));
            return;
        }
        match question {
            Question::Attach { target } => {
                let answer = self.attach(target, actions);
                actions.push(Action::answer(ticket, answer));
            }
            Question::Cut { full, .. } => self.ask_cut(ticket, full, time_ns, actions),
            Question::Reopen { cut, .. } => self.ask_reopen(ticket, cut, actions),
            Question::Confirm { cut, .. } => {
                actions.push(Action::answer(ticket, self.ask_confirm(cut)));
            }
            Question::Shipped { cut, entry, .. } => {
                actions.push(Action::answer(ticket, self.ask_shipped(cut, entry)));
            }
            Question::Release { target, cut, anchor, .. } => {
                self.ask_release(ticket, target, cut, anchor, actions)
            }
            Question::Undo { cut, .. } => self.ask_undo(ticket, cut, actions),
            Question::Resynchronize { reason, .. } => {
                let all: Vec<_> = (0..self.disks.len()).collect();
                all.iter().for_each(|index| self.require_resync(*index, &reason));
                let number = self.store_metas(&all, actions);
                self.meta_tickets.push((number, ticket));
            }
            Question::Status => {
                actions.push(Action::answer(ticket, Answer::Status(self.status())));
            }
        }
        self.settle(actions);
    }

    /// Time passes: deadlines (C5, S4), folding by slices (C4), heartbeats. Called at least when [`Self::wake_at`]
    /// says, and freely otherwise.
    pub fn tick(&mut self, now: Nanos, actions: &mut Vec<Action>) {
        self.now = now;
        if !self.tracking {
            return;
        }
        if self.stop_posted {
            // S3: what the stop's job does to the disks, however late, is ours.
            self.beat_if_due();
            return;
        }
        for disk in &mut self.disks {
            self.unsettled |= disk.fold.is_some() && disk.fold_slice(self.config.bounds.fold_slice);
        }
        self.check_preserve_deadline(actions);
        self.check_intent_deadlines(actions);
        if self.beat_if_due() {
            self.note_slow_syncs();
            self.try_heal(actions);
            self.cut_to_heal();
            self.bound_logs();
            if !self.watching && (self.exact() || self.freeze.is_some() && self.logs_are_large()) {
                self.watching = true;
                self.post(Job::Watch, actions);
            }
        }
        if self.next_stamp <= now && self.stamping == 0 && !self.stopping {
            self.next_stamp = now.after(STAMP);
            self.stamping = 1;
            self.post(Job::Stamp, actions);
        }
        if self.release_retry.is_some_and(|at| at <= now) {
            self.release_retry = None;
            if self.state.road == Road::Releasing {
                self.store_release(actions);
            } else if self.spare.is_none() && self.freeze.is_none() {
                self.post(Job::Prepare { open: self.state.open }, actions);
            }
        }
        self.settle(actions);
    }

    /// A sign of life, once in so often (S3). True: it was time for it.
    fn beat_if_due(&mut self) -> bool {
        let due = self.next_beat <= self.now;
        if due {
            self.next_beat = self.now.after(HEARTBEAT);
            self.header.beat(Nanos(self.now.0 + self.suspended_ns));
        }
        due
    }

    /// How long the host was suspended since it booted: told before a tick. Deadlines are about time in which somebody
    /// could have done something, heartbeats are compared with the times of files (S3).
    pub fn note_suspended(&mut self, suspended_ns: u64) {
        self.suspended_ns = suspended_ns;
    }

    /// When [`Self::tick`] must be called next, if no event comes before. A time in the past means: as soon as the
    /// waiting events are served (work goes on by slices).
    pub fn wake_at(&self) -> Option<Nanos> {
        if !self.tracking {
            return None;
        }
        if self.stop_posted {
            return Some(self.next_beat);
        }
        if self.disks.iter().any(|disk| disk.fold.is_some()) {
            return Some(self.now);
        }
        let stamp = (!self.stopping).then_some(self.next_stamp);
        let deadlines =
            self.preserve_deadline().into_iter().chain(self.intent_deadline()).chain(self.release_retry);
        deadlines.chain([self.next_beat]).chain(stamp).min()
    }

    /// Cuts since the start: rises with each, so that the engine can measure how long one held the writes.
    pub fn cuts(&self) -> u64 {
        self.counts.cuts
    }

    /// Cuts that nobody asked for, of logs that eviction had grown, since the start: the simulator counts what its seeds
    /// reach, and is a crate of its own.
    pub fn compactions(&self) -> u64 {
        self.counts.compactions
    }

    /// The engine measured how long a cut held the writes, by the clock on the wall and by the thread's own.
    pub fn note_cut_hold(&mut self, hold_ns: u64, cpu_ns: u64) {
        let counts = &mut self.counts;
        counts.cut_hold_ns_last = hold_ns;
        counts.cut_hold_ns_max = counts.cut_hold_ns_max.max(hold_ns);
        counts.cut_cpu_ns_last = cpu_ns;
        counts.cut_cpu_ns_max = counts.cut_cpu_ns_max.max(cpu_ns);
    }

    /// Runs what can run until nothing changes.
    #[inline]
    fn settle(&mut self, actions: &mut Vec<Action>) {
        // A stop waits for things that wake nobody else: it looks after every event.
        if !self.unsettled && self.ready.is_empty() && !self.stopping {
            return;
        }
        self.settle_slowly(actions);
    }

    #[cold]
    fn settle_slowly(&mut self, actions: &mut Vec<Action>) {
        while self.unsettled || !self.ready.is_empty() {
            self.unsettled = false;
            while let Some(index) = self.ready.pop_front() {
                self.advance(index, actions);
            }
            if !self.tracking {
                continue;
            }
            for index in 0..self.disks.len() {
                self.settle_intents(index, actions);
            }
            self.finish_undo(actions);
            self.try_cut(actions);
        }
        // Whoever still waits for intents is looked at again at the next event: an unpinned region may let it in.
        self.unsettled =
            self.disks.iter().any(|disk| !disk.intent_queue.is_empty() && disk.intent_write.is_none());
        self.try_stop(actions);
    }

    /// Hands the worker a job.
    fn post(&mut self, job: Job, actions: &mut Vec<Action>) {
        debug_assert!(!self.stop_posted, "the stop is a session's last job (S2)");
        self.jobs += 1;
        actions.push(Action::job(job));
    }

    fn refuse_cut(&mut self, why: &str, actions: &mut Vec<Action>) {
        if let Some(ticket) = self.pending_cut.take().and_then(|pending| pending.ticket) {
            let answer = Refusal::Unable(why.to_string()).into();
            actions.push(Action::answer(ticket, answer));
        }
    }

    /// Takes a request off every list of those that wait.
    fn forget_waiter(&mut self, index: u32) {
        self.ready.retain(|other| *other != index);
        self.drain_waiters.values_mut().for_each(|waiters| waiters.retain(|other| *other != index));
        self.preserves.iter_mut().flatten().for_each(|one| one.waiters.retain(|other| *other != index));
    }

    /// Whether a freeze is there whose content must be preserved (W3): from the cut to the release.
    #[inline]
    fn exact(&self) -> bool {
        matches!(self.state.road, Road::Draining | Road::Synced | Road::Sealed) && !self.state.fuzzy
    }
}

/// The generation before.
fn before(generation: Generation) -> Generation {
    Generation(generation.0 - 1)
}

/// Which of a disk's two counts of requests in flight is this generation's.
#[inline]
fn parity(generation: Generation) -> usize {
    (generation.0 % 2) as usize
}

#[inline]
fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}
