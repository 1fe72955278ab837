//! A life: what happens to hosts and their vault, by a seed.

use super::collector;
use super::host::{Cuts, Host};
use super::ship::{Run, after_claim, differs, lock, points, refused, run};
use crate::sim::rng::Rng;
use crate::sim::{Failure, Oracle};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use towline::store::memory::MemoryStore;
use towline::store::scripted::{Mood, Scripted, What};
use towline::store::{Store, StoreErrorKind};
use towline::vault::Vault;
use towline::vault::attach::Claimed;
use towline_tracker::control::message::Attached;

/// Everything there is.
pub(super) struct Life {
    pub(super) store: MemoryStore,
    /// Another vault, for the same hosts.
    elsewhere: MemoryStore,
    /// Copies of the vault, the oldest first.
    older: Vec<MemoryStore>,
    pub(super) hosts: Vec<Host>,
    pub(super) cuts: Cuts,
    /// The last claim, and its host as it was before its last cut: what a copy of its memory has.
    pub(super) claimed: Option<(Attached, Claimed)>,
    pub(super) before_cut: Option<Host>,
    /// Somebody else may have written to the vault: a refusal is right.
    others: bool,
    /// Entries up to here may have lost what they need.
    damaged: u64,
    wrong: Option<(Oracle, String)>,
    trace: Option<Vec<String>>,
}

impl Life {
    pub(super) fn is_wrong(&mut self, oracle: Oracle, what: String) {
        self.trace(|| format!("{oracle:?}: {what}"));
        self.wrong.get_or_insert((oracle, what));
    }

    pub(super) fn trace(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(what());
        }
    }

    /// The vault is put back to what it was.
    fn put_back(&mut self, rng: &mut Rng) {
        if self.older.is_empty() {
            return;
        }
        let chosen = rng.index(self.older.len());
        self.older.truncate(chosen + 1);
        let copy = &self.older[chosen];
        let names = |store: &MemoryStore| store.list("", "", usize::MAX).expect("memory");
        for object in names(&self.store) {
            self.store.delete(&object.name).expect("memory");
        }
        for object in names(copy) {
            let bytes = copy.get(&object.name, usize::MAX).expect("memory");
            self.store.put(&object.name, &bytes).expect("memory");
        }
        self.trace(|| "the vault is put back".into());
    }

    /// A pack is lost, and somebody noticed: everything is to be compared.
    fn lose_a_pack(&mut self, rng: &mut Rng) {
        let listed = self.store.list("", "", usize::MAX).expect("memory");
        let packs: Vec<_> = listed.iter().filter(|object| object.name.ends_with(".pack")).collect();
        if packs.is_empty() || self.hosts.iter().any(|host| host.live.is_some()) {
            return;
        }
        self.store.delete(&packs[rng.index(packs.len())].name).expect("memory");
        let vault = Vault::open(Arc::new(self.store.clone())).expect("memory");
        self.damaged = vault.group("vm").head(0).unwrap_or(u64::MAX);
        self.hosts.iter_mut().for_each(|host| host.recheck = true);
        self.trace(|| "a pack is lost".into());
    }

    /// What every shipper after the last put must find.
    fn check_all(&mut self) {
        let vault = Vault::open(Arc::new(self.store.clone())).expect("memory");
        let group = vault.group("vm");
        let headers = match points(&vault, &group) {
            Ok(headers) => headers,
            Err(error) => {
                return self.is_wrong(Oracle::Lineage, format!("the log is damaged: {}", error.line()));
            }
        };
        for header in headers.iter().filter(|header| header.seq > self.damaged) {
            let Some(expected) = self.cuts.get(&(header.cut, header.time_ns)) else {
                let what = format!("point {} is of a cut that nobody made", header.seq);
                return self.is_wrong(Oracle::Lineage, what);
            };
            if let Some(what) = differs(&group, header.seq, expected) {
                return self.is_wrong(Oracle::Image, what);
            }
        }
    }
}

/// What happens in the middle of a shipper's puts.
#[derive(Clone, Copy, Debug)]
enum Amid {
    Nothing,
    /// Its store dies: the process is killed, as far as the vault is concerned.
    Die,
    /// It is done, and the answer is lost.
    Lose,
    /// A bad moment.
    Fail,
    /// No space.
    Full,
    /// A newer shipper of the same tracker has a run.
    Newer,
    /// It has one before this one's claim.
    Asleep,
    /// Another host has one.
    Other,
    /// The vault is put back.
    PutBack,
    /// A copy of this very process and its host goes on, too.
    Twin,
    /// Somebody collects.
    Collect,
    /// It stops for so long that others claim and ship, and what they no longer need is collected.
    Weeks,
}

