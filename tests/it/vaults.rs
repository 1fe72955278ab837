//! Random lives of vaults.

use towline_tests::mutants::{self, Death};
use towline_tests::sim::Failure;
use towline_tests::vaults::live;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// F31, F36, F37, F38, F39, F43: every published point is restored to its cut, whatever store, shippers, clones and copies do;
/// and the log is this tracker's own, unless somebody else has written to it.
#[test]
fn every_point_of_a_vault_is_its_cut() {
    let seeds = match number("TOWLINE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TOWLINE_SEEDS").unwrap_or(60),
    };
    if mutants::chosen().is_some() {
        return mutants::live(seeds, |seed| {
            let Failure { oracle, what, .. } = live(seed, false).err()?;
            Some(Death { by_data: oracle.sees_data(), oracle: format!("{oracle:?}"), seed: None, what })
        });
    }
    for seed in seeds {
        if let Err(failure) = live(seed, false) {
            println!("SEED={seed} {:?}: {}", failure.oracle, failure.what);
            if let Err(again) = live(seed, true) {
                again.trace.iter().for_each(|line| println!("{line}"));
            }
            panic!("seed {seed}: {}", failure.what);
        }
    }
}
