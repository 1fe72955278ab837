//! The tracker as the loop sees it: the control client, with errors that say what to do.

use super::{Answered, Control, Stop, Surroundings};
use crate::edge::Edge;
use crate::source::OpenedFreeze;
use crate::{Error, Kind, Result};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use towline_tracker::control::client::ClientError;
use towline_tracker::control::message::{Attached, Refusal};
use towline_tracker::id::{Anchor, AttachNumber, CutId, Generation, TargetId};

/// How often an idle shipper asks whether it is still the newest, beside listening for being told.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// A failure of the control connection as what can be done about it.
pub fn refusal(socket: &Path, error: ClientError) -> Error {
    let at = socket.display();
    let (kind, line) = match &error {
        ClientError::Connect(cause) => match cause.kind() {
            io::ErrorKind::InvalidInput => {
                (Kind::Usage, format!("{at}: a socket's path has at most 107 bytes; give a shorter one"))
            }
            io::ErrorKind::PermissionDenied => {
                (Kind::Denied, format!("{at}: this user may not connect; see the tracker's --control-group"))
            }
            _ => (
                Kind::TrackerNotRunning,
                format!("no tracker answers at {at}; start towline-tracker, or check --tracker"),
            ),
        },
        ClientError::Channel(_) => {
            (Kind::TrackerNotRunning, format!("the tracker at {at} closed the connection"))
        }
        ClientError::Deadline => (Kind::TrackerNotRunning, format!("the tracker at {at} does not answer")),
        ClientError::Stopped => (Kind::Stopped, "stopped while waiting for the tracker".to_owned()),
        ClientError::Unexpected => {
            (Kind::TrackerRefused, format!("the tracker at {at} gave an answer to another question"))
        }
        ClientError::Refused(refusal) => match refusal {
            Refusal::Revoked { newest } => {
                (Kind::Revoked, format!("a newer shipper (attach number {newest}) took over; this one ends"))
            }
            Refusal::Version(_) => (
                Kind::TrackerRefused,
                format!("{refusal}; install towline and towline-tracker of one version"),
            ),
            Refusal::Denied => {
                (Kind::Denied, format!("{at}: this user may not do that; see the tracker's --control-group"))
            }
            refusal => (Kind::TrackerRefused, format!("the tracker refuses: {refusal}")),
        },
    };
    match error {
        ClientError::Connect(cause) => Error::caused(kind, line, cause),
        ClientError::Channel(cause) => Error::caused(kind, line, cause),
        _ => Error::new(kind, line),
    }
}

/// The shipper's place at a tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mine {
    /// The newest attach number that is not another shipper's.
    attach: AttachNumber,
    /// We asked for the next one, and there was no answer: it may be taken, and then it is ours.
    unanswered: bool,
}

impl Mine {
    /// Whether another shipper attached since, by what a tracker says of itself. Attach numbers rise for ever: they
    /// survive in the maps, and maps that begin anew begin at `session << 32`, which is no shipper's number.
    fn revoked(self, newest: u64) -> bool {
        newest > self.attach.0 + u64::from(self.unanswered) && newest & 0xffff_ffff != 0
    }

    /// The tracker's newest number is no other shipper's: whether the attach arrived is known.
    fn seen(self, newest: u64) -> Self {
        Self { attach: self.attach.max(AttachNumber(newest)), unanswered: false }
    }
}

/// A connection.
pub(super) struct Tracker<'a> {
    socket: PathBuf,
    client: Box<dyn Control>,
    edge: Edge,
    stop: &'a Stop,
    mine: Option<Mine>,
    asked: Instant,
}

