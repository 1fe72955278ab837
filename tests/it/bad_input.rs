//! Input that makes no sense, and files that are not what we wrote: one clear line, the documented exit code, and
//! nothing is lost.

use crate::lineage::wipe_maps;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use towline_tests::live::process::{Outcome, Site, WANDERING, run, same, towline};
use towline_tests::live::room::{Room, as_root};
use towline_tests::live::stamp::BLOCK;
use towline_tests::live::writer::first_content;

/// A refusal: the code, and one last line of ours that names the remedy or the thing.
#[track_caller]
fn refused(outcome: &Outcome, code: i32, told: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    let line = outcome.stderr.lines().last().unwrap_or_default();
    let ours = line.starts_with("towline: ") || line.starts_with("towline-tracker: ");
    assert!(ours || code == 2, "not one line of ours: {}", outcome.stderr);
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    for part in told {
        assert!(outcome.stderr.contains(part), "{part:?} is missing in: {}", outcome.stderr);
    }
}

#[track_caller]
fn tracker_refuses(site: &Site, more: &[&str], code: i32, told: &[&str]) {
    refused(&run(&mut site.tracker_command(more)), code, told);
}

/// A site with two points in its vault.
fn shipped(blocks: u64) -> Site {
    let site = Site::memory();
    first_content(&site.first(), 0, blocks).unwrap();
    site.init();
    let tracker = site.start(&[]);
    site.once(&[]);
    tracker.client("").unwrap().write(8192, &[1; 3 * BLOCK]).unwrap();
    site.once(&[]);
    tracker.stop();
    site
}

#[test]
fn disks_that_can_not_be_tracked_are_refused() {
    let mut site = Site::disk();
    tracker_refuses(&site, &[], 3, &["disk.raw", "--create"]);
    fs::create_dir(site.path("folder")).unwrap();
    fs::write(site.path("odd"), vec![0; 1000]).unwrap();
    fs::write(site.path("empty"), b"").unwrap();
    for name in ["folder", "odd", "empty"] {
        site.disks = vec![name.into()];
        tracker_refuses(&site, &[], 3, &[name]);
    }
    assert_eq!(fs::read(site.path("odd")).unwrap(), vec![0; 1000]);
    site.disks = vec!["new.raw".into()];
    tracker_refuses(&site, &["--create", "1000"], 3, &["new.raw"]);
    for bad in [&["--block-size", "5000"][..], &["--create", "much"], &["--no-such-switch"]] {
        tracker_refuses(&site, bad, 2, &[]);
    }
    site.disks.clear();
    tracker_refuses(&site, &[], 2, &["--disk"]);
}

#[test]
fn one_disk_under_two_names_is_refused() {
    let mut site = Site::disk();
    fs::write(site.path("a.raw"), vec![7; 1 << 20]).unwrap();
    std::os::unix::fs::symlink("a.raw", site.path("soft.raw")).unwrap();
    fs::hard_link(site.path("a.raw"), site.path("hard.raw")).unwrap();
    fs::create_dir(site.path("folder")).unwrap();
    for other in ["soft.raw", "hard.raw", "folder/../a.raw"] {
        site.disks = vec!["a.raw".into(), other.into()];
        for more in [&["--group", "g"][..], &["--group", "g", "--read-only"]] {
            let mut command = Command::new(site.programs.join("towline-tracker"));
            command.arg("--disk").arg(site.path("a.raw")).arg("--disk");
            command.arg(format!("other={}", site.path(other).display()));
            command.arg("--nbd").arg(format!("unix:{}", site.nbd().display())).args(more);
            refused(&run(&mut command), 2, &["a.raw and", "the same disk", "once"]);
        }
    }
    assert_eq!(fs::read(site.path("a.raw")).unwrap(), vec![7; 1 << 20]);
    site.disks = vec!["a.raw".into()];
    site.start(&[]).stop();
}

