//! The wish to stop: by a signal, or by whoever runs the loop in its own process.

use crate::{Error, Kind, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often it is looked whether somebody asked.
const LOOK: Duration = Duration::from_millis(50);

/// Set by the handler; a process has one.
static SIGNALLED: AtomicBool = AtomicBool::new(false);

/// Somebody may want the loop to stop. Clones share the wish.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    signals: bool,
}

impl Stop {
    /// Stops when [`Self::ask`] is called.
    pub fn new() -> Self {
        Self::default()
    }

    /// Also stops at SIGINT and SIGTERM from now on.
    ///
    /// # Errors
    /// If the handlers can't be installed.
    pub fn on_signals() -> Result<Self> {
        extern "C" fn handler(_signal: libc::c_int) {
            SIGNALLED.store(true, Ordering::Relaxed);
        }
        let action = SigAction::new(SigHandler::Handler(handler), SaFlags::SA_RESTART, SigSet::empty());
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            // SAFETY: the handler only stores to an atomic.
            unsafe { sigaction(signal, &action) }
                .map_err(|error| Error::io("signals can't be handled", error.into()))?;
        }
        Ok(Self { signals: true, ..Self::default() })
    }

    /// Asks the loop to stop.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether it shall stop.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.signals && SIGNALLED.load(Ordering::Relaxed)
    }

    /// Calls `end` when the loop was asked to stop and has not ended `grace` later: in the middle of a put into a store
    /// that is slow or hangs, or of a read. Ending the process there is what a kill does, and as sound: nothing is in
    /// the vault before it is whole (V1), and the next shipper goes on from there (V2).
    ///
    /// # Errors
    /// If there can be no thread for it.
    pub fn insist(&self, grace: Duration, end: impl FnOnce() + Send + 'static) -> Result<()> {
        let stop = self.clone();
        let watch = move || {
            while !stop.is_asked() {
                std::thread::sleep(LOOK);
            }
            std::thread::sleep(grace);
            end();
        };
        let watcher = std::thread::Builder::new().name("stop".to_owned()).spawn(watch);
        watcher.map(drop).map_err(|error| Error::io("signals can't be watched for", error))
    }

    /// # Errors
    /// `Stopped` if it shall stop.
    pub(super) fn check(&self) -> Result<()> {
        match self.is_asked() {
            true => {
                Err(Error::new(Kind::Stopped, "stopped; nothing is lost, the next run goes on from here"))
            }
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_stop_when_asked_is_ended_and_nobody_else() {
        let (ended, end) = std::sync::mpsc::channel();
        let stop = Stop::new();
        stop.insist(Duration::from_millis(1), move || ended.send(()).unwrap()).unwrap();
        assert!(end.recv_timeout(4 * LOOK).is_err(), "nobody asked");
        stop.ask();
        end.recv_timeout(Duration::from_secs(60)).unwrap();
    }
}
