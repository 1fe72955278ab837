//! Guest isolation (promise 3; F25, F28, F29, F30): the real programs under verified load while the sidecar's file system, or
//! the store, fails in one of the ways in which they do.
//!
//! A campaign is a row of legs, each with a fresh site: guests write and read through NBD, a shipper makes points without
//! a pause. A leg has one [`Fault`], which begins at one [`Moment`]: both programs are stopped there for as long as it
//! takes to bring the fault about, so that it begins exactly then. It lasts until the guests went on and everything that
//! must come of it has come, and at least for the hold. Then it heals, or the tracker is killed in it, or the host dies:
//! maps, and what had not reached the sidecar's device, are gone.
//!
//! In all of that no guest sees an error or hangs; where tracking fails, the disk itself says so (S4) while untracked
//! writes are answered, and is compared after a crash; afterwards points come by themselves, and the newest, the disk and
//! what the guests remember agree. How long writes took before, during and after is told, and nothing is asserted of it.

mod fault;
mod leg;
mod moment;
mod tally;

pub use fault::Fault;
pub use leg::marked;
pub use moment::Moment;
pub use tally::Tally;

use crate::sim::rng::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

/// So many legs more at most while a moment was not hit.
const MORE: usize = 6;

/// What a leg does.
#[derive(Clone, Copy, Debug)]
struct Plan {
    seed: u64,
    fault: Fault,
    moment: Moment,
    hold: Duration,
    end: End,
    buffered: bool,
    /// The sidecar is where the disk is; else in a room of its own.
    beside: bool,
}

/// How a fault ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// What failed works again.
    Heals,
    /// The tracker is killed first.
    ProcessDies,
    /// The host dies first.
    HostDies,
}

impl Plan {
    /// Of the leg with this number: in a row every fault meets every moment.
    fn new(number: u64, hold: Duration, missing: Option<Moment>) -> Self {
        let mut rng = Rng::new(number);
        let (faults, moments) = (Fault::ALL.len() as u64, Moment::ALL.len() as u64);
        let fault = Fault::ALL[(number % faults) as usize];
        let moment = Moment::ALL[((number % faults + number / faults) % moments) as usize];
        let end = match fault {
            _ if fault.is_of_the_store() || fault == Fault::NoNames => End::Heals,
            Fault::Full | Fault::Stalled | Fault::Detached if rng.chance(500) => End::Heals,
            Fault::Detached => End::ProcessDies,
            _ if rng.chance(300) => End::ProcessDies,
            _ => End::HostDies,
        };
        let beside = fault == Fault::Full && end == End::Heals && rng.chance(500);
        Self {
            seed: number,
            fault,
            moment: missing.unwrap_or(moment),
            hold,
            end,
            buffered: rng.chance(400),
            beside,
        }
    }
}

/// So many legs, from this one on. `told` hears of every leg that is over.
///
/// # Panics
/// At the first promise that is broken; the leg's number and the folder with all that is left are printed.
pub fn run(count: usize, first: u64, hold: Duration, mut told: impl FnMut(&Tally)) -> Tally {
    let mut tally = Tally::default();
    while tally.legs < count || tally.missing().is_some() && tally.legs < count + MORE {
        let missing = tally.missing().filter(|_| tally.legs >= count);
        let plan = Plan::new(first + tally.legs as u64, hold, missing);
        println!("{plan:?}");
        let ended = catch_unwind(AssertUnwindSafe(|| leg::run(plan, &mut tally)));
        tally.legs += 1;
        tally.failures += usize::from(ended.is_err());
        told(&tally);
        if let Err(panic) = ended {
            println!("SEED={}: {plan:?}", plan.seed);
            resume_unwind(panic);
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_row_every_fault_meets_every_moment_and_every_end() {
        let plans: Vec<Plan> = (0..90).map(|number| Plan::new(number, Duration::ZERO, None)).collect();
        for fault in Fault::ALL {
            for moment in Moment::ALL {
                assert!(plans.iter().any(|plan| (plan.fault, plan.moment) == (fault, moment)));
            }
        }
        for end in [End::Heals, End::ProcessDies, End::HostDies] {
            assert!(plans.iter().any(|plan| (plan.fault, plan.end) == (Fault::Stalled, end)));
        }
        assert!(plans.iter().any(|plan| plan.beside && plan.buffered));
    }
}