/// A run of a host's shipper, with something amid its puts.
fn ship(life: &Arc<Mutex<Life>>, host: usize, amid: Amid, rng: &mut Rng) {
    let store = lock(life).store.clone();
    let (at, entry) = (1 + rng.below(8), rng.chance(500));
    let (inner, inner_store) = (Arc::clone(life), store.clone());
    let state = Mutex::new((Rng::new(rng.draw()), 0u32, false));
    let scripted = Scripted::new(store, move |call| {
        // Before a writer looks at the entry before his: who puts a vault back between that look and the put is not noticed.
        let looks = matches!(amid, Amid::PutBack) && matches!(call.what, What::Range { .. });
        if !call.is_put() && !looks {
            return Mood::Good;
        }
        let mut state = state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (rng, entries, over) = &mut *state;
        let log = call.name.contains("/log/");
        *entries += u32::from(call.is_put() && log);
        // Before an entry that is no claim, or at any put.
        let now = match amid {
            Amid::PutBack => looks && log && *entries >= 1,
            // Behind the entry, and before what it must not need.
            Amid::Die if entry => *entries >= 2 && !log,
            _ if entry => *entries >= 2 && log,
            _ => call.puts > at,
        };
        if *over || !now {
            return Mood::Good;
        }
        *over = true;
        lock(&inner).trace(|| format!("{amid:?} at put {} of {}", call.puts, call.name));
        let cycles = rng.index(3);
        let other =
            Run { host, cycles, take_over: false, undo: rng.chance(700), unreleased: false, asleep: false };
        let store = || Arc::new(inner_store.clone());
        match amid {
            Amid::Nothing | Amid::Asleep => {}
            Amid::Die => return Mood::Die,
            Amid::Lose => return Mood::LoseAnswer,
            Amid::Fail => return Mood::Fail(StoreErrorKind::Transient),
            Amid::Full => return Mood::Fail(StoreErrorKind::NoSpace),
            Amid::Newer => drop(run(&inner, store(), other, rng)),
            Amid::Other => {
                let others = lock(&inner).hosts.len();
                if others > 1 {
                    lock(&inner).others = true;
                    drop(run(&inner, store(), Run { host: (host + 1) % others, ..other }, rng));
                }
            }
            Amid::PutBack => lock(&inner).put_back(rng),
            Amid::Twin => twin(&inner, &inner_store, rng),
            Amid::Collect => collector::undisturbed(&inner, &inner_store, rng),
            Amid::Weeks => {
                for _ in 0..3 {
                    drop(run(&inner, store(), Run { cycles: 1 + rng.index(3), ..other }, rng));
                }
                collector::undisturbed(&inner, &inner_store, rng);
            }
        }
        Mood::Good
    });
    let amid_others =
        matches!(amid, Amid::Newer | Amid::Asleep | Amid::Other | Amid::PutBack | Amid::Twin | Amid::Weeks);
    let undo = rng.chance(200);
    let unreleased = rng.chance(100) && !amid_others;
    let cycles = rng.index(4);
    let asleep = matches!(amid, Amid::Asleep);
    let wanted = Run { host, cycles, take_over: false, undo, unreleased, asleep };
    let done = run(life, scripted.clone(), wanted, rng);
    if let Err(error) = &done {
        lock(life).trace(|| format!("host {host}: {}", error.line()));
        if refused(error) {
            let mut life_now = lock(life);
            if !life_now.others {
                return life_now.is_wrong(Oracle::Lineage, error.line());
            }
            drop(life_now);
            let _ = run(life, scripted, Run { take_over: true, asleep: false, ..wanted }, rng);
        }
    }
}

/// A copy of the host's memory and of its shipper's goes on from before the cut: same claim, same cut id, another guest.
fn twin(life: &Mutex<Life>, store: &MemoryStore, rng: &mut Rng) {
    let (attached, claimed, host) = {
        let mut life = lock(life);
        let (Some(host), Some((attached, claimed))) = (life.before_cut.take(), life.claimed.clone()) else {
            return;
        };
        if attached.live.is_some() {
            return;
        }
        life.others = true;
        life.hosts.push(host);
        let place = life.hosts.len() - 1;
        life.hosts[place].write(rng, 40);
        (attached, claimed, place)
    };
    let group = Vault::open(Arc::new(store.clone())).expect("memory").group("vm");
    let wanted = Run { host, cycles: 1, take_over: false, undo: false, unreleased: true, asleep: false };
    let done = after_claim(life, &group, &attached, claimed, wanted, rng);
    let mut life = lock(life);
    life.trace(|| format!("the twin: {:?}", done.map_err(|error| error.line())));
    life.hosts.truncate(host);
}

