//! Sealed vaults, with the real programs: who reads the store learns sizes and times only, and who has the key, or a group's,
//! gets just what it opens.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use towline_tests::live::process::{Outcome, Site, run, same};
use towline_tests::live::stamp::BLOCK;

/// No compressor takes anything from it, and it is nowhere else.
const CANARY: [u8; 64] = {
    let (mut bytes, mut state, mut at) = ([0; 64], 0x9e37_79b9_7f4a_7c15u64, 0);
    while at < bytes.len() {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        bytes[at] = (state >> 56) as u8;
        at += 1;
    }
    bytes
};

/// A site whose disk is full of canaries, so that its blocks are stored as they are.
fn site() -> Site {
    let mut site = Site::disk();
    site.disks = vec!["secret-name.raw".into()];
    let mut state = 7u64;
    let mut noise = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 56) as u8
    };
    let mut bytes: Vec<u8> = (0..64 * BLOCK).map(|_| noise()).collect();
    bytes.chunks_mut(BLOCK).for_each(|block| block[1000..1064].copy_from_slice(&CANARY));
    fs::write(site.first(), bytes).unwrap();
    site
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// How often what must stay secret is found in a vault: in names and in bytes.
fn found(site: &Site) -> usize {
    let group = site.group();
    let wanted: [&[u8]; 3] = [&CANARY, group.as_bytes(), site.disks[0].as_bytes()];
    let mut count = 0;
    for path in files(&site.vault()) {
        let name = path.strip_prefix(site.vault()).unwrap().to_str().unwrap().as_bytes().to_vec();
        for bytes in [name, fs::read(&path).unwrap()] {
            let hits = wanted.iter().filter(|one| bytes.windows(one.len()).any(|window| window == **one));
            count += hits.count();
        }
    }
    count
}

/// The command, with no key.
fn bare(site: &Site, arguments: &[&str]) -> Command {
    let mut command = Command::new(site.programs.join("towline"));
    command.args(arguments).env_remove("TOWLINE_KEY_FILE");
    command
}

/// The command, with the key of the site's vault.
fn keyed(site: &Site, arguments: &[&str]) -> Command {
    let mut command = bare(site, arguments);
    command.env("TOWLINE_KEY_FILE", site.path("vault.key"));
    command
}

/// Makes the vault, sealed; its key file is made, too.
fn init_sealed(site: &Site) {
    run(&mut keyed(site, &["vault", "init", site.vault().to_str().unwrap()])).good();
}

#[track_caller]
fn locked(outcome: &Outcome, told: &str) {
    assert_eq!(outcome.code, Some(22), "{outcome:?}");
    assert!(outcome.stderr.lines().last().unwrap_or_default().contains(told), "{outcome:?}");
}

/// T5.
#[test]
fn a_sealed_vault_shows_nothing_of_what_is_in_it() {
    for sealed in [true, false] {
        let mut site = site();
        site.arguments.extend(["--group", "secret-group"].map(String::from));
        let vault = site.vault();
        let vault = vault.to_str().unwrap();
        if sealed {
            init_sealed(&site);
        } else {
            let outcome = run(&mut bare(&site, &["vault", "init", vault, "--no-encryption"])).good();
            assert!(outcome.stderr.contains("NOT ENCRYPTED"), "{outcome:?}");
        }
        let tracker = site.start(&[]);
        for more in [&[][..], &["--full"]] {
            tracker.client("").unwrap().write(4096, &CANARY.repeat(64)).unwrap();
            let mut ship = site.ship_command(&["--once", "--pack-size", "64KiB"]);
            ship.args(more);
            if sealed {
                ship.env("TOWLINE_KEY_FILE", site.path("vault.key"));
            }
            run(&mut ship).good();
        }
        tracker.stop();
        let found = found(&site);
        assert_eq!(found == 0, sealed, "{found} found");
    }
}

#[test]
fn without_its_key_a_vault_is_neither_read_nor_written() {
    let site = site();
    init_sealed(&site);
    let tracker = site.start(&[]);
    run(site.ship_command(&["--once"]).env("TOWLINE_KEY_FILE", site.path("vault.key"))).good();
    let vault = site.vault();
    let vault = vault.to_str().unwrap();
    let other = site.path("other.key");
    fs::write(&other, "another key, long enough").unwrap();
    let other = other.to_str().unwrap();
    for arguments in [
        vec!["points", "--vault", vault],
        vec!["verify", "--vault", vault],
        vec!["ship", "--once", "--tracker", site.control().to_str().unwrap(), "--vault", vault],
        vec![
            "restore",
            "--vault",
            vault,
            "--group",
            "secret-name",
            "--to",
            site.path("to").to_str().unwrap(),
        ],
        vec!["vault", "key", "check", vault],
        vec!["vault", "key", "export-group", vault, "x", "--to", "-"],
    ] {
        locked(&run(&mut bare(&site, &arguments)), "--key-file");
        locked(&run(bare(&site, &arguments).args(["--key-file", other])), "not opened");
    }
    // A vault that is not sealed, where a sealed one is expected.
    let open = site.path("open");
    let open = open.to_str().unwrap();
    run(&mut bare(&site, &["vault", "init", open, "--no-encryption"])).good();
    locked(&run(bare(&site, &["points", "--vault", open]).args(["--key-file", other])), "not sealed");
    // Nobody is there to be asked: nothing is made.
    let none = site.path("none");
    let outcome = run(&mut bare(&site, &["vault", "init", none.to_str().unwrap()]));
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("--no-encryption") && files_of(&none).is_empty(), "{outcome:?}");
    tracker.stop();
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    if folder.exists() { files(folder) } else { Vec::new() }
}

