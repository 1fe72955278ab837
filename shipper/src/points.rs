//! Which recovery points a group has, and which one is meant.
//!
//! A point is in the group's lineage if base links lead to it from the newest image (that of the newest entry; a claim
//! stands for its base). One that a later claim passed over (a takeover, a vault that was put back) is *abandoned*:
//! listed, marked, and restorable by its id, but never chosen by `latest` or by time.

mod find;
mod lineage;

pub use find::{Wanted, find};

use crate::vault::catalog::Catalog;
use crate::vault::entry::{Consistency, DiskImage, Entry, EntryHeader, EntryKind, Totals};
use crate::vault::names;
use crate::vault::{Group, Vault};
use crate::{Error, Kind, Result};
use lineage::Lineage;
use std::collections::BTreeMap;
use towline_tracker::id::{CutId, DiskId};

/// A recovery point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its id: the cut id.
    pub id: CutId,
    /// Its entry.
    pub seq: u64,
    /// The instant of the cut, in nanoseconds since 1970.
    pub time_ns: u64,
    /// What it promises.
    pub consistency: Consistency,
    /// Its disks.
    pub disks: Vec<PointDisk>,
    /// What its cycle did.
    pub totals: Totals,
    /// Not in the group's lineage.
    pub abandoned: bool,
}

/// A disk of a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointDisk {
    /// Its identity.
    pub id: DiskId,
    /// Its name in the group.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// The points of a group and what of its log could not be read.
#[derive(Debug, Default)]
pub struct History {
    /// The points, the oldest first.
    pub points: Vec<Point>,
    /// Damaged entries, and gaps between entries.
    pub damage: Vec<Error>,
    /// How many entries the log has.
    pub entries: u64,
    /// The catalog that says which of them exist, if there is one.
    pub catalog: Option<Catalog>,
}

/// Reads the whole log of a group.
///
/// # Errors
/// `GroupNotFound`, the store's. Damage is not an error here: see [`History::damage`].
pub fn history(vault: &Vault, group: &Group) -> Result<History> {
    loop {
        let history = history_with(vault, group, |_| {})?;
        // What was let go while it was read is not damaged.
        if history.damage.is_empty() || !history.is_old(group)? {
            return Ok(history);
        }
    }
}

