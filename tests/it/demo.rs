//! What the README's first command does, on a disk of its own and on one that is given.

use std::fs;
use std::process::Command;
use towline_tests::live::process::{Outcome, Site, run, towline};
use towline_tests::live::stamp::BLOCK;
use towline_tests::live::writer::first_content;

/// The program beside this one, with the programs that these tests use.
fn demo(arguments: &[&str]) -> Outcome {
    let programs = towline_tests::live::process::programs();
    run(Command::new(env!("CARGO_BIN_EXE_towline-demo")).args(arguments).env("TOWLINE_BIN_DIR", programs))
}

/// The lines of the table that end with this verdict.
fn with_verdict(said: &Outcome, verdict: &str) -> usize {
    said.stdout.lines().filter(|line| line.ends_with(verdict)).count()
}

#[test]
fn the_demo_shows_points_that_are_each_one_instant() {
    let said = demo(&[]).good();
    assert_eq!(with_verdict(&said, "one instant"), 6, "{}", said.stdout);
    assert!(said.stdout.contains("vault: sound"), "{}", said.stdout);
}

#[test]
fn the_demo_leaves_a_given_disk_as_it_was_and_its_points_in_the_given_vault() {
    let site = Site::disk();
    first_content(&site.first(), 0, (16 << 20) / BLOCK as u64).unwrap();
    let before = fs::read(site.first()).unwrap();
    site.init();
    let (disk, vault) = (site.first(), site.vault());
    let said = demo(&["--disk", disk.to_str().unwrap(), "--vault", vault.to_str().unwrap()]).good();
    assert_eq!(with_verdict(&said, "equals the disk"), 3, "{}", said.stdout);
    assert!(fs::read(&disk).unwrap() == before);
    let names: Vec<_> =
        fs::read_dir(site.path(".")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names.len(), 2, "nothing is left beside disk and vault: {names:?}");
    assert_eq!(site.points().len(), 3);
    towline(["verify", "--vault", vault.to_str().unwrap()]).good();
}
