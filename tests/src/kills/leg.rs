//! One leg: a fresh site, its guests, so many kills, and then everything is compared.

use super::eye::{Eye, Look, Stage, State};
use super::tally::{Kill, Tally, Victim};
use crate::live::evidence::Evidence;
use crate::live::history::{History, Read, Time, Write};
use crate::live::process::{PATIENCE, Running, Site, towline};
use crate::live::reader::Reader;
use crate::live::relay::Relay;
use crate::live::stamp::BLOCK;
use crate::live::writer::{Clock, Load, Writers, first_content};
use crate::sim::rng::Rng;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use towline_tracker::control;
use towline_tracker::control::message::Status;
use towline_tracker::frontend::nbd::client::Client;
use towline_tracker::map::header::Road;

/// Blocks of each disk.
const BLOCKS: u64 = (32 << 20) / BLOCK as u64;
/// How long a state is waited for before whatever is there is taken.
const AIM: Duration = Duration::from_secs(5);
/// Points made under the kills that are compared, the newest of them in any case.
const POINTS: usize = 3;
/// How far the clocks of wall and guests may drift apart, and how long a cut may take from its time to its instant.
const DRIFT: Time = 20_000_000;
const CUT: Time = 5_000_000_000;
/// Small regions, so that requests wait for intents; and freezes that stay exact however busy the machine is.
const TRACKER: [&str; 6] =
    ["--region-size", "64KiB", "--intent-budget", "1GiB", "--preserve-deadline", "10s"];
const SHIPPER: [&str; 7] = ["--every", "600ms", "--json", "--pack-size", "256KiB", "--memory", "64MiB"];
/// `towline ship` found no tracker when it started: whoever restarts it tries again.
const NO_TRACKER: i32 = 14;
/// `towline ship` ends because another one has its place.
const REPLACED: i32 = 12;

/// What a leg does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) kills: usize,
}

/// The guests behind one client.
struct Guests {
    relay: Relay,
    writers: Writers,
    reader: Reader,
}

struct Leg<'a> {
    rng: Rng,
    clock: Clock,
    /// Wall clock, nanoseconds since 1970, when the guests' clock was zero.
    wall: u64,
    eye: Eye,
    // In this order: the guests end before their servers.
    guests: Vec<Guests>,
    tracker: Running,
    shipper: Running,
    /// Stopped at its work (SIGSTOP), and when; another one ships.
    stopped: Option<(Running, Instant)>,
    tally: &'a mut Tally,
    site: Evidence,
}

/// Runs a leg.
///
/// # Panics
/// At the first promise that is broken.
pub(super) fn run(plan: Plan, tally: &mut Tally) {
    let mut rng = Rng::new(plan.seed);
    let mut site = Site::disk();
    if rng.chance(500) {
        site.disks.push("second.raw".into());
    }
    site.arguments.extend(TRACKER.map(String::from));
    if rng.chance(300) {
        site.arguments.extend(["--cache", "buffered"].map(String::from));
    }
    let clock = Clock::default();
    let wall = wall_ns().saturating_sub(clock.now());
    let mut first = Vec::new();
    for (disk, name) in site.disks.iter().enumerate() {
        first.append(&mut first_content(&site.path(name), disk, BLOCKS).expect("a disk"));
    }
    site.init();
    let tracker = spawn_tracker(&site);
    let site = Evidence::new(site);
    wait_for_service(&site, Instant::now());
    site.once(&[]);
    let guests = [Relay::nbdkit(&site), Relay::qemu(&site)].into_iter().enumerate().map(|(index, relay)| {
        let load = load(&site, &relay, plan.seed, 2 * index as u64);
        Guests { relay, writers: Writers::start(&load, clock), reader: Reader::start(&load, clock) }
    });
    let (guests, eye) = (guests.collect(), Eye::new(&site));
    let shipper = spawn_shipper(&site);
    let mut leg = Leg { rng, clock, wall, eye, guests, tracker, shipper, stopped: None, tally, site };
    let end = leg.tally.kills.len() + plan.kills;
    while leg.tally.kills.len() < end {
        if leg.stopped.is_none() && leg.rng.chance(500) {
            leg.stop_shipper();
        }
        leg.round();
    }
    leg.go_on_too_late();
    leg.compare(first);
}

