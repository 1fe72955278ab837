//! `towline doctor`: how far a disk's tracking can be trusted, what the next start or the next cut will read again because
//! of it, and what to do.

use super::{bytes, json, print};
use crate::ship::refusal;
use crate::{Error, Kind, Result};
use serde::Serialize;
use std::fmt::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use towline_tracker::control::client::Client;
use towline_tracker::control::message::{DiskStatus, Status};
use towline_tracker::recover::{Stop, Verdict};
use towline_tracker::sidecar::examine::{Examination, examine};
use towline_tracker::sidecar::{DiskConfig, sidecar_path};

/// `towline doctor ...`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A disk, or a tracker's control socket
    #[arg(value_name = "DISK|SOCKET")]
    what: PathBuf,
    /// Where the tracker keeps its sidecars, if it was told (its own --log-dir)
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// One JSON object a disk and line, for programs
    #[arg(long)]
    json: bool,
}

/// What is to be said of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Diagnosis {
    /// Its path.
    disk: String,
    /// Its identity, if it has one.
    id: Option<String>,
    /// How its tracking is, in a few words.
    state: &'static str,
    /// Why, one line each.
    reasons: Vec<String>,
    /// The most that is read again to compare it with the vault, in bytes, as things are.
    compare_bytes_max: u64,
    /// Bytes of changed blocks that no released point holds; at most, for a block may be counted twice.
    pending_bytes_max: u64,
    /// What to do, one line each.
    advice: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// `TrackerNotRunning`, `Denied`, `TrackerRefused`; a disk or a sidecar that can't be read.
pub fn run(args: Args) -> Result<()> {
    let is_socket = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket(&args.what) {
        return tell(&served(&ask(&args.what)?), args.json);
    }
    let sidecar = sidecar_path(args.log_dir.as_deref(), &args.what);
    let socket = sidecar.join("control.sock");
    // A socket that nobody listens on is a leftover of a tracker that was killed.
    if is_socket(&socket) {
        match ask(&socket) {
            Ok(status) => return tell(&served(&status), args.json),
            Err(error) if error.kind() == Kind::TrackerNotRunning => {}
            Err(error) => return Err(error),
        }
    }
    let name = args.what.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let disk = DiskConfig { name, path: args.what.clone() };
    let found = examine(&disk, &sidecar).map_err(|error| {
        let line = error.to_string();
        Error::caused(Kind::Other, line, error)
    })?;
    tell(&[stopped(&args.what.display().to_string(), &found)], args.json)
}

fn ask(socket: &Path) -> Result<Status> {
    Client::connect(socket).and_then(|mut client| client.status()).map_err(|error| refusal(socket, error))
}

fn tell(all: &[Diagnosis], as_json: bool) -> Result<()> {
    let mut text = String::new();
    for one in all {
        text += &if as_json { json(one)? } else { table(one) };
    }
    print(&text)
}

/// The disks of a tracker that runs.
fn served(status: &Status) -> Vec<Diagnosis> {
    status.disks.iter().map(|disk| of_served(status, disk)).collect()
}

fn of_served(status: &Status, disk: &DiskStatus) -> Diagnosis {
    let (mut state, mut reasons, mut advice) = ("tracked", Vec::new(), Vec::new());
    let mut compare = 0;
    if let Some(why) = &disk.resync {
        (state, compare) = ("resynchronization required", disk.size);
        reasons.push(why.clone());
        advice
            .push("let a shipper run (towline ship): the next point compares the disk with the vault".into());
    }
    if disk.degraded {
        state = "degraded";
        reasons.push("its intents can't be written: a crash now means a comparison of the whole disk".into());
        advice.push(
            "look at the sidecar's file system (full, read-only, gone?): tracking heals by itself then"
                .into(),
        );
    }
    if disk.doubtful {
        reasons.push("a sync of it failed: if the host goes down, all of it is compared".into());
        advice.push("check the device; the doubt ends when the host is started again".into());
    }
    if status.tracking == "off" {
        (state, compare) = ("not tracked", disk.size);
        reasons.push("the tracker was started with --tracking off".into());
        advice.push("start it without, and let a shipper run: the whole disk is compared".into());
    }
    if let Some(why) = &status.fuzzy {
        reasons.push(format!("the live freeze is fuzzy, so that its entry is no point: {why}"));
    }
    if reasons.is_empty() {
        reasons.push(format!("session {}, generation {}", status.session, status.generation));
        advice.push("nothing".into());
    }
    Diagnosis {
        disk: disk.path.clone(),
        id: Some(disk.id.clone()),
        state,
        reasons,
        compare_bytes_max: compare,
        pending_bytes_max: disk.dirty_bytes + disk.frozen_bytes,
        advice,
    }
}

