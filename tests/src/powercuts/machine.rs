//! The machine: QEMU without hardware help, Debian's cloud kernel (`tests/tools/guest.sh` fetches it), and a first
//! file system ([`super::first`]).
//!
//! To boot takes longer than all that comes after. So it boots once, without any drive's content, is saved, and every
//! life goes on from there. What differs between two boots differs between two lives: the kernel meets its drives
//! (it has no driver before), its clock is set, QEMU tells it that it is a copy (so that it draws new random
//! numbers), and its boot id, which nobody has asked for, is another: that is looked at.

use super::DRIVE;
use super::drives::{Drives, MARKS};
use super::first::{BOOTED, pack};
use super::guest::{Orders, Task};
use super::image::SECTOR;
use super::mark::Mark;
use super::monitor::Monitor;
use super::scene::folder;
use crate::live::process::{Running, programs, run};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Only detects a hang: a machine without hardware help on a busy host is slow.
const PATIENCE: Duration = Duration::from_secs(400);

/// A kind of file system on the drive that is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// As mount calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// What it needs a drive to write whole. XFS skips a block in its recovery when the block's first sector says that it is
    /// newer than the log, whatever the other sectors hold.
    pub fn whole(self) -> u64 {
        match self {
            Self::Xfs => 4096,
            Self::Ext4 | Self::Btrfs => SECTOR as u64,
        }
    }

    /// Makes one on a file.
    ///
    /// # Panics
    /// If that fails.
    pub fn make(self, file: &Path) {
        let mut command = Command::new(format!("mkfs.{}", self.name()));
        command.args(match self {
            // Nothing is left to be done later, beside the load.
            Self::Ext4 => {
                &["-q", "-F", "-N", "8192", "-J", "size=8", "-E", "lazy_itable_init=0,nodiscard"][..]
            }
            Self::Xfs => &["-q", "-f", "-K"],
            Self::Btrfs => &["-q", "-f", "-K"],
        });
        run(command.arg(file)).good();
    }
}

/// The kernel's own part of its command line. On a busy host the machine's timers may come too late for a kernel
/// that wants to prove that they work, and its watchdogs would bark.
const KERNEL: &str = "console=ttyS0 quiet panic=-1 no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1 \
                      mitigations=off no5lvl";

/// The machine's first moment. Long ago, so that whoever looks at the drives later was started after its last word.
const BEGIN: u64 = 1_577_836_800;

/// Seconds that a machine is off before a life: longer than it took to boot, which is a part of each life's uptime.
const OFF: u64 = 600;

/// A machine that has booted.
#[derive(Debug)]
pub struct Machine {
    kernel: PathBuf,
    /// In the order of its names for them: vda, vdb, ...
    drives: Vec<&'static str>,
    /// The first file system, and the saved machine.
    folder: TempDir,
    begun: Instant,
    lives: AtomicU64,
    /// The boot ids of its lives.
    boots: Mutex<BTreeSet<String>>,
}

/// How a life ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The machine reset itself, was ended as it waited for that, or is done.
    Asked,
    /// The machine says that something failed, or ended by itself.
    Failed(String),
}

