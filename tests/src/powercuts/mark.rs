//! What a machine tells us, each word at its place in the record of its drives.

use super::image::SECTOR;
use crate::kills::eye::State;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// Something that a machine says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// All of a writer's batches up to this one are acknowledged and flushed.
    Durable {
        /// The machine's life.
        life: u64,
        /// The writer.
        writer: u64,
        /// The batch.
        batch: u64,
    },
    /// The tracker serves, a point was made, and nobody writes: the status and the point, as JSON.
    Recovered(String),
    /// What is under way from here on.
    State(State),
    /// The vault's log holds this entry, and a freeze is released upon it.
    Entry(u64),
    /// The tracker has given up on its sidecar, and the guests go on (S4).
    Degraded,
    /// The machine waits to be cut off.
    Cut,
    /// Something that ought not to be.
    Failed(String),
    /// What it was to do is done.
    Done,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Durable { life, writer, batch } => write!(f, "durable {life} {writer} {batch}"),
            Self::Recovered(json) => write!(f, "recovered {json}"),
            Self::State(state) => write!(f, "state {}", state.name()),
            Self::Entry(number) => write!(f, "entry {number}"),
            Self::Degraded => f.write_str("degraded"),
            Self::Cut => f.write_str("cut"),
            Self::Failed(why) => write!(f, "failed {why}"),
            Self::Done => f.write_str("done"),
        }
    }
}

impl Mark {
    /// Reads one.
    pub fn read(text: &str) -> Option<Self> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        Some(match word {
            "durable" => {
                let mut numbers = rest.split(' ').map(str::parse);
                let mut next = || numbers.next()?.ok();
                Self::Durable { life: next()?, writer: next()?, batch: next()? }
            }
            "recovered" => Self::Recovered(rest.into()),
            "state" => Self::State(State::ALL.into_iter().find(|state| state.name() == rest)?),
            "entry" => Self::Entry(rest.parse().ok()?),
            "degraded" => Self::Degraded,
            "cut" => Self::Cut,
            "failed" => Self::Failed(rest.into()),
            "done" => Self::Done,
            _ => return None,
        })
    }
}

/// Where a machine says it.
#[derive(Clone, Debug)]
pub struct Marks(Arc<File>);

impl Marks {
    /// On this device.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn open(device: &Path) -> io::Result<Self> {
        let file = File::options().write(true).custom_flags(libc::O_DIRECT).open(device)?;
        Ok(Self(Arc::new(file)))
    }

    /// Says it; when this returns it is in the record.
    ///
    /// # Panics
    /// If it can't be said.
    pub fn say(&self, mark: &Mark) {
        const ALIGNMENT: usize = 4096;
        let text = mark.to_string();
        let length = text.len().next_multiple_of(SECTOR);
        let mut bytes = vec![0; length + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        bytes[start..start + text.len()].copy_from_slice(text.as_bytes());
        self.0.write_all_at(&bytes[start..start + length], 0).expect("a mark can be made");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_said() {
        let states = State::ALL.map(Mark::State);
        let others = [
            Mark::Durable { life: 3, writer: 1, batch: 70_000 },
            Mark::Recovered("{\"a b\": 1}".into()),
            Mark::Entry(7),
            Mark::Degraded,
            Mark::Cut,
            Mark::Failed("it is not so".into()),
            Mark::Done,
        ];
        for mark in states.into_iter().chain(others) {
            assert_eq!(Mark::read(&mark.to_string()), Some(mark));
        }
        assert_eq!(Mark::read("durable 1 x 2"), None);
    }
}
