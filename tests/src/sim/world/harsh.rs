//! Lives that are harsher than others, one in some: what random mischief meets too seldom is sought there, by dice of its own, so
//! that all other lives are as they would be without.

use super::engine::NO_SPACE;
use super::*;
use crate::sim::disk::Sick;

/// Dice, and what they have begun.
pub(super) struct Harsh {
    rng: Rng,
    /// Until this event the sidecars take nothing; what they took before; and what had mattered when that began.
    sick: Option<(u64, [u64; 2], u64)>,
    /// Until this event a disk is sick; and what had mattered when that began.
    disk: Option<(u64, u64)>,
}

/// Of a thousand lives.
const SHARE: u64 = 80;

impl Harsh {
    /// Those of a plan, if its life is one of them.
    pub(super) fn draw(plan: &Plan) -> Option<Self> {
        let mut rng = Rng::new(plan.seed ^ 0x4a85);
        (plan.mischief && rng.chance(SHARE)).then_some(Self { rng, sick: None, disk: None })
    }
}

impl World {
    fn chance(&mut self, per_mille: u64) -> bool {
        !self.finishing && self.harsh.as_mut().is_some_and(|harsh| harsh.rng.chance(per_mille))
    }

    fn crash_soon(&mut self, steps: u64) {
        let Some(harsh) = &mut self.harsh else { return };
        // What others did before the host went down is not told from what the tracker did (S3).
        let host = harsh.rng.chance(500) && !self.touched;
        let kind = if host { CrashKind::Host } else { CrashKind::Process };
        let steps = 1 + harsh.rng.below(steps);
        if self.armed.is_none() {
            let leaves = Leaves::Some(harsh.rng.draw());
            self.arm(Strike { step: self.faults.steps() + steps, kind, leaves });
        }
    }

    /// At each event.
    pub(super) fn be_harsh(&mut self) {
        if self.harsh.is_none() {
            return;
        }
        // A fold is over soon, and so is the chance to die in it.
        if self.state().is_some_and(|state| state.road == Road::Undoing) && self.chance(200) {
            self.crash_soon(6);
        }
        self.sicken();
        self.sicken_a_disk();
    }

    /// Before a start.
    pub(super) fn be_harsh_to_a_start(&mut self) {
        if self.chance(250) {
            self.crash_soon(40);
        }
        if self.chance(40) && self.disks.len() > 1 {
            self.lend_a_disk();
        }
    }

    /// Of what the sidecars' calls and writes have come to so far, how much mattered.
    fn felt(&self) -> u64 {
        self.mattered(&["calls that fail (EIO)", "calls that fail (no space)", "failed persists"])
    }

    fn mattered(&self, names: &[&str]) -> u64 {
        names.iter().map(|name| self.counts.mattered(name)).sum()
    }

    /// An error that stays: for a while every call into a sidecar fails, and every write.
    fn sicken(&mut self) {
        let begins = self.chance(2);
        let felt = self.felt();
        let Some(harsh) = &mut self.harsh else { return };
        match harsh.sick {
            None if begins => {
                let until = self.events + 20 + harsh.rng.below(150);
                harsh.sick = Some((until, [self.settings.call_errors, self.settings.persist_errors], felt));
                (self.settings.call_errors, self.settings.persist_errors) = (1000, 1000);
                self.faults.set_errors(1000);
            }
            Some((until, [calls, persists], before)) if until <= self.events && !self.finishing => {
                harsh.sick = None;
                (self.settings.call_errors, self.settings.persist_errors) = (calls, persists);
                self.faults.set_errors(calls);
                self.counts.fault("an error that stays", felt > before);
            }
            _ => {}
        }
    }

    /// An error of a disk that stays: for a while every write of it fails, or every sync, or both. It matters if one did.
    fn sicken_a_disk(&mut self) {
        let begins = self.chance(6);
        let felt = self.mattered(&["failed writes", NO_SPACE, "failed syncs"]);
        let Some(harsh) = &mut self.harsh else { return };
        match harsh.disk {
            None if begins => {
                harsh.disk = Some((self.events + 50 + harsh.rng.below(600), felt));
                let disk = &self.disks[harsh.rng.index(self.disks.len())];
                let errno = if harsh.rng.chance(800) { libc_errno::EIO } else { libc_errno::ENOSPC };
                let which = harsh.rng.below(4);
                disk.borrow_mut().sick =
                    Some(Sick { writes: (which > 0).then_some(errno), syncs: which < 2 });
            }
            Some((until, before)) if until <= self.events && !self.finishing => {
                harsh.disk = None;
                self.disks.iter().for_each(|disk| disk.borrow_mut().sick = None);
                self.counts.fault("an error of a disk that stays", felt > before);
                // So many failures are more than a successor is told of (W5).
                if self.chance(700) {
                    self.crash_soon(6);
                }
            }
            _ => {}
        }
    }

    /// One disk was served alone by somebody else, or so its meta says: it is none of this group's any more (C6).
    fn lend_a_disk(&mut self) {
        let Some(harsh) = &mut self.harsh else { return };
        let disk = harsh.rng.index(self.disks.len());
        if let Some(meta) = self.metas().swap_remove(disk) {
            let meta = Meta { members: vec![meta.disk], ..meta };
            self.folders[disk].overwrite("disk.meta", meta.encode());
            self.mishap("disks of another group");
            self.note(53, || format!("disk {disk} is of another group"));
        }
    }
}
