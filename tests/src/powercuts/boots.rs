//! Cuts of the machine itself: it boots, recovers, makes a point, is loaded, and its power is cut again; then the
//! drive loses any part of what was not flushed.

use super::drives::Drives;
use super::guest::{Orders, Task};
use super::image::Image;
use super::load::Tears;
use super::machine::{Ended, Kind, Machine};
use super::mark::Mark;
use super::record::{Loss, Record};
use super::scene::{DRIVES, Points, Said, Scene, blank, folder};
use super::{Leg, far_loss, first_drives};
use crate::kills::eye::State;
use crate::sim::rng::Rng;
use std::path::PathBuf;

/// One machine and its drives, life after life.
struct Lives<'a, 'b> {
    leg: &'a mut Leg<'b>,
    rng: Rng,
    drives: Drives,
    life: u64,
    /// What the disk held before the last life that wrote, that life, and what it had said.
    before: PathBuf,
    written: Option<(Orders, Said)>,
    points: Points,
}

/// Cuts the power of one machine so many times.
///
/// # Errors
/// The first promise that is broken.
pub(super) fn run(leg: &mut Leg<'_>) -> Result<(), String> {
    let folder = folder();
    let rng = Rng::new(leg.seed);
    let drives = Drives::serve(&folder.path().join("drives"), first_drives(folder.path(), leg.kind))
        .map_err(|error| error.to_string())?;
    let before = blank(&folder.path().join("before"));
    let cuts = leg.cuts;
    let mut lives = Lives { leg, rng, drives, life: 1, before, written: None, points: Points::new() };
    for _ in 0..cuts {
        lives.cut()?;
    }
    lives.look()
}

impl Lives<'_, '_> {
    /// A life that ends with a power cut.
    fn cut(&mut self) -> Result<(), String> {
        let mut missing = self.leg.states.missing();
        if self.life == 1 {
            missing[State::Recovery as usize] = 0;
        }
        let aim = self.rng.weighted(&missing).map_or(State::Other, |state| State::ALL[state]);
        let reset = self.rng.chance(500);
        let orders = self.orders(Task::Cut { aim, reset });
        let record = self.live(&orders)?;
        let moment = record.events().len();
        let mut states = record.marks(moment).filter_map(|(_, text)| match Mark::read(text) {
            Some(Mark::State(state)) => Some(state),
            _ => None,
        });
        let state = states.next_back().unwrap_or(State::Other);
        self.leg.states.count(state);
        self.leg.tally.cut(self.leg.kind, state);
        if aim != State::Recovery {
            self.written = Some((orders, Said::until(&record, moment, orders.life)));
        }
        let some = Loss::Some(self.leg.kind.whole());
        let near = [Loss::Nothing, Loss::All, some, some][self.rng.index(4)];
        let losses = [near, far_loss(&mut self.rng)];
        let left = record.cuts().at(moment, &losses, &mut self.rng);
        self.drives.put(left);
        Ok(())
    }

    /// A life that only recovers.
    fn look(&mut self) -> Result<(), String> {
        let orders = self.orders(Task::Recover);
        self.live(&orders).map(drop)
    }

    fn orders(&self, task: Task) -> Orders {
        Orders { seed: self.leg.seed, life: self.life, task }
    }

    /// Lives, and compares what it found when it had recovered.
    fn live(&mut self, orders: &Orders) -> Result<Record, String> {
        let ended = self.leg.machine.live(self.leg.kind, &self.drives, orders);
        self.life += 1;
        if let Ended::Failed(why) = ended {
            return Err(format!("life {}: {why}", orders.life));
        }
        let record = self.drives.take();
        if let Some((at, json)) = recovered(&record) {
            let images = record.cuts().at(at, &[Loss::Nothing; 2], &mut self.rng);
            self.compare(&images, &json).map_err(|why| format!("life {}: {why}", orders.life))?;
        }
        Ok(record)
    }

