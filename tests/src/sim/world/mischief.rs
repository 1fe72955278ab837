//! What goes wrong: crashes, foreign hands on files and disks, disks that travel to other hosts.

use super::*;

impl World {
    pub(super) fn land_orphan(&mut self) {
        self.counts.add("orphaned sidecar writes");
        for folder in &self.folders {
            folder.land_orphan(&mut self.rng);
        }
    }

    /// What other people do while no tracker runs.
    pub(super) fn mischief_while_down(&mut self) {
        match self.rng.below(20) {
            0 if !self.touched => {
                // Only what S3 can notice: later than the last sign of life, with the maps there.
                self.pass(3_500_000_000);
                self.touched = true;
                let disk = self.rng.index(self.disks.len());
                let sectors = self.disks[disk].borrow().sectors();
                for _ in 0..1 + self.rng.below(3) {
                    let sector = self.rng.index(sectors);
                    let value = 1 << 41 | self.rng.below(1 << 30);
                    self.disks[disk].borrow_mut().foreign_write(sector, value);
                    self.known[disk].remove(&sector);
                }
                self.counts.add("foreign writes");
                self.note(2, || format!("somebody writes to disk {disk}"));
            }
            // Nobody else may know of a sync that has just failed.
            1 if !self.touched && !self.settings.syncs_fail() => {
                self.maps.wipe();
                self.touched = true;
                self.counts.add("maps wiped");
                self.note(3, || "the maps are wiped".into());
            }
            2 if self.rng.chance(200) => {
                let disk = self.rng.index(self.disks.len());
                self.folders[disk].wipe();
                self.counts.add("sidecars wiped");
                self.note(4, || format!("the sidecar of disk {disk} is deleted"));
            }
            // What others did before the host went down is not told from what the tracker did (S3).
            3 if !self.touched => self.host_crash(),
            4 | 5 if !self.touched => self.travel(),
            6 | 7 => self.damage_a_log(),
            // What the maps say of a sync that has just failed is the other's to tell, too.
            8..12 if !self.touched && !self.settings.syncs_fail() => {
                self.maps.swap(&self.other_maps);
                self.touched = true;
                self.counts.add("starts with other maps");
                self.note(39, || "somebody else is to start the tracker".into());
            }
            _ => {}
        }
    }

    /// A change log is deleted or cut off, whichever it is.
    pub(super) fn damage_a_log(&mut self) {
        let disk = self.rng.index(self.disks.len());
        let folder = self.folders[disk].clone();
        let logs: Vec<_> = folder.listing().into_iter().filter(|name| name.ends_with(".changes")).collect();
        if logs.is_empty() {
            return;
        }
        let name = &logs[self.rng.index(logs.len())];
        let length = folder.peek(name).map_or(0, |bytes| bytes.len());
        let length = self.rng.chance(500).then(|| self.rng.index(length + 1));
        folder.damage(name, length);
        self.counts.add("logs damaged");
        self.note(38, || format!("{name} of disk {disk} is cut off at {length:?}"));
    }

    /// The disk and its sidecar move to another host, and later back to the first, whose maps are of old then.
    pub(super) fn travel(&mut self) {
        match self.other_host.take() {
            None => {
                let (boot, boot_ns, mono, wall) = (self.boot, self.boot_ns, self.mono, self.wall);
                let (maps, sessions) = (self.maps.copy(), self.sessions);
                self.other_host = Some(OtherHost { maps, boot, boot_ns, mono, wall, sessions });
                self.host_crash();
            }
            Some(host) if host.sessions < self.sessions => {
                self.host_crash();
                self.counts.add("returns to a host with old maps");
                self.note(37, || "the disk is back on an earlier host".into());
                self.maps.replace(&host.maps);
                (self.boot, self.boot_ns) = (host.boot, host.boot_ns);
                self.mono = host.mono + (self.wall - host.wall) as u64;
                // What a host that is up did is not told from what others did (S3).
                self.touched = true;
            }
            same => self.other_host = same,
        }
    }

