//! `towline resync`: asks a tracker to have everything compared at the next cut.
//!
//! It is the tracker that is asked, and not a shipper started: another attach would revoke the shipper that is running (V9),
//! and the tracker keeps the wish durably until a whole freeze that was cut since is released. It is asked in the name of the
//! newest attach, which is nobody's secret: who may connect to the socket may attach, too.

use super::{bytes, json, print};
use crate::ship::{Stop, refusal};
use crate::{Error, Kind, Result};
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use towline_tracker::control::client::{Client, ClientError};
use towline_tracker::control::message::{Refusal, Status};
use towline_tracker::id::AttachNumber;

/// How often it is looked how far it is.
const LOOK: Duration = Duration::from_millis(200);
/// So many shippers may attach between the question who is the newest and the wish.
const TRIES: usize = 5;

/// `towline resync ...`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tracker's control socket
    #[arg(long, value_name = "SOCKET")]
    tracker: PathBuf,
    /// Why, for status and logs
    #[arg(long, value_name = "TEXT", default_value = "asked for by towline resync")]
    reason: String,
    /// Wait until the comparison is in the vault, and tell how far it is; a shipper must be running, or be started meanwhile
    #[arg(long)]
    wait: bool,
    /// One JSON object at the end, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Told {
    group: String,
    /// It was asked for, and what was asked for is in the vault.
    done: bool,
    disks: Vec<ToldDisk>,
}

#[derive(Serialize)]
struct ToldDisk {
    name: String,
    size: u64,
    /// Why it will be compared, if it will.
    resync: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// `TrackerNotRunning`, `Denied`, `TrackerRefused`; `Stopped` by a signal while it waits.
pub fn run(args: Args) -> Result<()> {
    let mut status = ask(&args.tracker, &args.reason).map_err(|error| refusal(&args.tracker, error))?;
    if args.wait {
        status = wait(&args.tracker)?;
    }
    let disks = status.disks.into_iter().map(|disk| ToldDisk {
        name: disk.name,
        size: disk.size,
        resync: disk.resync,
    });
    let told = Told { group: status.group, done: args.wait, disks: disks.collect() };
    print(&if args.json { json(&told)? } else { text(&told, status.attach) })
}

/// Asks, and answers how the tracker is then.
fn ask(tracker: &Path, reason: &str) -> std::result::Result<Status, ClientError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let mut client = Client::connect(tracker)?;
        let newest = AttachNumber(client.status()?.attach);
        match client.resynchronize(newest, reason).and_then(|()| client.status()) {
            Err(ClientError::Refused(Refusal::Revoked { .. })) if tries < TRIES => {}
            asked => return asked,
        }
    }
}

/// Waits until no disk is to be compared any more. A tracker that is restarted meanwhile still knows of it.
fn wait(tracker: &Path) -> Result<Status> {
    let stop = Stop::on_signals()?;
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    loop {
        match Client::connect(tracker).and_then(|mut client| client.status()) {
            Ok(status) if status.disks.iter().all(|disk| disk.resync.is_none()) => {
                bar.finish_and_clear();
                return Ok(status);
            }
            Ok(status) => bar.set_message(doing(&status)),
            Err(error) => {
                let error = refusal(tracker, error);
                if error.kind() != Kind::TrackerNotRunning {
                    return Err(error);
                }
                bar.set_message("the tracker is away");
            }
        }
        bar.tick();
        if stop.is_asked() {
            let line = "stopped while waiting; the comparison stays asked for, the next cut makes it";
            return Err(Error::new(Kind::Stopped, line));
        }
        std::thread::sleep(LOOK);
    }
}

/// What a group waits for.
fn doing(status: &Status) -> String {
    let frozen = |disk: &towline_tracker::control::message::DiskStatus| {
        disk.resync.is_some() && disk.frozen_bytes >= disk.size
    };
    let compared: u64 = status.disks.iter().filter(|disk| frozen(disk)).map(|disk| disk.frozen_bytes).sum();
    match (&status.cut, compared) {
        (Some(cut), 1..) => format!("comparing {} of cut {cut}", bytes(compared)),
        (Some(cut), 0) => format!("cut {cut} is shipped first"),
        (None, _) => "waiting for a shipper's next cut".to_owned(),
    }
}

fn text(told: &Told, attach: u64) -> String {
    let size = bytes(told.disks.iter().map(|disk| disk.size).sum());
    match (told.done, attach) {
        (true, _) => format!("group {}: compared, {size}\n", told.group),
        (false, attach) if attach & 0xffff_ffff == 0 => format!(
            "group {}: the first cut of a shipper will compare {size}; none has attached yet\n",
            told.group
        ),
        (false, _) => format!("group {}: the next cut will compare {size}\n", told.group),
    }
}
