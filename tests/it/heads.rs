//! An older copy of a vault, with the real programs: nothing in it is wrong by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use towline_tests::live::process::{Outcome, Site, run};
use towline_tests::live::stamp::BLOCK;

/// The exit code of a vault that is older than it was.
const ROLLED_BACK: Option<i32> = Some(23);

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to)).good();
}

/// A command that remembers in this folder.
fn with_memory(site: &Site, memory: &Path, command: &str, more: &[&str]) -> Outcome {
    let (group, vault) = (site.group(), site.vault());
    let mut arguments = vec![command, "--group", &group, "--vault", vault.to_str().unwrap()];
    arguments.extend(["--state-dir", memory.to_str().unwrap()].iter().chain(more));
    site.towline(arguments)
}

/// What `towline points` shows at the head.
fn head(site: &Site) -> String {
    let told = site.towline(["points", "--json", "--vault", site.vault().to_str().unwrap()]).good().stdout;
    let list: serde_json::Value = serde_json::from_str(&told).unwrap();
    list["groups"][0]["head"].as_str().unwrap().to_owned()
}

/// A vault with a point, a copy of it, and then another point.
fn site() -> (Site, PathBuf) {
    let site = Site::disk();
    fs::write(site.first(), vec![7; 64 * BLOCK]).unwrap();
    site.init();
    let tracker = site.start(&[]);
    site.once(&[]);
    let old = site.path("old");
    copy(&site.vault(), &old);
    tracker.client("").unwrap().write(0, &[9; BLOCK]).unwrap();
    site.once(&[]);
    tracker.stop();
    (site, old)
}

/// T7: 1. a vault is read; 2. it is put back to an older copy, every byte of which was once sealed so; 3. who has read the newer one
/// is told, and nothing is handed out, until he says that it is as it should be.
#[test]
fn an_older_copy_of_a_vault_is_noticed_by_who_has_read_the_newer_one() {
    let (site, old) = site();
    let memory = site.path("memory");
    with_memory(&site, &memory, "points", &[]).good();
    let newer = site.path("newer");
    fs::rename(site.vault(), &newer).unwrap();
    copy(&old, &site.vault());
    let to = site.path("out");
    let restore = ["--to", to.to_str().unwrap()];
    for (command, more) in [("points", &[][..]), ("restore", &restore), ("verify", &[])] {
        let refused = with_memory(&site, &memory, command, more);
        assert_eq!(refused.code, ROLLED_BACK, "{command}: {}", refused.stderr);
        assert!(refused.stderr.contains("remove") && !to.exists(), "{}", refused.stderr);
    }
    // The newer one is believed as before, and so is the older one by who is told to forget.
    fs::remove_dir_all(site.vault()).unwrap();
    fs::rename(&newer, site.vault()).unwrap();
    with_memory(&site, &memory, "verify", &[]).good();
    fs::remove_dir_all(site.vault()).unwrap();
    copy(&old, &site.vault());
    fs::remove_dir_all(memory.join("heads")).unwrap();
    with_memory(&site, &memory, "restore", &restore).good();
    assert_eq!(fs::read(to).unwrap(), vec![7; 64 * BLOCK]);
}

/// T7: a log that is pruned beyond what was seen is no older; and an older copy of it still is.
#[test]
fn a_log_that_was_pruned_is_no_older_copy() {
    let (site, old) = site();
    let memory = site.path("memory");
    with_memory(&site, &memory, "points", &[]).good();
    let tracker = site.start(&[]);
    for turn in 0..4 {
        tracker.client("").unwrap().write(turn * BLOCK as u64, &[3; BLOCK]).unwrap();
        site.once(&[]);
    }
    tracker.stop();
    let vault = site.vault();
    site.towline(["prune", "--keep-last", "1", "--vault", vault.to_str().unwrap()]).good();
    with_memory(&site, &memory, "verify", &[]).good();
    with_memory(&site, &memory, "points", &[]).good();
    fs::remove_dir_all(&vault).unwrap();
    copy(&old, &vault);
    assert_eq!(with_memory(&site, &memory, "points", &[]).code, ROLLED_BACK);
}

/// T7: a host that has never seen the vault is told by its administrator what must be in it.
#[test]
fn a_host_without_memory_is_told_which_entry_must_be_there() {
    let (site, old) = site();
    let (now, memory) = (head(&site), site.path("memory"));
    let expected = |memory: &Path, head: &str| with_memory(&site, memory, "points", &["--expect-head", head]);
    expected(&memory, &now).good();
    fs::rename(site.vault(), site.path("newer")).unwrap();
    copy(&old, &site.vault());
    let before = head(&site);
    let refused = expected(&site.path("another"), &now);
    assert_eq!(refused.code, ROLLED_BACK, "{}", refused.stderr);
    expected(&site.path("a third"), &before).good();
    // The same number, and another hash: another history.
    let number = before.split(':').next().unwrap();
    let forked = expected(&site.path("a fourth"), &format!("{number}:{}", "0".repeat(64)));
    assert_eq!(forked.code, ROLLED_BACK, "{}", forked.stderr);
    assert!(forked.stderr.contains("another history"), "{}", forked.stderr);
    let vault = site.vault();
    let of_none = site.towline(["points", "--vault", vault.to_str().unwrap(), "--expect-head", &before]);
    assert_eq!(of_none.code, Some(2), "{}", of_none.stderr);
}
