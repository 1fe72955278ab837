//! When a fault begins, as the tracker's header and the vault tell it.

use crate::kills::eye::{Eye, Look, State};
use std::time::{Duration, Instant};
use towline_tracker::map::header::Road;

/// How long a moment is waited for before whatever is there is taken.
const AIM: Duration = Duration::from_secs(5);

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// An exact freeze is live, before-images are being copied for it, and more are wanted.
    Preserving,
    /// The disks are synced, the change log is being sealed.
    Sealing,
    /// There is no freeze.
    Idle,
    /// The cut is made, writes of the generation that it ended are in flight.
    Cut,
    /// The shipper has put its index or its entry; the tracker does not know of it yet.
    Publication,
    /// The anchor is being stored, the logs are being deleted.
    Release,
}

impl Moment {
    /// All, in their order.
    pub const ALL: [Self; 6] =
        [Self::Preserving, Self::Sealing, Self::Idle, Self::Cut, Self::Publication, Self::Release];

    /// Its words in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preserving => "preserving",
            Self::Sealing => "sealing",
            Self::Idle => "no freeze",
            Self::Cut => "cut",
            Self::Publication => "publication",
            Self::Release => "release",
        }
    }

    /// Waits for it, or for [`AIM`]; with the programs stopped it is looked at what it is. Gives a look of moments ago.
    pub(super) fn wait(self, eye: &mut Eye) -> Look {
        let begun = Instant::now();
        let mut before = eye.look();
        eye.log_grew();
        while begun.elapsed() < AIM {
            let found = match (self, eye.road()) {
                (Self::Idle, Road::None) | (Self::Cut, Road::Draining) => true,
                (Self::Sealing, Road::Synced) | (Self::Release, Road::Releasing) => true,
                (Self::Publication, Road::Sealed) => eye.log_grew(),
                (Self::Preserving, Road::Sealed) => {
                    let now = eye.look();
                    let found = now.preserves_since(&before);
                    if !found {
                        before = now;
                    }
                    found
                }
                _ => false,
            };
            if found {
                break;
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        before
    }

    /// What it is; none of all for a freeze that nobody does anything with.
    pub(super) fn found(before: &Look, now: &Look) -> Option<Self> {
        match now.road {
            Road::None => Some(Self::Idle),
            Road::Draining => Some(Self::Cut),
            _ => match State::found(before, now) {
                State::Sealing => Some(Self::Sealing),
                State::Release => Some(Self::Release),
                State::Publication => Some(Self::Publication),
                State::Preserving => Some(Self::Preserving),
                State::Recovery | State::Other => None,
            },
        }
    }
}
