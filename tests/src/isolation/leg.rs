//! One leg: a fresh site, its guests, one fault, and then everything is compared.

use super::moment::Moment;
use super::tally::{Tally, micros};
use super::{End, Fault, Plan};
use crate::kills::eye::Eye;
use crate::live::evidence::Evidence;
use crate::live::history::{History, NEVER, Time, Write};
use crate::live::process::{Running, Site, Tracker, WANDERING, towline, until};
use crate::live::reader::Reader;
use crate::live::room::Room;
use crate::live::stamp::BLOCK;
use crate::live::writer::{Clock, Load, Writers, writer_of};
use crate::sim::rng::Rng;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use towline_tracker::control;
use towline_tracker::control::message::Status;
use towline_tracker::format::meta::Mark;

/// Blocks of the disk: more regions than the intents hold, so that writing all over it needs the sidecar again and again.
const BLOCKS: u64 = (448 << 20) / BLOCK as u64;
/// Of a sidecar's file system, MiB; where the disk is on it too it comes on top.
const ROOM: u64 = 64;
/// Of the vault's, MiB.
const VAULT: u64 = 1024;
/// Bytes that a phase has at least, of the writers and of the timer.
const PHASE: [u64; 2] = [200 * BLOCK as u64, 100 * BLOCK as u64];
/// Of the writers of a server's life, four numbers, this one is the timer.
const TIMER: u64 = 2;
const SHIPPER: [&str; 7] = ["--every", "500ms", "--json", "--pack-size", "1MiB", "--memory", "64MiB"];
/// `towline ship` found no tracker when it started.
const NO_TRACKER: i32 = 14;

struct Guests {
    writers: Writers,
    /// One request at a time: these times are told.
    timer: Writers,
    reader: Reader,
}

impl Guests {
    fn start(site: &Site, clock: Clock, plan: &Plan, first_writer: u64) -> Self {
        let zeros = if plan.beside { 0 } else { 5 };
        let load = Load {
            socket: site.nbd(),
            disks: vec![(String::new(), BLOCKS)],
            writers: 2,
            depth: 4,
            blocks_max: 2,
            hot: 50,
            hot_blocks: 2048,
            // What is punched beside the sidecar is space that others may take (F27).
            zeros,
            pause: (4, Duration::from_millis(6)),
            seed: plan.seed + 1,
            first_writer,
        };
        let pause = (1, Duration::from_millis(1));
        let timed = Load { writers: 1, depth: 1, pause, first_writer: first_writer + TIMER, ..load.clone() };
        Self {
            writers: Writers::start(&load, clock),
            timer: Writers::start(&timed, clock),
            reader: Reader::start(&load, clock),
        }
    }

    fn written(&self) -> [u64; 2] {
        [self.writers.written(), self.timer.written()]
    }

    fn failed(&self) -> bool {
        self.writers.failed() || self.timer.failed() || self.reader.failed()
    }
}

struct Leg<'a> {
    plan: Plan,
    clock: Clock,
    /// Wall clock, nanoseconds since 1970, when the guests' clock was zero.
    wall: u64,
    // In this order: the guests end before their server.
    guests: Option<Guests>,
    tracker: Option<Tracker>,
    shipper: Running,
    tally: &'a mut Tally,
    /// What they did.
    writes: Vec<Write>,
    site: Evidence,
}

/// Runs a leg.
///
/// # Panics
/// At the first promise that is broken.
pub(super) fn run(plan: Plan, tally: &mut Tally) {
    let in_memory = Rng::new(plan.seed).chance(500) && plan.end == End::Heals;
    let size = match (plan.fault.is_of_the_store(), plan.beside) {
        (true, _) => VAULT,
        (false, true) => ROOM + ((BLOCKS * BLOCK as u64) >> 20),
        (false, false) => ROOM,
    };
    // Declared first: it goes last.
    let room = plan.fault.room(in_memory, size);
    let mut site = Site::disk();
    site.arguments.extend(WANDERING.map(String::from));
    if plan.buffered {
        site.arguments.extend(["--cache", "buffered"].map(String::from));
    }
    if plan.fault.is_of_the_store() {
        let vault = room.path().join("vault");
        std::os::unix::fs::symlink(&vault, site.vault()).expect("a link");
        towline(["vault", "init", "--no-encryption", vault.to_str().expect("a plain path")]).good();
    } else {
        site.init();
        let place = room.path().to_str().expect("a plain path");
        if plan.beside {
            site.disks = vec![format!("{place}/disk.raw")];
        } else {
            site.arguments.extend(["--log-dir", place].map(String::from));
        }
    }
    let disk = fs::File::create(site.first()).expect("a disk");
    disk.set_len(BLOCKS * BLOCK as u64).expect("it has its size");
    if plan.beside {
        // Its own space it has (F27 is another matter).
        let all = nix::fcntl::FallocateFlags::empty();
        nix::fcntl::fallocate(&disk, all, 0, (BLOCKS * BLOCK as u64) as i64).expect("it has its space");
    }
    let site = Evidence::new(site);
    let tracker = site.start(&[]);
    site.once(&[]);
    let clock = Clock::default();
    let wall = wall_ns().saturating_sub(clock.now());
    let guests = Guests::start(&site, clock, &plan, 0);
    let shipper = site.shipper("ship", &SHIPPER);
    let (tracker, guests, writes) = (Some(tracker), Some(guests), Vec::new());
    let mut leg = Leg { plan, clock, wall, guests, tracker, shipper, tally, writes, site };
    leg.go_through(&room);
    leg.compare();
}

