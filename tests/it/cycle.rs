//! The whole cycle from outside: first point, deltas, stops, restarts, and what each switch promises.

use std::fs;
use std::process::Command;
use towline_tests::live::process::{Site, run, towline, until};
use towline_tracker::frontend::nbd::client::Operation;

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// A disk with data in its first half.
fn half_full(site: &Site) {
    let mut bytes = vec![0u8; 32 << 20];
    let mut state = 88172645463325252u64;
    for word in bytes[..16 << 20].chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    fs::write(site.first(), bytes).unwrap();
}

#[test]
fn a_clean_stop_and_a_restart_cost_only_the_delta() {
    for site in [Site::memory(), Site::disk()] {
        half_full(&site);
        site.init();
        let tracker = site.start(&[]);
        let first = site.once(&[]);
        assert!(number(&first["bytes_shipped"]) >= 16 << 20, "{first}");
        let mut client = tracker.client("").unwrap();
        client.write(5 << 20, &[1; 4096]).unwrap();
        client.disconnect().unwrap();
        tracker.stop();

        let tracker = site.start(&[]);
        assert!(site.status()["disks"][0]["resync"].is_null());
        let mut client = tracker.client("").unwrap();
        client.write(20 << 20, &[2; 8192]).unwrap();
        client.call(&Operation::Trim { offset: 1 << 20, length: 1 << 20 }).unwrap();
        let delta = site.once(&[]);
        assert_eq!(number(&delta["bytes_changed"]), 4096 + 8192 + (1 << 20), "{delta}");
        assert!(number(&delta["bytes_put"]) < 1 << 20, "zeros are not shipped as data: {delta}");
        let none = site.once(&[]);
        assert_eq!((none["kind"].as_str(), number(&none["bytes_changed"])), (Some("point"), 0));
        site.latest_is_the_disk();
        tracker.stop();
        // Every point can be restored still, by its id and by its time.
        let points = site.points();
        assert_eq!(points.len(), 3);
        for point in &points {
            site.restore(point["id"].as_str().unwrap());
        }
        let time = points[0]["time"].as_str().unwrap();
        // The list's times are cut to milliseconds, so this one asks for the end of that one.
        let after = time.replace('Z', "999999Z");
        let to = site.path("by-time");
        let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        let vault = text(&site.vault());
        let restore =
            ["restore", "--vault", &vault, "--group", "disk", "--point", &after, "--to", &text(&to)];
        towline(restore).good();
        towline_tests::live::process::same(&to, &site.restore(points[0]["id"].as_str().unwrap())[0]);
        let verdict = towline(["verify", "--vault", &vault, "--json"]).good().json();
        assert_eq!(verdict["sound"], true);
    }
}

#[test]
fn a_group_is_restored_into_a_folder_and_a_disk_of_it_into_a_file() {
    let mut site = Site::disk();
    site.disks.push("second.raw".into());
    site.init();
    let tracker = site.start(&["--create", "8MiB"]);
    for (name, byte) in [("disk.raw", 1), ("second.raw", 2)] {
        tracker.client(name).unwrap().write(1 << 20, &[byte; 4096]).unwrap();
    }
    site.once(&[]);
    site.latest_is_the_disk();
    let (vault, to) = (site.vault(), site.path("one"));
    let mut command = Command::new(site.programs.join("towline"));
    command.args(["restore", "--group", "disk", "--disk", "second.raw", "--vault"]).arg(&vault);
    run(command.arg("--to").arg(&to)).good();
    towline_tests::live::process::same(&site.path("second.raw"), &to);
    // Sparse: what is zero takes no space.
    use std::os::unix::fs::MetadataExt;
    assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20);
    tracker.stop();
}

#[test]
fn once_prints_the_points_id_alone_as_its_last_line() {
    let site = Site::memory();
    half_full(&site);
    site.init();
    let tracker = site.start(&[]);
    let said = site.ship(&["--once"]).good();
    let id = said.stdout.lines().last().unwrap();
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", said.stdout);
    assert_eq!(site.points()[0]["id"], id);
    tracker.stop();
}

