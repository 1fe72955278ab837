//! The machine: QEMU without hardware help, Debian's cloud kernel (`tests/tools/guest.sh` fetches it), and a first
//! file system of our programs, the libraries that they need, and busybox.

use super::drives::{Drives, MARKS};
use super::guest::Orders;
use super::image::SECTOR;
use crate::live::process::{Running, programs, run};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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

    /// The kernel's modules that it needs, in the order in which they need each other.
    fn modules(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &[],
            Self::Xfs => &["libcrc32c", "xfs"],
            Self::Btrfs => &["libcrc32c", "raid6_pq", "xor", "btrfs"],
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

/// What every start of a machine needs.
#[derive(Debug)]
pub struct Machine {
    kernel: PathBuf,
    kind: Kind,
    /// The first file system, and the console's words.
    folder: TempDir,
    begun: Instant,
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
    /// A machine for a kind of file system.
    ///
    /// # Panics
    /// If the kernel is not there, or a program.
    pub fn new(kind: Kind) -> Self {
        let guest = match std::env::var_os("TOWLINE_GUEST_DIR") {
            Some(folder) => folder.into(),
            None => programs().parent().expect("a target folder").join("guest"),
        };
        let kernel = guest.join("vmlinuz");
        assert!(kernel.exists(), "no kernel in {}: make tools, or tests/tools/guest.sh", guest.display());
        let folder = tempfile::Builder::new().prefix("tow").tempdir_in("/dev/shm").expect("a folder");
        pack(&guest, kind, &folder.path().join("first"));
        Self { kernel, kind, folder, begun: Instant::now() }
    }

    /// The file system on its disk's drive.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The folder for whoever uses the machine.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// One life, from power on to its end.
    ///
    /// # Panics
    /// If QEMU can't be started, or the machine hangs.
    pub fn live(&self, drives: &Drives, orders: &Orders) -> Ended {
        let console = self.folder.path().join("console");
        let from = drives.events();
        let mut qemu = Running::new(self.command(drives, orders, &console).spawn().expect("QEMU starts"));
        let begun = Instant::now();
        let told = || {
            let text = String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(40)..].join("\n")
        };
        let only_recovers = matches!(orders.task, super::guest::Task::Recover);
        loop {
            let ended = qemu.ended().is_some();
            let marked = |begin| drives.marked(from, begin);
            if let Some(why) = marked("failed") {
                return Ended::Failed(format!("{why}\n{}", told()));
            }
            if marked("cut").is_some() || only_recovers && marked("recovered").is_some() {
                qemu.kill();
                return Ended::Asked;
            }
            match marked("done") {
                // A reset is on its way, or there is none to come.
                Some(_) if ended || matches!(orders.task, super::guest::Task::Wander { .. }) => {
                    qemu.kill();
                    return Ended::Asked;
                }
                None if ended => return Ended::Failed(format!("the machine ended by itself\n{}", told())),
                _ => {}
            }
            assert!(begun.elapsed() < PATIENCE, "the machine hangs\n{}", told());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn command(&self, drives: &Drives, orders: &Orders, console: &Path) -> Command {
        // It must not outlive us.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args([
            "-machine",
            "q35",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-m",
            "512",
            "-smp",
            "1",
            "-no-reboot",
        ]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial"]);
        command.arg(format!("file:{}", console.display()));
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(self.folder.path().join("first"));
        let (fs, orders) = (self.kind.name(), orders.word());
        // What the kernel does not know is the first program's environment.
        let mutant =
            std::env::var("TOWLINE_MUTANT").map(|name| format!(" TOWLINE_MUTANT={name}")).unwrap_or_default();
        command.arg("-append").arg(format!("{KERNEL} fs={fs} orders={orders}{mutant}"));
        // Long ago, so that whoever looks at the drives later was started after the machine's last word; and each
        // life after the one before.
        let passed = self.begun.elapsed().as_secs();
        let (hours, rest) = (passed / 3600, passed % 3600);
        command.arg("-rtc").arg(format!("base=2020-01-01T{hours:02}:{:02}:{:02}", rest / 60, rest % 60));
        // In the order of the machine's names for them: vda, vdb, ...
        let mut names = drives.names();
        names.insert(2, MARKS);
        for name in names {
            command
                .arg("-drive")
                .arg(format!("if=none,id={name},format=raw,cache=none,file={}", drives.uri(name)));
            command.arg("-device").arg(format!("virtio-blk-pci,drive={name}"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(self.folder.path().join("qemu")).expect("a log"));
        command
    }
}

/// The first program of the machine: mounts, and hands over to ours.
const INIT: &str = "#!/bin/busybox sh
b=/bin/busybox
export TOWLINE_BIN_DIR=/bin
$b mkdir -p /proc /sys /dev /tmp /run /near /far /apart
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b mkdir -p /dev/shm
$b mount -t tmpfs tmpfs /dev/shm
$b mount -t tmpfs tmpfs /run
$b mount -t tmpfs tmpfs /tmp
for module in $($b cat /modules/order); do $b insmod /modules/$module.ko; done
[ ! -e /dev/vdd ] || $b mount -t ext4 /dev/vdd /apart
$b mount -t $fs /dev/vda /near && $b mount -t ext4 /dev/vdb /far &&
    # Whoever looks comes first; what it starts is as anybody.
    exec /bin/chrt -R -f 10 /bin/towline-guest
echo failed to mount | $b dd of=/dev/vdc bs=512 conv=sync oflag=direct
";

/// Packs the first file system.
fn pack(guest: &Path, kind: Kind, to: &Path) {
    let mut archive = Archive(io::BufWriter::new(File::create(to).expect("a file")), 0);
    for folder in ["bin", "modules", "lib", "lib64", "lib/x86_64-linux-gnu"] {
        archive.add(folder, 0o40755, b"");
    }
    archive.add("init", 0o100_755, INIT.as_bytes());
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists());
    archive.add_file("bin/busybox", busybox.expect("busybox-static is installed: make tools"));
    let mut libraries = BTreeSet::new();
    let ours = ["towline", "towline-tracker", "towline-guest"].map(|name| programs().join(name));
    for program in ours.into_iter().chain(["/usr/bin/chrt", "/usr/sbin/fsfreeze"].map(PathBuf::from)) {
        let name = program.file_name().expect("a name").to_str().expect("a plain name");
        let bare = to.with_extension(name);
        assert!(program.exists(), "{} is not built", program.display());
        run(Command::new("strip").arg("-o").arg(&bare).arg(&program)).good();
        archive.add_file(&format!("bin/{name}"), &bare);
        let said = run(Command::new("ldd").arg(&program)).good();
        let words = said.stdout.split_whitespace().filter(|word| word.starts_with("/lib"));
        libraries.extend(words.map(String::from));
    }
    for library in libraries {
        archive.add_file(library.trim_start_matches('/'), Path::new(&library));
    }
    let modules = [&["virtio_blk"], kind.modules()].concat();
    archive.add("modules/order", 0o100_644, modules.join("\n").as_bytes());
    for module in modules {
        archive.add_file(&format!("modules/{module}.ko"), &guest.join(format!("{module}.ko")));
    }
    archive.add("TRAILER!!!", 0, b"");
    archive.0.flush().expect("an archive can be written");
}

/// The kernel's kind of archive (cpio, "newc").
struct Archive(io::BufWriter<File>, u32);

impl Archive {
    fn add_file(&mut self, name: &str, file: &Path) {
        let bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mode = fs::metadata(file).map_or(0o755, |found| found.permissions().mode());
        self.add(name, 0o100_000 | mode & 0o777, &bytes);
    }

    fn add(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        self.1 += 1;
        let (length, name_length) = (bytes.len() as u32, name.len() as u32 + 1);
        let fields = [self.1, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0];
        let mut header = String::from("070701");
        fields.iter().for_each(|field| header += &format!("{field:08x}"));
        header += name;
        let padding = |length: usize| [0; 4][..length.next_multiple_of(4) - length].to_vec();
        let head = [header.as_bytes(), b"\0"].concat();
        for part in [&head, &padding(head.len()), bytes, &padding(bytes.len())] {
            self.0.write_all(part).expect("an archive can be written");
        }
    }
}
