//! How fast a shipper may upload: rules for the rate ([`schedule`]), and a bucket ([`bucket`]) that all upload lanes share.
//!
//! The lanes wait here before each try of a put, in the pipeline and not below the store's trait: there whoever gives the
//! cycle up ends the wait at once, and time is whose the pipeline's is. Entries that are put past the lanes (a claim, the last
//! checkpoint of a cycle that ends early) wait for nothing, but what they take is missing to what follows, and so is what a fold
//! puts between two cycles, part by part. No guest waits for any of it.
//!
//! Besides the rules of the command line there may be a file of them. It is looked at again every second while something
//! is uploaded: a unit needs no `ExecReload=`, and no signal can be lost. One that can't be read any more, or that makes no
//! sense, changes nothing and is told once.

pub mod bucket;
pub mod schedule;

use crate::edge::Edge;
use crate::{Error, Kind, Result};
use bucket::{Bucket, Rate};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use schedule::{Moment, Rule, Schedule};
use std::fs;
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the file is looked at, and rules and rate are asked for while somebody waits.
const LOOK: Duration = Duration::from_secs(1);
/// A file of rules is not longer.
const FILE_MAX: u64 = 1 << 20;

/// What limits the uploads.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Schedule,
    file: Option<(PathBuf, Stamp)>,
    zone: TimeZone,
}

/// By which a changed file is known: whoever replaces it or writes to it changes one of these.
type Stamp = Option<(u64, i64, i64, u64)>;

impl Rules {
    /// No limit.
    pub fn none() -> Self {
        Self { rules: Schedule::default(), file: None, zone: TimeZone::UTC }
    }

    /// One limit, at all times.
    pub fn always(rate: NonZeroU64) -> Self {
        Self { rules: Schedule(vec![Rule::always(Some(rate))]), ..Self::none() }
    }

    /// These rules, in the order in which they stand, and behind them those of the file; times are of this zone.
    ///
    /// # Errors
    /// `Usage` for what is no rule, and for a file that can't be read.
    pub fn new(rules: &[String], file: Option<PathBuf>, zone: TimeZone) -> Result<Self> {
        let wrong = |at: &str, what: String| Error::new(Kind::Usage, format!("{at}: {what}"));
        let rules: std::result::Result<Vec<_>, _> = rules.iter().map(|rule| rule.parse()).collect();
        let rules = Schedule(rules.map_err(|what| wrong("--limit-up", what))?);
        let file = match file {
            None => None,
            Some(path) => {
                let at = format!("--limit-file {}", path.display());
                read(&path).map_err(|what| wrong(&at, what))?;
                Some((path, None))
            }
        };
        Ok(Self { rules, file, zone })
    }

    fn is_none(&self) -> bool {
        self.rules.0.is_empty() && self.file.is_none()
    }
}

fn read(path: &PathBuf) -> std::result::Result<Schedule, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > FILE_MAX {
        return Err("it is too long for a file of rules".to_owned());
    }
    Schedule::of_lines(&fs::read_to_string(path).map_err(|error| error.to_string())?)
}

fn stamp(path: &PathBuf) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.len()))
}

/// The rules in force, and the bucket.
#[derive(Debug)]
pub struct Limit {
    state: Option<Mutex<State>>,
    /// Whoever waits, first come, first served: a large pack is not passed over by small objects for ever.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct State {
    given: Rules,
    /// Of the file, when it last made sense.
    of_file: Schedule,
    looked: Option<Instant>,
    rate: Rate,
    bucket: Bucket,
}

impl Limit {
    /// With a bucket for one pack of this size.
    pub fn new(rules: &Rules, pack_size: usize) -> Self {
        let state = (!rules.is_none()).then(|| {
            let bucket = Bucket::new(pack_size as u64);
            let (of_file, looked) = (Schedule::default(), None);
            Mutex::new(State { given: rules.clone(), of_file, looked, rate: None, bucket })
        });
        Self { state, turn: Mutex::default() }
    }

