//! `towline points`: which recovery points there are, and which of them no rule lets go.

use super::access::Putting;
use super::{ReadArgs, bytes, json, print, time};
use crate::points::{History, Wanted, find, history};
use crate::retention::prune::pin;
use crate::store::location::FORMS;
use crate::vault::Group;
use crate::vault::entry::Consistency;
use crate::{Error, Kind, Result};
use clap::Subcommand;
use serde::Serialize;
use std::fmt::Write;

/// `towline points ...`
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(flatten)]
    read: ReadArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep a recovery point whatever the rules of a prune say
    Pin(PinArgs),
    /// Leave a pinned recovery point to the rules again
    Unpin(PinArgs),
}

#[derive(Debug, clap::Args)]
struct PinArgs {
    /// The point: `latest`, an id or its beginning, or a time (2026-11-23T18:30:00Z: the newest at or before it)
    #[arg(value_name = "ID|TIME")]
    point: Wanted,
    #[arg(long, value_name = "URL", help = format!("The vault: {}", FORMS))]
    vault: String,
    /// The group
    #[arg(long)]
    group: String,
    #[command(flatten)]
    access: Putting,
}

#[derive(Serialize)]
struct List {
    vault: String,
    groups: Vec<GroupList>,
}

#[derive(Serialize)]
struct GroupList {
    group: String,
    /// The last entry of its log: what `--expect-head` takes.
    head: Option<String>,
    points: Vec<PointLine>,
}

#[derive(Serialize)]
struct PointLine {
    id: String,
    entry: u64,
    time: String,
    time_ns: u64,
    consistency: &'static str,
    abandoned: bool,
    pinned: bool,
    /// A verification found that it needs what is damaged.
    damaged: bool,
    bytes_changed: u64,
    bytes_read: u64,
    bytes_put: u64,
    disks: Vec<DiskLine>,
}

#[derive(Serialize)]
struct DiskLine {
    name: String,
    id: String,
    size: u64,
}

/// Runs the command.
///
/// # Errors
/// `GroupNotFound`; `PointNotFound`; `RolledBack`; `Damage` after listing all that can be read; the store's.
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Some(Command::Pin(args)) => set_pin(args, true),
        Some(Command::Unpin(args)) => set_pin(args, false),
        None => list(args.read),
    }
}

fn set_pin(args: PinArgs, pinned: bool) -> Result<()> {
    let vault = args.access.access().open(&args.vault)?;
    vault.keys.check_open(&args.group)?;
    let group = vault.group(&args.group);
    let point = find(&vault, &group, &args.point)?;
    let what = match (pin(&group, &point, pinned, super::now_ns())?, pinned) {
        (true, true) => "is pinned",
        (false, true) => "was pinned already",
        (true, false) => "is not pinned any more",
        (false, false) => "was not pinned",
    };
    print(&format!("{} of {} {what}\n", point.id, time(point.time_ns)))
}

fn list(args: ReadArgs) -> Result<()> {
    let vault = args.open()?;
    let groups: Vec<Group> = match &args.group {
        Some(name) => vec![vault.group(name)],
        None => vault.groups()?,
    };
    let mut damage = Vec::new();
    let mut list = List { vault: vault.id().to_string(), groups: Vec::new() };
    for group in groups {
        let mut history = history(&vault, &group)?;
        damage.append(&mut history.damage);
        // What is damaged has no head that could be believed.
        let head = if damage.is_empty() { args.heads().check(&vault, &group)? } else { None };
        let head = head.map(|head| head.to_string());
        list.groups.push(GroupList { group: group.name, head, points: lines(&history) });
    }
    print(&if args.json { json(&list)? } else { table(&list)? })?;
    match damage.first() {
        None => Ok(()),
        Some(first) => Err(Error::new(
            Kind::Damage,
            format!("{} entries can't be read ({}); run `towline verify`", damage.len(), first.line()),
        )),
    }
}

fn lines(history: &History) -> Vec<PointLine> {
    let lines = history.points.iter().map(|point| PointLine {
        id: point.id.to_string(),
        entry: point.seq,
        time: time(point.time_ns),
        time_ns: point.time_ns,
        consistency: match point.consistency {
            Consistency::Crash => "crash",
            Consistency::Application => "application",
        },
        abandoned: point.abandoned,
        pinned: history.is_pinned(point),
        damaged: history.is_spoiled(point),
        bytes_changed: point.totals.bytes_changed,
        bytes_read: point.totals.bytes_read,
        bytes_put: point.totals.bytes_put,
        disks: point
            .disks
            .iter()
            .map(|disk| DiskLine { name: disk.name.clone(), id: disk.id.to_string(), size: disk.size })
            .collect(),
    });
    lines.collect()
}

fn table(list: &List) -> Result<String> {
    let mut text = String::new();
    let failed = |error| Error::caused(Kind::Other, "the list can't be made", error);
    if list.groups.is_empty() {
        text.push_str("the vault has no groups yet\n");
    }
    for group in &list.groups {
        writeln!(text, "group {}", group.group).map_err(failed)?;
        for point in &group.points {
            let sizes: Vec<_> =
                point.disks.iter().map(|disk| format!("{} {}", disk.name, bytes(disk.size))).collect();
            writeln!(
                text,
                "  {}  {}  changed {:>10}  shipped {:>10}  {}{}{}{}",
                point.id,
                point.time,
                bytes(point.bytes_changed),
                bytes(point.bytes_put),
                sizes.join(", "),
                if point.pinned { "  pinned" } else { "" },
                if point.abandoned { "  abandoned" } else { "" },
                if point.damaged { "  damaged" } else { "" },
            )
            .map_err(failed)?;
        }
        if let Some(head) = &group.head {
            writeln!(text, "  head {head}").map_err(failed)?;
        }
        if group.points.is_empty() {
            text.push_str("  no recovery points yet\n");
        }
    }
    Ok(text)
}