/// A disk that nobody serves, as far as locks tell.
fn stopped(path: &str, found: &Examination) -> Diagnosis {
    if found.in_use {
        return Diagnosis {
            disk: path.to_owned(),
            id: found.disk.map(|id| id.to_string()),
            state: "in use",
            reasons: vec![
                "a tracker whose control socket is elsewhere, or another program, has it open".into(),
            ],
            compare_bytes_max: 0,
            pending_bytes_max: 0,
            advice: vec!["ask its tracker: towline doctor SOCKET".into()],
        };
    }
    let mut reasons = Vec::new();
    let mut advice = Vec::new();
    let mut state = match found.stop {
        Some(Stop::Clean) => "stopped cleanly",
        Some(Stop::Process) => "its tracker was killed",
        Some(Stop::Host) => "the host went down",
        None => "unknown",
    };
    let compare = match (&found.without_maps, &found.with_maps) {
        (Verdict::Resync(why), _) if found.stop.is_none() && found.disk.is_none() => {
            state = "never tracked";
            reasons.push(why.clone());
            0
        }
        (Verdict::Resync(_), Verdict::Continue) | (Verdict::Rebuild { compare: true }, Verdict::Continue) => {
            let all = matches!(found.without_maps, Verdict::Resync(_));
            let bound = if all { found.size } else { found.intent_bytes + found.pending_bytes };
            reasons.push(format!(
                "nothing is read again if its maps are still in memory (/dev/shm); without them at most {}",
                bytes(bound.min(found.size))
            ));
            bound
        }
        (Verdict::Resync(why), _) => {
            state = "resynchronization required";
            reasons.push(why.clone());
            found.size
        }
        (Verdict::Rebuild { compare: true }, _) => {
            reasons.push(
                "what may have been written when it ended is compared, and what differs is shipped".into(),
            );
            found.intent_bytes + found.pending_bytes
        }
        (Verdict::Rebuild { compare: false } | Verdict::Continue, _) => 0,
    };
    let compare = match (&found.recheck, found.recheck_whole) {
        (Some(why), whole) => {
            reasons.push(format!("a comparison is still to be done: {why}"));
            if whole { found.size } else { compare.max(found.intent_bytes + found.pending_bytes) }
        }
        (None, _) => compare,
    };
    if found.doubtful {
        reasons.push("a sync of it failed: if the host goes down, all of it is compared".into());
        advice.push("check the device".into());
    }
    advice.push("start its tracker (towline-tracker), then a shipper".into());
    Diagnosis {
        disk: path.to_owned(),
        id: found.disk.map(|id| id.to_string()),
        state,
        reasons,
        compare_bytes_max: compare.min(found.size),
        pending_bytes_max: found.pending_bytes,
        advice,
    }
}

fn table(one: &Diagnosis) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<14}{value}");
    };
    let id = one.id.as_ref().map_or(String::new(), |id| format!(" ({id})"));
    line("disk", &format!("{}{id}", one.disk));
    line("state", one.state);
    one.reasons.iter().for_each(|why| line("why", why));
    let most =
        |count: u64| if count == 0 { "nothing".to_owned() } else { format!("at most {}", bytes(count)) };
    line("to compare", &most(one.compare_bytes_max));
    line("not shipped", &most(one.pending_bytes_max));
    one.advice.iter().for_each(|what| line("what to do", what));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(stop: Option<Stop>, without_maps: Verdict, with_maps: Verdict) -> Examination {
        Examination {
            in_use: false,
            disk: stop.map(|_| Default::default()),
            stop,
            with_maps,
            without_maps,
            recheck: None,
            recheck_whole: false,
            doubtful: false,
            intent_bytes: 8 << 20,
            pending_bytes: 1 << 20,
            anchor: None,
            size: 1 << 30,
        }
    }

    #[test]
    fn every_end_of_a_session_is_explained_with_its_bound() {
        let rebuild = |compare| Verdict::Rebuild { compare };
        let resync = || Verdict::Resync("why".into());
        let bound = 9 << 20;
        for (stop, without, with, state, compare) in [
            (Some(Stop::Clean), rebuild(false), Verdict::Continue, "stopped cleanly", 0),
            (Some(Stop::Process), rebuild(true), Verdict::Continue, "its tracker was killed", bound),
            (Some(Stop::Host), rebuild(true), rebuild(true), "the host went down", bound),
            (Some(Stop::Host), resync(), resync(), "resynchronization required", 1 << 30),
            (None, resync(), resync(), "never tracked", 0),
        ] {
            let said = stopped("d", &found(stop, without, with));
            assert_eq!((said.state, said.compare_bytes_max), (state, compare), "{said:?}");
            assert!(!said.advice.is_empty());
        }
    }

    #[test]
    fn a_comparison_that_is_still_to_be_done_bounds_nothing_less() {
        let mut disk = found(Some(Stop::Clean), Verdict::Rebuild { compare: false }, Verdict::Continue);
        (disk.recheck, disk.recheck_whole) = (Some("the disk is new".into()), true);
        let said = stopped("d", &disk);
        assert_eq!(said.compare_bytes_max, 1 << 30);
        assert!(table(&said).contains("a comparison is still to be done: the disk is new"));
    }
}
