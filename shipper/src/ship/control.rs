//! What the loop asks a tracker, and its surroundings: everything that it touches beside its store.

use super::Stop;
use crate::edge::Edge;
use crate::pipeline::{Crew, Plan};
use crate::source::OpenedFreeze;
use std::path::Path;
use towline_tracker::control::client::{Client, ClientError};
use towline_tracker::control::message::{Attached, Status};
use towline_tracker::id::{Anchor, AttachNumber, CutId, TargetId};

/// What an answer comes to.
pub type Answered<T> = Result<T, ClientError>;

/// A connection to a tracker: the calls of [`Client`], which says what each is.
#[allow(missing_docs, clippy::missing_errors_doc)] // As there.
pub trait Control {
    fn attach(&mut self, target: TargetId) -> Answered<Attached>;
    fn cut(&mut self, attach: AttachNumber, full: bool) -> Answered<OpenedFreeze>;
    fn reopen(&mut self, attach: AttachNumber, cut: CutId) -> Answered<OpenedFreeze>;
    fn confirm(&mut self, attach: AttachNumber, cut: CutId) -> Answered<bool>;
    fn shipped(&mut self, attach: AttachNumber, cut: CutId, entry: [u8; 32]) -> Answered<()>;
    fn release(&mut self, target: TargetId, attach: AttachNumber, cut: CutId, anchor: Anchor)
    -> Answered<()>;
    fn undo(&mut self, attach: AttachNumber, cut: CutId) -> Answered<()>;
    fn resynchronize(&mut self, attach: AttachNumber, reason: &str) -> Answered<()>;
    fn status(&mut self) -> Answered<Status>;
    fn idle(&mut self) -> Answered<()>;
}

impl Control for Client {
    fn attach(&mut self, target: TargetId) -> Answered<Attached> {
        self.attach(target)
    }

    fn cut(&mut self, attach: AttachNumber, full: bool) -> Answered<OpenedFreeze> {
        self.cut(attach, full).map(OpenedFreeze::from)
    }

    fn reopen(&mut self, attach: AttachNumber, cut: CutId) -> Answered<OpenedFreeze> {
        self.reopen(attach, cut).map(OpenedFreeze::from)
    }

    fn confirm(&mut self, attach: AttachNumber, cut: CutId) -> Answered<bool> {
        self.confirm(attach, cut)
    }

    fn shipped(&mut self, attach: AttachNumber, cut: CutId, entry: [u8; 32]) -> Answered<()> {
        self.shipped(attach, cut, entry)
    }

    fn release(
        &mut self,
        target: TargetId,
        attach: AttachNumber,
        cut: CutId,
        anchor: Anchor,
    ) -> Answered<()> {
        self.release(target, attach, cut, anchor)
    }

    fn undo(&mut self, attach: AttachNumber, cut: CutId) -> Answered<()> {
        self.undo(attach, cut)
    }

    fn resynchronize(&mut self, attach: AttachNumber, reason: &str) -> Answered<()> {
        self.resynchronize(attach, reason)
    }

    fn status(&mut self) -> Answered<Status> {
        self.status()
    }

    fn idle(&mut self) -> Answered<()> {
        self.idle()
    }
}

/// Where the loop runs.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Time and names.
    pub edge: Edge,
    /// Connects to the tracker at a socket, until somebody wants the loop to stop.
    pub connect: fn(&Path, &Stop) -> Answered<Box<dyn Control>>,
    /// Who works in the pipeline.
    pub crew: Crew<'a>,
    /// The pipeline's sizes; `None`: as memory and cores allow.
    pub plan: Option<Plan>,
}

impl Surroundings<'_> {
    /// This process, its host, and the trackers there.
    pub fn here() -> Self {
        let connect = |socket: &Path, stop: &Stop| {
            let wish = stop.clone();
            let client = Client::connect_until(socket, move || wish.is_asked())?;
            Ok(Box::new(client) as Box<dyn Control>)
        };
        Self { edge: Edge::SYSTEM, connect, crew: Crew::Threads, plan: None }
    }
}
