//! The crash simulator's campaigns.

use towline_tests::mutants::{self, Death};
use towline_tests::sim::{Counts, CrashKind, Failure, Plan, run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Says which seed failed, and what happened, from the same plan again.
fn fail(plan: &Plan, failure: &Failure) -> ! {
    println!("SEED={} {}", failure.seed, failure.what);
    println!("replay: make sim SEED={}", failure.seed);
    if let Err(again) = run(Plan { trace: true, ..plan.clone() }) {
        let skip = again.trace.len().saturating_sub(number("TOWLINE_TRACE").unwrap_or(60) as usize);
        again.trace[skip..].iter().for_each(|line| println!("{line}"));
        println!("SEED={} {}", again.seed, again.what);
    }
    panic!("seed {}: {}", failure.seed, failure.what);
}

/// F3, F4, F6, F9, F10, F19, F20: every published point is the instant of its cut, whatever crashed, failed, landed late or
/// was lost; and once the faults stop, replication catches up by itself.
#[test]
fn random_seeds_break_no_promise() {
    let seeds = match number("TOWLINE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TOWLINE_SEEDS").unwrap_or(400),
    };
    if mutants::chosen().is_some() && number("TOWLINE_SEED").is_none() {
        return mutants::live(seeds, |seed| {
            let Failure { oracle, what, .. } = run(Plan { conduct: false, ..Plan::random(seed) }).err()?;
            Some(Death { by_data: oracle.sees_data(), oracle: format!("{oracle:?}"), seed: None, what })
        });
    }
    let plan = |seed| Plan { conduct: mutants::chosen().is_none(), ..Plan::random(seed) };
    let mut counts = Counts::default();
    let whole = number("TOWLINE_SEED").is_none() && seeds.end >= 200;
    for seed in seeds {
        let plan = plan(seed);
        match run(plan.clone()) {
            Ok(report) => counts.join(&report.counts),
            Err(failure) => fail(&plan, &failure),
        }
    }
    println!("{counts}");
    if !whole {
        return;
    }
    let needed = [
        "cuts",
        "cuts with writes in flight",
        "cuts that nobody asked for",
        "points",
        "fuzzy entries",
        "released",
        "adopted",
        "reopened",
        "undone by the shipper",
        "confirmed by a successor",
        "blocks read from the store",
        "sectors preserved",
        "resync asked",
        "whole freezes",
        "compared freezes",
        "delta freezes",
        "failed writes",
        "failed syncs",
        "failed persists",
        "ghost writes",
        "orphaned sidecar writes",
        "marks",
        "heals",
        "grown logs compacted",
        "clean stops",
        "foreign writes",
        "maps wiped",
        "logs damaged",
        "returns to a host with old maps",
        "starts with other maps",
        "crashes inside a job",
        "crashes inside the start",
        "Process crash: none",
        "Process crash: draining",
        "Process crash: sealed",
        "Host crash: none",
        "Host crash: draining",
        "Host crash: sealed",
        "crash: synced",
        "crash: releasing",
        "crash: undoing",
    ];
    let missing: Vec<_> = needed.iter().filter(|name| counts.get(name) == 0).collect();
    assert!(missing.is_empty(), "the campaign is blind: no {missing:?}");
}

/// The same seed, the same life.
#[test]
fn a_seed_lives_the_same_life_twice() {
    for seed in 0..20 {
        let digest = || run(Plan::random(seed)).map(|report| (report.digest, report.steps)).ok();
        assert_eq!(digest(), digest(), "seed {seed}");
    }
}

/// F1, F2, F7, F8, F23: a crash at each single step of some small lives, of the process and of the host.
#[test]
fn a_crash_at_every_step_breaks_no_promise() {
    for seed in 0..number("TOWLINE_LIVES").unwrap_or(3) {
        let plan = Plan { seed, events: 260, mischief: false, ..Plan::random(seed) };
        let steps = match run(plan.clone()) {
            Ok(report) => report.steps,
            Err(failure) => fail(&plan, &failure),
        };
        for step in 1..=steps {
            for kind in [CrashKind::Process, CrashKind::Host] {
                let plan = Plan { crash_at: Some((step, kind)), ..plan.clone() };
                if let Err(failure) = run(plan.clone()) {
                    println!("crash at step {step} of {steps}: {kind:?}");
                    fail(&plan, &failure);
                }
            }
        }
    }
}
