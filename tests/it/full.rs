//! No space left, and no answer: beside the disk, where a point is restored to, in the vault. The guest's requests never fail for it,
//! nothing half-made stays, and all goes on once there is space again.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use towline_tests::live::process::{Outcome, Site, Tracker, WANDERING, run, until};
use towline_tests::live::room::Room;
use towline_tests::live::stamp::BLOCK;
use towline_tests::live::writer::first_content;
use towline_tracker::control::client::{Client as Shipper, Handed};
use towline_tracker::format::meta::Mark;
use towline_tracker::frontend::nbd::client::Operation;
use towline_tracker::id::{Anchor, AttachNumber, TargetId, VaultId};

/// A shipper's, and an entry of it.
const TARGET: TargetId = TargetId([3; 16]);
const ANCHOR: Anchor = Anchor { vault: VaultId([3; 16]), seq: 1, hash: [1; 32] };

/// Of the disks that are shipped whole.
const BLOCKS: u64 = (16 << 20) / BLOCK as u64;
/// Of the sparse ones.
const LARGE: u64 = (1 << 30) / BLOCK as u64;

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[track_caller]
fn refused(outcome: &Outcome, code: i32, told: &str) {
    assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
    let line = outcome.stderr.lines().last().unwrap_or_default();
    assert!(line.starts_with("towline: ") && line.contains(told), "{}", outcome.stderr);
}

/// A guest that writes one block at a time, all over the disk, until it is told to stop.
struct Guest {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Guest {
    fn start(tracker: &Tracker, blocks: u64) -> Self {
        let mut client = tracker.client("").unwrap();
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ends, count) = (Arc::clone(&stop), Arc::clone(&written));
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let n = count.load(Ordering::Relaxed);
                let offset = n * 1_234_577 % blocks * BLOCK as u64;
                client.write(offset, &[n as u8 | 1; BLOCK]).expect("no error for the guest");
                count.store(n + 1, Ordering::Relaxed);
            }
        });
        Self { stop, written, thread }
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// It goes on from here.
    #[track_caller]
    fn goes_on(&self) {
        let before = self.written();
        until("the guest goes on", || self.written() > before + 30);
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no request of the guest fails");
    }
}

/// Whether the disk itself says that it was written untracked.
fn marked(site: &Site) -> bool {
    let path = std::ffi::CString::new(site.first().to_str().unwrap()).unwrap();
    let mut value = [0; 256];
    let room = (value.as_mut_ptr().cast(), value.len());
    // SAFETY: path and name end with a zero, and the buffer has the length that is told.
    let length = unsafe { libc::getxattr(path.as_ptr(), c"user.towline".as_ptr(), room.0, room.1) };
    Mark::decode(&value[..usize::try_from(length).expect("a mark")]).unwrap().untracked
}

fn degraded(site: &Site) -> bool {
    site.status()["disks"][0]["degraded"].as_bool().unwrap()
}

/// A tracked disk whose sidecar is in a room of its own, with a first point. It has three times the regions that the
/// intents hold: a write anywhere needs room among them, and so a line in the change log.
fn with_sidecar_in(room: &Room, more: &[&str]) -> (Site, Tracker) {
    let mut site = Site::disk();
    site.init();
    let switches = ["--create", "1GiB", "--log-dir", room.path().to_str().unwrap()];
    site.arguments.extend(WANDERING.iter().chain(&switches).chain(more).map(|one| one.to_string()));
    let tracker = site.start(&[]);
    site.once(&[]);
    (site, tracker)
}

/// F25: no space beside the disk.
#[test]
fn a_full_sidecar_lets_the_guest_go_on_and_costs_a_comparison() {
    for room in [Room::memory(16), Room::disk(16)] {
        let (site, tracker) = with_sidecar_in(&room, &[]);
        let guest = Guest::start(&tracker, LARGE);
        guest.goes_on();
        assert!(!degraded(&site), "all is tracked before");
        room.fill();
        until("tracking fails", || degraded(&site));
        guest.goes_on();
        // A crash now would be noticed: the disk itself says that it was written untracked (S4).
        assert!(marked(&site));
        room.free();
        // It heals by itself; what went untracked until then is found by the next point's comparison.
        until("tracking is whole again", || !degraded(&site));
        until("the mark is cleared", || !marked(&site));
        guest.goes_on();
        guest.finish();
        let point = site.once(&[]);
        assert_eq!(point["kind"], "point");
        site.latest_is_the_disk();
        // And it is: what is written now is known exactly, also after the tracker's death.
        tracker.client("").unwrap().write(4 << 20, &[7; 3 * BLOCK]).unwrap();
        tracker.kill();
        let tracker = site.start(&[]);
        assert!(site.status()["disks"][0]["resync"].is_null(), "{}", site.status());
        let point = site.once(&[]);
        assert!(number(&point["bytes_read"]) < 1 << 20, "{point}");
        site.latest_is_the_disk();
        tracker.stop();
    }
}

