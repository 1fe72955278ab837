//! The campaign of faults in sidecar and store, and the order in which a disk says that it was written untracked. `make
//! isolation` runs the campaign for longer, holds each fault, and adds a line to `tests/CAMPAIGNS.md`.

use crate::campaigns::{Run, number};
use std::fs;
use std::process::Command;
use std::time::Duration;
use towline_tests::isolation::{self, Tally, marked};
use towline_tests::live::process::{Site, Tracker, WANDERING, until};
use towline_tests::live::room::{Device, Room};
use towline_tests::live::stamp::BLOCK;
use towline_tracker::frontend::nbd::client::{Client, Operation};
use towline_tracker::sidecar::disk_file::state_path;

/// F25, F28, F29, F30 (promise 3, S4, S5): whatever becomes of the sidecar's file system or of the store, and at what
/// moment, guests see no error and go on, and points come again by themselves.
#[test]
fn guests_wait_neither_for_the_sidecar_nor_for_the_store() {
    // The last kind of fault, a full vault, is retried after a minute: not in `make test`.
    let count = number("TOWLINE_LEGS").unwrap_or(8) as usize;
    let hold = Duration::from_secs(number("TOWLINE_HOLD").unwrap_or(1));
    // `make test` has legs in which all moments are met, and all ends.
    let of = Run::begin("isolation", 855);
    let told = |tally: &Tally| {
        of.tell(tally.legs, tally.failures, &format_args!("held {} s; {tally}", hold.as_secs()));
    };
    let tally = isolation::run(count, of.seed, hold, told);
    assert_eq!(tally.missing(), None, "the campaign is blind");
}

/// A disk that has more regions than its intents hold, one of them written, with its sidecar in a room of its own.
fn tracked(site: &Site, tracker: &Tracker) -> Client {
    assert!(!marked(&site.first()));
    let mut guest = tracker.client("").unwrap();
    guest.write(0, &[1; BLOCK]).unwrap();
    guest.flush().unwrap();
    guest
}

/// A write to a region whose intent nobody could make durable.
const UNTRACKED: Operation<'_> = Operation::Write { offset: 900 << 20, data: &[7; BLOCK], fua: false };

fn degraded(site: &Site) -> bool {
    site.status()["disks"][0]["degraded"].as_bool().unwrap()
}

/// S4, F29: the mark is durable before the first untracked write is answered.
///
/// Goal: the order, and what the host's death leaves at that instant. Method: the disk is in buffered mode, on a file system
/// whose device lies in another that is frozen: writes and the mark's attribute go to the page cache, nothing reaches the
/// device, and the mark's sync hangs. A tracked write is answered all the same, the untracked one is not: it waits for the
/// mark alone. The device's content, which is what a power cut leaves, has no mark. Then the device takes writes again; when
/// the untracked write is answered, the device has the mark, and the next boot compares.
#[test]
fn the_mark_is_on_the_disks_device_before_the_first_untracked_write_is_answered() {
    let (outer, sidecar) = (Room::disk(256), Room::disk(32));
    let inner = Room::within(&outer, 96);
    let mut site = Site::disk();
    site.init();
    site.disks = vec![inner.path().join("disk.raw").to_str().unwrap().into()];
    let place = sidecar.path().to_str().unwrap();
    let more = ["--create", "1GiB", "--cache", "buffered", "--log-dir", place];
    site.arguments.extend(WANDERING.iter().chain(&more).map(|one| one.to_string()));
    let tracker = site.start(&[]);
    site.once(&[]);
    let mut guest = tracked(&site, &tracker);
    let mut other = tracker.client("").unwrap();
    sidecar.make_read_only();
    inner.sync();
    let stalled = outer.stall();
    other.write(BLOCK as u64, &[2; BLOCK]).unwrap();
    guest.send(&UNTRACKED, 1).unwrap();
    until("tracking fails", || degraded(&site));
    until("the mark is set", || marked(&site.first()));
    guest.stream().set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let early = guest.receive();
    assert!(early.is_err(), "answered before the mark was durable: {early:?}");
    assert_eq!(other.read(0, BLOCK as u32).unwrap(), [1; BLOCK]);
    let disk_of = |room: &Room| room.path().join("disk.raw");
    assert!(!marked(&disk_of(&Room::copy_of(inner.image()))), "nothing has reached the device");
    drop(stalled);
    guest.stream().set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    guest.receive().unwrap().result.unwrap();
    let left = site.path("left");
    fs::copy(inner.image(), &left).unwrap();
    tracker.kill();
    crate::lineage::wipe_maps(&site);
    inner.put_back(&left);
    assert!(marked(&site.first()), "a power cut leaves the mark");
    sidecar.mend();
    let tracker = site.start(&[]);
    assert!(site.status()["disks"][0]["resync"].is_string(), "{}", site.status());
    assert_eq!(site.once(&[])["kind"], "point");
    site.latest_is_the_disk();
    tracker.stop();
}

/// S4, F29, of a block device, whose mark is a file elsewhere: its name and its folder are synced before the first untracked
/// write is answered. Method: the calls on that file are watched, each held up for a second, so that an answer would come
/// before them if it did not wait.
#[test]
fn a_block_devices_mark_is_stored_before_the_first_untracked_write_is_answered() {
    let (device, sidecar) = (Device::sized(1 << 30), Room::disk(32));
    let mut site = Site::disk();
    site.init();
    site.disks = vec![device.path().to_str().unwrap().into()];
    let place = sidecar.path().to_str().unwrap();
    site.arguments.extend(WANDERING.iter().chain(&["--log-dir", place]).map(|one| one.to_string()));
    let mark = state_path(device.path()).unwrap();
    let log = site.path("calls");
    let mut command = Command::new("strace");
    // The tracker stays our child; whoever watches it goes with it.
    command.args(["-D", "-f", "-qq", "-e", "trace=rename,fsync"]).arg("-o").arg(&log);
    command.args(["-e", "inject=rename,fsync:delay_enter=1000000"]);
    for path in [mark.with_extension("new"), mark.clone(), mark.parent().unwrap().to_owned()] {
        command.arg("-P").arg(path);
    }
    let plain = site.tracker_command(&[]);
    command.arg(plain.get_program()).args(plain.get_args());
    let tracker = site.start_command(&mut command);
    site.once(&[]);
    let mut guest = tracker.client("").unwrap();
    guest.write(0, &[1; BLOCK]).unwrap();
    let told = || fs::read_to_string(&log).unwrap();
    let before = told().len();
    sidecar.make_read_only();
    guest.send(&UNTRACKED, 1).unwrap();
    guest.receive().unwrap().result.unwrap();
    let calls = told().split_off(before);
    let done = |name: &str| {
        let calls = calls.lines().enumerate().filter(|(_, line)| line.contains(name) && line.contains("= 0"));
        calls.last().map(|(at, _)| at)
    };
    let (renamed, synced) = (done("rename"), done("fsync"));
    assert!(renamed.is_some() && renamed < synced, "answered before the mark was durable:\n{calls}");
    tracker.kill();
    crate::lineage::wipe_maps(&site);
    sidecar.mend();
    let tracker = site.start(&[]);
    assert!(site.status()["disks"][0]["resync"].is_string(), "{}", site.status());
    assert_eq!(site.once(&[])["kind"], "point");
    tracker.stop();
}
