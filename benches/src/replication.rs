//! What does the guest feel while the initial replication ships, and what does the shipper feel of the guest? Beside it
//! the peer that does the same: qemu-storage-daemon's copy-before-write with a reader of the snapshot (fleecing).

use crate::fio::{Guest, SKEWED, Seen, WORKLOADS, Workload, measure};
use crate::process::finish;
use crate::report::{Report, Table};
use crate::room::{Room, random_file};
use crate::server::Server;
use crate::ship::Shipper;
use crate::stats::Spread;
use crate::{Options, Result, qmp};
use serde::Serialize;
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// One shipment beside one guest.
#[derive(Clone, Copy, Debug, Serialize)]
struct Beside {
    /// The guest without a shipment.
    idle: Seen,
    /// Its writes a second during the whole shipment.
    rate: f64,
    /// Its latency, from 0.3 s before the shipment to its end.
    p99_us: f64,
    /// The shipment without a guest.
    alone_s: f64,
    /// The shipment beside the guest.
    seconds: f64,
    /// Freezes that turned fuzzy.
    fuzzy: u64,
    preserved: u64,
}

/// Answers the question.
pub(crate) fn ask(room: &Room, options: &Options, report: &mut Report) -> Result<()> {
    let size = options.size();
    let disk = room.memory.path().join("replicated.raw");
    let uniform = WORKLOADS[0];
    let (mut skewed_rounds, mut uniform_rounds, mut peer, mut cold) = (vec![], vec![], vec![], vec![]);
    for round in 0..options.rounds(5) {
        random_file(&disk, size, size)?;
        let alone = shipment(room, &disk)?;
        let skewed = beside(room, &disk, size, SKEWED, alone)?;
        eprintln!("replication {round} skewed: {skewed:?}");
        let even = beside(room, &disk, size, uniform, alone)?;
        eprintln!("replication {round} uniform: {even:?}");
        let fleeced = fleece(room, &disk, size, uniform, true)?;
        let only = fleece(room, &disk, size, uniform, false)?;
        eprintln!("replication {round} copy-before-write: {} /s, {} /s", fleeced.0.iops, only.0.iops);
        skewed_rounds.push(skewed);
        uniform_rounds.push(even);
        peer.push(fleeced);
        cold.push(only);
    }
    std::fs::remove_file(&disk)?;

    let columns = [
        "guest",
        "idle writes/s",
        "during",
        "during/idle",
        "idle p99 us",
        "p99 during",
        "p99 ratio",
        "shipment s",
        "shipping rate/alone",
        "fuzzy",
    ];
    let title = format!(
        "While {} GiB of random data ship for the first time (tmpfs)",
        size as f64 / f64::from(1 << 30)
    );
    let mut table = Table::new(title, &columns);
    for (name, rounds, wanted) in [("90 % on 10 %", &skewed_rounds, 0.5), ("uniform", &uniform_rounds, 0.35)]
    {
        let of = |value: fn(&Beside) -> f64| Spread::of(rounds.iter().map(value));
        let ratio = of(|one| one.rate / one.idle.iops);
        let late = of(|one| one.p99_us / one.idle.p99_us);
        let shipping = of(|one| one.alone_s / one.seconds);
        table.row([
            format!("towline, {name}"),
            of(|one| one.idle.iops).to_string(),
            of(|one| one.rate).to_string(),
            ratio.to_string(),
            of(|one| one.idle.p99_us).to_string(),
            of(|one| one.p99_us).to_string(),
            late.to_string(),
            of(|one| one.seconds).to_string(),
            shipping.to_string(),
            rounds.iter().map(|one| one.fuzzy).sum::<u64>().to_string(),
        ]);
        report.at_least(
            &format!("guest's rate during replication, {name}, of idle"),
            ratio.median,
            wanted,
            ratio,
        );
        if wanted == 0.5 {
            report.at_most(
                &format!("guest's p99 during replication, {name}, of idle"),
                late.median,
                5.0,
                late,
            );
        }
        report.at_least(
            &format!("shipping rate beside the guest, {name}, of alone"),
            shipping.median,
            0.4,
            shipping,
        );
    }
    for (name, rounds) in [("with a reader", &peer), ("cold, no reader", &cold)] {
        let rates = Spread::of(rounds.iter().map(|(seen, _)| seen.iops));
        let late = Spread::of(rounds.iter().map(|(seen, _)| seen.p99_us));
        let seconds = Spread::of(rounds.iter().map(|(_, seconds)| *seconds));
        let dash = || "-".to_string();
        table.row([
            format!("qsd copy-before-write, uniform, {name}"),
            dash(),
            rates.to_string(),
            dash(),
            dash(),
            late.to_string(),
            dash(),
            seconds.to_string(),
            dash(),
            dash(),
        ]);
    }
    report.table(table);
    let ours: Vec<_> = uniform_rounds.iter().map(|one| one.rate).collect();
    for (name, rounds) in [("with a reader", &peer), ("cold", &cold)] {
        let theirs: Vec<_> = rounds.iter().map(|(seen, _)| seen.iops).collect();
        let ratio = Spread::ratio(&ours, &theirs);
        let what = format!("guest's rate during replication, uniform, of qsd copy-before-write's ({name})");
        report.at_least(&what, ratio.median, 3.0, ratio);
    }
    report.raw("replication, skewed", &skewed_rounds);
    report.raw("replication, uniform", &uniform_rounds);
    report.raw("replication, copy-before-write with a reader", &peer);
    report.raw("replication, copy-before-write cold", &cold);
    Ok(())
}

