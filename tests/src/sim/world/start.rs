//! A tracker starts, or fails to, and what its start may cost.

use super::*;

impl World {
    /// Why each disk is to be compared as a whole, if it is.
    pub(super) fn whole(&self) -> Vec<Option<String>> {
        let of = |folder: &SimFolder| {
            let meta = Meta::decode(&folder.peek("disk.meta")?).ok()?;
            meta.recheck.filter(|recheck| recheck.whole).map(|recheck| recheck.reason)
        };
        self.folders.iter().map(of).collect()
    }

    /// Promise 4: no crash makes the sidecar look damaged, if nobody damaged it and nothing failed.
    fn check_cost(&mut self, before: &[Option<String>]) {
        if self.faults.injected() > 0 || self.counts.get("logs damaged") > 0 {
            return;
        }
        for (disk, (before, now)) in before.iter().zip(self.whole()).enumerate() {
            if let Some(why) = now.filter(|why| before.is_none() && why.contains("the sidecar is damaged")) {
                self.is_wrong(
                    Oracle::Conduct,
                    format!("disk {disk} is compared as a whole after a crash: {why}"),
                );
            }
        }
    }

    pub(super) fn start_tracker(&mut self) {
        let candidates = (0..self.disks.len()).map(|index| Candidate {
            name: format!("disk{index}"),
            path: format!("disk{index}"),
            folder: self.folders[index].clone(),
            facts: self.facts[index].clone(),
            geometry: self.geometry[index],
            direct: self.settings.direct,
            align: 512,
        });
        let candidates: Vec<_> = candidates.collect();
        let off = !self.finishing && self.rng.chance(self.settings.off * 10);
        let config = GroupConfig {
            name: "sim".into(),
            session: Session(0),
            preserve_limit: self.settings.preserve_limit,
            preserve_deadline: Duration::from_millis(250),
            strict: self.settings.strict,
            off,
            bounds: self.settings.bounds,
        };
        let mut boot = [0; 16];
        boot[..8].copy_from_slice(&self.boot.to_le_bytes());
        let now = Now {
            start: start_name(),
            boot: BootId(boot),
            boot_ns: self.boot_ns,
            wall_ns: self.wall,
            monotonic: self.now(),
            since_boot: self.now(),
        };
        if self.plan.trace {
            for (disk, folder) in self.folders.clone().iter().enumerate() {
                for name in folder.listing() {
                    let bytes = folder.peek(&name).unwrap_or_default();
                    let log = towline_tracker::format::changes::read(&bytes[..], |_| ());
                    self.note(36, || format!("disk {disk}: {name}, {} bytes, {log:?}", bytes.len()));
                }
            }
        }
        let whole_before = self.whole();
        let before = self.faults.injected();
        let budget = self.settings.bounds.regions_cap << 15;
        let maps = self.maps.clone();
        let started =
            catch_unwind(AssertUnwindSafe(|| start(candidates, &maps, config, budget, now, disk_name)));
        let started = match started {
            Ok(Ok(started)) => started,
            Ok(Err(error)) => {
                self.note(34, || format!("the start is refused: {error}"));
                if self.faults.injected() == before {
                    self.is_wrong(Oracle::Conduct, format!("the start is refused: {error}"));
                }
                self.counts.add("starts that failed");
                self.starts_failed += 1;
                if self.starts_failed > 5 {
                    self.faults.set_errors(0);
                }
                return;
            }
            Err(panic) if panic.is::<Crashed>() => {
                self.counts.add("crashes inside the start");
                self.struck = true;
                return;
            }
            Err(panic) => resume_unwind(panic),
        };
        self.starts_failed = 0;
        self.sessions += 1;
        self.note(35, || format!("started session {}", started.session));
        self.check_cost(&whole_before);
        let Running { group, actions, jobs, opened } = started.run(self.maps.clone(), cut_name);
        let mut handles = vec![BTreeMap::new(); self.disks.len()];
        for (disk, file, handle) in opened {
            handles[disk.index()].insert(file, handle);
        }
        self.tracker = Some(Tracker {
            cuts: group.cuts(),
            compactions: group.compactions(),
            group,
            jobs,
            queue: VecDeque::new(),
            marks: VecDeque::new(),
            reports: VecDeque::new(),
            handles,
            operations: Vec::new(),
            stopping: false,
            stop_begun: false,
            off,
        });
        self.counts.more("sessions without tracking", u64::from(off));
        self.counts.add("starts");
        if let Some(state) = self.state() {
            self.counts.add(&format!("started in: {}", state.road.name()));
        }
        self.execute(actions);
    }
}
