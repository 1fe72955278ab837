//! Blocks that a file has and that need space all the same: on a device that promised more than it has, and where files
//! share blocks until one of them writes. Direct writes fail then, as on any full file system; buffered ones fail in the
//! kernel's write-back, and that shows once, to a sync.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use towline_tests::live::process::{Site, Tracker, run};
use towline_tests::live::room::Room;
use towline_tests::live::stamp::BLOCK;

const DISK: usize = 16 << 20;
/// Where the guest writes when there is no space.
const THERE: u64 = 5 << 20;

/// A tracked disk of zeros, every block of it written, in a room; everything else is elsewhere. With a first point.
fn tracked(room: &Room, more: &[&str], then: impl FnOnce(&Path)) -> (Site, Tracker) {
    let mut site = Site::disk();
    let disk = room.path().join("disk.raw");
    let mut file = File::create(&disk).unwrap();
    file.write_all(&vec![0; DISK]).and_then(|()| file.sync_all()).unwrap();
    then(&disk);
    site.disks = vec![disk.to_str().unwrap().to_owned()];
    site.arguments = vec!["--log-dir".into(), site.path(".").to_str().unwrap().into()];
    site.init();
    let tracker = site.start(more);
    tracker.client("").unwrap().write(0, &[1; BLOCK]).unwrap();
    site.once(&[]);
    (site, tracker)
}

/// The newest point is a point, and what the disk holds, past every cache.
#[track_caller]
fn replicated(site: &Site) {
    assert_eq!(site.once(&[])["kind"], "point");
    let (held, disk) = (site.path("held"), site.first());
    let copy = format!("if={}", disk.display());
    run(Command::new("dd").args(["iflag=direct", "bs=1M", &copy]).arg(format!("of={}", held.display())))
        .good();
    let restored = site.restore("latest").remove(0);
    assert!(fs::read(&held).unwrap() == fs::read(restored).unwrap(), "the point is not the disk");
}

/// Every change is known. Doubt is what a failed sync leaves until the host's next start.
#[track_caller]
fn is_tracked(site: &Site, doubtful: bool) {
    let status = site.status();
    let disk = &status["disks"][0];
    assert_eq!((&disk["degraded"], &disk["doubtful"]), (&false.into(), &doubtful.into()), "{disk}");
    assert!(disk["resync"].is_null(), "{disk}");
}

/// A guest overwrites what the disk has, without space for it.
#[track_caller]
fn overwritten_without_space(site: &Site, tracker: Tracker, fill: impl Fn(), free: impl Fn()) {
    let mut guest = tracker.client("").unwrap();
    guest.write(1 << 20, &[2; BLOCK]).unwrap();
    fill();
    let told = guest.write(THERE, &vec![3; 1 << 20]).expect_err("there is no space");
    assert_eq!(told.raw_os_error(), Some(libc::ENOSPC));
    guest.flush().unwrap();
    // It reads, its changes are known, and what was half written is shipped as it is.
    guest.read(THERE, BLOCK as u32).unwrap();
    is_tracked(site, false);
    replicated(site);
    // Who comes after serves it, and knows all that was changed.
    tracker.kill();
    let tracker = site.start(&[]);
    let mut guest = tracker.client("").unwrap();
    guest.write(THERE, &vec![4; 1 << 20]).expect_err("there still is none");
    is_tracked(site, false);
    replicated(site);
    free();
    guest.write(THERE, &vec![5; 1 << 20]).unwrap();
    guest.write(9 << 20, &[6; BLOCK]).unwrap();
    is_tracked(site, false);
    replicated(site);
    tracker.stop();
}

/// F26: on a thin device.
#[test]
fn blocks_without_space_below_them_are_told_to_the_guest_and_cost_nothing_else() {
    let device = Room::memory(96);
    let room = Room::within(&device, 48);
    let (site, tracker) = tracked(&room, &[], |disk| room.take_space_below(disk));
    overwritten_without_space(&site, tracker, || device.fill(), || device.free());
}

/// F26: of a disk whose blocks a copy shares.
#[test]
fn blocks_that_are_shared_are_told_to_the_guest_when_there_is_no_space_for_a_copy() {
    for kind in ["btrfs", "xfs"] {
        let room = Room::of_kind(kind, 320);
        let (site, tracker) = tracked(&room, &[], |disk| {
            let copy = disk.with_file_name("copy");
            run(Command::new("cp").arg("--reflink=always").arg(disk).arg(copy)).good();
        });
        overwritten_without_space(&site, tracker, || room.fill(), || room.free());
    }
}

/// F6: what the kernel could not write back it tells one sync, and knows no more of it.
#[test]
fn a_sync_that_fails_once_is_told_to_the_guest_and_everything_is_compared() {
    let device = Room::memory(96);
    let room = Room::within(&device, 48);
    let (site, tracker) = tracked(&room, &["--cache", "buffered"], |disk| room.take_space_below(disk));
    let mut guest = tracker.client("").unwrap();
    device.fill();
    guest.write(THERE, &[3; BLOCK]).unwrap();
    guest.flush().expect_err("it is not on the device");
    guest.flush().unwrap();
    let disk = &site.status()["disks"][0];
    assert!(!disk["resync"].is_null(), "a good sync vouches for nothing before it: {disk}");
    // Neither the page that was lost nor a point of it: what is read is what there is.
    assert_eq!(guest.read(THERE, BLOCK as u32).unwrap(), [0; BLOCK]);
    replicated(&site);
    device.free();
    guest.write(THERE, &[4; BLOCK]).unwrap();
    guest.flush().unwrap();
    replicated(&site);
    is_tracked(&site, true);
    // A process's death forgets nothing of it.
    tracker.kill();
    let tracker = site.start(&["--cache", "buffered"]);
    replicated(&site);
    is_tracked(&site, true);
    tracker.stop();
}
