//! A tracker starts, or fails to.

use super::*;

impl World {
    /// Whether somebody damaged the sidecars, or something failed.
    pub(super) fn is_hurt(&self) -> bool {
        let damaged = self.counts.get("logs damaged") + self.counts.get("intents damaged");
        self.hurt || self.faults.injected() > 0 || damaged > 0
    }

    /// This boot's.
    pub(super) fn boot_id(&self) -> BootId {
        let mut boot = [0; 16];
        boot[..8].copy_from_slice(&self.boot.to_le_bytes());
        BootId(boot)
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
        let now = Now {
            start: start_name(),
            boot: self.boot_id(),
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
        self.be_harsh_to_a_start();
        let found = self.found();
        let before = self.faults.injected_of();
        let budget = self.settings.bounds.regions_cap << 15;
        let maps = self.maps.clone();
        let started =
            catch_unwind(AssertUnwindSafe(|| start(candidates, &maps, config, budget, now, disk_name)));
        let started = match started {
            Ok(Ok(started)) => started,
            Ok(Err(error)) => {
                self.note(34, || format!("the start is refused: {error}"));
                self.calls_failed(before, true);
                if self.faults.injected_of() == before {
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
                self.start_cut_short(&found);
                self.struck = true;
                return;
            }
            Err(panic) => resume_unwind(panic),
        };
        self.touched = false;
        self.starts_failed = 0;
        self.sessions += 1;
        self.note(35, || format!("started session {}", started.session));
        self.calls_failed(before, self.start_latched(&found));
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
        self.counts.add("starts");
        let mishap = self.unjudged.has_mishaps();
        self.check_cost(&found, mishap, off);
        self.judge(&found, &actions);
        self.execute(actions);
    }
}
