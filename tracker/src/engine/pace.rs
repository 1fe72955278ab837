//! When to let requests gather.
//!
//! A client that keeps many requests in flight wakes the loop with each of them: two threads then hand every request
//! to each other, and the waking costs more than the work. If the loop sleeps for a moment instead, although
//! something may have come, it finds several at once. A client that waits for each reply would only lose by it. Which
//! kind is there shows by trying: a pause after which more than one request is there was worth it, and the next one
//! is taken too; one that brought nothing is not repeated for a while, ever longer. Nor is one worth it when requests
//! are large: the client would fill its socket meanwhile and fall asleep itself.

use std::time::Duration;

/// How long requests may gather: about as long as it takes a client to send three.
pub(super) const PAUSE: Duration = Duration::from_micros(20);
/// Requests that must be there after a pause to make it worth the time.
const WORTH: u32 = 2;
/// Bytes per round from which requests are large: a third of what a unix socket holds.
const BYTES_MAX: u64 = 64 << 10;
/// Busy rounds without a pause after one that was not worth it, at first.
const REST_MIN: u32 = 8;
/// The same, at most: a client that waits for each reply loses at most this fraction of a pause.
const REST_MAX: u32 = 1024;

/// Decides round by round.
#[derive(Debug)]
pub(super) struct Pace {
    paused: bool,
    rest: u32,
    left: u32,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { paused: false, rest: REST_MIN, left: REST_MIN }
    }

    /// A round served so many requests of so many bytes: whether to let more gather before the next.
    #[inline]
    pub(super) fn pause(&mut self, served: u32, bytes: u64) -> bool {
        if self.paused {
            self.paused = served >= WORTH && bytes < BYTES_MAX;
            self.rest = if self.paused { REST_MIN } else { (self.rest * 2).min(REST_MAX) };
            self.left = self.rest;
        } else if served > 0 {
            self.left -= 1;
            self.paused = self.left == 0;
        }
        self.paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_with_many_requests_is_gathered_for_and_one_that_waits_is_not() {
        let mut pace = Pace::new();
        let pauses = (0..1000).filter(|_| pace.pause(1, 4096)).count();
        assert!(pauses <= 8, "{pauses}");
        let many = (0..2000).filter(|_| pace.pause(5, 20_480)).count();
        assert!(many >= 900, "{many}");
        let mut pace = Pace::new();
        let large = (0..2000).filter(|_| pace.pause(3, 196_608)).count();
        assert!(large <= 9, "{large}");
        let mut pace = Pace::new();
        // Nothing to do is no reason for anything.
        assert!((0..100).all(|_| !pace.pause(0, 0)));
    }
}
