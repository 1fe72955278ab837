//! What does tracking cost the guest? fio over NBD against us and the peers, in memory (the server's CPU) and on disk.

use crate::fio::{Seen, WORKLOADS, Workload, measure};
use crate::report::{Report, Table};
use crate::room::{Room, random_file};
use crate::server::{Kind, Server};
use crate::stats::{Spread, digits};
use crate::{Options, Result, replication};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const KINDS: [Kind; 4] = [Kind::Tracked, Kind::Untracked, Kind::QemuNbd, Kind::NbdkitFile];

/// Measured values by contestant, one a round.
type Rounds = BTreeMap<&'static str, Vec<Seen>>;

/// Answers the question.
pub(crate) fn ask(room: &Room, options: &Options, report: &mut Report) -> Result<()> {
    Room::needs(&["fio", "qemu-nbd", "nbdkit", "qemu-storage-daemon", "nbdcopy"])?;
    if options.wants("memory") {
        memory(room, options, report)?;
    }
    if options.wants("cpu") {
        on_and_off(room, options, report)?;
    }
    if options.wants("disk") {
        disk(room, options, report)?;
    }
    if options.wants("sparse") {
        sparse(room, options, report)?;
    }
    if options.wants("replication") {
        replication::ask(room, options, report)?;
    }
    Ok(())
}

fn seconds(options: &Options) -> f64 {
    if options.quick { 0.6 } else { 2.5 }
}

/// One measurement: a server of its own, warmed up.
fn once(room: &Room, kind: Kind, disk: &Path, workload: &Workload, seconds: f64) -> Result<Seen> {
    let server = Server::start(room, kind, disk)?;
    measure(&server, workload, seconds / 5.0)?;
    measure(&server, workload, seconds)
}

/// Each contestant once a round, in rotating order; each has a disk of its own.
fn rounds(
    room: &Room,
    kinds: &[Kind],
    folder: &Path,
    workload: &Workload,
    count: usize,
    seconds: f64,
) -> Result<Rounds> {
    let mut rounds = Rounds::new();
    for round in 0..count {
        for place in 0..kinds.len() {
            let kind = kinds[(place + round) % kinds.len()];
            let seen = once(room, kind, &disk_of(folder, kind), workload, seconds)?;
            eprintln!(
                "{} {round} {}: {} /s, {:.1} us",
                workload.name,
                kind.name(),
                digits(seen.iops),
                seen.cpu_us
            );
            rounds.entry(kind.name()).or_default().push(seen);
        }
    }
    Ok(rounds)
}

fn disk_of(folder: &Path, kind: Kind) -> PathBuf {
    folder.join(format!("{kind:?}.raw"))
}

fn make_disks(kinds: &[Kind], folder: &Path, size: u64) -> Result<()> {
    kinds.iter().try_for_each(|kind| random_file(&disk_of(folder, *kind), size, size))
}

fn drop_disks(kinds: &[Kind], folder: &Path) -> Result<()> {
    for kind in kinds {
        crate::room::forget(&disk_of(folder, *kind))?;
        std::fs::remove_file(disk_of(folder, *kind))?;
    }
    Ok(())
}

fn values(rounds: &Rounds, kind: Kind, value: fn(&Seen) -> f64) -> Vec<f64> {
    rounds[kind.name()].iter().map(value).collect()
}

/// A table of one workload; ratios are ours to theirs, within a round.
fn table(title: String, rounds: &Rounds, kinds: &[Kind]) -> Table {
    let columns =
        ["server", "requests/s", "ours/its", "p50 us", "p99 us", "p99.9 us", "CPU us", "CPU ours/its"];
    let mut table = Table::new(title, &columns);
    let (rate, cpu) = (|seen: &Seen| seen.iops, |seen: &Seen| seen.cpu_us);
    for kind in kinds {
        let of = |value: fn(&Seen) -> f64| Spread::of(values(rounds, *kind, value)).to_string();
        let ratio = |value: fn(&Seen) -> f64| match kind {
            Kind::Tracked => "1".into(),
            kind => Spread::ratio(&values(rounds, Kind::Tracked, value), &values(rounds, *kind, value))
                .to_string(),
        };
        table.row([
            kind.name().into(),
            of(rate),
            ratio(rate),
            of(|seen| seen.p50_us),
            of(|seen| seen.p99_us),
            of(|seen| seen.p999_us),
            of(cpu),
            ratio(cpu),
        ]);
    }
    table
}

fn ratio(rounds: &Rounds, to: Kind, value: fn(&Seen) -> f64) -> Spread {
    Spread::ratio(&values(rounds, Kind::Tracked, value), &values(rounds, to, value))
}

