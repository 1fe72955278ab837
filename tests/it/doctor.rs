//! `towline doctor`: what it says of a disk is what the next start does.

use serde_json::Value;
use std::path::Path;
use towline_tests::live::process::{Site, Tracker, towline, until};

const MIB: u64 = 1 << 20;

fn doctor(what: &Path) -> Value {
    towline([Path::new("doctor"), what, Path::new("--json")]).good().json()
}

fn state(said: &Value) -> (&str, u64, u64) {
    let number = |name: &str| said[name].as_u64().unwrap();
    (said["state"].as_str().unwrap(), number("compare_bytes_max"), number("pending_bytes_max"))
}

fn write(tracker: &Tracker) {
    tracker.client("").unwrap().write(5 * MIB, &[7; 8192]).unwrap();
}

#[test]
fn a_disk_is_explained_from_its_first_start_to_the_end_of_each_session() {
    let site = Site::disk();
    std::fs::write(site.first(), vec![1; 16 * MIB as usize]).unwrap();
    site.init();
    assert_eq!(state(&doctor(&site.first())), ("never tracked", 0, 0));
    let tracker = site.start(&[]);
    assert_eq!(state(&doctor(&site.control())), ("resynchronization required", 16 * MIB, 16 * MIB));
    assert_eq!(
        state(&doctor(&site.first())).0,
        "in use",
        "its socket is not where a tracker puts it by itself"
    );
    site.once(&[]);
    write(&tracker);
    assert_eq!(state(&doctor(&site.control())), ("tracked", 0, 8192));
    tracker.stop();
    assert_eq!(state(&doctor(&site.first())), ("stopped cleanly", 0, 8192));
    // It changes nothing: the next start costs what it said.
    let tracker = site.start(&[]);
    assert_eq!(state(&doctor(&site.control())), ("tracked", 0, 8192));
    write(&tracker);
    tracker.kill();
    // S2: what it had in flight keeps its lock for a moment.
    until("its requests are over", || state(&doctor(&site.first())).0 != "in use");
    let said = doctor(&site.first());
    let (killed, compare, pending) = state(&said);
    assert_eq!(killed, "its tracker was killed");
    assert!((4 * MIB..=8 * MIB).contains(&compare), "one region, and what was pending: {compare}");
    assert!(pending <= 8192, "{pending}");
    let tracker = site.start(&[]);
    assert_eq!(state(&doctor(&site.control())), ("tracked", 0, 8192), "the maps were there");
    tracker.stop();
    // Somebody else writes to it.
    std::fs::File::options()
        .write(true)
        .open(site.first())
        .unwrap()
        .set_modified(std::time::SystemTime::now())
        .unwrap();
    let said = doctor(&site.first());
    assert_eq!(state(&said).0, "resynchronization required");
    assert!(said["reasons"][0].as_str().unwrap().contains("changed while it was not tracked"), "{said}");
    let text = towline([Path::new("doctor"), &site.first()]).good().stdout;
    assert!(text.contains("what to do    start its tracker"), "{text}");
}

#[test]
fn what_can_not_be_examined_is_named() {
    let site = Site::disk();
    let refused = towline([Path::new("doctor"), &site.path("nowhere.raw")]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("nowhere.raw does not exist"), "{}", refused.stderr);
}
