//! The two programs as processes, each in a folder of its own, killed by their owner's end.

use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use towline_tracker::frontend::nbd::client::Client;

/// Only detects a hang.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Where the programs are: `TOWLINE_BIN_DIR`, or beside this program, built first.
///
/// # Panics
/// If they can't be built.
pub fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        if let Some(folder) = std::env::var_os("TOWLINE_BIN_DIR") {
            return folder.into();
        }
        let me = std::env::current_exe().expect("this program has a path");
        // target/<profile>/deps/it-... or target/<profile>/towline-demo
        let folder = me.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
        let folder = folder.expect("programs lie in a folder").to_owned();
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--quiet", "--workspace", "--bins"]);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace has a root");
        let target = folder.parent().expect("the profile lies in the target folder");
        let built = build.current_dir(root).env("CARGO_TARGET_DIR", target).status();
        assert!(built.expect("cargo runs").success(), "the programs can't be built");
        folder
    })
}

/// Switches for the smallest intents that there can be: regions of 16 MiB, 20 of them. A guest that writes all over a
/// larger disk makes regions leave the intents, and their blocks enter the change log (I4).
pub const WANDERING: [&str; 4] = ["--region-size", "16MiB", "--intent-budget", "320MiB"];

/// What a program did.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; `None`: killed by a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// The outcome, which must be a success.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn good(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// The last line of standard output as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.stdout.lines().last().unwrap_or_default())
            .unwrap_or_else(|error| panic!("{error}:\n{}\n{}", self.stdout, self.stderr))
    }
}

/// Runs a command to its end, which comes within [`PATIENCE`].
///
/// # Panics
/// If it can't be started, or hangs.
#[track_caller]
pub fn run(command: &mut Command) -> Outcome {
    let folder = TempDir::new().expect("a folder for its output");
    let (out, err) = (folder.path().join("out"), folder.path().join("err"));
    let create = |path| File::create(path).expect("a file for its output");
    command.stdin(Stdio::null()).stdout(create(&out)).stderr(create(&err));
    let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut running = Running::new(child);
    let code = running.wait().unwrap_or_else(|| panic!("{command:?} hangs")).code();
    let read = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    Outcome { code, stdout: read(&out), stderr: read(&err) }
}

/// Runs `towline` with these arguments.
pub fn towline<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Outcome {
    run(Command::new(programs().join("towline")).args(arguments).env(NO_MEMORY.0, NO_MEMORY.1))
}

/// Of what `towline` reads in a test nothing is remembered on this host.
pub const NO_MEMORY: (&str, &str) = ("TOWLINE_STATE_DIR", "");

/// A process that is killed when its owner forgets it.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Owns a child.
    pub fn new(child: Child) -> Self {
        Self(child)
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill has no memory effects; the child is not reaped yet, so the id is its own.
        let sent = unsafe { libc::kill(self.0.id() as i32, signal) };
        assert_eq!(sent, 0, "a child can be signalled");
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end; `None` if it takes longer than [`PATIENCE`].
    pub fn wait(&mut self) -> Option<ExitStatus> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(1);
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        None
    }

    /// `kill -9`, and waits.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// QEMU's own server with this file open for writing, as another user of a disk.