/// As [`history`], telling every readable entry, in order.
///
/// # Errors
/// As [`history`].
pub fn history_with(vault: &Vault, group: &Group, mut tell: impl FnMut(&Entry)) -> Result<History> {
    let numbers = group.numbers()?;
    let mut history = History { entries: numbers.count(), ..History::default() };
    if history.entries == 0 {
        return Err(no_such_group(vault, &group.name)?);
    }
    let mut headers: BTreeMap<u64, EntryHeader> = BTreeMap::new();
    for seq in numbers.iter() {
        history.damage.extend(numbers.gap(seq).map(|gap| group.gap(&gap)));
        let entry = match group.entry_at(seq) {
            Ok(entry) => entry,
            Err(error) if matches!(error.kind(), Kind::Damage | Kind::NewerVault) => {
                history.damage.push(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let name = || names::entry(group.id(), seq);
        let boundary = numbers.boundary().filter(|boundary| boundary.seq == seq - 1);
        let before = match (headers.get(&(seq - 1)), boundary) {
            _ if seq == 1 => Some([0; 32]),
            (_, Some(boundary)) => Some(boundary.hash),
            (before, None) => before.map(EntryHeader::hash),
        };
        match numbers.known(seq) {
            Some(known) if known != entry.header.reference() => {
                history.damage.push(Error::damage(&name(), "it is not the point that the catalog keeps"));
                continue;
            }
            None if before.is_some_and(|before| before != entry.header.previous) => {
                history.damage.push(Error::damage(&name(), "it does not follow the entry before it"));
            }
            _ => {}
        }
        headers.insert(seq, entry.header);
        tell(&entry);
        if let Some(point) = Point::of(&entry, true) {
            history.points.push(point);
        }
    }
    let mut lineage = Lineage::new(&numbers, |seq| Ok(headers.get(&seq).copied()))?;
    while let Some(header) = lineage.next()? {
        if let Ok(found) = history.points.binary_search_by_key(&header.seq, |point| point.seq) {
            history.points[found].abandoned = false;
        }
    }
    history.catalog = numbers.catalog().cloned();
    Ok(history)
}

impl History {
    /// Whether points may have been let go since it was read.
    ///
    /// # Errors
    /// `Damage` of the newer catalog; the store's.
    pub fn is_old(&self, group: &Group) -> Result<bool> {
        let number = self.catalog.as_ref().map_or(0, |catalog| catalog.number);
        Ok(group.newer_catalog(number)?.is_some())
    }

    /// Whether a verification found that this point needs what is damaged.
    pub fn is_spoiled(&self, point: &Point) -> bool {
        let spoiled = self.catalog.iter().flat_map(|catalog| &catalog.spoiled);
        spoiled.into_iter().any(|spoiled| spoiled.seq == point.seq)
    }

    /// Whether no rule lets this point go.
    pub fn is_pinned(&self, point: &Point) -> bool {
        self.catalog.as_ref().is_some_and(|catalog| catalog.pins.iter().any(|pin| pin.seq == point.seq))
    }
}

impl Point {
    /// The point of an entry; `None` if the entry is none.
    pub fn of(entry: &Entry, abandoned: bool) -> Option<Self> {
        let (EntryKind::Point, Some(content)) = (entry.header.kind, entry.content()) else { return None };
        let disk = |disk: &DiskImage| PointDisk { id: disk.id, name: disk.name.clone(), size: disk.size };
        Some(Self {
            id: entry.header.cut,
            seq: entry.header.seq,
            time_ns: entry.header.time_ns,
            consistency: content.consistency,
            disks: content.disks.iter().map(disk).collect(),
            totals: content.totals,
            abandoned,
        })
    }
}

/// The error for a group that is not there, naming those that are.
///
/// # Errors
/// The store's, while looking.
pub fn no_such_group(vault: &Vault, name: &str) -> Result<Error> {
    let groups: Vec<_> = vault.groups()?.into_iter().map(|group| group.name).collect();
    let has = match groups.is_empty() {
        true => "it has no groups yet".to_owned(),
        false => format!("it has: {}", groups.join(", ")),
    };
    Ok(Error::new(Kind::GroupNotFound, format!("the vault has no group {name}; {has}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::sample::{Change, World, simple};

    #[test]
    fn points_are_found_by_id_beginning_time_and_latest() {
        let mut world = World::new();
        let ids: Vec<_> = (0..5).map(|n| world.cycle(&simple([(n, Change::Text(9))]))).collect();
        let history = history(&world.vault, &world.group).unwrap();
        assert!(history.damage.is_empty());
        assert_eq!(history.points.iter().map(|point| point.id).collect::<Vec<_>>(), ids);
        let find =
            |text: &str| find(&world.vault, &world.group, &text.parse().unwrap()).map(|point| point.id);
        assert_eq!(find("latest").unwrap(), ids[4]);
        assert_eq!(find(&ids[2].to_string()).unwrap(), ids[2]);
        assert_eq!(find(&ids[2].to_string()[..12].to_uppercase()).unwrap(), ids[2]);
        let time = history.points[3].time_ns;
        assert_eq!(find(&crate::cli::time(time)).unwrap(), ids[3]);
        assert_eq!(find(&crate::cli::time(time + 999_000_000)).unwrap(), ids[3]);
        assert_eq!(find("2100-01-01T00:00:00+01:00").unwrap(), ids[4]);
        for missing in ["1999-01-01T00:00:00Z", "0123456789abcdef0123456789abcdef"] {
            assert_eq!(find(missing).unwrap_err().kind(), Kind::PointNotFound);
        }
        // Of what is shown, also of the point's neighbours.
        for (point, id) in history.points.iter().zip(&ids) {
            assert_eq!(find(&crate::cli::time(point.time_ns)).unwrap(), *id);
        }
        for bad in ["", "yesterday", "2026-11-23", "2026-11-23T18:30:00", "0123456789abcdef0123456789abcdef0"]
        {
            assert!(bad.parse::<Wanted>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_ambiguous_id_is_refused() {
        let mut world = World::new();
        let ids: Vec<_> = (0..17).map(|n| world.cycle(&simple([(n, Change::Text(9))]))).collect();
        let first = |id: &CutId| id.to_string()[..1].to_owned();
        let twice = ids.iter().find(|id| ids.iter().filter(|other| first(other) == first(id)).count() > 1);
        let twice = first(twice.expect("seventeen ids begin with sixteen digits"));
        let error = find(&world.vault, &world.group, &Wanted::Id(twice)).unwrap_err();
        assert_eq!(error.kind(), Kind::PointNotFound);
    }

    #[test]
    fn a_passed_over_point_is_marked_and_found_only_by_id() {
        let mut world = World::new();
        let kept = world.cycle(&simple([(1, Change::Text(1))]));
        let anchor = world.attached.anchor;
        let base = world.base.clone();
        let lost = world.cycle(&simple([(1, Change::Text(3))]));
        // A writer that knows only the first point (as after failing over to it) claims it as its base.
        let decision = crate::vault::attach::Decision::Delta(base.unwrap());
        let draft = decision.claim(&world.attached, &world.claimant(), CutId::random());
        let crate::vault::log::Appended::Ours(claim) = world.group.append(world.head, 0, &draft).unwrap()
        else {
            panic!()
        };
        world.attached.anchor = anchor;
        (world.epoch, world.head) = (claim.seq, Some(claim.reference()));
        let history = history(&world.vault, &world.group).unwrap();
        let marks: Vec<_> = history.points.iter().map(|point| (point.id, point.abandoned)).collect();
        assert_eq!(marks, [(kept, false), (lost, true)]);
        let find = |wanted| find(&world.vault, &world.group, &wanted).unwrap();
        assert_eq!(find(Wanted::Latest).id, kept);
        assert_eq!(find(Wanted::At(u64::MAX)).id, kept);
        let by_id = find(Wanted::Id(lost.to_string()));
        assert!(by_id.id == lost && by_id.abandoned);
        assert!(!find(Wanted::Id(kept.to_string())).abandoned);
    }

    #[test]
    fn an_unknown_group_names_those_that_are_there() {
        let mut world = World::new();
        let error = history(&world.vault, &world.vault.group("web")).unwrap_err();
        assert_eq!(error.kind(), Kind::GroupNotFound);
        world.cycle(&simple([]));
        let error = history(&world.vault, &world.vault.group("web")).unwrap_err();
        assert!(error.line().contains("db"), "{}", error.line());
    }

    #[test]
    fn damaged_entries_hide_no_other_points() {
        let mut world = World::new();
        let ids: Vec<_> = (0..5).map(|n| world.cycle(&simple([(n, Change::Text(9))]))).collect();
        let name = |seq| names::entry(world.group.id(), seq);
        // Entries 1 and 4 (a point) flipped, the newest point lost its header too.
        for seq in [1, 4, 6] {
            let mut bytes = crate::store::Store::get(&world.store, &name(seq), 1 << 20).unwrap();
            bytes[70] ^= 1;
            world.store.overwrite(&name(seq), bytes);
        }
        let history = history(&world.vault, &world.group).unwrap();
        let marks: Vec<_> = history.points.iter().map(|point| (point.id, point.abandoned)).collect();
        assert_eq!(marks, [(ids[0], false), (ids[1], false), (ids[3], false)]);
        assert_eq!(history.damage.len(), 3);
        let find = |wanted| find(&world.vault, &world.group, &wanted);
        let error = find(Wanted::Latest).unwrap_err();
        assert!(
            error.kind() == Kind::Damage && error.line().contains(&ids[3].to_string()),
            "{}",
            error.line()
        );
        // The one above it can't be read: its time may be the one that is meant.
        let error = find(Wanted::At(history.points[1].time_ns)).unwrap_err();
        assert!(error.line().contains(&ids[1].to_string()), "{}", error.line());
        let error = find(Wanted::Id(ids[2].to_string())).unwrap_err();
        assert!(error.kind() == Kind::Damage && error.line().contains("verify"), "{}", error.line());
    }
}
