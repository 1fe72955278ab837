//! Inside the machine: starts tracker, load and shipper, says what is under way, and resets the machine when the
//! state that it was told to wait for is there.
//!
//! `/near` has the disk and its sidecar, `/far` the vault; `/dev/vdc` takes the marks. Nothing here ends well: the
//! machine is cut off, or has said what failed.

use super::load::{Load, WRITERS, Writers};
use super::mark::{Mark, Marks};
use crate::kills::eye::{Eye, Look, State};
use crate::live::process::{Running, Site, WANDERING, run, until};
use crate::sim::rng::Rng;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use towline_tracker::frontend::nbd::client::Client;
use towline_tracker::map::header::Road;

/// Bytes of the disk: more than the intents hold ([`WANDERING`]).
pub const SIZE: u64 = 512 << 20;
/// Where the disk is, and the folder of the vault.
pub const DISK: &str = "/near/disk.raw";
const FAR: &str = "/far";
/// A drive for the sidecar alone, if there is one, and where it is mounted.
const APART_DRIVE: &str = "/dev/vdd";
const APART: &str = "/apart";
/// How the shipper of a campaign runs.
const SHIPPER: [&str; 7] = ["--json", "--pack-size", "256KiB", "--memory", "64MiB", "--nice", "0"];
const EVERY: [&str; 2] = ["--every", "200ms"];
/// Switches of every tracker: freezes stay exact and intents are waited for, however slow the machine is (S4 would
/// rather let the guest go on and have the disk compared).
pub const TRACKER: [&str; 4] = ["--preserve-deadline", "60s", "--tracking", "strict"];
/// A life has at least so much of load.
const LIFE: Duration = Duration::from_millis(700);
/// How long a state is waited for before whatever is there is taken.
const AIM: Duration = Duration::from_secs(8);
/// However slow it is, a life that wanders ends.
const LIFE_MAX: Duration = Duration::from_secs(150);
/// Only detects a hang: a freeze is released about each second.
const STUCK: Duration = Duration::from_secs(100);
/// Preserving counts as under way if a block was preserved since so long ago.
const WINDOW: Duration = Duration::from_millis(50);

/// Between looks at the maps, and at the road.
const PAUSE: Duration = Duration::from_millis(25);
const GLANCE: Duration = Duration::from_micros(700);

/// What a machine is to do in this life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orders {
    /// Where the randomness begins.
    pub seed: u64,
    /// The number of the life.
    pub life: u64,
    /// What comes of it.
    pub task: Task,
}

/// What a life is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// To be cut off in a state: by its own reset, or else by whoever pulls the plug when it says that it waits.
    Cut {
        /// The state.
        aim: State,
        /// It resets itself.
        reset: bool,
    },
    /// To recover, and no more.
    Recover,
    /// To be cut off while the file system of the sidecar, which is on a drive of its own, does not answer.
    Stall,
    /// To do everything that a tracker does, until so many freezes were released.
    Wander {
        /// The releases.
        releases: u64,
    },
}

impl Orders {
    /// As a word on the kernel's command line.
    pub fn word(&self) -> String {
        let task = match self.task {
            Task::Cut { aim, reset } => format!("cut,{},{}", aim.name(), u8::from(reset)),
            Task::Recover => "recover".into(),
            Task::Stall => "stall".into(),
            Task::Wander { releases } => format!("wander,{releases}"),
        };
        format!("{},{},{task}", self.seed, self.life)
    }

    /// Reads them.
    pub fn read(word: &str) -> Option<Self> {
        let mut words = word.split(',');
        let (seed, life) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let task = match words.next()? {
            "cut" => {
                let aim = words.next()?;
                let aim = State::ALL.into_iter().find(|state| state.name() == aim)?;
                Task::Cut { aim, reset: words.next()? == "1" }
            }
            "recover" => Task::Recover,
            "stall" => Task::Stall,
            "wander" => Task::Wander { releases: words.next()?.parse().ok()? },
            _ => return None,
        };
        Some(Self { seed, life, task })
    }

    /// The load of this life.
    pub fn load(&self) -> Load {
        Load { seed: self.seed, life: self.life, blocks: SIZE / crate::live::stamp::BLOCK as u64 }
    }
}

/// The program: does what the environment's `orders` say.
pub fn main() {
    let marks = Marks::open(Path::new("/dev/vdc")).expect("the machine has a drive for marks");
    let told = marks.clone();
    std::panic::set_hook(Box::new(move |panic| {
        println!("{panic}");
        told.say(&Mark::Failed(panic.to_string()));
        // Nobody waits for the other threads' words.
        wait_for_the_end();
    }));
    let word = std::env::var("orders").unwrap_or_default();
    let orders = Orders::read(&word).unwrap_or_else(|| panic!("orders {word:?}"));
    Guest::new(orders, marks).run();
    wait_for_the_end();
}