///
/// It listens before it opens the file, so it has the file only when it greets.
///
/// # Panics
/// If it can't be started, or does not serve within [`PATIENCE`].
#[track_caller]
pub fn qemu_nbd(file: &Path, socket: &Path) -> Running {
    let mut command = Command::new("qemu-nbd");
    command.args(["-f", "raw", "-t", "-k"]).arg(socket).arg(file).stderr(Stdio::null());
    let mut server = Running::new(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
    until("qemu-nbd serves", || {
        assert_eq!(server.ended(), None, "{command:?}");
        Client::connect(socket, "").is_ok()
    });
    server
}

/// Waits until something is so.
///
/// # Panics
/// If that takes longer than [`PATIENCE`].
#[track_caller]
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Where a site is, and whether it stays.
#[derive(Debug)]
enum Folder {
    Fresh(TempDir),
    Given(PathBuf),
}

/// A folder with disks, sockets and a vault.
#[derive(Debug)]
pub struct Site {
    folder: Folder,
    /// The disks' file names, in their order.
    pub disks: Vec<String>,
    /// Arguments of every tracker.
    pub arguments: Vec<String>,
    /// Where the programs are.
    pub programs: PathBuf,
    /// Environment of the programs.
    pub environment: Vec<(String, String)>,
    /// The vault's URL, if it is not the folder `vault` here.
    pub url: Option<String>,
}

impl Site {
    /// In a fresh folder under `parent`, with one disk `disk.raw` that is not made yet.
    ///
    /// # Panics
    /// If there can be no folder.
    pub fn new(parent: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("tow").tempdir_in(parent).expect("a folder");
        Self::of(Folder::Fresh(folder))
    }

    /// In a folder that was there before, and stays.
    pub fn at(folder: &Path) -> Self {
        Self::of(Folder::Given(folder.to_owned()))
    }

    fn of(folder: Folder) -> Self {
        Self {
            folder,
            disks: vec!["disk.raw".into()],
            arguments: Vec::new(),
            programs: programs().to_owned(),
            environment: vec![(NO_MEMORY.0.into(), NO_MEMORY.1.into())],
            url: None,
        }
    }

    /// On a file system in memory.
    pub fn memory() -> Self {
        Self::new(Path::new("/dev/shm"))
    }

    /// On a file system on a disk, if there is one for temporary files.
    pub fn disk() -> Self {
        let folders = [std::env::temp_dir(), "/var/tmp".into()];
        let in_memory = |folder: &PathBuf| {
            let kind = nix::sys::statfs::statfs(folder).map(|found| found.filesystem_type());
            kind.is_ok_and(|kind| kind == nix::sys::statfs::TMPFS_MAGIC)
        };
        let folder = folders.iter().find(|folder| !in_memory(folder)).unwrap_or(&folders[0]);
        Self::new(folder)
    }

    /// Leaves everything where it is, for whoever looks into a failure.
    pub fn keep(self) -> PathBuf {
        match self.folder {
            Folder::Fresh(folder) => folder.keep(),
            Folder::Given(folder) => folder,
        }
    }

    /// A path in the folder; an absolute name is that path.
    pub fn path(&self, name: &str) -> PathBuf {
        match &self.folder {
            Folder::Fresh(folder) => folder.path().join(name),
            Folder::Given(folder) => folder.join(name),
        }
    }

    /// The first disk.
    pub fn first(&self) -> PathBuf {
        self.path(&self.disks[0])
    }

    /// The NBD socket.
    pub fn nbd(&self) -> PathBuf {
        self.path("nbd")
    }

    /// The control socket.
    pub fn control(&self) -> PathBuf {
        self.path("ctl")
    }

    /// The vault, as an argument.
    pub fn vault(&self) -> PathBuf {
        self.url.as_ref().map_or_else(|| self.path("vault"), PathBuf::from)
    }

    /// Runs `towline` with these arguments, in the site's environment.
    pub fn towline<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Outcome {
        let mut command = Command::new(self.programs.join("towline"));
        command.args(arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        run(&mut command)
    }

    /// An NBD client's address of an export.
    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.nbd().display())
    }

    /// The tracker's command, without starting it.
    pub fn tracker_command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("towline-tracker"));
        for disk in &self.disks {
            command.arg("--disk").arg(self.path(disk));
        }
        command.arg("--nbd").arg(format!("unix:{}", self.nbd().display()));
        command.arg("--control").arg(self.control()).args(&self.arguments).args(more);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the tracker and waits until it serves.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn start(&self, more: &[&str]) -> Tracker {
        self.start_command(&mut self.tracker_command(more))
    }

    /// Starts a tracker's command and waits until it serves.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn start_command(&self, command: &mut Command) -> Tracker {
        let log = self.path("tracker.log");
        let err = File::options().create(true).append(true).open(&log).expect("a log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(err).spawn();
        let mut running = Running::new(child.expect("the tracker starts"));
        let begun = Instant::now();
        loop {
            if Client::connect(&self.nbd(), "").is_ok() {
                return Tracker { running, nbd: self.nbd() };
            }
            let ended = running.ended();
            let told = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none(), "the tracker ended: {ended:?}\n{}", told());
            assert!(begun.elapsed() < PATIENCE, "the tracker does not serve\n{}", told());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Makes the vault.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn init(&self) {
        self.towline(
            ["vault", "init", "--no-encryption"]
                .map(OsStr::new)
                .into_iter()
                .chain([self.vault().as_os_str()]),
        )
        .good();
    }

    /// The command `towline ship` without starting it.
    pub fn ship_command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("towline"));
        command.arg("ship").arg("--tracker").arg(self.control()).arg("--vault").arg(self.vault());
        command.args(more).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs `towline ship` to its end.
    #[track_caller]
    pub fn ship(&self, more: &[&str]) -> Outcome {
        run(&mut self.ship_command(more))
    }

    /// `towline ship --once --json`, which must succeed: the object.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn once(&self, more: &[&str]) -> Value {
        let all: Vec<&str> = ["--once", "--json"].iter().chain(more).copied().collect();
        self.ship(&all).good().json()
    }

    /// Starts `towline ship`; its output goes to the files `<name>.out` and `<name>.err`.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn shipper(&self, name: &str, more: &[&str]) -> Running {
        let create = |end: &str| File::create(self.path(&format!("{name}.{end}"))).expect("a file");
        let mut command = self.ship_command(more);
        command.stdin(Stdio::null()).stdout(create("out")).stderr(create("err"));
        Running::new(command.spawn().expect("the shipper starts"))
    }

    /// `towline status --json`.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn status(&self) -> Value {
        let (tracker, json) = (OsStr::new("--tracker"), OsStr::new("--json"));
        self.towline([OsStr::new("status"), tracker, self.control().as_os_str(), json]).good().json()
    }

    /// The recovery points of the vault's only group, oldest first.
    ///
    /// # Panics
    /// If there is not exactly one group.
    #[track_caller]
    pub fn points(&self) -> Vec<Value> {
        let list = self.towline([
            OsStr::new("points"),
            OsStr::new("--json"),
            OsStr::new("--vault"),
            self.vault().as_os_str(),
        ]);
        let list = list.good().json();
        let groups = list["groups"].as_array().expect("groups");
        assert_eq!(groups.len(), 1, "{list}");
        groups[0]["points"].as_array().expect("points").clone()
    }

    /// Restores a point (or `latest`); the paths of its disks, in the group's order.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn restore(&self, point: &str) -> Vec<PathBuf> {
        let to = self.path(&format!("restored-{point}"));
        let group = self.group();
        let mut arguments: Vec<&OsStr> = ["restore", "--force", "--group", &group].map(OsStr::new).into();
        arguments.extend(["--point", point, "--vault"].map(OsStr::new));
        let vault = self.vault();
        arguments.extend([vault.as_os_str(), OsStr::new("--to"), to.as_os_str()]);
        self.towline(arguments).good();
        match self.disks.len() {
            1 => vec![to],
            _ => self.disks.iter().map(|name| to.join(name)).collect(),
        }
    }

    /// The group's name: the first disk's file stem.
    pub fn group(&self) -> String {
        let stem = Path::new(&self.disks[0]).file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }

    /// Restores the newest point and compares it with the disks as they are.
    ///
    /// # Panics
    /// If they differ.
    #[track_caller]
    pub fn latest_is_the_disk(&self) {
        for (disk, image) in self.disks.iter().zip(self.restore("latest")) {
            same(&self.path(disk), &image);
        }
    }
}