#[test]
fn a_generation_is_published_every_interval_with_changes_or_without() {
    let site = Site::disk();
    half_full(&site);
    site.init();
    let tracker = site.start(&[]);
    let mut shipper = site.shipper("ship", &["--every", "500ms", "--json"]);
    let lines = || fs::read_to_string(site.path("ship.out")).unwrap().lines().count();
    until("four points", || lines() >= 4);
    shipper.signal(libc::SIGTERM);
    assert!(shipper.wait().is_some_and(|status| status.success()));
    let mut client = tracker.client("").unwrap();
    client.write(0, &[9; 4096]).unwrap();
    site.once(&[]);
    site.latest_is_the_disk();
    tracker.stop();
}

/// F21: no room to preserve.
#[test]
fn without_room_to_preserve_once_gives_up_and_says_the_rate() {
    let site = Site::disk();
    half_full(&site);
    site.init();
    let tracker = site.start(&["--preserve-limit", "0"]);
    let mut client = tracker.client("").unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ends = std::sync::Arc::clone(&stop);
    let guest = std::thread::spawn(move || {
        // Eight at a time, all over the disk's first blocks: whatever is frozen is overwritten within moments.
        let mut n = 0u64;
        while !ends.load(std::sync::atomic::Ordering::Relaxed) {
            n += 1;
            let (offset, data) = (n % 32 * 4096, [n as u8; 4096]);
            client.send(&Operation::Write { offset, data: &data, fua: false }, n).unwrap();
            if client.waiting() > 8 {
                client.receive().unwrap().result.unwrap();
            }
        }
        while client.waiting() > 0 {
            client.receive().unwrap().result.unwrap();
        }
    });
    let said = site.ship(&["--once", "--json"]);
    assert_eq!(said.code, Some(13), "{}", said.stderr);
    let last = said.stderr.lines().last().unwrap();
    assert!(last.starts_with("towline: ") && last.contains("overwrites at"), "{last}");
    let kinds: Vec<_> = said.stdout.lines().filter(|line| line.contains("fuzzy")).collect();
    assert_eq!(kinds.len(), 6, "{}", said.stdout);
    assert!(number(&site.status()["fuzzy_freezes"]) >= 5);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    guest.join().unwrap();
    // Once the guest is quiet, the next freeze is exact and completes what the fuzzy ones began.
    assert_eq!(site.once(&[])["kind"], "point");
    site.latest_is_the_disk();
    tracker.stop();
}

#[test]
fn a_block_set_back_across_a_fuzzy_freeze_has_its_right_value() {
    let site = Site::disk();
    half_full(&site);
    site.init();
    let tracker = site.start(&["--preserve-limit", "0"]);
    site.once(&[]);
    let mut client = tracker.client("").unwrap();
    let old = client.read(1 << 20, 4096).unwrap();
    // Fuzzy entries that hold the new value, while a writer keeps the freezes fuzzy.
    client.write(1 << 20, &[0xee; 4096]).unwrap();
    let mut other = tracker.client("").unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ends = std::sync::Arc::clone(&stop);
    let guest = std::thread::spawn(move || {
        let mut n = 0u64;
        while !ends.load(std::sync::atomic::Ordering::Relaxed) {
            n += 1;
            other.write((2 << 20) + n * 7919 % 3000 * 4096, &[n as u8; 4096]).unwrap();
        }
    });
    let said = site.ship(&["--once", "--json"]);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    guest.join().unwrap();
    assert!(said.stdout.contains("fuzzy"), "{} {}", said.stdout, said.stderr);
    // Back to what the last point has: it must be shipped, because the fuzzy entry below has another value (V7).
    client.write(1 << 20, &old).unwrap();
    assert_eq!(site.once(&[])["kind"], "point");
    site.latest_is_the_disk();
    tracker.stop();
}

