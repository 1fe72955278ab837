//! How fast is a vault filled and a disk restored from it, in a folder and in an S3 server, beside backup tools and a
//! copier ([`crate::tool`]); what sealing costs; and how much more than the image a restore reads ([`crate::history`]).

use crate::process::Ended;
use crate::report::{Report, Table};
use crate::room::{Room, random_file};
use crate::s3::S3;
use crate::stats::Spread;
use crate::tool::{Place, Store, Tool};
use crate::{Options, Result, history};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const MIB: f64 = 1048576.0;
/// The disk's name.
const DISK: &str = "image.raw";

/// One put or restore.
#[derive(Clone, Copy, Debug, Serialize)]
struct Once {
    seconds: f64,
    cpu_seconds: f64,
    /// CPU time of the S3 server meanwhile.
    server_cpu_seconds: Option<f64>,
    peak_bytes: u64,
}

/// What was measured, a value a round.
#[derive(Debug, Default, Serialize)]
struct Measured(BTreeMap<&'static str, Vec<Once>>);

impl Measured {
    fn of(&self, name: &str, value: fn(&Once) -> f64) -> Vec<f64> {
        self.0.get(name).into_iter().flatten().map(value).collect()
    }

    /// The least of these contestants in each round: a peer is measured at its best.
    fn best(&self, names: &[&str], value: fn(&Once) -> f64) -> Vec<f64> {
        let all: Vec<_> = names.iter().map(|name| self.of(name, value)).collect();
        let rounds = all.iter().map(Vec::len).min().unwrap_or_default();
        (0..rounds).map(|round| all.iter().map(|one| one[round]).fold(f64::INFINITY, f64::min)).collect()
    }
}

/// Where a part of the question is measured.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    /// In targets and for `--only`.
    name: &'static str,
    /// The disk, the vaults, what the server keeps, and what is restored.
    folder: &'a Path,
    server: bool,
}

/// Answers the question.
pub(crate) fn ask(room: &Room, options: &Options, report: &mut Report) -> Result<()> {
    Room::needs(&["restic", "borg", "rclone", "cmp"])?;
    let size = options.size() / if options.mib.is_some() { 1 } else { 2 };
    let (memory, disk) = (room.memory.path(), room.disk.path());
    let parts = [
        Part { name: "directory, tmpfs", folder: memory, server: false },
        Part { name: "server, tmpfs", folder: memory, server: true },
        Part { name: "directory, disk", folder: disk, server: false },
        Part { name: "server, disk", folder: disk, server: true },
    ];
    let (mut measured, mut server) = (false, false);
    for part in parts {
        // A disk is measured when it is asked for.
        let named = options.only.as_ref().is_some_and(|only| only.contains("disk"));
        if options.wants(part.name) && (named || part.folder == memory) {
            measure(room, options, report, part, size)?;
            measured = true;
            server |= part.server;
        }
    }
    if measured {
        notes(report, server)?;
    }
    if options.wants("history") {
        history::ask(room, options, report, size)?;
    }
    Ok(())
}