/// Two folders that are one, as containers make them, with a file of its own mounted over a disk: two disks, one sidecar.
#[test]
fn two_disks_with_one_sidecar_are_refused() {
    let room = Room::memory(16);
    let mut site = Site::disk();
    site.disks.clear();
    let at = |name: &str| room.path().join(name);
    for folder in ["a", "b"] {
        fs::create_dir(at(folder)).unwrap();
    }
    fs::write(at("a/disk.raw"), vec![7; 1 << 20]).unwrap();
    fs::write(at("other.raw"), vec![8; 1 << 20]).unwrap();
    for (from, to) in [("a", "b"), ("other.raw", "b/disk.raw")] {
        run(as_root("mount").arg("--bind").arg(at(from)).arg(at(to))).good();
    }
    let mut command = site.tracker_command(&["--group", "g"]);
    for disk in ["a", "b"] {
        command.arg("--disk").arg(format!("{disk}={}", at(disk).join("disk.raw").display()));
    }
    refused(&run(&mut command), 2, &["share the sidecar", "--log-dir"]);
    command.arg("--log-dir").arg(at("logs"));
    fs::create_dir(at("logs")).unwrap();
    let tracker = site.start_command(&mut command);
    assert_eq!(tracker.client("b").unwrap().read(0, 512).unwrap(), [8; 512]);
    tracker.stop();
}

/// FAILURES F50, T14: whoever may write beside the disk has us write nowhere else, and believe nothing of theirs.
#[test]
fn a_sidecar_of_links_or_of_somebody_else_is_refused() {
    let site = Site::disk();
    site.start(&["--create", "1MiB"]).stop();
    let (sidecar, away) = (site.path("disk.raw.towline"), site.path("away"));
    let meta = sidecar.join("disk.meta");
    fs::rename(&sidecar, &away).unwrap();
    std::os::unix::fs::symlink(&away, &sidecar).unwrap();
    tracker_refuses(&site, &[], 5, &["disk.raw.towline", "a link", "--log-dir"]);
    fs::remove_file(&sidecar).unwrap();
    fs::rename(&away, &sidecar).unwrap();
    fs::hard_link(&meta, &away).unwrap();
    tracker_refuses(&site, &[], 5, &["disk.meta", "2 names"]);
    fs::remove_file(&meta).unwrap();
    std::os::unix::fs::symlink(&away, &meta).unwrap();
    tracker_refuses(&site, &[], 5, &["disk.meta", "a link"]);
    fs::rename(&away, &meta).unwrap();
    site.start(&[]).stop();
    let owner = fs::metadata(&meta).unwrap().uid().to_string();
    for path in [&sidecar, &meta] {
        run(as_root("chown").arg("4321").arg(path)).good();
        tracker_refuses(&site, &[], 5, &["4321"]);
        run(as_root("chown").arg(&owner).arg(path)).good();
    }
    site.start(&[]).stop();
}

#[test]
fn the_sidecar_of_another_disk_is_refused() {
    let mut site = Site::disk();
    for name in ["a.raw", "b.raw"] {
        site.disks = vec![name.into()];
        site.start(&["--create", "1MiB"]).stop();
    }
    fs::remove_dir_all(site.path("b.raw.towline")).unwrap();
    fs::rename(site.path("a.raw.towline"), site.path("b.raw.towline")).unwrap();
    tracker_refuses(&site, &[], 5, &["b.raw", "another disk"]);
    assert!(site.path("b.raw.towline/disk.meta").exists(), "nothing is deleted");
}

#[test]
fn sockets_that_can_not_be_are_refused() {
    let site = Site::disk();
    fs::write(site.first(), vec![0; 1 << 20]).unwrap();
    let long = format!("{}/{}", site.path(".").display(), "x".repeat(110));
    let mut command = Command::new(site.programs.join("towline-tracker"));
    command.arg("--disk").arg(site.first()).arg("--nbd").arg(format!("unix:{long}"));
    refused(&run(&mut command), 6, &["shorter"]);
    fs::write(site.nbd(), "precious").unwrap();
    tracker_refuses(&site, &[], 6, &["remove it"]);
    assert_eq!(fs::read(site.nbd()).unwrap(), b"precious");
    refused(&towline(["status", "--tracker", &long]), 2, &["shorter"]);
    // A socket that nobody listens on any more is replaced.
    fs::remove_file(site.nbd()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(site.nbd()).unwrap());
    site.start(&[]).stop();
}

