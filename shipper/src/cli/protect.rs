//! `towline protect`: keeps what kept points need from being deleted by anybody.

use super::access::Access;
use super::collect::Bar;
use super::{json, print, time, units};
use crate::points::history;
use crate::retention::protect::{Protected, Span, protect, protect_keys};
use crate::store::location::FORMS;
use crate::store::remote::oldest::AsOf;
use crate::{Error, Kind, Result};
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// `towline protect ...`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long, value_name = "URL", help = format!("The vault, which is in a bucket with object lock: {}", FORMS))]
    vault: String,
    /// Only this group
    #[arg(long)]
    group: Option<String>,
    /// How long nothing that is needed can be deleted, from now on: 30d, 12h. Nobody can take it back
    #[arg(long, value_name = "TIME", value_parser = units::lock_time)]
    immutable_for: Duration,
    /// Protect the points that there were at this time (2026-11-23T18:30:00Z), although they may have been let go since:
    /// after an attack. As far as what they need is still there
    #[arg(long, value_name = "TIME", default_value = "now")]
    as_of: AsOf,
    /// One JSON object for all, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Access,
}

#[derive(Serialize)]
struct Done {
    vault: String,
    /// No object that is counted can be deleted before.
    until: String,
    objects: u64,
    objects_extended: u64,
    objects_touched: u64,
    touched: Vec<String>,
    groups: Vec<GroupDone>,
}

#[derive(Serialize)]
struct GroupDone {
    group: String,
    points: usize,
    oldest: Option<String>,
    newest: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// `Usage` if the store can't lock; `GroupNotFound`; `Denied`; `Damage` if what is needed can't be told, and when all is done if
/// somebody touched what is needed; the store's.
pub fn run(args: Args) -> Result<()> {
    let oldest = args.access.store.clone().open_to_lock(&args.vault, args.immutable_for, args.as_of)?;
    let vault = args.access.keys.open(oldest.clone())?;
    // A lock is asked for in seconds.
    let now = SystemTime::now();
    let span = Span::new(now, args.immutable_for);
    let locks = |name: &str, span: Span| oldest.lock(name, span.at_least, span.until);
    let mut all = protect_keys(&vault, &locks, span)?;
    let mut groups = Vec::new();
    for group in super::chosen(&vault, args.group.as_deref())? {
        all.add(protect(&group, &locks, span, &mut Bar::new())?);
        let points = history(&vault, &group)?.points;
        let at = |point: Option<&crate::points::Point>| point.map(|point| time(point.time_ns));
        let (oldest, newest) = (at(points.first()), at(points.last()));
        groups.push(GroupDone { group: group.name, points: points.len(), oldest, newest });
    }
    let until =
        jiff::Timestamp::try_from(span.at_least).map_or_else(|_| String::new(), |time| format!("{time:.0}"));
    let Protected { objects, extended, touched, examples } = all;
    let done = Done {
        vault: vault.id().to_string(),
        until,
        objects,
        objects_extended: extended,
        objects_touched: touched,
        touched: examples,
        groups,
    };
    print(&if args.json { json(&done)? } else { text(&done) })?;
    match done.touched.first() {
        None => Ok(()),
        Some(first) => Err(Error::new(
            Kind::Damage,
            format!(
                "{touched} objects were put over or deleted by somebody, {first} first: they are locked as they were put; find \
                out who has the credentials, and read the vault with --as-of"
            ),
        )),
    }
}

fn text(done: &Done) -> String {
    let mut text = String::new();
    for group in &done.groups {
        let span = match (&group.oldest, &group.newest) {
            (Some(oldest), Some(newest)) => format!(" of {oldest} to {newest}"),
            _ => String::new(),
        };
        text.push_str(&format!("group {}: {} points{span}\n", group.group, group.points));
    }
    text.push_str(&format!(
        "{} objects can't be deleted before {}; {} were locked for longer just now\n",
        done.objects, done.until, done.objects_extended
    ));
    text
}