/// A host has its group's key, and no other; the master key stays with the administrator.
#[test]
fn a_host_with_its_groups_key_ships_and_opens_nothing_else() {
    let site = site();
    init_sealed(&site);
    let group = site.group();
    let vault = site.vault();
    let vault = vault.to_str().unwrap();
    for name in [group.as_str(), "other"] {
        let to = site.path(&format!("{name}.key"));
        run(&mut keyed(&site, &["vault", "key", "export-group", vault, name, "--to", to.to_str().unwrap()]))
            .good();
    }
    let ours = site.path(&format!("{group}.key"));
    let ours = ours.to_str().unwrap();
    let again = run(&mut keyed(&site, &["vault", "key", "export-group", vault, &group, "--to", ours]));
    assert_eq!(again.code, Some(7), "{again:?}");
    let tracker = site.start(&[]);
    let control = site.control();
    let ship = ["ship", "--once", "--tracker", control.to_str().unwrap(), "--vault", vault, "--group-key"];
    run(bare(&site, &ship).arg(ours)).good();
    locked(&run(bare(&site, &ship).arg(site.path("other.key"))), "other");
    tracker.stop();
    let to = site.path("restored");
    let restore =
        ["restore", "--vault", vault, "--group", &group, "--to", to.to_str().unwrap(), "--group-key"];
    run(bare(&site, &restore).arg(ours)).good();
    same(&site.first(), &to);
    let points =
        run(bare(&site, &["points", "--vault", vault, "--group-key"]).arg(site.path("other.key"))).good();
    assert!(!points.stdout.contains(&group), "{points:?}");
    locked(&run(bare(&site, &["vault", "key", "add", vault, "--group-key"]).arg(ours)), "does not do");
    // The administrator sees all.
    assert!(run(&mut keyed(&site, &["points", "--vault", vault])).good().stdout.contains(&group));
}

/// T8, T18: passphrases and key files come and go, the master key is rotated, nothing is uploaded again, every point stays, and
/// no secret is shown.
#[test]
fn keys_are_added_rotated_and_removed_without_touching_what_was_shipped() {
    let site = site();
    let vault = site.vault();
    let vault = vault.to_str().unwrap();
    let (first, second) = (site.path("first"), site.path("second.key"));
    fs::write(&first, "correct horse battery staple\nand a line that does not count\n").unwrap();
    let (first, second) = (first.to_str().unwrap(), second.to_str().unwrap());
    let towline = |arguments: &[&str]| run(&mut bare(&site, arguments));
    let mut shown = String::new();
    let mut good = |arguments: &[&str]| {
        let outcome = towline(arguments).good();
        shown.push_str(&outcome.stdout);
        shown.push_str(&outcome.stderr);
        outcome.stdout
    };
    good(&["vault", "init", vault, "--passphrase-file", first, "--label", "in the safe"]);
    let tracker = site.start(&[]);
    let control = site.control();
    let ship = |key: &[&str]| {
        let arguments = ["ship", "--once", "--tracker", control.to_str().unwrap(), "--vault", vault];
        run(bare(&site, &arguments).args(key)).good().stdout.trim().to_owned()
    };
    let mut points = vec![ship(&["--passphrase-file", first])];
    good(&[
        "vault",
        "key",
        "add",
        vault,
        "--passphrase-file",
        first,
        "--new-key-file",
        second,
        "--label",
        "host",
    ]);
    let list = good(&["vault", "key", "list", vault]);
    assert!(
        list.contains("in the safe") && list.contains("key file") && list.contains("generation 1"),
        "{list}"
    );
    good(&["vault", "key", "check", vault, "--key-file", second]);
    let packs = || files(&site.vault().join("groups")).len();
    let before = packs();
    let told = good(&["vault", "key", "rotate", vault, "--key-file", second]);
    assert!(told.contains("generation 2") && packs() == before, "{told}");
    locked(&towline(&["points", "--vault", vault, "--passphrase-file", first]), "not opened");
    tracker.client("").unwrap().write(0, &[3; BLOCK]).unwrap();
    points.push(ship(&["--key-file", second]));
    tracker.stop();
    for point in &points {
        let to = site.path(point);
        good(&[
            "restore",
            "--vault",
            vault,
            "--group",
            &site.group(),
            "--point",
            point,
            "--to",
            to.to_str().unwrap(),
            "--key-file",
            second,
        ]);
    }
    same(&site.first(), &site.path(&points[1]));
    good(&["verify", "--vault", vault, "--key-file", second]);
    let id = good(&["vault", "key", "list", vault]).lines().nth(1).unwrap()[2..10].to_owned();
    let last = towline(&["vault", "key", "remove", vault, &id]);
    assert!(last.code == Some(2) && last.stderr.contains("last slot"), "{last:?}");
    let key = fs::read_to_string(second).unwrap();
    for secret in ["correct horse", key.trim()] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(second).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}
