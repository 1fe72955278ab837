//! What the switches and the output of both programs promise.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use towline_tests::live::process::{Outcome, Running, Site, Tracker, run, same, towline};
use towline_tests::live::stamp::BLOCK;
use towline_tests::live::writer::first_content;
use towline_tracker::frontend::nbd::client::Operation;

const BLOCKS: u64 = (16 << 20) / BLOCK as u64;
const BYTES: u64 = BLOCKS * BLOCK as u64;

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn site() -> Site {
    let site = Site::disk();
    first_content(&site.first(), 0, BLOCKS).unwrap();
    site.init();
    site
}

#[track_caller]
fn ask(site: &Site, what: &str, more: &[&str]) -> Outcome {
    let mut command = Command::new(site.programs.join("towline"));
    run(command.arg(what).arg("--vault").arg(site.vault()).args(more))
}

#[test]
fn with_a_log_dir_nothing_is_made_beside_the_disk() {
    let mut site = site();
    let place = site.path("elsewhere");
    fs::create_dir(&place).unwrap();
    site.arguments = vec!["--log-dir".into(), place.to_str().unwrap().into()];
    let tracker = site.start(&[]);
    site.once(&[]);
    tracker.client("").unwrap().write(0, &[1; 2 * BLOCK]).unwrap();
    tracker.stop();
    let tracker = site.start(&[]);
    assert!(site.status()["disks"][0]["resync"].is_null());
    tracker.client("").unwrap().write(1 << 20, &[2; BLOCK]).unwrap();
    tracker.kill();
    let tracker = site.start(&[]);
    assert_eq!(number(&site.once(&[])["bytes_changed"]), 3 * BLOCK as u64);
    site.latest_is_the_disk();
    tracker.stop();
    assert!(!site.path("disk.raw.towline").exists());
    assert!(fs::read_dir(&place).unwrap().count() > 0);
}

#[test]
fn disks_of_one_name_share_a_log_dir_and_nothing_else() {
    let place = Site::disk();
    let mut sites = [site(), site()];
    for (n, site) in sites.iter_mut().enumerate() {
        let group = ["one", "two"][n];
        site.arguments =
            ["--log-dir", place.path(".").to_str().unwrap(), "--group", group].map(String::from).into();
    }
    let [one, two] = &sites;
    let mut trackers = [one.start(&[]), two.start(&[])];
    for round in 0..2u8 {
        for (n, site) in sites.iter().enumerate() {
            let byte = 10 * round + n as u8 + 1;
            trackers[n].client("").unwrap().write(u64::from(round) << 20, &[byte; 2 * BLOCK]).unwrap();
            let point = site.once(&[]);
            assert_eq!(round == 0, number(&point["bytes_changed"]) == BYTES, "{point}");
        }
        assert_ne!(one.status()["disks"][0]["id"], two.status()["disks"][0]["id"]);
        trackers.into_iter().for_each(Tracker::stop);
        trackers = [one.start(&[]), two.start(&[])];
        assert!(sites.iter().all(|site| site.status()["disks"][0]["resync"].is_null()));
    }
    for (site, group) in sites.iter().zip(["one", "two"]) {
        let to = site.path("out");
        ask(site, "restore", &["--group", group, "--to", to.to_str().unwrap()]).good();
        same(&site.first(), &to);
    }
    trackers.into_iter().for_each(Tracker::stop);
    // Two of one name in one group, too.
    let mut both = Site::disk();
    both.init();
    for folder in ["a", "b"] {
        fs::create_dir(both.path(folder)).unwrap();
    }
    let mut command = Command::new(both.programs.join("towline-tracker"));
    for (name, folder) in [("x", "a"), ("y", "b")] {
        command.arg("--disk").arg(format!("{name}={}", both.path(folder).join("disk.raw").display()));
    }
    command.args(["--create", "1MiB", "--group", "both", "--log-dir"]).arg(place.path("."));
    command.arg("--nbd").arg(format!("unix:{}", both.nbd().display())).arg("--control").arg(both.control());
    both.disks = vec!["x".into(), "y".into()];
    let tracker = both.start_command(&mut command);
    tracker.client("y").unwrap().write(0, &[7; BLOCK]).unwrap();
    both.once(&[]);
    let to = both.path("out");
    ask(&both, "restore", &["--group", "both", "--to", to.to_str().unwrap()]).good();
    same(&both.path("a/disk.raw"), &to.join("x"));
    same(&both.path("b/disk.raw"), &to.join("y"));
    tracker.stop();
}

