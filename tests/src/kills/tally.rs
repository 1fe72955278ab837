//! What a campaign did.

use super::eye::State;
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

/// Of a hundred kills so many are wanted in each state; what the issue asks for, and a margin.
const WANTED: [(State, u64); 6] = [
    (State::Preserving, 40),
    (State::Sealing, 13),
    (State::Publication, 13),
    (State::Release, 13),
    (State::Recovery, 13),
    (State::Other, 8),
];

impl Tally {
    /// Kills in a state.
    pub fn of(&self, state: State) -> usize {
        self.kills.iter().filter(|kill| kill.state == state).count()
    }

    fn by(&self, victim: Victim) -> usize {
        self.kills.iter().filter(|kill| kill.victim == victim).count()
    }

    /// By weight, how much each state is still missing.
    pub fn missing(&self) -> [u64; 6] {
        let soon = self.kills.len() as u64 + 8;
        WANTED.map(|(state, of_hundred)| (soon * of_hundred).saturating_sub(100 * self.of(state) as u64))
    }

    /// Whether the kills hit what they were meant to: of a hundred and more a third while preserving and a tenth in each
    /// other state; of fewer, each once.
    ///
    /// # Errors
    /// A state that was not hit often enough.
    pub fn hit(&self) -> Result<(), String> {
        let all = self.kills.len();
        for state in State::ALL.into_iter().filter(|state| *state != State::Other) {
            let least = match (all, state) {
                (..100, _) => 1,
                (_, State::Preserving) => all.div_ceil(3),
                _ => all.div_ceil(10),
            };
            if self.of(state) < least {
                return Err(format!(
                    "{} of {all} kills hit {}, less than {least}",
                    self.of(state),
                    state.name()
                ));
            }
        }
        Ok(())
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

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.kills.len().max(1);
        let states = State::ALL.map(|state| {
            let of = self.of(state);
            format!("{} {of} ({} %)", state.name(), of * 100 / all)
        });
        let victims = Victim::ALL.map(|victim| format!("{} {}", victim.name(), self.by(victim)));
        let [writes, reads] = self.requests;
        write!(
            f,
            "{}; {}; p50/max until service {}, until the guests go on {}, until the next shipper {}; {} shippers stopped \
             and replaced, for {}; {writes} writes, {reads} blocks read, {} points compared",
            victims.join(", "),
            states.join(", "),
            times(&self.service),
            times(&self.guests),
            times(&self.shipping),
            self.stopped.len(),
            times(&self.stopped),
            self.points
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_that_misses_a_state_is_blind() {
        let mut tally = Tally::default();
        let mut add = |state, count| {
            (0..count).for_each(|_| tally.kills.push(Kill { victim: Victim::Tracker, state }));
            tally.hit().is_ok()
        };
        assert!(!add(State::Preserving, 1));
        assert!(!add(State::Sealing, 1) && !add(State::Publication, 1) && !add(State::Release, 1));
        assert!(add(State::Recovery, 1), "each once");
        assert!(!add(State::Preserving, 96), "of a hundred each tenth");
        add(State::Sealing, 19);
        add(State::Publication, 19);
        add(State::Release, 19);
        assert!(add(State::Recovery, 19));
        assert!(!add(State::Other, 200), "and a third while preserving");
    }
}