impl<'a> Tracker<'a> {
    /// Connects. With `mine`, the place that this process had before its connection broke, ends if somebody newer has
    /// attached meanwhile: attaching would take it back.
    pub(super) fn connect(
        surroundings: &Surroundings<'_>,
        socket: &Path,
        stop: &'a Stop,
        mine: Option<Mine>,
    ) -> Result<Self> {
        let client = (surroundings.connect)(socket, stop).map_err(|error| refusal(socket, error))?;
        let (socket, edge) = (socket.to_owned(), surroundings.edge);
        let mut tracker = Self { socket, client, edge, stop, mine, asked: (edge.now)() };
        tracker.is_newest()?;
        Ok(tracker)
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut dyn Control) -> Answered<T>) -> Result<T> {
        call(&mut *self.client).map_err(|error| refusal(&self.socket, error))
    }

    pub(super) fn attach(&mut self, target: TargetId) -> Result<Attached> {
        // Until the answer is here, who asks for a number may have it and not know (V9).
        if let Some(mine) = &mut self.mine {
            mine.unanswered = true;
        }
        let attached = self.call(|client| client.attach(target))?;
        self.mine = Some(Mine { attach: attached.attach, unanswered: false });
        Ok(attached)
    }

    /// The place that [`Self::attach`] took, or may have taken.
    pub(super) fn mine(&self) -> Option<Mine> {
        self.mine
    }

    fn number(&self) -> AttachNumber {
        self.mine.expect("attached before").attach
    }

    pub(super) fn cut(&mut self, full: bool) -> Result<OpenedFreeze> {
        let attach = self.number();
        self.call(|client| client.cut(attach, full))
    }

    pub(super) fn reopen(&mut self, cut: CutId) -> Result<OpenedFreeze> {
        let attach = self.number();
        self.call(|client| client.reopen(attach, cut))
    }

    pub(super) fn confirm(&mut self, cut: CutId) -> Result<bool> {
        let attach = self.number();
        self.call(|client| client.confirm(attach, cut))
    }

    pub(super) fn shipped(&mut self, cut: CutId, entry: [u8; 32]) -> Result<()> {
        let attach = self.number();
        self.call(|client| client.shipped(attach, cut, entry))
    }

    pub(super) fn release(&mut self, target: TargetId, cut: CutId, anchor: Anchor) -> Result<()> {
        let attach = self.number();
        self.call(|client| client.release(target, attach, cut, anchor))
    }

    pub(super) fn undo(&mut self, cut: CutId) -> Result<()> {
        let attach = self.number();
        self.call(|client| client.undo(attach, cut))
    }

    pub(super) fn resynchronize(&mut self, reason: &str) -> Result<()> {
        let attach = self.number();
        self.call(|client| client.resynchronize(attach, reason))
    }

    /// The names of the disks of which the tracker has tracked everything since the cut that ended this generation, in one
    /// open map.
    pub(super) fn tracked_behind(&mut self, generation: Generation) -> Result<Vec<String>> {
        let status = self.call(|client| client.status())?;
        let same = status.generation == generation.next().0;
        let tracked = status.disks.into_iter().filter(|disk| same && !disk.degraded && disk.resync.is_none());
        Ok(tracked.map(|disk| disk.name).collect())
    }

    /// Listens, without waiting: a stop, a newer shipper, a tracker that is gone.
    pub(super) fn tick(&mut self) -> Result<()> {
        self.stop.check()?;
        self.call(|client| client.idle())?;
        if self.edge.since(self.asked) >= ASK_EVERY {
            self.is_newest()?;
        }
        Ok(())
    }

    /// Whether we are still the newest: an error if not.
    pub(super) fn is_newest(&mut self) -> Result<()> {
        self.asked = (self.edge.now)();
        let Some(mine) = self.mine else { return Ok(()) };
        let newest = self.call(|client| client.status())?.attach;
        if mine.revoked(newest) {
            let newest = AttachNumber(newest);
            return Err(refusal(&self.socket, ClientError::Refused(Refusal::Revoked { newest })));
        }
        self.mine = Some(mine.seen(newest));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_number_after_an_unanswered_attach_may_be_ours() {
        let session = 7 << 32;
        for (unanswered, newest, revoked) in [
            (false, 3, false),
            (false, 4, true),
            (true, 3, false),
            (true, 4, false),
            (true, 5, true),
            (false, 1 << 32, false),
            (true, (1 << 32) + 1, true),
        ] {
            let mine = Mine { attach: AttachNumber(session + 3), unanswered };
            assert_eq!(mine.revoked(session + newest), revoked, "{newest}, unanswered: {unanswered}");
        }
    }
}
