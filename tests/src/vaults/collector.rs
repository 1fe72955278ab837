//! Whoever lets points go and deletes what nobody needs, with something amid his requests.

use super::life::Life;
use super::ship::{Run, lock, run};
use crate::sim::Oracle;
use crate::sim::rng::Rng;
use std::sync::{Arc, Mutex};
use towline::retention::collect::collect;
use towline::retention::compact::{Bounds, compact};
use towline::retention::policy::Policy;
use towline::retention::prune::prune;
use towline::store::memory::MemoryStore;
use towline::store::scripted::{Mood, Scripted};
use towline::store::{Store, StoreErrorKind};
use towline::vault::Vault;
use towline::{Error, Kind, Result};

/// Lets go all but some of the newest points, and collects; or collects alone.
fn once(store: Arc<dyn Store>, last: Option<u32>, budget: u64) -> Result<()> {
    let vault = Vault::open(store)?;
    let group = vault.group("vm");
    if let Some(last) = last {
        let policy = Policy { last, ..Policy::default() };
        prune(&vault, &group, &policy, &jiff::tz::TimeZone::UTC, 1)?;
    }
    compact(&group, Bounds { budget, pack_size: 1 << 16 }, 1, &mut ())?;
    collect(&group, 1, &mut ()).map(drop)
}

/// A prune and a collection that nothing disturbs.
pub(super) fn undisturbed(life: &Mutex<Life>, store: &MemoryStore, rng: &mut Rng) {
    let last = rng.chance(700).then(|| 1 + rng.index(3) as u32);
    let done = once(Arc::new(store.clone()), last, budget(rng));
    judge(&mut lock(life), done);
}

/// How much may be moved: nothing, a pack, or all.
fn budget(rng: &mut Rng) -> u64 {
    [0, 1, 1 << 30, 1 << 30][rng.index(4)]
}

/// What may become of it: it is done, or there is nothing yet to do it to.
fn judge(life: &mut Life, done: Result<()>) {
    life.trace(|| format!("collected: {:?}", done.as_ref().map_err(Error::line)));
    if let Err(error) = done
        && error.kind() == Kind::Damage
    {
        life.is_wrong(Oracle::Liveness, format!("nothing is collected: {}", error.line()));
    }
}

/// What happens at one request of a collector.
#[derive(Clone, Copy, Debug)]
enum Amid {
    Die,
    Lose,
    Fail,
    /// A shipper has a run.
    Ship,
    /// So has another host's.
    Other,
    /// Another collector does all of it.
    Collector,
}

/// A prune and a collection, with something amid.
pub(super) fn disturbed(life: &Arc<Mutex<Life>>, rng: &mut Rng) {
    let amid = [Amid::Die, Amid::Lose, Amid::Fail, Amid::Ship, Amid::Ship, Amid::Other, Amid::Collector]
        [rng.index(7)];
    let store = lock(life).store.clone();
    let (at, writes) = (rng.below(60), rng.chance(500));
    let (inner, below) = (Arc::clone(life), store.clone());
    let state = Mutex::new((Rng::new(rng.draw()), 0u64));
    let scripted = Scripted::new(store, move |call| {
        let mut state = state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (rng, calls) = &mut *state;
        if writes && !call.is_put() && call.what != towline::store::scripted::What::Delete {
            return Mood::Good;
        }
        *calls += 1;
        if *calls != 1 + if writes { at % 8 } else { at } {
            return Mood::Good;
        }
        lock(&inner).trace(|| format!("{amid:?} at a collector's {:?} of {}", call.what, call.name));
        let host = rng.index(lock(&inner).hosts.len());
        let cycles = rng.index(4);
        let other = Run {
            host,
            cycles,
            take_over: false,
            undo: rng.chance(300),
            unreleased: rng.chance(100),
            asleep: false,
        };
        match amid {
            Amid::Die => return Mood::Die,
            Amid::Lose => return Mood::LoseAnswer,
            Amid::Fail => return Mood::Fail(StoreErrorKind::Transient),
            Amid::Ship => drop(run(&inner, Arc::new(below.clone()), Run { host: 0, ..other }, rng)),
            Amid::Other => {
                drop(run(&inner, Arc::new(below.clone()), Run { take_over: host > 0, ..other }, rng))
            }
            Amid::Collector => undisturbed(&inner, &below, rng),
        }
        Mood::Good
    });
    let last = rng.chance(700).then(|| 1 + rng.index(3) as u32);
    let done = once(scripted, last, budget(rng));
    judge(&mut lock(life), done);
}