/// All workloads in memory: what the server itself costs.
fn memory(room: &Room, options: &Options, report: &mut Report) -> Result<()> {
    let folder = room.memory.path();
    make_disks(&KINDS, folder, if options.quick { 256 << 20 } else { 1 << 30 })?;
    for workload in &WORKLOADS {
        let rounds = rounds(room, &KINDS, folder, workload, options.rounds(5), seconds(options))?;
        report.table(table(format!("In memory (tmpfs): {}", workload.name), &rounds, &KINDS));
        report.raw(&format!("memory, {}", workload.name), &rounds);
        let to_qemu = ratio(&rounds, Kind::QemuNbd, |seen| seen.iops);
        let what = format!("tmpfs, {}: rate, of qemu-nbd's", workload.name);
        match workload.name {
            "4k write QD32" => {
                report.at_least(&what, to_qemu.median, 2.5, to_qemu);
                let to_nbdkit = ratio(&rounds, Kind::NbdkitFile, |seen| seen.iops);
                report.at_least(
                    "tmpfs, 4k write QD32: rate, of nbdkit file's",
                    to_nbdkit.median,
                    1.1,
                    to_nbdkit,
                );
                let cpu = ratio(&rounds, Kind::QemuNbd, |seen| seen.cpu_us);
                report.at_most("tmpfs, 4k write QD32: CPU a request, of qemu-nbd's", cpu.median, 0.4, cpu);
            }
            "4k read QD32" => report.at_least(&what, to_qemu.median, 2.5, to_qemu),
            "1M write QD4" => report.at_least(&what, to_qemu.median, 2.0, to_qemu),
            _ => {}
        }
    }
    drop_disks(&KINDS, folder)
}

/// Tracking on and off, often: the difference is small beside the machine's moods.
fn on_and_off(room: &Room, options: &Options, report: &mut Report) -> Result<()> {
    let folder = room.memory.path();
    let kinds = [Kind::Tracked, Kind::Untracked];
    make_disks(&kinds, folder, if options.quick { 256 << 20 } else { 1 << 30 })?;
    let rounds = rounds(room, &kinds, folder, &WORKLOADS[0], options.rounds(9), seconds(options))?;
    report.table(table("Tracking on and off (tmpfs): 4k write QD32".into(), &rounds, &kinds));
    report.raw("on and off", &rounds);
    drop_disks(&kinds, folder)
}

/// The deep queue and single requests on a disk.
fn disk(room: &Room, options: &Options, report: &mut Report) -> Result<()> {
    let folder = room.disk.path();
    make_disks(&KINDS, folder, if options.quick { 256 << 20 } else { 1 << 30 })?;
    for workload in [&WORKLOADS[0], &WORKLOADS[1], &WORKLOADS[3], &WORKLOADS[4]] {
        let rounds = rounds(room, &KINDS, folder, workload, options.rounds(5), seconds(options))?;
        report.table(table(format!("On disk: {}", workload.name), &rounds, &KINDS));
        report.raw(&format!("disk, {}", workload.name), &rounds);
        if workload.name == "4k write QD32" {
            let to_qemu = ratio(&rounds, Kind::QemuNbd, |seen| seen.iops);
            report.at_least(
                "disk, 4k write QD32: rate, of qemu-nbd's (cache=none)",
                to_qemu.median,
                1.0,
                to_qemu,
            );
        }
    }
    report.note("nbdkit's file plugin writes through the page cache on a disk; the others write direct.");
    drop_disks(&KINDS, folder)
}

/// A disk with far more regions than the intent budget holds: evictions and group commits all the time. Both disks
/// are holes at first, so that allocation costs both the same.
fn sparse(room: &Room, options: &Options, report: &mut Report) -> Result<()> {
    let path = room.disk.path().join("sparse.raw");
    let (mut columns, mut status) = (BTreeMap::<&str, Vec<Seen>>::new(), Vec::new());
    let sizes = [("1 GiB", 1u64 << 30), ("64 GiB", 64 << 30)];
    for round in 0..options.rounds(5) {
        for place in 0..2 {
            let (name, size) = sizes[(place + round) % 2];
            for kind in [Kind::Tracked, Kind::Untracked] {
                std::fs::File::create(&path)?.set_len(size)?;
                let server = Server::start(room, kind, &path)?;
                let seen = measure(&server, &WORKLOADS[0], seconds(options))?;
                if kind == Kind::Tracked {
                    status.push(server.status()?.waited_intent as f64 / seen.requests);
                }
                drop(server);
                crate::room::forget(&path)?;
                std::fs::remove_file(&path)?;
                let column = match (kind, name) {
                    (Kind::Tracked, "1 GiB") => "towline, 1 GiB",
                    (Kind::Tracked, _) => "towline, 64 GiB",
                    (_, "1 GiB") => "tracking off, 1 GiB",
                    _ => "tracking off, 64 GiB",
                };
                eprintln!("sparse {round} {column}: {} /s", digits(seen.iops));
                columns.entry(column).or_default().push(seen);
            }
        }
    }
    let mut table = Table::new(
        "On disk, holes at first: 4k write QD32",
        &["server", "requests/s", "p99 us", "p99.9 us", "CPU us"],
    );
    for (name, seen) in &columns {
        let of = |value: fn(&Seen) -> f64| Spread::of(seen.iter().map(value)).to_string();
        table.row([
            (*name).into(),
            of(|seen| seen.iops),
            of(|seen| seen.p99_us),
            of(|seen| seen.p999_us),
            of(|seen| seen.cpu_us),
        ]);
    }
    report.table(table);
    let rates = |name: &str| columns[name].iter().map(|seen| seen.iops).collect::<Vec<_>>();
    let ours = Spread::ratio(&rates("towline, 64 GiB"), &rates("towline, 1 GiB"));
    let off = Spread::ratio(&rates("tracking off, 64 GiB"), &rates("tracking off, 1 GiB"));
    let waited = Spread::of(status);
    report.note(format!(
        "64 GiB beside 1 GiB: {ours} of the rate with tracking, {off} without; {waited} of the requests waited for an \
         intent (first touches of 16,384 regions against a budget of 1,024)."
    ));
    report.raw("sparse", &columns);
    Ok(())
}
