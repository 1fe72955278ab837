//! Another host with the same vault: its disks have our group's name, or are copies of ours.

use super::*;

impl World {
    /// An event, here or on the other host, if there is one; there may come to be one.
    pub(super) fn with_twin(&mut self, twin: &mut Option<Box<Self>>) -> Result<(), Wrong> {
        if let Some(twin) = twin
            && self.rng.chance(400)
        {
            let lived = twin.event();
            self.trace.extend(twin.trace.drain(..).map(|line| format!("other host {line}")));
            return lived.map_err(|(oracle, what)| (oracle, format!("on the other host: {what}")));
        }
        self.event()?;
        let Some((from, kind)) = self.settings.twin.filter(|_| twin.is_none()) else { return Ok(()) };
        let ready = kind == Twin::Stranger || self.tracker.is_none();
        if self.events >= from && ready && self.target.borrow().length() > 0 {
            *twin = Some(Box::new(self.twin(kind)));
        }
        Ok(())
    }

    fn twin(&mut self, kind: Twin) -> Self {
        let plan = Plan { seed: self.plan.seed ^ 0x7717, ..self.plan.clone() };
        let mut twin = Self::new(plan, self.target.clone());
        twin.wall = self.wall + 1 + self.rng.below(1 << 30) as i128;
        twin.settings.twin = None;
        twin.harsh = None;
        twin.settings.vault_hands = 0;
        twin.settings.collects = false;
        match kind {
            Twin::Stranger => {
                // Whoever comes second is refused; whether he insists is his administrator's.
                twin.estranged = true;
                twin.obstinate = self.rng.chance(500);
                self.vault_meets("strangers with our group's name");
            }
            Twin::Clone => {
                twin.settings.direct = self.settings.direct;
                twin.hurt = self.is_hurt();
                twin.cost.copied = true;
                twin.geometry.clone_from(&self.geometry);
                twin.acked = vec![SectorMap::default(); self.disks.len()];
                twin.known = vec![SectorMap::default(); self.disks.len()];
                twin.doubted = vec![BTreeSet::new(); self.disks.len()];
                twin.folders = self.folders.iter().map(|folder| folder.copy(twin.faults.clone())).collect();
                let copy = |disk: &Rc<RefCell<Disk>>| Rc::new(RefCell::new(disk.borrow().clone()));
                twin.disks = self.disks.iter().map(copy).collect();
                let rng = Rc::new(RefCell::new(Rng::new(self.plan.seed ^ 0xd15d)));
                let facts = |disk: &Rc<RefCell<Disk>>| Facts {
                    disk: disk.clone(),
                    faults: twin.faults.clone(),
                    rng: rng.clone(),
                };
                twin.facts = twin.disks.iter().map(facts).collect();
                // What was copied is what a power cut would have left.
                let mut fate = Fate::draw(&mut twin.rng);
                for (disk, folder) in twin.disks.iter().zip(&twin.folders) {
                    disk.borrow_mut().host_crash(&mut fate);
                    disk.borrow_mut().sick = None;
                    folder.host_crash(&mut fate);
                }
                (twin.boots, twin.boot, twin.boot_ns) = (1 << 20, 1 << 20, twin.wall);
                (self.estranged, twin.estranged) = (true, true);
                (self.rivals, twin.rivals) = (true, true);
                self.vault_meets("clones");
            }
        }
        twin.pass(1_000_000);
        self.note(51, || format!("another host: {kind:?}"));
        twin
    }

    /// The other host goes, for good.
    pub(super) fn part_with(&mut self, twin: Option<Box<Self>>) {
        let Some(mut twin) = twin else { return };
        twin.kill_shippers();
        self.wrong = self.wrong.take().or(twin.wrong.take());
        self.counts.join(&twin.counts);
        self.digest ^= twin.digest;
    }
}