fn load(site: &Site, relay: &Relay, seed: u64, first_writer: u64) -> Load {
    Load {
        socket: relay.socket.clone(),
        disks: site.disks.iter().map(|name| (name.clone(), BLOCKS)).collect(),
        writers: 2,
        depth: 4,
        blocks_max: 4,
        hot: 50,
        hot_blocks: 2048,
        zeros: 3,
        pause: (4, Duration::from_millis(2)),
        seed: seed + 1,
        first_writer,
    }
}

impl Leg<'_> {
    /// Kills somebody at something, restarts, and waits until all go on.
    fn round(&mut self) {
        let aim =
            self.rng.weighted(&self.tally.states().missing()).map_or(State::Other, |state| State::ALL[state]);
        let victim = match (aim, self.rng.below(10)) {
            (State::Recovery, 0..7) | (_, 0..5) => Victim::Tracker,
            (State::Recovery, _) | (_, 5..7) => Victim::Both,
            _ => Victim::Shipper,
        };
        let before = self.watch(aim);
        let killed = self.kill(victim, &before);
        let attach = self.eye.attach();
        if victim == Victim::Shipper {
            self.shipper = spawn_shipper(&self.site);
            self.wait_for_shipper(attach, killed);
            return self.wait_for_guests();
        }
        if victim == Victim::Both {
            self.shipper = spawn_shipper(&self.site);
        }
        let mut killed = killed;
        if aim == State::Recovery {
            killed = self.kill_successors();
        }
        self.tracker = spawn_tracker(&self.site);
        self.tally.service.push(wait_for_service(&self.site, killed));
        let status = self.status();
        for disk in &status.disks {
            // Promise 4: the death of a process costs nothing.
            assert_eq!((&disk.resync, disk.degraded, disk.doubtful), (&None, false, false), "{status:?}");
        }
        self.wait_for_guests();
        self.tally.guests.push(killed.elapsed());
        if victim == Victim::Both {
            self.wait_for_shipper(attach, killed);
        }
    }

    /// F36: a shipper is stopped at something and another one takes its place, for the rest of the leg.
    fn stop_shipper(&mut self) {
        let aim = [State::Preserving, State::Publication, State::Release, State::Other][self.rng.index(4)];
        self.watch(aim);
        self.revive_shipper();
        let (attach, begun) = (self.eye.attach(), Instant::now());
        self.shipper.signal(libc::SIGSTOP);
        let successor = spawn_shipper(&self.site);
        self.stopped = Some((std::mem::replace(&mut self.shipper, successor), begun));
        self.wait_for_shipper(attach, begun);
    }

    /// The stopped shipper goes on with what it was at, and must find that its time is over.
    fn go_on_too_late(&mut self) {
        let Some((mut late, begun)) = self.stopped.take() else { return };
        self.tally.stopped.push(begun.elapsed());
        late.signal(libc::SIGCONT);
        let code = late.wait().expect("a shipper that goes on too late ends").code();
        assert!(matches!(code, Some(REPLACED | NO_TRACKER)), "{code:?}\n{}", self.told("shipper.err"));
    }

    /// Waits until the state is there, or for [`AIM`]. Gives a look of moments ago.
    fn watch(&mut self, aim: State) -> Look {
        let begun = Instant::now();
        if matches!(aim, State::Other | State::Recovery) {
            self.sleep_below(300_000);
            return self.glance();
        }
        let mut before = self.eye.look();
        let by_index = self.rng.chance(500);
        let (mut turns, mut found) = (0u64, false);
        self.eye.log_grew();
        while !found && begun.elapsed() < AIM {
            turns += 1;
            if turns.is_multiple_of(200) {
                self.revive_shipper();
            }
            let road = self.eye.road();
            found = match aim {
                State::Sealing => road == Road::Synced,
                State::Release => road == Road::Releasing,
                // Small indexes ride in the entry; the folder of packs is only looked at now and then.
                State::Publication => {
                    let grew = self.eye.log_grew();
                    let index = by_index && turns.is_multiple_of(8);
                    road == Road::Sealed && (grew || index && self.eye.index_is_put(self.eye.cut()))
                }
                _ => {
                    let now = self.eye.look();
                    let found = now.preserves_since(&before) && now.road != Road::Synced;
                    if !found {
                        before = now;
                    }
                    found
                }
            };
            if !found {
                std::thread::sleep(Duration::from_micros(if aim == State::Preserving { 500 } else { 20 }));
            }
        }
        if self.rng.chance(300) {
            self.sleep_below(1000);
        }
        match (aim, found) {
            (State::Preserving, true) => before,
            (_, true) => self.eye.look(),
            (_, false) => self.glance(),
        }
    }

    /// A look that is a little older when it is given.
    fn glance(&mut self) -> Look {
        let look = self.eye.look();
        std::thread::sleep(Duration::from_millis(2));
        look
    }

    fn sleep_below(&mut self, micros: u64) {
        std::thread::sleep(Duration::from_micros(self.rng.below(micros)));
    }

    /// `kill -9`, and counts it. When it was.
    fn kill(&mut self, victim: Victim, before: &Look) -> Instant {
        let last = self.eye.look();
        let killed = Instant::now();
        // Both signals first, then the waiting.
        let shipper_lives = self.shipper.ended().is_none();
        if victim != Victim::Shipper {
            assert!(
                self.tracker.ended().is_none(),
                "the tracker ended by itself\n{}",
                self.told("tracker.log")
            );
            self.tracker.signal(libc::SIGKILL);
        }
        if victim != Victim::Tracker && shipper_lives {
            self.shipper.signal(libc::SIGKILL);
        }
        if victim != Victim::Shipper {
            self.tracker.kill();
        }
        if victim != Victim::Tracker {
            self.shipper.kill();
        }
        // Who lives goes on: then only the look before the kill counts.
        let now = if victim == Victim::Shipper { last } else { self.eye.look() };
        self.count(victim, State::found(before, &now));
        killed
    }

    fn count(&mut self, victim: Victim, state: State) {
        self.tally.kills.push(Kill { victim, state });
    }

    /// Kills successors while they recover, once or twice. When the last one was killed.
    fn kill_successors(&mut self) -> Instant {
        for _ in 0..1 + self.rng.below(2) {
            let stage = [Stage::Opened, Stage::Stamped, Stage::Named][self.rng.index(3)];
            let mark = self.eye.mark();
            let mut successor = spawn_tracker(&self.site);
            let begun = Instant::now();
            while !self.eye.reached(stage, successor.pid(), &mark) && !self.eye.serves(&mark) {
                assert!(successor.ended().is_none(), "a start failed\n{}", self.told("tracker.log"));
                assert!(begun.elapsed() < PATIENCE, "a start hangs\n{}", self.told("tracker.log"));
                std::thread::sleep(Duration::from_micros(50));
            }
            if self.rng.chance(500) {
                self.sleep_below(1500);
            }
            successor.kill();
            let served = self.eye.serves(&mark);
            let look = self.eye.look();
            let state = if served { State::found(&look, &look) } else { State::Recovery };
            self.count(Victim::Tracker, state);
        }
        Instant::now()
    }

    /// The shipper is started again if it found no tracker; it must not end for another reason.
    fn revive_shipper(&mut self) {
        if let Some(ended) = self.shipper.ended() {
            let told = || self.told("shipper.err");
            assert_eq!(ended.code(), Some(NO_TRACKER), "the shipper ended by itself\n{}", told());
            self.shipper = spawn_shipper(&self.site);
        }
    }

    fn wait_for_shipper(&mut self, attach: u64, killed: Instant) {
        while self.status().attach <= attach {
            self.revive_shipper();
            assert!(killed.elapsed() < PATIENCE, "no shipper attaches\n{}", self.told("shipper.err"));
            std::thread::sleep(Duration::from_millis(2));
        }
        self.tally.shipping.push(killed.elapsed());
    }

    /// Promise 3, and the limit that the README names: a client that reconnects sees no error.
    fn wait_for_guests(&mut self) {
        let begun = Instant::now();
        let marks: Vec<u64> = self.guests.iter().map(|guests| guests.writers.written()).collect();
        while !self.guests.iter().zip(&marks).all(|(guests, mark)| guests.writers.written() > *mark) {
            self.revive_shipper();
            if self.guests.iter().any(|guests| guests.writers.failed() || guests.reader.failed()) {
                // Says which, and why.
                self.ask_guests();
            }
            assert!(begun.elapsed() < PATIENCE, "guests hang\n{}", self.told("tracker.log"));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends the guests: all that they did, and read. None of them has seen an error.
    fn ask_guests(&mut self) -> (Vec<Write>, Vec<Read>) {
        let (mut writes, mut reads) = (Vec::new(), Vec::new());
        for Guests { relay, writers, reader } in std::mem::take(&mut self.guests) {
            let whose = format!("a guest behind {} saw an error", relay.name);
            writes.append(&mut writers.finish().expect(&whose));
            reads.append(&mut reader.finish().expect(&whose));
        }
        (writes, reads)
    }

    fn status(&self) -> Status {
        let asked =
            control::client::Client::connect(&self.site.control()).and_then(|mut client| client.status());
        asked.unwrap_or_else(|error| panic!("no status: {error}\n{}", self.told("tracker.log")))
    }

    /// The end of a log.
    fn told(&self, log: &str) -> String {
        let text = std::fs::read_to_string(self.site.path(log)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Leg<'_> {
    /// Nobody is killed any more: one more point, and everything is compared.
    fn compare(mut self, mut writes: Vec<Write>) {
        let (mut done, reads) = self.ask_guests();
        self.tally.requests[0] += done.len();
        self.tally.requests[1] += reads.len();
        writes.append(&mut done);
        self.revive_shipper();
        self.shipper.signal(libc::SIGTERM);
        let ended = self.shipper.wait().expect("the shipper stops");
        assert!(matches!(ended.code(), Some(0 | NO_TRACKER)), "{ended}\n{}", self.told("shipper.err"));
        let (site, clock) = (&self.site, self.clock);
        let begun = clock.now();
        site.once(&[]);
        let ended = clock.now();
        self.tracker.signal(libc::SIGTERM);
        assert!(self.tracker.wait().is_some_and(|status| status.success()), "{}", self.told("tracker.log"));
        site.latest_is_the_disk();
        let history = History::new(&vec![BLOCKS; site.disks.len()], writes);
        let check = |what: &str, images: &[PathBuf], begun, ended| {
            let images: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
            history.check(&images, begun, ended).unwrap_or_else(|error| panic!("{what}: {error}"));
        };
        check("the newest point", &site.restore("latest"), begun, ended);
        let disks: Vec<_> = site.disks.iter().map(|name| site.path(name)).collect();
        check("the disks", &disks, clock.now(), clock.now());
        for read in &reads {
            history.check_read(read).unwrap_or_else(|error| panic!("a read: {error}"));
        }
        // Made under the kills: all but the first and the last.
        let mut points = site.points();
        let lost = points.iter().filter(|point| point["abandoned"] != false).count();
        assert_eq!(lost, 0, "points that are in no lineage");
        points = points.split_off(1);
        points.pop();
        assert!(!points.is_empty(), "no point was made under the kills");
        for n in 0..POINTS.min(points.len()) {
            let at = if n == 0 { points.len() - 1 } else { self.rng.index(points.len()) };
            let point = points.remove(at);
            let time = point["time_ns"].as_u64().expect("a time") - self.wall;
            let id = point["id"].as_str().expect("an id");
            let images = site.restore(id);
            check(&format!("point {id}"), &images, time.saturating_sub(DRIFT), time + CUT);
            self.tally.points += 1;
        }
        let vault = site.vault();
        towline([OsStr::new("verify"), OsStr::new("--vault"), vault.as_os_str()]).good();
    }
}

fn spawn_tracker(site: &Site) -> Running {
    let log = File::options().create(true).append(true).open(site.path("tracker.log")).expect("a log");
    let mut command = site.tracker_command(&[]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Running::new(command.spawn().expect("the tracker starts"))
}

fn spawn_shipper(site: &Site) -> Running {
    let log = File::options().create(true).append(true).open(site.path("shipper.err")).expect("a log");
    let mut command = site.ship_command(&SHIPPER);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Running::new(command.spawn().expect("the shipper starts"))
}

/// Until a request is answered.
fn wait_for_service(site: &Site, killed: Instant) -> Duration {
    let asked = || Client::connect(&site.nbd(), "").and_then(|mut client| client.read(0, BLOCK as u32));
    while asked().is_err() {
        let told = || std::fs::read_to_string(site.path("tracker.log")).unwrap_or_default();
        assert!(killed.elapsed() < PATIENCE, "the tracker does not serve\n{}", told());
        std::thread::sleep(Duration::from_millis(1));
    }
    killed.elapsed()
}

fn wall_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