/// The initial replication without a guest: its seconds.
fn shipment(room: &Room, disk: &Path) -> Result<f64> {
    room.warm(disk.metadata()?.len())?;
    let server = Server::tracker(room, disk, &[])?;
    let shipper = Shipper::new(room, room.memory.path())?;
    Ok(shipper.once(&server)?.1.seconds)
}

fn beside(room: &Room, disk: &Path, size: u64, workload: Workload, alone_s: f64) -> Result<Beside> {
    let server = Server::tracker(room, disk, &[])?;
    measure(&server, &workload, alone_s.clamp(0.3, 1.0))?;
    let idle = measure(&server, &workload, alone_s.clamp(0.5, 4.0))?;
    drop(server);
    // fio's blocks are alike, and compress: what ships is random again, as it was alone.
    random_file(disk, size, size)?;
    room.warm(size + size / 2)?;
    // A tracker that has never seen the disk: its first generation is all of it.
    let server = Server::tracker(room, disk, &[])?;
    let shipper = Shipper::new(room, room.memory.path())?;
    let guest = Guest::start(&server, workload, room.memory.path())?;
    let (before, begun) = (server.status()?, Instant::now());
    let (_, ended) = shipper.once(&server)?;
    let (after, elapsed) = (server.status()?, begun.elapsed().as_secs_f64());
    let seen = guest.stop()?;
    let writes = after.disks[0].writes - before.disks[0].writes;
    Ok(Beside {
        idle,
        rate: writes as f64 / elapsed,
        p99_us: seen.p99_us,
        alone_s,
        seconds: ended.seconds,
        fuzzy: after.fuzzy_freezes,
        preserved: after.preserved_blocks,
    })
}

/// The peer: what its guest saw, and the seconds of the copy (or of the guest, without a reader).
fn fleece(room: &Room, disk: &Path, size: u64, workload: Workload, reader: bool) -> Result<(Seen, f64)> {
    room.warm(size + size / 2)?;
    let store = room.memory.path().join("fleece.raw");
    std::fs::File::create(&store)?.set_len(size)?;
    let nodes = [
        qmp::file("file", disk),
        qmp::file("store", &store),
        json!({ "driver": "copy-before-write", "node-name": "cbw", "file": "file", "target": "store" }),
        json!({ "driver": "snapshot-access", "node-name": "snapshot", "file": "cbw" }),
    ];
    let server = qmp::start(room, disk, &nodes, &[("cbw", "disk", true), ("snapshot", "snapshot", false)])?;
    let result = if reader {
        let copy = room.memory.path().join("copy.raw");
        let guest = Guest::start(&server, workload, room.memory.path())?;
        let uri = format!("nbd+unix:///snapshot?socket={}", server.socket.display());
        let ended = finish(Command::new("nbdcopy").arg(uri).arg(&copy))?;
        let seen = guest.stop()?;
        std::fs::remove_file(&copy)?;
        (seen, ended.seconds)
    } else {
        let begun = Instant::now();
        (measure(&server, &workload, 2.0)?, begun.elapsed().as_secs_f64())
    };
    drop(server);
    std::fs::remove_file(&store)?;
    Ok(result)
}
