//! Putting objects and entries into the store, and trying again when the store has a bad moment.

use super::Counters;
use super::assemble::Cycle;
use crate::vault::entry::EntryHeader;
use crate::vault::log::Appended;
use crate::vault::publish::Token;
use crate::{Kind, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// How a store's bad moments are sat out within a cycle. Longer outages end the cycle; the shipping loop waits.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// The first pause; each next one is twice as long.
    pub first: Duration,
    /// Tries in all.
    pub tries: u32,
}

impl Retry {
    /// Pauses of 0.2 to 12.8 seconds: 25 seconds in all.
    pub const STORE: Self = Self { first: Duration::from_millis(200), tries: 8 };

    /// The pause before try number `tried` (from 1), if there is to be one.
    pub(super) fn pause(&self, tried: u32) -> Option<Duration> {
        (tried < self.tries).then(|| self.first * (1 << (tried - 1).min(16)))
    }
}

/// What is to be put.
pub(super) enum Item {
    /// A pack or an index, under a random name.
    Object { token: Token, name: String, bytes: Vec<u8> },
    /// An entry, after everything that it needs.
    Entry { header: EntryHeader, bytes: Vec<u8> },
}

/// What became of it.
pub(super) enum Outcome {
    /// With the buffer, to be used again.
    Object(Token, Result<Vec<u8>>),
    Entry(Result<Appended>),
}

/// Puts an item, again as long as the store has a bad moment and `pause` comes back in good time: false if the cycle was
/// given up meanwhile.
pub(super) fn put(cycle: &Cycle<'_>, item: Item, pause: &mut dyn FnMut(Duration) -> bool) -> Outcome {
    let (group, retry) = (cycle.group, cycle.retry);
    match item {
        Item::Object { token, name, bytes } => {
            let length = bytes.len() as u64;
            let put = again(retry, pause, || Ok(group.store.put(&name, &bytes)?));
            if put.is_ok() {
                Counters::add(&cycle.counters.put, length);
            }
            Outcome::Object(token, put.map(|()| bytes))
        }
        Item::Entry { header, bytes } => {
            Outcome::Entry(again(retry, pause, || group.put_entry(&header, &bytes)))
        }
    }
}

/// Calls until it succeeds, fails for good, or the tries are used up.
fn again<T>(
    retry: Retry,
    pause: &mut dyn FnMut(Duration) -> bool,
    mut call: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut tried = 0;
    loop {
        let error = match call() {
            Err(error) if error.kind() == Kind::Unreachable => error,
            done => return done,
        };
        tried += 1;
        match retry.pause(tried) {
            Some(time) if time.is_zero() || pause(time) => {
                tracing::debug!(error = error.line(), tried, "the store failed; trying again");
            }
            _ => return Err(error),
        }
    }
}

/// Sleeps; false if `over` was closed meanwhile.
pub(super) fn paused(time: Duration, over: &Receiver<()>) -> bool {
    matches!(over.recv_timeout(time), Err(RecvTimeoutError::Timeout))
}
