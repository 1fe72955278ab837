//! Cuts of a record: at the flushes of the disk's drive and anywhere between, each with another part of what was
//! not flushed missing. The tracker recovers on this host: as after a power cut there are no maps, and another
//! boot.

use super::drives::Drives;
use super::guest::{Orders, Task};
use super::load::Tears;
use super::machine::Ended;
use super::mark::Mark;
use super::record::{Event, Loss, Record};
use super::scene::{Points, Said, Scene, blank, folder};
use super::{Leg, Tally, far_loss, first_drives};
use crate::kills::eye::{State, maps_folder};
use crate::kills::states::States;
use crate::live::process::Running;
use crate::sim::rng::Rng;
use std::path::Path;

/// Freezes that a machine releases while it wanders, at most.
const RELEASES: u64 = 16;

/// Records one machine, and cuts its record so many times.
///
/// # Errors
/// The first promise that is broken.
pub(super) fn run(leg: &mut Leg<'_>) -> Result<(), String> {
    let (mut rng, folder, kind) = (Rng::new(leg.seed), folder(), leg.kind);
    let drives = Drives::serve(&folder.path().join("drives"), first_drives(folder.path(), kind))
        .map_err(|error| error.to_string())?;
    let releases = RELEASES.min(3 + leg.cuts as u64 / 8);
    let orders = Orders { seed: leg.seed, life: 1, task: Task::Wander { releases } };
    if let Ended::Failed(why) = leg.machine.live(kind, &drives, &orders) {
        return Err(why);
    }
    let record = drives.take();
    let before = blank(&folder.path().join("before"));
    let points = points(&record, &orders, &before, &mut rng)?;
    let mut made = record.cuts();
    for (moment, state) in choose(&record, leg.cuts, &leg.states, &mut rng) {
        let some = Loss::Some(kind.whole());
        let losses = [[Loss::All, some, some][rng.index(3)], far_loss(&mut rng)];
        let scene = Scene::new(&made.at(moment, &losses, &mut rng));
        let what = || format!("{}, cut behind event {moment} of {}", kind.name(), record.events().len());
        let said = Said::until(&record, moment, orders.life);
        replay(&scene, &orders, &said, &before, &points, &mut rng, &mut leg.tally)
            .map_err(|why| format!("{}: {why}", what()))?;
        leg.tally.cut(kind, state);
        leg.tally.at_flushes += usize::from(flush_near(&record, moment));
    }
    Ok(())
}

/// Whether a flush of the disk's drive is answered right before this moment, or is the next event.
fn flush_near(record: &Record, moment: usize) -> bool {
    let (before, behind) = record.events().split_at(moment);
    let near = [before.last(), behind.first()];
    near.into_iter().flatten().any(|event| matches!(event, Event::Flush { drive: 0, .. }))
}

/// All points of a record, each one instant of the load.
fn points(record: &Record, orders: &Orders, before: &Path, rng: &mut Rng) -> Result<Points, String> {
    let scene = Scene::new(&record.cuts().at(record.events().len(), &[Loss::Nothing; 2], rng));
    let mut points = Points::new();
    for id in scene.points() {
        let image = scene.restore(&id)?;
        orders.load().check_point(&image, before).map_err(|why| format!("point {id}: {why}"))?;
        points.insert(id.clone(), scene.digest(&id)?);
    }
    Ok(points)
}

/// The moments to cut at, in their order, with what was under way then. A third of them are all flushes of the
/// disk's drive in one stretch of the record, right behind their answer; the others follow what the campaign is
/// missing, half of them where a flush is answered, or is not yet.
fn choose(record: &Record, cuts: usize, states: &States, rng: &mut Rng) -> Vec<(usize, State)> {
    let mut moments: [[Vec<usize>; 2]; 6] = Default::default();
    let mut flushes = Vec::new();
    let mut state = None;
    for (at, event) in record.events().iter().enumerate() {
        match event {
            Event::Mark(text) => match Mark::read(text) {
                Some(Mark::State(found)) if state.is_some() => state = Some(found),
                Some(Mark::Recovered(_)) => state = Some(State::Other),
                _ => {}
            },
            Event::Flush { drive: 0, .. } => {
                if let Some(state) = state {
                    moments[state as usize][0].extend([at, at + 1]);
                    flushes.push((at + 1, state));
                }
            }
            _ => {}
        }
        if let Some(state) = state {
            moments[state as usize][1].push(at);
        }
    }
    let length = (cuts / 3).min(flushes.len());
    let first = rng.index(flushes.len() - length + 1);
    let mut chosen = flushes[first..first + length].to_vec();
    let mut states = states.clone();
    chosen.iter().for_each(|&(_, state)| states.count(state));
    let others = (length..cuts).filter_map(|_| {
        let mut missing = states.missing();
        missing.iter_mut().zip(&moments).for_each(|(weight, moments)| {
            *weight = if moments[1].is_empty() { 0 } else { *weight + 1 };
        });
        let aim = rng.weighted(&missing)?;
        let state = State::ALL[aim];
        states.count(state);
        let flushes = usize::from(moments[aim][0].is_empty() || rng.chance(500));
        let moments = &moments[aim][flushes];
        Some((moments[rng.index(moments.len())], state))
    });
    chosen.extend(others);
    chosen.sort_unstable();
    chosen
}

/// A tracker starts on what a cut left.
fn replay(
    scene: &Scene,
    orders: &Orders,
    said: &Said,
    before: &Path,
    points: &Points,
    rng: &mut Rng,
    tally: &mut Tally,
) -> Result<(), String> {
    scene.kept(&orders.load(), before, said, Tears::Sectors)?;
    let tracker = Killed(scene.site.start(&[]).running, scene);
    let status = scene.site.status();
    let outcome = scene.site.ship(&["--once", "--json"]);
    if outcome.code != Some(0) {
        return Err(format!("towline ship --once ends with {:?}: {}", outcome.code, outcome.stderr));
    }
    let written = said.durable.iter().map(|batch| batch + 1).sum();
    tally.recovered(scene.recovered(&status, &outcome.json(), written)?);
    tally.batches += said.durable.iter().sum::<u64>();
    let there: Vec<String> = scene.points().into_iter().filter(|id| points.contains_key(id)).collect();
    if !there.is_empty() {
        let id = &there[rng.index(there.len())];
        if points[id] != scene.digest(id)? {
            return Err(format!("point {id} is another"));
        }
        tally.points += 1;
    }
    if rng.chance(50) {
        scene.verify()?;
    }
    drop(tracker);
    Ok(())
}

/// A tracker that is killed at the end, with its maps.
struct Killed<'a>(Running, &'a Scene);

impl Drop for Killed<'_> {
    fn drop(&mut self) {
        self.0.kill();
        let _ = std::fs::remove_dir_all(maps_folder(&self.1.disk()));
    }
}