    /// Waits until so many bytes may be sent; false if the pause was broken off: they are not to be sent.
    pub fn wait(&self, edge: Edge, bytes: u64, pause: &mut dyn FnMut(Duration) -> bool) -> bool {
        let Some(state) = &self.state else { return true };
        let _turn = lock(&self.turn);
        loop {
            let wait = {
                let mut state = lock(state);
                let (now, rate) = state.look(edge);
                state.bucket.take(now, rate, bytes)
            };
            match wait {
                None => return true,
                Some(wait) if pause(wait.min(LOOK)) => {}
                Some(_) => return false,
            }
        }
    }

    /// So many bytes were sent without a wait.
    pub fn charge(&self, edge: Edge, bytes: u64) {
        let Some(state) = &self.state else { return };
        let mut state = lock(state);
        let (now, rate) = state.look(edge);
        state.bucket.charge(now, rate, bytes);
    }
}

/// Nobody leaves a state half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// The time, and the rate in force.
    fn look(&mut self, edge: Edge) -> (Instant, Rate) {
        let now = (edge.now)();
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK) {
            return (now, self.rate);
        }
        self.read_again();
        let moment = moment((edge.wall_ns)(), &self.given.zone);
        let rate = self.of_file.rate_at(moment).or_else(|| self.given.rules.rate_at(moment)).flatten();
        if self.looked.is_none() || rate != self.rate {
            let told =
                rate.map_or("unlimited".to_owned(), |rate| format!("{}/s", crate::cli::bytes(rate.get())));
            tracing::info!(limit = told, "uploads");
        }
        (self.looked, self.rate) = (Some(now), rate);
        (now, rate)
    }

    fn read_again(&mut self) {
        let Some((path, known)) = &mut self.given.file else { return };
        let stamp = stamp(path);
        if self.looked.is_some() && stamp == *known {
            return;
        }
        // Before it is read: what changes meanwhile is read once more.
        *known = stamp;
        match read(path) {
            Ok(rules) => self.of_file = rules,
            Err(what) => tracing::warn!(file = %path.display(), what, "the limits stay as they were"),
        }
    }
}

