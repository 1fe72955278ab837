//! `towline` as a person and a script meet it: what it shows, what it takes, what its switches change.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use towline_tests::live::process::{Outcome, Running, Site, run, same, towline, until};

/// A disk of this many MiB, all of it noise.
fn noise(site: &Site, mib: usize) {
    let mut bytes = vec![0u8; mib << 20];
    let mut state = 88172645463325252u64;
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    fs::write(site.first(), bytes).unwrap();
}

/// `towline COMMAND --vault V MORE`.
fn of_vault(site: &Site, command: &str, more: &[&str]) -> Outcome {
    let vault = site.vault();
    let mut arguments = vec![OsStr::new(command), OsStr::new("--vault"), vault.as_os_str()];
    arguments.extend(more.iter().map(OsStr::new));
    towline(arguments)
}

/// The most memory that a process ever had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a process has a peak");
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// Goal: `--memory` bounds the process, not only the plan. Method: noise in the smallest packs, many to put and a large
/// index; the peak is read when the point is published. Half as much again is allowed for code and allocator.
#[test]
fn memory_bounds_the_whole_process() {
    let site = Site::memory();
    noise(&site, 400);
    site.init();
    let tracker = site.start(&[]);
    let mut shipper =
        site.shipper("bounded", &["--memory", "64MiB", "--pack-size", "64KiB", "--json", "--every", "1h"]);
    until("the point is published", || {
        assert!(shipper.ended().is_none(), "{}", fs::read_to_string(site.path("bounded.err")).unwrap());
        fs::read_to_string(site.path("bounded.out")).unwrap().contains("\"point\"")
    });
    let peak = peak_kib(shipper.pid());
    assert!(peak < 96 << 10, "{peak} KiB of 64 MiB");
    shipper.signal(libc::SIGTERM);
    assert_eq!(shipper.wait().unwrap().code(), Some(0));
    site.latest_is_the_disk();
    tracker.stop();
}

/// Goal: a bar with rate and time left on a terminal, lines otherwise, and the id alone at the end of standard output in
/// both. Method: a terminal made by `script`.
#[test]
fn progress_is_a_bar_on_a_terminal_and_lines_otherwise() {
    let site = Site::memory();
    noise(&site, 64);
    site.init();
    let tracker = site.start(&[]);
    let quoted: Vec<String> = {
        let command = site.ship_command(&["--once", "--pack-size", "64KiB"]);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| format!("'{}'", word.to_str().unwrap())).collect()
    };
    // Standard output goes to a file, standard error to the terminal.
    let id = site.path("id");
    let line = format!("{} > '{}'", quoted.join(" "), id.display());
    let shown = run(Command::new("script").args(["--quiet", "--return", "--command", &line, "/dev/null"]));
    let shown = shown.good().stdout;
    assert!(shown.contains("/s ") && shown.contains(" left "), "a rate and the time left: {shown:?}");
    assert!(shown.contains("64.00 MiB"), "of how much: {shown:?}");
    let id = fs::read_to_string(id).unwrap();
    assert_eq!(id.trim_end().len(), 32, "{id:?}");
    assert_eq!(site.points()[0]["id"], id.trim_end());

    let told = site.ship(&["--once"]).good();
    assert!(!told.stderr.contains(" left ") && !told.stderr.contains('\r'), "no bar: {:?}", told.stderr);
    assert!(told.stderr.lines().any(|line| line.contains("point ")), "{:?}", told.stderr);
    assert_eq!(site.points()[1]["id"], told.stdout.trim_end());
    tracker.stop();
}

