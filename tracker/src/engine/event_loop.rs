//! The loop itself: what completes is handled, what waits is served, and the kernel gets everything at once.

use super::disk::Disk;
use super::execute::Operation;
use super::machine::{Jobs, Machine};
use super::pace::{self, Pace};
use super::port::Completion;
use super::slab::Slab;
use super::{Call, Guard, Options, Parts};
use crate::control::message::{Answer, Status};
use crate::error::{Error, Kind};
use crate::frontend::nbd::serve::Connection;
use crate::frontend::nbd::session::Export;
use crate::group::{Action, Errno, OpId, RequestId};
use crate::id::{DiskIndex, Nanos};
use crate::io::buffer::{Buffer, Pool};
use crate::io::scribes::{Scribes, Sheet};
use crate::io::uring::{self, File, Memory, Place, Ring};
use crossbeam_channel::{Receiver, Sender};
use nix::sys::eventfd::EventFd;
use nix::time::ClockId;
use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// The most connections at once (F47).
pub(super) const CONNECTIONS_MAX: usize = 128;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a stop waits for requests and for clients that do not take their replies.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How exact the loop's timers are.
const TIMER_SLACK_NS: u64 = 1000;
/// How long the loop may be held by calls of other threads in one round.
const CALLS_PER_ROUND: usize = 256;

/// What an operation of the ring is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// A listener, by its place.
    Accept(usize),
    /// A connection, by its key.
    Receive(u64),
    /// A connection, by its key.
    Send(u64),
    /// An operation for the machine or a read, by its key.
    Operation(u64),
    /// Other threads call.
    Wakeup,
    /// The worker reports.
    Jobs,
    /// Files of the sidecar were written.
    Scribes,
    /// Nothing comes of it.
    Ignored,
}

/// Whose request it is.
#[derive(Debug)]
pub(super) enum Owner {
    /// A connection, by its key; and its name for the request.
    Connection(u64, u64),
    /// A user in this process, and its name for the request.
    Port(Sender<Completion>, u64),
}

/// Where a write's bytes are.
#[derive(Debug)]
pub(super) enum Data {
    /// Nowhere, or on their way to the disk.
    None,
    /// In the connection's receive buffer, only until the request is taken.
    Here(Range<usize>),
    /// In memory of their own.
    Own(Buffer),
    /// As a user gave them.
    Bytes(Vec<u8>),
}

/// A request that is not answered.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) owner: Owner,
    pub(super) disk: DiskIndex,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) data: Data,
    /// The machine's name for it, if it has one.
    pub(super) id: Option<RequestId>,
}

#[derive(Debug)]
struct Listener {
    file: File,
    /// The accept that waits.
    accepting: Option<Place>,
    /// Not before this.
    pause: Option<Nanos>,
}

/// The loop's state. Made and used by one thread.
pub(super) struct Engine<M, J> {
    pub(super) machine: M,
    pub(super) jobs: J,
    started: Instant,
    pub(super) now: Nanos,
    // The ring goes before the pool: what it still holds is leaked then.
    pub(super) ring: Ring<Tag>,
    /// Who writes to the sidecars, by an operation's key: the ring is for the disks and the clients.
    pub(super) scribes: Scribes<u64>,
    pub(super) pool: Pool,
    pub(super) disks: Vec<Disk>,
    pub(super) exports: Arc<[Export]>,
    pub(super) connections: Slab<Connection>,
    /// Connections that have something to be served or sent.
    pub(super) listed: Vec<u64>,
    pub(super) requests: Slab<Pending>,
    pub(super) operations: Slab<Operation>,
    pub(super) actions: Vec<Action>,
    /// Operations that ended and were not yet told to the machine.
    pub(super) ended: VecDeque<(OpId, Result<(), Errno>)>,
    /// Inline operations that go on by slices, so that they don't hold the loop.
    pub(super) slices: VecDeque<u64>,
    /// Sidecar files that are to be closed, as soon as no operation uses them.
    closing: Vec<Arc<Sheet<u64>>>,
    pub(super) zeros: Option<Rc<Buffer>>,
    pub(super) tickets: Slab<Sender<Answer>>,
    /// Requests taken in this round.
    pub(super) served: u32,
    /// And their bytes.
    pub(super) served_bytes: u64,
    pace: Pace,
    /// No negotiation is over time before this.
    pub(super) deadline_at: Option<Nanos>,
    listeners: Vec<Listener>,
    calls: Receiver<Call>,
    wakeup: Arc<EventFd>,
    nbd_address: String,
    pub(super) read_only: bool,
    /// What goes before the disks do.
    names: Vec<Box<dyn Guard>>,
    /// A stop has begun; it no longer waits for clients after this.
    stopping: Option<Nanos>,
    /// The machine was told.
    machine_stopping: bool,
    stop_limit: Duration,
    /// A stop is cut short after this.
    gives_up: Option<Nanos>,
}

