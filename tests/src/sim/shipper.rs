//! A shipper's process as the world sees it: what it waits for, and its connection.

use super::process::{self, Ask, Flying, Orders, Reply, Running};
use super::store::Request;
use towline::ship::Stop;
use towline_tracker::control::client::ClientError;
use towline_tracker::control::message::{Attached, Refusal};
use towline_tracker::control::sys::ChannelError;
use towline_tracker::id::{AttachNumber, Generation};

/// What a shipper waits for.
#[derive(Debug)]
pub enum Waits {
    /// To begin.
    Begin,
    /// For the world to do what it asked.
    Ask(Ask),
    /// For the tracker's answer: the ticket, and the instant at which it gives up.
    Answer(u64, Option<u64>),
    /// For this instant.
    Until(u64),
    /// For its turn, with an answer.
    Ready(Reply),
}

/// A connection to a tracker.
#[derive(Debug, Default)]
pub struct Connection {
    /// The attach number that it last used.
    pub attach: Option<AttachNumber>,
    /// A newer shipper has attached: nothing more is said but this.
    pub revoked: Option<AttachNumber>,
}

/// What a paused shipper relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stood {
    /// Sessions so far.
    pub session: u64,
    /// The newest attach and the open generation, if a tracker runs.
    pub of: Option<(AttachNumber, Generation)>,
}

/// A shipper.
pub struct Shipper {
    /// Its number.
    pub number: u64,
    /// Its process.
    pub running: Running,
    /// What it waits for.
    pub waits: Waits,
    /// Its connection.
    pub connection: Option<Connection>,
    /// What it was told at its last attach.
    pub attached: Option<Attached>,
    /// Somebody may want it to stop.
    pub stop: Stop,
    /// What it was told to do.
    pub orders: Orders,
    /// Puts on their way.
    pub flying: Vec<Flying>,
    /// It asked for a release last.
    pub releasing: bool,
    /// It does not run before this event (SIGSTOP).
    pub paused: u64,
    /// How things stood when it was paused, until it goes on.
    pub left: Option<Stood>,
    /// Faults that it met and has not coped with yet, each with what it would ask for then.
    pub met: Vec<(&'static str, String)>,
    /// What it asked for last, for a trace.
    pub last: String,
}

/// The connection is gone.
pub fn closed() -> ClientError {
    ClientError::Channel(ChannelError::Closed)
}

impl Shipper {
    /// A new one.
    pub fn new(number: u64, orders: Orders) -> Self {
        let stop = Stop::new();
        Self {
            number,
            running: process::ship(orders.clone(), stop.clone()),
            waits: Waits::Begin,
            connection: None,
            attached: None,
            stop,
            orders,
            flying: Vec::new(),
            releasing: false,
            paused: 0,
            left: None,
            met: Vec::new(),
            last: String::new(),
        }
    }

    /// Whether it would do something at this event and instant.
    pub fn can_step(&self, event: u64, mono: u64) -> bool {
        self.paused <= event
            && match self.waits {
                Waits::Begin | Waits::Ask(_) | Waits::Ready(_) => true,
                Waits::Answer(_, limit) => limit.is_some_and(|limit| limit <= mono),
                Waits::Until(until) => until <= mono,
            }
    }

    /// The connection breaks; what was asked over it has no answer.
    pub fn disconnect(&mut self) {
        self.connection = None;
        if let Waits::Answer(..) = self.waits {
            self.waits = Waits::Ready(Reply::Answer(Err(closed())));
        }
    }

    /// A newer shipper has attached (V9). Whether this one has lost its place by that.
    pub fn revoke(&mut self, newest: AttachNumber) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        if connection.attach.is_none_or(|attach| attach >= newest) {
            return false;
        }
        connection.revoked = Some(newest);
        if let Waits::Answer(..) = self.waits {
            let refused = ClientError::Refused(Refusal::Revoked { newest });
            self.waits = Waits::Ready(Reply::Answer(Err(refused)));
            self.connection = None;
        }
        true
    }

    /// What it asked the store to keep and is not known to be kept: it may come to be, whatever becomes of the process.
    pub fn under_way(self) -> Vec<Flying> {
        let mut all = self.flying;
        if let Waits::Ask(Ask::Store(Request::Put(put))) = self.waits
            && all.iter().all(|other| other.name != put.name)
        {
            all.push(put);
        }
        all
    }

    /// What it does, for a trace.
    pub fn state(&self) -> String {
        let text = format!("{}: {:?} after {}", self.number, self.waits, self.last);
        text.chars().take(120).collect()
    }
}
