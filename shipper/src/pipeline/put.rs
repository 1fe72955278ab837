//! Putting objects and entries into the store, and trying again when the store has a bad moment.

use super::Counters;
use super::assemble::Cycle;
use crate::edge::Draw;
use crate::vault::entry::EntryHeader;
use crate::vault::log::Appended;
use crate::vault::publish::Token;
use crate::{Error, Kind, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// How a store's bad moments are sat out within a cycle. Longer outages end the cycle; the shipping loop waits.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// The first pause, at most; each next one is twice as long.
    pub first: Duration,
    /// Tries in all.
    pub tries: u32,
}

impl Retry {
    /// Pauses of up to 0.2 to 12.8 seconds: 13 to 25 seconds in all.
    pub const STORE: Self = Self { first: Duration::from_millis(200), tries: 8 };

    /// The pause after try number `tried` (from 1), if there is to be another: between half of the most and all of it, so
    /// that lanes and hosts that failed together do not come back together.
    pub(super) fn pause(&self, tried: u32, draw: Draw) -> Option<Duration> {
        let most = (tried < self.tries).then(|| self.first * (1 << (tried - 1).min(16)))?;
        let drawn = u32::from_le_bytes(draw()[12..].try_into().expect("four bytes"));
        Some(most / 2 + (most / 2).mul_f64(f64::from(drawn) / f64::from(u32::MAX)))
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

/// Puts an item, when the limit of the rate lets it go, and again as long as the store has a bad moment and `pause` comes back
/// in good time: false if the cycle was given up meanwhile.
pub(super) fn put(cycle: &Cycle<'_>, item: Item, pause: &mut dyn FnMut(Duration) -> bool) -> Outcome {
    let group = cycle.group;
    match item {
        Item::Object { token, name, bytes } => {
            let length = bytes.len() as u64;
            let put = again(cycle, length, pause, || Ok(group.store.put(&name, &bytes)?));
            if put.is_ok() {
                Counters::add(&cycle.counters.put, length);
            }
            Outcome::Object(token, put.map(|()| bytes))
        }
        Item::Entry { header, bytes } => {
            let length = bytes.len() as u64;
            Outcome::Entry(again(cycle, length, pause, || group.put_entry(&header, &bytes)))
        }
    }
}

/// Calls, which sends so many bytes, until it succeeds, fails for good, or the tries are used up.
fn again<T>(
    cycle: &Cycle<'_>,
    length: u64,
    pause: &mut dyn FnMut(Duration) -> bool,
    mut call: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut tried = 0;
    loop {
        if !cycle.limit.wait(cycle.edge, length, pause) {
            // Who gave the cycle up says why.
            return Err(Error::new(Kind::Stopped, "given up while it waited for its turn to be uploaded"));
        }
        let error = match call() {
            Err(error) if error.kind() == Kind::Unreachable => error,
            done => return done,
        };
        tried += 1;
        match cycle.retry.pause(tried, cycle.edge.draw) {
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
