//! Block devices as disks, and as places to restore to.

use std::fs;
use std::path::Path;
use std::process::Command;
use towline_tests::live::process::{Outcome, Site, Tracker, qemu_nbd, run};
use towline_tests::live::room::{Device, as_root};
use towline_tests::live::stamp::BLOCK;
use towline_tracker::frontend::nbd::client::Operation;

const SIZE: u64 = 24 << 20;

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Bytes that don't compress, and are nowhere zero.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut words = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state | 0x0101_0101_0101_0101
    };
    (0..SIZE / 8).flat_map(|_| words().to_le_bytes()).collect()
}

/// A device with noise on it as the site's disk; its sidecar is in the site's folder.
fn begun() -> (Device, Site, Tracker) {
    let device = Device::new(&noise(1));
    let mut site = Site::disk();
    site.disks = vec![device.path().to_str().unwrap().to_owned()];
    site.arguments = vec!["--log-dir".into(), site.path(".").to_str().unwrap().into()];
    site.init();
    let tracker = site.start(&[]);
    (device, site, tracker)
}

/// The newest point is what is on the device.
#[track_caller]
fn latest_is(site: &Site, device: &Device) {
    let image = fs::read(&site.restore("latest")[0]).unwrap();
    let content = device.content();
    assert_eq!(image.len(), content.len());
    let differs =
        (0..image.len()).step_by(BLOCK).find(|&at| image[at..at + BLOCK] != content[at..at + BLOCK]);
    assert_eq!(differs, None, "the first byte of the first block that differs");
}

#[test]
fn a_block_device_is_tracked_shipped_and_restored() {
    let (device, site, tracker) = begun();
    let first = site.once(&[]);
    assert_eq!(number(&first["bytes_shipped"]), SIZE);
    latest_is(&site, &device);
    let mut client = tracker.client("").unwrap();
    client.write(3 << 20, &[7; 3 * BLOCK]).unwrap();
    client.call(&Operation::Write { offset: 0, data: &[8; BLOCK], fua: true }).unwrap();
    client.call(&Operation::Trim { offset: 8 << 20, length: 1 << 20 }).unwrap();
    client.call(&Operation::Zero { offset: 12 << 20, length: 256 << 10, may_punch: true }).unwrap();
    client.call(&Operation::Zero { offset: 16 << 20, length: 64 << 10, may_punch: false }).unwrap();
    assert!(
        client.read(8 << 20, 1 << 20).unwrap().iter().all(|&byte| byte == 0),
        "what is trimmed reads as zeros"
    );
    assert!(client.read(12 << 20, 256 << 10).unwrap().iter().all(|&byte| byte == 0));
    let delta = site.once(&[]);
    let changed = 4 * BLOCK as u64 + (1 << 20) + (256 << 10) + (64 << 10);
    assert_eq!(number(&delta["bytes_changed"]), changed, "{delta}");
    assert!(number(&delta["bytes_put"]) < 1 << 20, "zeros are not shipped as data: {delta}");
    latest_is(&site, &device);
    drop(client);
    // A clean stop: the next session knows that nobody touched the device, and ships a delta.
    tracker.stop();
    let tracker = site.start(&[]);
    assert!(site.status()["disks"][0]["resync"].is_null(), "{}", site.status());
    tracker.client("").unwrap().write(5 << 20, &[9; BLOCK]).unwrap();
    assert_eq!(number(&site.once(&[])["bytes_changed"]), BLOCK as u64);
    latest_is(&site, &device);
    tracker.stop();
    // Somebody wrote to it while it was not tracked: the device's own counter tells (S3).
    let bytes = [0x77; 2 * BLOCK];
    let file = fs::OpenOptions::new().write(true).open(device.path()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 7 << 20).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let tracker = site.start(&[]);
    assert!(site.status()["disks"][0]["resync"].is_string(), "{}", site.status());
    let point = site.once(&[]);
    assert!(number(&point["bytes_shipped"]) <= 3 * BLOCK as u64, "only what differs: {point}");
    latest_is(&site, &device);
    tracker.stop();
}

#[test]
fn a_block_device_is_compared_after_the_trackers_death() {
    let (device, site, tracker) = begun();
    site.once(&[]);
    let mut client = tracker.client("").unwrap();
    client.write(3 << 20, &[7; 3 * BLOCK]).unwrap();
    tracker.kill();
    let tracker = site.start(&[]);
    assert!(site.status()["disks"][0]["resync"].is_string(), "{}", site.status());
    tracker.client("").unwrap().write(4 << 20, &[9; BLOCK]).unwrap();
    let point = site.once(&[]);
    assert_eq!(number(&point["bytes_changed"]), SIZE, "{point}");
    assert!(number(&point["bytes_shipped"]) <= 5 * BLOCK as u64, "only what differs: {point}");
    latest_is(&site, &device);
    tracker.stop();
}

