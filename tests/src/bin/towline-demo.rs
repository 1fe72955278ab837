//! `make demo`: a disk under write load becomes recovery points, and each is compared with what the writers did.
//!
//! Without `--disk` the disk is generated and every block is stamped, so that each restored image can be checked to be
//! exactly one instant. With `--disk` the given disk itself is used: the writers only write back what they read, so its
//! content never changes, and each restored image must equal it. Nobody else may use the disk meanwhile.

use serde_json::Value;
use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use towline_tests::live::history::{History, Time};
use towline_tests::live::process::{NO_MEMORY, Outcome, Running, programs, run, until};
use towline_tests::live::stamp::BLOCK;
use towline_tests::live::writer::{Clock, Load, Writers, first_content};
use towline_tracker::frontend::nbd::client::Client;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Bytes of a generated disk.
const SIZE: u64 = 256 << 20;
/// Points that are taken of a generated disk, and of a given one.
const POINTS: (usize, usize) = (6, 3);
/// How far the clocks of wall and writers may drift apart during the demo.
const DRIFT: Time = 20_000_000;

fn main() -> ExitCode {
    match demo() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("towline-demo: a recovery point is not what it should be");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("towline-demo: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Arguments {
    disk: Option<PathBuf>,
    vault: Option<OsString>,
}

fn arguments() -> Result<Arguments> {
    let mut found = Arguments::default();
    let mut rest = std::env::args_os().skip(1);
    while let Some(name) = rest.next() {
        let value = rest.next().ok_or("usage: towline-demo [--disk PATH] [--vault URL]")?;
        match name.to_str() {
            Some("--disk") => found.disk = Some(value.into()),
            Some("--vault") => found.vault = Some(value),
            _ => return Err("usage: towline-demo [--disk PATH] [--vault URL]".into()),
        }
    }
    Ok(found)
}

/// A published point and when its cut was.
struct Point {
    summary: Value,
    begun: Time,
    ended: Time,
}

fn demo() -> Result<bool> {
    let arguments = arguments()?;
    let folder = tempfile::Builder::new().prefix("towline-demo").tempdir()?;
    let given = arguments.disk.is_some();
    let disk = match arguments.disk {
        Some(disk) => disk.canonicalize().map_err(|error| format!("{}: {error}", disk.display()))?,
        None => folder.path().join("disk.raw"),
    };
    if given && sidecar(&disk).exists() {
        return Err(format!("{} is tracked already: it has a sidecar", disk.display()).into());
    }
    let clock = Clock::default();
    let wall = wall_ns().saturating_sub(clock.now());
    let mut writes = Vec::new();
    if given {
        println!("disk {}: its blocks are read and written back as they are", disk.display());
    } else {
        writes = first_content(&disk, 0, SIZE / BLOCK as u64)?;
        println!("disk {}: {} MiB of stamped blocks", disk.display(), SIZE >> 20);
    }
    let group = format!("demo-{}", std::process::id());
    let vault = arguments.vault.clone().unwrap_or_else(|| folder.path().join("vault").into());
    vault_is_there(&vault)?;

    let socket = folder.path().join("nbd");
    let control = folder.path().join("control");
    let mut command = Command::new(programs().join("towline-tracker"));
    command.arg("--disk").arg(prefixed("disk=", &disk)).args(["--group", &group]);
    command.arg("--nbd").arg(prefixed("unix:", &socket)).arg("--control").arg(&control);
    command.arg("--log-dir").arg(folder.path().join("log"));
    std::fs::create_dir(folder.path().join("log"))?;
    let log = folder.path().join("tracker.err");
    let mut tracker = Running::new(command.stdin(Stdio::null()).stderr(File::create(&log)?).spawn()?);
    while Client::connect(&socket, "").is_err() {
        if tracker.ended().is_some() {
            return Err(std::fs::read_to_string(&log)?.trim().into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("tracker: process {}, NBD at {}", tracker.pid(), socket.display());
    let load = Load {
        socket: socket.clone(),
        disks: vec![("disk".into(), SIZE / BLOCK as u64)],
        writers: 2,
        depth: 8,
        blocks_max: 8,
        hot: 70,
        hot_blocks: 4096,
        zeros: 2,
        pause: (32, Duration::from_millis(1)),
        seed: 1,
        first_writer: 0,
    };
    let writers = match given {
        true => Busy::Same(SameWriter::start(&socket)?),
        false => Busy::Stamped(Writers::start(&load, clock)),
    };
    let points = take_points(&control, &vault, clock, wall, if given { POINTS.1 } else { POINTS.0 });
    let before_stop = writers.finish();
    tracker.signal(libc::SIGTERM);
    let stopped = tracker.wait().is_some_and(|status| status.success());
    if given {
        forget_mark(&disk);
    }
    writes.append(&mut before_stop?);
    let points = points?;
    if !stopped {
        return Err("the tracker did not stop cleanly".into());
    }

    let history = (!given).then(|| History::new(&[SIZE / BLOCK as u64], writes));
    println!("\n{:<34}{:>14}{:>14}{:>9}  verdict", "point", "changed", "shipped", "seconds");
    let mut all_good = true;
    for point in &points {
        let id = point.summary["id"].as_str().ok_or("a point without id")?;
        let image = folder.path().join("image");
        let _ = std::fs::remove_file(&image);
        let mut restore = towline();
        restore.arg("restore").arg("--vault").arg(&vault).args(["--group", &group, "--point", id, "--to"]);
        good(run(restore.arg(&image)))?;
        let verdict = match &history {
            Some(history) => history.check(&[&image], point.begun, point.ended).map(|_| "one instant"),
            None => equal(&disk, &image).map(|()| "equals the disk"),
        };
        all_good &= verdict.is_ok();
        println!(
            "{id:<34}{:>14}{:>14}{:>9.3}  {}",
            mib(&point.summary["bytes_changed"]),
            mib(&point.summary["bytes_put"]),
            point.summary["seconds"].as_f64().unwrap_or_default(),
            verdict.map_or_else(|error| format!("BAD: {error}"), str::to_owned)
        );
    }
    let verified = run(towline().arg("verify").arg("--vault").arg(&vault).args(["--group", &group]));
    println!("\nvault: {}", verified.stdout.lines().last().unwrap_or("verify said nothing"));
    all_good &= verified.code == Some(0);
    if arguments.vault.is_some() {
        println!("the points stay in the vault as group {group}");
    }
    Ok(all_good)
}

/// Ships once a second until there are enough points.
fn take_points(
    control: &Path,
    vault: &OsString,
    clock: Clock,
    wall: u64,
    wanted: usize,
) -> Result<Vec<Point>> {
    let mut command = towline();
    command.arg("ship").arg("--tracker").arg(control).arg("--vault").arg(vault);
    command
        .args(["--every", "1s", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let out = child.stdout.take().ok_or("the shipper has no output")?;
    let err = child.stderr.take().ok_or("the shipper has no output")?;
    let mut shipper = Running::new(child);
    println!("shipper: process {}, a point every second", shipper.pid());
    // Drained, so that it never waits for us; the last lines say why it ended, if it did.
    let told = std::thread::spawn(move || BufReader::new(err).lines().map_while(|line| line.ok()).last());
    let mut points = Vec::new();
    for line in BufReader::new(out).lines() {
        let summary: Value = serde_json::from_str(&line?)?;
        let ended = clock.now();
        println!("  {} {} after {:.1} s", summary["kind"], summary["id"], ended as f64 / 1e9);
        if summary["kind"] != "point" {
            continue;
        }
        let begun = summary["time_ns"].as_u64().ok_or("a point without a time")?;
        points.push(Point { summary, begun: begun.saturating_sub(wall + DRIFT), ended });
        if points.len() == wanted {
            break;
        }
    }
    if points.len() < wanted {
        let _ = shipper.wait();
        return Err(told.join().ok().flatten().unwrap_or_else(|| "the shipper ended".into()).into());
    }
    shipper.signal(libc::SIGTERM);
    shipper.wait().ok_or("the shipper does not stop")?;
    Ok(points)
}

/// The shipper's program; nothing of a demonstration is remembered.
fn towline() -> Command {
    let mut command = Command::new(programs().join("towline"));
    command.env(NO_MEMORY.0, NO_MEMORY.1);
    command
}

/// Makes the vault unless there is one.
fn vault_is_there(vault: &OsString) -> Result<()> {
    if run(towline().arg("points").arg("--vault").arg(vault)).code != Some(0) {
        good(run(towline().args(["vault", "init", "--no-encryption"]).arg(vault)))?;
    }
    Ok(())
}

fn good(outcome: Outcome) -> Result<()> {
    match outcome.code {
        Some(0) => Ok(()),
        _ => Err(outcome.stderr.lines().last().unwrap_or("a program failed").into()),
    }
}

enum Busy {
    Stamped(Writers),
    Same(SameWriter),
}

impl Busy {
    fn finish(self) -> Result<Vec<towline_tests::live::history::Write>> {
        match self {
            Self::Stamped(writers) => Ok(writers.finish()?),
            Self::Same(writer) => writer.finish().map(|()| Vec::new()),
        }
    }
}

/// Writes back what it reads.
struct SameWriter {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<std::io::Result<()>>,
}

impl SameWriter {
    fn start(socket: &Path) -> Result<Self> {
        let mut client = Client::connect(socket, "")?;
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let chunk = (64 << 10).min(client.size()) as u32;
            let chunks = client.size() / u64::from(chunk);
            let mut at = 0;
            while !ends.load(Ordering::Relaxed) {
                // A stride that visits all in no particular order.
                at = (at + 7919) % chunks;
                let offset = at * u64::from(chunk);
                let data = client.read(offset, chunk)?;
                client.write(offset, &data)?;
                std::thread::sleep(Duration::from_micros(200));
            }
            client.flush()
        });
        Ok(Self { stop, thread })
    }

    fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        until("the writer ends", || self.thread.is_finished());
        Ok(self.thread.join().map_err(|_| "the writer panicked")??)
    }
}

/// Compares two images piece by piece.
fn equal(disk: &Path, image: &Path) -> std::result::Result<(), String> {
    let compared = || -> std::io::Result<bool> {
        let (mut one, mut other) = (BufReader::new(File::open(disk)?), BufReader::new(File::open(image)?));
        loop {
            let (left, right) = (one.fill_buf()?, other.fill_buf()?);
            let count = left.len().min(right.len());
            if count == 0 || left[..count] != right[..count] {
                return Ok(left.is_empty() && right.is_empty());
            }
            one.consume(count);
            other.consume(count);
        }
    };
    match compared() {
        Ok(true) => Ok(()),
        Ok(false) => Err("it differs from the disk".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Takes the tracker's mark off a disk that was only lent.
fn forget_mark(disk: &Path) {
    let path = std::ffi::CString::new(disk.as_os_str().as_bytes()).expect("a path has no zero byte");
    // SAFETY: both strings end with zero and outlive the call. That there is no mark is as good.
    let _ = unsafe { libc::removexattr(path.as_ptr(), c"user.towline".as_ptr()) };
}

fn sidecar(disk: &Path) -> PathBuf {
    prefixed("", disk).into_string().map_or_else(|_| disk.into(), |text| format!("{text}.towline").into())
}

fn prefixed(prefix: &str, path: &Path) -> OsString {
    let mut text = OsString::from(prefix);
    text.push(path);
    text
}

fn wall_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

fn mib(value: &Value) -> String {
    format!("{:.1} MiB", value.as_f64().unwrap_or_default() / f64::from(1 << 20))
}
