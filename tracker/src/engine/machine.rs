//! What the loop drives: the machine that decides and the worker that does long jobs. [`Group`] and [`Worker`] are
//! the real ones; tests have simpler ones. The loop is compiled for each, so nothing is looked up on a request's way.

use crate::group::job::{Job, JobDone};
use crate::group::{Action, Errno, Group, OpId, Question, Request, RequestId, Ticket, Token};
use crate::id::{DiskIndex, Nanos};
use crate::sidecar::{Report, Worker};
use std::os::fd::{BorrowedFd, OwnedFd};

/// Events in, actions out; see [`Group`], whose methods these are.
pub trait Machine {
    /// See [`Group::request`].
    fn request(&mut self, request: Request, now: Nanos, actions: &mut Vec<Action>) -> RequestId;
    /// See [`Group::flush`].
    fn flush(&mut self, disk: DiskIndex, token: Token, now: Nanos, actions: &mut Vec<Action>);
    /// See [`Group::abandon`].
    fn abandon(&mut self, request: RequestId, now: Nanos, actions: &mut Vec<Action>) -> bool;
    /// See [`Group::completed`].
    fn completed(&mut self, id: OpId, result: Result<(), Errno>, now: Nanos, actions: &mut Vec<Action>);
    /// See [`Group::job_done`].
    fn job_done(&mut self, done: JobDone, now: Nanos, actions: &mut Vec<Action>);
    /// See [`Group::ask`].
    fn ask(
        &mut self,
        question: Question,
        ticket: Ticket,
        time_ns: u64,
        now: Nanos,
        actions: &mut Vec<Action>,
    );
    /// See [`Group::tick`].
    fn tick(&mut self, now: Nanos, actions: &mut Vec<Action>);
    /// See [`Group::note_suspended`].
    fn note_suspended(&mut self, suspended_ns: u64);
    /// See [`Group::wake_at`].
    fn wake_at(&self) -> Option<Nanos>;
    /// See [`Group::stop`].
    fn stop(&mut self, now: Nanos, actions: &mut Vec<Action>);
    /// See [`Group::stopped`].
    fn stopped(&self) -> bool;
    /// See [`Group::stop_failure`].
    fn stop_failure(&self) -> Option<&str>;
    /// See [`Group::unfinished`].
    fn unfinished(&self) -> String;
    /// See [`Group::cuts`].
    fn cuts(&self) -> u64;
    /// See [`Group::note_cut_hold`].
    fn note_cut_hold(&mut self, hold_ns: u64, cpu_ns: u64);
}

impl Machine for Group {
    #[inline]
    fn request(&mut self, request: Request, now: Nanos, actions: &mut Vec<Action>) -> RequestId {
        self.request(request, now, actions)
    }

    fn flush(&mut self, disk: DiskIndex, token: Token, now: Nanos, actions: &mut Vec<Action>) {
        self.flush(disk, token, now, actions);
    }

    fn abandon(&mut self, request: RequestId, now: Nanos, actions: &mut Vec<Action>) -> bool {
        self.abandon(request, now, actions)
    }

    #[inline]
    fn completed(&mut self, id: OpId, result: Result<(), Errno>, now: Nanos, actions: &mut Vec<Action>) {
        self.completed(id, result, now, actions);
    }

    fn job_done(&mut self, done: JobDone, now: Nanos, actions: &mut Vec<Action>) {
        self.job_done(done, now, actions);
    }

    fn ask(
        &mut self,
        question: Question,
        ticket: Ticket,
        time_ns: u64,
        now: Nanos,
        actions: &mut Vec<Action>,
    ) {
        self.ask(question, ticket, time_ns, now, actions);
    }

    fn tick(&mut self, now: Nanos, actions: &mut Vec<Action>) {
        self.tick(now, actions);
    }

    fn note_suspended(&mut self, suspended_ns: u64) {
        self.note_suspended(suspended_ns);
    }

    #[inline]
    fn wake_at(&self) -> Option<Nanos> {
        self.wake_at()
    }

    fn stop(&mut self, now: Nanos, actions: &mut Vec<Action>) {
        self.stop(now, actions);
    }

    fn stopped(&self) -> bool {
        self.stopped()
    }

    fn stop_failure(&self) -> Option<&str> {
        self.stop_failure()
    }

    fn unfinished(&self) -> String {
        self.unfinished()
    }

    #[inline]
    fn cuts(&self) -> u64 {
        self.cuts()
    }

    fn note_cut_hold(&mut self, hold_ns: u64, cpu_ns: u64) {
        self.note_cut_hold(hold_ns, cpu_ns);
    }
}

/// The thread that does jobs; see [`Worker`], whose methods these are.
pub trait Jobs {
    /// See [`Worker::post`].
    fn post(&self, job: Job);
    /// See [`Worker::close`].
    fn close(&self, file: OwnedFd);
    /// See [`Worker::wakeup`].
    fn wakeup(&self) -> BorrowedFd<'_>;
    /// See [`Worker::poll`].
    fn poll(&self) -> Option<Report>;
    /// See [`Worker::memory_locked`].
    fn memory_locked(&self) -> bool;
}

impl Jobs for Worker {
    fn post(&self, job: Job) {
        self.post(job);
    }

    fn close(&self, file: OwnedFd) {
        self.close(file);
    }

    fn wakeup(&self) -> BorrowedFd<'_> {
        self.wakeup()
    }

    fn poll(&self) -> Option<Report> {
        self.poll()
    }

    fn memory_locked(&self) -> bool {
        self.memory_locked()
    }
}