    /// The machine has recovered, and nobody writes: all that was promised is there.
    fn compare(&mut self, images: &[Image], json: &str) -> Result<(), String> {
        let told: serde_json::Value =
            serde_json::from_str(json).map_err(|error| format!("{error}: {json}"))?;
        let (status, point) = (&told["status"], &told["point"]);
        let scene = Scene::new(images);
        let written =
            self.written.as_ref().map_or(0, |(_, said)| said.durable.iter().map(|batch| batch + 1).sum());
        if self.life > 2 {
            let read = scene.recovered(status, point, written)?;
            self.leg.tally.recovered(read);
        }
        if let Some((orders, said)) = self.written.take() {
            let load = orders.load();
            scene.kept(&load, &self.before, &said, Tears::Sectors)?;
            self.leg.tally.batches += said.durable.iter().sum::<u64>();
            // Made in the life that was cut off: each is one instant of it.
            let points = scene.points();
            let newest = points.iter().filter(|id| !self.points.contains_key(*id));
            for id in newest.filter(|id| **id != point["id"]) {
                let image = scene.restore(id)?;
                load.check_point(&image, &self.before).map_err(|why| format!("point {id}: {why}"))?;
                std::fs::remove_file(image).map_err(|error| error.to_string())?;
                self.leg.tally.points += 1;
            }
        }
        self.remember(&scene)
    }

    /// Points that were seen before are what they were; what the disk holds now is what the next life begins with.
    fn remember(&mut self, scene: &Scene) -> Result<(), String> {
        scene.verify()?;
        let points = scene.points();
        if let Some(lost) = self.points.keys().find(|id| !points.contains(id)) {
            return Err(format!("point {lost} is gone"));
        }
        for id in &points {
            match self.points.get(id) {
                Some(_) if !self.rng.chance(300) => {}
                Some(known) if *known != scene.digest(id)? => return Err(format!("point {id} is another")),
                Some(_) => {}
                None => drop(self.points.insert(id.clone(), scene.digest(id)?)),
            }
        }
        std::fs::rename(scene.restore("latest")?, &self.before).map_err(|error| error.to_string())
    }
}

/// Where a machine had recovered, and what it said.
fn recovered(record: &Record) -> Option<(usize, String)> {
    record.marks(record.events().len()).find_map(|(at, text)| match Mark::read(text) {
        Some(Mark::Recovered(json)) => Some((at, json)),
        _ => None,
    })
}

/// Cuts a machine off whose sidecar has a drive of its own, which had stopped answering. What the guests had
/// written since then is in no change log: the mark on the disk says so, and the disk is compared.
///
/// # Errors
/// The first promise that is broken.
pub fn stalled(seed: u64) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let (machine, folder) = (Machine::new(&[DRIVES[0], DRIVES[1], "apart"]), folder());
    let mut first = first_drives(folder.path(), Kind::Ext4);
    first.push(("apart", first[1].1.clone()));
    let drives = Drives::serve(&folder.path().join("drives"), first).map_err(|error| error.to_string())?;
    let before = blank(&folder.path().join("before"));
    let live = |task, life| {
        let orders = Orders { seed, life, task };
        match machine.live(Kind::Ext4, &drives, &orders) {
            Ended::Asked => Ok((orders, drives.take())),
            Ended::Failed(why) => Err(why),
        }
    };
    let (orders, record) = live(Task::Stall, 1)?;
    let moment = record.events().len();
    let given_up = record.marks(moment).find(|(_, text)| Mark::read(text) == Some(Mark::Degraded));
    let given_up = given_up.ok_or("the tracker did not give up")?.0;
    let [then, said] = [given_up, moment].map(|moment| Said::until(&record, moment, orders.life));
    if then.durable.iter().zip(&said.durable).any(|(then, now)| then >= now) {
        return Err(format!("guests waited for the sidecar: {then:?}, {said:?}"));
    }
    let some = Loss::Some(Kind::Ext4.whole());
    drives.put(record.cuts().at(moment, &[some, Loss::Nothing, some], &mut rng));
    let (_, record) = live(Task::Recover, 2)?;
    let (at, json) = recovered(&record).ok_or("it did not recover")?;
    let told: serde_json::Value = serde_json::from_str(&json).map_err(|error| format!("{error}: {json}"))?;
    if told["status"]["disks"][0]["resync"].is_null() {
        return Err(format!("writes went untracked, and nothing says so: {json}"));
    }
    let scene = Scene::new(&record.cuts().at(at, &[Loss::Nothing; 3], &mut rng));
    scene.kept(&orders.load(), &before, &said, Tears::Sectors)?;
    scene.newest_is_the_disk(&told["point"])
}
