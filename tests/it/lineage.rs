//! Whose chain is it: vaults, disks and sidecars that were put back, copied, mixed up or used by two. Each case has one
//! right result, and after it the restored image is the disk.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use towline_tests::live::process::{Outcome, Running, Site, Tracker, run, same, towline, until};
use towline_tests::live::stamp::BLOCK;
use towline_tests::live::writer::first_content;
use towline_tracker::control::frame::{ANSWER_MAX, REQUEST_MAX};
use towline_tracker::control::message::{Answer, Request};
use towline_tracker::control::sys::Channel;
use towline_tracker::format::checksum::checksum;

const BLOCKS: u64 = (24 << 20) / BLOCK as u64;
const BYTES: u64 = BLOCKS * BLOCK as u64;

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// A disk of stamped blocks with a first point.
fn begun() -> (Site, Tracker) {
    begun_with(&[])
}

fn begun_with(switches: &[&str]) -> (Site, Tracker) {
    let site = Site::disk();
    first_content(&site.first(), 0, BLOCKS).unwrap();
    site.init();
    let tracker = site.start(switches);
    site.once(&[]);
    (site, tracker)
}

#[track_caller]
fn write(tracker: &Tracker, block: u64, byte: u8) {
    let mut client = tracker.client("").unwrap();
    client.write(block * BLOCK as u64, &[byte; 2 * BLOCK]).unwrap();
    client.flush().unwrap();
}

#[track_caller]
fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to)).good();
}

/// The next point compares everything, ships only what differs and is the disk.
#[track_caller]
fn resynchronizes(site: &Site, differs: u64) {
    let point = site.once(&[]);
    assert_eq!(point["kind"], "point");
    assert!(number(&point["bytes_read"]) >= BYTES, "all of it is compared: {point}");
    let shipped = number(&point["bytes_shipped"]);
    assert!(shipped <= differs + differs / 10, "{shipped} shipped, {differs} differ: {point}");
    site.latest_is_the_disk();
}

#[track_caller]
fn refused(outcome: &Outcome, code: i32, told: &str) {
    assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
    let line = outcome.stderr.lines().last().unwrap();
    assert!(line.starts_with("towline: ") && line.contains(told), "{line}");
}

#[test]
fn a_vault_put_back_is_resynchronized() {
    let (site, tracker) = begun();
    copy(&site.vault(), &site.path("old"));
    write(&tracker, 10, 1);
    site.once(&[]);
    fs::remove_dir_all(site.vault()).unwrap();
    fs::rename(site.path("old"), site.vault()).unwrap();
    write(&tracker, 20, 2);
    resynchronizes(&site, 4 * BLOCK as u64);
    tracker.stop();
}

#[test]
fn a_copy_of_the_vault_used_in_turn_is_broken_lineage() {
    let (site, tracker) = begun();
    copy(&site.vault(), &site.path("copy"));
    write(&tracker, 10, 1);
    site.once(&[]);
    // The copy looks like the vault put back, which is harmless by itself ...
    let swap = || {
        fs::rename(site.vault(), site.path("other")).unwrap();
        fs::rename(site.path("copy"), site.vault()).unwrap();
        fs::rename(site.path("other"), site.path("copy")).unwrap();
    };
    swap();
    write(&tracker, 20, 2);
    resynchronizes(&site, 4 * BLOCK as u64);
    // ... but then the two have gone different ways.
    swap();
    write(&tracker, 30, 3);
    refused(&site.ship(&["--once"]), 10, "--take-over");
    assert_eq!(site.points().len(), 2, "nothing was added");
    site.once(&["--take-over"]);
    site.latest_is_the_disk();
    tracker.stop();
}

#[test]
fn a_disk_without_its_sidecar_is_resynchronized() {
    for killed in [false, true] {
        let (site, tracker) = begun();
        write(&tracker, 10, 1);
        if killed {
            tracker.kill()
        } else {
            tracker.stop()
        }
        fs::remove_dir_all(site.path("disk.raw.towline")).unwrap();
        let tracker = site.start(&[]);
        assert!(site.status()["disks"][0]["resync"].is_string());
        resynchronizes(&site, 2 * BLOCK as u64);
        tracker.stop();
    }
}

