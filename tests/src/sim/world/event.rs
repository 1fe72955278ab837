//! One event: time passes, and one of the things that can happen next does; then what was armed strikes.

use super::*;

impl World {
    /// One event.
    pub(super) fn event(&mut self) -> Result<(), Wrong> {
        self.events += 1;
        self.calm_store();
        self.be_harsh();
        self.hang();
        if self.events.is_multiple_of(16) {
            self.check_space();
        }
        let step = 1_000 + self.rng.below(300_000);
        self.pass(step);
        if self.tracker.is_none() {
            self.event_without_tracker();
        } else {
            self.event_with_tracker();
        }
        if self.struck {
            self.struck = false;
            let Strike { kind, leaves, .. } = self.armed.take().expect("what was armed struck");
            let mut fate = Fate::new(leaves);
            self.recovery.start = self.faults.steps() + 1;
            match kind {
                CrashKind::Shipper => self.strike_shipper(&mut fate),
                // What others did before the host went down is not told from what the tracker did (S3).
                CrashKind::Host if self.touched => self.crash(CrashKind::Process, &mut fate),
                kind => self.crash(kind, &mut fate),
            }
            self.look_again();
            self.strikes += 1;
            self.arm_next();
        }
        if self.recovery.end <= self.recovery.start && self.is_settled() {
            self.recovery.end = self.faults.steps() + 1;
        }
        match self.wrong.take() {
            Some(wrong) => Err(wrong),
            None => Ok(()),
        }
    }

    /// Shippers that would do something now.
    fn steppers(&self) -> Vec<usize> {
        let ready = |at: &usize| self.shippers[*at].can_step(self.events, self.mono);
        (0..self.shippers.len()).filter(ready).collect()
    }

    /// How much there is to collect for whom.
    fn collecting(&self) -> u64 {
        let late = !self.target.borrow().store.late_deletes.is_empty();
        let begins = self.settings.collects && !self.finishing && self.collectors.len() < 2;
        u64::from(late) + u64::from(begins) + 16 * self.ready_collectors().len() as u64
    }

    fn somebody_collects(&mut self) {
        let ready = self.ready_collectors();
        let late = !self.target.borrow().store.late_deletes.is_empty();
        let begins = self.settings.collects && !self.finishing && self.collectors.len() < 2;
        match self.rng.weighted(&[u64::from(begins), u64::from(late), 16 * ready.len() as u64]) {
            Some(0) => self.begin_collector(),
            Some(1) => self.delete_late(),
            _ => {
                let chosen = ready[self.rng.index(ready.len())];
                self.collect(chosen);
            }
        }
    }

    fn event_without_tracker(&mut self) {
        let ships = self.steppers();
        let late = !self.target.borrow().store.late.is_empty();
        let orphans = self.folders.iter().any(SimFolder::has_orphans);
        let mischief = self.plan.mischief && !self.finishing;
        let weights = [
            10,
            if ships.is_empty() { 0 } else { 15 },
            5 * u64::from(orphans),
            3 * u64::from(mischief),
            u64::from(late),
            self.collecting(),
        ];
        match self.rng.weighted(&weights) {
            Some(1) => {
                let chosen = ships[self.rng.index(ships.len())];
                self.ship(chosen);
            }
            Some(2) => self.land_orphan(),
            Some(3) => self.mischief_while_down(),
            Some(4) => self.land_late(),
            Some(5) => self.somebody_collects(),
            _ => self.start_tracker(),
        }
    }

