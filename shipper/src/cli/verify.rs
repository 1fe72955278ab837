//! `towline verify`: is everything there and as it was written.

use super::{ReadArgs, bytes, json, print, time};
use crate::vault::Vault;
use crate::verify::{Report, verify};
use crate::{Error, Kind, Result};
use serde::Serialize;

#[derive(Serialize)]
struct Verdict {
    vault: String,
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
    orphans: u64,
    damage: Vec<String>,
    points: u64,
    affected: Vec<Affected>,
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
pub fn run(args: ReadArgs) -> Result<()> {
    let vault = args.open()?;
    let report = verify(&vault, args.group.as_deref())?;
    let verdict = verdict(&vault, &report);
    print(&if args.json { json(&verdict)? } else { text(&verdict) })?;
    if report.is_sound() {
        let mut groups = report.groups.iter().map(|report| vault.group(&report.group));
        return groups.try_for_each(|group| args.heads.check(&vault, &group).map(drop));
    }
    let affected: usize = verdict.groups.iter().map(|group| group.affected.len()).sum();
    let line = format!(
        "the vault is damaged; {affected} recovery points are affected, all others can be restored; \
         `towline ship --full --distrust` makes the next ones sound"
    );
    Err(Error::new(Kind::Damage, line))
}

fn verdict(vault: &Vault, report: &Report) -> Verdict {
    let groups = report.groups.iter().map(|group| GroupVerdict {
        group: group.group.clone(),
        entries: group.entries,
        objects: group.objects,
        bytes: group.bytes,
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
