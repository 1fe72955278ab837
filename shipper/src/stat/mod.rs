//! What a group takes in its vault and what its cycles put, from listings and entries alone: nothing of its data is read.

pub mod prices;

use crate::points::{History, history_with};
use crate::store;
use crate::vault::entry::Entry;
use crate::vault::{Group, Vault, names};
use crate::{Error, Result};
use serde::Serialize;
use std::collections::HashMap;
use towline_tracker::id::CutId;

/// So many of the newest cycles are told one by one.
pub const CYCLES: usize = 10;
/// The pace is that of so many days before the newest cycle.
const PACE_DAYS: u64 = 7;
const DAY_NS: u64 = 86_400 * 1_000_000_000;

/// Objects of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Kept {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// What is kept, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kinds {
    /// Entries, with the small cycles that ride in them.
    pub log: Kept,
    /// Packs.
    pub packs: Kept,
    /// Indexes, folded ones too.
    pub indexes: Kept,
    /// The catalog.
    pub catalog: Kept,
    /// Anything else.
    pub other: Kept,
}

impl Kinds {
    /// By the name below the group's folder.
    fn of(&mut self, name: &str) -> &mut Kept {
        match name.split('/').next() {
            Some("log") => &mut self.log,
            Some("folds") => &mut self.indexes,
            Some("catalog") => &mut self.catalog,
            Some("packs" | "moved") if name.ends_with(".pack") => &mut self.packs,
            Some("packs" | "moved") if name.ends_with(".index") => &mut self.indexes,
            _ => &mut self.other,
        }
    }

    /// All together.
    pub fn all(&self) -> Kept {
        let kinds = [self.log, self.packs, self.indexes, self.catalog, self.other];
        let sum = |of: fn(&Kept) -> u64| kinds.iter().map(of).sum();
        Kept { objects: sum(|kept| kept.objects), bytes: sum(|kept| kept.bytes) }
    }
}

/// What a cycle put.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CyclePut {
    /// Its cut.
    pub id: String,
    /// `point` or `fuzzy`.
    pub kind: &'static str,
    /// The instant of the cut, nanoseconds since 1970.
    pub time_ns: u64,
    /// Bytes of frozen blocks.
    pub bytes_changed: u64,
    /// Bytes put into the vault.
    pub bytes_put: u64,
    /// Objects put, each by one request: entries, and packs and indexes that are still there.
    pub requests_put: u64,
}

/// What a day brings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Day {
    /// Over so many days it was looked at.
    pub days: f64,
    /// Cycles.
    pub cycles: f64,
    /// Bytes that the guest changed, each block once a cycle.
    pub bytes_changed: f64,
    /// Bytes put into the vault.
    pub bytes_put: f64,
    /// Requests for it.
    pub requests_put: f64,
}

/// A group.
#[derive(Debug)]
pub struct Stat {
    /// What is kept.
    pub kinds: Kinds,
    /// Its recovery points: the first's time, the last's, and how many.
    pub points: Option<(u64, u64, u64)>,
    /// The newest cycles, the newest last.
    pub cycles: Vec<CyclePut>,
    /// The pace; none if there are not two cycles, a second apart.
    pub day: Option<Day>,
    /// What of the log could not be read.
    pub damage: Vec<Error>,
}

/// Looks at a group.
///
/// # Errors
/// `GroupNotFound`, the store's.
pub fn stat(vault: &Vault, group: &Group) -> Result<Stat> {
    loop {
        let (stat, history) = look(vault, group)?;
        // What was let go while it was read is not damaged.
        if history.damage.is_empty() || !history.is_old(group)? {
            return Ok(Stat { damage: history.damage, ..stat });
        }
    }
}

fn look(vault: &Vault, group: &Group) -> Result<(Stat, History)> {
    let folder = names::group(group.id());
    let mut kinds = Kinds::default();
    let mut objects: HashMap<CutId, u64> = HashMap::new();
    store::each(&*vault.store, &folder, "", |object| {
        kinds.of(&object.name[folder.len()..]).add(object.length);
        if let Some(names::Parsed::Data { cut, .. }) = names::parse(&object.name) {
            *objects.entry(cut).or_default() += 1;
        }
        Ok::<_, Error>(())
    })?;
    let mut cycles = Vec::new();
    let history = history_with(vault, group, |entry| {
        // A checkpoint is a put of its cycle.
        *objects.entry(entry.header.cut).or_default() += 1;
        cycles.extend(put(entry));
    })?;
    for (cut, cycle) in &mut cycles {
        cycle.requests_put = objects[cut];
    }
    let cycles: Vec<_> = cycles.into_iter().map(|(_, cycle)| cycle).collect();
    let times = || history.points.iter().map(|point| point.time_ns);
    let points =
        times().min().zip(times().max()).map(|(first, last)| (first, last, history.points.len() as u64));
    let day = day(&cycles);
    let newest = cycles.len().saturating_sub(CYCLES);
    let cycles = cycles[newest..].to_vec();
    Ok((Stat { kinds, points, cycles, day, damage: Vec::new() }, history))
}

