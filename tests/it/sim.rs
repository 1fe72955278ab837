//! The crash simulator's campaigns.

use crate::campaigns::{Run, number};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use towline_tests::mutants::{self, Death};
use towline_tests::sim::world::Report;
use towline_tests::sim::{Counts, Failure, Plan, run};

/// Says which seed failed, and what happened, from the same plan again.
pub(crate) fn fail(plan: &Plan, failure: &Failure) -> ! {
    println!("SEED={} {}", failure.seed, failure.what);
    println!("replay: make sim SEED={}", failure.seed);
    if let Err(again) = run(Plan { trace: true, ..plan.clone() }) {
        let skip = again.trace.len().saturating_sub(number("TOWLINE_TRACE").unwrap_or(60) as usize);
        again.trace[skip..].iter().for_each(|line| println!("{line}"));
        println!("SEED={} {}", again.seed, again.what);
    }
    panic!("seed {}: {}", failure.seed, failure.what);
}

/// What a campaign did.
#[derive(Default)]
struct Tally {
    seeds: u64,
    /// Of all lives: the same seeds, the same number.
    digest: u64,
    counts: Counts,
    /// Of each seed.
    events: Vec<u64>,
    cuts: Vec<u64>,
    crashes: Vec<u64>,
}

impl Tally {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.digest ^= report.digest.rotate_left(report.steps as u32);
        self.counts.join(&report.counts);
        self.events.push(report.events);
        self.cuts.push(report.counts.get("cuts"));
        self.crashes.push(report.counts.get("Process crashes") + report.counts.get("Host crashes"));
    }

    fn join(&mut self, mut other: Self) {
        self.seeds += other.seeds;
        self.digest ^= other.digest;
        self.counts.join(&other.counts);
        self.events.append(&mut other.events);
        self.cuts.append(&mut other.cuts);
        self.crashes.append(&mut other.crashes);
    }

    /// Medians of events, cuts and crashes.
    fn medians(&self) -> [u64; 3] {
        [&self.events, &self.cuts, &self.crashes].map(|all| {
            let mut sorted = all.clone();
            sorted.sort_unstable();
            sorted.get(sorted.len() / 2).copied().unwrap_or(0)
        })
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [events, cuts, crashes] = self.medians();
        let of = |name| self.counts.get(name);
        write!(
            f,
            "a seed has in the median {events} events, {cuts} cuts, {crashes} crashes; {} points compared, {} restored again, \
             {} entries, {} shippers killed, {} claims",
            of("entries: point"),
            of("points restored again"),
            of("entries: point") + of("entries: fuzzy") + of("entries: checkpoint"),
            of("shippers killed"),
            of("entries: claim"),
        )
    }
}

/// Lives all of these seeds, on all cores; the lowest that fails is told.
fn campaign(seeds: Range<u64>) -> Result<Tally, Failure> {
    let next = AtomicU64::new(seeds.start);
    let live = || {
        let mut tally = Tally::default();
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= seeds.end {
                return Ok(tally);
            }
            match run(Plan::random(seed)) {
                Ok(report) => tally.add(&report),
                Err(failure) => {
                    next.store(seeds.end, Relaxed);
                    return Err(failure);
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let lives: Vec<Result<Tally, Failure>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(live)).collect();
        threads.into_iter().map(|thread| thread.join().expect("failures are no panics")).collect()
    });
    let (mut all, mut failures) = (Tally::default(), Vec::new());
    for life in lives {
        match life {
            Ok(tally) => all.join(tally),
            Err(failure) => failures.push(failure),
        }
    }
    failures.into_iter().min_by_key(|failure| failure.seed).map_or(Ok(all), Err)
}

/// Seeds between two lines.
const LEG: u64 = 1000;

