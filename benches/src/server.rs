//! The contestants: ours and the peers' servers over one disk file, on a unix socket.

use crate::Result;
use crate::process::Process;
use crate::room::{Room, forget, last_line};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use towline_tracker::control::client::Client as Control;
use towline_tracker::control::message::Status;
use towline_tracker::frontend::nbd::client::Client;

/// How long a server may take to serve: only detects a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// We, tracking.
    Tracked,
    /// We, with `--tracking off`.
    Untracked,
    /// `qemu-nbd`, raw.
    QemuNbd,
    /// nbdkit's file plugin.
    NbdkitFile,
}

impl Kind {
    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tracked => "towline",
            Self::Untracked => "towline, tracking off",
            Self::QemuNbd => "qemu-nbd raw",
            Self::NbdkitFile => "nbdkit file",
        }
    }
}

/// A server that serves.
#[derive(Debug)]
pub(crate) struct Server {
    /// The program.
    pub(crate) process: Process,
    /// Where clients connect.
    pub(crate) socket: PathBuf,
    /// What they ask for.
    pub(crate) export: String,
    /// The disk's size in bytes.
    pub(crate) size: u64,
    /// The tracker's control socket.
    control: PathBuf,
}

impl Server {
    /// Serves a disk. A tracker meets it as one that it has never seen.
    pub(crate) fn start(room: &Room, kind: Kind, disk: &Path) -> Result<Self> {
        match kind {
            Kind::Tracked => Self::tracker(room, disk, &[]),
            Kind::Untracked => Self::tracker(room, disk, &["--tracking", "off"]),
            Kind::QemuNbd => Self::ready(room, disk, "disk", |socket| {
                let mut command = Command::new("qemu-nbd");
                command.args([
                    "-f",
                    "raw",
                    "--cache=none",
                    "--aio=io_uring",
                    "-t",
                    "-e",
                    "8",
                    "-x",
                    "disk",
                    "-k",
                ]);
                command.arg(socket).arg(disk);
                command
            }),
            Kind::NbdkitFile => Self::ready(room, disk, "", |socket| {
                let mut command = Command::new("nbdkit");
                command.args(["-f", "-U"]).arg(socket).arg("file").arg(disk);
                command
            }),
        }
    }

    /// Our tracker, with more arguments.
    pub(crate) fn tracker(room: &Room, disk: &Path, more: &[&str]) -> Result<Self> {
        forget(disk)?;
        Self::ready(room, disk, "disk", |socket| {
            let mut command = Command::new(&room.tracker);
            command.arg("--disk").arg(format!("disk={}", disk.display()));
            command.arg("--nbd").arg(format!("unix:{}", socket.display()));
            command.arg("--control").arg(control(socket)).args(["--group", "bench"]).args(more);
            command.env("RUST_LOG", "warn");
            command
        })
    }

    /// Any program that serves `export` on the socket that `command` is given.
    pub(crate) fn ready(
        room: &Room,
        disk: &Path,
        export: &str,
        command: impl Fn(&Path) -> Command,
    ) -> Result<Self> {
        // A server that has ended may hold the disk's lock some milliseconds longer, by what its ring still held.
        let mut left = 10;
        loop {
            match Self::try_ready(room, disk, export, &command) {
                Err(_) if left > 0 => left -= 1,
                result => return result,
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn try_ready(
        room: &Room,
        disk: &Path,
        export: &str,
        command: &impl Fn(&Path) -> Command,
    ) -> Result<Self> {
        // Several may serve at once, each its own disk.
        static SERVERS: AtomicU64 = AtomicU64::new(0);
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let socket = room.memory.path().join(format!("nbd-{number}.sock"));
        let log = room.memory.path().join("server.log");
        let mut process = Process::start(command(&socket).stdout(Stdio::null()), &log)?;
        let since = Instant::now();
        loop {
            if let Ok(client) = Client::connect(&socket, export) {
                let (size, control) = (client.size(), control(&socket));
                return Ok(Self { process, socket, export: export.into(), size, control });
            }
            if process.has_ended() || since.elapsed() > PATIENCE {
                let line = last_line(&log);
                return Err(format!("no server over {}: {line}", disk.display()).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A connection as a shipper.
    pub(crate) fn control(&self) -> Result<Control> {
        Ok(Control::connect(&self.control)?)
    }

    /// The tracker's control socket.
    pub(crate) fn control_path(&self) -> &Path {
        &self.control
    }

    /// What the tracker says of itself.
    pub(crate) fn status(&self) -> Result<Status> {
        Ok(self.control()?.status()?)
    }

    /// A client of our own.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.socket, &self.export)?)
    }
}

fn control(socket: &Path) -> PathBuf {
    socket.with_extension("control")
}
