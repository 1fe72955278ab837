//! The lock on a disk: the tools of QEMU keep out while we have it, and we keep out while they do (S2).

use std::fs;
use std::process::Command;
use towline_tests::live::process::{Site, qemu_nbd, run};

fn qemu_io(site: &Site, command: &str, more: &[&str]) -> towline_tests::live::process::Outcome {
    run(Command::new("qemu-io").args(["-f", "raw"]).args(more).args(["-c", command]).arg(site.first()))
}

/// F18: a second opener.
#[test]
fn qemus_tools_refuse_to_write_a_tracked_disk() {
    for site in [Site::memory(), Site::disk()] {
        let tracker = site.start(&["--create", "16MiB"]);
        let refused = qemu_io(&site, "write -P 1 0 4k", &[]);
        assert!(refused.stderr.contains("lock"), "{}", refused.stderr);
        let resized =
            run(Command::new("qemu-img").args(["resize", "-f", "raw"]).arg(site.first()).arg("32M"));
        assert_ne!(resized.code, Some(0));
        assert_eq!(fs::metadata(site.first()).unwrap().len(), 16 << 20);
        assert!(fs::read(site.first()).unwrap().iter().all(|&byte| byte == 0));
        tracker.stop();
        qemu_io(&site, "write -P 1 0 4k", &[]).good();
    }
}

/// F18: a second opener.
#[test]
fn a_disk_that_others_have_open_is_refused() {
    for site in [Site::memory(), Site::disk()] {
        fs::write(site.first(), vec![7; 1 << 20]).unwrap();
        let other = qemu_nbd(&site.first(), &site.path("other"));
        let refused = run(&mut site.tracker_command(&[]));
        assert_eq!(refused.code, Some(4), "{}", refused.stderr);
        assert!(
            refused.stderr.lines().last().unwrap().starts_with("towline-tracker: "),
            "{}",
            refused.stderr
        );
        assert_eq!(fs::read(site.first()).unwrap(), vec![7; 1 << 20]);
        drop(other);
        site.start(&[]).stop();
    }
}

/// F18: a second opener.
#[test]
fn two_trackers_never_serve_one_disk() {
    let site = Site::disk();
    let tracker = site.start(&["--create", "16MiB"]);
    let mut second = Command::new(site.programs.join("towline-tracker"));
    second.arg("--disk").arg(site.first()).arg("--nbd").arg(format!("unix:{}", site.path("n2").display()));
    let refused = run(second.arg("--control").arg(site.path("c2")));
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    assert_eq!(tracker.client("").unwrap().read(0, 512).unwrap(), [0; 512]);
    tracker.stop();
}
