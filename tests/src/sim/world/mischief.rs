//! What goes wrong: crashes, foreign hands on files and disks, disks that travel to other hosts.

use super::*;
use towline_tracker::format::intents;

/// Nanoseconds.
const HOUR: i128 = 3_600_000_000_000;

impl World {
    pub(super) fn land_orphan(&mut self) {
        for folder in &self.folders {
            self.counts.faults(folder.land_orphan(&mut Fate::draw(&mut self.rng)));
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
                    self.known[disk].remove(sector);
                }
                self.mishap("foreign writes");
                self.note(2, || format!("somebody writes to disk {disk}"));
            }
            // Nobody else may know of a sync that has just failed.
            1 if !self.touched && !self.a_sync_failed() => {
                self.maps.wipe();
                self.touched = true;
                self.mishap("maps wiped");
                self.note(3, || "the maps are wiped".into());
            }
            2 if self.rng.chance(200) => {
                let disk = self.rng.index(self.disks.len());
                self.folders[disk].wipe();
                self.mishap("sidecars wiped");
                self.note(4, || format!("the sidecar of disk {disk} is deleted"));
            }
            // What others did before the host went down is not told from what the tracker did (S3).
            3 if !self.touched => {
                let mut fate = Fate::draw(&mut self.rng);
                self.host_crash(&mut fate);
            }
            4 | 5 if !self.touched => self.travel(),
            6 | 7 => self.damage_a_log(),
            15 | 16 if self.rng.chance(400) => self.damage_intents(),
            // What the maps say of a sync that has just failed is the other's to tell, too.
            8..12 if !self.touched && !self.a_sync_failed() => {
                self.maps.swap(&self.other_maps);
                self.touched = true;
                self.mishap("starts with other maps");
                self.note(39, || "somebody else is to start the tracker".into());
            }
            12..15 if !self.touched && self.settings.resizes => self.resize(),
            _ => {}
        }
    }

    /// A disk becomes larger or smaller. As what others write: later than the last sign of life.
    pub(super) fn resize(&mut self) {
        self.pass(3_500_000_000);
        self.touched = true;
        let disk = self.rng.index(self.disks.len());
        let sectors = ((40 + self.rng.below(120)) * 8 + self.rng.below(2) * 3) as usize;
        let before = self.disks[disk].borrow().sectors();
        self.disks[disk].borrow_mut().resize(sectors);
        self.geometry[disk].size = sectors as u64 * SECTOR;
        self.acked[disk].truncate(sectors);
        self.known[disk].truncate(sectors.min(before));
        self.mishap(if sectors < before { "disks shrunk" } else { "disks grown" });
        self.note(50, || format!("disk {disk} has {sectors} sectors, and had {before}"));
    }

    /// Whether somebody was told of a sync that failed, and nobody else can know.
    fn a_sync_failed(&self) -> bool {
        self.disks.iter().any(|disk| disk.borrow().failed)
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
        self.mishap("logs damaged");
        self.note(38, || format!("{name} of disk {disk} is cut off at {length:?}"));
    }

    /// A bit of the intents flips: rot (I2).
    fn damage_intents(&mut self) {
        let disk = self.rng.index(self.disks.len());
        let Some(name) = self.metas().swap_remove(disk).map(|meta| meta.intents) else { return };
        let slot = if self.rng.chance(500) { 0 } else { intents::slot_stride(1) };
        let at = slot + self.rng.index(intents::SECTOR);
        self.folders[disk].flip(&name, at, 1 << self.rng.below(8));
        self.mishap("intents damaged");
        self.note(55, || format!("byte {at} of {name} of disk {disk} is another"));
    }

    /// The disk and its sidecar move to another host, and later back to the first, whose maps are of old then.
    pub(super) fn travel(&mut self) {
        let mut fate = Fate::draw(&mut self.rng);
        match self.other_host.take() {
            None => {
                let (boot, boot_ns, mono, elapsed) = (self.boot, self.boot_ns, self.mono, self.elapsed);
                let (maps, sessions) = (self.maps.copy(), self.sessions);
                self.other_host = Some(OtherHost { maps, boot, boot_ns, mono, elapsed, sessions });
                self.host_crash(&mut fate);
            }
            Some(host) if host.sessions < self.sessions => {
                self.host_crash(&mut fate);
                self.mishap("returns to a host with old maps");
                self.note(37, || "the disk is back on an earlier host".into());
                self.maps.replace(&host.maps);
                (self.boot, self.boot_ns) = (host.boot, host.boot_ns);
                self.mono = host.mono + (self.elapsed - host.elapsed);
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
            7 if self.shippers.len() == 1 => {
                self.second_shipper();
            }
            8 | 9 if !self.shippers.is_empty() => {
                let chosen = self.rng.index(self.shippers.len());
                let mut fate = Fate::draw(&mut self.rng);
                self.kill_shipper(chosen, &mut fate);
                self.look_again();
            }
            10 if !self.shippers.is_empty() => self.disturb_shipper(),
            11 => {
                let low = self.rng.chance(300);
                self.folders.iter().for_each(|folder| folder.set_low(low));
            }
            12 | 13 => self.disturb_store(),
            14 | 17 | 18 if self.settings.vault_hands > 0 => self.lay_hands_on_the_vault(),
            15 if self.settings.clock => {
                let hours = self.hours();
                self.wall += hours * HOUR;
                self.pass(0);
                // What hides among the tracker's own writes moves with the clock (S3).
                self.touched = true;
                self.mishap("clock jumps");
                self.note(45, || format!("the clock jumps by {hours} h"));
            }
            _ => {}
        }
    }

    /// By how much the clock jumps: hours, or years, as one does whose battery is empty or that is set by hand.
    fn hours(&mut self) -> i128 {
        const YEAR: i128 = 8766;
        if self.rng.chance(700) {
            return self.rng.below(48) as i128 - 24;
        }
        // A clock of nanoseconds in 64 bits ends in 2554; the tracker starts with none before 1970.
        let year = 1971 + self.rng.below(579) as i128;
        (year - 1970) * YEAR - self.wall / HOUR
    }

    /// A shipper is paused, told to stop, or loses its connection.
    fn disturb_shipper(&mut self) {
        let chosen = self.rng.index(self.shippers.len());
        let until = self.events + 20 + self.rng.below(400);
        let number = self.shippers[chosen].number;
        let what = match self.rng.below(3) {
            0 => {
                self.pause(chosen, until);
                "paused"
            }
            1 => {
                self.shippers[chosen].stop.ask();
                self.counts.add("shippers told to stop");
                "told to stop"
            }
            _ => {
                self.tickets.retain(|_, of| *of != number);
                self.shippers[chosen].disconnect();
                self.met(number, vec![("shippers disconnected", String::new())]);
                "disconnected"
            }
        };
        self.note(46, || format!("shipper {number} is {what}"));
    }

    /// The store goes down, or is full, for a while.
    fn disturb_store(&mut self) {
        let mut target = self.target.borrow_mut();
        let store = &mut target.store;
        if self.settings.moods.fails == 0 {
            return;
        }
        store.down = self.rng.chance(500);
        store.full = !store.down;
        let (down, full) = (store.down, store.full);
        drop(target);
        self.trouble = self.events + 10 + self.rng.below(150);
        self.note(47, || format!("the store: down {down}, full {full}"));
    }

    /// The store's trouble has an end.
    pub(super) fn calm_store(&mut self) {
        if self.trouble == self.events {
            let store = &mut self.target.borrow_mut().store;
            (store.down, store.full) = (false, false);
        }
    }

    /// The crash struck when a shipper was to do something.
    pub(super) fn strike_shipper(&mut self, fate: &mut Fate) {
        match self.shippers.iter().position(|shipper| shipper.number == self.striking) {
            Some(chosen) => self.kill_shipper(chosen, fate),
            // Inside a job or the start no shipper dies alone.
            None => self.crash(CrashKind::Process, fate),
        }
        self.striking = 0;
    }

    /// The vault is copied, put back to an old copy, damaged, or another one.
    fn lay_hands_on_the_vault(&mut self) {
        // Who is away comes back sooner: only then is there a vault with an image that is not the last one's.
        let away = self.counts.get("vaults changed") % 2 == 1;
        if !away && (self.rng.chance(400) || self.backup.is_none()) {
            self.backup = Some(self.target.borrow().store.copy());
            return;
        }
        if self.rng.chance(if away { 700 } else { 300 }) && self.settings.twin.is_none() {
            self.kill_shippers();
            self.stop_collectors();
            self.target.borrow_mut().switch();
            self.backup = None;
            self.vault_meets("vaults changed");
            self.note(52, || "another vault".into());
            return;
        }
        if let Some(backup) = self.backup.take_if(|_| self.rng.chance(500)) {
            self.kill_shippers();
            self.stop_collectors();
            let mut target = self.target.borrow_mut();
            target.store.put_back(&backup);
            target.forget_points();
            drop(target);
            self.backup = Some(backup);
            // The group may be of nobody again: a stranger who was refused so far may come first now.
            self.estranged |= self.counts.get("strangers with our group's name") > 0;
            self.vault_meets("vaults put back");
            self.note(48, || "the vault is put back to an old copy".into());
            return;
        }
        let mut target = self.target.borrow_mut();
        // Of a catalog's two copies one is to be left.
        let catalog = |name: &String| name.contains("/catalog/");
        let left = !target.store.damaged.iter().any(catalog);
        let names = target.store.names().filter(|name| *name != "vault" && (left || !catalog(name)));
        // What is damaged again and again may look like anything, also like what is newer than we are.
        let names = names.filter(|name| !target.store.damaged.contains(*name));
        let names: Vec<_> = names.cloned().collect();
        if !names.is_empty() {
            // Of all objects the log's newest entries are looked at the most: half of the time it is one of them.
            let entries = names.iter().filter(|name| name.contains("/log/"));
            let log: Vec<_> = entries.rev().take(2).filter(|_| self.rng.chance(500)).collect();
            let name = log.first().copied().unwrap_or(&names[self.rng.index(names.len())]);
            target.store.damage(name, &mut self.rng);
            drop(target);
            self.vault_meets("objects damaged");
            self.note(49, || format!("{name} is damaged"));
            self.look_again();
        }
    }

    // ---- crashes and starts ----

    /// A crash is to strike within so many steps.
    pub(super) fn crash_within(&mut self, steps: u64, kind: CrashKind) {
        if self.armed.is_none() {
            let at = self.faults.steps() + 1 + self.rng.below(steps);
            let leaves = Leaves::Some(self.rng.draw());
            self.arm(Strike { step: at, kind, leaves });
        }
    }

    /// Something was begun or ended upon which others rely: once in so many thousand times the host dies soon after.
    pub(super) fn tempt(&mut self, per_mille: u64) {
        if self.plan.mischief && !self.finishing && self.rng.chance(per_mille) {
            self.crash_within(16, CrashKind::Host);
        }
    }

    pub(super) fn crash(&mut self, kind: CrashKind, fate: &mut Fate) {
        if let Some(state) = self.state().filter(|_| self.tracker.is_some()) {
            self.crashed(kind, state);
        }
        self.note(31, || format!("CRASH {kind:?}"));
        self.counts.add(&format!("{kind:?} crashes"));
        self.dies_in_it();
        let operations = self.tracker.take().map(|tracker| tracker.operations).unwrap_or_default();
        for operation in operations {
            match operation {
                Operation::Persist { file, offset, bytes, .. } => file.orphan(offset, bytes),
                Operation::Preserve { store, range, read: Some(read), .. } if fate.lands(500) => {
                    store.preserve(range.start, &read);
                }
                _ => {}
            }
        }
        for disk in &self.disks {
            self.counts.faults(disk.borrow_mut().process_crash(fate));
        }
        self.doubted.iter_mut().for_each(BTreeSet::clear);
        if self.plan.mischief && kind == CrashKind::Process && self.rng.chance(700) {
            self.clients_wait();
        }
        self.lose_connections();
        if kind == CrashKind::Host {
            self.host_crash(fate);
        }
    }

    pub(super) fn lose_connections(&mut self) {
        self.requests.clear();
        self.flushes.clear();
        self.tickets.clear();
        self.shippers.iter_mut().for_each(Shipper::disconnect);
    }

    pub(super) fn host_crash(&mut self, fate: &mut Fate) {
        self.counts.add("host restarts");
        self.note(32, || "the host restarts".into());
        while !self.shippers.is_empty() {
            self.kill_shipper(0, fate);
        }
        self.nothing_is_left();
        self.again.clear();
        self.opened.clear();
        self.maps.wipe();
        self.other_maps.wipe();
        self.maps_are_gone();
        self.cost_of_host();
        for (disk, folder) in self.disks.iter().zip(&self.folders) {
            self.counts.faults(disk.borrow_mut().host_crash(fate));
            self.counts.faults(folder.host_crash(fate));
        }
        self.acked.iter_mut().for_each(SectorMap::clear);
        self.known.iter_mut().for_each(SectorMap::clear);
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