/// Every question can be asked of one group and in both forms, and the forms say the same.
#[test]
fn points_verify_and_status_speak_of_one_group_to_people_and_to_programs() {
    let (one, other) = (Site::memory(), Site::memory());
    let mut ids = Vec::new();
    one.init();
    for (site, name) in [(&one, "alpha"), (&other, "beta")] {
        noise(site, 2);
        let tracker = site.start(&["--group", name]);
        let text = run(towline_status(site).arg("--group-unknown"));
        assert_eq!(text.code, Some(2), "an unknown flag: {}", text.stderr);
        let text = run(&mut towline_status(site)).good().stdout;
        assert!(text.contains(name) && text.contains("disk.raw"), "{text}");
        let status = site.status();
        assert_eq!((&status["group"], &status["disks"][0]["name"]), (&name.into(), &"disk.raw".into()));
        let mut ship = Command::new(site.programs.join("towline"));
        ship.args(["ship", "--once", "--tracker"]).arg(site.control()).arg("--vault").arg(one.vault());
        ids.push(run(&mut ship).good().stdout.trim_end().to_owned());
        tracker.stop();
    }
    for (name, id, foreign) in [("alpha", &ids[0], &ids[1]), ("beta", &ids[1], &ids[0])] {
        let text = of_vault(&one, "points", &["--group", name]).good().stdout;
        assert!(text.contains(&**id) && !text.contains(&**foreign), "{text}");
        let json = of_vault(&one, "points", &["--group", name, "--json"]).good().json();
        assert_eq!(json["groups"].as_array().unwrap().len(), 1);
        assert_eq!(json["groups"][0]["points"][0]["id"], **id);
        let text = of_vault(&one, "verify", &["--group", name]).good().stdout;
        assert!(text.contains(name), "{text}");
        let json = of_vault(&one, "verify", &["--group", name, "--json"]).good().json();
        assert_eq!((&json["sound"], json["groups"].as_array().unwrap().len()), (&true.into(), 1));
    }
    let all = of_vault(&one, "points", &[]).good().stdout;
    assert!(ids.iter().all(|id| all.contains(&**id)), "{all}");
    let all = of_vault(&one, "verify", &["--json"]).good().json();
    assert_eq!(all["groups"].as_array().unwrap().len(), 2);
    for command in ["points", "verify"] {
        let wrong = of_vault(&one, command, &["--group", "gamma"]);
        assert_ne!(wrong.code, Some(0));
        assert!(wrong.stderr.contains("alpha") && wrong.stderr.contains("beta"), "{}", wrong.stderr);
    }
    // A group whose log is gone is lost, and verify says so.
    let groups = || fs::read_dir(one.vault().join("groups")).unwrap().map(|entry| entry.unwrap().path());
    let log = groups().map(|group| group.join("log")).next().unwrap();
    fs::remove_dir_all(&log).unwrap();
    let damaged = of_vault(&one, "verify", &[]);
    assert_eq!(damaged.code, Some(9), "{}{}", damaged.stdout, damaged.stderr);
}

fn towline_status(site: &Site) -> Command {
    let mut command = Command::new(site.programs.join("towline"));
    command.args(["status", "--tracker"]).arg(site.control());
    command
}

/// One thread or 64, a file or a device: the same bytes.
#[test]
fn a_restore_is_the_same_with_any_number_of_threads_and_onto_a_device() {
    let site = Site::disk();
    noise(&site, 24);
    site.init();
    let tracker = site.start(&[]);
    let mut client = tracker.client("").unwrap();
    for round in 0..4u64 {
        for n in 0..40u64 {
            client.write(((n * 97 + round * 31) % 6000) << 12, &[round as u8 + 1; 4096]).unwrap();
        }
        site.once(&["--pack-size", "64KiB"]);
    }
    client.disconnect().unwrap();
    tracker.stop();
    let restore = |to: &Path, more: &[&str]| {
        let to = to.to_str().unwrap();
        let mut arguments = vec!["--group", "disk", "--to", to];
        arguments.extend(more);
        of_vault(&site, "restore", &arguments)
    };
    let (one, many) = (site.path("one"), site.path("many"));
    restore(&one, &["--jobs", "1"]).good();
    restore(&many, &["--jobs", "64"]).good();
    same(&one, &many);
    same(&one, &site.first());

    // Standard output, alone there.
    let mut command = Command::new(site.programs.join("towline"));
    command.args(["restore", "--group", "disk", "--to", "-", "--vault"]).arg(site.vault());
    let piped = command.output().unwrap();
    let told = String::from_utf8_lossy(&piped.stderr);
    assert!(piped.status.success() && told.contains("restored"), "{told}");
    assert!(piped.stdout == fs::read(site.first()).unwrap());

    // A device, where there may be one (root, and a kernel that has loop devices).
    let backing = site.path("backing");
    fs::write(&backing, vec![0xaa; 26 << 20]).unwrap();
    let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&backing));
    if device.code != Some(0) {
        println!("no loop device: {}", device.stderr);
        return;
    }
    let device = device.stdout.trim().to_owned();
    let _detach = Detach(&device);
    let refused = restore(Path::new(&device), &[]);
    assert!(refused.code != Some(0) && refused.stderr.contains("--force"), "{}", refused.stderr);
    assert!(fs::read(&backing).unwrap().iter().all(|byte| *byte == 0xaa), "nothing was written");
    restore(Path::new(&device), &["--force", "--jobs", "4"]).good();
    let (disk, restored) = (fs::read(site.first()).unwrap(), fs::read(&device).unwrap());
    assert!(restored[..disk.len()] == disk[..], "the device has the disk");
    assert!(restored[disk.len()..].iter().all(|byte| *byte == 0xaa), "and nothing behind it was touched");
    let kinds: HashSet<_> = site.points().iter().map(|point| point["id"].to_string()).collect();
    assert_eq!(kinds.len(), 4);
}

