//! A group's log: reading entries, checking the chain, finding the head (V3), putting the next entry (V8).

use super::Group;
use super::catalog::Catalog;
use super::entry::{self, ATTACHED, Draft, Entry, EntryHeader, EntryKind, EntryRef};
use super::envelope::TAG;
use super::limits::ENTRY_MAX;
use super::{names, numbers};
use crate::store::{self, Put, StoreErrorKind};
use crate::{Error, Kind, Result};
use towline_tracker::mutant;

/// What became of a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The entry is in the log, by this put or by an earlier one whose answer was lost (V8).
    Ours(EntryHeader),
    /// Somebody else's entry has the place.
    Theirs(EntryHeader),
}

impl Group {
    /// The full name of entry `seq`.
    pub fn name_of(&self, seq: u64) -> String {
        names::entry(self.seal.group, seq)
    }

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

    pub(super) fn exists(&self, seq: u64) -> Result<bool> {
        self.has_object(&names::entry(self.seal.group, seq))
    }

    /// The greatest seq that a listing shows above `after`, if any. A hint: a listing may be stale.
    fn greatest_listed(&self, after: u64) -> Result<Option<u64>> {
        let (prefix, start) = (names::log(self.seal.group), names::entry(self.seal.group, after));
        let mut greatest = None;
        store::each(&*self.store, &prefix, &start, |object| {
            let Some(names::Parsed::Entry { seq, .. }) = names::parse(&object.name) else {
                return Err(Error::damage(&object.name, "it is no name of an entry"));
            };
            greatest = greatest.max(Some(seq));
            Ok(())
        })?;
        Ok(greatest)
    }

    /// The log's last entry, 0 if it is empty, by galloping and bisecting from `known` (an anchor's seq, or the head
    /// of before; 0 if nothing is known).
    ///
    /// # Errors
    /// As [`Self::tail`].
    pub fn head(&self, known: u64) -> Result<u64> {
        Ok(self.tail(known)?.0)
    }

    /// The log's last entry, as [`Self::head`], and the catalog that was the newest when it was found.
    ///
    /// # Errors
    /// `Damage` if a listing shows entries beyond a gap: a writer must not put there (V3); if the log ends below its
    /// catalog's boundary. The store's.
    pub fn tail(&self, known: u64) -> Result<(u64, Option<Catalog>)> {
        let mut catalog = self.catalog(0)?;
        loop {
            let head = self.head_above(catalog.as_ref().map_or(0, Catalog::bound), known)?;
            // A boundary that rose meanwhile may have taken away what was looked at.
            match self.newer_catalog(catalog.as_ref().map_or(0, |catalog| catalog.number))? {
                Some(newer) => catalog = Some(newer),
                None => return Ok((head?, catalog)),
            }
        }
    }

    /// Whether the log or its catalog have gone on since: then what was not found may have been let go.
    ///
    /// # Errors
    /// `Damage` of the newer catalog; the store's.
    pub fn has_moved(&self, head: u64, catalog: u64) -> Result<bool> {
        Ok(self.exists(head + 1)? || self.newer_catalog(catalog)?.is_some())
    }