/// F16: copied or put back.
#[test]
fn a_cloned_disk_used_in_turn_with_the_original_is_refused() {
    let (mut site, tracker) = begun();
    write(&tracker, 10, 1);
    site.once(&[]);
    tracker.stop();
    fs::create_dir(site.path("clone")).unwrap();
    for name in ["disk.raw", "disk.raw.towline"] {
        copy(&site.path(name), &site.path("clone").join(name));
    }
    // The clone knows that it is not where it was.
    site.disks = vec!["clone/disk.raw".into()];
    let tracker = site.start(&[]);
    write(&tracker, 20, 2);
    resynchronizes(&site, 2 * BLOCK as u64);
    tracker.stop();
    // The original's chain went on without it.
    site.disks = vec!["disk.raw".into()];
    let tracker = site.start(&[]);
    write(&tracker, 30, 3);
    refused(&site.ship(&["--once"]), 10, "--take-over");
    site.once(&["--take-over"]);
    site.latest_is_the_disk();
    tracker.stop();
}

/// F16: copied or put back.
#[test]
fn another_disk_of_the_same_name_is_refused_and_the_owner_named() {
    let (site, tracker) = begun();
    tracker.stop();
    let mut other = Site::disk();
    first_content(&other.first(), 1, BLOCKS).unwrap();
    other.disks = vec!["disk.raw".into()];
    let theirs = other.start(&[]);
    let mut command = other.ship_command(&["--once"]);
    // The same program, the first site's vault.
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    command = Command::new(command.get_program());
    command.args(arguments.iter().map(|argument| match argument == other.vault().as_os_str() {
        true => site.vault().into_os_string(),
        false => argument.clone(),
    }));
    let outcome = run(&mut command);
    refused(&outcome, 11, "--take-over");
    assert!(outcome.stderr.contains("disk.raw"), "the owner is named: {}", outcome.stderr);
    assert!(outcome.stderr.contains("--group"), "{}", outcome.stderr);
    assert_eq!(site.points().len(), 1);
    run(command.arg("--take-over")).good();
    same(&other.first(), &site.restore("latest")[0]);
    theirs.stop();
}

/// F16: copied or put back.
#[test]
fn a_disk_put_back_between_runs_is_resynchronized() {
    for (killed, in_place) in [(false, false), (false, true), (true, false), (true, true)] {
        let (site, tracker) = begun();
        tracker.stop();
        copy(&site.first(), &site.path("old.raw"));
        let tracker = site.start(&[]);
        write(&tracker, 10, 1);
        tracker.stop();
        // A later session: its tracker begins with a newer time than the copy's.
        let tracker = site.start(&[]);
        write(&tracker, 20, 1);
        site.once(&[]);
        if killed {
            tracker.kill()
        } else {
            tracker.stop()
        }
        if in_place {
            // The same inode, with the old content and the old time.
            run(Command::new("cp")
                .args(["-p", "--no-preserve=xattr"])
                .arg(site.path("old.raw"))
                .arg(site.first()))
            .good();
        } else {
            fs::rename(site.path("old.raw"), site.first()).unwrap();
        }
        let tracker = site.start(&[]);
        let resync = site.status()["disks"][0]["resync"].clone();
        assert!(resync.is_string(), "killed {killed}, in place {in_place}");
        resynchronizes(&site, 4 * BLOCK as u64);
        tracker.stop();
    }
}