/// Compares two files; holes of both are not read.
///
/// # Panics
/// If they differ: where.
#[track_caller]
pub fn same(left: &Path, right: &Path) {
    const STEP: u64 = 1 << 20;
    let open = |path: &Path| File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (one, other) = (open(left), open(right));
    let size = |file: &File| file.metadata().expect("an open file has a size").len();
    assert_eq!(size(&one), size(&other), "sizes of {} and {}", left.display(), right.display());
    let end = size(&one);
    let (mut differ, mut first) = (0, Vec::new());
    let mut at = data_at(&one, 0).min(data_at(&other, 0));
    while at < end {
        let length = (end - at).min(STEP) as usize;
        let [mine, theirs] = [&one, &other].map(|file| {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at).expect("a file can be read");
            bytes
        });
        if mine != theirs {
            for block in (0..length).step_by(4096) {
                let to = length.min(block + 4096);
                if mine[block..to] != theirs[block..to] {
                    differ += 1;
                    first.push((at as usize + block) / 4096);
                    first.truncate(8);
                }
            }
        }
        at += length as u64;
        at = data_at(&one, at).min(data_at(&other, at));
    }
    assert!(
        differ == 0,
        "{} and {} differ in {differ} blocks, the first {first:?}",
        left.display(),
        right.display()
    );
}

/// Where the next data is, from here on; the file's end if there is none.
///
/// # Panics
/// If the file is none.
pub fn data_at(file: &File, from: u64) -> u64 {
    // SAFETY: it only moves the position of an open file, which nobody relies on.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from as i64, libc::SEEK_DATA) };
    match u64::try_from(found) {
        Ok(found) => found,
        Err(_) => file.metadata().expect("an open file has a size").len(),
    }
}

/// A serving tracker.
#[derive(Debug)]
pub struct Tracker {
    /// Its process.
    pub running: Running,
    nbd: PathBuf,
}

impl Tracker {
    /// A connection to an export.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn client(&self, export: &str) -> io::Result<Client> {
        Client::connect(&self.nbd, export)
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.running.kill();
    }

    /// SIGTERM, and waits for the clean end.
    ///
    /// # Panics
    /// If it hangs or says that it did not end well.
    #[track_caller]
    pub fn stop(mut self) {
        self.running.signal(libc::SIGTERM);
        let status = self.running.wait().expect("the tracker stops");
        assert!(status.success(), "the tracker's clean stop: {status:?}");
    }
}