#[test]
fn without_a_tracker_or_a_vault_the_shipper_says_so() {
    let site = Site::disk();
    site.init();
    refused(&site.ship(&["--once"]), 14, &["towline-tracker"]);
    refused(&towline([Path::new("status"), Path::new("--tracker"), &site.control()]), 14, &[]);
    let missing = site.path("missing");
    let missing = missing.to_str().unwrap();
    refused(&towline(["points", "--vault", missing]), 3, &["vault init"]);
    refused(&towline(["verify", "--vault", missing]), 3, &["vault init"]);
    fs::create_dir(site.path("other")).unwrap();
    fs::write(site.path("other/file"), "something").unwrap();
    let other = site.path("other");
    refused(&towline(["points", "--vault", other.to_str().unwrap()]), 3, &[]);
    refused(&towline(["vault", "init", "--no-encryption", other.to_str().unwrap()]), 7, &[]);
    refused(&towline(["vault", "init", "--no-encryption", site.vault().to_str().unwrap()]), 7, &[]);
    refused(&towline(["points", "--vault", "ftp://bucket/x"]), 2, &["file:///"]);
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
}

#[test]
fn what_is_not_in_the_vault_can_not_be_restored() {
    let site = shipped(256);
    let vault = site.vault();
    let to = site.path("out");
    let restore = |group: &str, more: &[&str]| {
        let mut command = Command::new(site.programs.join("towline"));
        command.args(["restore", "--group", group, "--vault"]).arg(&vault).arg("--to").arg(&to).args(more);
        run(&mut command)
    };
    refused(&restore("other", &[]), 5, &["disk"]);
    refused(&restore("disk", &["--disk", "nodisk"]), 5, &["disk.raw"]);
    refused(&restore("disk", &["--point", "00000000000000000000000000000000"]), 6, &[]);
    refused(&restore("disk", &["--point", "2001-01-01T00:00:00Z"]), 6, &[]);
    refused(&restore("disk", &["--point", "yesterday or so"]), 2, &[]);
    assert!(!to.exists());
    fs::write(&to, "precious").unwrap();
    refused(&restore("disk", &[]), 7, &["--force"]);
    assert_eq!(fs::read(&to).unwrap(), b"precious");
    restore("disk", &["--force"]).good();
    same(&site.first(), &to);
    // A file may not grow beyond the limit: as with a full file system.
    fs::remove_file(&to).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$@\"", "sh"]);
    command.arg(site.programs.join("towline")).args(["restore", "--group", "disk", "--vault"]).arg(&vault);
    refused(&run(command.arg("--to").arg(&to)), 8, &[]);
    assert!(!to.exists(), "nothing is left behind");
    let list = towline(["points", "--vault", vault.to_str().unwrap(), "--group", "other"]);
    refused(&list, 5, &["disk"]);
}

#[test]
fn a_shipper_that_says_too_much_hurts_nobody() {
    let site = Site::disk();
    let tracker = site.start(&["--create", "1MiB"]);
    let mut shipper = towline_tracker::control::client::Client::connect(&site.control()).unwrap();
    let attached = shipper.attach(towline_tracker::id::TargetId([1; 16])).unwrap();
    // Letters of two bytes, so that cutting anywhere would not do.
    let reason = format!("x{}", "é".repeat(32_000));
    shipper.resynchronize(attached.attach, &reason).unwrap();
    let told = site.status()["disks"][0]["resync"].as_str().unwrap().to_owned();
    assert!(reason.starts_with(&told) && (100..1000).contains(&told.len()), "{} bytes", told.len());
    tracker.client("").unwrap().write(0, &[1; BLOCK]).unwrap();
    tracker.stop();
    // It is durable.
    let tracker = site.start(&[]);
    assert_eq!(site.status()["disks"][0]["resync"], told);
    tracker.stop();
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => all.append(&mut files(&path)),
            path => all.push(path),
        }
    }
    all.sort();
    all
}

