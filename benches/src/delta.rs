//! How fast is 1 % of change shipped, how much more than the change, and does the disk's size matter?

use crate::report::{Report, Table};
use crate::room::{Room, bytes_below, random_file};
use crate::server::Server;
use crate::ship::{Shipper, Summary};
use crate::stats::Spread;
use crate::{Options, Result, qmp};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Instant;
use towline_tracker::frontend::nbd::client::{Client, Operation};

const BLOCK: u64 = 4096;

/// Numbers that look random and are the same in every run.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

/// The change: random writes of 4 to 64 KiB, `bytes` in all, anywhere on the disk. Returns the blocks written.
pub(crate) fn change(client: &mut Client, size: u64, bytes: u64, seed: u64) -> Result<u64> {
    let mut random = Random(seed | 1);
    let mut data = vec![0u8; 64 << 10];
    let mut blocks = std::collections::HashSet::new();
    let mut written = 0;
    while written < bytes {
        let count = 1 + random.below(16);
        let first = random.below(size / BLOCK - count);
        let length = (count * BLOCK) as usize;
        // Incompressible, and never what was there before.
        data[..length].chunks_exact_mut(8).for_each(|word| {
            word.copy_from_slice(&(random.below(1 << 31) << 32 | random.below(1 << 31)).to_le_bytes());
            word[3] = random.0 as u8;
            word[7] = (random.0 >> 8) as u8;
        });
        let operation = Operation::Write { offset: first * BLOCK, data: &data[..length], fua: false };
        client.call(&operation)?;
        blocks.extend(first..first + count);
        written += count * BLOCK;
    }
    client.flush()?;
    Ok(blocks.len() as u64)
}

/// Our side: a tracker, a running shipper, and its lines.
struct Ours {
    server: Server,
    shipper: Shipper,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    process: crate::process::Process,
    path: PathBuf,
}

impl Ours {
    fn new(room: &Room, path: PathBuf) -> Result<Self> {
        let server = Server::tracker(room, &path, &[])?;
        let shipper = Shipper::new(room, room.memory.path())?;
        shipper.once(&server)?;
        let log = room.memory.path().join("shipper.log");
        let mut process = shipper.start(&server, "3s", &log)?;
        let lines = BufReader::new(process.output()?).lines();
        Ok(Self { server, shipper, lines, process, path })
    }

    fn line(&mut self) -> Result<Summary> {
        let line = self.lines.next().ok_or("the shipper has ended")??;
        Ok(serde_json::from_str(&line)?)
    }

    /// One change and its point: what the shipper says, the bytes changed, and by how much the vault grew.
    fn round(&mut self, size: u64, bytes: u64, seed: u64) -> Result<(Summary, u64, u64)> {
        for attempt in 0..5 {
            // The next cycle begins a whole interval after this line: the change is in one generation.
            self.line()?;
            let before = bytes_below(self.shipper.vault())?;
            let blocks = change(&mut self.server.client()?, size, bytes, seed + attempt * 1000)?;
            let summary = self.line()?;
            let grown = bytes_below(self.shipper.vault())?.saturating_sub(before);
            if summary.kind == "point" && summary.bytes_changed == blocks * BLOCK {
                return Ok((summary, blocks * BLOCK, grown));
            }
        }
        Err("the change never fell into one generation".into())
    }

    fn end(mut self) -> Result<()> {
        self.process.stop(libc::SIGTERM)?;
        drop(self.server);
        crate::room::forget(&self.path)?;
        std::fs::remove_file(&self.path)?;
        Ok(())
    }
}