impl Leg<'_> {
    fn go_through(&mut self, room: &Room) {
        let Plan { fault, end, hold, .. } = self.plan;
        self.guests_go_on();
        self.point_is_made();
        let mut eye = Eye::new(&self.site);
        let before = self.plan.moment.wait(&mut eye);
        let stopped = self.clock.now();
        self.tracker().running.signal(libc::SIGSTOP);
        self.shipper.signal(libc::SIGSTOP);
        self.tally.begun(Moment::found(&before, &eye.look()));
        let stalled = fault.begin(room, &self.shipper);
        let begun = self.clock.now();
        self.tracker().running.signal(libc::SIGCONT);
        if fault != Fault::ShipperStopped {
            self.shipper.signal(libc::SIGCONT);
        }
        let since = Instant::now();
        self.guests_go_on();
        if fault.ends_tracking() == Some(true) {
            self.wait("tracking fails", |leg| {
                fault.go_on(room);
                leg.status().disks[0].degraded
            });
            self.wait("the disk says that it is written untracked", |leg| marked(&leg.site.first()));
        }
        self.guests_go_on();
        self.wait("the hold is over", |_| {
            fault.go_on(room);
            since.elapsed() >= hold
        });
        self.guests_go_on();
        let degraded = self.status().disks[0].degraded;
        self.tally.degraded += usize::from(degraded || fault.ends_tracking() == Some(true));
        if fault.ends_tracking() == Some(false) {
            // The machine itself may be too slow for the deadline of an intent.
            let told = fs::read_to_string(self.site.path("tracker.log")).expect("a log");
            let failed = told.lines().find(|line| line.contains("tracking fails"));
            assert!(failed.is_none_or(|line| line.contains("does not answer")), "{failed:?}");
        }
        let healed = self.clock.now();
        match end {
            End::Heals => {
                drop(stalled);
                fault.end(room, &self.shipper);
            }
            End::ProcessDies | End::HostDies => {
                // What the host's death would leave is what has reached the device by now.
                let left = self.site.path("left");
                if end == End::HostDies && fault == Fault::Stalled {
                    fs::copy(room.image(), &left).expect("an image can be copied");
                }
                self.tracker().running.signal(libc::SIGKILL);
                // It is gone when the kernel lets go of what hangs.
                drop(stalled);
                self.tracker.take().expect("it was there").kill();
                self.bury(&eye);
                // What the tracker frees by itself may have healed it.
                let untracked = marked(&self.site.first());
                assert_eq!(untracked || fault == Fault::Full, fault != Fault::Detached, "{fault:?}");
                match fault {
                    Fault::Detached => {}
                    Fault::Full => room.free(),
                    _ if left.exists() => room.put_back(&left),
                    _ => room.mend(),
                }
                self.come_back(untracked);
            }
        }
        self.wait("tracking is whole again", |leg| !leg.status().disks[0].degraded);
        self.wait("the disk no longer says otherwise", |leg| !marked(&leg.site.first()));
        self.guests_go_on();
        self.point_is_made();
        let ended = self.clock.now();
        self.stop_guests();
        let mut phases = <[Vec<u32>; 3]>::default();
        let timed = |write: &&Write| writer_of(write.id) % 4 == TIMER && write.acked != NEVER;
        for write in self.writes.iter().filter(timed) {
            let (phase, from) = match (write.issued, write.acked) {
                (_, acked) if acked < stopped => (0, write.issued),
                // While the programs were stopped nobody could be served.
                (_, acked) if (begun..healed).contains(&acked) => (1, write.issued.max(begun)),
                (issued, acked) if issued >= healed && acked < ended => (2, write.issued),
                // It was in flight when the fault began, or ended.
                (_, acked) if acked >= healed => (1, write.issued.max(begun)),
                _ => continue,
            };
            phases[phase].push(micros(write.acked - from));
        }
        self.tally.took(fault, self.plan.buffered, phases);
    }

    /// The tracker is dead, or its host: then the maps are nowhere. Its death is the last that those saw who don't reconnect.
    fn bury(&mut self, eye: &Eye) {
        let host = self.plan.end == End::HostDies;
        self.tally.deaths[usize::from(host)] += 1;
        let guests = self.guests.take().expect("they were there");
        self.writes.append(&mut guests.writers.interrupted());
        self.writes.append(&mut guests.timer.interrupted());
        let _ = guests.reader.finish();
        if host {
            fs::remove_dir_all(eye.maps()).expect("the maps were there");
        }
    }

    /// A successor, and other guests. What went untracked is known to have.
    fn come_back(&mut self, untracked: bool) {
        self.tracker = Some(self.site.start(&[]));
        let status = self.status();
        let compares = status.disks[0].resync.is_some();
        let must = untracked || self.plan.fault == Fault::Detached;
        assert!(compares || !must, "all is compared: {status:?}");
        self.guests = Some(Guests::start(&self.site, self.clock, &self.plan, 4));
        if let Some(ended) = self.shipper.ended() {
            assert_eq!(ended.code(), Some(NO_TRACKER), "{}", self.told("ship.err"));
            self.shipper = self.site.shipper("ship", &SHIPPER);
        }
    }

    fn tracker(&self) -> &Tracker {
        self.tracker.as_ref().expect("it serves")
    }

    /// Waits until something is so; no guest has failed till then, and the shipper goes on.
    fn wait(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        until(what, || {
            if self.guests.as_ref().is_some_and(Guests::failed) {
                // Says which, and why.
                self.stop_guests();
            }
            if let Some(ended) = self.shipper.ended() {
                panic!("the shipper ended by itself, {ended}\n{}", self.told("ship.err"));
            }
            so(self)
        });
    }

    /// Promise 3.
    fn guests_go_on(&mut self) {
        let written = |leg: &Self| leg.guests.as_ref().map_or([0; 2], Guests::written);
        let before = written(self);
        self.wait("the guests go on", |leg| {
            let now = written(leg);
            (0..2).all(|who| now[who] > before[who] + PHASE[who])
        });
    }

    /// A point is made by a cut that is still to come.
    fn point_is_made(&mut self) {
        let since = wall_ns();
        let mut seen = None;
        self.wait("a point is made", |leg| {
            // Only then it is worth a process to ask.
            let anchor = leg.status().anchor;
            if std::mem::replace(&mut seen, anchor.clone()) == anchor {
                return false;
            }
            let points = leg.site.points();
            points.last().is_some_and(|point| point["time_ns"].as_u64().expect("a time") > since)
        });
    }

    /// Ends the guests. None of them has seen an error, and what they read was there.
    fn stop_guests(&mut self) {
        let Guests { writers, timer, reader } = self.guests.take().expect("they were there");
        let (writes, reads) = ([writers.finish(), timer.finish()], reader.finish());
        let told = self.told("tracker.log");
        for writes in writes {
            self.writes.append(&mut writes.unwrap_or_else(|error| panic!("a writer saw {error}\n{told}")));
        }
        let reads = reads.unwrap_or_else(|error| panic!("a reader saw {error}\n{told}"));
        self.tally.requests[0] += self.writes.len();
        self.tally.requests[1] += reads.len();
        let history = History::new(&[BLOCKS], self.writes.clone());
        for read in &reads {
            history.check_read(read).unwrap_or_else(|error| panic!("a read: {error}"));
        }
    }

    /// One more point, and everything is compared.
    fn compare(mut self) {
        let made = self.site.points();
        self.shipper.signal(libc::SIGTERM);
        let ended = self.shipper.wait().expect("the shipper stops");
        assert!(matches!(ended.code(), Some(0 | NO_TRACKER)), "{ended}\n{}", self.told("ship.err"));
        let begun = self.clock.now();
        self.site.once(&[]);
        let ended = self.clock.now();
        self.tracker.take().expect("it serves").stop();
        self.site.latest_is_the_disk();
        let history = History::new(&[BLOCKS], std::mem::take(&mut self.writes));
        let check = |what: &str, images: &[PathBuf], begun: Time, ended: Time| {
            let images: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
            history.check(&images, begun, ended).unwrap_or_else(|error| panic!("{what}: {error}"));
        };
        check("the newest point", &[self.site.path("restored-latest")], begun, ended);
        // Made while the guests wrote, since all is well again.
        let point = made.last().expect("one was waited for");
        let time = point["time_ns"].as_u64().expect("a time") - self.wall;
        let images = self.site.restore(point["id"].as_str().expect("an id"));
        check("a point made afterwards", &images, time.saturating_sub(DRIFT), time + CUT);
    }

    fn status(&self) -> Status {
        let client = control::client::Client::connect(&self.site.control());
        let asked = client.and_then(|mut client| client.status());
        asked.unwrap_or_else(|error| panic!("no status: {error}\n{}", self.told("tracker.log")))
    }

    /// The end of a log.
    fn told(&self, log: &str) -> String {
        let text = fs::read_to_string(self.site.path(log)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// How far the clocks of wall and guests may drift apart, and how long a cut may take from its time to its instant.
const DRIFT: Time = 20_000_000;
const CUT: Time = 5_000_000_000;

/// Whether the disk itself says that it was written untracked (S4).
pub fn marked(disk: &Path) -> bool {
    let mut command = Command::new("getfattr");
    command.args(["--only-values", "--absolute-names", "--name=user.towline"]).arg(disk);
    let value = command.output().expect("getfattr is there").stdout;
    Mark::decode(&value).is_ok_and(|mark| mark.untracked)
}

fn wall_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