/// The cycle that an entry ends, if it ends one.
fn put(entry: &Entry) -> Option<(CutId, CyclePut)> {
    let (header, content) = (&entry.header, entry.content()?);
    // The totals of a checkpoint are in the entry that follows it.
    if header.kind == crate::vault::entry::EntryKind::Checkpoint {
        return None;
    }
    let cycle = CyclePut {
        id: header.cut.to_string(),
        kind: header.kind.word(),
        time_ns: header.time_ns,
        bytes_changed: content.totals.bytes_changed,
        bytes_put: content.totals.bytes_put + header.object_length() - header.attached,
        requests_put: 0,
    };
    Some((header.cut, cycle))
}

/// What a day brings, by the cycles of the last days. The first of them is the beginning: what it shipped was changed before.
fn day(cycles: &[CyclePut]) -> Option<Day> {
    let newest = cycles.iter().map(|cycle| cycle.time_ns).max()?;
    let lately = || cycles.iter().filter(|cycle| newest - cycle.time_ns <= PACE_DAYS * DAY_NS);
    let first = lately().map(|cycle| cycle.time_ns).min()?;
    let days = (newest - first) as f64 / DAY_NS as f64;
    if newest - first < 1_000_000_000 {
        return None;
    }
    let a_day = |of: fn(&CyclePut) -> u64| {
        lately().filter(|cycle| cycle.time_ns > first).map(of).sum::<u64>() as f64 / days
    };
    Some(Day {
        days,
        cycles: a_day(|_| 1),
        bytes_changed: a_day(|cycle| cycle.bytes_changed),
        bytes_put: a_day(|cycle| cycle.bytes_put),
        requests_put: a_day(|cycle| cycle.requests_put),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::tally::{Counted, Tally};
    use crate::vault::sample::{Change, World, simple};
    use std::sync::Arc;

    #[test]
    fn everything_that_is_kept_is_counted_once_and_nothing_of_the_data_is_read() {
        let mut world = World::new();
        let ids: Vec<_> = (0..12).map(|n| world.cycle(&simple([(n, Change::Text(9))]))).collect();
        let tally = Arc::new(Tally::default());
        let counted = Counted::new(Arc::new(world.store.clone()), tally.clone());
        let vault = Vault { store: Arc::new(counted), ..world.vault.clone() };
        let group = Group { store: vault.store.clone(), ..world.group.clone() };
        let stat = stat(&vault, &group).unwrap();
        assert!(stat.damage.is_empty());
        let listed = world.store.list("groups/", "", usize::MAX).unwrap();
        let expected =
            Kept { objects: listed.len() as u64, bytes: listed.iter().map(|object| object.length).sum() };
        assert_eq!(stat.kinds.all(), expected);
        assert!(stat.kinds.log.objects >= 12 && stat.kinds.other == Kept::default());
        let told: Vec<_> = stat.cycles.iter().map(|cycle| cycle.id.clone()).collect();
        assert_eq!(told, ids[2..].iter().map(ToString::to_string).collect::<Vec<_>>(), "the last ten");
        assert_eq!(stat.points.unwrap().2, 12);
        let packs = listed.iter().filter(|object| object.name.contains("/packs/")).count() as u64;
        let asked = tally.so_far();
        assert_eq!(
            (stat.kinds.packs.objects + stat.kinds.indexes.objects, asked.requests_delete),
            (packs, 0)
        );
        assert!(asked.bytes_down < expected.bytes + 20_000, "{asked:?}");
    }

    #[test]
    fn names_are_of_the_kind_that_their_folder_says() {
        let mut kinds = Kinds::default();
        for name in
            ["log/1", "packs/1-a/b.pack", "packs/1-a/b.index", "folds/c", "catalog/1", "packs/x", "new/1"]
        {
            kinds.of(name).add(1);
        }
        let objects =
            [kinds.log, kinds.packs, kinds.indexes, kinds.catalog, kinds.other].map(|kept| kept.objects);
        assert_eq!(objects, [1, 1, 2, 1, 2]);
    }

    #[test]
    fn a_day_is_that_of_the_last_week_without_its_first_cycle() {
        let cycle = |hours: u64, bytes: u64| CyclePut {
            id: String::new(),
            kind: "point",
            time_ns: (1000 * 24 + hours) * DAY_NS / 24,
            bytes_changed: bytes,
            bytes_put: 2 * bytes,
            requests_put: 3,
        };
        assert_eq!(day(&[]), None);
        assert_eq!(day(&[cycle(0, 100)]), None, "one cycle has no pace");
        let cycles = [cycle(0, 1 << 40), cycle(24 * 100, 1 << 30), cycle(24 * 101, 10), cycle(24 * 102, 20)];
        let day = day(&cycles).unwrap();
        assert_eq!((day.days, day.cycles, day.bytes_changed, day.bytes_put), (2.0, 1.0, 15.0, 30.0));
        assert_eq!(day.requests_put, 3.0);
    }
}
