//! What an event loop does for the machine: its actions, operations on disks and files, jobs and what becomes of them.

use super::*;

/// A write that a file system refuses.
pub(super) const NO_SPACE: &str = "failed writes (no space)";

impl World {
    // ---- the engine ----

    /// Calls the machine, looks whether it cut, and executes its actions.
    pub(super) fn drive(&mut self, call: impl FnOnce(&mut Group, Nanos, &mut Vec<Action>)) {
        let now = self.now();
        let mut actions = Vec::new();
        let tracker = self.tracker.as_mut().expect("it runs");
        call(&mut tracker.group, now, &mut actions);
        self.execute(actions);
    }

    pub(super) fn execute(&mut self, actions: Vec<Action>) {
        let tracker = self.tracker.as_mut().expect("it runs");
        let cuts = tracker.group.cuts();
        if cuts != tracker.cuts {
            tracker.cuts = cuts;
            let compactions = tracker.group.compactions();
            self.counts.more("grown logs compacted", compactions - tracker.compactions);
            tracker.compactions = compactions;
            self.snapshot(&actions);
        }
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            if self.faults.step() {
                self.struck = true;
                return;
            }
            self.act(action);
            if self.struck {
                return;
            }
        }
    }

    pub(super) fn snapshot(&mut self, actions: &[Action]) {
        let state = self.state().expect("a tracker has a header");
        let record = self.header().expect("as above").read_cut(Generation(state.open.0 - 1));
        let cut = record.cut;
        if !record.internal {
            self.cut_at(record.time_ns);
        }
        self.counts.add("cuts");
        self.cost_of_cut(state.open);
        self.nothing_is_left();
        if record.internal {
            self.counts.add("cuts that nobody asked for");
        }
        self.note(13, || format!("CUT {cut}"));
        self.check_known();
        let images: Vec<_> = self.disks.iter().map(|disk| disk.borrow().image()).collect();
        let mut others = vec![BTreeMap::<usize, Vec<u64>>::new(); self.disks.len()];
        for (disk, others) in self.disks.iter().zip(&mut others) {
            for (sector, value) in disk.borrow().may_land() {
                others.entry(sector).or_default().push(value);
            }
        }
        for action in actions {
            if let Action::Submit { disk, change, offset, length, token, .. } = action {
                let value = if *change == Change::Write { token.0 } else { 0 };
                for sector in offset / SECTOR..(offset + length) / SECTOR {
                    others[disk.index()].entry(sector as usize).or_default().push(value);
                }
            }
        }
        if others.iter().any(|other| !other.is_empty()) {
            self.counts.add("cuts with writes in flight");
        }
        let quiet = self.finishing
            && self.requests.is_empty()
            && self.again.is_empty()
            && others.iter().all(BTreeMap::is_empty);
        let newest = self.disks.iter().map(|disk| {
            let disk = disk.borrow();
            (0..disk.sectors()).map(|sector| disk.newest(sector)).collect()
        });
        let newest = newest.collect();
        let snapshot = Snapshot { images, newest, host: self.plan.seed, others, quiet };
        self.target.borrow_mut().cuts.insert((cut, record.time_ns), snapshot);
    }

    pub(super) fn header(&self) -> Option<GroupHeader> {
        self.maps.get(HEADER).map(GroupHeader::new)
    }

    pub(super) fn state(&self) -> Option<State> {
        self.header().map(|header| header.state())
    }

    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Submit { id, disk, change, offset, length, durable, token } => {
                let disk = disk.index();
                let range = (offset / SECTOR) as usize..((offset + length) / SECTOR) as usize;
                let value = if change == Change::Write { token.0 } else { 0 };
                let name = self.disks[disk].borrow_mut().submit(range.clone(), value);
                self.note(14, || format!("submit {} disk {disk} {range:?}", token.0));
                match self.requests.get_mut(&token.0) {
                    Some(request) => request.submitted += range.len(),
                    None => self.is_wrong(Oracle::Conduct, format!("{} is submitted after its end", token.0)),
                }
                self.begin(Operation::Write { id, disk, name, range, durable });
            }
            Action::Sync { id, disk, inode } => {
                let disk = disk.index();
                let promise = self.disks[disk].borrow().sync_begins(inode);
                self.note(15, || format!("sync disk {disk}"));
                self.begin(Operation::Sync { id, disk, promise });
            }
            Action::Preserve { id, disk, freeze, offset, length } => {
                let disk = disk.index();
                let range = (offset / SECTOR) as usize..((offset + length) / SECTOR) as usize;
                self.note(16, || format!("preserve disk {disk} {range:?}"));
                let handle =
                    self.tracker.as_ref().and_then(|one| one.handles[disk].get(&SidecarFile::Store(freeze)));
                match handle.cloned() {
                    Some(store) => self.begin(Operation::Preserve { id, disk, store, range, read: None }),
                    None => self.begin(Operation::Failed { id, errno: libc_errno::EBADF }),
                }
            }
            Action::Persist { id, disk, file, offset, bytes } => {
                self.tempt(4);
                self.note(17, || {
                    format!("persist {file:?} disk {} at {offset}, {} bytes", disk.0, bytes.len())
                });
                let handle = self.tracker.as_ref().and_then(|one| one.handles[disk.index()].get(&file));
                match handle.cloned() {
                    Some(handle) => {
                        self.begin(Operation::Persist { id, of: file, file: handle, offset, bytes })
                    }
                    None => self.begin(Operation::Failed { id, errno: libc_errno::EBADF }),
                }
            }
            Action::Reply { token, result } => self.reply(token.0, result),
            Action::Job(job) => {
                let job = *job;
                if let Job::Mark { .. } = job {
                    self.cost_of_mark();
                }
                let tracker = self.tracker.as_mut().expect("it runs");
                match job {
                    Job::Mark { .. } | Job::Unmark { .. } => tracker.marks.push_back(job),
                    job => tracker.queue.push_back(job),
                }
            }
            Action::Answer { ticket, answer } => self.answer(ticket.0, *answer),
            Action::Reopen { disk } => {
                self.note(18, || format!("the cache of disk {} is dropped", disk.0));
                let changed = self.disks[disk.index()].borrow_mut().drop_cache();
                self.counts.fault("caches dropped", changed);
            }
        }
    }

    pub(super) fn begin(&mut self, operation: Operation) {
        self.tracker.as_mut().expect("it runs").operations.push(operation);
    }

    /// Something in flight goes on or ends.
    pub(super) fn operate(&mut self) {
        if self.faults.step() {
            self.struck = true;
            return;
        }
        let [_, hangs] = self.hangs();
        let operations = &mut self.tracker.as_mut().expect("it runs").operations;
        let at = self.rng.index(operations.len());
        match &mut operations[at] {
            Operation::Persist { .. } if hangs => return,
            Operation::Sync { .. } if !self.finishing && self.rng.chance(self.settings.lazy_syncs) => return,
            Operation::Write { disk, name, .. } if self.rng.chance(300) => {
                self.disks[*disk].borrow_mut().land_some(*name, &mut self.rng);
                return;
            }
            Operation::Preserve { disk, range, read: read @ None, .. } => {
                let disk = self.disks[*disk].borrow();
                *read = Some(range.clone().map(|sector| disk.read(sector)).collect());
                return;
            }
            _ => {}
        }
        let operation = operations.swap_remove(at);
        let (id, result, faults) = self.ended(operation);
        let told =
            |counts: &Counts| ["flushes that failed", "requests that failed"].map(|name| counts.get(name));
        let [flushes, requests] = told(&self.counts);
        let state: &[_] = if faults == [NO_SPACE] { &[] } else { faults };
        self.drive_into(state, |group, now, actions| group.completed(id, result, now, actions));
        let now = told(&self.counts);
        match faults {
            // Nothing of it can land later, and nothing is kept of it: what matters is that the guest is told.
            [NO_SPACE] => self.counts.fault(NO_SPACE, now[1] > requests),
            ["failed syncs"] => self.sync_failed(now[0] > flushes),
            _ => {}
        }
    }

    /// An operation ends, with these faults.
    fn ended(&mut self, operation: Operation) -> (OpId, Result<(), Errno>, &'static [&'static str]) {
        let eio = Err(Errno(libc_errno::EIO));
        match operation {
            Operation::Write { id, disk, name, range, durable } => {
                let mut cache = self.disks[disk].borrow_mut();
                let stays = cache.sick.and_then(|sick| sick.writes);
                if stays.is_some() || self.rng.chance(self.settings.write_errors) {
                    // A file system that refuses has nothing that could land later.
                    let once = if self.rng.chance(300) { libc_errno::ENOSPC } else { libc_errno::EIO };
                    let errno = stays.unwrap_or(once);
                    let ghost = errno == libc_errno::EIO && self.rng.chance(600);
                    cache.fail(name, ghost, &mut self.rng);
                    drop(cache);
                    self.note(19, || format!("write of {range:?} fails"));
                    self.cost_of_failure(disk, &range, durable);
                    let full = errno == libc_errno::ENOSPC;
                    let fault = if full { &[NO_SPACE] } else { &["failed writes"] };
                    return (id, Err(Errno(errno)), fault);
                }
                cache.complete(name);
                if durable {
                    let promise = cache.sync_of(range.clone());
                    cache.sync_ends(promise, true, &mut self.rng);
                }
                drop(cache);
                self.note(20, || format!("write of {range:?} is complete"));
                (id, Ok(()), &[])
            }
            Operation::Sync { id, disk, promise } => {
                let stays = self.disks[disk].borrow().sick.is_some_and(|sick| sick.syncs);
                let good = !stays && !self.rng.chance(self.settings.sync_errors);
                self.disks[disk].borrow_mut().sync_ends(promise, good, &mut self.rng);
                self.note(21, || format!("sync of disk {disk}: {good}"));
                if good { (id, Ok(()), &[]) } else { (id, eio, &["failed syncs"]) }
            }
            Operation::Preserve { id, store, range, read, .. } => {
                if self.rng.chance(self.settings.preserve_errors) {
                    return (id, eio, &["failed copies"]);
                }
                store.preserve(range.start, &read.expect("it was read"));
                self.counts.more("sectors preserved", range.len() as u64);
                self.note(22, || format!("preserved {range:?}"));
                (id, Ok(()), &[])
            }
            Operation::Persist { id, of, file, offset, bytes } => {
                if self.rng.chance(self.settings.persist_errors) {
                    file.persist_some(offset, &bytes, &mut self.rng);
                    self.note(23, || "a persist fails".into());
                    return (id, eio, &["failed persists"]);
                }
                file.persist(offset, &bytes);
                if let SidecarFile::Changes(_) = of {
                    self.counts.add("regions evicted");
                }
                self.note(24, || "persisted".into());
                (id, Ok(()), &[])
            }
            Operation::Failed { id, errno } => (id, Err(Errno(errno)), &[]),
        }
    }

    /// The worker does a job, step by step; a crash may strike within.
    pub(super) fn work(&mut self, mark: bool) {
        let tracker = self.tracker.as_mut().expect("it runs");
        let list = if mark { &mut tracker.marks } else { &mut tracker.queue };
        let job = list.pop_front().expect("weighed");
        let what = self.plan.trace.then(|| format!("{job:?}").chars().take(40).collect::<String>());
        if mark && !self.finishing {
            self.faults.set_errors(self.settings.call_errors.max(self.settings.mark_errors));
        }
        let failed = self.faults.injected_of();
        let changes = self.folders.iter().map(SimFolder::changes).sum::<u64>();
        match catch_unwind(AssertUnwindSafe(|| tracker.jobs.run(job))) {
            Ok(outcome) => {
                let mattered = stand::has_failed(&outcome.done);
                tracker.reports.push_back(outcome);
                self.calls_failed(failed, mattered);
                self.note(25, || format!("job {}", what.unwrap_or_default()));
            }
            Err(panic) if panic.is::<Crashed>() => {
                let mattered = self.changes() != changes;
                self.counts.fault("crashes inside a job", mattered);
                self.note(26, || format!("crash inside job {}", what.unwrap_or_default()));
                self.struck = true;
            }
            Err(panic) => resume_unwind(panic),
        }
        if mark && !self.finishing {
            self.faults.set_errors(self.settings.call_errors);
        }
    }

    pub(super) fn report(&mut self) {
        let tracker = self.tracker.as_mut().expect("it runs");
        let Outcome { opened, closed, done } = tracker.reports.pop_front().expect("weighed");
        for (disk, file, handle) in opened {
            tracker.handles[disk.index()].insert(file, handle);
        }
        let text = self.plan.trace.then(|| format!("{done:?}").chars().take(60).collect::<String>());
        self.note(27, || format!("report {}", text.unwrap_or_default()));
        match &done {
            JobDone::Sealed { result: Ok(()), .. } => {
                self.cost_of_seal();
                self.tempt(30);
            }
            JobDone::Released { result, .. } => {
                if result.is_ok() {
                    self.cost_of_release();
                }
                self.tempt(30);
            }
            JobDone::Marked { .. } => {
                self.counts.add("marks");
                self.tempt(50);
            }
            JobDone::Unmarked { .. } => {
                self.counts.add("heals");
                self.tempt(100);
            }
            JobDone::Sealed { .. } | JobDone::Forgotten { .. } => self.tempt(30),
            _ => {}
        }
        let faults: &[_] = if let JobDone::Watched { low: true } = done { &["space runs low"] } else { &[] };
        self.drive_into(faults, |group, now, actions| group.job_done(done, now, actions));
        if let Some(tracker) = &mut self.tracker {
            for (disk, file) in closed {
                tracker.handles[disk.index()].remove(&file);
            }
        }
    }
}