impl<M: Machine, J: Jobs> Engine<M, J> {
    pub(super) fn new(
        parts: Parts<M, J>,
        options: Options,
        calls: Receiver<Call>,
        wakeup: Arc<EventFd>,
    ) -> Result<Self, Error> {
        let pool = Pool::new();
        let mut ring = Ring::new(&pool).map_err(|error| {
            let remedy = match error.raw_os_error() {
                Some(libc::ENOMEM) => "raise the limit of locked memory (ulimit -l, LimitMEMLOCK= of the unit)",
                _ => {
                    "allow it (sysctl kernel.io_uring_disabled=0, the container's seccomp profile) or run a newer \
                     kernel"
                }
            };
            let text = format!("io_uring can't be used ({error}): {remedy}");
            Error::caused(Kind::Other, text, error)
        })?;
        #[cfg(test)]
        ring.faults.clone_from(&parts.faults);
        let scribes =
            Scribes::new().map_err(|error| Error::caused(Kind::Other, "an eventfd can't be made", error))?;
        let read_only = options.read_only;
        let disks: Vec<Disk> =
            parts.disks.into_iter().map(|disk| Disk::new(disk, read_only, |fd| ring.register(fd))).collect();
        let export = |disk: &Disk| Export {
            name: disk.name.clone(),
            description: format!("{} (tracked by towline)", disk.path.display()),
            size: disk.size,
            align: disk.align,
            read_only,
        };
        let exports = disks.iter().map(export).collect();
        let listener = |socket: std::os::unix::net::UnixListener| Listener {
            file: ring.register(socket.into()),
            accepting: None,
            pause: None,
        };
        let listeners = options.nbd.into_iter().map(listener).collect();
        let mut engine = Self {
            machine: parts.machine,
            jobs: parts.jobs,
            started: Instant::now(),
            now: Nanos::default(),
            ring,
            scribes,
            pool,
            disks,
            exports,
            connections: Slab::with_capacity(16),
            listed: Vec::with_capacity(16),
            requests: Slab::with_capacity(1024),
            operations: Slab::with_capacity(1024),
            actions: parts.actions,
            ended: VecDeque::with_capacity(64),
            slices: VecDeque::new(),
            closing: Vec::new(),
            zeros: None,
            tickets: Slab::with_capacity(16),
            served: 0,
            served_bytes: 0,
            pace: Pace::new(),
            deadline_at: None,
            listeners,
            calls,
            wakeup,
            nbd_address: options.nbd_address,
            read_only,
            names: options.names,
            stopping: None,
            machine_stopping: false,
            stop_limit: options.stop_limit,
            gives_up: None,
        };
        for opened in parts.opened {
            let before = engine.disks[opened.disk.index()].install(opened.file, opened.fd);
            debug_assert!(before.is_none(), "a file is opened once");
        }
        Ok(engine)
    }

