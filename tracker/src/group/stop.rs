//! The clean stop: when nothing moves any more, what is open goes into the logs, and the metas say clean.

use super::action::Action;
use super::job::{Job, StopDisk};
use super::{Group, PersistOp};
use crate::disk::{IntentMode, SyncWaiter};
use crate::id::Nanos;

impl Group {
    /// Begins the clean stop (SIGTERM). The engine has stopped taking requests. When nothing is in flight and the
    /// state is sealed, [`Self::stopped`] turns true.
    pub fn stop(&mut self, now: Nanos, actions: &mut Vec<Action>) {
        self.now = now;
        self.stopping = true;
        self.refuse_cut("the tracker is stopping", actions);
        if !self.tracking {
            self.stopped = true;
        }
        self.settle(actions);
    }

    /// The clean stop is complete: the process may end.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Why the stop was not a clean one: the next start recovers, as after kill -9.
    pub fn stop_failure(&self) -> Option<&str> {
        self.stop_failure.as_deref()
    }

    /// What a stop that comes to no end waits for, and what the next start makes of it, for people.
    pub fn unfinished(&self) -> String {
        let mut disks: Vec<usize> = self
            .persists
            .iter()
            .flatten()
            .map(|(PersistOp::Intents(disk, _) | PersistOp::Append(disk, ..), _)| *disk)
            .collect();
        disks.sort_unstable();
        disks.dedup();
        if disks.is_empty() {
            // A job of the worker's, which is for all of them.
            disks = (0..self.disks.len()).collect();
        }
        let named: Vec<_> = disks
            .iter()
            .map(|disk| format!("{} ({})", self.disks[*disk].name, self.disks[*disk].path))
            .collect();
        let untracked: Vec<_> = self
            .disks
            .iter()
            .filter(|disk| !matches!(disk.intent_mode, IntentMode::Kept | IntentMode::Strict))
            .map(|disk| disk.name.as_str())
            .collect();
        let next = if untracked.is_empty() {
            "nothing is compared unless the host goes down before".to_string()
        } else {
            format!("what went untracked since is compared: all of {}", untracked.join(", "))
        };
        format!("the sidecar of {} does not answer; {next}", named.join(", "))
    }

    /// The clean stop, once nothing moves any more.
    pub(super) fn try_stop(&mut self, actions: &mut Vec<Action>) {
        let moving = self.slots.len() > 0
            || self
                .disks
                .iter()
                .any(|disk| disk.fold.is_some() || disk.syncs.running.is_some() || disk.busy())
            || self.persists.iter().any(Option::is_some)
            || self.preserves.iter().any(Option::is_some)
            || self.stamping > 0
            // A mark that is cleared halfway would be left over, and one that is set would land on a clean stop.
            || self.disks.iter().any(|disk| disk.marking > 0)
            // S2: whatever the worker still does, a successor's files must not meet it.
            || self.jobs > 0;
        if !self.stopping || self.stop_posted || moving {
            return;
        }
        if self.stop_syncs.is_none() {
            // Synced here, where a failure counts as any other (W6): the guest's next flush, in the next session, is told.
            self.stop_syncs = Some(self.disks.len() as u32);
            return (0..self.disks.len()).for_each(|disk| self.want_sync(disk, SyncWaiter::Stop, actions));
        }
        let unsealed = self.frozen_is_unsealed();
        let disks = self.disks.iter().map(|disk| StopDisk {
            open: disk.open.clone(),
            unsealed: disk.frozen.as_ref().filter(|_| unsealed).map(|frozen| frozen.frozen.clone()),
            header: disk.log.header,
            encoder: disk.log.encoder.clone(),
            end: disk.log.end,
            dead: disk.log.dead,
            blocks: disk.geometry.blocks(),
            marked: disk.degraded.is_some() || disk.unmark_again,
            meta: disk.meta.clone(),
        });
        let disks = if self.stop_failure.is_none() { disks.collect() } else { Vec::new() };
        let keep_maps = self.freeze.is_some() || self.stop_failure.is_some();
        self.post(Job::Stop { disks, keep_maps }, actions);
        self.stop_posted = true;
    }

    /// A sync of the clean stop ended.
    pub(super) fn stop_synced(&mut self, index: usize, good: bool) {
        self.stop_syncs = self.stop_syncs.map(|syncs| syncs - 1);
        if !good {
            self.stop_failure = Some(format!("the last sync of disk {} failed", self.disks[index].name));
        }
    }
}
