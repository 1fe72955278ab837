//! Who may ask a tracker: root, its own user, and members of the group of `--control-group`; everybody else gets one
//! clear line with the remedy.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use towline_tests::live::process::{Outcome, Site, run};
use towline_tests::live::room::as_root;
use towline_tests::live::stamp::BLOCK;
use towline_tests::live::writer::first_content;

/// A user that owns nothing here.
const STRANGER: u32 = 65_533;

/// A group of the machine that is neither root's nor the stranger's: its name and its number.
fn group() -> (String, u32) {
    let groups = fs::read_to_string("/etc/group").unwrap();
    let mut fields = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found =
        fields.find(|fields| fields[0] == "daemon" || fields[0] == "bin").expect("daemon is everywhere");
    (found[0].to_owned(), found[2].parse().unwrap())
}

/// `towline` for whoever it is: the programs may lie where only root may look.
fn public_program(site: &Site) -> PathBuf {
    let copy = site.path("towline");
    fs::copy(site.programs.join("towline"), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(site.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

/// Runs the program as the stranger, as a member of these groups.
fn as_stranger(program: &Path, groups: &[u32], arguments: &[&Path]) -> Outcome {
    let mut command = as_root("setpriv");
    command.args([format!("--reuid={STRANGER}"), format!("--regid={STRANGER}")]);
    match groups {
        [] => command.arg("--clear-groups"),
        groups => {
            let list: Vec<String> = groups.iter().map(u32::to_string).collect();
            command.arg(format!("--groups={}", list.join(",")))
        }
    };
    run(command.arg(program).args(arguments))
}

#[track_caller]
fn denied(outcome: &Outcome) {
    assert_eq!(outcome.code, Some(16), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    assert!(
        outcome.stderr.starts_with("towline: ") && outcome.stderr.contains("--control-group"),
        "{outcome:?}"
    );
}

#[test]
fn members_of_the_control_group_may_ask_and_ship_and_others_may_not() {
    let (name, number) = group();
    // The socket where it is by default, behind the sidecar's private folder, and at a place of its own.
    for by_default in [true, false] {
        let site = Site::disk();
        first_content(&site.first(), 0, 512).unwrap();
        let program = public_program(&site);
        let mut command = Command::new(site.programs.join("towline-tracker"));
        command.arg("--disk").arg(site.first()).arg("--nbd").arg(format!("unix:{}", site.nbd().display()));
        let socket = match by_default {
            true => site.path("disk.raw.towline/control.sock"),
            false => {
                command.arg("--control").arg(site.control());
                site.control()
            }
        };
        let tracker = site.start_command(command.args(["--control-group", &name]));
        let found = fs::metadata(&socket).unwrap();
        assert_eq!((found.mode() & 0o777, found.gid()), (0o660, number));
        let status = [Path::new("status"), Path::new("--tracker"), &socket];
        denied(&as_stranger(&program, &[], &status));
        denied(&as_stranger(&program, &[number + 4000], &status));
        let told = as_stranger(&program, &[number], &status).good();
        assert!(told.stdout.contains("disk.raw"), "{}", told.stdout);
        // Not only asking: a member ships, into a vault of its own.
        let theirs = site.path("theirs");
        fs::create_dir(&theirs).unwrap();
        chown(&theirs, Some(STRANGER), Some(STRANGER)).unwrap();
        let vault = theirs.join("vault");
        as_stranger(
            &program,
            &[number],
            &[Path::new("vault"), Path::new("init"), Path::new("--no-encryption"), &vault],
        )
        .good();
        tracker.client("").unwrap().write(0, &[5; BLOCK]).unwrap();
        let ship = ["ship", "--once", "--tracker"].map(Path::new);
        let ship: Vec<&Path> = ship.into_iter().chain([&*socket, Path::new("--vault"), &vault]).collect();
        denied(&as_stranger(&program, &[], &ship));
        as_stranger(&program, &[number], &ship).good();
        let to = theirs.join("restored");
        let restore = ["restore", "--group", "disk", "--vault"].map(Path::new);
        let restore: Vec<&Path> = restore.into_iter().chain([&*vault, Path::new("--to"), &to]).collect();
        as_stranger(&program, &[], &restore).good();
        towline_tests::live::process::same(&site.first(), &to);
        // The sidecar's files stay the tracker's own.
        let meta = fs::metadata(site.path("disk.raw.towline/disk.meta")).unwrap();
        assert_eq!(meta.mode() & 0o077, 0);
        tracker.stop();
    }
}

#[test]
fn without_a_control_group_nobody_else_may_ask() {
    let (_, number) = group();
    let site = Site::disk();
    first_content(&site.first(), 0, 512).unwrap();
    let program = public_program(&site);
    let tracker = site.start(&[]);
    let socket = site.control();
    assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    for groups in [&[][..], &[number]] {
        denied(&as_stranger(&program, groups, &[Path::new("status"), Path::new("--tracker"), &socket]));
    }
    // Also where the file system lets them through, the tracker looks at who asks.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    denied(&as_stranger(&program, &[number], &[Path::new("status"), Path::new("--tracker"), &socket]));
    tracker.stop();
}