/// Answers the question.
pub(crate) fn ask(room: &Room, options: &Options, report: &mut Report) -> Result<()> {
    let size = options.size();
    let large: u64 = 64 << 30;
    let bytes = size / 100;
    let folder = room.memory.path();
    let (small_path, large_path) = (folder.join("delta.raw"), folder.join("large.raw"));
    // The peer works on a disk of its own, of the same kind.
    let (peer_path, target) = (folder.join("peer.raw"), folder.join("peer-backup.raw"));
    random_file(&small_path, size, size / 4)?;
    random_file(&large_path, large, size / 4)?;
    random_file(&peer_path, size, size / 4)?;

    let count = options.rounds(7);
    let mut ours = Ours::new(room, small_path)?;
    let mut large_ours = Ours::new(room, large_path)?;
    let mut daemon = Daemon::new(room, peer_path, target, size)?;
    let (mut seconds, mut cuts, mut over, mut sparse) = (vec![], vec![], vec![], vec![]);
    let (mut peer, mut peer_over, mut once, mut once_cpu) = (vec![], vec![], vec![], vec![]);
    // All are alive, one works at a time, in rotating order.
    for round in 0..count {
        // Odd ones only: the generator makes a seed odd, and the same change twice ships nothing.
        let seed = 7 + 2 * round as u64;
        for turn in 0..3 {
            match (turn + round) % 3 {
                0 => {
                    let (summary, changed, grown) = ours.round(size, bytes, seed)?;
                    eprintln!("delta {round}: {:.3} s, {grown} of {changed}", summary.seconds);
                    seconds.push(summary.seconds);
                    cuts.push(summary.seconds_cut);
                    over.push(grown as f64 / changed as f64);
                }
                1 => {
                    let (summary, ..) = large_ours.round(large, bytes, seed)?;
                    eprintln!("delta of 64 GiB {round}: {:.3} s", summary.seconds);
                    sparse.push(summary.seconds);
                }
                _ => {
                    let (took, moved) = daemon.round(size, bytes, seed)?;
                    eprintln!("delta of qsd {round}: {took:.3} s");
                    peer.push(took);
                    peer_over.push(moved);
                }
            }
        }
    }
    let peer_cpu = daemon.cpu_seconds / count as f64;
    daemon.end()?;
    large_ours.end()?;
    ours.process.stop(libc::SIGTERM)?;
    for round in 0..count.min(5) {
        change(&mut ours.server.client()?, size, bytes, 9999 + 2 * round as u64)?;
        let ended = ours.shipper.once(&ours.server)?.1;
        once.push(ended.seconds);
        once_cpu.push(ended.cpu_seconds);
    }
    ours.end()?;

    let gib = size as f64 / f64::from(1 << 30);
    let title = format!("1 % of {gib} GiB changed by random writes of 4 to 64 KiB (tmpfs, incompressible)");
    let mut table = Table::new(title, &["what", "seconds", "bytes moved / changed"]);
    let moved = Spread::of(over.iter().copied());
    table.row([
        "towline, running shipper, cut to released point".into(),
        Spread::of(seconds.clone()).to_string(),
        moved.to_string(),
    ]);
    table.row(["of these, until the freeze was handed out".into(), Spread::of(cuts).to_string(), "-".into()]);
    table.row([
        "towline, the same on a disk of 64 GiB".into(),
        Spread::of(sparse.clone()).to_string(),
        "-".into(),
    ]);
    table.row(["towline ship --once, a process of its own".into(), Spread::of(once).to_string(), "-".into()]);
    table.row([
        "qsd blockdev-backup sync=incremental".into(),
        Spread::of(peer.clone()).to_string(),
        Spread::of(peer_over).to_string(),
    ]);
    report.table(table);
    let of_peer = Spread::ratio(&seconds, &peer);
    report.at_most("1 % delta: bytes shipped, of bytes changed", moved.median, 1.15, moved);
    report.at_most("1 % delta: time, of qsd's incremental backup", of_peer.median, 2.0, of_peer);
    let of_small = Spread::ratio(&sparse, &seconds);
    report.at_most("1 % delta: time on 64 GiB sparse, of 4 GiB", of_small.median, 1.3, of_small);
    report.note(format!(
        "CPU for a change: {} s the whole process of `ship --once` (with its start, attach and release), {peer_cpu:.3} s \
         the daemon.",
        Spread::of(once_cpu)
    ));
    report.raw("delta, seconds", &seconds);
    report.raw("delta, 64 GiB, seconds", &sparse);
    report.raw("delta, qsd, seconds", &peer);
    Ok(())
}

/// The peer's side: a daemon with a bitmap, and a backup.
struct Daemon {
    server: Server,
    monitor: qmp::Monitor,
    disk: PathBuf,
    target: PathBuf,
    cpu_seconds: f64,
    rounds: u32,
}

impl Daemon {
    fn new(room: &Room, disk: PathBuf, target: PathBuf, size: u64) -> Result<Self> {
        std::fs::File::create(&target)?.set_len(size)?;
        let nodes = [qmp::file("file", &disk), qmp::file("target", &target)];
        let server = qmp::start(room, &disk, &nodes, &[("file", "disk", true)])?;
        let mut monitor = qmp::Monitor::connect(&qmp::monitor_path(room))?;
        monitor.execute("block-dirty-bitmap-add", json!({ "node": "file", "name": "changes" }))?;
        Ok(Self { server, monitor, disk, target, cpu_seconds: 0.0, rounds: 0 })
    }

    /// One change and its incremental backup: seconds, and bytes moved to bytes changed.
    fn round(&mut self, size: u64, bytes: u64, seed: u64) -> Result<(f64, f64)> {
        let blocks = change(&mut self.server.client()?, size, bytes, seed)?;
        let bitmap = dirty(&mut self.monitor)?;
        let (before, begun) = (self.server.process.cpu()?, Instant::now());
        self.rounds += 1;
        let arguments = json!({ "job-id": format!("b{}", self.rounds), "device": "file", "target": "target",
            "sync": "incremental", "bitmap": "changes" });
        self.monitor.execute("blockdev-backup", arguments)?;
        self.monitor.job_ended()?;
        std::fs::File::open(&self.target)?.sync_all()?;
        let seconds = begun.elapsed().as_secs_f64();
        self.cpu_seconds += (self.server.process.cpu()? - before).as_secs_f64();
        Ok((seconds, bitmap as f64 / (blocks * BLOCK) as f64))
    }

    fn end(self) -> Result<()> {
        drop(self.server);
        std::fs::remove_file(&self.disk)?;
        std::fs::remove_file(&self.target)?;
        Ok(())
    }
}

/// Bytes that the daemon's bitmap holds.
fn dirty(monitor: &mut qmp::Monitor) -> Result<u64> {
    let nodes = monitor.execute("query-named-block-nodes", json!({ "flat": true }))?;
    let node = nodes.as_array().and_then(|nodes| nodes.iter().find(|node| node["node-name"] == "file"));
    let count = node.and_then(|node| node["dirty-bitmaps"][0]["count"].as_u64());
    Ok(count.ok_or("the daemon tells no bitmap")?)
}
