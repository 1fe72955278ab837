//! The end of a life: faults stop, and replication must catch up by itself.

use super::*;

impl World {
    /// No more faults: replication catches up by itself, and then the newest point equals the disks.
    pub(super) fn finish(&mut self) -> Result<(), Wrong> {
        self.note(1, || "--- the faults stop".into());
        self.finishing = true;
        // A life of one workload may be to end once more while it recovers.
        if self.plan.workload.is_none() {
            self.faults.arm(None);
            self.armed = None;
        }
        self.faults.set_errors(0);
        self.folders.iter().for_each(|folder| folder.set_low(false));
        self.settings.write_errors = 0;
        self.disks.iter().for_each(|disk| disk.borrow_mut().sick = None);
        self.settings.lazy_ghosts = 0;
        self.settings.sync_errors = 0;
        self.settings.persist_errors = 0;
        self.settings.preserve_errors = 0;
        self.settings.preserve_limit = None;
        {
            let mut target = self.target.borrow_mut();
            let store = &mut target.store;
            (store.moods, store.down, store.full) = (Moods::default(), false, false);
            store.late.clear();
            store.late_deletes.clear();
            // What was damaged heals when everything is shipped again.
            self.heal = !store.damaged.is_empty();
        }
        self.shippers.iter_mut().for_each(|shipper| shipper.paused = 0);
        // Tracking is switched on again.
        if let Some(tracker) = self.tracker.as_mut().filter(|tracker| tracker.off) {
            tracker.stopping = true;
        }
        if self.heal {
            self.kill_shippers();
        }
        self.check_known();
        let mut quiet_from = None;
        for _ in 0..6_000 {
            self.event()?;
            let waits = !self.requests.is_empty() || !self.flushes.is_empty() || !self.again.is_empty();
            let busy = waits || self.tracker.is_none();
            if busy {
                quiet_from = None;
                continue;
            }
            let put = self.target.borrow().points.len();
            let from = *quiet_from.get_or_insert(put);
            if put <= from {
                continue;
            }
            let target = self.target.borrow();
            let newest = target.points.last().expect("more than before");
            let quiet = target.cuts.get(&newest.cut).is_some_and(|cut| cut.quiet);
            // S4: what has healed leaves no mark, or the next start would compare for nothing.
            if !quiet || self.is_marked() {
                continue;
            }
            let disks: Vec<_> = self.disks.iter().map(|disk| disk.borrow().image()).collect();
            let images = match target.images(newest.seq) {
                Ok(images) => images,
                // A freeze that was there already is no full one: the next is.
                Err(_) if self.heal => continue,
                Err(what) => return Err((Oracle::Image, what)),
            };
            if images != disks {
                let what = differences(&images, &disks);
                return Err((Oracle::Image, format!("the last point differs from the disk: {what}")));
            }
            if target.latest().is_none_or(|latest| latest.seq != newest.seq) {
                let what = format!("the last point is entry {}, and not the latest", newest.seq);
                return Err((Oracle::Lineage, what));
            }
            target.check_points().map_err(|what| (Oracle::Lineage, what))?;
            drop(target);
            self.look_again();
            return self.wrong.take().map_or(Ok(()), Err);
        }
        let states: Vec<_> = self.shippers.iter().map(Shipper::state).collect();
        let what = format!(
            "replication does not catch up: {} requests, {} flushes, tracker {}, shippers {states:?}, road {:?}",
            self.requests.len(),
            self.flushes.len(),
            self.tracker.is_some(),
            self.state(),
        );
        Err((Oracle::Liveness, what))
    }
}

fn differences(image: &[Vec<u64>], disks: &[Vec<u64>]) -> String {
    let mut text = Vec::new();
    for (disk, (image, now)) in image.iter().zip(disks).enumerate() {
        for (sector, (image, now)) in image.iter().zip(now).enumerate() {
            if image != now && text.len() < 12 {
                text.push(format!("disk {disk} sector {sector}: {image} for {now}"));
            }
        }
    }
    text.join(", ")
}