fn wait_for_the_end() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// A site on these two file systems, as every tracker and shipper of a campaign sees it.
pub fn site(near: &Path, far: &Path) -> Site {
    let mut site = Site::at(far);
    site.disks = vec![near.join("disk.raw").to_str().expect("a plain path").to_owned()];
    site.arguments.extend([&WANDERING[..], &TRACKER[..]].concat().into_iter().map(String::from));
    site
}

struct Guest {
    orders: Orders,
    rng: Rng,
    marks: Marks,
    site: Site,
    /// The last state that was said.
    said: Option<State>,
    /// The newest entry seen while a freeze shipped, until it is said.
    entry: u64,
    /// A look of moments ago.
    old: (Instant, Option<Look>),
    /// The road at the last look, and when that was.
    road: Option<Road>,
    looked: Instant,
}

impl Guest {
    fn new(orders: Orders, marks: Marks) -> Self {
        let mut site = site(Path::new(DISK).parent().expect("a folder"), Path::new(FAR));
        if Path::new(APART_DRIVE).exists() {
            let apart = ["--log-dir", APART, "--tracking", "availability"];
            site.arguments.truncate(WANDERING.len());
            site.arguments.extend(apart.map(String::from));
        }
        let rng = Rng::new(orders.seed ^ orders.life << 32);
        let now = Instant::now();
        Self { orders, rng, marks, site, said: None, entry: 0, old: (now, None), road: None, looked: now }
    }

    fn run(mut self) {
        if !self.site.vault().exists() {
            self.site.init();
        }
        let tracker = self.recover();
        let status = self.site.status();
        let point = self.site.once(&SHIPPER[1..]);
        // What the disk's own file system still holds back would be missing where the drive is looked at.
        nix::unistd::sync();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let told = serde_json::json!({ "status": status, "point": point, "boot": boot.trim() });
        self.marks.say(&Mark::Recovered(told.to_string()));
        match self.orders.task {
            Task::Recover | Task::Cut { aim: State::Recovery, .. } => wait_for_the_end(),
            Task::Cut { aim, reset } => self.live(tracker, aim, reset),
            Task::Wander { releases } => self.wander(tracker, releases),
            Task::Stall => self.stall(tracker),
        }
    }

    /// Starts a tracker; unless this life is to end right there, it serves then.
    fn recover(&mut self) -> Running {
        self.say(State::Recovery);
        let tracker = self.spawn_tracker();
        if let Task::Cut { aim: State::Recovery, reset } = self.orders.task {
            let open = || {
                let files =
                    fs::read_dir(format!("/proc/{}/fd", tracker.pid())).into_iter().flatten().flatten();
                files.filter_map(|file| fs::read_link(file.path()).ok()).any(|path| path == Path::new(DISK))
            };
            until("the tracker has the disk open", open);
            std::thread::sleep(Duration::from_micros(self.rng.below(60_000)));
            if Client::connect(&self.site.nbd(), "").is_ok() {
                self.say(State::Other);
            }
            self.end(reset);
            wait_for_the_end();
        }
        until("the tracker serves", || Client::connect(&self.site.nbd(), "").is_ok());
        self.say(State::Other);
        tracker
    }

    fn say(&mut self, state: State) {
        if self.said != Some(state) {
            self.said = Some(state);
            self.marks.say(&Mark::State(state));
        }
    }

    /// Ends this life, or says that it may be ended.
    fn end(&self, reset: bool) {
        if reset {
            self.marks.say(&Mark::Done);
            fs::write("/proc/sysrq-trigger", "b").expect("the kernel resets the machine");
        } else {
            self.marks.say(&Mark::Cut);
        }
    }

    fn spawn_tracker(&self) -> Running {
        let create = format!("{}MiB", SIZE >> 20);
        let mut command = self.site.tracker_command(&["--create", &create]);
        command.stdin(Stdio::null());
        Running::new(command.spawn().expect("the tracker starts"))
    }

