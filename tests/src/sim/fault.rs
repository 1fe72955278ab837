//! Where a crash or an error strikes: every step of the simulation is counted here.

use super::leaves::{Fate, Leaves};
use super::rng::Rng;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;

/// What a crash inside a job or the start unwinds with.
#[derive(Debug)]
pub struct Crashed;

#[derive(Debug)]
struct State {
    steps: u64,
    crash_at: Option<(u64, Leaves)>,
    errors: u64,
    /// Of the device, and of space.
    injected: [u64; 2],
    rng: Rng,
}

/// Counts steps, and makes the one that was chosen a crash.
#[derive(Clone, Debug)]
pub struct Faults(Rc<RefCell<State>>);

impl Faults {
    /// No fault armed.
    pub fn new(rng: Rng) -> Self {
        Self(Rc::new(RefCell::new(State { steps: 0, crash_at: None, errors: 0, injected: [0; 2], rng })))
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.0.borrow().steps
    }

    /// Errors injected so far.
    pub fn injected(&self) -> u64 {
        self.injected_of().iter().sum()
    }

    /// Those of the device (EIO), and those of space (ENOSPC).
    pub fn injected_of(&self) -> [u64; 2] {
        self.0.borrow().injected
    }

    /// Arms a crash at a step, and says what it leaves of the call that it strikes; `None` disarms.
    pub fn arm(&self, crash: Option<(u64, Leaves)>) {
        self.0.borrow_mut().crash_at = crash;
    }

    /// How many calls in a thousand fail.
    pub fn set_errors(&self, per_mille: u64) {
        self.0.borrow_mut().errors = per_mille;
    }

    /// Counts a step. True: the crash strikes here.
    pub fn step(&self) -> bool {
        self.strike().is_some()
    }

    /// Counts a step: what the crash leaves that strikes here.
    fn strike(&self) -> Option<Leaves> {
        let mut state = self.0.borrow_mut();
        state.steps += 1;
        let steps = state.steps;
        state.crash_at.take_if(|(step, _)| *step == steps).map(|(_, leaves)| leaves)
    }

    /// Counts a step of a call into the file system; the crash unwinds from here, after `torn` was told how much of the
    /// call still happened: 0 to 1000.
    ///
    /// # Errors
    /// An injected error.
    pub fn call(&self, torn: impl FnOnce(u64)) -> io::Result<()> {
        if let Some(leaves) = self.strike() {
            torn(Fate::new(leaves).first(1000) as u64);
            std::panic::resume_unwind(Box::new(Crashed));
        }
        let mut state = self.0.borrow_mut();
        let errors = state.errors;
        if errors > 0 && state.rng.chance(errors) {
            let full = state.rng.chance(500);
            state.injected[usize::from(full)] += 1;
            return Err(io::Error::from_raw_os_error(if full { 28 } else { 5 }));
        }
        Ok(())
    }
}
