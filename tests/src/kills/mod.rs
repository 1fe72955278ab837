//! `kill -9` of the real programs, again and again, under guests that check what they read and through clients that
//! reconnect (F2, F39).
//!
//! A campaign is a row of legs. Each has a fresh site: one disk or two, direct or buffered. Guests write and read through
//! nbdkit and through QEMU, both as people run them; a shipper makes points without a pause. Round by round a seed picks
//! who is killed, and the state that it is aimed at; the state that it hit is read from what the dead left ([`eye`]).
//! When a leg is over no guest has seen an error, every read was what the history allows, points made under the kills are
//! each one instant, and disk, newest point and history agree.
//!
//! **Who restarts whom.** The campaign stands for systemd with `Restart=always` and `RestartSec=0`: it starts a program
//! again as soon as it is dead.

pub mod eye;
mod leg;
pub mod states;
mod tally;

pub use tally::{Kill, Tally, Victim};

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Kills of a leg.
const LEG: usize = 15;

/// Kills of the first leg of a long campaign: minutes, in which a shipper is stopped (SIGSTOP) and another one ships.
const LONG_LEG: usize = 150;

/// So many more at most while a state was not hit often enough: what an aim hits depends on the machine and its load.
const MORE: usize = 4 * LEG;

/// Kills `count` times, from one seed on; a leg's seed is that of the campaign and the number of kills before it. `told`
/// hears of every leg that is over.
///
/// # Panics
/// At the first promise that is broken; the seed and the folder with all that is left are printed.
pub fn run(count: usize, seed: u64, mut told: impl FnMut(&Tally)) -> Tally {
    let mut tally = Tally::default();
    while tally.kills.len() < count || tally.states().hit().is_err() && tally.kills.len() < count + MORE {
        let done = tally.kills.len();
        let kills = match count.saturating_sub(done) {
            0 => LEG,
            left if done == 0 && left > LONG_LEG => LONG_LEG,
            left => LEG.min(left),
        };
        let leg = leg::Plan { seed: seed + done as u64, kills };
        let ended = catch_unwind(AssertUnwindSafe(|| leg::run(leg, &mut tally)));
        tally.failures += usize::from(ended.is_err());
        told(&tally);
        if let Err(panic) = ended {
            println!("SEED={} after {} kills of this leg", seed + done as u64, tally.kills.len() - done);
            resume_unwind(panic);
        }
    }
    tally
}
