//! A token bucket as a value: no clock, no wait. Whoever wants to send asks with the time that it is.
//!
//! It holds tokens for at most one pack, `depth`. Who wants to send fewer bytes waits until there are tokens for all; who
//! wants to send more waits for a full one, and leaves a debt. So in any time T at most T x rate bytes go out and either a
//! pack, or the largest object if that is larger.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// Bytes a second; `None`: as fast as it goes.
pub type Rate = Option<NonZeroU64>;

const NANOS: i128 = 1_000_000_000;

/// The bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    depth: u64,
    /// In billionths of a byte, so that nothing is rounded away; below zero it is a debt.
    level: i128,
    /// What has come in since then is not in it.
    filled: Option<Instant>,
}

impl Bucket {
    /// A full one.
    pub fn new(depth: u64) -> Self {
        Self { depth, level: i128::from(depth) * NANOS, filled: None }
    }

    /// Takes tokens for `bytes` that are to be sent now at this rate; or answers how long to wait before asking again.
    pub fn take(&mut self, now: Instant, rate: Rate, bytes: u64) -> Option<Duration> {
        let Some(limit) = rate else {
            self.charge(now, rate, bytes);
            return None;
        };
        self.fill(now, limit);
        let missing = i128::from(bytes.min(self.depth)) * NANOS - self.level;
        if missing <= 0 {
            self.level -= i128::from(bytes) * NANOS;
            return None;
        }
        let rate = i128::from(limit.get());
        // At most a year: nobody waits so long without asking.
        let nanos = ((missing + rate - 1) / rate).min(366 * 86_400 * NANOS);
        Some(Duration::from_nanos(u64::try_from(nanos).expect("a year fits")))
    }

    /// Takes tokens for what was sent without asking.
    pub fn charge(&mut self, now: Instant, rate: Rate, bytes: u64) {
        match rate {
            Some(limit) => {
                self.fill(now, limit);
                self.level -= i128::from(bytes) * NANOS;
            }
            // The line was used as it liked: a limit begins with nothing.
            None => (self.level, self.filled) = (0, Some(now)),
        }
    }

    fn fill(&mut self, now: Instant, rate: NonZeroU64) {
        let since = self.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        let nanos = i128::try_from(since.as_nanos().min(366 * 86_400 * NANOS as u128)).expect("a year fits");
        self.level = (self.level + nanos * i128::from(rate.get())).min(i128::from(self.depth) * NANOS);
        self.filled = self.filled.max(Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lanes that each send one object after another, as soon as they are let: when, and how much.
    fn sent(depth: u64, rates: &[(u64, Rate)], lanes: usize, objects: &[u64]) -> Vec<(u64, u64)> {
        let begin = Instant::now();
        let mut bucket = Bucket::new(depth);
        let rate = |now: u64| rates.iter().rev().find(|(from, _)| *from <= now).and_then(|(_, rate)| *rate);
        let mut objects = objects.iter().copied();
        // Each lane's next question, and what it is for.
        let mut asks: Vec<_> = (0..lanes).filter_map(|_| Some((0, objects.next()?))).collect();
        let mut sent = Vec::new();
        while let Some(lane) = (0..asks.len()).min_by_key(|lane| asks[*lane].0) {
            let (now, bytes) = asks[lane];
            match bucket.take(begin + Duration::from_nanos(now), rate(now), bytes) {
                Some(wait) => asks[lane].0 = now + (wait.as_nanos() as u64).min(1_000_000_000),
                None => {
                    sent.push((now, bytes));
                    match objects.next() {
                        Some(next) => asks[lane].1 = next,
                        None => drop(asks.swap_remove(lane)),
                    }
                }
            }
        }
        sent
    }

    proptest! {
        /// Goal: what the bucket promises of every window. Method: lanes that send whenever they are let; all windows that
        /// begin with an object.
        #[test]
        fn in_no_window_goes_out_more_than_the_rate_and_a_pack(
            depth in 1..5000u64,
            rate in 1..5000u64,
            lanes in 1..5usize,
            objects in prop::collection::vec(1..8000u64, 1..60),
        ) {
            let limit = NonZeroU64::new(rate);
            let sent = sent(depth, &[(0, limit)], lanes, &objects);
            prop_assert_eq!(sent.len(), objects.len(), "all go out");
            let most = depth.max(*objects.iter().max().unwrap());
            for window in [10, 1, 100_000] {
                for (first, (begin, _)) in sent.iter().enumerate() {
                    let inside = sent[first..].iter().take_while(|(time, _)| *time < begin + window * 1_000_000_000);
                    let bytes: u64 = inside.map(|(_, bytes)| bytes).sum();
                    prop_assert!(bytes <= window * rate + most, "{} in {} s", bytes, window);
                }
            }
        }

        /// Who always has something to send loses nothing of the rate.
        #[test]
        fn who_waits_as_long_as_it_is_told_gets_the_rate(
            depth in 1000..5000u64,
            rate in 1..5000u64,
            objects in prop::collection::vec(1..1000u64, 1..60),
        ) {
            let sent = sent(depth, &[(0, NonZeroU64::new(rate))], 1, &objects);
            let bytes: u64 = objects.iter().sum();
            let last = sent.last().unwrap().0;
            // A nanosecond for each that was rounded up.
            prop_assert!(u128::from(last) * u128::from(rate) <= u128::from(bytes) * 1_000_000_000 + 60 * u128::from(rate));
        }

        /// A limit that changes: in no window more than the highest of the rates in it.
        #[test]
        fn a_limit_that_changes_holds_from_the_next_question_on(
            depth in 1..2000u64,
            rates in prop::collection::vec(1..3000u64, 1..5),
            objects in prop::collection::vec(1..4000u64, 1..60),
        ) {
            let changes: Vec<_> =
                rates.iter().enumerate().map(|(n, rate)| (n as u64 * 5_000_000_000, NonZeroU64::new(*rate))).collect();
            let sent = sent(depth, &changes, 2, &objects);
            let most = depth.max(*objects.iter().max().unwrap());
            let highest = rates.iter().max().unwrap();
            for (first, (begin, _)) in sent.iter().enumerate() {
                let inside = sent[first..].iter().take_while(|(time, _)| *time < begin + 10_000_000_000);
                prop_assert!(inside.map(|(_, bytes)| bytes).sum::<u64>() <= 10 * highest + most);
            }
        }
    }

    #[test]
    fn without_a_limit_nobody_waits_and_a_limit_then_begins_with_nothing() {
        let (begin, mut bucket) = (Instant::now(), Bucket::new(100));
        assert_eq!(bucket.take(begin, None, u64::MAX), None);
        let rate = NonZeroU64::new(10);
        assert_eq!(bucket.take(begin, rate, 20), Some(Duration::from_secs(2)));
        assert_eq!(bucket.take(begin + Duration::from_secs(2), rate, 20), None);
        // A clock that stands still or is taken from another processor takes nothing back.
        bucket.charge(begin, rate, 10);
        assert_eq!(bucket.take(begin, rate, 10), Some(Duration::from_secs(2)));
        // A year, and longer ones, are no overflow.
        assert!(Bucket::new(u64::MAX).take(begin, NonZeroU64::new(1), u64::MAX).is_none());
        bucket.charge(begin, rate, u64::MAX);
        assert_eq!(bucket.take(begin, rate, 1), Some(Duration::from_secs(366 * 86_400)));
        assert_eq!(bucket.take(begin + Duration::from_secs(1 << 40), NonZeroU64::new(u64::MAX), 100), None);
    }
}