    fn event_with_tracker(&mut self) {
        let tracker = self.tracker.as_ref().expect("it runs");
        let (operations, queue) = (tracker.operations.len() as u64, tracker.queue.len());
        let (marks, reports) = (tracker.marks.len(), tracker.reports.len());
        let stopping = tracker.stopping;
        if stopping && self.requests.is_empty() && self.flushes.is_empty() && !tracker.stop_begun {
            self.tracker.as_mut().expect("it runs").stop_begun = true;
            self.note(5, || "stop".into());
            self.stop_since = self.mono;
            return self.drive(|group, now, actions| group.stop(now, actions));
        }
        if tracker.stop_begun && tracker.group.stopped() && tracker.operations.is_empty() {
            return self.stopped();
        }
        if tracker.stop_begun && self.stops_in_vain() {
            self.counts.add("stops that came to no end");
            let mut fate = Fate::draw(&mut self.rng);
            return self.crash(CrashKind::Process, &mut fate);
        }
        let [hangs, _] = self.hangs();
        if tracker.group.wake_at().is_some_and(|at| at <= self.now()) && self.rng.chance(900) {
            return self.drive(|group, now, actions| group.tick(now, actions));
        }
        let calm = !self.finishing && !stopping;
        let mischief = self.plan.mischief && calm;
        let room = calm && self.guests && self.requests.len() + self.flushes.len() < self.settings.depth;
        let again = self.next_again().filter(|_| !stopping);
        let steppers = self.steppers();
        let late = !self.target.borrow().store.late.is_empty();
        let ghosts = self.disks.iter().any(|disk| disk.borrow().has_ghosts());
        let orphans = self.folders.iter().any(SimFolder::has_orphans);
        let weights = [
            if room { 30 } else { 0 },
            (operations * 12).min(60),
            if queue > 0 && !hangs { 12 } else { 0 },
            if marks > 0 { 6 } else { 0 },
            if reports > 0 { 14 } else { 0 },
            if steppers.is_empty() { 0 } else { 40 },
            4,
            2 * u64::from(ghosts) + 2 * u64::from(orphans),
            if mischief { 2 } else { 0 },
            if room { 2 } else { 0 },
            if self.shippers.is_empty() && (self.ships || self.finishing) { 6 } else { 0 },
            u64::from(late),
            if again.is_some() { 30 } else { 0 },
            self.collecting(),
        ];
        match self.rng.weighted(&weights) {
            Some(0) => self.guest_asks(),
            Some(1) => self.operate(),
            Some(2) => self.work(false),
            Some(3) => self.work(true),
            Some(4) => self.report(),
            Some(5) => {
                let chosen = steppers[self.rng.index(steppers.len())];
                self.ship(chosen);
            }
            Some(7) => {
                self.land_ghosts();
                if orphans {
                    self.land_orphan();
                }
            }
            Some(8) => self.mischief(),
            Some(9) => self.abandon(),
            Some(10) => self.begin_shipper(),
            Some(11) => self.land_late(),
            Some(12) => self.send_again(again.expect("weighed")),
            Some(13) => self.somebody_collects(),
            _ => {
                let jump = match self.rng.below(1000) {
                    draw if draw < self.settings.jumps && calm => 1_200_000_000,
                    // Longer than anybody waits.
                    draw if hangs && draw < 250 => 31_000_000_000,
                    draw if draw < 500 => 20_000_000,
                    draw if draw < 520 => 61_000_000_000,
                    _ => 400_000_000,
                };
                let jump = if self.finishing { 300_000_000 } else { jump };
                self.pass(jump);
                self.note(6, || "tick".into());
                let hanging = self.hanging(jump);
                self.drive_into(&hanging, |group, now, actions| group.tick(now, actions));
            }
        }
    }

    /// Writes that failed land, wholly, partly or not yet.
    fn land_ghosts(&mut self) {
        for disk in &self.disks {
            let ghosts = disk.borrow().ghosts();
            for name in ghosts {
                if self.settings.lazy_ghosts > 0 && self.rng.chance(self.settings.lazy_ghosts) {
                    continue;
                }
                let changed = disk.borrow_mut().land_some(name, &mut self.rng);
                self.counts.fault("ghost writes", changed);
            }
        }
    }

    fn stopped(&mut self) {
        self.note(33, || "stopped".into());
        let state = self.state().map_or("none", |state| state.road.name());
        self.counts.add(&format!("clean stop: {state}"));
        // W6: the last sync failed.
        let clean = self.tracker.as_ref().is_some_and(|tracker| tracker.group.stop_failure().is_none());
        self.counts.add(if clean { "clean stops" } else { "stops that are not clean" });
        let off = self.tracker.as_ref().is_some_and(|tracker| tracker.off);
        self.session_ends(if clean { Ended::Clean } else { Ended::Process });
        if clean && !off && self.faults.injected() == 0 && self.is_marked() {
            let what = "a clean stop leaves a mark that says that writes went untracked";
            self.is_wrong(Oracle::Conduct, what.into());
        }
        self.tracker = None;
        // What failed may land as long as the disk is locked (S2). Storage that applies it later is outside (DESIGN 1), and so a
        // clean stop leaves nothing in flight that a start would have to expect.
        self.land_ghosts();
        for disk in &self.disks {
            disk.borrow_mut().drop_ghosts();
        }
        self.lose_connections();
        if clean && self.plan.mischief && !self.finishing && self.rng.chance(250) {
            self.travel();
        }
    }

    /// Whether a disk says that it was written untracked.
    pub(super) fn is_marked(&self) -> bool {
        self.facts.iter().any(|facts| matches!(facts.mark(), Ok(Some(mark)) if mark.untracked))
    }
}