impl Machine {
    /// A machine with these drives.
    ///
    /// # Panics
    /// If the kernel is not there, or a program; or it does not boot.
    pub fn new(drives: &[&'static str]) -> Self {
        let guest = match std::env::var_os("TOWLINE_GUEST_DIR") {
            Some(folder) => folder.into(),
            None => programs().parent().expect("a target folder").join("guest"),
        };
        let kernel = guest.join("vmlinuz");
        assert!(kernel.exists(), "no kernel in {}: make tools, or tests/tools/guest.sh", guest.display());
        let folder = folder();
        pack(&guest, &folder.path().join("first"));
        let mut drives = drives.to_vec();
        drives.insert(2, MARKS);
        let machine = Self {
            kernel,
            drives,
            folder,
            begun: Instant::now(),
            lives: AtomicU64::default(),
            boots: Mutex::default(),
        };
        machine.boot();
        machine
    }

    /// Boots, and saves what has booted.
    fn boot(&self) {
        let nothing = |_: &str| format!("driver=null-co,read-zeroes=on,size={DRIVE}");
        let mut power = Power::on(self.command(nothing));
        power.until("it boots", |power| power.console().contains(BOOTED));
        let mut monitor = power.monitor();
        let mut ask = |command, arguments| monitor.ask(command, arguments).expect("QEMU does it");
        let fast = json!({ "max-bandwidth": 1u64 << 40 });
        ask("migrate-set-parameters", fast);
        ask("migrate", json!({ "uri": format!("file:{}", self.saved().display()) }));
        power.until("it is saved", |_| {
            let told = ask("query-migrate", json!({}));
            assert_ne!(told["status"], "failed", "{told}");
            told["status"] == "completed"
        });
    }

    fn saved(&self) -> PathBuf {
        self.folder.path().join("saved")
    }

    /// One life, from power on to its end, with this file system on its disk's drive.
    ///
    /// # Panics
    /// If QEMU can't be started, or the machine hangs.
    pub fn live(&self, kind: Kind, drives: &Drives, orders: &Orders) -> Ended {
        let mut from = drives.events();
        let mut command = self.command(|name| format!("format=raw,cache=none,file={}", drives.uri(name)));
        command.arg("-incoming").arg(format!("file:{}", self.saved().display()));
        let mut power = Power::on(command);
        let mut monitor = power.monitor();
        power.until("it goes on", |_| {
            let told = monitor.ask("query-status", json!({})).expect("QEMU says what it does");
            told["status"] == "running"
        });
        let lives = self.lives.fetch_add(1, Ordering::Relaxed);
        let now = BEGIN + self.begun.elapsed().as_secs() + OFF * lives;
        // It may have failed by now, and says why.
        let _ = writeln!(power.words, "{now} {} {}", kind.name(), orders.word());
        let (only_recovers, wanders) =
            (orders.task == Task::Recover, matches!(orders.task, Task::Wander { .. }));
        let (mut ended, mut done) = (None, false);
        power.until("it ends", |power| {
            let off = power.qemu.ended().is_some();
            for mark in drives.heard(&mut from).iter().filter_map(|mark| Mark::read(mark)) {
                match mark {
                    Mark::Failed(why) => ended = Some(Ended::Failed(format!("{why}\n{}", power.console()))),
                    Mark::Cut => ended = Some(Ended::Asked),
                    Mark::Recovered(json) => {
                        assert!(self.is_fresh(&json), "two lives of one boot: {json}");
                        ended = only_recovers.then_some(Ended::Asked);
                    }
                    Mark::Done => done = true,
                    _ => {}
                }
            }
            // A reset is on its way, or there is none to come.
            ended =
                ended.take().or_else(|| (done && (off || wanders)).then_some(Ended::Asked)).or_else(|| {
                    off.then(|| Ended::Failed(format!("the machine ended by itself\n{}", power.console())))
                });
            ended.is_some()
        });
        ended.expect("it ended")
    }

    /// Whether no life before was of the boot that this one says it is of.
    fn is_fresh(&self, recovered: &str) -> bool {
        let told: Value = serde_json::from_str(recovered).unwrap_or_default();
        let boot = told["boot"].as_str().map(String::from);
        boot.is_some_and(|boot| self.boots.lock().unwrap_or_else(PoisonError::into_inner).insert(boot))
    }

    /// The machine, whose drives are what `drive` says.
    fn command(&self, drive: impl Fn(&str) -> String) -> Command {
        // It must not outlive us.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg"]);
        command.args(["-cpu", "max", "-m", "512", "-smp", "1", "-no-reboot"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        // Another one each time that QEMU starts.
        command.args(["-device", "vmgenid,guid=auto"]);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(self.folder.path().join("first"));
        // What the kernel does not know is the first program's environment.
        let mutant =
            std::env::var("TOWLINE_MUTANT").map(|name| format!(" TOWLINE_MUTANT={name}")).unwrap_or_default();
        command.arg("-append").arg(format!("{KERNEL}{mutant}"));
        command.args(["-rtc", "base=2020-01-01T00:00:00"]);
        for name in &self.drives {
            command.arg("-drive").arg(format!("if=none,id={name},{}", drive(name)));
            command.arg("-device").arg(format!("virtio-blk-pci,drive={name}"));
        }
        command
    }
}

/// A machine that runs.
struct Power {
    qemu: Running,
    /// What it hears on its console.
    words: ChildStdin,
    /// What it says there and on QEMU's monitor.
    folder: TempDir,
    begun: Instant,
}

impl Power {
    fn on(mut command: Command) -> Self {
        let folder = folder();
        let file = |name| File::create(folder.path().join(name)).expect("a log");
        command.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console", "-qmp"]);
        command.arg(format!("unix:{},server=on,wait=off", folder.path().join("monitor").display()));
        command.stdin(Stdio::piped()).stdout(file("console")).stderr(file("qemu"));
        let mut child = command.spawn().expect("QEMU starts");
        let words = child.stdin.take().expect("a pipe");
        Self { qemu: Running::new(child), words, folder, begun: Instant::now() }
    }

    fn monitor(&mut self) -> Monitor {
        let mut monitor = None;
        self.until("QEMU listens", |power| {
            monitor = Monitor::connect(&power.folder.path().join("monitor"), PATIENCE).ok();
            monitor.is_some()
        });
        monitor.expect("it listens")
    }

    /// Waits until something is so.
    #[track_caller]
    fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        while !so(self) {
            assert!(self.begun.elapsed() < PATIENCE, "still not: {what}\n{}", self.console());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The end of what it said.
    fn console(&self) -> String {
        let read = |name| fs::read(self.folder.path().join(name)).unwrap_or_default();
        let bytes = [read("qemu"), read("console")].concat();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}