/// F3, F4, F6, F9, F10, F16, F17, F19, F20, F31, F34, F35, F36, F37, F38, F39, F42: every published point is the instant of its cut, whatever crashed,
/// failed, landed late or was lost, and stays so; and once the faults stop, replication catches up by itself. `make sim`
/// goes on where the campaigns before it ended, and adds a line.
#[test]
fn random_seeds_break_no_promise() {
    let count = number("TOWLINE_SEEDS").unwrap_or(2000);
    let one = count == 1;
    let of = Run::begin("sim", 0);
    let seeds = of.seed..of.seed + count;
    if mutants::chosen().is_some() && !one {
        return mutants::live(seeds, |seed| {
            let Failure { oracle, what, .. } = run(Plan { conduct: false, ..Plan::random(seed) }).err()?;
            Some(Death { by_data: oracle.sees_data(), oracle: format!("{oracle:?}"), seed: None, what })
        });
    }
    let mut tally = Tally::default();
    for first in seeds.clone().step_by(LEG as usize) {
        let lived = campaign(first..(first + LEG).min(seeds.end));
        let failed = usize::from(lived.is_err());
        let failure = lived.map(|leg| tally.join(leg)).err();
        of.tell(tally.seeds as usize, failed, &tally);
        if let Some(failure) = failure {
            fail(&Plan::random(failure.seed), &failure);
        }
    }
    let counts = &tally.counts;
    println!("{counts}");
    println!("digest {:016x}", tally.digest);
    let judged: Vec<&str> = [FAULTS, MET, SELDOM].concat();
    let unjudged: Vec<_> = counts.0.keys().filter(|name| !judged.contains(&name.as_str())).collect();
    assert!(unjudged.is_empty(), "counted, and nobody asks whether it happens: {unjudged:?}");
    if one || tally.seeds < 2000 {
        return;
    }
    let [events, cuts, crashes] = tally.medians();
    assert!(events >= 300 && cuts >= 3 && crashes >= 1, "too little happens in a seed: {tally}");
    let seldom = if tally.seeds < 20_000 { &[] } else { SELDOM };
    let expected = MET.iter().chain(FAULTS).chain(seldom);
    let missing: Vec<_> = expected.filter(|name| counts.get(name) == 0).collect();
    let idle: Vec<_> = FAULTS.iter().filter(|name| counts.mattered(name) == 0).collect();
    assert!(
        missing.is_empty() && idle.is_empty(),
        "the campaign is blind: no {missing:?}; never matters: {idle:?}"
    );
}

/// Faults, crashes and rows of the start-up table: each must have happened and changed what came after it, or the campaign
/// proves nothing of it. What "mattered" means is said where each is counted.
const FAULTS: &[&str] = &[
    // Disks.
    "failed writes",
    "failed writes (no space)",
    "failed syncs",
    "a sync error that no flush met",
    "a good sync over what a failed one lost",
    "caches dropped",
    "ghost writes",
    "crash: a disk's write in flight",
    "power cut: a disk's writes lost",
    "power cut: a disk's writes torn",
    "power cut: a disk's writes reordered",
    "abandoned requests",
    "requests sent again",
    "requests replayed",
    "an error of a disk that stays",
    // Sidecars.
    "failed persists",
    "failed copies",
    "calls that fail (EIO)",
    "calls that fail (no space)",
    "a sidecar that hangs",
    "a copy that hangs",
    "an error that stays",
    "jobs that hang",
    "space runs low",
    "orphaned sidecar writes",
    "power cut: a sidecar's writes lost",
    "power cut: a sidecar's writes torn",
    "power cut: a sidecar's writes reordered",
    "power cut: a created name lost",
    "power cut: a renamed file under its old name",
    "power cut: a removed name back",
    "power cut: names reordered",
    // Other people.
    "foreign writes",
    "disks shrunk",
    "disks grown",
    "maps wiped",
    "sidecars wiped",
    "disks of another group",
    "logs damaged",
    "intents damaged",
    "clock jumps",
    "returns to a host with old maps",
    "starts with other maps",
    "clones",
    "strangers with our group's name",
    "vaults put back",
    "vaults changed",
    "objects damaged",
    // Shippers.
    "shippers killed",
    "shippers paused",
    "shippers disconnected",
    "second shippers",
    "failed reads of shippers",
    "late entries of the dead",
    // The store.
    "store: down",
    "store: failed",
    "store: no space",
    "store: an object's answer lost",
    "store: an entry's answer lost",
    "store: an entry that failed and was done",
    "store: an entry that was done twice",
    "store: not listed",
    "store: short pages",
    // Rows of the start-up table.
    "start: no meta, no mark",
    "start: no meta",
    "start: written untracked",
    "start: changed behind our back",
    "start: doubtful, in another boot",
    "start: doubtful, buffered",
    "start: bad intents",
    "start: a bad log",
    "start: new in the group",
    "start: tracking off",
    "start: too many failed writes",
    "start: clean, maps good",
    "start: killed, maps good",
    "start: clean, maps not good",
    "start: killed, maps not good",
    "start: host died",
    "go on: draining",
    "go on: synced",
    "go on: sealed",
    "go on: releasing",
    "go on: undoing",
    "go on: a freeze forgotten",
    // Crashes, by the state of the freeze.
    "crashes inside a job",
    "crashes inside the start",
    "Process crash: none",
    "Process crash: draining",
    "Process crash: draining, fuzzy",
    "Process crash: synced",
    "Process crash: synced, fuzzy",
    "Process crash: sealed",
    "Process crash: sealed, fuzzy",
    "Process crash: releasing",
    "Process crash: releasing, fuzzy",
    "Process crash: undoing",
    "Host crash: none",
    "Host crash: draining",
    "Host crash: draining, fuzzy",
    "Host crash: synced",
    "Host crash: synced, fuzzy",
    "Host crash: sealed",
    "Host crash: sealed, fuzzy",
    "Host crash: releasing",
    "Host crash: releasing, fuzzy",
    "Host crash: undoing",
];

