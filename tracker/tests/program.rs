//! The program from outside: readiness, the clean stop, and how it says no.

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use towline_tracker::control::client::Client as Shipper;
use towline_tracker::frontend::nbd::client::Client;
use towline_tracker::id::{Anchor, TargetId, VaultId};

/// Only detects a hang.
const PATIENCE: Duration = Duration::from_secs(120);

fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_towline-tracker"));
    command.current_dir(folder).args(arguments).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

fn refused(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let Output { status, stderr, .. } = program(folder, arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

/// Starts it and waits until it says that it is ready, as a service manager does.
fn start(folder: &Path, arguments: &[&str]) -> Child {
    start_as(folder, program(folder, arguments))
}

fn start_as(folder: &Path, mut command: Command) -> Child {
    let path = folder.join("notify.sock");
    let _ = fs::remove_file(&path);
    let notified = UnixDatagram::bind(&path).unwrap();
    notified.set_read_timeout(Some(PATIENCE)).unwrap();
    let child = command.env("NOTIFY_SOCKET", &path).spawn().unwrap();
    let mut message = [0; 256];
    let length = loop {
        match notified.recv(&mut message) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            received => break received.unwrap(),
        }
    };
    assert!(String::from_utf8_lossy(&message[..length]).contains("READY=1"));
    child
}

/// The program in namespaces of its own. A host that forbids them to a plain user fails the claims that need them: run
/// the tests as root there.
fn elsewhere(folder: &Path, namespaces: &[&str], arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(namespaces).arg(env!("CARGO_BIN_EXE_towline-tracker"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

fn stop(child: &mut Child) -> i32 {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        assert!(begun.elapsed() < PATIENCE, "it does not stop");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Nobody has the disk open in the way that QEMU's tools respect.
fn is_unlocked(path: &Path) -> bool {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 100,
        l_len: 200,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).is_ok()
}

#[test]
fn it_is_ready_when_it_says_so_and_leaves_nothing_behind_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for round in 0..3 {
        let mut child = start(at, &["--disk", "d.raw", "--create", "16MiB", "--nbd", "unix:nbd.sock"]);
        let mut client = Client::connect(&at.join("nbd.sock"), "d.raw").unwrap();
        client.write(4096 * round, &[1 + round as u8; 4096]).unwrap();
        let status = Shipper::connect(&at.join("d.raw.towline/control.sock")).unwrap().status().unwrap();
        assert_eq!((status.group.as_str(), status.connections), ("d", 1));
        assert!(!is_unlocked(&at.join("d.raw")));
        assert_eq!(stop(&mut child), 0);
        assert!(is_unlocked(&at.join("d.raw")), "whoever comes next need not wait");
        assert!(!at.join("nbd.sock").exists() && !at.join("d.raw.towline/control.sock").exists());
        let content = fs::read(at.join("d.raw")).unwrap();
        assert!((0..=round).all(|n| content[4096 * n as usize] == 1 + n as u8));
    }
}

#[test]
fn what_makes_no_sense_is_refused_in_one_line_with_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("folder")).unwrap();
    fs::write(at.join("odd.raw"), vec![0; 1000]).unwrap();
    fs::write(at.join("good.raw"), vec![0; 1 << 20]).unwrap();
    let _live = UnixListener::bind(at.join("live.sock")).unwrap();
    let long = format!("unix:{}", "x".repeat(120));
    let cases: [(&[&str], i32); 7] = [
        (&["--disk", "missing.raw", "--nbd", "unix:n"], 3),
        (&["--disk", "folder", "--nbd", "unix:n"], 3),
        (&["--disk", "odd.raw", "--nbd", "unix:n"], 3),
        (&["--disk", "good.raw", "--nbd", "tcp:n"], 2),
        (&["--disk", "good.raw", "--nbd", "unix:live.sock"], 6),
        (&["--disk", "good.raw", "--nbd", &long], 6),
        (&["--disk", "good.raw", "--nbd", "unix:n", "--control-group", "no-such-group"], 2),
    ];
    for (arguments, expected) in cases {
        let (code, told) = refused(at, arguments);
        assert_eq!(code, expected, "{arguments:?}: {told}");
        assert_eq!(told.lines().count(), 1, "{arguments:?}: {told}");
    }
    assert!(!at.join("good.raw.towline").exists(), "nothing was begun");
    let mut child = start(at, &["--disk", "good.raw", "--nbd", "unix:n"]);
    let (code, told) = refused(at, &["--disk", "good.raw", "--nbd", "unix:m"]);
    assert_eq!(code, 4, "{told}");
    assert_eq!(stop(&mut child), 0);
}

/// F13: a full /dev/shm: the preserved map's pages would be made when they are first touched, and a page that can't be made
/// kills the process that touches it. Method: a /dev/shm of its own, in which both maps fit and the preserved one does
/// not; a whole freeze; then a write to each page of the map.
#[test]
fn a_freeze_without_memory_for_its_maps_is_refused_and_the_disk_served() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let pages = 128;
    // A page of map is 128 MiB of disk.
    let size = format!("{}MiB", pages * 128);
    let shm = format!("mount -t tmpfs -o size={}k none /dev/shm && exec \"$0\" \"$@\"", pages * 4 * 5 / 2);
    let arguments = ["--disk", "d.raw", "--create", &size, "--nbd", "unix:nbd.sock"];
    let mut child = start_as(at, elsewhere(at, &["--mount", "sh", "-c", &shm], &arguments));
    let mut shipper = Shipper::connect(&at.join("d.raw.towline/control.sock")).unwrap();
    let attach = shipper.attach(Default::default()).unwrap().attach;
    let refused = shipper.cut(attach, true).unwrap_err().to_string();
    assert!(refused.contains("memory"), "{refused}");
    let mut client = Client::connect(&at.join("nbd.sock"), "").unwrap();
    for page in 0..pages {
        client.write(page << 27, &[7; 4096]).unwrap();
    }
    assert_eq!(shipper.status().unwrap().freeze, "none");
    drop(client);
    assert_eq!(stop(&mut child), 0);
}

