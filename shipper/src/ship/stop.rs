//! The wish to stop: by a signal, or by whoever runs the loop in its own process.

use crate::{Error, Kind, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