/// Ways to damage bytes: cut off, emptied, a flipped bit here and there.
fn damages(bytes: &[u8]) -> Vec<Vec<u8>> {
    let flip = |at: usize| {
        let mut flipped = bytes.to_vec();
        if let Some(byte) = flipped.get_mut(at) {
            *byte ^= 1 << (at % 8);
        }
        flipped
    };
    let length = bytes.len();
    let mut all = vec![bytes[..length / 2].to_vec(), bytes[..length.saturating_sub(1)].to_vec(), Vec::new()];
    all.extend([0, 9, length / 3, length / 2 + 1, length.saturating_sub(1)].map(flip));
    all.retain(|damaged| damaged != bytes);
    all
}

/// F34: damaged objects.
#[test]
fn a_damaged_vault_never_hands_out_wrong_bytes() {
    let site = shipped(512);
    let vault = site.vault();
    let vault = vault.to_str().unwrap();
    let good = site.restore("latest").remove(0);
    let to = site.path("out");
    let mut seen = 0;
    for path in files(&site.vault()) {
        let bytes = fs::read(&path).unwrap();
        for damaged in damages(&bytes) {
            let shown = format!("{} with {} of {} bytes", path.display(), damaged.len(), bytes.len());
            make_writable(&path);
            fs::write(&path, &damaged).unwrap();
            let verdict = towline(["verify", "--vault", vault]);
            assert!(matches!(verdict.code, Some(3 | 4 | 9)), "{shown}: {verdict:?}");
            refused(&verdict, verdict.code.unwrap(), &[]);
            let restored =
                towline(["restore", "--vault", vault, "--group", "disk", "--to", to.to_str().unwrap()]);
            match restored.code {
                Some(0) => {
                    // Only what this point does not need was damaged, or an older point was restored and says so.
                    let read = fs::read(&to).unwrap();
                    assert!(read == fs::read(&good).unwrap(), "{shown}: wrong bytes");
                    fs::remove_file(&to).unwrap();
                }
                code => {
                    assert!(matches!(code, Some(3..=6 | 9)), "{shown}: {restored:?}");
                    refused(&restored, code.unwrap(), &[]);
                    assert!(!to.exists(), "{shown}: something was left behind");
                }
            }
            fs::write(&path, &bytes).unwrap();
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} damages");
    towline(["verify", "--vault", vault]).good();
}

/// Objects are written once; the test has to insist.
fn make_writable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

/// F5: rot.
#[test]
fn a_damaged_sidecar_costs_a_comparison_never_a_block() {
    let site = Site::memory();
    site.init();
    let switches = [&WANDERING[..], &["--create", "1GiB"]].concat();
    let mut tracker = Some(site.start(&switches));
    site.once(&[]);
    let mut round = 0u8;
    let mut damage = |kind: &str, way: usize, wiped: bool| {
        round = round.wrapping_add(1).max(1);
        let running = tracker.take().unwrap();
        let mut client = running.client("").unwrap();
        // Over more regions than the budget holds, so that some leave through the change log.
        for n in 0..60u64 {
            let block = (n * 7919 + u64::from(round) * 4093) % ((1 << 30) / BLOCK as u64);
            client.write(block * BLOCK as u64, &[round; BLOCK]).unwrap();
        }
        client.disconnect().unwrap();
        running.kill();
        if wiped {
            wipe_maps(&site);
        }
        let found = files(&site.path("disk.raw.towline"));
        let path = found.iter().find(|path| path.to_string_lossy().ends_with(kind));
        let path = path.unwrap_or_else(|| panic!("no {kind} in {found:?}"));
        let bytes = fs::read(path).unwrap();
        let ways = damages(&bytes);
        fs::write(path, &ways[way % ways.len()]).unwrap();
        tracker = Some(site.start(&switches));
        site.once(&[]);
        site.latest_is_the_disk();
    };
    for kind in ["disk.meta", ".intents", ".changes"] {
        for way in 0..8 {
            damage(kind, way, way % 2 == 0);
        }
    }
    tracker.unwrap().stop();
}