#[test]
fn changes_are_known_by_the_block_size_and_another_one_means_comparison() {
    let site = site();
    let tracker = site.start(&["--block-size", "64KiB"]);
    site.once(&[]);
    let mut client = tracker.client("").unwrap();
    // One sector, and one write across a border.
    client.write(3 << 16, &[1; 512]).unwrap();
    client.write((8 << 16) - 512, &[2; 1024]).unwrap();
    assert_eq!(number(&site.once(&[])["bytes_changed"]), 3 << 16);
    site.latest_is_the_disk();
    assert_eq!(site.status()["disks"][0]["block_size"], 64 << 10);
    tracker.stop();
    let tracker = site.start(&["--block-size", "4KiB"]);
    assert!(site.status()["disks"][0]["resync"].is_string(), "{}", site.status());
    tracker.client("").unwrap().write(5 << 20, &[3; 512]).unwrap();
    site.once(&[]);
    site.latest_is_the_disk();
    tracker.stop();
}

#[test]
fn full_compares_everything_and_ships_what_differs() {
    let site = site();
    let tracker = site.start(&[]);
    site.once(&[]);
    tracker.client("").unwrap().write(0, &[1; 2 * BLOCK]).unwrap();
    let point = site.once(&["--full"]);
    assert_eq!(number(&point["bytes_changed"]), BYTES, "{point}");
    assert_eq!(number(&point["bytes_shipped"]), 2 * BLOCK as u64, "{point}");
    site.latest_is_the_disk();
    tracker.stop();
}

