//! `towline collect`: deletes what no recovery point needs.

use super::access::Putting;
use super::{bytes, json, print, units};
use crate::retention::collect::{Collected, Progress, collect, plan};
use crate::retention::compact::{Bounds, Compacted, compact, estimate};
use crate::store::location::FORMS;
use crate::vault::Group;
use crate::vault::catalog::Catalog;
use crate::vault::limits::PACK_SIZE;
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
    #[command(flatten)]
    repack: Repack,
    /// Say what would be moved and deleted, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// One JSON object for all, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: Putting,
}

/// How much may be moved.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Repack {
    /// Move what is needed out of packs of which less than half is, so that these can be deleted: copy at most so much; 0: nothing
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = units::size)]
    max_repack_size: u64,
}

impl Repack {
    fn bounds(self) -> Bounds {
        Bounds { budget: self.max_repack_size, pack_size: PACK_SIZE }
    }
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

/// Objects and bytes that were deleted, or would be, and that stay. What was repacked is among both.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Freed {
    objects_repacked: u64,
    bytes_repacked: u64,
    bytes_copied: u64,
    objects_deleted: u64,
    bytes_deleted: u64,
    /// Nothing needs them, but the store keeps them locked yet.
    objects_locked: u64,
    bytes_locked: u64,
    objects_kept: u64,
    bytes_kept: u64,
}

impl Freed {
    fn new(compacted: Compacted, collected: Collected) -> Self {
        let Collected { deleted, locked, live } = collected;
        let (objects_deleted, bytes_deleted) = deleted;
        let ((objects_locked, bytes_locked), (objects_kept, bytes_kept)) = (locked, live);
        let ((objects_repacked, bytes_repacked), bytes_copied) = (compacted.emptied, compacted.put);
        Self {
            objects_repacked,
            bytes_repacked,
            bytes_copied,
            objects_deleted,
            bytes_deleted,
            objects_locked,
            bytes_locked,
            objects_kept,
            bytes_kept,
        }
    }

    /// For people.
    pub(super) fn text(&self, dry_run: bool) -> String {
        let repacked = match (self.objects_repacked, dry_run) {
            (0, _) => String::new(),
            (objects, true) => format!(
                "would repack {objects} objects with {}, of which {} are needed, and delete them; ",
                bytes(self.bytes_repacked),
                bytes(self.bytes_copied)
            ),
            (objects, false) => format!(
                "repacked {objects} objects with {} into {}; ",
                bytes(self.bytes_repacked),
                bytes(self.bytes_copied)
            ),
        };
        let locked = match self.objects_locked {
            0 => String::new(),
            count => format!(
                "; {count} with {} are locked by the store yet, and for a later run",
                bytes(self.bytes_locked)
            ),
        };
        format!(
            "{repacked}{} {} objects with {}; {} with {} stay{locked}\n",
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
    let vault = args.access.clone().access().open(&args.vault)?;
    let groups = super::chosen(&vault, args.group.as_deref())?;
    let mut done = Done { vault: vault.id().to_string(), dry_run: args.dry_run, groups: Vec::new() };
    for group in groups {
        let freed = match args.dry_run {
            true => would_free(&group, None, args.repack)?,
            false => freed(&group, args.repack)?,
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

/// Repacks and collects a group.
///
/// # Errors
/// As [`collect`].
pub(super) fn freed(group: &Group, repack: Repack) -> Result<Freed> {
    let mut bar = Bar::new();
    let compacted = match compact(group, repack.bounds(), super::now_ns(), &mut bar) {
        // The collection says whether anything can be done.
        Err(error) if matches!(error.kind(), Kind::Damage | Kind::GroupFull) => {
            tracing::warn!(error = error.line(), "nothing is repacked of this group");
            Compacted::default()
        }
        compacted => compacted?,
    };
    let collected = collect(group, super::now_ns(), &mut bar).map_err(|error| match error.kind() {
        Kind::Denied => {
            error.context("what nobody needs can't be deleted; collect with credentials that may")
        }
        _ => error,
    })?;
    Ok(Freed::new(compacted, collected))
}

/// What that would do, under a catalog that is to be.
///
/// # Errors
/// As [`plan`].
pub(super) fn would_free(group: &Group, by: Option<&Catalog>, repack: Repack) -> Result<Freed> {
    let mut bar = Bar::new();
    let plan = plan(group, by, &mut bar)?;
    let compacted = match estimate(group, by, repack.bounds(), &mut bar) {
        Err(error) if error.kind() == Kind::Damage => Compacted::default(),
        compacted => compacted?,
    };
    let deleted = plan.garbage.iter().fold((0, 0), |(n, sum), garbage| (n + 1, sum + garbage.length));
    Ok(Freed::new(compacted, Collected { deleted, live: plan.live, ..Collected::default() }))
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

    fn copied(&mut self, done: u64, total: u64) -> Result<()> {
        self.show("moving blocks", done, total);
        Ok(())
    }

    fn deleted(&mut self, done: u64, total: u64) -> Result<()> {
        self.show("deleting objects", done, total);
        Ok(())
    }
}
