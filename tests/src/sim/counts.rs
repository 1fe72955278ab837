//! What happened in a campaign, so that a blind simulator is noticed.

use std::collections::BTreeMap;

/// Counts by name.
#[derive(Clone, Debug, Default)]
pub struct Counts(pub BTreeMap<String, u64>);

impl Counts {
    /// One more of this.
    pub fn add(&mut self, name: &str) {
        self.more(name, 1);
    }

    /// So many more of this.
    pub fn more(&mut self, name: &str, count: u64) {
        match self.0.get_mut(name) {
            Some(so_far) => *so_far += count,
            None => drop(self.0.insert(name.to_owned(), count)),
        }
    }

    /// How many of this.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Both together.
    pub fn join(&mut self, other: &Self) {
        other.0.iter().for_each(|(name, count)| self.more(name, *count));
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|(name, count)| writeln!(f, "{count:>9} {name}"))
    }
}