/// Where in the week a time is, in a zone.
fn moment(wall_ns: u64, zone: &TimeZone) -> Moment {
    let time = Timestamp::from_nanosecond(i128::from(wall_ns)).unwrap_or(Timestamp::UNIX_EPOCH);
    let local = zone.to_datetime(time);
    let day = usize::try_from(local.weekday().to_monday_zero_offset()).expect("0 to 6");
    let minute = |part: i8| u16::try_from(part).expect("not negative");
    Moment { day, minute: minute(local.hour()) * 60 + minute(local.minute()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::by_hand;

    fn rules(rules: &[&str], file: Option<&std::path::Path>) -> Result<Rules> {
        let rules: Vec<_> = rules.iter().map(|rule| (*rule).to_owned()).collect();
        Rules::new(&rules, file.map(Into::into), TimeZone::UTC)
    }

    /// Seconds that a lane waits for so many bytes.
    fn waits(limit: &Limit, bytes: u64) -> f64 {
        let edge = by_hand::EDGE;
        let begun = (edge.now)();
        assert!(limit.wait(edge, bytes, &mut |time| {
            (edge.sleep)(time);
            true
        }));
        edge.since(begun).as_secs_f64()
    }

    fn is_about(seconds: f64, expected: f64) {
        assert!((expected..expected + 0.001).contains(&seconds), "{seconds}, not {expected}");
    }

    #[test]
    fn times_are_of_the_local_zone_also_when_its_clock_is_changed() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let at = |text: &str| {
            let time: Timestamp = text.parse().unwrap();
            let moment = moment(u64::try_from(time.as_nanosecond()).unwrap(), &berlin);
            (moment.day, moment.minute / 60, moment.minute % 60)
        };
        assert_eq!(at("2026-11-27T23:30:00Z"), (5, 0, 30), "Saturday there");
        assert_eq!(at("2026-07-01T06:00:00Z"), (2, 8, 0), "summer");
        // The hour that comes twice has the same rules twice.
        assert_eq!((at("2026-10-25T00:30:00Z"), at("2026-10-25T01:30:00Z")), ((6, 2, 30), (6, 2, 30)));
        assert_eq!((at("2026-03-29T00:59:00Z"), at("2026-03-29T01:00:00Z")), ((6, 1, 59), (6, 3, 0)));
    }

    #[test]
    fn a_wait_takes_what_the_rate_says_and_follows_the_schedule() {
        by_hand::begin("2026-11-27T17:59:50Z");
        let limit = Limit::new(&rules(&["mon-fri 08:00-18:00 1KiB/s"], None).unwrap(), 1 << 10);
        is_about(waits(&limit, 1 << 10), 0.0);
        is_about(waits(&limit, 1 << 10), 1.0);
        limit.charge(by_hand::EDGE, 4 << 10);
        is_about(waits(&limit, 1 << 10), 5.0);
        // What would take an hour ends when the working day does.
        limit.charge(by_hand::EDGE, 3600 << 10);
        let waited = waits(&limit, 1 << 10);
        assert!((3.9..=5.1).contains(&waited), "{waited}");
        is_about(waits(&limit, 1 << 40), 0.0);
    }

    #[test]
    fn a_file_of_rules_counts_as_soon_as_it_changes_and_nonsense_in_it_changes_nothing() {
        by_hand::begin("2026-11-27T12:00:00Z");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limits");
        assert_eq!(rules(&[], Some(&path)).unwrap_err().kind(), Kind::Usage, "it is not there");
        fs::write(&path, "nonsense").unwrap();
        let error = rules(&[], Some(&path)).unwrap_err();
        assert!(error.kind() == Kind::Usage && error.line().contains("line 1"), "{}", error.line());
        // The file stands behind the rules of the command line, and is replaced or written to.
        fs::write(&path, "1KiB/s").unwrap();
        let limit = Limit::new(&rules(&["4KiB/s"], Some(&path)).unwrap(), 1 << 10);
        let second = |rate: u64| {
            // Empties the bucket, and lets the file be looked at.
            waits(&limit, 1 << 10);
            (by_hand::EDGE.sleep)(LOOK);
            limit.charge(by_hand::EDGE, 1 << 10);
            is_about(waits(&limit, 1 << 10), 1024.0 / rate as f64);
        };
        second(1 << 10);
        let replace = |text: &str| {
            fs::write(folder.path().join("new"), text).unwrap();
            fs::rename(folder.path().join("new"), &path).unwrap();
        };
        replace("2KiB/s");
        second(2 << 10);
        replace("2KiB");
        second(2 << 10);
        fs::remove_file(&path).unwrap();
        second(2 << 10);
        replace("# the command line's again\n");
        second(4 << 10);
        // Who waits already hears of it too.
        replace("1KiB/s");
        (by_hand::EDGE.sleep)(LOOK);
        limit.charge(by_hand::EDGE, 100 << 10);
        let mut slept = 0;
        assert!(limit.wait(by_hand::EDGE, 1 << 10, &mut |time| {
            slept += 1;
            (by_hand::EDGE.sleep)(time);
            if slept == 3 {
                replace("unlimited");
            }
            true
        }));
        assert!((3..=4).contains(&slept), "{slept}");
    }

    #[test]
    fn a_wait_that_is_broken_off_sends_nothing_and_takes_nothing() {
        by_hand::begin("2026-11-27T12:00:00Z");
        let limit = Limit::new(&rules(&["1KiB/s"], None).unwrap(), 1 << 10);
        is_about(waits(&limit, 1 << 10), 0.0);
        assert!(!limit.wait(by_hand::EDGE, 1 << 10, &mut |_| false));
        is_about(waits(&limit, 1 << 10), 1.0);
        // Without rules nobody looks at anything.
        assert!(Limit::new(&Rules::none(), 1).wait(by_hand::EDGE, u64::MAX, &mut |_| panic!("a pause")));
    }
}
