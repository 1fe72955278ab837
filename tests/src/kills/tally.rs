//! What a campaign did.

use super::eye::State;
use super::states::States;
use std::fmt;
use std::time::Duration;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The tracker.
    Tracker,
    /// The shipper.
    Shipper,
    /// Both at once.
    Both,
}

impl Victim {
    /// All.
    pub const ALL: [Self; 3] = [Self::Tracker, Self::Shipper, Self::Both];

    fn name(self) -> &'static str {
        match self {
            Self::Tracker => "tracker",
            Self::Shipper => "shipper",
            Self::Both => "both",
        }
    }
}

/// One kill.
#[derive(Clone, Copy, Debug)]
pub struct Kill {
    /// Who.
    pub victim: Victim,
    /// In what state.
    pub state: State,
}

/// All kills of a campaign, and what came after them.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// In their order.
    pub kills: Vec<Kill>,
    /// From a tracker's kill to a request that its successor answers.
    pub service: Vec<Duration>,
    /// From a tracker's kill until the guests of every client go on.
    pub guests: Vec<Duration>,
    /// From a shipper's kill until its successor is attached.
    pub shipping: Vec<Duration>,
    /// How long each shipper was stopped that another one replaced meanwhile.
    pub stopped: Vec<Duration>,
    /// Points that were made under the kills and compared.
    pub points: usize,
    /// Acknowledged writes, and blocks read, all of them checked.
    pub requests: [usize; 2],
    /// Legs that broke a promise.
    pub failures: usize,
}

impl Tally {
    /// Which states were hit.
    pub fn states(&self) -> States {
        let mut states = States::default();
        self.kills.iter().for_each(|kill| states.count(kill.state));
        states
    }

    fn by(&self, victim: Victim) -> usize {
        self.kills.iter().filter(|kill| kill.victim == victim).count()
    }
}

/// Median and greatest, in seconds.
fn times(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    match sorted.last() {
        Some(last) => format!("{:.2}/{:.2} s", sorted[sorted.len() / 2].as_secs_f64(), last.as_secs_f64()),
        None => "-".into(),
    }
}

/// How many took longer than the second within which service is to be back.
fn late(times: &[Duration]) -> String {
    let late = times.iter().filter(|time| **time > Duration::from_secs(1)).count();
    format!("{late} of {} later than 1 s", times.len())
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let victims = Victim::ALL.map(|victim| format!("{} {}", victim.name(), self.by(victim)));
        let [writes, reads] = self.requests;
        write!(
            f,
            "{}; {}; p50/max until service {} ({}), until the guests go on {}, until the next shipper {}; {} shippers stopped \
             and replaced, for {}; {writes} writes, {reads} blocks read, {} points compared",
            victims.join(", "),
            self.states(),
            times(&self.service),
            late(&self.service),
            times(&self.guests),
            times(&self.shipping),
            self.stopped.len(),
            times(&self.stopped),
            self.points
        )
    }
}
