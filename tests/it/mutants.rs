//! The tests from outside notice the bugs that they are for. Only in a build with the feature, whose programs have the
//! bugs on demand (`make mutants`); the same run without a bug passes.
#![cfg(feature = "mutants")]

use crate::prefix;
use towline_tests::live::process::Site;

/// Runs the prefix test with a bug until it is noticed, with other seeds each time.
fn noticed(mutant: &str) {
    for seed in 1..=8 {
        for mut site in [Site::disk(), Site::memory()] {
            site.environment.push(("TOWLINE_MUTANT".into(), mutant.into()));
            if seed % 2 == 0 {
                site.disks.push("second.raw".into());
            }
            if let Err(how) = prefix::run(&site, seed, 6) {
                println!("{mutant}: noticed with seed {seed}: {how}");
                return;
            }
        }
    }
    panic!("the prefix test does not notice {mutant}");
}

#[test]
fn mutant_without_preserving_is_noticed() {
    noticed("no-preserve");
}

#[test]
fn mutant_that_marks_before_it_waits_is_noticed() {
    noticed("mark-before-waits");
}

#[test]
fn mutant_that_reads_past_the_store_is_noticed() {
    noticed("ignore-store");
}

#[test]
fn mutant_that_does_not_confirm_is_noticed() {
    for seed in 1..=8 {
        let mut site = prefix::without_room();
        site.environment.push(("TOWLINE_MUTANT".into(), "no-confirm".into()));
        if let Err(how) = prefix::run(&site, seed, 2) {
            println!("no-confirm: noticed with seed {seed}: {how}");
            return;
        }
    }
    panic!("the prefix test does not notice no-confirm");
}

#[test]
fn without_a_mutant_the_same_programs_pass() {
    prefix::run(&Site::disk(), 1, 6).unwrap();
    prefix::run(&prefix::without_room(), 1, 2).unwrap();
}