/// All contestants in turns; the disk is random throughout, so that its size is its data.
fn measure(room: &Room, options: &Options, report: &mut Report, part: Part<'_>, size: u64) -> Result<()> {
    let tools: &[Tool] = match part.server {
        false => &[Tool::Sealed, Tool::Plain, Tool::Restic, Tool::Borg, Tool::BorgFixed],
        true => &[Tool::Sealed, Tool::Plain, Tool::Restic, Tool::Rclone, Tool::RcloneLanes],
    };
    let server = if part.server { Some(S3::start(room, part.folder)?) } else { None };
    let place = server.as_ref().map_or(Place::Folder(part.folder), Place::Bucket);
    let disk = part.folder.join(DISK);
    random_file(&disk, size, size)?;
    let (mut puts, mut restores, mut fetched) = (Measured::default(), Measured::default(), vec![]);
    for round in 0..options.rounds(5) {
        for turn in 0..tools.len() {
            let tool = tools[(turn + round) % tools.len()];
            // The vault, and what is restored.
            room.warm(2 * size)?;
            let store = Store::new(tool, room, part.folder, place)?;
            let put = counted(server.as_ref(), || store.put(&disk))?.0;
            eprintln!("{}, {round}, {}: {:.2} s", part.name, tool.name(), put.seconds);
            puts.0.entry(tool.name()).or_default().push(put);
            for way in tool.restores() {
                let folder = tempfile::Builder::new().prefix("restored-").tempdir_in(part.folder)?;
                let (restore, ended) = counted(server.as_ref(), || store.restore(way, DISK, folder.path()))?;
                eprintln!("{}, {round}, {way}: {:.2} s", part.name, restore.seconds);
                restores.0.entry(way).or_default().push(restore);
                if round == 0 {
                    crate::process::finish(Command::new("cmp").arg(&disk).arg(folder.path().join(DISK)))?;
                }
                if matches!(tool, Tool::Sealed | Tool::Plain) {
                    fetched.push(history::fetched(&ended)?);
                }
            }
            drop(store);
            if let Some(server) = &server {
                server.clear()?;
            }
        }
    }
    std::fs::remove_file(&disk)?;
    let gib = size as f64 / f64::from(1 << 30);
    let put_names: Vec<_> = tools.iter().map(|tool| tool.name()).collect();
    let restore_names: Vec<_> = tools.iter().flat_map(|tool| tool.restores()).copied().collect();
    let title = |what: &str| format!("{what} {gib} GiB of random data ({})", part.name);
    report.table(table(title("Put"), &puts, &put_names, size));
    report.table(table(title("Restore"), &restores, &restore_names, size));
    targets(report, part, &puts, &restores);
    let fetched = Spread::of(fetched);
    let what = format!("{}: bytes that a restore fetches, of the image's data", part.name);
    report.at_most(&what, fetched.max, 1.2, fetched);
    report.raw(&format!("{}, put", part.name), &puts);
    report.raw(&format!("{}, restore", part.name), &restores);
    Ok(())
}

/// Runs one, and counts what the server does meanwhile.
fn counted(server: Option<&S3>, run: impl FnOnce() -> Result<Ended>) -> Result<(Once, Ended)> {
    let cpu = || server.map(|server| server.process.cpu()).transpose();
    let before = cpu()?;
    let ended = run()?;
    let server_cpu_seconds = cpu()?.zip(before).map(|(after, before)| (after - before).as_secs_f64());
    let Ended { seconds, cpu_seconds, peak_bytes, .. } = ended;
    Ok((Once { seconds, cpu_seconds, server_cpu_seconds, peak_bytes }, ended))
}

fn table(title: String, measured: &Measured, names: &[&str], size: u64) -> Table {
    let columns =
        ["what", "s", "MB/s", "ours/its", "CPU s/GB", "CPU ours/its", "server's CPU s/GB", "peak MiB"];
    let mut table = Table::new(title, &columns);
    let gb = size as f64 / 1e9;
    let of = |name: &str, value: fn(&Once) -> f64| measured.of(name, value);
    let ours = names[0];
    for name in names {
        let seconds = of(name, |one| one.seconds);
        let cpu = of(name, |one| one.cpu_seconds);
        let server = of(name, |one| one.server_cpu_seconds.unwrap_or(f64::NAN));
        table.row([
            (*name).to_string(),
            Spread::of(seconds.iter().copied()).to_string(),
            Spread::of(seconds.iter().map(|seconds| gb * 1000.0 / seconds)).to_string(),
            Spread::ratio(&seconds, &of(ours, |one| one.seconds)).to_string(),
            Spread::of(cpu.iter().map(|cpu| cpu / gb)).to_string(),
            Spread::ratio(&of(ours, |one| one.cpu_seconds), &cpu).to_string(),
            match server.iter().any(|seconds| seconds.is_nan()) {
                true => "-".into(),
                false => Spread::of(server.iter().map(|cpu| cpu / gb)).to_string(),
            },
            Spread::of(of(name, |one| one.peak_bytes as f64 / MIB)).to_string(),
        ]);
    }
    table
}