/// Schedule: a restore over an older file is killed, each time a little later, until one is not killed in time. There is
/// always the old file or the new one, whole, and after a restore that was left alone nothing beside it.
#[test]
fn a_killed_restore_leaves_the_old_file_or_the_new_one_and_the_next_works() {
    let site = Site::disk();
    noise(&site, 32);
    site.init();
    let tracker = site.start(&[]);
    site.once(&[]);
    tracker.stop();
    let folder = site.path("restored");
    fs::create_dir(&folder).unwrap();
    let (to, new) = (folder.join("out"), fs::read(site.first()).unwrap());
    let names = || fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let (mut killed, mut pause) = (0, Duration::ZERO);
    loop {
        fs::write(&to, "old").unwrap();
        let mut command = Command::new(site.programs.join("towline"));
        command
            .args(["restore", "--force", "--group", "disk", "--vault"])
            .arg(site.vault())
            .arg("--to")
            .arg(&to);
        let mut restore = Running::new(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        std::thread::sleep(pause);
        pause += Duration::from_millis(3);
        let ended = restore.ended();
        restore.kill();
        let found = fs::read(&to).unwrap();
        assert!(found == b"old" || found == new, "{} bytes", found.len());
        // Nothing of it shows; what may be left is a name for what was there before, or for what is there now.
        let left = names().into_iter().filter(|name| name != "out");
        assert!(left.into_iter().all(|name| name.to_str().unwrap().starts_with(".out.")));
        if let Some(status) = ended {
            assert!(status.success() && found == new);
            break;
        }
        killed += 1;
    }
    assert!(killed > 3, "killed only {killed} times");
    assert_eq!(names(), ["out"]);
}

/// Whether a process catches SIGTERM.
fn catches(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a process has signals");
    u64::from_str_radix(caught.trim(), 16).unwrap() >> (libc::SIGTERM - 1) & 1 == 1
}

/// Schedule: 1. the tracker hangs (SIGSTOP); 2. a shipper connects to it, or one that was shipping asks it for the next
/// cut; 3. SIGTERM: the shipper ends with its documented code, and not by a deadline for an answer (30 s at least).
#[test]
fn a_signal_ends_a_shipper_whose_tracker_hangs() {
    let site = Site::memory();
    noise(&site, 2);
    site.init();
    let tracker = site.start(&[]);
    for (name, more, code) in [("once", &["--once"][..], 18), ("every", &["--every", "50ms"], 0)] {
        let mut shipper = None;
        if name == "every" {
            shipper = Some(site.shipper(name, more));
            until("it ships", || fs::read_to_string(site.path("every.err")).unwrap().contains("point "));
        }
        tracker.running.signal(libc::SIGSTOP);
        let mut shipper = shipper.unwrap_or_else(|| site.shipper(name, more));
        until("it listens to signals", || catches(shipper.pid()));
        // Long enough for it to be in the middle of a request.
        std::thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        shipper.signal(libc::SIGTERM);
        assert_eq!(shipper.wait().unwrap().code(), Some(code), "{name}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{name}: {:?}", begun.elapsed());
        tracker.running.signal(libc::SIGCONT);
        site.once(&[]);
        site.latest_is_the_disk();
    }
    tracker.stop();
}

struct Detach<'a>(&'a str);

impl Drop for Detach<'_> {
    fn drop(&mut self) {
        run(Command::new("losetup").args(["--detach", self.0]));
    }
}
