//! `towline restore`: a recovery point becomes files again.

use super::access::Reading;
use super::{bytes, heads, json, print, time};
use crate::Result;
use crate::points::Wanted;
use crate::restore::output::{How, is_stream};
use crate::restore::{Request, Restored, restore};
use crate::store::location::FORMS;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::path::PathBuf;

/// `towline restore ...`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long, value_name = "URL", help = format!("The vault: {}", FORMS))]
    vault: String,
    /// The group
    #[arg(long)]
    group: String,
    /// The disk, by name or id; may be left out: then all disks of the point
    #[arg(long)]
    disk: Option<String>,
    /// The point: `latest`, an id or its beginning, or a time (2026-11-23T18:30:00Z: the newest at or before it)
    #[arg(long, value_name = "ID|TIME", default_value = "latest")]
    point: Wanted,
    /// The file, block device or pipe to restore to (`-`: standard output), or an NBD export: nbd://host:port/export or
    /// nbd+unix:///export?socket=/path; a folder if the point has several disks
    #[arg(long, value_name = "PATH|URI")]
    to: PathBuf,
    /// Replace what exists; write into a block device or an NBD export
    #[arg(long)]
    force: bool,
    /// Begin anew. Otherwise, what an interrupted restore to the same place left is compared with the hashes of the point, and
    /// only what differs is fetched
    #[arg(long)]
    no_resume: bool,
    /// Threads that fetch, check and write
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// One JSON object at the end, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    heads: heads::Args,
    #[command(flatten)]
    access: Reading,
}

#[derive(Serialize)]
struct Done {
    id: String,
    time: String,
    disks: Vec<DoneDisk>,
}

#[derive(Serialize)]
struct DoneDisk {
    name: String,
    path: PathBuf,
    size: u64,
    data_bytes: u64,
    fetched_bytes: u64,
    kept_bytes: u64,
}

/// Runs the command.
///
/// # Errors
/// As [`restore`].
pub fn run(args: Args) -> Result<()> {
    let vault = args.access.access().open(&args.vault)?;
    vault.keys.check_open(&args.group)?;
    args.heads.of(args.access.is_past()).check(&vault, &vault.group(&args.group))?;
    let request = Request {
        group: args.group,
        disk: args.disk,
        point: args.point,
        to: args.to,
        how: How {
            force: args.force,
            resume: !args.no_resume,
            notes: args.heads.folder().map(|folder| folder.join("restores")),
        },
        jobs: args.jobs.into(),
    };
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let restored = restore(&vault, &request, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let restored = restored?;
    let told = if args.json { json(&done(&restored))? } else { text(&restored) };
    if is_stream(&request.to) {
        // Standard output may be the pipe.
        eprint!("{told}");
        return Ok(());
    }
    print(&told)
}

fn done(restored: &Restored) -> Done {
    let disks = restored.disks.iter().map(|disk| DoneDisk {
        name: disk.name.clone(),
        path: disk.path.clone(),
        size: disk.size,
        data_bytes: disk.data_bytes,
        fetched_bytes: disk.fetched_bytes,
        kept_bytes: disk.kept_bytes,
    });
    Done { id: restored.point.id.to_string(), time: time(restored.point.time_ns), disks: disks.collect() }
}

fn text(restored: &Restored) -> String {
    let mut text = format!("restored {} of {}\n", restored.point.id, time(restored.point.time_ns));
    for disk in &restored.disks {
        let (size, data) = (bytes(disk.size), bytes(disk.data_bytes));
        let kept = match disk.kept_bytes {
            0 => String::new(),
            kept => format!(", {} of it was there already", bytes(kept)),
        };
        text.push_str(&format!(
            "  {} -> {} ({size}, {data} of data{kept})\n",
            disk.name,
            disk.path.display()
        ));
    }
    text
}