    /// Serves until the clean stop is complete.
    pub(super) fn run(&mut self) -> Result<(), Error> {
        // A pause is shorter than the 50 microseconds by which the kernel may otherwise prolong it.
        if let Err(error) = nix::sys::prctl::set_timerslack(TIMER_SLACK_NS) {
            debug!(%error, "timers stay inexact");
        }
        let wakeup = Arc::clone(&self.wakeup);
        self.ring.poll(Tag::Wakeup, wakeup.as_fd());
        self.ring.poll(Tag::Jobs, self.jobs.wakeup());
        self.ring.poll(Tag::Scribes, self.scribes.wakeup().as_fd());
        self.now = self.clock();
        // What recovery left to be done comes before any request.
        self.settle();
        loop {
            while let Some(completion) = self.ring.take() {
                self.complete(completion);
            }
            for _ in 0..self.slices.len() {
                let key = self.slices.pop_front().expect("counted");
                self.slice(key);
            }
            if !self.closing.is_empty() {
                self.close_unused();
            }
            // The machine's time to go on by itself: after what waited was served.
            self.serve_listed();
            if self.machine.wake_at().is_some_and(|at| at <= self.now) {
                let since_boot = read_clock(ClockId::CLOCK_BOOTTIME);
                self.machine.note_suspended(since_boot.0.saturating_sub(self.clock().0));
                self.measured(|machine, now, actions| machine.tick(now, actions));
                self.settle();
                self.serve_listed();
            }
            self.keep_deadlines();
            if self.stopping.is_some() && self.stop_is_complete() {
                self.names.clear();
                self.disks.iter().for_each(|disk| disk.give_up(|file| self.ring.let_go(file)));
                return self.machine.stop_failure().map_or(Ok(()), |why| Err(stop_failed(why)));
            }
            if self.gives_up.is_some_and(|at| at <= self.now) {
                self.names.clear();
                return Err(self.stuck());
            }
            self.accept_more();
            let timeout = self.timeout();
            let (served, bytes) = (std::mem::take(&mut self.served), std::mem::take(&mut self.served_bytes));
            let gather = self.pace.pause(served, bytes).then_some(pace::PAUSE);
            self.ring
                .wait(timeout, gather)
                .map_err(|error| Error::caused(Kind::Other, "the kernel refuses to serve the ring", error))?;
            self.now = self.clock();
        }
    }

    /// The monotonic clock: deadlines are about time in which somebody could have done something.
    fn clock(&self) -> Nanos {
        read_clock(ClockId::CLOCK_MONOTONIC)
    }

    /// Calls the machine where a cut may happen, and measures how long one held the writes.
    pub(super) fn measured(&mut self, call: impl FnOnce(&mut M, Nanos, &mut Vec<Action>)) {
        let (cuts, before) = (self.machine.cuts(), self.clock());
        let cpu_before = read_clock(ClockId::CLOCK_THREAD_CPUTIME_ID);
        call(&mut self.machine, self.now, &mut self.actions);
        if self.machine.cuts() != cuts {
            let cpu = read_clock(ClockId::CLOCK_THREAD_CPUTIME_ID).0 - cpu_before.0;
            let hold = self.clock().0 - before.0;
            self.machine.note_cut_hold(hold, cpu);
        }
    }

    /// How long the loop may sleep.
    fn timeout(&self) -> Option<Duration> {
        if !self.slices.is_empty() || !self.listed.is_empty() {
            return Some(Duration::ZERO);
        }
        let mut wake = self.machine.wake_at();
        let mut earlier = |at: Option<Nanos>| {
            wake = match (wake, at) {
                (Some(wake), Some(at)) => Some(wake.min(at)),
                (wake, at) => wake.or(at),
            };
        };
        if !self.connections.is_empty() {
            earlier(self.stopping);
        }
        earlier(self.gives_up);
        self.listeners.iter().for_each(|listener| earlier(listener.pause));
        if !self.connections.is_empty() {
            earlier(self.next_deadline());
        }
        wake.map(|wake| Duration::from_nanos(wake.0.saturating_sub(self.now.0)))
    }