#[track_caller]
fn refused(outcome: &Outcome, program: &str, code: i32, told: &str) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    let line = outcome.stderr.lines().last().unwrap_or_default();
    assert!(line.starts_with(&format!("{program}: ")) && line.contains(told), "{}", outcome.stderr);
}

/// The command that restores the site's point to a device.
fn restore(site: &Site, to: &Path, more: &[&str]) -> Outcome {
    let mut command = as_root(site.programs.join("towline").to_str().unwrap());
    command
        .args(["restore", "--group", &site.group(), "--vault"])
        .arg(site.vault())
        .arg("--to")
        .arg(to)
        .args(more);
    run(&mut command)
}

/// F18: a second opener.
#[test]
fn a_block_device_in_use_is_refused_both_ways() {
    let (device, site, tracker) = begun();
    site.once(&[]);
    // While it is tracked: no second tracker, no emulator that writes, no restore over it.
    let mut second = Command::new(site.programs.join("towline-tracker"));
    second.arg("--disk").arg(device.path()).arg("--nbd").arg(format!("unix:{}", site.path("n2").display()));
    second.arg("--control").arg(site.path("c2")).arg("--log-dir").arg(site.path("."));
    refused(&run(&mut second), "towline-tracker", 4, "in use");
    let mut emulator = Command::new("qemu-io");
    emulator.args(["-f", "raw", "-c", "write -P 1 0 4k"]).arg(device.path());
    let told = run(&mut emulator).stderr;
    assert!(told.contains("lock"), "{told}");
    let mounted = run(as_root("mount").args(["-t", "ext4"]).arg(device.path()).arg(site.path(".")));
    assert_ne!(mounted.code, Some(0), "O_EXCL keeps mounts out");
    refused(&restore(&site, device.path(), &["--force"]), "towline", 7, "in use");
    assert_eq!(device.content(), noise(1));
    tracker.stop();

    // While somebody else has it: an emulator, a file system.
    let other = qemu_nbd(device.path(), &site.path("other"));
    refused(&run(&mut site.tracker_command(&[])), "towline-tracker", 4, "in use");
    refused(&restore(&site, device.path(), &["--force"]), "towline", 7, "in use");
    drop(other);
    run(as_root("mkfs.ext4").arg("-qF").arg(device.path())).good();
    let at = site.path("mounted");
    fs::create_dir(&at).unwrap();
    run(as_root("mount").arg(device.path()).arg(&at)).good();
    let refusals = [run(&mut site.tracker_command(&[])), restore(&site, device.path(), &["--force"])];
    run(as_root("umount").arg(&at)).good();
    refused(&refusals[0], "towline-tracker", 4, "in use");
    refused(&refusals[1], "towline", 7, "mounted");
    // And then nobody.
    site.start(&[]).stop();
    restore(&site, device.path(), &["--force"]).good();
    assert_eq!(device.content(), noise(1));
}

#[test]
fn without_a_place_for_its_sidecar_a_block_device_is_refused() {
    let device = Device::new(&noise(1));
    let mut site = Site::disk();
    site.disks = vec![device.path().to_str().unwrap().to_owned()];
    refused(&run(&mut site.tracker_command(&[])), "towline-tracker", 2, "--log-dir");
    assert_eq!(device.content(), noise(1));
}

#[test]
fn a_point_is_restored_to_a_block_device_when_that_is_asked_for() {
    let site = Site::disk();
    let mut content = noise(3);
    content[4 << 20..8 << 20].fill(0);
    fs::write(site.first(), &content).unwrap();
    site.init();
    let tracker = site.start(&[]);
    site.once(&[]);
    tracker.stop();
    let device = Device::new(&noise(2));
    refused(&restore(&site, device.path(), &[]), "towline", 7, "--force");
    assert_eq!(device.content(), noise(2), "nothing was overwritten");
    restore(&site, device.path(), &["--force"]).good();
    assert!(device.content() == content, "zeros replace what was there too");
    // Too small: nothing is begun.
    let small = Device::new(&noise(2)[..8 << 20]);
    refused(&restore(&site, small.path(), &["--force"]), "towline", 8, "larger device");
    assert!(small.content() == noise(2)[..8 << 20]);
}
