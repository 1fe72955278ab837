//! Between the caller, who assembles, and those who do the work for him: workers and putters, whoever they are.

use super::put::{Item, Outcome};
use super::work::Said;
use crate::Result;

/// Who does the work of a cycle.
#[derive(Clone, Copy, Default)]
pub enum Crew<'a> {
    /// Threads of their own, as many as the plan says.
    #[default]
    Threads,
    /// The caller's own thread, one step after another, in an order that somebody chooses: for the simulator.
    InLine(&'a dyn Turns),
}

/// Chooses what is done next where one thread does everything.
pub trait Turns: Sync {
    /// Of so many jobs that may be worked on and so many puts that were begun.
    fn next(&self, jobs: usize, puts: usize) -> Turn;

    /// A put was begun: if the process dies, it may be carried out all the same, at any time.
    fn begun(&self, _put: &Begun<'_>) {}
}

/// What is done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// This job, to its end.
    Work(usize),
    /// This put, to its end.
    Put(usize),
    /// Nothing for a moment.
    Idle,
}

/// A put that was begun.
#[derive(Clone, Copy, Debug)]
pub struct Begun<'a> {
    /// The object's full name.
    pub name: &'a str,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// It is an entry: put only where there is none.
    pub entry: bool,
}

/// What the caller heard.
pub(super) enum Heard {
    /// From planner and workers.
    Said(Said),
    /// From a putter.
    Put(Outcome),
    /// For a moment, nothing.
    Nothing,
}

/// The caller's end.
pub(super) trait Line {
    /// The frames of one more job are in packs: another one may begin.
    fn credit(&mut self);

    /// Hands out what is to be put.
    fn put(&mut self, item: Item);

    /// Waits a moment for what is said; workers are listened to only if it is asked for.
    ///
    /// # Errors
    /// A worker's, the planner's; or one of them is gone.
    fn hear(&mut self, workers: bool) -> Result<Heard>;

    /// The cycle is given up: whoever pauses before another try gives up too.
    fn give_up(&mut self);

    /// Waits for what becomes of a put, after [`Self::give_up`]; `None`: nothing more is told.
    fn last(&mut self) -> Option<Outcome>;
}