    /// Crashes, stops, second shippers.
    pub(super) fn mischief(&mut self) {
        match self.rng.below(40) {
            0..=5 => {
                let kind = if self.rng.chance(500) { CrashKind::Host } else { CrashKind::Process };
                self.crash_within(60, kind);
            }
            6 => {
                self.tracker.as_mut().expect("it runs").stopping = true;
                self.note(7, || "a clean stop is asked for".into());
            }
            7 if self.shippers.len() < 2 => {
                self.shippers.push(Shipper::default());
                self.counts.add("second shippers");
            }
            9 => {
                let chosen = self.rng.index(self.shippers.len());
                self.kill_shipper(chosen);
            }
            11 => {
                let low = self.rng.chance(300);
                self.folders.iter().for_each(|folder| folder.set_low(low));
            }
            _ => {}
        }
    }

    // ---- crashes and starts ----

    /// A crash is to strike within so many steps.
    fn crash_within(&mut self, steps: u64, kind: CrashKind) {
        if self.armed.is_none() {
            let at = self.faults.steps() + 1 + self.rng.below(steps);
            self.faults.arm(Some(at));
            self.armed = Some(kind);
        }
    }

    /// Something was begun or ended upon which others rely: once in so many thousand times the host dies soon after.
    pub(super) fn tempt(&mut self, per_mille: u64) {
        if self.plan.mischief && !self.finishing && self.rng.chance(per_mille) {
            self.crash_within(16, CrashKind::Host);
        }
    }

    pub(super) fn crash(&mut self, kind: CrashKind) {
        if let Some(state) = self.state() {
            let fuzzy = if state.fuzzy { ", fuzzy" } else { "" };
            let road = if self.tracker.is_some() { state.road.name() } else { "starting" };
            self.counts.add(&format!("{kind:?} crash: {road}{fuzzy}"));
            self.counts.add(&format!("crash: {road}"));
            if self.tracker.is_some() && state.road != Road::None && !state.fuzzy {
                self.counts.add("crashes in an exact freeze");
            }
        }
        self.note(31, || format!("CRASH {kind:?}"));
        self.counts.add(&format!("{kind:?} crashes"));
        let operations = self.tracker.take().map(|tracker| tracker.operations).unwrap_or_default();
        for operation in operations {
            match operation {
                Operation::Persist { file, offset, bytes, .. } => file.orphan(offset, bytes),
                Operation::Preserve { store, range, read: Some(read), .. } if self.rng.chance(500) => {
                    store.preserve(range.start, &read);
                }
                _ => {}
            }
        }
        for disk in &self.disks {
            disk.borrow_mut().process_crash(&mut self.rng);
        }
        self.doubted.iter_mut().for_each(BTreeSet::clear);
        self.lose_connections();
        if kind == CrashKind::Host {
            self.host_crash();
        }
    }

    pub(super) fn lose_connections(&mut self) {
        self.requests.clear();
        self.flushes.clear();
        self.tickets.clear();
        for shipper in &mut self.shippers {
            let keep = self.rng.chance(700);
            shipper.disconnected(keep);
        }
        self.touched = false;
    }

    pub(super) fn host_crash(&mut self) {
        self.counts.add("host restarts");
        self.note(32, || "the host restarts".into());
        for index in 0..self.shippers.len() {
            // The put may have been on its way.
            if self.shippers[index].is_publishing() && self.rng.chance(500) {
                let step = self.with_port(|shippers, port| shippers[index].step(port));
                if let Step::Put(seq) = step {
                    self.put(index, seq);
                }
            }
        }
        self.shippers = vec![Shipper::default()];
        self.maps.wipe();
        self.other_maps.wipe();
        for (disk, folder) in self.disks.iter().zip(&self.folders) {
            disk.borrow_mut().host_crash(&mut self.rng);
            folder.host_crash(&mut self.rng);
        }
        self.acked.iter_mut().for_each(BTreeMap::clear);
        self.known.iter_mut().for_each(BTreeMap::clear);
        self.pass(5_000_000_000);
        self.boots += 1;
        self.boot = self.boots;
        self.boot_ns = self.wall;
        self.mono = 1_000_000_000;
        self.pass(1_000_000_000);
        // Foreign writes must come later than this boot and its slack.
        self.touched = false;
    }
}
