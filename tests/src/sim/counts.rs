//! What happened in a campaign, and how often it mattered, so that a blind simulator is noticed.
//!
//! A fault *mattered* if recovery, the machine or the bytes found are not what they would have been without it; each fault says
//! beside its count what that is. What is no fault but a decision, a state or an effect (a cut, a claim by a row of the attach
//! table, a store's answer that was lost) is only counted.

use std::collections::BTreeMap;

/// How often.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// It happened.
    pub occurred: u64,
    /// It mattered; none: nobody asks whether it did.
    pub mattered: Option<u64>,
}

/// Faults that happened at once, each with whether it mattered.
pub type Happened = Vec<(&'static str, bool)>;

/// Counts by name.
#[derive(Clone, Debug, Default)]
pub struct Counts(pub BTreeMap<String, Count>);

impl Counts {
    fn entry(&mut self, name: &str) -> &mut Count {
        if !self.0.contains_key(name) {
            self.0.insert(name.to_owned(), Count::default());
        }
        self.0.get_mut(name).expect("it is there by now")
    }

    /// One more of this.
    pub fn add(&mut self, name: &str) {
        self.more(name, 1);
    }

    /// So many more of this.
    pub fn more(&mut self, name: &str, count: u64) {
        self.entry(name).occurred += count;
    }

    /// A fault, and whether it mattered.
    pub fn fault(&mut self, name: &str, mattered: bool) {
        self.add(name);
        self.matter(name, mattered);
    }

    /// Some faults.
    pub fn faults(&mut self, happened: Happened) {
        happened.into_iter().for_each(|(name, mattered)| self.fault(name, mattered));
    }

    /// Whether a fault that was counted before has mattered. It is asked at most once of each.
    pub fn matter(&mut self, name: &str, mattered: bool) {
        *self.entry(name).mattered.get_or_insert(0) += u64::from(mattered);
    }

    /// How many of this.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).map_or(0, |count| count.occurred)
    }

    /// How many of this mattered.
    pub fn mattered(&self, name: &str) -> u64 {
        self.0.get(name).and_then(|count| count.mattered).unwrap_or(0)
    }

    /// Both together.
    pub fn join(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            let ours = self.entry(name);
            ours.occurred += count.occurred;
            if let Some(mattered) = count.mattered {
                *ours.mattered.get_or_insert(0) += mattered;
            }
        }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:>9} {:>9}", "occurred", "mattered")?;
        self.0.iter().try_for_each(|(name, Count { occurred, mattered })| {
            let mattered = mattered.map_or_else(String::new, |mattered| mattered.to_string());
            writeln!(f, "{occurred:>9} {mattered:>9} {name}")
        })
    }
}
