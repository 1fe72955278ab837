//! A live freeze as a shipper meets it through the control socket: what it is refused, what it is handed, and what becomes
//! of the freeze when its preserved data can't be written.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use towline_tests::live::process::{Site, Tracker, until};
use towline_tests::live::room::Room;
use towline_tests::live::stamp::BLOCK;
use towline_tracker::control::client::{Client, ClientError, Handed};
use towline_tracker::control::message::Refusal;
use towline_tracker::frontend::nbd::client as nbd;
use towline_tracker::id::{Anchor, AttachNumber, CutId, TargetId, VaultId};

const TARGET: TargetId = TargetId([7; 16]);
const SIZE: u64 = 16 << 20;

fn anchor(seq: u64) -> Anchor {
    Anchor { vault: VaultId([3; 16]), seq, hash: [seq as u8; 32] }
}

/// A shipper that decides nothing by itself.
struct Shipper {
    client: Client,
    attach: AttachNumber,
}

impl Shipper {
    fn attach(site: &Site) -> Self {
        let mut client = Client::connect(&site.control()).unwrap();
        let attach = client.attach(TARGET).unwrap().attach;
        Self { client, attach }
    }

    fn cut(&mut self) -> Result<Handed, ClientError> {
        self.client.cut(self.attach, false)
    }

    fn exact(&mut self, cut: CutId) -> bool {
        self.client.confirm(self.attach, cut).unwrap()
    }
}

#[track_caller]
fn refused<T>(result: Result<T, ClientError>) -> Refusal {
    match result {
        Err(ClientError::Refused(refusal)) => refusal,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it is not refused"),
    }
}

fn file(fd: impl AsFd) -> File {
    fd.as_fd().try_clone_to_owned().unwrap().into()
}

fn inode(fd: &OwnedFd) -> (u64, u64) {
    let found = file(fd).metadata().unwrap();
    (found.dev(), found.ino())
}

/// Whether the block is in the preserved map.
fn is_preserved(map: &OwnedFd, block: u64) -> bool {
    let mut word = [0; 8];
    file(map).read_exact_at(&mut word, block / 64 * 8).unwrap();
    u64::from_le_bytes(word) >> (block % 64) & 1 == 1
}

fn block_of(fd: &OwnedFd, block: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    file(fd).read_exact_at(&mut bytes, block * BLOCK as u64).unwrap();
    bytes
}

/// V9, C4, F36, through the socket: a freeze is busy for all, and ends only by its own words.
#[test]
fn a_live_freeze_is_busy_and_is_released_only_with_its_own_words() {
    let site = Site::memory();
    let tracker = site.start(&["--create", "16MiB"]);
    let mut old = Shipper::attach(&site);
    let mut shipper = Shipper::attach(&site);
    tracker.client("").unwrap().write(0, &[1; BLOCK]).unwrap();
    let cut = shipper.cut().unwrap().frozen.cut;
    assert_eq!(refused(shipper.cut()), Refusal::Busy { cut });
    assert_eq!(site.status()["freeze"], "sealed");
    let attach = shipper.attach;
    let client = &mut shipper.client;
    let other_target = client.release(TargetId([8; 16]), attach, cut, anchor(1));
    assert!(matches!(refused(other_target), Refusal::Mismatch(_)));
    assert_eq!(refused(client.release(TARGET, attach, CutId([9; 16]), anchor(1))), Refusal::NoSuchFreeze);
    let revoked = refused(old.client.release(TARGET, old.attach, cut, anchor(1)));
    assert_eq!(revoked, Refusal::Revoked { newest: attach });
    assert!(client.confirm(attach, cut).unwrap(), "no refusal has changed anything");
    // Once, and again with the same words; with another entry it is another release.
    for _ in 0..2 {
        client.release(TARGET, attach, cut, anchor(1)).unwrap();
    }
    assert_eq!(refused(client.release(TARGET, attach, cut, anchor(2))), Refusal::NoSuchFreeze);
    let next = shipper.cut().unwrap().frozen.cut;
    let earlier = shipper.client.release(TARGET, attach, next, anchor(1));
    assert!(matches!(refused(earlier), Refusal::Mismatch(_)), "that entry does not hold this cut's blocks");
    assert!(shipper.exact(next));
    tracker.stop();
}