/// F25: no space beside the disk.
#[test]
fn a_tracker_that_dies_while_its_sidecar_is_full_leaves_a_disk_that_is_compared() {
    for room in [Room::memory(16), Room::disk(16)] {
        let (site, tracker) = with_sidecar_in(&room, &[]);
        let guest = Guest::start(&tracker, LARGE);
        guest.goes_on();
        room.fill();
        until("tracking fails", || degraded(&site));
        guest.goes_on();
        guest.finish();
        tracker.kill();
        // As after the death of the host: nothing but the disk and its sidecar is left.
        crate::lineage::wipe_maps(&site);
        room.free();
        let tracker = site.start(&[]);
        assert!(site.status()["disks"][0]["resync"].is_string(), "{}", site.status());
        let point = site.once(&[]);
        assert_eq!(number(&point["bytes_changed"]), 1 << 30, "all of it is compared: {point}");
        site.latest_is_the_disk();
        tracker.stop();
    }
}

#[test]
fn in_strict_a_full_sidecar_makes_writes_wait_until_there_is_space() {
    for room in [Room::memory(16), Room::disk(16)] {
        let (site, tracker) = with_sidecar_in(&room, &["--tracking", "strict"]);
        assert_eq!(site.status()["tracking"], "strict");
        let guest = Guest::start(&tracker, LARGE);
        guest.goes_on();
        assert!(!degraded(&site), "writes go on while they are tracked");
        room.fill();
        until("tracking fails", || degraded(&site));
        // Whoever needs an intent waits; who has one may still write.
        until("the guest waits", || {
            let before = guest.written();
            std::thread::sleep(Duration::from_millis(300));
            guest.written() == before
        });
        let before = guest.written();
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(guest.written(), before, "nothing is written that is not tracked");
        // Reads never wait.
        assert_eq!(tracker.client("").unwrap().read(0, 4096).unwrap().len(), BLOCK);
        room.free();
        // Nobody needs to ship for that.
        guest.goes_on();
        until("tracking is whole again", || !degraded(&site));
        guest.finish();
        // Nothing went untracked: nothing has to be compared, now or after a crash.
        assert!(site.status()["disks"][0]["resync"].is_null());
        tracker.kill();
        crate::lineage::wipe_maps(&site);
        let tracker = site.start(&[]);
        assert!(site.status()["disks"][0]["resync"].is_null(), "{}", site.status());
        site.once(&[]);
        site.latest_is_the_disk();
        tracker.stop();
    }
}

/// Attaches, as a shipper does, and cuts the whole disk.
fn frozen(site: &Site) -> (Shipper, AttachNumber, Handed) {
    let mut shipper = Shipper::connect(&site.control()).unwrap();
    let attach = shipper.attach(TARGET).unwrap().attach;
    let handed = shipper.cut(attach, true).unwrap();
    (shipper, attach, handed)
}

/// A filled disk whose sidecar is in a room of its own.
fn filled_with_sidecar_in(room: &Room) -> (Site, Tracker) {
    let mut site = Site::disk();
    first_content(&site.first(), 0, BLOCKS).unwrap();
    site.arguments.extend(["--log-dir".into(), room.path().to_str().unwrap().into()]);
    let tracker = site.start(&[]);
    (site, tracker)
}

/// V9, C5: what fills the sidecar is what the release would give back, and whoever asks for it still holds it open.
#[test]
fn a_release_on_a_full_sidecar_gets_its_room_from_the_preserved_data() {
    for room in [Room::memory(24), Room::disk(28)] {
        let (site, tracker) = filled_with_sidecar_in(&room);
        let (mut shipper, attach, handed) = frozen(&site);
        let mut client = tracker.client("").unwrap();
        (0..64).for_each(|n| client.write(n << 17, &[9; 1 << 17]).unwrap());
        room.fill();
        let guest = Guest::start(&tracker, BLOCKS);
        guest.goes_on();
        shipper.release(TARGET, attach, handed.frozen.cut, ANCHOR).unwrap();
        guest.goes_on();
        // All of it is free again, with the reader's descriptors still open.
        let free = nix::sys::statvfs::statvfs(room.path()).unwrap();
        let free = free.blocks_available() as u64 * free.fragment_size() as u64;
        assert!(free > 7 << 20, "{free} bytes are free");
        drop(handed);
        let next = shipper.cut(attach, false).unwrap();
        shipper.undo(attach, next.frozen.cut).unwrap();
        guest.finish();
        assert!(!degraded(&site), "nothing but the preserved data was in want of room");
        tracker.stop();
    }
}

