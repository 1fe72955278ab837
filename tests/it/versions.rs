//! Files of a version to come: refused in one clear line with the documented exit code, and not a byte is changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use towline::vault::descriptor::Descriptor;
use towline::vault::envelope;
use towline::vault::layout::object;
use towline_tests::live::process::{Outcome, Site, run, towline};
use towline_tests::live::stamp::BLOCK;
use towline_tests::live::writer::first_content;
use towline_tracker::format::envelope::{HEADER, wrap};
use towline_tracker::format::meta;

/// Every file below a folder, with its content.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => all.append(&mut snapshot(&path)),
            path => drop(all.insert(path.clone(), fs::read(path).unwrap())),
        }
    }
    all
}

#[track_caller]
fn refused(outcome: &Outcome, program: &str, code: i32) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    let line = outcome.stderr.lines().last().unwrap_or_default();
    assert!(
        line.starts_with(&format!("{program}: ")) && line.contains("newer version"),
        "{}",
        outcome.stderr
    );
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
}

/// A stopped site with one point and a change after it.
fn begun() -> Site {
    let site = Site::disk();
    first_content(&site.first(), 0, 512).unwrap();
    site.init();
    let tracker = site.start(&[]);
    site.once(&[]);
    tracker.client("").unwrap().write(0, &[5; BLOCK]).unwrap();
    tracker.stop();
    site
}

#[test]
fn a_sidecar_of_a_newer_version_is_refused_and_untouched() {
    let site = begun();
    let path = site.path("disk.raw.towline/disk.meta");
    let good = fs::read(&path).unwrap();
    // The same content, as a newer program would have written it: its checksum is right.
    fs::write(&path, wrap(meta::MAGIC, meta::VERSION + 1, &good[HEADER..])).unwrap();
    let sidecar = || snapshot(&site.path("disk.raw.towline"));
    let (before, disk) = (sidecar(), fs::read(site.first()).unwrap());
    refused(&run(&mut site.tracker_command(&[])), "towline-tracker", 5);
    refused(&run(&mut site.tracker_command(&["--tracking", "off"])), "towline-tracker", 5);
    assert_eq!(sidecar(), before);
    assert_eq!(fs::read(site.first()).unwrap(), disk);
    // With the version that wrote it all goes on where it was.
    fs::write(&path, good).unwrap();
    let tracker = site.start(&[]);
    assert!(site.status()["disks"][0]["resync"].is_null());
    site.once(&[]);
    site.latest_is_the_disk();
    tracker.stop();
}

/// Each command that touches a vault, on this site's.
fn every_command(site: &Site) -> Vec<(&'static str, Outcome)> {
    let (vault, to) = (site.vault(), site.path("out"));
    let (vault, to) = (vault.to_str().unwrap(), to.to_str().unwrap());
    let all = vec![
        ("ship", site.ship(&["--once"])),
        ("ship --take-over", site.ship(&["--once", "--take-over"])),
        ("points", towline(["points", "--vault", vault])),
        ("restore", towline(["restore", "--vault", vault, "--group", "disk", "--to", to])),
        ("verify", towline(["verify", "--vault", vault])),
    ];
    assert!(!Path::new(to).exists());
    all
}

#[test]
fn a_vault_of_a_newer_version_is_refused_and_untouched() {
    let site = begun();
    let tracker = site.start(&[]);
    let path = site.vault().join("vault");
    let good = fs::read(&path).unwrap();
    let mut later = Descriptor::decode(&good).unwrap();
    later.required = 1 << 40;
    let mut version = good.clone();
    version[object::VERSION].copy_from_slice(&(envelope::VERSION + 1).to_le_bytes());
    // Sealed by that version: as this one would have, it would be damaged.
    version[object::TAG].fill(7);
    for (what, bytes) in [("a required feature", later.encode()), ("a version", version)] {
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let before = snapshot(&site.vault());
        for (command, outcome) in every_command(&site) {
            println!("{what}: {command}: {}", outcome.stderr);
            refused(&outcome, "towline", 4);
        }
        assert_eq!(snapshot(&site.vault()), before);
    }
    fs::remove_file(&path).unwrap();
    fs::write(&path, good).unwrap();
    site.once(&[]);
    site.latest_is_the_disk();
    tracker.stop();
}

#[test]
fn an_entry_of_a_newer_version_stops_the_shipper_before_it_appends() {
    let site = begun();
    let tracker = site.start(&[]);
    let entries = || {
        let all = snapshot(&site.vault());
        all.into_iter().filter(|(path, _)| path.parent().unwrap().ends_with("log")).collect::<Vec<_>>()
    };
    let (path, good) = entries().pop().unwrap();
    let mut newer = good.clone();
    newer[object::VERSION].copy_from_slice(&(envelope::VERSION + 1).to_le_bytes());
    newer[object::TAG].fill(7);
    fs::remove_file(&path).unwrap();
    fs::write(&path, newer).unwrap();
    let before = snapshot(&site.vault());
    refused(&site.ship(&["--once"]), "towline", 4);
    assert_eq!(snapshot(&site.vault()), before);
    fs::remove_file(&path).unwrap();
    fs::write(&path, good).unwrap();
    site.once(&[]);
    site.latest_is_the_disk();
    tracker.stop();
}
