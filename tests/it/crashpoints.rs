//! Crash points: small lives of one piece of work each, and a crash at every single step of them.

use crate::campaigns::{Run, number};
use crate::sim::fail;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use towline_tests::sim::world::Report;
use towline_tests::sim::{CrashKind, Failure, Leaves, Plan, Strike, Workload, run};

/// What a crash leaves: nothing, everything, and subsets. Of the host's death more than of others: more is at stake.
const LEAVES: [Leaves; 4] = [Leaves::Nothing, Leaves::Everything, Leaves::Some(1), Leaves::Some(2)];

/// Lives all these plans, on all cores, in no order. Each crash of a plan must have struck.
///
/// # Errors
/// The first that breaks a promise.
fn live_all(plans: &[Plan], each: impl Fn(&Plan, Report) + Sync) -> Result<(), (Plan, Failure)> {
    let next = AtomicUsize::new(0);
    let live = || {
        while let Some(plan) = plans.get(next.fetch_add(1, Relaxed)) {
            match run(plan.clone()) {
                Ok(report) => {
                    assert_eq!(report.strikes, plan.strikes.len(), "it did not strike: {plan:?}");
                    each(plan, report);
                }
                Err(failure) => {
                    next.store(plans.len(), Relaxed);
                    return Err((plan.clone(), failure));
                }
            }
        }
        Ok(())
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(live)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("failures are no panics"))
    })
}

/// What was enumerated of a workload.
#[derive(Default)]
struct Points {
    /// Of it, over all its lives.
    steps: usize,
    /// At them: of what dies and what is left, each.
    crashes: usize,
    /// At each step of the recovery from one of those.
    second: usize,
}

/// By workload.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, Points>);

impl Tally {
    fn lives(&self) -> usize {
        self.0.values().map(|points| points.crashes + points.second).sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("steps, crashes, crashes in the recovery from these:")?;
        self.0.iter().try_for_each(|(name, Points { steps, crashes, second })| {
            write!(f, " {name} {steps} {crashes} {second};")
        })
    }
}

/// Lives of one workload: one without a crash, and one for each crash. One in so many of these is lived again with another
/// crash at each step of the recovery.
fn enumerate(plan: &Plan, second: usize, points: &mut Points) -> Result<(), (Plan, Failure)> {
    let report = run(plan.clone()).map_err(|failure| (plan.clone(), failure))?;
    let with = |strikes: Vec<Strike>| Plan { strikes, ..plan.clone() };
    let mut plans = Vec::new();
    for step in report.workload.clone() {
        let shipper = report.shipper_steps.contains(&step).then_some(CrashKind::Shipper);
        for kind in [CrashKind::Process, CrashKind::Host].into_iter().chain(shipper) {
            let leaves = if kind == CrashKind::Host { &LEAVES[..] } else { &LEAVES[..3] };
            plans.extend(leaves.iter().map(|leaves| with(vec![Strike { step, kind, leaves: *leaves }])));
        }
    }
    assert!(!plans.is_empty(), "no step: {plan:?}");
    points.steps += report.workload.count();
    points.crashes += plans.len();
    let recoveries = Mutex::new(Vec::new());
    live_all(&plans, |plan, report| {
        let first = plan.strikes[0];
        if first.kind != CrashKind::Shipper {
            recoveries.lock().expect("nobody panics with it").push((first, report.recovery));
        }
    })?;
    let mut recoveries = recoveries.into_inner().expect("nobody panics with it");
    recoveries.sort_unstable_by_key(|(first, _)| (first.step, first.kind == CrashKind::Host));
    let mut plans = Vec::new();
    for (at, (first, steps)) in recoveries.into_iter().step_by(second).enumerate() {
        for step in steps {
            let leaves = LEAVES[(at + step as usize) % LEAVES.len()];
            let again = [CrashKind::Process, CrashKind::Host].map(|kind| Strike { step, kind, leaves });
            plans.extend(again.map(|again| with(vec![first, again])));
        }
    }
    points.second += plans.len();
    live_all(&plans, |_, _| ())
}

/// F1, F2, F7, F8, F9, F23, F39: a crash at each single step of each workload, of the tracker's process, of the host and of the
/// shipper, whatever it leaves, and another one while that is recovered from: every point is the instant of its cut, and the
/// last one is the disk. `make crashpoints` enumerates other lives, and adds a line to the campaigns.
#[test]
fn a_crash_at_every_step_breaks_no_promise() {
    let of = Run::begin("crashpoints", 0);
    let of_environment = |name, default| number(name).unwrap_or(default);
    let (lives, second) = (of_environment("TOWLINE_LIVES", 2), of_environment("TOWLINE_SECOND", 1000));
    let mut tally = Tally::default();
    for seed in of.seed..of.seed + lives {
        for workload in Workload::all() {
            let plan = Plan { events: 0, mischief: false, workload: Some(workload), ..Plan::random(seed) };
            let points = tally.0.entry(workload.name()).or_default();
            if let Err((plan, failure)) = enumerate(&plan, second as usize, points) {
                of.tell(tally.lives(), 1, &tally);
                println!("{workload:?} {:?}", plan.strikes);
                fail(&plan, &failure);
            }
        }
        of.tell(tally.lives(), 0, &tally);
    }
}