#[test]
fn without_tracking_the_next_start_compares_everything() {
    for site in [Site::memory(), Site::disk()] {
        half_full(&site);
        site.init();
        let tracker = site.start(&[]);
        site.once(&[]);
        tracker.stop();
        let tracker = site.start(&["--tracking", "off"]);
        assert_eq!(site.status()["tracking"], "off");
        let refused = site.ship(&["--once"]);
        assert_eq!(refused.code, Some(15), "{}", refused.stderr);
        tracker.client("").unwrap().write(3 << 20, &[0x77; 12288]).unwrap();
        tracker.stop();
        let tracker = site.start(&[]);
        assert!(site.status()["disks"][0]["resync"].is_string());
        let compared = site.once(&[]);
        assert!(number(&compared["bytes_put"]) < 64 << 10, "only what differs: {compared}");
        assert!(number(&compared["bytes_read"]) >= 16 << 20, "everything: {compared}");
        site.latest_is_the_disk();
        tracker.stop();
    }
}

#[test]
fn a_read_only_tracker_changes_nothing() {
    let site = Site::disk();
    half_full(&site);
    let before = fs::read(site.first()).unwrap();
    let tracker = site.start(&["--read-only"]);
    let mut client = tracker.client("").unwrap();
    assert!(client.read_only());
    assert_eq!(client.write(0, &[1; 4096]).unwrap_err().raw_os_error(), Some(libc::EPERM));
    let refused = run(Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 4k", &site.uri("")]));
    assert_ne!(refused.code, Some(0));
    assert_eq!(client.read(0, 4096).unwrap(), before[..4096]);
    tracker.stop();
    assert_eq!(fs::read(site.first()).unwrap(), before);
    assert!(!site.path("disk.raw.towline").join("disk.meta").exists());
}

#[test]
fn a_plain_user_needs_nothing_of_root() {
    let site = Site::disk();
    half_full(&site);
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    let user = 65534;
    let as_user = |command: Command| {
        if !root {
            return command;
        }
        let mut wrapped = Command::new("setpriv");
        wrapped.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".into()]);
        wrapped.arg(command.get_program()).args(command.get_args());
        wrapped
    };
    // The programs may lie where only root may look.
    let bin = site.path("bin");
    fs::create_dir(&bin).unwrap();
    for name in ["towline", "towline-tracker"] {
        fs::copy(site.programs.join(name), bin.join(name)).unwrap();
    }
    if root {
        for path in [site.path("."), site.first()] {
            std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
        }
    }
    let at_home = |command: Command| {
        let mut moved =
            Command::new(bin.join(command.get_program().to_string_lossy().rsplit('/').next().unwrap()));
        moved.args(command.get_args());
        as_user(moved)
    };
    let towline = |arguments: &[&str]| {
        let mut command = Command::new("towline");
        command.args(arguments);
        run(&mut at_home(command)).good()
    };
    let vault = site.vault();
    let vault = vault.to_str().unwrap();
    towline(&["vault", "init", "--no-encryption", vault]);
    let tracker = site.start_command(&mut at_home(site.tracker_command(&[])));
    let mut client = tracker.client("").unwrap();
    run(&mut at_home(site.ship_command(&["--once"]))).good();
    client.write(4096, &[3; 65536]).unwrap();
    run(&mut at_home(site.ship_command(&["--once"]))).good();
    let to = site.path("restored");
    towline(&["restore", "--vault", vault, "--group", "disk", "--to", to.to_str().unwrap()]);
    towline_tests::live::process::same(&site.first(), &to);
    // Root, and nobody else, may ask this user's tracker.
    if root {
        site.status();
        let mut stranger = Command::new("setpriv");
        stranger.args(["--reuid=65533", "--regid=65533", "--clear-groups"]).arg(bin.join("towline"));
        let refused = run(stranger.arg("status").arg("--tracker").arg(site.control()));
        assert!(matches!(refused.code, Some(14..=16)), "{refused:?}");
    }
    tracker.stop();
}