    fn spawn_shipper(&self, how: &[&str]) -> Running {
        let mut command: Command = self.site.ship_command(&[how, &SHIPPER].concat());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create("/run/shipper").expect("a log"));
        Running::new(command.spawn().expect("the shipper starts"))
    }

    /// Load and shipments, until the state is there.
    fn live(mut self, _tracker: Running, aim: State, reset: bool) {
        let _writers =
            Writers::start(self.orders.load(), &self.site.nbd(), &self.marks, &[0; WRITERS as usize]);
        let mut shipper = self.spawn_shipper(&EVERY);
        let mut eye = Eye::new(&self.site);
        let begun = Instant::now();
        let least = LIFE + Duration::from_millis(self.rng.below(600));
        let mut ended = false;
        loop {
            let state = self.look(&mut eye);
            let lived = begun.elapsed();
            let there = state == aim && lived > least && eye.head() > 2 || lived > AIM;
            if there && !ended {
                ended = true;
                self.end(reset);
            }
            assert!(shipper.ended().is_none(), "{}", fs::read_to_string("/run/shipper").unwrap_or_default());
            std::thread::sleep(GLANCE);
        }
    }

    /// Says what is under way now. A change of road or of the vault's log is seen at once, the rest now and then:
    /// looking takes time.
    fn look(&mut self, eye: &mut Eye) -> State {
        let road = eye.road();
        let grew = road == Road::Sealed && eye.log_grew();
        let known = self.said.filter(|_| Some(road) == self.road && !grew);
        if let Some(state) = known.filter(|_| self.looked.elapsed() < PAUSE) {
            return state;
        }
        let now = eye.look();
        (self.road, self.looked) = (Some(now.road), Instant::now());
        let before = self.old.1.as_ref().unwrap_or(&now);
        let state = State::found(before, &now);
        if self.old.1.is_none() || self.old.0.elapsed() > WINDOW {
            self.old = (Instant::now(), Some(now));
        }
        self.say(state);
        // An entry is there before it is durable; it is once the tracker is told to release.
        match road {
            Road::Sealed => self.entry = eye.head(),
            Road::Releasing if self.entry > 0 => {
                self.marks.say(&Mark::Entry(self.entry));
                self.entry = 0;
            }
            _ => {}
        }
        state
    }

    /// Load and shipments, while tracker and shipper are killed, stopped and started again.
    fn wander(mut self, mut tracker: Running, releases: u64) {
        let (mut eye, begun) = (Eye::new(&self.site), Instant::now());
        let (mut released, mut newest) = (0, Instant::now());
        let mut shipper = self.spawn_shipper(&EVERY);
        let mut done = vec![0; WRITERS as usize];
        let mut writers = Some(self.write(&done));
        // After a release, at any moment of what comes next.
        let mut next: Option<Instant> = None;
        while released < releases && begun.elapsed() < LIFE_MAX {
            let before = self.said;
            if self.look(&mut eye) == State::Release && before != Some(State::Release) {
                (released, newest) = (released + 1, Instant::now());
                next.get_or_insert(Instant::now() + Duration::from_millis(self.rng.below(2500)));
            }
            if newest.elapsed() > STUCK {
                let told = fs::read_to_string("/run/shipper").unwrap_or_default();
                panic!("nothing is released: {:?}, {}, {told}", eye.look(), self.site.status());
            }
            if shipper.ended().is_some() {
                shipper = self.spawn_shipper(&EVERY);
            }
            if next.is_some_and(|next| next < Instant::now()) {
                next = None;
                match self.rng.below(4) {
                    0 => {
                        shipper.kill();
                        // A shipper that comes for one point first finishes an open freeze, or undoes it.
                        shipper = self.spawn_shipper(&["--once"]);
                    }
                    1 => {
                        tracker.kill();
                        tracker = self.recover();
                        // A successor's header may be another file.
                        eye = Eye::new(&self.site);
                    }
                    2 => {
                        done = writers.take().expect("they write").finish();
                        tracker.signal(libc::SIGTERM);
                        let ended = tracker.wait();
                        assert!(ended.is_some_and(|status| status.success()), "a clean stop: {ended:?}");
                        tracker = self.recover();
                        // A successor's header may be another file.
                        eye = Eye::new(&self.site);
                        writers = Some(self.write(&done));
                    }
                    _ => shipper.kill(),
                }
            }
            std::thread::sleep(GLANCE);
        }
        self.marks.say(&Mark::Done);
    }

    /// Load, while the sidecar's file system does not answer: the tracker gives up on it, and the guests go on.
    fn stall(self, _tracker: Running) {
        let writers = self.write(&[0; WRITERS as usize]);
        std::thread::sleep(LIFE);
        run(Command::new("/bin/fsfreeze").args(["--freeze", APART])).good();
        until("the tracker gives up on its sidecar", || self.site.status()["disks"][0]["degraded"] == true);
        self.marks.say(&Mark::Degraded);
        let then = writers.batches();
        until("the guests go on", || then.iter().zip(writers.batches()).all(|(then, now)| then + 2 < now));
        self.marks.say(&Mark::Cut);
    }

    fn write(&self, done: &[u64]) -> Writers {
        Writers::start(self.orders.load(), &self.site.nbd(), &self.marks, done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_they_were_given() {
        let cut = |aim| Task::Cut { aim, reset: aim == State::Release };
        let tasks =
            State::ALL.map(cut).into_iter().chain([Task::Recover, Task::Stall, Task::Wander { releases: 7 }]);
        for (life, task) in tasks.enumerate() {
            let orders = Orders { seed: 9, life: life as u64, task };
            assert_eq!(Orders::read(&orders.word()), Some(orders));
        }
        assert_eq!(Orders::read("1,2,cut,nowhere,1"), None);
    }
}
