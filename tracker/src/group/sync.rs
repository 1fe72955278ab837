//! Syncs of a disk, and what an error of one means (W6).

use super::action::{Action, Errno, Token};
use super::job::{Job, JobError};
use super::{Group, Op};
use crate::disk::{Stamp, SyncWaiter};
use crate::id::DiskIndex;
use crate::mutant;
use std::time::Duration;

/// What a guest is told when a sync failed.
const EIO: Errno = Errno(libc::EIO);
/// Longer than a sync takes that ends well.
const SLOW_SYNC: Duration = Duration::from_secs(5);

impl Group {
    /// See [`Group::flush`].
    pub(super) fn begin_flush(&mut self, disk: usize, token: Token, actions: &mut Vec<Action>) {
        if std::mem::take(&mut self.disks[disk].latched) {
            // The kernel reports an error once, and our own sync may have eaten it (W6). The header keeps it until a later
            // flush is good: should the process die before this reply is out, the successor tells.
            actions.push(Action::Reply { token, result: Err(EIO) });
            return;
        }
        self.want_sync(disk, SyncWaiter::Flush(token), actions);
    }

    /// A sync that begins now or later serves the waiter; one that runs already does not.
    pub(super) fn want_sync(&mut self, index: usize, waiter: SyncWaiter, actions: &mut Vec<Action>) {
        let syncs = &mut self.disks[index].syncs;
        syncs.waiting.push(waiter);
        if syncs.running.is_none() {
            self.begin_sync(index, actions);
        }
    }

    fn begin_sync(&mut self, index: usize, actions: &mut Vec<Action>) {
        let syncs = &mut self.disks[index].syncs;
        let id = Op::Sync(index as u32).id();
        syncs.begun = syncs.begun.wrapping_add(1);
        syncs.running = Some((id, self.now));
        std::mem::swap(&mut syncs.waiting, &mut syncs.served);
        let inode = syncs.served.iter().any(|waiter| waiter.wants_inode());
        actions.push(Action::Sync { id, disk: DiskIndex(index as u16), inode });
    }

    /// A sync ended.
    pub(super) fn sync_completed(
        &mut self,
        index: usize,
        result: Result<(), Errno>,
        actions: &mut Vec<Action>,
    ) {
        let syncs = &mut self.disks[index].syncs;
        assert!(syncs.running.take().is_some(), "one sync at a time");
        let mut served = std::mem::take(&mut syncs.served);
        if self.header.has_slow_sync(index) {
            self.header.set_slow_sync(index, false);
        }
        if result.is_ok() {
            syncs.done = syncs.begun;
            let done = syncs.done;
            let disk = &mut self.disks[index];
            if !disk.failed.is_empty() && disk.failed.synced(done) {
                self.failed_shrank(index);
            }
        } else {
            // The kernel reports an error once: who asked meanwhile would be told that all is well.
            let ours =
                |waiter: &SyncWaiter| matches!(waiter, SyncWaiter::Freeze(_) | SyncWaiter::Cleaning(_));
            let (stay, late) = std::mem::take(&mut syncs.waiting).into_iter().partition::<Vec<_>, _>(ours);
            syncs.waiting = stay;
            served.extend(late);
            let told = served.iter().any(|waiter| matches!(waiter, SyncWaiter::Flush(_)));
            self.sync_failed(index, told, actions);
        }
        for waiter in served {
            match waiter {
                SyncWaiter::Flush(token) => {
                    // Meanwhile another sync failed, the worker's or a durable write's: what that one lost, this one
                    // does not vouch for.
                    let lost = std::mem::take(&mut self.disks[index].latched);
                    let result = result.and(if lost { Err(EIO) } else { Ok(()) });
                    if result.is_ok() && self.header.latched(index) {
                        self.header.set_latched(index, false);
                    }
                    actions.push(Action::Reply { token, result });
                }
                SyncWaiter::Request(slot) => self.end(slot, result, actions),
                SyncWaiter::Freeze(generation) => {
                    if result.is_ok() {
                        self.disk_synced(index, generation, actions);
                    }
                }
                SyncWaiter::Cleaning(epoch) => self.cleaning_part_done(index, epoch, result.is_ok()),
                SyncWaiter::Stamp => self.stamp_durable(index, result.is_ok(), actions),
                SyncWaiter::Mark { untracked } => {
                    let why = |errno: Errno| JobError(format!("the disk's sync fails (error {})", errno.0));
                    match untracked {
                        true => self.marked(index, result.map_err(why)),
                        false => self.unmarked(index, result.map_err(why)),
                    }
                }
                SyncWaiter::Stop => self.stop_synced(index, result.is_ok()),
            }
        }
        if !self.disks[index].syncs.waiting.is_empty() {
            self.begin_sync(index, actions);
        }
    }

