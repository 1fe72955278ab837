//! Putters: threads that put objects and entries into the store, and try again when the store has a bad moment.

use super::Counters;
use crate::vault::Group;
use crate::vault::entry::EntryHeader;
use crate::vault::log::Appended;
use crate::vault::publish::Token;
use crate::{Kind, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
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

/// Puts until there is nothing more to put. `over` is closed when the cycle is given up.
pub(super) fn put(
    group: &Group,
    retry: Retry,
    counters: &Counters,
    items: &Receiver<Item>,
    over: &Receiver<()>,
    outcomes: &Sender<Outcome>,
) {
    for item in items {
        let outcome = match item {
            Item::Object { token, name, bytes } => {
                let length = bytes.len() as u64;
                let put = again(retry, over, || Ok(group.store.put(&name, &bytes)?));
                if put.is_ok() {
                    Counters::add(&counters.put, length);
                }
                Outcome::Object(token, put.map(|()| bytes))
            }
            Item::Entry { header, bytes } => {
                Outcome::Entry(again(retry, over, || group.put_entry(&header, &bytes)))
            }
        };
        if outcomes.send(outcome).is_err() {
            return;
        }
    }
}

/// Calls until it succeeds, fails for good, or the tries are used up.
fn again<T>(retry: Retry, over: &Receiver<()>, mut call: impl FnMut() -> Result<T>) -> Result<T> {
    let mut tried = 0;
    loop {
        let error = match call() {
            Err(error) if error.kind() == Kind::Unreachable => error,
            done => return done,
        };
        tried += 1;
        match retry.pause(tried) {
            Some(pause) if slept(pause, over) => {
                tracing::debug!(error = error.line(), tried, "the store failed; trying again");
            }
            _ => return Err(error),
        }
    }
}

/// Sleeps; false if the cycle was given up meanwhile.
fn slept(pause: Duration, over: &Receiver<()>) -> bool {
    pause.is_zero() || matches!(over.recv_timeout(pause), Err(RecvTimeoutError::Timeout))
}