/// C3, F22: who still reads a freeze that is over reads what it was, whatever the next one preserves.
#[test]
fn a_freeze_that_is_over_is_still_what_it_was_for_who_holds_it() {
    for site in [Site::memory(), Site::disk()] {
        let tracker = site.start(&["--create", "16MiB"]);
        let mut guest = tracker.client("").unwrap();
        let mut shipper = Shipper::attach(&site);
        let mut held: Vec<Handed> = Vec::new();
        for round in 1..=4u8 {
            guest.write(0, &[round; BLOCK]).unwrap();
            let handed = shipper.cut().unwrap();
            let (cut, attach) = (handed.frozen.cut, shipper.attach);
            let disk = &handed.disks[0];
            for one in &held {
                let one = &one.disks[0];
                for (mine, theirs) in [
                    (&disk.changes, &one.changes),
                    (&disk.preserved, &one.preserved),
                    (&disk.store, &one.store),
                ] {
                    assert_ne!(inode(mine), inode(theirs));
                }
            }
            assert!(!is_preserved(&disk.preserved, 0), "it begins empty");
            guest.write(0, &[100 + round; BLOCK]).unwrap();
            assert!(is_preserved(&disk.preserved, 0));
            if round % 2 == 0 {
                shipper.client.undo(attach, cut).unwrap();
            } else {
                shipper.client.release(TARGET, attach, cut, anchor(round.into())).unwrap();
            }
            held.push(handed);
            for (n, one) in held.iter().enumerate() {
                assert!(is_preserved(&one.disks[0].preserved, 0));
                assert_eq!(block_of(&one.disks[0].store, 0), [n as u8 + 1; BLOCK]);
            }
        }
        drop(held);
        tracker.stop();
    }
}

/// Disks whose sidecars are in the room; all have frozen blocks and a shipper that holds the freeze.
struct Stage {
    room: Room,
    site: Site,
    tracker: Tracker,
    guests: Vec<nbd::Client>,
    shipper: Shipper,
    handed: Handed,
}

impl Stage {
    fn new(disks: usize, more: &[&str]) -> Self {
        let room = Room::disk(64);
        let mut site = Site::disk();
        site.arguments.extend(more.iter().map(|one| one.to_string()));
        site.disks = (0..disks).map(|n| format!("disk{n}.raw")).collect();
        let tracker = site.start(&["--create", "16MiB", "--log-dir", room.path().to_str().unwrap()]);
        let mut guests: Vec<_> = site.disks.iter().map(|name| tracker.client(name).unwrap()).collect();
        let mut shipper = Shipper::attach(&site);
        // New disks are replicated once: from then on nothing is compared without a reason.
        let cut = shipper.cut().unwrap().frozen.cut;
        shipper.client.release(TARGET, shipper.attach, cut, anchor(1)).unwrap();
        // One region, whose intent is durable from here on: what comes later needs nothing but a copy.
        all(&mut guests, nbd::Operation::Write { offset: 0, data: &[1; 4 * BLOCK], fua: false });
        let handed = shipper.cut().unwrap();
        Self { room, site, tracker, guests, shipper, handed }
    }
}

/// Every disk's guest does it at the same time; none gets an error or waits for ever.
#[track_caller]
fn all(guests: &mut [nbd::Client], operation: nbd::Operation<'_>) {
    for guest in &mut *guests {
        guest.send(&operation, 1).unwrap();
    }
    for guest in guests {
        guest.receive().expect("an answer").result.expect("no error for the guest");
    }
}

