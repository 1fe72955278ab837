//! `towline verify`: is everything there and as it was written.

use super::{ReadArgs, bytes, json, print, time};
use crate::points::Point;
use crate::retention::damage::{Found, mark};
use crate::vault::Vault;
use crate::verify::{Depth, Notes, Options, Report, verify_with};
use crate::{Error, Kind, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// `towline verify ...`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    read: ReadArgs,
    /// How much is read: `structure` reads logs and indexes, and asks of packs whether they are there; `sample` reads some of
    /// the packs as well, and `all` everything
    #[arg(long, value_enum, default_value = "all")]
    depth: Deep,
    /// The share of packs that a sample reads, in per cent: the probability that damage of one pack is found
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = percent)]
    sample: f64,
    /// Tell the vault what is damaged: the group's shipper ships it again from the disks, at one of its next cycles, and damaged
    /// points are marked. Needs the right to put. With depth `all`, what was found sound is not marked any more
    #[arg(long)]
    repair: bool,
    /// Begin anew. Otherwise, packs that a verification to the same depth had read before it was interrupted, at most a week
    /// ago, are not read again, only asked for
    #[arg(long)]
    no_resume: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Deep {
    Structure,
    Sample,
    All,
}

fn percent(text: &str) -> std::result::Result<f64, String> {
    let share: f64 = text.trim_end_matches('%').parse().map_err(|_| "give a number".to_owned())?;
    match share > 0.0 && share <= 100.0 {
        true => Ok(share),
        false => Err("give more than 0 and at most 100".to_owned()),
    }
}

#[derive(Serialize)]
struct Verdict {
    vault: String,
    depth: &'static str,
    sound: bool,
    groups: Vec<GroupVerdict>,
    unknown: Vec<String>,
}

#[derive(Serialize)]
struct GroupVerdict {
    group: String,
    entries: u64,
    objects: u64,
    bytes: u64,
    packs: u64,
    packs_read: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_before: Option<ReadBefore>,
    orphans: u64,
    damage: Vec<String>,
    points: u64,
    affected: Vec<Affected>,
}

#[derive(Serialize)]
struct ReadBefore {
    packs: u64,
    bytes: u64,
    since: String,
}

#[derive(Serialize)]
struct Affected {
    id: String,
    time: String,
    abandoned: bool,
}

/// Runs the command.
///
/// # Errors
/// `Damage`, or `RolledBack` if nothing is damaged, after telling all of it; as [`verify`].
pub fn run(args: Args) -> Result<()> {
    let depth = match args.depth {
        Deep::Structure => Depth::Structure,
        Deep::Sample => Depth::Sample(args.sample / 100.0),
        Deep::All => Depth::All,
    };
    let (args, anew, repair) = (args.read, args.no_resume, args.repair);
    let vault = args.open()?;
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{spinner} {msg} {bytes} {bytes_per_sec}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    let progress = |objects: u64, bytes: u64| {
        bar.set_message(format!("{objects} objects"));
        bar.set_position(bytes);
    };
    let folder = args.heads.folder().map(|folder| folder.join("verifications"));
    let notes = folder.as_ref().map(|folder| Notes { folder, now_ns: super::now_ns(), anew });
    let options = Options { depth, draw: crate::edge::kernel, progress: &progress, notes };
    let report = verify_with(&vault, args.group.as_deref(), &options);
    bar.finish_and_clear();
    let report = report?;
    let verdict = verdict(&vault, depth, &report);
    print(&if args.json { json(&verdict)? } else { text(&verdict) })?;
    if repair {
        tell(&vault, depth, &report)?;
    }
    if report.is_sound() {
        let mut groups = report.groups.iter().map(|report| vault.group(&report.group));
        return groups.try_for_each(|group| args.heads().check(&vault, &group).map(drop));
    }
    let affected: usize = verdict.groups.iter().map(|group| group.affected.len()).sum();
    let line = format!(
        "the vault is damaged; {affected} recovery points are affected, all others can be restored; \
         `towline verify --repair` lets the group's shipper make the next ones sound"
    );
    Err(Error::new(Kind::Damage, line))
}

/// Marks what was found.
fn tell(vault: &Vault, depth: Depth, report: &Report) -> Result<()> {
    for report in report.groups.iter().filter(|report| report.entries > 0) {
        let group = vault.group(&report.group);
        let affected = report.points.iter().filter(|(_, affected)| *affected);
        let reference = |(point, _): &(Point, bool)| {
            let header = group.entry_header(point.seq)?;
            Ok(header.filter(|header| header.cut == point.id).map(|header| header.reference()))
        };
        let points = affected.map(reference).collect::<Result<Vec<_>>>()?;
        let found = Found {
            objects: report.objects_damaged.clone(),
            points: points.into_iter().flatten().collect(),
            everything: matches!(depth, Depth::All),
        };
        if mark(&group, &found, super::now_ns())? {
            tracing::info!(group = report.group, objects = found.objects.len(), "what is damaged is marked");
        }
    }
    Ok(())
}

fn verdict(vault: &Vault, depth: Depth, report: &Report) -> Verdict {
    let groups = report.groups.iter().map(|group| GroupVerdict {
        group: group.group.clone(),
        entries: group.entries,
        objects: group.objects,
        bytes: group.bytes,
        packs: group.packs.0,
        packs_read: group.packs.1,
        read_before: group.before.map(|before| ReadBefore {
            packs: before.packs,
            bytes: before.bytes,
            since: time(before.since_ns),
        }),
        orphans: group.orphans,
        damage: group.damage.clone(),
        points: group.points.len() as u64,
        affected: group
            .points
            .iter()
            .filter(|(_, affected)| *affected)
            .map(|(point, _)| Affected {
                id: point.id.to_string(),
                time: time(point.time_ns),
                abandoned: point.abandoned,
            })
            .collect(),
    });
    Verdict {
        vault: vault.id().to_string(),
        depth: match depth {
            Depth::Structure => "structure",
            Depth::Sample(_) => "sample",
            Depth::All => "all",
        },
        sound: report.is_sound(),
        groups: groups.collect(),
        unknown: report.unknown.clone(),
    }
}

fn text(verdict: &Verdict) -> String {
    let mut text = String::new();
    for group in &verdict.groups {
        text.push_str(&format!(
            "group {}: {} entries, {} points, {} packs and indexes with {}\n",
            group.group,
            group.entries,
            group.points,
            group.objects,
            bytes(group.bytes),
        ));
        if group.packs_read < group.packs {
            text.push_str(&format!(
                "  {} of {} packs read, the others are there\n",
                group.packs_read, group.packs
            ));
        }
        if let Some(before) = &group.read_before {
            text.push_str(&format!(
                "  {} of them with {} were read since {}, before an interruption (--no-resume reads them again)\n",
                before.packs,
                bytes(before.bytes),
                before.since
            ));
        }
        if group.orphans > 0 {
            text.push_str(&format!("  {} objects that no entry lists (harmless)\n", group.orphans));
        }
        group.damage.iter().for_each(|line| text.push_str(&format!("  DAMAGED {line}\n")));
        for point in &group.affected {
            text.push_str(&format!("  AFFECTED {} of {}\n", point.id, point.time));
        }
        if !group.damage.is_empty() && group.affected.is_empty() {
            text.push_str("  no recovery point is affected\n");
        }
    }
    verdict.unknown.iter().for_each(|name| text.push_str(&format!("not of the vault: {name}\n")));
    text.push_str(if verdict.sound { "sound\n" } else { "damaged\n" });
    text
}
