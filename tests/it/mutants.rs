//! The tests from outside notice the bugs that they are for. Only in a build with the feature, whose programs have the
//! bugs on demand (`make mutants`); the same run without a bug passes.
#![cfg(feature = "mutants")]

use crate::prefix;
use std::fs;
use towline_tests::live::process::{Site, towline};

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

/// Schedule: 1. a cycle's last pack can't be put (its folder's name is taken); 2. the shipper ends; 3. the log must not
/// hold a point that needs what never arrived (V1). What the vault says then.
fn after_a_lost_pack(mutant: Option<&str>) -> Result<(), String> {
    let mut site = Site::memory();
    site.environment.extend(mutant.map(|mutant| ("TOWLINE_MUTANT".into(), mutant.into())));
    fs::write(site.first(), noise(1, 8 << 20)).unwrap();
    site.init();
    let tracker = site.start(&[]);
    site.once(&[]);
    tracker.client("").unwrap().write(4 << 20, &noise(2, 3 << 20)).unwrap();
    let group = fs::read_dir(site.vault().join("groups")).unwrap().next().unwrap().unwrap().path();
    let (packs, aside) = (group.join("packs"), site.path("aside"));
    fs::rename(&packs, &aside).unwrap();
    fs::write(&packs, "in the way").unwrap();
    let outcome = site.ship(&["--once"]);
    // With the mutant it may have ended before it heard of the pack.
    assert!(mutant.is_some() || outcome.code != Some(0), "a pack can't be put: {}", outcome.stderr);
    fs::remove_file(&packs).unwrap();
    fs::rename(&aside, &packs).unwrap();
    let vault = site.vault();
    let verified = towline(["verify", "--vault", vault.to_str().unwrap()]);
    match verified.code {
        Some(0) => {}
        code => return Err(format!("verify ends with {code:?}: {}", verified.stderr)),
    }
    if mutant.is_none() {
        site.once(&[]);
        site.latest_is_the_disk();
    }
    tracker.stop();
    Ok(())
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length / 8).flat_map(|_| word()).collect()
}

#[test]
fn mutant_that_publishes_before_the_last_pack_is_noticed() {
    let how = after_a_lost_pack(Some("publish-before-last-pack")).expect_err("it is not noticed");
    println!("publish-before-last-pack: noticed: {how}");
}

#[test]
fn without_a_mutant_the_same_programs_pass() {
    after_a_lost_pack(None).unwrap();
    prefix::run(&Site::disk(), 1, 6).unwrap();
    prefix::run(&prefix::without_room(), 1, 2).unwrap();
}
