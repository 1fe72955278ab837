//! Long work that is killed goes on when it is asked for again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use towline_tests::live::process::{Running, Site, qemu_nbd, run, same, until};
use towline_tests::live::proxy::{Fault, Proxy};
use towline_tests::live::servers::Server;
use towline_tests::live::stamp::BLOCK;
use towline_tests::live::writer::first_content;
use towline_tracker::id::CutId;

const SIZE: u64 = 24 << 20;

/// A vault with a point of a disk without zeros, behind a server whose reads of packs take their time, so that kills come in
/// the middle.
struct Vault {
    site: Site,
    proxy: Proxy,
    _server: Server,
}

impl Vault {
    fn new() -> Self {
        let server = Server::moto();
        let proxy = Proxy::new(server.address, |request| {
            let pack = request.method == "GET" && request.target.contains("/packs/");
            if pack { Fault::Delay(Duration::from_millis(30)) } else { Fault::None }
        });
        let mut site = Site::disk();
        site.url = Some(server.url("vault"));
        site.environment = server.environment_at(proxy.address);
        let (home, state) = (site.path("home"), site.path("state"));
        for (name, path) in [("HOME", home), ("TOWLINE_STATE_DIR", state)] {
            site.environment.push((name.into(), path.to_str().unwrap().to_owned()));
        }
        first_content(&site.first(), 0, SIZE / BLOCK as u64).unwrap();
        site.init();
        let tracker = site.start(&[]);
        site.once(&["--pack-size", "1MiB"]);
        tracker.stop();
        Self { site, proxy, _server: server }
    }

    fn packs_read(&self) -> usize {
        self.proxy.count(|method, target| method == "GET" && target.contains("/packs/"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.site.programs.join("towline"));
        command.args(arguments).arg("--vault").arg(self.site.vault());
        command.envs(self.site.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a command and kills it when `so` says. False: it was done before.
    fn killed(&self, arguments: &[&str], so: impl Fn() -> bool) -> bool {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut running = Running::new(command.spawn().unwrap());
        let mut done = false;
        until("it is far enough", || {
            done = running.ended().is_some();
            done || so()
        });
        running.kill();
        !done
    }
}

/// Bytes of a file that are on its file system.
fn written(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

/// Files beside a restored one that are not whole.
fn parts(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|end| end == "part")).collect()
}

/// Kills restores at random moments, later each time, and then lets one come to its end: it has the disk, and read only what
/// none before it had written.
fn killed_restores_go_on(vault: &Vault, to: &str, so_far: &dyn Fn() -> u64) -> serde_json::Value {
    let arguments = ["restore", "--json", "--force", "--group", "disk", "--jobs", "2", "--to", to];
    let mut kills = 0;
    for round in 1..=5u64 {
        let chance = u64::from(u16::from_le_bytes(CutId::random().0[..2].try_into().unwrap()));
        let until = SIZE / 8 * round + SIZE / 8 * chance / (1 << 16);
        kills += u64::from(vault.killed(&arguments, || so_far() >= until));
    }
    assert_eq!(kills, 5, "the last one was done before it was killed");
    let before = vault.packs_read();
    let told = run(&mut vault.command(&arguments)).good();
    assert!(told.stderr.contains("going on"), "{}", told.stderr);
    let disk = told.json()["disks"][0].clone();
    let bytes = |name: &str| disk[name].as_u64().unwrap();
    assert!(bytes("kept_bytes") > SIZE / 2 && bytes("data_bytes") == SIZE, "{disk}");
    assert!(bytes("fetched_bytes") < SIZE / 2, "{disk}");
    assert!(vault.packs_read() - before <= 1 + SIZE as usize / 2 / (512 << 10), "{disk}");
    disk
}

#[test]
fn a_killed_restore_goes_on_with_what_it_has() {
    let vault = Vault::new();
    let folder = vault.site.path("to");
    fs::create_dir(&folder).unwrap();
    let to = folder.join("disk.raw");
    let so_far = || parts(&folder).iter().map(|part| written(part)).max().unwrap_or(0);
    killed_restores_go_on(&vault, to.to_str().unwrap(), &so_far);
    same(&vault.site.first(), &to);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left");
}

#[test]
fn a_killed_restore_into_an_export_goes_on_with_what_it_has() {
    let vault = Vault::new();
    let (export, socket) = (vault.site.path("export.raw"), vault.site.path("export"));
    fs::File::create(&export).unwrap().set_len(SIZE).unwrap();
    let mut server = qemu_nbd(&export, &socket);
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    // The export goes away first.
    let err = fs::File::create(vault.site.path("err")).unwrap();
    let mut command = vault.command(&["restore", "--force", "--group", "disk", "--to", &uri]);
    let mut restoring = Running::new(command.stdout(Stdio::null()).stderr(err).spawn().unwrap());
    until("it is far enough", || written(&export) > SIZE / 10);
    server.kill();
    assert_eq!(restoring.wait().unwrap().code(), Some(17));
    let told = fs::read_to_string(vault.site.path("err")).unwrap();
    assert!(told.contains("run the same again to go on") && told.contains(&uri), "{told}");
    let _ = fs::remove_file(&socket);
    let server = qemu_nbd(&export, &socket);
    killed_restores_go_on(&vault, &uri, &|| written(&export));
    drop(server);
    same(&vault.site.first(), &export);
    assert_eq!(fs::read_dir(vault.site.path("state/restores")).unwrap().count(), 0, "no note is left");
}

#[test]
fn a_killed_verification_goes_on_with_what_it_has_read() {
    let vault = Vault::new();
    let verify = ["verify", "--json"];
    let whole = run(&mut vault.command(&verify)).good().json();
    let packs = whole["groups"][0]["packs"].as_u64().unwrap();
    assert!(packs > 10 && whole["groups"][0]["read_before"].is_null(), "{whole}");
    let notes = || {
        let files = fs::read_dir(vault.site.path("state/verifications")).into_iter().flatten().flatten();
        files.map(|file| fs::read_to_string(file.path()).unwrap().lines().count() as u64).sum::<u64>()
    };
    for round in 1..=3 {
        assert!(vault.killed(&verify, || notes() > packs / 5 * round), "it was done before it was killed");
    }
    let before = vault.packs_read();
    let told = run(&mut vault.command(&verify)).good().json();
    let group = &told["groups"][0];
    let (read, skipped) =
        (group["packs_read"].as_u64().unwrap(), group["read_before"]["packs"].as_u64().unwrap());
    assert!(skipped >= packs / 5 * 3 && read + skipped == packs && told["sound"] == true, "{told}");
    assert!((vault.packs_read() - before) as u64 <= read + 2, "{told}");
    assert_eq!(notes(), 0, "finished is finished");
}
