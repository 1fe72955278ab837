//! `towline prune`: lets recovery points go by a policy, and deletes what no other needs.

use super::access::Putting;
use super::collect::{Freed, Repack, freed, would_free};
use super::{json, print, time};
use crate::retention::policy::Policy;
use crate::retention::prune::{Pruning, plan, prune};
use crate::store::location::FORMS;
use crate::{Error, Kind, Result};
use jiff::tz::TimeZone;
use serde::Serialize;

/// `towline prune ...`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long, value_name = "URL", help = format!("The vault: {}", FORMS))]
    vault: String,
    /// Only this group
    #[arg(long)]
    group: Option<String>,
    /// Keep the N newest points
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_last: u32,
    /// Keep the last point of each of N hours
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_hourly: u32,
    /// Keep the last point of each of N days
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_daily: u32,
    /// Keep the last point of each of N weeks
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_weekly: u32,
    /// Keep the last point of each of N months
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_monthly: u32,
    /// Keep the last point of each of N years
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_yearly: u32,
    /// Let entries go that can't be read, and the points with them; otherwise nothing is let go of a damaged group
    #[arg(long)]
    past_damage: bool,
    #[command(flatten)]
    repack: Repack,
    /// Say what would be let go and deleted, and change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Let points go, but leave the deleting to `towline collect`
    #[arg(long)]
    no_collect: bool,
    /// One JSON object for all, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Putting,
}

#[derive(Serialize)]
struct Done {
    vault: String,
    dry_run: bool,
    groups: Vec<GroupDone>,
}

#[derive(Serialize)]
struct GroupDone {
    group: String,
    points: Vec<PointDone>,
    #[serde(flatten)]
    freed: Option<Freed>,
}

#[derive(Serialize)]
struct PointDone {
    id: String,
    entry: u64,
    time: String,
    abandoned: bool,
    kept: bool,
    reasons: Vec<String>,
}

impl Args {
    fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            past_damage: self.past_damage,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// `Usage` without a rule; `GroupNotFound`, `Damage`, `Denied`, the store's.
pub fn run(args: Args) -> Result<()> {
    let (policy, zone) = (args.policy(), TimeZone::system());
    if policy.is_empty() {
        let line = "no rule says what to keep: give at least one of --keep-last, --keep-hourly, --keep-daily, \
                    --keep-weekly, --keep-monthly, --keep-yearly";
        return Err(Error::new(Kind::Usage, line));
    }
    let vault = args.access.clone().access().open(&args.vault)?;
    let mut done = Done { vault: vault.id().to_string(), dry_run: args.dry_run, groups: Vec::new() };
    for group in super::chosen(&vault, args.group.as_deref())? {
        let now = super::now_ns();
        let (pruning, freed) = match args.dry_run {
            true => {
                let pruning = plan(&vault, &group, &policy, &zone, now)?;
                let freed = match args.no_collect {
                    true => None,
                    false => Some(would_free(&group, Some(&pruning.catalog), args.repack)?),
                };
                (pruning, freed)
            }
            false => {
                let pruning = prune(&vault, &group, &policy, &zone, now)?;
                let freed = if args.no_collect { None } else { Some(freed(&group, args.repack)?) };
                (pruning, freed)
            }
        };
        done.groups.push(GroupDone { group: group.name, points: points(&pruning), freed });
    }
    print(&if args.json { json(&done)? } else { text(&done) })
}

fn points(pruning: &Pruning) -> Vec<PointDone> {
    let points = pruning.verdicts.iter().map(|verdict| PointDone {
        id: verdict.point.id.to_string(),
        entry: verdict.point.seq,
        time: time(verdict.point.time_ns),
        abandoned: verdict.point.abandoned,
        kept: !verdict.reasons.is_empty(),
        reasons: verdict.reasons.iter().map(ToString::to_string).collect(),
    });
    points.collect()
}

fn text(done: &Done) -> String {
    let mut text = String::new();
    for group in &done.groups {
        text.push_str(&format!("group {}\n", group.group));
        for point in &group.points {
            let what = match (point.kept, done.dry_run) {
                (true, _) => format!("kept: {}", point.reasons.join(", ")),
                (false, true) => "would be let go".to_owned(),
                (false, false) => "let go".to_owned(),
            };
            let abandoned = if point.abandoned { "  abandoned" } else { "" };
            text.push_str(&format!("  {}  {}  {what}{abandoned}\n", point.id, point.time));
        }
        let kept = group.points.iter().filter(|point| point.kept).count();
        text.push_str(&format!("  {kept} of {} points kept", group.points.len()));
        match &group.freed {
            Some(freed) => text.push_str(&format!("; {}", freed.text(done.dry_run))),
            None => text.push('\n'),
        }
    }
    text
}