/// What the sealed vault has to reach.
fn targets(report: &mut Report, part: Part<'_>, puts: &Measured, restores: &Measured) {
    let place = part.name;
    let seconds = |one: &Once| one.seconds;
    let cpu = |one: &Once| one.cpu_seconds;
    let rate = |measured: &Measured, ours: &str, theirs: &[&str]| {
        Spread::ratio(&measured.best(theirs, seconds), &measured.of(ours, seconds))
    };
    let (sealed, plain) = (Tool::Sealed.name(), Tool::Plain.name());
    let work = |theirs: &[&str]| Spread::ratio(&puts.of(sealed, cpu), &puts.best(theirs, cpu));
    if part.server {
        let rclone = [Tool::Rclone.name(), Tool::RcloneLanes.name()];
        let got = rate(puts, sealed, &rclone);
        report.at_least(&format!("{place}: put, rate, of rclone's better"), got.median, 1.3, got);
        let got = work(&rclone);
        report.at_most(&format!("{place}: put, client's CPU, of rclone's lesser"), got.median, 0.5, got);
    } else {
        let got = rate(puts, sealed, &[Tool::Restic.name()]);
        report.at_least(&format!("{place}: put, rate, of restic's"), got.median, 4.0, got);
        for borg in [Tool::Borg, Tool::BorgFixed] {
            let got = rate(puts, sealed, &[borg.name()]);
            report.at_least(&format!("{place}: put, rate, of that of {}", borg.name()), got.median, 2.5, got);
            let got = work(&[borg.name()]);
            report.at_most(&format!("{place}: put, CPU, of that of {}", borg.name()), got.median, 0.4, got);
        }
    }
    let got = rate(puts, sealed, &[plain]);
    report.at_least(&format!("{place}: put, rate sealed, of plain"), got.median, 0.85, got);
    let got = rate(restores, Tool::Sealed.restores()[0], Tool::Restic.restores());
    report.at_least(&format!("{place}: restore, rate, of restic's better"), got.median, 3.0, got);
    for (what, measured, name) in [("put", puts, sealed), ("restore", restores, Tool::Sealed.restores()[0])] {
        let peak = Spread::of(measured.of(name, |one| one.peak_bytes as f64 / MIB));
        report.at_most(&format!("{place}: {what}, peak MiB"), peak.max, 256.0, peak);
    }
}

/// How it was measured.
fn notes(report: &mut Report, server: bool) -> Result<()> {
    report.note(
        "ours/its of a rate: above 1 we are faster; of CPU: below 1 we need less. Vaults and repositories are new for \
         each round and made before; MB/s and GB are of the disk's bytes, all of them data. Our CPU is the shipper's \
         and the tracker's, the peak is the shipper's. The first round's restored disks were compared with the disk.",
    );
    report.note(
        "What is durable at the end, as each tool does it by itself: our vault in a folder, restic's and borg's \
         repositories are synced; s3s-fs syncs nothing, for nobody. What is restored is synced in the time that is told. \
         Restores read what was just put: from memory, for all of them.",
    );
    if server {
        report.note(
            "Our vaults in the server are made in its folder and shipped to over the network: s3s-fs keeps no \
             conditions of several who ask at once, so that `vault init` refuses it; one shipper needs none. rclone sends \
             files below 200 MiB in one piece, so that its two rows are the same there.",
        );
    }
    let mut versions = vec![];
    for (program, argument) in [("restic", "version"), ("borg", "--version"), ("rclone", "version")] {
        let ended = crate::process::finish(Command::new(program).arg(argument))?;
        let words = ended.output.lines().next().unwrap_or_default();
        versions.push(words.split_whitespace().take(2).collect::<Vec<_>>().join(" "));
    }
    report.note(format!(
        "Peers: {}. restic and borg without compression, borg with repokey-blake2; borg's fixed chunks are of 4 MiB; \
         rclone does not encrypt.",
        versions.join(", ")
    ));
    Ok(())
}
