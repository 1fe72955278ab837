//! A group's log: reading entries, checking the chain, finding the head (V3), putting the next entry (V8).

use super::Group;
use super::entry::{self, ATTACHED, Draft, Entry, EntryHeader, EntryRef};
use super::envelope::TAG;
use super::limits::ENTRY_MAX;
use super::names;
use crate::store::{Put, StoreErrorKind};
use crate::{Error, Result};

/// Objects in one request for a listing.
const PAGE: usize = 1000;

/// What became of a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The entry is in the log, by this put or by an earlier one whose answer was lost (V8).
    Ours(EntryHeader),
    /// Somebody else's entry has the place.
    Theirs(EntryHeader),
}

impl Group {
    /// Entry `seq` without what is attached; `None` if there is none.
    ///
    /// # Errors
    /// `Damage`, `NewerVault`, the store's.
    pub fn entry(&self, seq: u64) -> Result<Option<Entry>> {
        let name = names::entry(self.seal.group, seq);
        // Entries with much attached are read around it.
        let Some(header) = self.entry_header(seq)? else { return Ok(None) };
        let offset = ATTACHED as u64 + header.attached;
        let length = usize::try_from(header.payload).expect("checked against the limit") + TAG;
        // One byte more, so that a longer object shows.
        let section = self.store.get_range(&name, offset, length + 1)?;
        if section.len() != length {
            return Err(Error::damage(&name, "its length is not what its header says"));
        }
        let payload = entry::decode_payload(&self.seal, &header, &section)?;
        Ok(Some(Entry { header, payload }))
    }

    /// Entry `seq`, which must be there.
    ///
    /// # Errors
    /// `Damage`, also if it is missing; `NewerVault`, the store's.
    pub fn entry_at(&self, seq: u64) -> Result<Entry> {
        self.entry(seq)?.ok_or_else(|| Error::damage(&names::entry(self.seal.group, seq), "it is missing"))
    }

