//! What was under way when a campaign struck: how often each state was hit, and which are missing.

use super::eye::State;
use std::fmt;

/// Of a hundred strikes so many are wanted in each state; what the issue asks for, and a margin.
const WANTED: [(State, u64); 6] = [
    (State::Preserving, 40),
    (State::Sealing, 13),
    (State::Publication, 13),
    (State::Release, 13),
    (State::Recovery, 13),
    (State::Other, 8),
];

/// Counts the states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct States([usize; 6]);

impl States {
    /// One more.
    pub fn count(&mut self, state: State) {
        self.0[state as usize] += 1;
    }

    /// Those of others.
    pub fn add(&mut self, others: &Self) {
        self.0.iter_mut().zip(others.0).for_each(|(all, more)| *all += more);
    }

    /// Strikes in a state.
    pub fn of(&self, state: State) -> usize {
        self.0[state as usize]
    }

    /// All strikes.
    pub fn all(&self) -> usize {
        self.0.iter().sum()
    }

    /// By weight, how much each state is still missing.
    pub fn missing(&self) -> [u64; 6] {
        let soon = self.all() as u64 + 8;
        WANTED.map(|(state, of_hundred)| (soon * of_hundred).saturating_sub(100 * self.of(state) as u64))
    }

    /// Whether the strikes hit what they were meant to: of a hundred and more a third while preserving and a tenth
    /// in each other state; of fewer, each once.
    ///
    /// # Errors
    /// A state that was not hit often enough.
    pub fn hit(&self) -> Result<(), String> {
        let all = self.all();
        for state in State::ALL.into_iter().filter(|state| *state != State::Other) {
            let least = match (all, state) {
                (..100, _) => 1,
                (_, State::Preserving) => all.div_ceil(3),
                _ => all.div_ceil(10),
            };
            if self.of(state) < least {
                return Err(format!("{} of {all} hit {}, less than {least}", self.of(state), state.name()));
            }
        }
        Ok(())
    }
}

impl fmt::Display for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.all().max(1);
        let states = State::ALL.map(|state| {
            let of = self.of(state);
            format!("{} {of} ({} %)", state.name(), of * 100 / all)
        });
        f.write_str(&states.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_that_misses_a_state_is_blind() {
        let mut states = States::default();
        let mut add = |state, count| {
            (0..count).for_each(|_| states.count(state));
            states.hit().is_ok()
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