/// Decisions, effects and ends that must have been met: each of them is what some fault has changed.
const MET: &[&str] = &[
    // Cuts and what became of them.
    "cuts",
    "cuts with writes in flight",
    "cuts that nobody asked for",
    "whole freezes",
    "compared freezes",
    "delta freezes",
    "reopened",
    "released",
    "undone by the shipper",
    "resync asked",
    "sectors preserved",
    "sectors read from the store",
    "holes",
    "entries: claim",
    "entries: checkpoint",
    "entries: condemned",
    "entries: fuzzy",
    "entries: point",
    "entries over folds",
    "entries over folds of folds",
    "shippers killed at a fold",
    "points that are older than those before",
    "points restored again",
    "bytes audited",
    // What the tracker's faults came to.
    "requests",
    "requests that failed",
    "flushes that failed",
    "marks",
    "heals",
    "grown logs compacted",
    "regions evicted",
    "clean stops",
    "clean stop: none",
    "clean stop: sealed",
    "stops that are not clean",
    "stops that came to no end",
    "starts",
    "starts that failed",
    "deaths of a process that cost nothing",
    "deaths of the host within the budget",
    "blocks read again for the host's death",
    "Process crashes",
    "Host crashes",
    "host restarts",
    // Shippers.
    "shippers told to stop",
    "paused shippers whose place was taken",
    "answers that came too late",
    "shippers ended: once",
    "shippers ended: stopped",
    "shippers ended: Stopped",
    "shippers ended: Revoked",
    "shippers ended: Unreadable",
    "shippers ended: Unreachable",
    "shippers ended: NoSpace",
    "shippers ended: TrackerNotRunning",
    "shippers ended: TrackerRefused",
    "shippers ended: BrokenLineage",
    "shippers ended: ForeignOwner",
    "shippers ended: Damage",
    "the word to take over, after BrokenLineage",
    "the word to take over, after ForeignOwner",
    "the word to take over, after Damage",
    "refused for good",
    // The store. An object is put again as it was: that it was there changes nothing.
    "store: an object that failed and was done",
    "store: an object that was done twice",
    "late objects of the dead",
    "points spoiled by damage",
    // Collectors.
    "catalogs",
    "points let go",
    "objects collected",
    "collectors paused",
    "collectors killed",
    "collectors ended: done",
    "collectors ended: Unreachable",
    "collectors ended: GroupNotFound",
    "late deletes of the dead",
    // Decisions by the attach table.
    "claim: initial, no entries",
    "claim: initial, no image",
    "claim: adopt",
    "claim: delta over the anchor",
    "claim: delta over a vouched cut",
    "claim: delta over a vouched cut from the beginning",
    "claim: delta, what nobody vouches for is void",
    "claim: continue",
    "claim: continue from the beginning",
    "claim: resync: an earlier resynchronization was cut short",
    "claim: resync: the vault is older than what this tracker released last",
    "claim: resync: the tracker last replicated to another vault",
    "claim: resync: the tracker does not know what the vault has (its sidecar is new)",
    "claim: resync: the group was taken over from other disks",
    "claim: resync: the group was taken over from another lineage",
    "claim: resync: the damaged log was taken over",
];

/// What long campaigns must have met, of 20,000 seeds and more.
const SELDOM: &[&str] = &[
    // Of the few that are to make one point: the guest spoils every freeze of theirs.
    "shippers ended: FuzzyGiveUp",
    "collectors ended: NoSpace",
    "collectors ended: Damage",
    "collectors ended: Other",
    // Behind a collector, by a put that was under way for long.
    "entries below the boundary",
    // Behind a vault that was put back under a put.
    "gaps that somebody closed",
    // The release is over, but its job is not.
    "clean stop: releasing",
];

/// The same seed, the same life.
#[test]
fn a_seed_lives_the_same_life_twice() {
    for seed in 0..20 {
        let digest = || run(Plan::random(seed)).map(|report| (report.digest, report.steps)).ok();
        assert_eq!(digest(), digest(), "seed {seed}");
    }
}
