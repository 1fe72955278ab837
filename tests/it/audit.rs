//! The self-audit, with the real programs: a change that the tracker could not see is found, told and repaired.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;
use towline_tests::live::process::{Site, until};
use towline_tests::live::stamp::BLOCK;

const SIZE: usize = 8 << 20;

/// A tracked disk with a point of it; where the image has holes the disk has, and elsewhere it has bytes.
fn begun(site: &Site) {
    let disk = OpenOptions::new().write(true).create(true).truncate(true).open(site.first()).unwrap();
    disk.set_len(SIZE as u64).unwrap();
    let bytes: Vec<u8> = (0..SIZE / 2).map(|at| (at * 7 % 251) as u8 | 1).collect();
    disk.write_all_at(&bytes, 0).unwrap();
    site.init();
}

/// One bit is turned, past the tracker: in data, or in a hole.
fn flip(site: &Site, at: u64) {
    let disk = OpenOptions::new().read(true).write(true).open(site.first()).unwrap();
    let mut byte = [0];
    disk.read_exact_at(&mut byte, at).unwrap();
    disk.write_all_at(&[byte[0] ^ 4], at).unwrap();
    disk.sync_all().unwrap();
}

/// F15: the disk is changed while it is tracked, by somebody whom no lock keeps out.
#[test]
fn a_bit_turned_past_the_tracker_is_found_told_and_repaired() {
    for site in [Site::disk(), Site::memory()] {
        begun(&site);
        let tracker = site.start(&[]);
        site.once(&["--audit", "1GiB"]);
        for (at, name) in [(5 * BLOCK as u64 + 77, "data"), ((SIZE - 3) as u64, "a hole")] {
            tracker.client("").unwrap().write(1 << 20, &[9; BLOCK]).unwrap();
            flip(&site, at);
            let outcome = site.ship(&["--once", "--json", "--audit", "1GiB"]);
            assert_eq!(outcome.code, Some(21), "{name}: {}", outcome.stderr);
            assert!(outcome.stderr.contains(&format!("byte {}", at / 4096 * 4096)), "{}", outcome.stderr);
            let said = outcome.json();
            assert_eq!(said["blocks_untracked"], 1, "{name}: {said}");
            assert_eq!(
                fs::read(&site.restore("latest")[0]).unwrap(),
                fs::read(site.first()).unwrap(),
                "{name}"
            );
            let after = site.once(&["--audit", "1GiB"]);
            assert_eq!((&after["blocks_untracked"], &after["bytes_audited"]), (&0.into(), &SIZE.into()));
        }
        tracker.stop();
    }
}

/// What its own guest does raises no alarm, however it writes while the samples are read; and a shipper that runs on
/// finds a bit by itself.
#[test]
fn a_running_shipper_lets_the_guest_write_and_finds_what_it_did_not_write() {
    let site = Site::memory();
    begun(&site);
    let tracker = site.start(&[]);
    let shipper = site.shipper("ship", &["--every", "20ms", "--audit", "2MiB", "--json"]);
    let points = || fs::read_to_string(site.path("ship.out")).unwrap_or_default();
    let mut client = tracker.client("").unwrap();
    let mut written = 0u64;
    let mut write = |more: u64| {
        for _ in 0..more {
            written += 1;
            let offset = written * 7919 % (SIZE / BLOCK) as u64 * BLOCK as u64;
            client.write(offset, &[written as u8; BLOCK]).unwrap();
        }
    };
    until("twenty points are there", || {
        write(200);
        points().lines().count() >= 20
    });
    assert!(points().lines().all(|line| line.contains("\"blocks_untracked\":0")), "{}", points());
    // It is found unless the guest writes there, or has since the last cut: that marks it.
    let before = points().lines().count();
    until("what was written is shipped", || points().lines().count() >= before + 2);
    flip(&site, 12345);
    until("it is found", || {
        std::thread::sleep(Duration::from_millis(5));
        points().lines().any(|line| line.contains("\"blocks_untracked\":1"))
    });
    drop(shipper);
    site.once(&[]);
    assert_eq!(fs::read(&site.restore("latest")[0]).unwrap(), fs::read(site.first()).unwrap());
    tracker.stop();
}