fn event(life: &Arc<Mutex<Life>>, rng: &mut Rng) {
    let host = rng.index(lock(life).hosts.len());
    let count = rng.index(40);
    lock(life).hosts[host].write(rng, count);
    let amid = match rng.below(27) {
        20 | 21 => Amid::Collect,
        22 | 23 => Amid::Weeks,
        0..=4 => Amid::Nothing,
        5 => Amid::Asleep,
        6..=8 => Amid::Die,
        9 => Amid::Lose,
        10 => Amid::Fail,
        11 => Amid::Full,
        12..=14 => Amid::Newer,
        15 | 16 => Amid::Other,
        17 => Amid::PutBack,
        _ => Amid::Twin,
    };
    match rng.below(33) {
        30 | 31 => collector::disturbed(life, rng),
        32 => {
            let store = lock(life).store.clone();
            collector::undisturbed(life, &store, rng);
        }
        0 => {
            let mut life = lock(life);
            let copy = life.hosts[0].cloned();
            if life.hosts.len() < 2 {
                life.hosts.push(copy);
                life.others = true;
                life.trace(|| "the host is cloned".into());
            }
        }
        1 => lock(life).hosts[host].forget(),
        2..=4 => lock(life).hosts[host].resize(rng),
        5 => lock(life).lose_a_pack(rng),
        6 | 7 => {
            let copy = lock(life).store.copy();
            lock(life).older.push(copy);
        }
        8 => lock(life).put_back(rng),
        9 | 10 => lock(life).hosts[host].undo(),
        11 => {
            let mut life = lock(life);
            if life.older.is_empty() && life.damaged == 0 && life.hosts.len() == 1 {
                let Life { store, elsewhere, .. } = &mut *life;
                std::mem::swap(store, elsewhere);
                life.trace(|| "to another vault".into());
            }
        }
        _ => ship(life, host, amid, rng),
    }
}

/// The end: no more faults, and the first host's newest point is its disks.
fn finish(life: &Arc<Mutex<Life>>, rng: &mut Rng) {
    lock(life).hosts.truncate(1);
    let mut last = String::new();
    for tries in 0..4 {
        let (store, others) = {
            let life = lock(life);
            (life.store.clone(), life.others)
        };
        let wanted = Run {
            host: 0,
            cycles: 1,
            take_over: tries > 1 && others,
            undo: false,
            unreleased: false,
            asleep: false,
        };
        match run(life, Arc::new(store), wanted, rng) {
            // A fuzzy entry is followed by another cut.
            Ok(()) => {
                lock(life).check_all();
                let store = lock(life).store.clone();
                collector::undisturbed(life, &store, rng);
                return lock(life).check_all();
            }
            Err(error) if refused(&error) && !others => {
                return lock(life).is_wrong(Oracle::Lineage, error.line());
            }
            Err(error) => last = error.line(),
        }
    }
    let mut life = lock(life);
    life.check_all();
    life.is_wrong(Oracle::Liveness, format!("nothing goes on: {last}"));
}

/// Lives one life.
///
/// # Errors
/// The promise that was broken.
pub fn live(seed: u64, trace: bool) -> Result<(), Failure> {
    let mut rng = Rng::new(seed ^ 0x7a17);
    let vault = || {
        let store = MemoryStore::new();
        Vault::init(Arc::new(store.clone()), 1).expect("a new vault in memory");
        store
    };
    let life = Arc::new(Mutex::new(Life {
        store: vault(),
        elsewhere: vault(),
        older: Vec::new(),
        hosts: vec![Host::new(&mut rng)],
        cuts: Cuts::new(),
        claimed: None,
        before_cut: None,
        others: false,
        damaged: 0,
        wrong: None,
        trace: trace.then(Vec::new),
    }));
    let lived = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..8 + rng.index(20) {
            event(&life, &mut rng);
            if lock(&life).wrong.is_some() {
                return;
            }
        }
        finish(&life, &mut rng);
    }));
    let mut life = lock(&life);
    if lived.is_err() {
        life.wrong.get_or_insert((Oracle::Panic, "a panic".into()));
    }
    match life.wrong.take() {
        Some((oracle, what)) => {
            Err(Failure { seed, oracle, what, trace: life.trace.take().unwrap_or_default() })
        }
        None => Ok(()),
    }
}