#[test]
fn a_release_on_a_sidecar_that_others_fill_is_tried_again_until_there_is_space() {
    for room in [Room::memory(24), Room::disk(28)] {
        let (site, tracker) = filled_with_sidecar_in(&room);
        let (mut shipper, attach, handed) = frozen(&site);
        room.fill();
        let cut = handed.frozen.cut;
        let release = std::thread::spawn(move || shipper.release(TARGET, attach, cut, ANCHOR));
        let told = || fs::read_to_string(site.path("tracker.log")).unwrap();
        until("it is tried again", || told().matches("a release can't be stored; trying again").count() > 1);
        // The guest does not notice, and neither is anything said to be done that is not.
        let guest = Guest::start(&tracker, BLOCKS);
        guest.goes_on();
        assert!(!release.is_finished());
        room.free();
        release.join().unwrap().unwrap();
        guest.goes_on();
        guest.finish();
        tracker.stop();
    }
}

/// S4, S5, F29: a sidecar whose file system stalls, as while somebody takes a snapshot of it. The guest goes on, a stop is cut
/// short and says so, and nothing that was not sealed is believed.
#[test]
fn a_sidecar_that_does_not_answer_stops_neither_the_guest_nor_the_stop() {
    for writes in [true, false] {
        let room = Room::disk(16);
        let (site, mut tracker) = with_sidecar_in(&room, &[]);
        let guest = Guest::start(&tracker, LARGE);
        guest.goes_on();
        let stalled = if writes {
            let stalled = room.stall();
            until("tracking fails", || degraded(&site));
            guest.goes_on();
            assert!(marked(&site), "the disk itself says that it was written untracked");
            guest.finish();
            stalled
        } else {
            guest.finish();
            room.stall()
        };
        tracker.running.signal(libc::SIGTERM);
        let told = || fs::read_to_string(site.path("tracker.log")).unwrap();
        until("the stop is cut short", || told().contains("towline-tracker: the clean stop is cut short"));
        assert!(!site.nbd().exists(), "nobody is served any more");
        let line = told().lines().last().unwrap().to_string();
        assert!(line.contains("the sidecar of disk.raw (") && line.contains("does not answer"), "{line}");
        assert_eq!(line.contains("all of disk.raw"), writes, "{line}");
        // What hangs in the kernel keeps the process and its lock: nobody serves the disk meanwhile.
        drop(stalled);
        let ended = tracker.running.wait().expect("it ends when the file system answers");
        assert_eq!(ended.code(), Some(7));
        let tracker = site.start(&[]);
        assert_eq!(site.status()["disks"][0]["resync"].is_string(), writes, "{}", site.status());
        let point = site.once(&[]);
        assert_eq!(point["kind"], "point");
        site.latest_is_the_disk();
        tracker.stop();
    }
}

/// F27: the guest is told of it as of any file system, by the errno that it is; what has its space is served on.
#[test]
fn a_full_file_system_under_the_disk_is_told_to_the_guest_and_costs_nothing_else() {
    let room = Room::disk(24);
    let mut site = Site::disk();
    site.disks = vec![room.path().join("disk.raw").to_str().unwrap().to_owned()];
    site.arguments = vec!["--log-dir".into(), site.path(".").to_str().unwrap().into()];
    site.init();
    let tracker = site.start(&["--create", "128MiB"]);
    let mut guest = tracker.client("").unwrap();
    guest.write(0, &[1; BLOCK]).unwrap();
    site.once(&[]);
    room.fill();
    let told = (1..128).find_map(|mib| guest.write(mib << 20, &vec![2; 1 << 20]).err());
    assert_eq!(told.expect("it does not fit").raw_os_error(), Some(libc::ENOSPC));
    guest.write(0, &[3; BLOCK]).unwrap();
    guest.flush().unwrap();
    room.free();
    guest.write(64 << 20, &[4; BLOCK]).unwrap();
    let status = site.status();
    let disk = &status["disks"][0];
    assert_eq!((&disk["degraded"], &disk["doubtful"]), (&false.into(), &false.into()), "{disk}");
    assert!(disk["resync"].is_null(), "{disk}");
    // What was half written is shipped as it is.
    assert_eq!(site.once(&[])["kind"], "point");
    site.latest_is_the_disk();
    tracker.stop();
}

