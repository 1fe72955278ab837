//! A machine that decides nothing: every change is submitted at once. With it the loop is tested by itself.

use super::machine::{Jobs, Machine};
use crate::control::message::{Answer, Refusal};
use crate::group::job::{Job, JobDone};
use crate::group::{Action, Change, Errno, OpId, Question, Request, RequestId, Ticket, Token};
use crate::id::{DiskIndex, Nanos};
use crate::sidecar::Report;
use nix::sys::eventfd::EventFd;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// What becomes of an operation.
#[derive(Clone, Copy, Debug)]
struct After {
    token: Token,
    disk: DiskIndex,
    /// A sync comes before the reply.
    sync: bool,
}

/// The machine.
#[derive(Debug, Default)]
pub(crate) struct PassThrough {
    next: u32,
    after: HashMap<u32, After>,
    /// While set, requests wait.
    pub(crate) holding: Arc<AtomicBool>,
    /// While set, a stop comes to no end.
    pub(crate) stuck: Arc<AtomicBool>,
    held: Vec<(RequestId, Request)>,
    /// How many wait.
    pub(crate) waiting: Arc<AtomicUsize>,
}

impl PassThrough {
    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn submit(&mut self, request: Request, actions: &mut Vec<Action>) {
        let id = self.number();
        let Request { disk, change, fua, offset, length, token } = request;
        let write = change == Change::Write;
        self.after.insert(id, After { token, disk, sync: fua && !write });
        actions.push(Action::Submit {
            id: OpId(id),
            disk,
            change,
            offset,
            length,
            durable: fua && write,
            token,
        });
    }
}

impl Machine for PassThrough {
    fn request(&mut self, request: Request, _: Nanos, actions: &mut Vec<Action>) -> RequestId {
        let id = RequestId(self.number());
        if self.holding.load(SeqCst) {
            self.held.push((id, request));
            self.waiting.store(self.held.len(), SeqCst);
        } else {
            self.submit(request, actions);
        }
        id
    }

    fn flush(&mut self, disk: DiskIndex, token: Token, _: Nanos, actions: &mut Vec<Action>) {
        let id = self.number();
        self.after.insert(id, After { token, disk, sync: false });
        actions.push(Action::Sync { id: OpId(id), disk, inode: false });
    }

    fn abandon(&mut self, request: RequestId, _: Nanos, _: &mut Vec<Action>) -> bool {
        let before = self.held.len();
        self.held.retain(|(id, _)| *id != request);
        self.held.len() < before
    }

    fn completed(&mut self, id: OpId, result: Result<(), Errno>, _: Nanos, actions: &mut Vec<Action>) {
        let After { token, disk, sync } = self.after.remove(&id.0).expect("an operation completes once");
        if sync && result.is_ok() {
            let id = self.number();
            self.after.insert(id, After { token, disk, sync: false });
            actions.push(Action::Sync { id: OpId(id), disk, inode: false });
        } else {
            actions.push(Action::Reply { token, result });
        }
    }

    fn job_done(&mut self, done: JobDone, _: Nanos, _: &mut Vec<Action>) {
        let _ = done;
    }

    fn ask(&mut self, _: Question, ticket: Ticket, _: u64, _: Nanos, actions: &mut Vec<Action>) {
        let answer = Answer::Refused(Refusal::Unable("this machine decides nothing".into()));
        actions.push(Action::Answer { ticket, answer: Box::new(answer) });
    }

    fn tick(&mut self, _: Nanos, actions: &mut Vec<Action>) {
        if !self.holding.load(SeqCst) {
            for (_, request) in std::mem::take(&mut self.held) {
                self.submit(request, actions);
            }
        }
    }

    fn note_suspended(&mut self, _: u64) {}

    fn wake_at(&self) -> Option<Nanos> {
        (!self.held.is_empty() && !self.holding.load(SeqCst)).then_some(Nanos(0))
    }

    fn stop(&mut self, _: Nanos, _: &mut Vec<Action>) {}

    fn stopped(&self) -> bool {
        self.after.is_empty() && !self.stuck.load(SeqCst)
    }

    fn stop_failure(&self) -> Option<&str> {
        None
    }

    fn unfinished(&self) -> String {
        "what a test holds back does not answer".into()
    }

    fn cuts(&self) -> u64 {
        0
    }

    fn note_cut_hold(&mut self, _: u64, _: u64) {}
}

/// A worker without work; it says what a test has it say, and keeps what it should close.
#[derive(Debug)]
pub(crate) struct NoJobs {
    wakeup: EventFd,
    says: Mutex<Option<Report>>,
    pub(crate) closed: Arc<Mutex<Vec<OwnedFd>>>,
}

impl NoJobs {
    pub(crate) fn new(says: Option<Report>) -> Self {
        let wakeup = EventFd::from_value(u32::from(says.is_some())).expect("an eventfd");
        Self { wakeup, says: Mutex::new(says), closed: Arc::default() }
    }
}

impl Jobs for NoJobs {
    fn post(&self, _: Job) {}

    fn close(&self, file: OwnedFd) {
        self.closed.lock().unwrap().push(file);
    }

    fn wakeup(&self) -> BorrowedFd<'_> {
        self.wakeup.as_fd()
    }

    fn poll(&self) -> Option<Report> {
        self.says.lock().unwrap().take()
    }

    fn memory_locked(&self) -> bool {
        false
    }
}
