//! The event loop: one thread, one ring, all disks of a group, all clients.
//!
//! ```text
//!  clients' sockets ──► connection ──► machine ──► actions ──► ring or plain call ──► disk, sidecar
//!  other threads ────►  port, asker ──►   ▲                         │
//!                                         └───── completed ◄────────┘
//! ```
//!
//! Invariants:
//! - The machine decides, the loop does: actions of one call are executed in order, and what became of an operation
//!   is told to the machine only after the list was executed. So a [`crate::group::Action::Sync`] reaches the kernel
//!   after every completion that was told before (C2).
//! - A cut (C1) is one call of the machine in this loop, with no barrier: nothing is submitted meanwhile.
//! - No synchronous call on sidecar files, unless they lie in memory (S5). Plain calls on a disk only if it lies in
//!   memory and can't do non-blocking I/O.
//! - Writes to disks are never cancelled (W5). When a connection dies, what the machine did not submit is dropped, the
//!   rest ends, and no later connection is served by that disk before (W8).
//! - The clock is read once a round. Nothing is allocated on the way of a request of usual size.
//!
//! Not here: threads per request, timers per request, any decision about tracking.

mod clients;
mod disk;
mod event_loop;
mod execute;
mod machine;
mod pace;
#[cfg(test)]
mod passthrough;
mod port;
mod slab;
#[cfg(test)]
mod tests;

use crate::control::message::Answer;
use crate::error::{Error, Kind};
use crate::group::{Action, Question};
use crate::id::DiskIndex;
use crate::io::schedule;
use crate::sidecar::{OpenDisk, Opened, Opening};
use crossbeam_channel::{Receiver, Sender, bounded};
pub use machine::{Jobs, Machine};
use nix::sys::eventfd::{EfdFlags, EventFd};
pub use port::{Asker, Completion, Operation, Port, Stopped};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Something that goes at an exact time.
pub trait Guard: std::fmt::Debug + Send {}
impl<T: std::fmt::Debug + Send> Guard for T {}

/// How the disks are served.
#[derive(Debug)]
pub struct Options {
    /// Sockets on which NBD clients connect.
    pub nbd: Vec<UnixListener>,
    /// Where that is, for the status.
    pub nbd_address: String,
    /// Clients may not change the disks.
    pub read_only: bool,
    /// Goes when nobody is served any more and before the disks are given up: the sockets' names, which are a
    /// successor's as soon as it has the disks.
    pub names: Vec<Box<dyn Guard>>,
    /// How long a stop waits for disks and sidecars that do not answer, once the clients are gone; see [`STOP_LIMIT`].
    pub stop_limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nbd: Vec::new(),
            nbd_address: String::new(),
            read_only: false,
            names: Vec::new(),
            stop_limit: STOP_LIMIT,
        }
    }
}

/// Sealing a large map on a slow disk takes seconds. Cutting it short costs nothing while the host lives: the maps stay.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What other threads ask of the loop.
#[derive(Debug)]
enum Call {
    /// A user in the same process.
    Operate { disk: DiskIndex, operation: Operation, tag: u64, reply: Sender<Completion> },
    /// A shipper's question.
    Ask { question: Question, reply: Sender<Answer> },
    /// Begin the clean stop.
    Stop,
}

/// A running loop.
#[derive(Debug)]
pub struct EngineHandle {
    entrance: port::Entrance,
    ended: Receiver<Result<(), Error>>,
    thread: JoinHandle<()>,
}

impl EngineHandle {
    /// A door for users in this process.
    pub fn port(&self) -> Port {
        Port::new(self.entrance.clone())
    }

    /// A handle for shippers' questions.
    pub fn asker(&self) -> Asker {
        Asker::new(self.entrance.clone())
    }

    /// Something that begins the clean stop when it is called, from any thread: no new requests, those in flight are
    /// finished, the machine seals its state. [`Self::join`] then returns.
    pub fn stopper(&self) -> impl Fn() + Send + use<> {
        let entrance = self.entrance.clone();
        move || {
            // A loop that has ended needs no stop.
            let _ = entrance.call(Call::Stop);
        }
    }

    /// Begins the clean stop; see [`Self::stopper`].
    pub fn stop(&self) {
        self.stopper()();
    }

    /// Waits for the loop's end.
    ///
    /// # Errors
    /// Why it ended, if not by a stop. [`Kind::Stuck`]: the stop came to no end within its limit; the process should
    /// end now, as if it were killed. Its lock on the disks ends with what is still in the kernel, not before (S2).
    ///
    /// # Panics
    /// If the loop has panicked.
    pub fn join(self) -> Result<(), Error> {
        let ended = self.ended.recv();
        if let Ok(Err(error)) = &ended
            && error.kind() == Kind::Stuck
        {
            // The kernel lets the thread go when its last operation ends: that is what does not.
            return ended.expect("just seen");
        }
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
        ended.expect("a loop that has not panicked says how it ended")
    }
}

/// What a loop serves.
pub(crate) struct Parts<M, J> {
    pub(crate) machine: M,
    pub(crate) jobs: J,
    pub(crate) disks: Vec<OpenDisk>,
    pub(crate) opened: Vec<Opened>,
    /// To be executed before anything else.
    pub(crate) actions: Vec<Action>,
    /// What goes wrong with its transfers.
    #[cfg(test)]
    pub(crate) faults: crate::io::uring::Faults,
}

/// Serves a group on a thread of its own.
///
/// # Errors
/// The kernel has no io_uring for us.
pub fn spawn(opening: Opening, options: Options) -> Result<EngineHandle, Error> {
    let Opening { group, worker, disks, opened, actions, .. } = opening;
    let parts = Parts {
        machine: group,
        jobs: worker,
        disks,
        opened,
        actions,
        #[cfg(test)]
        faults: Default::default(),
    };
    spawn_parts(parts, options)
}

/// [`spawn`] with any machine.
pub(crate) fn spawn_parts<M, J>(parts: Parts<M, J>, options: Options) -> Result<EngineHandle, Error>
where
    M: Machine + Send + 'static,
    J: Jobs + Send + 'static,
{
    let wakeup = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|error| Error::caused(Kind::Other, "an eventfd can't be made", error))?;
    let wakeup = Arc::new(wakeup);
    let (calls, incoming) = bounded(port::CALLS_MAX);
    let entrance = port::Entrance::new(calls, Arc::clone(&wakeup));
    let (ready, began) = bounded(1);
    let (end, ended) = bounded(1);
    let run = move || match event_loop::Engine::new(parts, options, incoming, wakeup) {
        Ok(mut engine) => {
            if let Err(error) = schedule::short_turns() {
                tracing::debug!(%error, "the loop's slices stay as long as they are");
            }
            let _ = ready.send(Ok(()));
            let _ = end.send(engine.run());
        }
        Err(error) => {
            let _ = ready.send(Err(error));
        }
    };
    let thread = std::thread::Builder::new()
        .name("towline-loop".into())
        .spawn(run)
        .map_err(|error| Error::caused(Kind::Other, "the event loop's thread can't be made", error))?;
    match began.recv() {
        Ok(Ok(())) => Ok(EngineHandle { entrance, ended, thread }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::new(Kind::Other, "the event loop ended before it began")),
    }
}