#[test]
fn a_restore_that_does_not_fit_says_so_and_leaves_nothing() {
    let site = Site::memory();
    first_content(&site.first(), 0, BLOCKS).unwrap();
    site.init();
    let tracker = site.start(&[]);
    site.once(&[]);
    tracker.stop();
    let restore = |to: &Path, more: &[&str]| {
        let mut command = Command::new(site.programs.join("towline"));
        command
            .args(["restore", "--group", "disk", "--vault"])
            .arg(site.vault())
            .arg("--to")
            .arg(to)
            .args(more);
        run(&mut command)
    };
    for room in [Room::memory(8), Room::disk(8)] {
        let to = room.path().join("out.raw");
        let names = || {
            fs::read_dir(room.path()).unwrap().flatten().filter(|one| one.file_name() != "lost+found").count()
        };
        refused(&restore(&to, &[]), 8, "not enough space");
        assert_eq!(names(), 0, "nothing is left");
        // What is there already is still there afterwards.
        fs::write(&to, "precious").unwrap();
        refused(&restore(&to, &["--force"]), 8, "not enough space");
        assert_eq!(fs::read(&to).unwrap(), b"precious");
        assert_eq!(names(), 1);
        fs::remove_file(&to).unwrap();
        // Full to the brim, also the file itself can't be made.
        room.fill();
        refused(&restore(&to, &[]), 8, "not enough space");
        assert_eq!(names(), 1);
    }
    let room = Room::disk(32);
    let to = room.path().join("out.raw");
    restore(&to, &[]).good();
    towline_tests::live::process::same(&site.first(), &to);
}

/// The vault's place is the room.
fn vault_in(site: &Site, room: &Room) {
    let vault = room.path().join("vault");
    std::os::unix::fs::symlink(&vault, site.vault()).unwrap();
    towline_tests::live::process::towline(["vault", "init", "--no-encryption", vault.to_str().unwrap()])
        .good();
}

#[test]
fn a_full_vault_is_told_and_shipping_goes_on_when_there_is_space() {
    for room in [Room::memory(24), Room::disk(28)] {
        let site = Site::disk();
        first_content(&site.first(), 0, BLOCKS).unwrap();
        vault_in(&site, &room);
        let tracker = site.start(&[]);
        let guest = Guest::start(&tracker, BLOCKS);
        guest.goes_on();
        // It is full before the first point is there, and again before the second.
        for _ in 0..2 {
            room.fill();
            refused(&site.ship(&["--once", "--pack-size", "1MiB"]), 8, "");
            guest.goes_on();
            room.free();
            if site.vault().join("groups").exists() {
                // What is there is whole: whoever reads meanwhile is not led astray.
                towline_tests::live::process::towline(["verify", "--vault", site.vault().to_str().unwrap()])
                    .good();
            }
            assert_eq!(site.once(&[])["kind"], "point");
        }
        guest.finish();
        assert!(!degraded(&site));
        site.once(&[]);
        site.latest_is_the_disk();
        tracker.stop();
    }
}

/// F30: the target is full.
#[test]
fn a_running_shipper_waits_for_space_and_says_how_long() {
    let room = Room::memory(24);
    let site = Site::disk();
    first_content(&site.first(), 0, BLOCKS).unwrap();
    vault_in(&site, &room);
    let tracker = site.start(&[]);
    room.fill();
    let mut shipper = site.shipper("ship", &["--every", "1s"]);
    let told = || fs::read_to_string(site.path("ship.err")).unwrap();
    until("it says that it tries again", || told().contains("trying again"));
    assert!(told().contains("seconds=60"), "{}", told());
    // The guest does not notice.
    let mut client = tracker.client("").unwrap();
    client.write(0, &[3; BLOCK]).unwrap();
    client.call(&Operation::Flush).unwrap();
    assert!(shipper.ended().is_none(), "{}", told());
    shipper.signal(libc::SIGTERM);
    assert!(shipper.wait().is_some_and(|status| status.success()), "{}", told());
    room.free();
    site.once(&[]);
    site.latest_is_the_disk();
    tracker.stop();
}