#[test]
fn json_ends_with_an_object_that_has_the_id_of_the_point() {
    let site = site();
    let tracker = site.start(&[]);
    let said = site.ship(&["--once", "--json"]).good();
    let id = said.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(site.points().last().unwrap()["id"], *id);
    assert!(said.stdout.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    tracker.stop();
}

#[test]
fn what_is_told_is_told_of_one_group_or_of_all() {
    let site = site();
    let tracker = site.start(&["--group", "one"]);
    site.once(&[]);
    tracker.stop();
    fs::remove_dir_all(site.path("disk.raw.towline")).unwrap();
    fs::remove_file(site.first()).unwrap();
    first_content(&site.first(), 0, 256).unwrap();
    let tracker = site.start(&["--group", "two"]);
    site.once(&[]);
    tracker.stop();
    for what in ["points", "verify"] {
        let groups = |more: &[&str]| {
            let list = ask(&site, what, &[&["--json"], more].concat()).good().json();
            let groups = list["groups"].as_array().unwrap();
            groups.iter().map(|group| group["group"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(groups(&[]), ["one", "two"]);
        assert_eq!(groups(&["--group", "two"]), ["two"]);
        let text = ask(&site, what, &["--group", "one"]).good().stdout;
        assert!(text.contains("one") && !text.contains("two"), "{text}");
    }
    // With several groups, restore wants to know which.
    let to = site.path("out");
    ask(&site, "restore", &["--group", "one", "--to", to.to_str().unwrap()]).good();
    assert_eq!(fs::metadata(&to).unwrap().len(), BYTES);
}

#[test]
fn a_terminal_gets_a_bar_with_rate_and_time_left_and_a_file_gets_lines() {
    let site = site();
    let tracker = site.start(&[]);
    // script gives the program a terminal, and keeps what was shown there.
    let shown = site.path("shown");
    let ship = site.ship_command(&["--once", "--pack-size", "64KiB"]);
    let words = |command: &Command| {
        let all = std::iter::once(command.get_program()).chain(command.get_args());
        all.map(|word| format!("'{}'", word.to_str().unwrap())).collect::<Vec<_>>().join(" ")
    };
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--flush", "--command", &words(&ship)]).arg(&shown);
    run(&mut command).good();
    let shown = fs::read_to_string(shown).unwrap();
    assert!(shown.contains("/s") && shown.contains(" left"), "{shown}");
    let id = site.points()[0]["id"].as_str().unwrap().to_owned();
    assert!(shown.contains(&id));
    // Without one: no control characters, no bar, and the result alone on standard output.
    let plain = site.ship(&["--once"]).good();
    assert!(!plain.stderr.contains('\u{1b}') && !plain.stderr.contains('\r'), "{:?}", plain.stderr);
    assert!(plain.stderr.contains("published"), "{}", plain.stderr);
    tracker.stop();
}

#[test]
fn clients_are_told_the_sizes_of_blocks_and_where_nothing_is() {
    for (mut site, direct) in [(Site::memory(), false), (Site::disk(), true), (Site::disk(), false)] {
        if !direct {
            site.arguments = vec!["--cache".into(), "buffered".into()];
        }
        let tracker = site.start(&["--create", "16MiB"]);
        let status = site.status();
        assert_eq!(status["disks"][0]["cache"], if direct { "direct" } else { "buffered" });
        tracker.client("").unwrap().write(4 << 20, &[1; 1 << 20]).unwrap();
        let text = run(Command::new("nbdinfo").args(["--json", &site.uri("disk.raw")])).good().stdout;
        let info: serde_json::Value = serde_json::from_str(&text).unwrap();
        let export = &info["exports"][0];
        let least = number(&export["block_size_minimum"]);
        assert!(if direct { (512..=4096).contains(&least) } else { least == 1 }, "{export}");
        assert_eq!(number(&export["block_size_maximum"]), 32 << 20, "{export}");
        assert!(number(&export["block_size_preferred"]) >= 4096, "{export}");
        assert!(export["contexts"].as_array().unwrap().contains(&"base:allocation".into()), "{export}");
        // What was never written is told to be a hole that reads as zeros, so that nobody copies it.
        let map = ["--map=base:allocation", "--json", &site.uri("disk.raw")];
        let text = run(Command::new("nbdinfo").args(map)).good().stdout;
        let map: serde_json::Value = serde_json::from_str(&text).unwrap();
        let of = |kind: u64| {
            let extents = map.as_array().unwrap().iter().filter(|extent| number(&extent["type"]) == kind);
            extents.map(|extent| number(&extent["length"])).sum::<u64>()
        };
        assert_eq!((of(0), of(3)), (1 << 20, 15 << 20), "{map}");
        tracker.stop();
    }
}

/// F13: no memory.
#[test]
fn without_locked_memory_and_registered_buffers_everything_works_and_status_says_so() {
    let site = Site::disk();
    site.init();
    // Only a plain user is bound by the limit, which is for all of his rings together: one who has no others.
    let (root, user) = (nix::unistd::geteuid().is_root(), "65532");
    let program = site.path("towline-tracker");
    fs::copy(site.programs.join("towline-tracker"), &program).unwrap();
    if root {
        run(Command::new("chown").args(["-R", &format!("{user}:{user}")]).arg(site.path("."))).good();
    }
    let limited = |limit: &str| {
        let mut command = Command::new("prlimit");
        command.arg(format!("--memlock={limit}:{limit}"));
        if root {
            command
                .args(["setpriv", "--clear-groups"])
                .args([format!("--reuid={user}"), format!("--regid={user}")]);
        }
        command.arg(&program).args(site.tracker_command(&["--create", "64GiB"]).get_args());
        command
    };
    // Enough for the ring itself, not for buffers, nor for the maps of a large disk.
    let tracker = site.start_command(&mut limited("524288"));
    let status = site.status();
    assert_eq!(status["memory_locked"], false, "{status}");
    assert_eq!(status["buffers_registered"], false, "{status}");
    let mut client = tracker.client("").unwrap();
    for n in 0..64u64 {
        client.write(n * 131_072, &[n as u8 + 1; 16_384]).unwrap();
    }
    client.call(&Operation::Flush).unwrap();
    assert_eq!(client.read(131_072, 4096).unwrap(), [2; 4096]);
    let text = towline(["status", "--tracker", site.control().to_str().unwrap()]).good().stdout;
    assert!(text.contains("not locked") && text.contains("not registered"), "{text}");
    site.once(&[]);
    site.latest_is_the_disk();
    tracker.stop();
    // Not even a ring: that can't be, and the line says what to change.
    let refused = run(&mut limited("0"));
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("LimitMEMLOCK"), "{}", refused.stderr);
}

/// F15: changed while nobody tracked.
#[test]
fn a_disk_that_was_touched_in_between_is_compared() {
    for killed in [false, true] {
        let site = site();
        let tracker = site.start(&[]);
        site.once(&[]);
        if killed {
            tracker.kill();
            // What a dying tracker's own requests may still change is forgiven for two seconds (S3).
            std::thread::sleep(Duration::from_millis(2500));
        } else {
            tracker.stop();
        }
        let times = fs::metadata(site.first()).unwrap();
        let file = fs::OpenOptions::new().write(true).open(site.first()).unwrap();
        file.write_all_at(&[0x5a; 512], 9 << 20).unwrap();
        if !killed {
            // Also when somebody took care to leave the old time.
            let old = fs::FileTimes::new().set_modified(times.modified().unwrap());
            file.set_times(old).unwrap();
        }
        drop(file);
        let tracker = site.start(&[]);
        assert!(site.status()["disks"][0]["resync"].is_string(), "killed: {killed}: {}", site.status());
        let point = site.once(&[]);
        assert_eq!(number(&point["bytes_shipped"]), BLOCK as u64, "{point}");
        site.latest_is_the_disk();
        tracker.stop();
    }
}

/// A shipper that is stopped in the middle of a freeze, with the disk open.
fn stopped_in_a_freeze(site: &Site) -> Running {
    for _ in 0..100 {
        let switches = ["--once", "--full", "--pack-size", "64KiB", "--memory", "64MiB"];
        let mut shipper = site.shipper("stopped", &switches);
        while shipper.ended().is_none() && site.status()["freeze"] != "sealed" {
            std::thread::sleep(Duration::from_millis(1));
        }
        if shipper.ended().is_none() {
            shipper.signal(libc::SIGSTOP);
            if site.status()["freeze"] == "sealed" {
                return shipper;
            }
        }
    }
    panic!("it was always done too soon");
}

#[test]
fn a_shipper_that_reads_does_not_keep_the_disk_locked() {
    let site = site();
    let tracker = site.start(&[]);
    let shipper = stopped_in_a_freeze(&site);
    tracker.kill();
    // The successor has the lock at once.
    let tracker = site.start(&[]);
    tracker.client("").unwrap().write(0, &[1; BLOCK]).unwrap();
    tracker.stop();
    // And when nobody serves the disk, QEMU may have it, whatever the shipper has open.
    let mut emulator = Command::new("qemu-io");
    run(emulator.args(["-f", "raw", "-c", "write -P 2 4k 4k"]).arg(site.first())).good();
    drop(shipper);
    let tracker = site.start(&[]);
    site.once(&[]);
    site.latest_is_the_disk();
    tracker.stop();
}

#[test]
fn restoring_with_one_job_or_many_gives_the_same_sparse_file() {
    use std::os::unix::fs::MetadataExt;
    let site = Site::disk();
    let tracker = site.start(&["--create", "64MiB"]);
    site.init();
    let mut client = tracker.client("").unwrap();
    for n in 0..200u64 {
        client.write(n * 7919 % 16_384 * BLOCK as u64, &[n as u8 | 1; BLOCK]).unwrap();
        if n % 70 == 0 {
            site.once(&[]);
        }
    }
    site.once(&[]);
    let restored: Vec<PathBuf> = ["1", "64"]
        .map(|jobs| {
            let to = site.path(&format!("jobs-{jobs}"));
            ask(&site, "restore", &["--group", "disk", "--jobs", jobs, "--to", to.to_str().unwrap()]).good();
            to
        })
        .into();
    for path in &restored {
        same(&site.first(), path);
        let taken = fs::metadata(path).unwrap().blocks() * 512;
        assert!(taken < 4 << 20, "{taken} bytes are allocated");
    }
    tracker.stop();
}

/// F17: sizes.
#[test]
fn a_large_disk_is_known_to_its_last_sector() {
    let site = Site::disk();
    site.init();
    let size = (3u64 << 40) + 4096;
    let tracker =
        site.start(&["--create", &size.to_string(), "--block-size", "1MiB", "--region-size", "64MiB"]);
    site.once(&[]);
    let mut client = tracker.client("").unwrap();
    let places = [0, (2 << 40) - 4096, (2 << 40) + (17 << 20), size - 4096];
    for (n, place) in places.iter().enumerate() {
        client.write(*place, &[n as u8 + 1; 4096]).unwrap();
    }
    let point = site.once(&[]);
    assert!(number(&point["bytes_read"]) <= 5 << 20, "{point}");
    let image = fs::File::open(&site.restore("latest")[0]).unwrap();
    assert_eq!(image.metadata().unwrap().len(), size);
    for (n, place) in places.iter().enumerate() {
        let mut bytes = [0; 4096];
        image.read_exact_at(&mut bytes, *place).unwrap();
        assert_eq!(bytes, [n as u8 + 1; 4096], "at {place}");
    }
    same(&site.first(), &site.restore("latest")[0]);
    tracker.stop();
}