/// S3 across a suspend (F15, F42): the monotonic clock stands still in it, and a heartbeat told by that clock would look
/// as much later as the host slept; what somebody wrote after the tracker's end would be taken for its own. Method: a
/// successor whose monotonic clock is behind, while the clock since boot is not.
#[test]
fn what_was_written_to_the_disk_before_a_suspend_is_not_taken_for_the_trackers_own() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let arguments = ["--disk", "d.raw", "--create", "16MiB", "--nbd", "unix:nbd.sock"];
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split_whitespace().next().unwrap().parse().unwrap();
    // Each starts after one more suspend.
    for round in 0..3u64 {
        let asleep = format!("-{}", round * (uptime as u64 / 3).min(3600));
        if round == 2 {
            // Later than the last heartbeat and its slack of two seconds.
            std::thread::sleep(Duration::from_secs(4));
            let file = fs::OpenOptions::new().write(true).open(at.join("d.raw")).unwrap();
            file.write_all_at(&[9; 512], 8192).unwrap();
        }
        let mut child = start_as(at, elsewhere(at, &["--time", "--monotonic", &asleep], &arguments));
        let mut shipper = Shipper::connect(&at.join("d.raw.towline/control.sock")).unwrap();
        if round == 0 {
            let target = TargetId::default();
            let attach = shipper.attach(target).unwrap().attach;
            let cut = shipper.cut(attach, true).unwrap().frozen.cut;
            let anchor = Anchor { vault: VaultId::default(), seq: 1, hash: [1; 32] };
            shipper.release(target, attach, cut, anchor).unwrap();
        }
        let resync = &shipper.status().unwrap().disks[0].resync;
        assert_eq!(resync.is_some(), round == 2, "round {round}: {resync:?}");
        Client::connect(&at.join("nbd.sock"), "").unwrap().write(0, &[1; 4096]).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