/// Passes a shipper's requests on to the tracker, but keeps the first release for itself.
fn relay_without_release(site: &Site) -> (Arc<AtomicBool>, std::path::PathBuf) {
    let path = site.path("relay");
    let listener = UnixListener::bind(&path).unwrap();
    let held = Arc::new(AtomicBool::new(false));
    let (flag, control) = (Arc::clone(&held), site.control());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), Ok(tracker)) = (stream, UnixStream::connect(&control)) else { return };
            let (shipper, tracker) = (Channel::new(stream), Channel::new(tracker));
            let flag = Arc::clone(&flag);
            std::thread::spawn(move || {
                while let Ok((request, _)) = shipper.receive::<Request, REQUEST_MAX>() {
                    if matches!(request, Request::Release { .. }) {
                        flag.store(true, Ordering::SeqCst);
                        // Held until the shipper dies: it waits for an answer that never comes.
                        let _ = shipper.receive::<Request, REQUEST_MAX>();
                        return;
                    }
                    if tracker.send::<_, REQUEST_MAX>(&request, &[]).is_err() {
                        return;
                    }
                    let Ok((answer, descriptors)) = tracker.receive::<Answer, ANSWER_MAX>() else { return };
                    let fds: Vec<_> = descriptors.iter().map(std::os::fd::AsFd::as_fd).collect();
                    if shipper.send::<_, ANSWER_MAX>(&answer, &fds).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (held, path)
}

/// Wipes the maps of the site's group, as a reboot would.
pub(crate) fn wipe_maps(site: &Site) {
    let place = fs::canonicalize(site.first()).unwrap();
    // SAFETY: geteuid has no preconditions.
    let user = unsafe { libc::geteuid() };
    let name = format!("{:016x}", checksum(0, place.as_os_str().as_encoded_bytes()));
    fs::remove_dir_all(Path::new("/dev/shm").join(format!("towline-{user}")).join(name)).unwrap();
}

/// The change log with most in it; a spare for the next generation holds nothing.
fn longest_log(site: &Site) -> std::path::PathBuf {
    let entries = fs::read_dir(site.path("disk.raw.towline")).unwrap().map(|entry| entry.unwrap().path());
    let logs = entries.filter(|path| path.extension().is_some_and(|end| end == "changes"));
    logs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

/// Promise 4, from outside: what an earlier session wrote is pending in its log alone once the maps are gone. A log that is
/// missing, or was cut off, was not released.
#[test]
fn a_pending_log_of_an_earlier_session_that_is_lost_means_resynchronization() {
    for cut_off in [false, true] {
        let (site, tracker) = begun();
        write(&tracker, 10, 1);
        tracker.stop();
        let log = longest_log(&site);
        // A session that neither cuts nor stops; then a reboot, as far as the maps are concerned.
        site.start(&[]).kill();
        wipe_maps(&site);
        if cut_off {
            let length = fs::metadata(&log).unwrap().len();
            fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(length - 1).unwrap();
        } else {
            fs::remove_file(&log).unwrap();
        }
        let tracker = site.start(&[]);
        let reason = site.status()["disks"][0]["resync"].clone();
        assert!(reason.as_str().is_some_and(|reason| reason.contains("damaged")), "{reason}");
        resynchronizes(&site, 2 * BLOCK as u64);
        tracker.stop();
    }
}

/// Publishes a point whose release never reaches the tracker; the shipper is dead then.
fn publish_without_release(site: &Site) {
    let (held, relay) = relay_without_release(site);
    let mut command = site.ship_command(&["--once"]);
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    command = Command::new(command.get_program());
    command.args(arguments.iter().map(|argument| match argument == site.control().as_os_str() {
        true => relay.clone().into_os_string(),
        false => argument.clone(),
    }));
    let child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn();
    let mut shipper = Running::new(child.unwrap());
    until("the point is published and its release held", || held.load(Ordering::SeqCst));
    shipper.kill();
}

/// V2, V10: a log that can't be read once costs a comparison. The point that was published of it is this tracker's own: no
/// broken lineage.
#[test]
fn a_log_that_can_not_be_read_once_still_vouches_for_its_published_point() {
    let (site, tracker) = begun();
    write(&tracker, 10, 1);
    publish_without_release(&site);
    tracker.kill();
    wipe_maps(&site);
    let log = longest_log(&site);
    let aside = site.path("aside");
    fs::rename(&log, &aside).unwrap();
    // Reading a folder is an error, and not that there is nothing.
    fs::create_dir(&log).unwrap();
    let tracker = site.start(&[]);
    fs::remove_dir(&log).unwrap();
    fs::rename(&aside, &log).unwrap();
    assert!(site.status()["disks"][0]["resync"].is_string(), "{}", site.status());
    write(&tracker, 20, 2);
    resynchronizes(&site, 2 * BLOCK as u64);
    tracker.stop();
}

#[test]
fn a_point_that_was_not_released_and_lost_maps_cost_the_intents_at_most() {
    let switches = ["--region-size", "64KiB", "--intent-budget", "1GiB"];
    let (site, tracker) = begun_with(&switches);
    write(&tracker, 10, 1);
    publish_without_release(&site);
    write(&tracker, 3000, 2);
    tracker.kill();
    wipe_maps(&site);
    let tracker = site.start(&switches);
    assert!(site.status()["disks"][0]["resync"].is_null(), "{}", site.status());
    let point = site.once(&[]);
    let read = number(&point["bytes_read"]);
    // Two writes, each in one region or two.
    assert!(read <= 4 * (64 << 10), "{read} bytes read: {point}");
    assert!(number(&point["bytes_shipped"]) <= 4 * BLOCK as u64, "only what differs: {point}");
    site.latest_is_the_disk();
    tracker.stop();
}

/// F17: sizes.
#[test]
fn a_disk_shrunk_and_grown_while_nobody_looked_has_zeros_where_the_source_has() {
    let (site, tracker) = begun();
    tracker.stop();
    let length =
        |length| fs::OpenOptions::new().write(true).open(site.first()).unwrap().set_len(length).unwrap();
    length(BYTES / 2);
    length(BYTES);
    let tracker = site.start(&[]);
    site.once(&[]);
    site.latest_is_the_disk();
    tracker.stop();
    // Again, with a point of the small disk between.
    length(BYTES / 4);
    let tracker = site.start(&[]);
    site.once(&[]);
    site.latest_is_the_disk();
    tracker.stop();
    length(BYTES * 2);
    let tracker = site.start(&[]);
    site.once(&[]);
    site.latest_is_the_disk();
    write(&tracker, BLOCKS + 5, 9);
    site.once(&[]);
    site.latest_is_the_disk();
    tracker.stop();
}

/// F36: two shippers.
#[test]
fn two_shippers_one_of_them_stopped_for_a_while_make_one_chain() {
    let (site, tracker) = begun();
    let seen = Mutex::new(Vec::new());
    for round in 0..4u64 {
        let mut first = site.shipper("first", &["--every", "500ms", "--json"]);
        for n in 0..40 {
            write(&tracker, round * 100 + n * 2, n as u8 + 1);
        }
        until("the first shipper ships", || site.points().len() > seen.lock().unwrap().len() + 1);
        std::thread::sleep(std::time::Duration::from_millis(130 * round));
        first.signal(libc::SIGSTOP);
        write(&tracker, 5000, round as u8 + 1);
        let point = site.once(&[]);
        assert_eq!(point["kind"], "point");
        site.latest_is_the_disk();
        first.signal(libc::SIGCONT);
        let ended = first.wait().expect("the first shipper ends");
        let told = fs::read_to_string(site.path("first.err")).unwrap();
        assert_eq!(ended.code(), Some(12), "{told}");
        assert!(told.lines().last().unwrap().starts_with("towline: "), "{told}");
        *seen.lock().unwrap() = site.points();
        assert_eq!(site.points().last().unwrap()["id"], point["id"], "the loser added nothing");
    }
    for point in seen.lock().unwrap().iter() {
        assert_eq!(point["abandoned"], false);
        fs::remove_file(&site.restore(point["id"].as_str().unwrap())[0]).unwrap();
    }
    let vault = site.vault();
    let verdict = towline(["verify", "--json", "--vault", vault.to_str().unwrap()]).good().json();
    assert_eq!(verdict["sound"], true);
    tracker.stop();
}