    /// Numbers count from the boundary on: what is there at or below it says nothing. The inner error is one that a newer
    /// boundary may explain.
    fn head_above(&self, bound: u64, known: u64) -> Result<Result<u64>> {
        let listed = self.greatest_listed(known.max(bound))?;
        let start = listed.unwrap_or(0).max(known).max(bound);
        let low = bound + numbers::last(start - bound, |number| self.exists(bound.saturating_add(number)))?;
        if low == bound && bound > 0 {
            let what =
                "it is missing, although the catalog knows it; was the vault put back to an older copy?";
            return Ok(Err(Error::damage(&names::entry(self.seal.group, bound + 1), what)));
        }
        let beyond =
            if low < known { self.greatest_listed(low)? } else { listed.filter(|listed| *listed > low) };
        Ok(match beyond {
            Some(beyond) => Err(Error::damage(
                &names::entry(self.seal.group, low + 1),
                format_args!(
                    "it is missing, although entry {beyond} is there; if the vault was put back to an older copy under a \
                     writer, what stands behind the gap must be removed"
                ),
            )),
            None if low == u64::MAX => {
                Err(Error::damage(&names::entry(self.seal.group, low), "nothing can follow it"))
            }
            None => Ok(low),
        })
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

    /// Puts a draft behind `head`, and once more if the store has a bad moment.
    ///
    /// # Errors
    /// As [`Self::put_entry`].
    pub fn append(&self, head: Option<EntryRef>, epoch: u64, draft: &Draft) -> Result<Appended> {
        let (header, bytes) = draft.encode(&self.seal, head, epoch);
        // Who claims looks himself whether it still counts, and whether what it builds on does.
        let put = || match draft.kind {
            EntryKind::Claim => self.place(&header, &bytes),
            _ => self.put_entry(&header, &bytes),
        };
        put().or_else(|error| match error.kind() {
            Kind::Unreachable => put(),
            _ => Err(error),
        })
    }

    /// Puts an entry at its place. The entry that is there already is ours if it has the same header (V8).
    ///
    /// Schedule that the look at the catalog is for (V14): 1. a shipper stops before its put of entry s, for weeks; 2. others
    /// claim, the boundary rises above s, entry s is deleted; 3. the put finds nothing at s and succeeds. What it made does
    /// not exist for any reader, so nothing may follow from it.
    ///
    /// # Errors
    /// `Revoked` if the log went on so far meanwhile that what stands at this place does not exist; as [`Self::place`].
    pub fn put_entry(&self, header: &EntryHeader, bytes: &[u8]) -> Result<Appended> {
        let placed = self.place(header, bytes);
        // Mutant: what was put is there.
        if mutant::active("no-look-at-catalog") {
            return placed;
        }
        let late = match &placed {
            Ok(Appended::Ours(_)) => true,
            // The entry before may be gone because it was let go.
            Err(error) => error.kind() == Kind::Damage,
            Ok(Appended::Theirs(_)) => false,
        };
        if late
            && let Some(newer) = self.newer_catalog(self.known.number())?
            && !newer.has(header.reference())
        {
            let line = format!(
                "entry {} came too late: under another shipper group {} has gone on to entry {} and further; start again",
                header.seq,
                self.name,
                newer.bound()
            );
            return Err(Error::new(Kind::Revoked, line));
        }
        placed
    }

    /// Puts an entry at its place, without a look at whether that place counts.
    ///
    /// # Errors
    /// `Damage` if the entry before is gone (V3): the vault was put back to an older copy, or emptied, under its writer,
    /// who must not put behind a gap. The store's. After one that may pass, the entry may be there all the same and even be read, but perhaps not for
    /// good: its folder could not be synced. So it is not looked for, but put again: the store that finds it there
    /// makes it durable before it says so.
    fn place(&self, header: &EntryHeader, bytes: &[u8]) -> Result<Appended> {
        assert!(bytes.len() <= ENTRY_MAX);
        // Mutant: what was there once is there.
        if header.seq > 1 && !mutant::active("put-behind-gap") {
            match self.entry_header(header.seq - 1) {
                // The link is zero behind what can't be read, which the word to take over left.
                Err(error) if error.kind() == Kind::Damage && header.previous == [0; 32] => {}
                before => {
                    let before = before?.ok_or_else(|| self.gone(header.seq - 1))?;
                    if before.hash() != header.previous {
                        return Ok(Appended::Theirs(before));
                    }
                }
            }
        }
        let name = names::entry(self.seal.group, header.seq);
        if self.store.put_if_absent(&name, bytes)? == Put::Created {
            return Ok(Appended::Ours(*header));
        }
        let found = self.entry_header(header.seq)?;
        Ok(judge(header, found.ok_or_else(|| Error::damage(&name, "it is there and it is not"))?))
    }

    /// An entry that was there is not: the vault was put back, or is not there at all at the moment.
    pub(super) fn gone(&self, seq: u64) -> Error {
        match self.store.len(names::DESCRIPTOR) {
            Ok(_) => {
                let what = "it was there and is missing now; was the vault put back? start again to compare";
                Error::damage(&names::entry(self.seal.group, seq), what)
            }
            Err(error) if error.kind() == StoreErrorKind::NotFound => {
                let line = format!("the vault at {} is gone; is it mounted?", self.store.url());
                Error::new(Kind::Unreachable, line)
            }
            Err(error) => error.into(),
        }
    }
}

/// Whether the entry found at our place is ours (V8): same header, and so same lineage, cut and content. Other bytes are
/// no matter, a draft that is put again is sealed anew. Only this writer's own tries can be the same: a restart begins
/// with a claim.
fn judge(ours: &EntryHeader, found: EntryHeader) -> Appended {
    // Mutant: nobody else has our cut.
    let same_cut = found.cut == ours.cut && mutant::active("same-cut-is-ours");
    if found.hash() == ours.hash() || same_cut { Appended::Ours(found) } else { Appended::Theirs(found) }
}

#[cfg(test)]
mod tests {
    use super::super::entry::{EntryKind, Payload};
    use super::super::sample::{Change, World, simple};
    use super::*;
    use crate::store::Store;
    use crate::store::memory::MemoryStore;
    use crate::store::scripted::{Mood, Scripted};
    use std::sync::Arc;
    use towline_tracker::id::CutId;

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