    fn complete(&mut self, completion: uring::Completion<Tag>) {
        let uring::Completion { tag, result, memory } = completion;
        match (tag, memory) {
            (Tag::Operation(key), memory) => self.operation_ended(key, result, memory),
            (Tag::Receive(key), Memory::Buffer(buffer)) => self.received(key, result, buffer),
            (Tag::Send(key), Memory::Outgoing(batch)) => self.sent(key, result, batch),
            (Tag::Accept(place), _) => self.accepted(place, result),
            (Tag::Wakeup, _) => {
                self.take_calls();
                let wakeup = Arc::clone(&self.wakeup);
                self.ring.poll(Tag::Wakeup, wakeup.as_fd());
            }
            (Tag::Jobs, _) => {
                self.take_reports();
                self.ring.poll(Tag::Jobs, self.jobs.wakeup());
            }
            (Tag::Scribes, _) => {
                self.take_written();
                self.ring.poll(Tag::Scribes, self.scribes.wakeup().as_fd());
            }
            (Tag::Receive(_) | Tag::Send(_), _) => unreachable!("the ring brings back what it was given"),
            (Tag::Ignored, _) => {}
        }
    }

    /// Executes what the machine wants, tells it what ended, until nothing is left.
    #[inline]
    pub(super) fn settle(&mut self) {
        loop {
            if self.actions.is_empty() {
                let Some((id, result)) = self.ended.pop_front() else {
                    return;
                };
                self.machine.completed(id, result, self.now, &mut self.actions);
                continue;
            }
            let mut actions = std::mem::take(&mut self.actions);
            actions.drain(..).for_each(|action| self.execute(action));
            debug_assert!(
                self.actions.is_empty(),
                "only the machine adds actions, and only when it is called"
            );
            self.actions = actions;
        }
    }

    fn take_calls(&mut self) {
        // Emptied before the calls are taken: whoever calls later wakes us again.
        let _ = self.wakeup.read();
        for _ in 0..CALLS_PER_ROUND {
            match self.calls.try_recv() {
                Ok(Call::Operate { disk, operation, tag, reply }) => {
                    self.operate(disk, operation, tag, reply)
                }
                Ok(Call::Ask { question, reply }) => self.ask(question, reply),
                Ok(Call::Stop) => self.begin_stop(),
                Err(_) => return,
            }
        }
        let _ = self.wakeup.write(1);
    }

    fn take_reports(&mut self) {
        let mut count = [0; 8];
        let _ = nix::unistd::read(self.jobs.wakeup(), &mut count);
        while let Some(report) = self.jobs.poll() {
            for opened in report.opened {
                let before = self.disks[opened.disk.index()].install(opened.file, opened.fd);
                self.closing.extend(before);
            }
            self.measured(|machine, now, actions| machine.job_done(report.done, now, actions));
            self.settle();
            for (disk, file) in report.closed {
                self.closing.extend(self.disks[disk.index()].close(file));
            }
        }
    }

    fn take_written(&mut self) {
        // As above.
        let _ = self.scribes.wakeup().read();
        while let Some(written) = self.scribes.poll() {
            self.sidecar_written(written);
        }
    }

    /// S5: sidecar files are closed by the worker. The last descriptor of one that was deleted frees all its space, which
    /// takes long for much preserved data, and for ever on a file system that does not answer.
    fn close_unused(&mut self) {
        let unused = self.closing.extract_if(.., |sheet| Arc::strong_count(sheet) == 1);
        unused.filter_map(Arc::into_inner).for_each(|sheet| self.jobs.close(sheet.into_fd()));
    }