/// C5, F21, F29 (promise 3): the file system of the preserved data stalls while a freeze is live, as while somebody takes
/// a snapshot of it. Schedule: 1. it stalls; 2. every guest overwrites a frozen block, whose copy hangs in the kernel, more
/// of them than the kernel has threads for by itself, and so many that a queue of its by a file's hash (64 of them, for
/// writes through the page cache, and discards) would hold somebody's write behind one; 3. the freeze turns fuzzy, and the guests go on, with flushes too;
/// 4. the freeze is undone; 5. the file system goes on, and so do the copies (C3): the next freeze is exact, in files of
/// its own.
#[test]
fn a_store_that_does_not_answer_costs_the_freeze_and_no_guest_its_writes() {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    for (disks, cache) in [(1, "direct"), (60.min(4 * processors + 2), "direct"), (24, "buffered")] {
        let stage = Stage::new(disks, &["--cache", cache]);
        let Stage { room, site, tracker, mut guests, mut shipper, handed } = stage;
        let (cut, attach) = (handed.frozen.cut, shipper.attach);
        assert!(shipper.exact(cut));
        let stalled = room.stall();
        all(&mut guests, nbd::Operation::Write { offset: 0, data: &[2; BLOCK], fua: false });
        let status = site.status();
        assert_eq!(status["freeze"], "sealed");
        assert!(status["fuzzy"].as_str().unwrap().contains("deadline"), "{status}");
        assert!(!shipper.exact(cut));
        // Nobody waits for it any more: the blocks beside, and what was overwritten already.
        all(&mut guests, nbd::Operation::Write { offset: 2 * BLOCK as u64, data: &[3; BLOCK], fua: true });
        all(&mut guests, nbd::Operation::Flush);
        all(&mut guests, nbd::Operation::Write { offset: 0, data: &[4; BLOCK], fua: false });
        all(&mut guests, nbd::Operation::Trim { offset: 3 * BLOCK as u64, length: BLOCK as u32 });
        all(&mut guests, nbd::Operation::Read { offset: 0, length: BLOCK as u32 });
        assert!(site.status()["disks"].as_array().unwrap().iter().all(|disk| disk["degraded"] == false));
        shipper.client.undo(attach, cut).unwrap();
        all(&mut guests, nbd::Operation::Write { offset: 0, data: &[5; BLOCK], fua: true });
        drop(stalled);
        // The copies of the first freeze may end now or later.
        let again = shipper.cut().unwrap();
        assert!(shipper.exact(again.frozen.cut));
        all(&mut guests, nbd::Operation::Write { offset: 0, data: &[6; BLOCK], fua: false });
        assert!(shipper.exact(again.frozen.cut));
        for (new, old) in again.disks.iter().zip(&handed.disks) {
            assert_ne!(inode(&new.store), inode(&old.store));
            assert_ne!(inode(&new.preserved), inode(&old.preserved));
            assert!(is_preserved(&new.preserved, 0));
            assert_eq!(block_of(&new.store, 0), [5; BLOCK]);
        }
        shipper.client.release(TARGET, attach, again.frozen.cut, anchor(2)).unwrap();
        drop(guests);
        // A clean stop waits for everything that was in the kernel: by now every copy has ended.
        tracker.stop();
        for old in &handed.disks {
            let words =
                fs::read(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&old.preserved)))
                    .unwrap();
            assert_eq!(words.len(), (SIZE / BLOCK as u64).div_ceil(64) as usize * 8);
            assert!(words.iter().all(|&byte| byte == 0), "a copy that ended late says nothing");
        }
        for name in &site.disks {
            let content = fs::read(site.path(name)).unwrap();
            assert!(content[..BLOCK].iter().all(|&byte| byte == 6));
            assert!(content[2 * BLOCK..3 * BLOCK].iter().all(|&byte| byte == 3));
        }
    }
}

/// C5, S5, F29: the stop is asked for while copies hang. It is cut short, and the successor knows that the freeze is fuzzy.
#[test]
fn a_stop_while_the_store_does_not_answer_leaves_a_freeze_that_is_known_to_be_fuzzy() {
    let Stage { room, site, mut tracker, mut guests, mut shipper, handed } = Stage::new(2, &[]);
    let stalled = room.stall();
    all(&mut guests, nbd::Operation::Write { offset: 0, data: &[2; BLOCK], fua: false });
    assert!(!shipper.exact(handed.frozen.cut));
    drop(guests);
    tracker.running.signal(libc::SIGTERM);
    let told = || fs::read_to_string(site.path("tracker.log")).unwrap();
    until("the stop is cut short", || told().contains("the clean stop is cut short"));
    drop(stalled);
    let ended = tracker.running.wait().expect("it ends when the file system answers");
    assert_eq!(ended.code(), Some(7));
    let tracker = site.start(&["--log-dir", room.path().to_str().unwrap()]);
    let mut client = Client::connect(&site.control()).unwrap();
    let attached = client.attach(TARGET).unwrap();
    let live = attached.live.expect("the freeze is still there");
    assert_eq!((live.cut, live.sealed, live.fuzzy), (handed.frozen.cut, true, true));
    assert!(!client.confirm(attached.attach, live.cut).unwrap());
    assert!(attached.disks.iter().all(|disk| disk.resync.is_none()), "the process died, no more");
    client.undo(attached.attach, live.cut).unwrap();
    tracker.stop();
}
