//! Which entries a log has, as readers walk it: those that the catalog names, above its boundary those that a listing
//! shows, and those that follow them where it is stale. A gap is one damage however wide it is: no stray name makes a
//! reader count up to it (T19).

use super::Group;
use super::catalog::Catalog;
use super::entry::{EntryHeader, EntryRef};
use super::names::{self, Parsed};
use crate::{Error, Result, store};
use std::ops::RangeInclusive;

/// The numbers of a log's entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// All, in order: the catalog's, then those above its boundary.
    all: Vec<u64>,
    catalog: Option<Catalog>,
}

impl Numbers {
    /// What is catalogued, what is listed above, in order, and what is there all the same: the truth is not the list (F35).
    fn new(
        catalog: Option<Catalog>,
        listed: &[u64],
        mut exists: impl FnMut(u64) -> Result<bool>,
    ) -> Result<Self> {
        let mut last = catalog.as_ref().map(Catalog::bound).filter(|bound| *bound > 0);
        let kept = catalog.iter().flat_map(|catalog| &catalog.kept).map(|kept| kept.entry.seq);
        let mut all: Vec<u64> = kept.collect();
        for seq in listed.iter().copied().map(Some).chain([None]) {
            while let Some(next) = last.map_or(Some(1), |last| last.checked_add(1))
                && seq.is_none_or(|seq| next < seq)
                && exists(next)?
            {
                all.push(next);
                last = Some(next);
            }
            if let Some(seq) = seq.filter(|seq| last.is_none_or(|last| last < *seq)) {
                all.push(seq);
                last = Some(seq);
            }
        }
        Ok(Self { all, catalog })
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.all.len() as u64
    }

    /// The greatest; 0 if there are none.
    pub fn last(&self) -> u64 {
        self.all.last().copied().unwrap_or(0)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.all.iter().copied()
    }

    /// The greatest below `seq`; 0 if there is none.
    pub fn before(&self, seq: u64) -> u64 {
        self.all[..self.all.partition_point(|number| *number < seq)].last().copied().unwrap_or(0)
    }

    /// What is missing between `seq` and the entry before it. What was let go is not missing.
    pub fn gap(&self, seq: u64) -> Option<RangeInclusive<u64>> {
        if seq <= self.bound() {
            return None;
        }
        let gap = self.before(seq).max(self.bound()) + 1..=seq.saturating_sub(1);
        (!gap.is_empty()).then_some(gap)
    }

    /// The catalog that they are by, if there is one.
    pub fn catalog(&self) -> Option<&Catalog> {
        self.catalog.as_ref()
    }

    /// The catalog's number; 0 without one.
    pub fn catalog_number(&self) -> u64 {
        self.catalog.as_ref().map_or(0, |catalog| catalog.number)
    }

    fn bound(&self) -> u64 {
        self.catalog.as_ref().map_or(0, Catalog::bound)
    }

    /// What an entry found at its number must be, where that is known without the entry before it.
    pub fn known(&self, seq: u64) -> Option<EntryRef> {
        self.catalog.as_ref()?.kept(seq).map(|kept| kept.entry)
    }

    /// The hash of the entry before the first one above the boundary.
    pub fn boundary(&self) -> Option<EntryRef> {
        self.catalog.as_ref()?.boundary
    }

    /// What stands in a lineage for the entry of this number.
    pub fn stands_for(&self, seq: u64) -> u64 {
        self.catalog.as_ref().map_or(seq, |catalog| catalog.stands_for(seq))
    }

    /// What lies below an image.
    pub fn below(&self, header: &EntryHeader) -> u64 {
        self.catalog.as_ref().map_or(header.base, |catalog| catalog.below(header))
    }
}

/// The last of numbers without a gap that begin at 1, by galloping and bisecting from one that may be among them; 0 if
/// there are none.
pub(super) fn last(start: u64, mut exists: impl FnMut(u64) -> Result<bool>) -> Result<u64> {
    let (mut low, mut high) = if start == 0 || exists(start)? {
        // Gallop: a stale listing may not show the newest.
        let (mut low, mut step) = (start, 1u64);
        while let Some(next) = low.checked_add(step)
            && exists(next)?
        {
            (low, step) = (next, step.saturating_mul(2));
        }
        (low, low.saturating_add(step))
    } else {
        (0, start)
    };
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if exists(middle)? { low = middle } else { high = middle }
    }
    Ok(low)
}