    /// The header of entry `seq`; `None` if there is none.
    ///
    /// # Errors
    /// `Damage`, `NewerVault`, the store's.
    pub fn entry_header(&self, seq: u64) -> Result<Option<EntryHeader>> {
        match self.store.get_range(&names::entry(self.seal.group, seq), 0, ATTACHED) {
            Ok(bytes) => entry::decode_header(&self.seal, seq, &bytes).map(Some),
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn exists(&self, seq: u64) -> Result<bool> {
        match self.store.len(&names::entry(self.seal.group, seq)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The greatest seq that a listing shows above `after`, if any. A hint: a listing may be stale.
    fn greatest_listed(&self, after: u64) -> Result<Option<u64>> {
        let prefix = names::log(self.seal.group);
        let mut start = names::entry(self.seal.group, after);
        let mut greatest = None;
        loop {
            let page = self.store.list(&prefix, &start, PAGE)?;
            for object in &page {
                match names::parse(&object.name) {
                    Some(names::Parsed::Entry { seq, .. }) => greatest = greatest.max(Some(seq)),
                    _ => return Err(Error::damage(&object.name, "it is no name of an entry")),
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => start.clone_from(&last.name),
                _ => return Ok(greatest),
            }
        }
    }

    /// The log's last entry, 0 if it is empty, by galloping and bisecting from `known` (an anchor's seq, or the head
    /// of before; 0 if nothing is known).
    ///
    /// # Errors
    /// `Damage` if a listing shows entries beyond a gap: a writer must not put there (V3). The store's.
    pub fn head(&self, known: u64) -> Result<u64> {
        let listed = self.greatest_listed(known)?;
        let start = listed.unwrap_or(0).max(known);
        let (mut low, mut high) = if start == 0 || self.exists(start)? {
            // Gallop: a stale listing may not show the newest.
            let (mut low, mut step) = (start, 1);
            while self.exists(low.saturating_add(step))? {
                low += step;
                step *= 2;
            }
            (low, low.saturating_add(step))
        } else {
            (0, start)
        };
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.exists(middle)? { low = middle } else { high = middle }
        }
        let beyond =
            if low < known { self.greatest_listed(low)? } else { listed.filter(|listed| *listed > low) };
        match beyond {
            Some(beyond) => Err(Error::damage(
                &names::entry(self.seal.group, low + 1),
                format_args!("it is missing, although entry {beyond} is there"),
            )),
            None => Ok(low),
        }
    }

    /// Headers of the entries `[from, to]`, each checked to be chained to the one before.
    ///
    /// # Errors
    /// `Damage`, `NewerVault`, the store's.
    pub fn chain(&self, from: u64, to: u64) -> Result<Vec<EntryHeader>> {
        let mut headers: Vec<EntryHeader> = Vec::new();
        for seq in from.max(1)..=to {
            let name = names::entry(self.seal.group, seq);
            let header = self.entry_header(seq)?.ok_or_else(|| Error::damage(&name, "it is missing"))?;
            let expected = match headers.last() {
                Some(before) => Some(before.hash()),
                None if seq == 1 => Some([0; 32]),
                None => None,
            };
            if expected.is_some_and(|expected| expected != header.previous) {
                return Err(Error::damage(&name, "it does not follow the entry before it"));
            }
            if headers.last().is_some_and(|before| header.epoch < before.epoch) {
                return Err(Error::damage(&name, "its writer epoch is older than that of the entry before"));
            }
            headers.push(header);
        }
        Ok(headers)
    }

    /// Puts a draft behind `head`. An answer that was lost is looked up: the entry with the same header at this place is
    /// ours (V8).
    ///
    /// # Errors
    /// The store's, when it is still not known after looking whether the entry is there: try again with the same
    /// draft and head.
    pub fn append(&self, head: Option<EntryRef>, epoch: u64, draft: &Draft) -> Result<Appended> {
        let (header, bytes) = draft.encode(&self.seal, head, epoch);
        let name = names::entry(self.seal.group, header.seq);
        assert!(bytes.len() <= ENTRY_MAX);
        match self.store.put_if_absent(&name, &bytes) {
            Ok(Put::Created) => Ok(Appended::Ours(header)),
            Ok(Put::AlreadyExists) => {
                let found = self.entry_header(header.seq)?;
                Ok(judge(&header, found.ok_or_else(|| Error::damage(&name, "it is there and it is not"))?))
            }
            Err(error) => match self.entry_header(header.seq) {
                Ok(Some(found)) => Ok(judge(&header, found)),
                _ => Err(error.into()),
            },
        }
    }
}

/// Whether the entry found at our place is ours (V8): same header, and so same lineage, cut and content. Other bytes are
/// no matter, every try is sealed anew. Only this writer's own tries can be the same: a restart begins with a claim.
pub fn judge(ours: &EntryHeader, found: EntryHeader) -> Appended {
    if found.hash() == ours.hash() { Appended::Ours(found) } else { Appended::Theirs(found) }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Change, World, simple};
    use super::*;
    use crate::Kind;
    use crate::store::Store;

    fn world(points: u64) -> World {
        let mut world = World::new();
        for block in 0..points {
            world.cycle(&simple([(block, Change::Text(1))]));
        }
        world
    }

    #[test]
    fn the_head_is_found_from_any_number_known() {
        for points in [0, 1, 2, 5, 17] {
            let world = world(points);
            let head = if points == 0 { 0 } else { points + 1 };
            for known in [0, 1, 2, head.saturating_sub(1), head, head + 1, head + 7, 1 << 40] {
                assert_eq!(world.group.head(known).unwrap(), head, "{points} points, {known} known");
            }
        }
    }

    #[test]
    fn a_gap_stops_a_writer() {
        let world = world(6);
        world.store.delete(&names::entry(world.group.id(), 4)).unwrap();
        for known in [0, 2, 3] {
            // Nobody puts below what a listing shows; who builds on entry 4 or walks over it stops.
            assert_eq!(world.group.head(known).unwrap(), 7);
        }
        assert_eq!(world.group.chain(1, 7).unwrap_err().kind(), Kind::Damage);
        world.store.delete(&names::entry(world.group.id(), 7)).unwrap();
        world.store.delete(&names::entry(world.group.id(), 5)).unwrap();
        // Known 7 is gone, bisecting ends at a gap below 6.
        assert_eq!(world.group.head(7).unwrap_err().kind(), Kind::Damage);
    }

    #[test]
    fn an_entry_of_another_chain_is_found() {
        let (world, other) = (world(4), world(4));
        // The same vault id and group would be needed to open it at all: copy the store before both go on.
        let mut one = world;
        let copy = one.store.copy();
        one.cycle(&simple([(9, Change::Text(1))]));
        let mut two = other;
        two.switch(&copy);
        (two.head, two.epoch, two.base) =
            (one.group.chain(5, 5).unwrap().last().map(|h| h.reference()), 1, None);
        two.cycle(&simple([(8, Change::Text(1))]));
        one.cycle(&simple([(9, Change::Text(1))]));
        let name = names::entry(one.group.id(), 6);
        one.store.overwrite(&name, two.store.get(&name, 1 << 20).unwrap());
        assert!(one.group.entry(6).unwrap().is_some(), "by itself it is sound");
        assert_eq!(one.group.chain(5, 7).unwrap_err().kind(), Kind::Damage);
    }
}
