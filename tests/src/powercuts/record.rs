//! Drives with a volatile cache, and the record of everything that came to them: one order over all drives. From
//! the record a power cut at any moment can be made, again and again: what was flushed is there, of what was not
//! any part may be missing, to the sector.

use super::image::{Image, SECTOR};
use crate::sim::rng::Rng;
use std::sync::Arc;

/// One thing that came.
#[derive(Clone, Debug)]
pub enum Event {
    /// Bytes were written to a drive.
    Write {
        /// The drive.
        drive: usize,
        /// First byte.
        offset: u64,
        /// What was written.
        data: Arc<[u8]>,
    },
    /// A range of a drive was zeroed.
    Zero {
        /// The drive.
        drive: usize,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// A flush of a drive was answered.
    Flush {
        /// The drive.
        drive: usize,
        /// Events that were answered before it came: what it made durable.
        covers: usize,
    },
    /// The machine said something, and waited until it was heard.
    Mark(String),
}

/// The beginning of a drive is written whole: ext4 has its superblock there, in two sectors with one checksum, and does not
/// mount what half of an update left.
const SUPERBLOCK: u64 = 4096;

/// What a power cut takes of what is not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: only the machine is reset, the drive goes on.
    Nothing,
    /// All of it.
    All,
    /// Any requests, and any such parts of others: so many bytes, aligned, are written whole or not at all.
    Some(u64),
}

/// Everything that came to some drives, from their first content on.
#[derive(Clone, Debug)]
pub struct Record {
    first: Vec<Image>,
    events: Vec<Event>,
}

impl Record {
    /// Of drives with this content.
    pub fn new(first: Vec<Image>) -> Self {
        Self { first, events: Vec::new() }
    }

    /// What came, in its order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    pub(super) fn push(&mut self, event: Event) {
        self.events.push(event);
    }

    /// The marks before a moment, and the number of events before each.
    pub fn marks(&self, until: usize) -> impl DoubleEndedIterator<Item = (usize, &str)> {
        self.events[..until].iter().enumerate().filter_map(|(at, event)| match event {
            Event::Mark(text) => Some((at, text.as_str())),
            _ => None,
        })
    }

    /// Power cuts at moments that rise.
    pub fn cuts(&self) -> Cuts<'_> {
        Cuts { record: self, seen: 0, drives: self.first.iter().map(|image| (image.clone(), 0, 0)).collect() }
    }
}

/// Makes the power cuts.
#[derive(Debug)]
pub struct Cuts<'a> {
    record: &'a Record,
    seen: usize,
    /// For each drive what is durable, the events that are in it, and the events that ought to be.
    drives: Vec<(Image, usize, usize)>,
}

impl Cuts<'_> {
    /// The drives after a power cut behind so many events, no fewer than at the cut before.
    pub fn at(&mut self, moment: usize, losses: &[Loss], rng: &mut Rng) -> Vec<Image> {
        let events = &self.record.events;
        assert!(self.seen <= moment && moment <= events.len());
        for event in &events[self.seen..moment] {
            if let Event::Flush { drive, covers } = *event {
                self.drives[drive].2 = self.drives[drive].2.max(covers);
            }
        }
        self.seen = moment;
        let drives = self.drives.iter_mut().zip(losses).enumerate();
        drives
            .map(|(drive, ((durable, applied, covered), loss))| {
                events[*applied..*covered]
                    .iter()
                    .for_each(|event| apply(durable, drive, event, &mut |_| true));
                *applied = *covered;
                let mut image = durable.clone();
                // One cut loses most, the next little.
                let [whole, sectors] = [rng.below(1001), rng.below(1001)];
                for event in &events[*applied..moment] {
                    match loss {
                        Loss::All => break,
                        Loss::Nothing => apply(&mut image, drive, event, &mut |_| true),
                        Loss::Some(_) if rng.chance(whole) => apply(&mut image, drive, event, &mut |_| true),
                        Loss::Some(part) => {
                            let mut last = (u64::MAX, false);
                            apply(&mut image, drive, event, &mut |place| {
                                let part = if place < SUPERBLOCK { SUPERBLOCK } else { *part };
                                if place / part != last.0 {
                                    last = (place / part, rng.chance(sectors));
                                }
                                last.1
                            });
                        }
                    }
                }
                image
            })
            .collect()
    }
}

/// Brings those sectors of a drive's event that `keep` says into its image.
fn apply(image: &mut Image, drive: usize, event: &Event, keep: &mut dyn FnMut(u64) -> bool) {
    match event {
        Event::Write { drive: at, offset, data } if *at == drive => {
            for (place, sector) in (*offset..).step_by(SECTOR).zip(data.chunks(SECTOR)) {
                if keep(place) {
                    image.write(place, sector);
                }
            }
        }
        // A large range goes as one: its parts would be as many requests.
        Event::Zero { drive: at, offset, length } if *at == drive && keep(*offset) => {
            image.zero(*offset, *length)
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(drive: usize, sector: u64, byte: u8) -> Event {
        Event::Write { drive, offset: sector * SECTOR as u64, data: vec![byte; 2 * SECTOR].into() }
    }

    fn byte(image: &Image, sector: u64) -> u8 {
        let mut bytes = [0; SECTOR];
        image.read(sector * SECTOR as u64, &mut bytes);
        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
        bytes[0]
    }

    #[test]
    fn what_was_flushed_is_there_and_the_rest_may_be_missing_to_the_sector() {
        let mut record = Record::new(vec![Image::new(1 << 16); 2]);
        record.push(write(0, 8, 1));
        record.push(write(1, 8, 2));
        record.push(write(0, 8, 3));
        // The last write was under way when the flush came.
        record.push(Event::Flush { drive: 0, covers: 2 });
        record.push(Event::Mark("so far".into()));
        record.push(Event::Zero { drive: 0, offset: 4096, length: 512 });
        record.push(Event::Flush { drive: 0, covers: 6 });
        assert_eq!(record.marks(6).collect::<Vec<_>>(), [(4, "so far")]);
        let mut rng = Rng::new(1);
        let (mut found, mut cuts) = (std::collections::BTreeSet::new(), record.cuts());
        assert_eq!(byte(&cuts.at(3, &[Loss::All; 2], &mut rng)[0], 8), 0, "no flush was answered");
        for _ in 0..200 {
            let images = cuts.at(5, &[Loss::Some(SECTOR as u64), Loss::All], &mut rng);
            found.insert((byte(&images[0], 8), byte(&images[0], 9)));
            assert_eq!(byte(&images[1], 8), 0);
        }
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [(1, 1), (1, 3), (3, 1), (3, 3)]);
        let images = cuts.at(5, &[Loss::Nothing; 2], &mut rng);
        assert_eq!([byte(&images[0], 8), byte(&images[1], 9)], [3, 2]);
        let images = cuts.at(7, &[Loss::All; 2], &mut rng);
        assert_eq!([byte(&images[0], 8), byte(&images[0], 9)], [0, 3]);
    }
}
