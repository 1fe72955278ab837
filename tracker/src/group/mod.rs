//! The disks that are cut together, as one machine: events in, actions out.

pub mod action;
pub mod job;

use crate::id::{DiskIndex, Nanos};
pub use action::{Action, Change, Errno, OpId, Question, Request, RequestId, SidecarFile, Ticket, Token};

/// The machine. One thread calls it; every call takes the list that it appends its actions to. An engine calls it
/// for each event, then executes the actions.
#[derive(Debug)]
pub struct Group {}

impl Group {
    /// A client's request that can change bytes. The reply comes as [`Action::Reply`], perhaps within this call.
    pub fn request(&mut self, _request: Request, _now: Nanos, _actions: &mut Vec<Action>) -> RequestId {
        RequestId(0)
    }

    /// A client's flush: replied when everything completed before it is durable, with an error if a sync has failed
    /// since the last one (W6).
    pub fn flush(&mut self, _disk: DiskIndex, _token: Token, _now: Nanos, _actions: &mut Vec<Action>) {}

    /// The connection of this request died (W8). True: it was not submitted, is forgotten, and no reply comes.
    /// False: it is in flight, and its reply will come.
    pub fn abandon(&mut self, _request: RequestId, _now: Nanos, _actions: &mut Vec<Action>) -> bool {
        true
    }

    /// An operation ended.
    pub fn completed(
        &mut self,
        _id: OpId,
        _result: Result<(), Errno>,
        _now: Nanos,
        _actions: &mut Vec<Action>,
    ) {
    }

    /// The worker has done a job.
    pub fn job_done(&mut self, _done: job::JobDone, _now: Nanos, _actions: &mut Vec<Action>) {}

    /// A shipper asks; [`Action::Answer`] follows, perhaps within this call. `time_ns` is the wall clock in
    /// nanoseconds since 1970.
    pub fn ask(
        &mut self,
        _question: Question,
        _ticket: Ticket,
        _time_ns: u64,
        _now: Nanos,
        _actions: &mut Vec<Action>,
    ) {
    }

    /// Time passes: deadlines (C5, S4), folding by slices (C4), heartbeats. Called at least when [`Self::wake_at`]
    /// says, and freely otherwise.
    pub fn tick(&mut self, _now: Nanos, _actions: &mut Vec<Action>) {}

    /// When [`Self::tick`] must be called next, if no event comes before. A time in the past means: as soon as the
    /// waiting events are served (work goes on by slices).
    pub fn wake_at(&self) -> Option<Nanos> {
        None
    }

    /// Begins the clean stop (SIGTERM). The engine has stopped taking requests. When nothing is in flight and the
    /// state is sealed, [`Self::stopped`] turns true.
    pub fn stop(&mut self, _now: Nanos, _actions: &mut Vec<Action>) {}

    /// The clean stop is complete: the process may end.
    pub fn stopped(&self) -> bool {
        true
    }
}
