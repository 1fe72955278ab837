//! What a campaign did.

use super::{Fault, Moment};
use crate::live::history::Time;
use std::collections::BTreeMap;
use std::fmt;

/// How long writes took: before, during and after a fault; microseconds.
pub(super) type Phases = [Vec<u32>; 3];

/// All legs of a campaign.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many.
    pub legs: usize,
    /// By moment, how many began there.
    moments: BTreeMap<Option<Moment>, usize>,
    /// By fault, and whether the disk was written through the page cache.
    latencies: BTreeMap<(Fault, bool), (usize, Phases)>,
    /// How often tracking failed, and was whole again or made up for by a comparison.
    pub degraded: usize,
    /// Trackers killed, hosts died in a fault.
    pub deaths: [usize; 2],
    /// Acknowledged writes, and blocks read, all of them checked.
    pub requests: [usize; 2],
    /// Legs that broke a promise.
    pub failures: usize,
}

impl Tally {
    pub(super) fn begun(&mut self, moment: Option<Moment>) {
        *self.moments.entry(moment).or_default() += 1;
    }

    pub(super) fn took(&mut self, fault: Fault, buffered: bool, phases: Phases) {
        let (legs, all) = self.latencies.entry((fault, buffered)).or_default();
        *legs += 1;
        all.iter_mut().zip(phases).for_each(|(all, mut phase)| all.append(&mut phase));
    }

    /// A moment at which no fault began.
    pub fn missing(&self) -> Option<Moment> {
        Moment::ALL.into_iter().find(|moment| !self.moments.contains_key(&Some(*moment)))
    }
}

/// In microseconds, as far as that goes.
pub(super) fn micros(time: Time) -> u32 {
    u32::try_from(time / 1000).unwrap_or(u32::MAX)
}

/// Median, the 99th of a hundred, the longest; in milliseconds.
fn times(micros: &[u32]) -> String {
    let mut sorted = micros.to_vec();
    sorted.sort_unstable();
    let Some(last) = sorted.len().checked_sub(1) else { return "-".into() };
    let at = |of_hundred: usize| f64::from(sorted[last * of_hundred / 100]) / 1000.0;
    format!("{:.1}/{:.1}/{:.0}", at(50), at(99), at(100))
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moments = self
            .moments
            .iter()
            .map(|(moment, count)| format!("{} {count}", moment.map_or("other", Moment::name)));
        let moments: Vec<String> = moments.collect();
        let faults = self.latencies.iter().map(|((fault, buffered), (legs, phases))| {
            let phases = phases.each_ref().map(|phase| times(phase)).join(", ");
            format!("{}{} {legs}: {phases}", fault.name(), if *buffered { " (buffered)" } else { "" })
        });
        let faults: Vec<String> = faults.collect();
        let ([killed, died], [writes, reads]) = (self.deaths, self.requests);
        write!(
            f,
            "{}; tracking failed {}; tracker killed {killed}, host died {died}; p50/p99/max ms of writes before, during, \
             after: {}; {writes} writes, {reads} blocks read",
            moments.join(", "),
            self.degraded,
            faults.join("; ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_says_what_it_did_and_what_it_missed() {
        let mut tally = Tally::default();
        tally.begun(None);
        Moment::ALL.iter().skip(1).for_each(|moment| tally.begun(Some(*moment)));
        assert_eq!(tally.missing(), Some(Moment::Preserving));
        tally.begun(Some(Moment::Preserving));
        assert_eq!(tally.missing(), None);
        tally.took(Fault::Stalled, true, [(0..=100).map(|ms| ms * 1000).collect(), vec![], vec![1500]]);
        let told = tally.to_string();
        assert!(told.starts_with("other 1, preserving 1, "), "{told}");
        assert!(told.contains("stalled (buffered) 1: 50.0/99.0/100, -, 1.5/1.5/2;"), "{told}");
    }
}
