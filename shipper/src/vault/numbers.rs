//! Which entries a log has, as readers walk it: those that a listing shows, and those that follow them where it is stale.
//! A gap is one damage however wide it is: no stray name makes a reader count up to it (T19).

use super::Group;
use super::names::{self, Parsed};
use crate::{Error, Result, store};
use std::ops::RangeInclusive;

/// The numbers of a log's entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers(Vec<u64>);

impl Numbers {
    /// What is listed, in order, and what is there all the same: the truth is not the list (F35).
    fn new(listed: &[u64], mut exists: impl FnMut(u64) -> Result<bool>) -> Result<Self> {
        let mut numbers: Vec<u64> = Vec::with_capacity(listed.len());
        for seq in listed.iter().copied().map(Some).chain([None]) {
            while let Some(next) = numbers.last().map_or(Some(1), |last| last.checked_add(1))
                && seq.is_none_or(|seq| next < seq)
                && exists(next)?
            {
                numbers.push(next);
            }
            numbers.extend(seq.filter(|seq| numbers.last().is_none_or(|last| last < seq)));
        }
        Ok(Self(numbers))
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// The greatest; 0 if there are none.
    pub fn last(&self) -> u64 {
        self.0.last().copied().unwrap_or(0)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.iter().copied()
    }

    /// The greatest below `seq`; 0 if there is none.
    pub fn before(&self, seq: u64) -> u64 {
        self.0[..self.0.partition_point(|number| *number < seq)].last().copied().unwrap_or(0)
    }

    /// What is missing between `seq` and the entry before it.
    pub fn gap(&self, seq: u64) -> Option<RangeInclusive<u64>> {
        let gap = self.before(seq) + 1..=seq.saturating_sub(1);
        (!gap.is_empty()).then_some(gap)
    }
}

impl Group {
    /// The numbers of all entries. One request for a thousand, and one more for each gap.
    ///
    /// # Errors
    /// The store's.
    pub fn numbers(&self) -> Result<Numbers> {
        let mut listed = Vec::new();
        store::each(&*self.store, &names::log(self.id()), "", |object| {
            if let Some(Parsed::Entry { seq, .. }) = names::parse(&object.name) {
                listed.push(seq);
            }
            Ok::<_, Error>(())
        })?;
        Numbers::new(&listed, |seq| self.exists(seq))
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
            let numbers = Numbers::new(&shown(hidden), |seq| Ok(all.contains(&seq))).unwrap();
            assert_eq!(numbers.0, all, "{hidden:?} are hidden");
        }
        // What is neither listed nor there is asked for once a gap.
        let mut asked = Vec::new();
        let numbers = Numbers::new(&shown(&[2, 3, 4, 7]), |seq| {
            asked.push(seq);
            Ok(false)
        });
        assert_eq!((numbers.unwrap().gap(5), asked), (Some(2..=4), vec![2, 7, 9]));
    }
}
