//! Where a crash or an error strikes: every step of the simulation is counted here.

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
    crash_at: Option<u64>,
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

    /// Arms a crash at a step; `None` disarms.
    pub fn arm(&self, step: Option<u64>) {
        self.0.borrow_mut().crash_at = step;
    }

    /// How many calls in a thousand fail.
    pub fn set_errors(&self, per_mille: u64) {
        self.0.borrow_mut().errors = per_mille;
    }

    /// Counts a step. True: the crash strikes here.
    pub fn step(&self) -> bool {
        let mut state = self.0.borrow_mut();
        state.steps += 1;
        if state.crash_at == Some(state.steps) {
            state.crash_at = None;
            return true;
        }
        false
    }

    /// Counts a step of a call into the file system; the crash unwinds from here, after `torn` was told how much of the
    /// call still happened: 0 to 1000.
    ///
    /// # Errors
    /// An injected error.
    pub fn call(&self, torn: impl FnOnce(u64)) -> io::Result<()> {
        if self.step() {
            let part = self.0.borrow_mut().rng.below(1001);
            torn(part);
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
