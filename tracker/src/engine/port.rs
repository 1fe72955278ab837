//! The door for users in the same process: their threads submit reads and changes with their own buffers and get
//! completions. Nothing in it is shaped by a network protocol.

use super::Call;
use crate::control::message::Answer;
use crate::group::{Errno, Question};
use crate::id::DiskIndex;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use nix::sys::eventfd::EventFd;
use std::sync::Arc;

/// Calls that may wait for the loop before callers must.
pub(super) const CALLS_MAX: usize = 1024;

/// What to do with a disk.
#[derive(Debug)]
pub enum Operation {
    /// Read a range.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes, at most [`crate::limits::NBD_PAYLOAD_MAX`].
        length: u32,
    },
    /// Write these bytes.
    Write {
        /// First byte.
        offset: u64,
        /// What to write, at most [`crate::limits::NBD_PAYLOAD_MAX`] bytes.
        data: Vec<u8>,
        /// Durable before it completes.
        fua: bool,
    },
    /// Make a range read as zeros.
    Zero {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// The range need not stay allocated.
        may_punch: bool,
        /// Durable before it completes.
        fua: bool,
    },
    /// Deallocate a range.
    Discard {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Make durable what has completed.
    Flush,
}

/// An operation that ended.
#[derive(Debug)]
pub struct Completion {
    /// As given.
    pub tag: u64,
    /// A read's bytes, nothing for the others.
    pub result: Result<Vec<u8>, Errno>,
}

/// The loop has ended; nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the tracker has stopped")
    }
}

impl std::error::Error for Stopped {}

/// The way into the loop from other threads.
#[derive(Clone, Debug)]
pub(super) struct Entrance {
    calls: Sender<Call>,
    wakeup: Arc<EventFd>,
}

impl Entrance {
    pub(super) fn new(calls: Sender<Call>, wakeup: Arc<EventFd>) -> Self {
        Self { calls, wakeup }
    }

    pub(super) fn call(&self, call: Call) -> Result<(), Stopped> {
        self.calls.send(call).map_err(|_| Stopped)?;
        // It fails only when the counter is full: then the loop is awake anyway.
        let _ = self.wakeup.write(1);
        Ok(())
    }
}

/// A user's handle. A clone has its own completions.
#[derive(Debug)]
pub struct Port {
    entrance: Entrance,
    reply: Sender<Completion>,
    completions: Receiver<Completion>,
}

impl Clone for Port {
    fn clone(&self) -> Self {
        Self::new(self.entrance.clone())
    }
}

impl Port {
    pub(super) fn new(entrance: Entrance) -> Self {
        let (reply, completions) = unbounded();
        Self { entrance, reply, completions }
    }

    /// Submits an operation; it completes with this tag. Waits only if very many calls wait already.
    ///
    /// # Errors
    /// The loop has ended. An operation that was in flight then completes never. With tens of thousands in flight an
    /// operation completes with `EAGAIN`.
    pub fn submit(&self, disk: DiskIndex, operation: Operation, tag: u64) -> Result<(), Stopped> {
        self.entrance.call(Call::Operate { disk, operation, tag, reply: self.reply.clone() })
    }

    /// What has completed, in the order of completion.
    pub fn completions(&self) -> &Receiver<Completion> {
        &self.completions
    }

    /// Does one operation and waits for it.
    ///
    /// # Errors
    /// The operation's error; `ESHUTDOWN` if the loop has ended.
    pub fn call(&self, disk: DiskIndex, operation: Operation) -> Result<Vec<u8>, Errno> {
        let (reply, completion) = bounded(1);
        let call = Call::Operate { disk, operation, tag: 0, reply };
        self.entrance.call(call).map_err(|Stopped| Errno(libc::ESHUTDOWN))?;
        completion.recv().map_or(Err(Errno(libc::ESHUTDOWN)), |completion| completion.result)
    }
}

/// Asks the machine questions from other threads: the control server's handle.
#[derive(Clone, Debug)]
pub struct Asker {
    entrance: Entrance,
}

impl Asker {
    pub(super) fn new(entrance: Entrance) -> Self {
        Self { entrance }
    }

    /// Asks; the answer comes over the channel, at once or much later. The channel closes without one if the loop
    /// ends.
    ///
    /// # Errors
    /// The loop has ended.
    pub fn ask(&self, question: Question) -> Result<Receiver<Answer>, Stopped> {
        let (reply, answer) = bounded(1);
        self.entrance.call(Call::Ask { question, reply })?;
        Ok(answer)
    }
}