impl Group {
    /// The numbers of all entries. One request for a thousand, and one more for each gap.
    ///
    /// # Errors
    /// `Damage` of the catalog; the store's.
    pub fn numbers(&self) -> Result<Numbers> {
        let catalog = self.catalog(0)?;
        let bound = catalog.as_ref().map_or(0, Catalog::bound);
        let after = if bound == 0 { String::new() } else { names::entry(self.id(), bound) };
        let mut listed = Vec::new();
        store::each(&*self.store, &names::log(self.id()), &after, |object| {
            if let Some(Parsed::Entry { seq, .. }) = names::parse(&object.name) {
                listed.push(seq);
            }
            Ok::<_, Error>(())
        })?;
        Numbers::new(catalog, &listed, |seq| self.exists(seq))
    }

    /// The damage that a gap is.
    pub fn gap(&self, missing: &RangeInclusive<u64>) -> Error {
        let name = names::entry(self.id(), *missing.start());
        match missing.end() - missing.start() {
            0 => Error::damage(&name, "it is missing"),
            _ => Error::damage(&name, format_args!("it is missing, and all up to {}", missing.end())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Change, World, simple};
    use super::*;
    use crate::points::{Wanted, find, history};
    use crate::verify::verify;
    use crate::{Kind, store::Store};

    /// Schedule: somebody leaves files in the log's folder that are named as entries would be, in a thousand years or at
    /// the end of all numbers. Every reader ends, says so, and finds what there is; a writer stops.
    #[test]
    fn a_stray_name_is_one_gap_and_nobody_counts_up_to_it() {
        for stray in [100_000_000_012, u64::MAX] {
            let mut world = World::new();
            let ids: Vec<_> = (0..3).map(|n| world.cycle(&simple([(n, Change::Text(9))]))).collect();
            world.store.put(&names::entry(world.group.id(), stray), b"stray").unwrap();
            let numbers = world.group.numbers().unwrap();
            assert_eq!(numbers.iter().collect::<Vec<_>>(), [1, 2, 3, 4, stray]);
            assert_eq!((numbers.gap(4), numbers.gap(stray)), (None, Some(5..=stray - 1)));
            let history = history(&world.vault, &world.group).unwrap();
            assert_eq!(history.points.iter().map(|point| point.id).collect::<Vec<_>>(), ids);
            assert!(history.points.iter().all(|point| !point.abandoned));
            assert_eq!((history.entries, history.damage.len()), (5, 2), "{:?}", history.damage);
            let find = |wanted| find(&world.vault, &world.group, &wanted);
            assert_eq!(find(Wanted::Id(ids[1].to_string())).unwrap().id, ids[1]);
            assert_eq!(find(Wanted::Id("0".repeat(32))).unwrap_err().kind(), Kind::Damage);
            // It may be the newest point: an older one is not handed out for it.
            let error = find(Wanted::Latest).unwrap_err();
            assert!(error.line().contains(&ids[2].to_string()), "{}", error.line());
            let report = verify(&world.vault, Some("db")).unwrap();
            assert!(!report.is_sound() && report.groups[0].points.iter().all(|(_, affected)| !affected));
            assert!(world.claim(false).is_err() && world.claim(true).is_err());
            assert_eq!(world.group.numbers().unwrap().count(), 5, "nothing was put behind it");
        }
    }

    #[test]
    fn what_a_stale_listing_does_not_show_is_found() {
        let all: Vec<u64> = (1..=8).collect();
        let shown = |hidden: &[u64]| -> Vec<u64> {
            all.iter().copied().filter(|seq| !hidden.contains(seq)).collect()
        };
        for hidden in [&[][..], &[1], &[3, 4], &[7, 8], &all] {
            let numbers = Numbers::new(None, &shown(hidden), |seq| Ok(all.contains(&seq))).unwrap();
            assert_eq!(numbers.all, all, "{hidden:?} are hidden");
        }
        // What is neither listed nor there is asked for once a gap.
        let mut asked = Vec::new();
        let numbers = Numbers::new(None, &shown(&[2, 3, 4, 7]), |seq| {
            asked.push(seq);
            Ok(false)
        });
        assert_eq!((numbers.unwrap().gap(5), asked), (Some(2..=4), vec![2, 7, 9]));
    }
}
