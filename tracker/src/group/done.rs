//! What the worker says of its jobs, and what comes of it.

use super::action::Action;
use super::job::JobDone;
use super::{Group, cut};
use crate::control::message::{Answer, Refusal};
use crate::disk::{Healing, SyncWaiter};
use crate::id::Nanos;

impl Group {
    /// The worker has done a job.
    pub fn job_done(&mut self, done: JobDone, now: Nanos, actions: &mut Vec<Action>) {
        self.now = now;
        self.jobs -= 1;
        match done {
            JobDone::Prepared(Ok(spare)) => self.spare = Some(spare),
            JobDone::Prepared(Err(error)) => {
                let why = format!("the next cut can't be prepared: {}", error.0);
                tracing::error!(reason = why, "no cut can be made");
                self.refuse_cut(&why, actions);
                self.release_retry = Some(self.now.after(cut::RELEASE_RETRY));
            }
            JobDone::Reserved(result) => {
                self.reserving = false;
                match (result, &mut self.spare) {
                    (Ok(()), Some(spare)) => spare.reserved = true,
                    (Ok(()), None) => {}
                    (Err(error), _) => {
                        let why = format!("there is no memory for a freeze's maps: {}", error.0);
                        tracing::error!(reason = why, "no cut can be made");
                        self.refuse_cut(&why, actions);
                    }
                }
            }
            JobDone::Sealed { generation, result } => self.sealed(generation, result, actions),
            JobDone::Released { generation, result } => self.released(generation, result, actions),
            JobDone::Forgotten { result } => {
                if let Err(error) = result {
                    tracing::error!(error = error.0, "the disk's meta can't be stored");
                    for index in 0..self.disks.len() {
                        self.tracking_failed(index, "the disk's meta can't be stored", actions);
                    }
                }
            }
            JobDone::MetaStored { number, result } => {
                self.metas_in_flight -= 1;
                if let Err(error) = &result {
                    tracing::error!(error = error.0, "the disk's meta can't be stored");
                    for index in 0..self.disks.len() {
                        self.tracking_failed(index, "the disk's meta can't be stored", actions);
                    }
                }
                if result.is_ok() {
                    self.heal_at_meta(number, actions);
                }
                for (_, ticket) in self.meta_tickets.extract_if(.., |(of, _)| *of == number) {
                    let answer = match &result {
                        Ok(()) => Answer::Done,
                        Err(error) => Refusal::Unable(error.0.clone()).into(),
                    };
                    actions.push(Action::answer(ticket, answer));
                }
            }
            JobDone::Marked { disk, result: Ok(false) } => {
                self.want_sync(disk.index(), SyncWaiter::Mark { untracked: true }, actions);
            }
            JobDone::Marked { disk, result } => self.marked(disk.index(), result.map(drop)),
            JobDone::IntentsRenewed { disk, name, regions, capacity, result } => {
                self.disks[disk.index()].healing = match result {
                    Ok(sequence) => Healing::Renewed { name, sequence, regions, capacity },
                    Err(_) => Healing::None,
                };
            }
            JobDone::Unmarked { disk, result: Ok(false) } => {
                self.want_sync(disk.index(), SyncWaiter::Mark { untracked: false }, actions);
            }
            JobDone::Unmarked { disk, result } => self.unmarked(disk.index(), result.map(drop)),
            JobDone::Watched { low } => {
                self.watching = false;
                if low {
                    self.space_is_low(actions);
                }
            }
            JobDone::Stamped(stamps) => self.stamped(stamps, actions),
            JobDone::StampsStored => {}
            JobDone::Stopped { result, unsynced } => {
                // W6: the next session's guest is told.
                for disk in unsynced {
                    self.header.set_latched(disk.index(), true);
                    self.header.set_doubtful(disk.index());
                }
                if let Err(error) = result {
                    self.stop_failure.get_or_insert(error.0);
                }
                self.stopped = true;
            }
        }
        self.unsettled = true;
        self.settle(actions);
    }
}
