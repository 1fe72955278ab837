//! A worker that hangs: for long no job comes back, and sometimes nothing that is written to a sidecar either, across whatever
//! else happens, a stop or a crash among it.

use super::*;

/// One.
pub(super) struct Hang {
    /// It goes on at this event.
    until: u64,
    /// Writes to sidecars hang, too.
    writes: bool,
    /// A session ended under it, or a shipper gave up waiting.
    mattered: bool,
}

/// How long a stop waits for what does not answer (`engine::STOP_LIMIT`).
const STOP_LIMIT: u64 = towline_tracker::engine::STOP_LIMIT.as_nanos() as u64;

impl World {
    /// At each event: one begins where there is something to hang in, or has its end.
    pub(super) fn hang(&mut self) {
        let over = |hang: &mut Hang| hang.until <= self.events || self.finishing;
        if let Some(Hang { mattered, .. }) = self.hang.take_if(over) {
            self.counts.fault("jobs that hang", mattered);
        }
        let works = self.tracker.as_ref().is_some_and(|tracker| !tracker.queue.is_empty());
        let begins = works && self.hang.is_none() && !self.finishing && self.settings.hangs > 0;
        if begins && self.rng.chance(self.settings.hangs) {
            let until = self.events + 30 + self.rng.below(400);
            self.hang = Some(Hang { until, writes: self.rng.chance(400), mattered: false });
            self.note(56, || "the worker hangs".into());
            // Who stops a tracker that seems to hang, or kills it, does so now.
            match self.rng.below(5) {
                0 => self.tracker.as_mut().expect("it works").stopping = true,
                1 => self.crash_within(100, CrashKind::Process),
                _ => {}
            }
        }
    }

    /// Whether jobs hang; and whether writes to sidecars do.
    pub(super) fn hangs(&self) -> [bool; 2] {
        [self.hang.is_some(), self.hang.as_ref().is_some_and(|hang| hang.writes)]
    }

    /// Something came of it.
    pub(super) fn hang_matters(&mut self) {
        self.hang.iter_mut().for_each(|hang| hang.mattered = true);
    }

    /// A stop that waits in vain comes to an end: whoever stops is left with what a crash leaves.
    pub(super) fn stops_in_vain(&self) -> bool {
        self.hang.is_some() && self.stop_since + STOP_LIMIT < self.mono
    }

    /// A session dies in it. What hangs is done, in part or in whole or not at all, before the lock is free (S2).
    pub(super) fn dies_in_it(&mut self) {
        if self.hang.is_none() {
            return;
        }
        let job = self.tracker.as_mut().and_then(|tracker| tracker.queue.pop_front());
        let Some(job) = job else { return };
        self.hang_matters();
        if self.rng.chance(500) {
            let steps = self.faults.steps() + 1 + self.rng.below(20);
            let leaves = Leaves::Some(self.rng.draw());
            self.faults.arm(Some((steps, leaves)));
            let jobs = &mut self.tracker.as_mut().expect("it had a job").jobs;
            let done = catch_unwind(AssertUnwindSafe(|| drop(jobs.run(job))));
            self.faults.arm(None);
            self.armed = None;
            if let Err(panic) = done
                && !panic.is::<Crashed>()
            {
                resume_unwind(panic);
            }
        }
    }
}
