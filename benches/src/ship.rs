//! How fast is a disk shipped: everything for the first time, beside tools that copy a file; and what changed, beside
//! QEMU's incremental backup ([`crate::delta`]).

use crate::process::{Ended, Process, finish};
use crate::report::{Report, Table};
use crate::room::{Room, random_file};
use crate::server::Server;
use crate::stats::Spread;
use crate::{Options, Result, delta, qmp};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use tempfile::TempDir;

/// What the shipper says of an entry, as far as we look at it.
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
pub(crate) struct Summary {
    /// `point` or `fuzzy`.
    pub(crate) kind: String,
    /// Bytes of frozen blocks.
    pub(crate) bytes_changed: u64,
    /// Bytes put into the vault.
    pub(crate) bytes_put: u64,
    /// From the request to cut to the release.
    pub(crate) seconds: f64,
    /// Of these, until the freeze was handed out.
    pub(crate) seconds_cut: f64,
}

/// A new vault and the program that fills it. The vault goes with it.
#[derive(Debug)]
pub(crate) struct Shipper {
    program: PathBuf,
    vault: TempDir,
}

impl Shipper {
    /// With a vault in a new folder below `parent`.
    pub(crate) fn new(room: &Room, parent: &Path) -> Result<Self> {
        let vault = tempfile::Builder::new().prefix("vault-").tempdir_in(parent)?;
        finish(Command::new(&room.shipper).args(["vault", "init", "--no-encryption"]).arg(vault.path()))?;
        Ok(Self { program: room.shipper.clone(), vault })
    }

    fn command(&self, server: &Server) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("ship").arg("--tracker").arg(server.control_path()).arg("--vault").arg(self.vault.path());
        command.arg("--json").env("TOWLINE_LOG", "warn");
        command
    }

    /// One point, by a process of its own.
    pub(crate) fn once(&self, server: &Server) -> Result<(Summary, Ended)> {
        let ended = finish(self.command(server).arg("--once"))?;
        let line = ended.output.lines().last().ok_or("the shipper says nothing")?;
        Ok((serde_json::from_str(line)?, ended))
    }

    /// A shipper that runs on, a point every `every`; its lines come from its output.
    pub(crate) fn start(&self, server: &Server, every: &str, log: &Path) -> Result<Process> {
        Process::start(self.command(server).args(["--every", every]).stdout(Stdio::piped()), log)
    }

    /// The vault's folder.
    pub(crate) fn vault(&self) -> &Path {
        self.vault.path()
    }
}

/// Answers the question.
pub(crate) fn ask(room: &Room, options: &Options, report: &mut Report) -> Result<()> {
    Room::needs(&["qemu-img", "nbdcopy", "qemu-storage-daemon"])?;
    if options.wants("initial") {
        initial(room, options, report, "tmpfs", room.memory.path())?;
    }
    if options.wants("on-disk") {
        initial(room, options, report, "disk", room.disk.path())?;
    }
    if options.wants("initial") || options.wants("on-disk") {
        report.note(
            "Ours also hashes every block, checks, seals and indexes; the tracker's own CPU is not in its row, the \
             daemon's is in qsd's.",
        );
    }
    if options.wants("delta") {
        delta::ask(room, options, report)?;
    }
    Ok(())
}

/// Everything for the first time: half random data, half holes.
fn initial(room: &Room, options: &Options, report: &mut Report, place: &str, folder: &Path) -> Result<()> {
    let size = options.size();
    let (disk, copy) = (folder.join("initial.raw"), folder.join("copy.raw"));
    random_file(&disk, size, size / 2)?;
    let mut measured = BTreeMap::<&str, Vec<(f64, f64, f64)>>::new();
    for round in 0..options.rounds(5) {
        let names =
            ["towline ship --once", "cp --sparse=always", "qemu-img convert", "nbdcopy", "qsd backup full"];
        for turn in 0..names.len() {
            let name = names[(turn + round) % names.len()];
            room.warm(size)?;
            let ended = match name {
                "towline ship --once" => {
                    let server = Server::tracker(room, &disk, &[])?;
                    let shipper = Shipper::new(room, folder)?;
                    shipper.once(&server)?.1
                }
                "cp --sparse=always" => synced(&copy, Command::new("cp").arg(name[3..].trim()).arg(&disk))?,
                "qemu-img convert" => {
                    let mut command = Command::new("qemu-img");
                    synced(
                        &copy,
                        command.args(["convert", "-f", "raw", "-O", "raw", "-W", "-m", "16"]).arg(&disk),
                    )?
                }
                "nbdcopy" => {
                    std::fs::File::create(&copy)?.set_len(size)?;
                    synced(&copy, Command::new("nbdcopy").arg("--flush").arg(&disk))?
                }
                _ => full_backup(room, &disk, &copy, size)?,
            };
            let _ = std::fs::remove_file(&copy);
            eprintln!("initial on {place} {round} {name}: {:.2} s", ended.seconds);
            let one = (ended.seconds, ended.cpu_seconds, ended.peak_bytes as f64);
            measured.entry(name).or_default().push(one);
        }
    }
    crate::room::forget(&disk)?;
    std::fs::remove_file(&disk)?;
    let gib = size as f64 / f64::from(1 << 30);
    let title = format!("Initial copy of {gib} GiB, half random, half holes ({place} to {place}, synced)");
    let mut table = Table::new(title, &["what", "seconds", "ours/its", "CPU s", "peak MiB"]);
    let seconds = |name: &str| measured[name].iter().map(|one| one.0).collect::<Vec<_>>();
    for (name, rounds) in &measured {
        table.row([
            (*name).to_string(),
            Spread::of(seconds(name)).to_string(),
            Spread::ratio(&seconds("towline ship --once"), &seconds(name)).to_string(),
            Spread::of(rounds.iter().map(|one| one.1)).to_string(),
            Spread::of(rounds.iter().map(|one| one.2 / f64::from(1 << 20))).to_string(),
        ]);
    }
    report.table(table);
    report.raw(&format!("initial on {place}"), &measured);
    Ok(())
}

/// Runs a tool that copies to `copy`, and syncs that: what is told is durable.
fn synced(copy: &Path, command: &mut Command) -> Result<Ended> {
    let mut ended = finish(command.arg(copy))?;
    let begun = Instant::now();
    std::fs::File::open(copy)?.sync_all()?;
    ended.seconds += begun.elapsed().as_secs_f64();
    Ok(ended)
}

fn full_backup(room: &Room, disk: &Path, copy: &Path, size: u64) -> Result<Ended> {
    std::fs::File::create(copy)?.set_len(size)?;
    let nodes = [qmp::file("file", disk), qmp::file("target", copy)];
    let server = qmp::start(room, disk, &nodes, &[("file", "disk", true)])?;
    let mut monitor = qmp::Monitor::connect(&qmp::monitor_path(room))?;
    let before = server.process.cpu()?;
    let begun = Instant::now();
    let arguments = json!({ "job-id": "backup", "device": "file", "target": "target", "sync": "full" });
    monitor.execute("blockdev-backup", arguments)?;
    monitor.job_ended()?;
    std::fs::File::open(copy)?.sync_all()?;
    Ok(Ended {
        seconds: begun.elapsed().as_secs_f64(),
        cpu_seconds: (server.process.cpu()? - before).as_secs_f64(),
        peak_bytes: server.process.memory("VmHWM")?,
        output: String::new(),
    })
}