    /// What only the loop knows of the state.
    pub(super) fn fill_status(&self, status: &mut Status) {
        status.version = env!("CARGO_PKG_VERSION").into();
        status.pid = std::process::id();
        status.uptime_s = self.started.elapsed().as_secs();
        status.nbd.clone_from(&self.nbd_address);
        status.memory_locked = self.jobs.memory_locked();
        status.buffers_registered = self.ring.buffers_registered();
        status.connections = u32::try_from(self.connections.len()).unwrap_or(u32::MAX);
        for (disk, status) in self.disks.iter().zip(&mut status.disks) {
            status.reads = disk.reads;
        }
    }

    fn accept_more(&mut self) {
        if self.stopping.is_some() || self.connections.len() >= CONNECTIONS_MAX {
            return;
        }
        for (place, listener) in self.listeners.iter_mut().enumerate() {
            if listener.pause.is_some_and(|pause| pause <= self.now) {
                listener.pause = None;
            }
            if listener.accepting.is_none() && listener.pause.is_none() {
                listener.accepting = Some(self.ring.accept(Tag::Accept(place), &listener.file));
            }
        }
    }

    fn accepted(&mut self, place: usize, result: Result<u32, i32>) {
        let listener = &mut self.listeners[place];
        listener.accepting = None;
        match result {
            // A client that comes during a stop is let go.
            Ok(count) if self.stopping.is_some() => drop(uring::accepted(count)),
            Ok(count) => self.connected(uring::accepted(count)),
            Err(libc::ECANCELED | libc::ECONNABORTED | libc::EINTR | libc::EAGAIN) => {}
            Err(errno) => {
                let error = std::io::Error::from_raw_os_error(errno);
                warn!(%error, "a client can't be accepted");
                listener.pause = Some(self.now.after(ACCEPT_PAUSE));
            }
        }
    }

    fn begin_stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        info!("stopping: requests in flight are finished");
        self.stopping = Some(self.now.after(STOP_GRACE));
        self.gives_up = Some(self.now.after(STOP_GRACE + self.stop_limit));
        for listener in &self.listeners {
            if let Some(place) = listener.accepting {
                self.ring.cancel(Tag::Ignored, place);
            }
        }
        self.let_all_leave();
    }

    /// One step of a stop. True: the process may end.
    fn stop_is_complete(&mut self) -> bool {
        if !self.machine_stopping {
            let quiet = |engine: &Self| engine.requests.is_empty() && engine.connections.is_empty();
            if self.stopping.is_some_and(|until| until <= self.now) && !quiet(self) {
                debug!("requests that wait and clients that do not take their replies are dropped");
                self.stopping = Some(self.now.after(STOP_GRACE));
                self.drop_all();
            }
            if !quiet(self) {
                return false;
            }
            // From here on only the machine matters.
            self.stopping = Some(Nanos(u64::MAX));
            self.machine_stopping = true;
            self.gives_up = Some(self.now.after(self.stop_limit));
            self.machine.stop(self.now, &mut self.actions);
            self.settle();
        }
        self.machine.stopped() && self.operations.is_empty()
    }

    /// Why a stop is cut short. Nothing that was not sealed is believed: the metas don't say clean. The lock stays: what is
    /// still in the kernel may yet write, and a successor must not begin before (S2).
    fn stuck(&self) -> Error {
        let what = if self.requests.is_empty() {
            self.machine.unfinished()
        } else {
            "a disk does not answer: requests to it are in flight".to_string()
        };
        stop_failed(&what)
    }

    /// No new requests are taken.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }
}

fn stop_failed(why: &str) -> Error {
    let next = "the next start recovers, as after kill -9";
    Error::new(Kind::Stuck, format!("the clean stop is cut short: {why}; {next}"))
}

fn read_clock(clock: ClockId) -> Nanos {
    let now = nix::time::clock_gettime(clock).expect("every Linux has this clock");
    Nanos(Duration::from(now).as_nanos() as u64)
}
