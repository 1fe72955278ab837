//! How fast the real programs upload: limits that make no sense are refused, and one that is lifted while somebody waits counts.

use std::fs;
use towline_tests::live::process::{Site, until};
use towline_tests::live::stamp::BLOCK;
use towline_tests::live::writer::first_content;

#[test]
fn limits_that_make_no_sense_are_refused_in_one_line() {
    let site = Site::memory();
    let file = site.path("limits");
    fs::write(&file, "50MiB/s\nmon-fri 20MiB/s 08:00-18:00\n").unwrap();
    let (file, missing) = (file.to_str().unwrap(), site.path("missing"));
    for (arguments, told) in [
        (["--limit-up", "fast"], "50MiB/s"),
        (["--limit-up", "50MiB"], "50MiB/s"),
        (["--limit-up", "0B/s"], "1KiB/s"),
        (["--limit-up", "someday 1MiB/s"], "mon-fri"),
        (["--limit-up", "mon 8-18 1MiB/s"], "08:00-18:00"),
        (["--limit-file", file], "line 2"),
        (["--limit-file", missing.to_str().unwrap()], "missing"),
    ] {
        let outcome = site.ship(&["--once", arguments[0], arguments[1]]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.lines().count() == 1 && outcome.stderr.contains(told), "{}", outcome.stderr);
        assert!(outcome.stderr.starts_with(&format!("towline: {}", arguments[0])), "{}", outcome.stderr);
    }
}

/// Schedule: 1. a shipper waits under a limit with which it would take an hour; 2. its file is replaced; 3. it goes on by itself.
#[test]
fn a_limit_that_is_lifted_while_a_shipper_waits_counts_at_once() {
    let site = Site::memory();
    first_content(&site.first(), 0, (4 << 20) / BLOCK as u64).unwrap();
    site.init();
    let tracker = site.start(&[]);
    let limits = site.path("limits");
    fs::write(&limits, "1KiB/s\n").unwrap();
    let file = limits.to_str().unwrap();
    let mut shipper =
        site.shipper("ship", &["--once", "--json", "--pack-size", "64KiB", "--limit-file", file]);
    until("it waits", || fs::read_to_string(site.path("ship.err")).unwrap_or_default().contains("1.0 KiB/s"));
    assert_eq!(shipper.ended(), None, "four megabytes take an hour");
    fs::write(site.path("new"), "# as fast as it goes\nunlimited\n").unwrap();
    fs::rename(site.path("new"), &limits).unwrap();
    let ended = shipper.wait().expect("it does not hang");
    assert!(ended.success(), "{}", fs::read_to_string(site.path("ship.err")).unwrap());
    site.latest_is_the_disk();
    tracker.stop();
}
