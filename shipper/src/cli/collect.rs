//! `towline collect`: deletes what no recovery point needs.

use super::access::Access;
use super::{bytes, json, print};
use crate::retention::collect::{Collected, Plan, Progress, collect, plan};
use crate::store::location::FORMS;
use crate::vault::Group;
use crate::{Kind, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// `towline collect ...`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long, value_name = "URL", help = format!("The vault: {}", FORMS))]
    vault: String,
    /// Only this group
    #[arg(long)]
    group: Option<String>,
    /// Say what would be deleted, and delete nothing
    #[arg(long)]
    dry_run: bool,
    /// One JSON object for all, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Access,
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
    #[serde(flatten)]
    freed: Freed,
}

/// Objects and bytes that were deleted, or would be, and that stay.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Freed {
    objects_deleted: u64,
    bytes_deleted: u64,
    objects_kept: u64,
    bytes_kept: u64,
}

impl From<Collected> for Freed {
    fn from(collected: Collected) -> Self {
        let ((objects_deleted, bytes_deleted), (objects_kept, bytes_kept)) =
            (collected.deleted, collected.live);
        Self { objects_deleted, bytes_deleted, objects_kept, bytes_kept }
    }
}

impl From<&Plan> for Freed {
    fn from(plan: &Plan) -> Self {
        let deleted = plan.garbage.iter().fold((0, 0), |(n, sum), garbage| (n + 1, sum + garbage.length));
        Collected { deleted, live: plan.live }.into()
    }
}

impl Freed {
    /// For people.
    pub(super) fn text(&self, dry_run: bool) -> String {
        format!(
            "{} {} objects with {}; {} with {} stay\n",
            if dry_run { "would delete" } else { "deleted" },
            self.objects_deleted,
            bytes(self.bytes_deleted),
            self.objects_kept,
            bytes(self.bytes_kept),
        )
    }
}

/// Runs the command.
///
/// # Errors
/// `GroupNotFound`, `Damage`, `Denied`, the store's.
pub fn run(args: Args) -> Result<()> {
    let vault = args.access.open(&args.vault)?;
    let groups = super::chosen(&vault, args.group.as_deref())?;
    let mut done = Done { vault: vault.id().to_string(), dry_run: args.dry_run, groups: Vec::new() };
    for group in groups {
        let mut bar = Bar::new();
        let freed = match args.dry_run {
            true => Freed::from(&plan(&group, None, &mut bar)?),
            false => collected(&group, &mut bar)?,
        };
        done.groups.push(GroupDone { group: group.name, freed });
    }
    let text = || {
        let lines = done
            .groups
            .iter()
            .map(|group| format!("group {}: {}", group.group, group.freed.text(args.dry_run)));
        lines.collect::<String>()
    };
    print(&if args.json { json(&done)? } else { text() })
}

/// Collects a group.
///
/// # Errors
/// As [`collect`].
pub(super) fn collected(group: &Group, bar: &mut Bar) -> Result<Freed> {
    collect(group, super::now_ns(), bar).map(Freed::from).map_err(|error| match error.kind() {
        Kind::Denied => {
            error.context("what nobody needs can't be deleted; collect with credentials that may")
        }
        _ => error,
    })
}

/// Progress on a terminal.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} {eta} left");
        Self(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    fn show(&self, what: &'static str, done: u64, total: u64) {
        self.0.set_message(what);
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn looked(&mut self, done: u64, total: u64) -> Result<()> {
        self.show("looking at blocks", done, total);
        Ok(())
    }

    fn deleted(&mut self, done: u64, total: u64) -> Result<()> {
        self.show("deleting objects", done, total);
        Ok(())
    }
}