    /// The next entry of this world, as its writer would put it.
    fn next(world: &World) -> (EntryHeader, Vec<u8>, Draft) {
        let base = world.base.as_ref().unwrap();
        let draft = Draft {
            kind: EntryKind::Point,
            cut: CutId([9; 16]),
            time_ns: 1,
            base: base.header.seq,
            attached: Vec::new(),
            payload: Payload::Content(base.content.clone()),
        };
        let (header, bytes) = draft.encode(&world.group.seal, world.head, world.epoch);
        (header, bytes, draft)
    }

    /// F6, schedule: 1. an entry gets its name, and then the sync of its folder fails; 2. it can be read, but a crash of
    /// the store's host takes it back: it is not published before a put has found it there, which syncs the folder.
    #[test]
    fn an_entry_whose_put_failed_is_put_again_before_it_counts() {
        for lost in [1, 2, 3] {
            let world = world(2);
            let store =
                Scripted::new(world.store.clone(), move |call| match call.is_put() && call.puts <= lost {
                    true => Mood::LoseAnswer,
                    false => Mood::Good,
                });
            let group = Group { store: store.clone(), ..world.group.clone() };
            let (header, _, draft) = next(&world);
            let appended = group.append(world.head, world.epoch, &draft);
            assert!(world.group.entry_header(header.seq).unwrap().is_some(), "it can be read");
            match lost {
                1 => assert!(matches!(appended, Ok(Appended::Ours(found)) if found.hash() == header.hash())),
                _ => assert_eq!(appended.unwrap_err().kind(), Kind::Unreachable),
            }
            assert_eq!(store.puts(), 2);
        }
    }

    /// V3, schedule: 1. a shipper runs; 2. the vault is put back to an older copy under it, or another's log is put in its
    /// place; 3. its next entry would stand behind a gap, or follow what it does not know.
    #[test]
    fn nothing_is_put_behind_an_entry_that_is_gone_or_another() {
        let world = world(3);
        let (header, bytes, _) = next(&world);
        let name = |seq| names::entry(world.group.id(), seq);
        let last = world.store.get(&name(header.seq - 1), 1 << 20).unwrap();
        world.store.delete(&name(header.seq - 1)).unwrap();
        assert_eq!(world.group.put_entry(&header, &bytes).unwrap_err().kind(), Kind::Damage);
        let unmounted = Group { store: Arc::new(MemoryStore::new()), ..world.group.clone() };
        assert_eq!(unmounted.put_entry(&header, &bytes).unwrap_err().kind(), Kind::Unreachable);
        let claim = Group::claim(&world.group, &world.attached, &world.claimant(), false, &mut || Ok(()))
            .unwrap()
            .claim;
        assert_eq!(claim.seq, header.seq - 1, "somebody else goes on from there");
        assert_eq!(world.group.put_entry(&header, &bytes).unwrap(), Appended::Theirs(claim));
        assert!(world.group.entry_header(header.seq).unwrap().is_none(), "nothing was put");
        world.store.overwrite(&name(header.seq - 1), last);
        assert_eq!(world.group.put_entry(&header, &bytes).unwrap(), Appended::Ours(header));
    }

    /// Also one of the same epoch and cut: who went on from a copy of our memory has both, but not our content.
    #[test]
    fn an_entry_at_our_place_is_ours_only_with_our_header() {
        type Change = fn(&mut Draft);
        let other: Change = |draft| {
            let Payload::Content(content) = &mut draft.payload else { panic!("it is a point") };
            content.totals.bytes_read += 1;
        };
        let changes: [(Change, bool); 3] =
            [(|_| {}, true), (|draft| draft.time_ns += 1, false), (other, false)];
        for (change, same) in changes {
            let world = world(2);
            let (header, bytes, mut other) = next(&world);
            change(&mut other);
            let theirs = world.group.append(world.head, world.epoch, &other).unwrap();
            let Appended::Ours(theirs) = theirs else { panic!("{theirs:?}") };
            let expected = if same { Appended::Ours(theirs) } else { Appended::Theirs(theirs) };
            assert_eq!(world.group.put_entry(&header, &bytes).unwrap(), expected);
        }
    }
}