    /// W6: should the process die while a disk does not answer, its successor hears nothing of how the sync ends.
    pub(super) fn note_slow_syncs(&self) {
        for (index, disk) in self.disks.iter().enumerate() {
            if disk.syncs.running.is_some_and(|(_, since)| since.after(SLOW_SYNC) <= self.now) {
                self.header.set_slow_sync(index, true);
            }
        }
    }

    /// Some failed blocks were written again and synced: their regions may leave again.
    fn failed_shrank(&mut self, index: usize) {
        let disk = &mut self.disks[index];
        let per = disk.geometry.region_shift - disk.geometry.block_shift;
        for region in disk.regions.failed().clone() {
            let mut extents = disk.failed.extents();
            let still = extents
                .any(|blocks| (blocks.start >> per..=(blocks.end - 1) >> per).contains(&region.into()));
            disk.regions.set_failed(region, still);
        }
        self.store_failed(index);
    }

    /// S3: the times that were read of the disks come into their metas when an fsync that began later has made durable at
    /// least these. The other way round the meta would speak of times that a host crash takes back.
    pub(super) fn stamped(&mut self, stamps: Vec<Result<Stamp, JobError>>, actions: &mut Vec<Action>) {
        for (index, stamp) in stamps.into_iter().enumerate() {
            match stamp {
                Ok(stamp) => {
                    self.stamping += 1;
                    self.disks[index].stamp_read = Some(stamp);
                    self.want_sync(index, SyncWaiter::Stamp, actions);
                }
                Err(error) => {
                    tracing::warn!(disk = %self.disks[index].name, error = error.0, "the disk's times can't be read")
                }
            }
        }
        self.stamping -= 1;
    }

    fn stamp_durable(&mut self, index: usize, good: bool, actions: &mut Vec<Action>) {
        let disk = &mut self.disks[index];
        if let Some(stamp) = disk.stamp_read.take_if(|_| good) {
            (disk.meta.stamp, disk.meta.stamped_ns) = (stamp.fingerprint, stamp.wall_ns);
        }
        self.stamping -= 1;
        if self.stamping == 0 {
            let metas = self.disks.iter().map(|disk| disk.meta.clone()).collect();
            self.post(Job::StoreStamps { metas }, actions);
        }
    }

    /// W6: a later good flush does not vouch for what this one lost. The guest is told by its next flush, the cut is
    /// undone, and "doubtful" is stored before any other cut: a host crash from then on means resynchronization. In
    /// buffered mode the pages are clean and lost already: resynchronization at once, on a fresh descriptor.
    pub(super) fn sync_failed(&mut self, index: usize, told: bool, actions: &mut Vec<Action>) {
        let disk = &mut self.disks[index];
        tracing::error!(disk = %disk.name, "a sync of the disk failed: it is doubtful from now on");
        disk.latched = !told && !mutant::active("sync-error-swallowed");
        disk.syncs.failed += 1;
        // Mutant: the next good one vouches for it all.
        if !mutant::active("failure-ended-behind-failed-sync") {
            disk.failed.sync_failed();
        }
        // Also if a flush is being told: should the process die before its reply is out, the successor tells. And should it
        // die before the meta says that the disk is doubtful, the successor stores it.
        self.header.set_latched(index, true);
        self.header.set_doubtful(index);
        let first = !disk.meta.doubtful;
        // Mutant: told is told, and a later sync is good again.
        disk.meta.doubtful = !mutant::active("doubt-forgotten");
        let buffered = !disk.direct;
        if !self.tracking {
            return;
        }
        if self.freeze.is_some() {
            self.undo_now("a sync of a disk failed");
        }
        if buffered {
            actions.push(Action::Reopen { disk: DiskIndex(index as u16) });
            self.require_resync(index, "a sync of the disk failed");
        }
        if buffered || first {
            self.store_metas(&[index], actions);
        }
    }
}
