//! `towline status`: how a tracker and its disks are.

use super::{bytes, json, print};
use crate::Result;
use crate::ship::refusal;
use std::fmt::Write;
use std::path::PathBuf;
use towline_tracker::control::client::Client;
use towline_tracker::control::message::Status;

/// `towline status ...`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tracker's control socket
    #[arg(long, value_name = "SOCKET")]
    tracker: PathBuf,
    /// One JSON object, for programs
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// `TrackerNotRunning`, `Denied`, `TrackerRefused`.
pub fn run(args: Args) -> Result<()> {
    let asked = Client::connect(&args.tracker).and_then(|mut client| client.status());
    let status = asked.map_err(|error| refusal(&args.tracker, error))?;
    print(&if args.json { json(&status)? } else { table(&status) })
}

fn table(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<14}{value}");
    };
    line("group", status.group.clone());
    line("tracker", format!("{} pid {} up {} s", status.version, status.pid, status.uptime_s));
    line("tracking", status.tracking.clone());
    line("session", format!("{}, generation {}", status.session, status.generation));
    line("nbd", format!("{} ({} connections)", status.nbd, status.connections));
    line(
        "shipper",
        match status.attach {
            0 => "none attached yet".to_owned(),
            number => format!("attach number {number}"),
        },
    );
    line(
        "freeze",
        match (&status.cut, &status.fuzzy) {
            (None, _) => status.freeze.clone(),
            (Some(cut), None) => format!("{} {cut}", status.freeze),
            (Some(cut), Some(why)) => format!("{} {cut}, fuzzy: {why}", status.freeze),
        },
    );
    line("released", status.anchor.clone().unwrap_or_else(|| "nothing yet".to_owned()));
    line(
        "cuts",
        format!(
            "{} with {} writes in flight, writes held {} us at the last, {} us at most",
            status.cuts,
            status.in_flight_at_cuts,
            status.cut_hold_ns_last / 1000,
            status.cut_hold_ns_max / 1000
        ),
    );
    line(
        "waited",
        format!(
            "{} for intents, {} for a drain, {} for preserving",
            status.waited_intent, status.waited_drain, status.waited_preserve
        ),
    );
    line(
        "preserved",
        format!("{} blocks, {} freezes turned fuzzy", status.preserved_blocks, status.fuzzy_freezes),
    );
    let unlocked = if status.memory_locked { "locked" } else { "not locked (RLIMIT_MEMLOCK)" };
    let unregistered = if status.buffers_registered { "registered" } else { "not registered" };
    line("memory", format!("maps {unlocked}, buffers {unregistered}"));
    for disk in &status.disks {
        line("", String::new());
        line("disk", format!("{} ({})", disk.name, disk.id));
        line("  file", format!("{}, {}, {}", disk.path, bytes(disk.size), disk.cache));
        line("  changed", format!("{} in blocks of {}", bytes(disk.dirty_bytes), bytes(disk.block_size)));
        line("  frozen", format!("{}, {} preserved", bytes(disk.frozen_bytes), bytes(disk.preserved_bytes)));
        line("  intents", format!("{} of {} regions", disk.intent_regions, disk.intent_budget));
        line("  served", format!("{} writes, {} reads", disk.writes, disk.reads));
        if let Some(why) = &disk.resync {
            line("  resync", format!("required: {why}"));
        }
        if disk.degraded {
            line("  degraded", "intents can't be written; a crash means resynchronization".to_owned());
        }
        if disk.doubtful {
            line("  doubtful", "a sync of the disk failed; check the device".to_owned());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_tracker::control::message::DiskStatus;

    #[test]
    fn what_needs_attention_is_shown() {
        let disk = DiskStatus {
            name: "disk.raw".into(),
            id: "0011".into(),
            path: "/disks/disk.raw".into(),
            size: 1 << 30,
            block_size: 4096,
            cache: "direct".into(),
            dirty_bytes: 8192,
            frozen_bytes: 0,
            preserved_bytes: 0,
            intent_regions: 1,
            intent_budget: 1024,
            resync: Some("its sidecar is new".into()),
            degraded: true,
            doubtful: true,
            writes: 5,
            reads: 6,
        };
        let status = Status {
            group: "db".into(),
            session: 3,
            generation: 9,
            tracking: "availability".into(),
            version: "0.1.0".into(),
            pid: 7,
            uptime_s: 60,
            nbd: "unix:/n".into(),
            attach: 2,
            freeze: "sealed".into(),
            cut: Some("aa".into()),
            fuzzy: Some("no space".into()),
            anchor: None,
            cut_hold_ns_last: 20_000,
            cut_hold_ns_max: 90_000,
            cut_cpu_ns_last: 19_000,
            cut_cpu_ns_max: 80_000,
            cuts: 4,
            waited_intent: 1,
            waited_drain: 2,
            waited_preserve: 3,
            preserved_blocks: 11,
            in_flight_at_cuts: 12,
            fuzzy_freezes: 1,
            memory_locked: false,
            buffers_registered: true,
            connections: 1,
            disks: vec![disk],
        };
        let text = table(&status);
        for part in [
            "its sidecar is new",
            "can't be written",
            "sync of the disk failed",
            "fuzzy: no space",
            "not locked",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
