//! Which recovery points a group has, and which one is meant.
//!
//! A point is in the group's lineage if base links lead to it from the newest image (that of the newest entry; a claim
//! stands for its base). One that a later claim passed over (a takeover, a vault that was put back) is *abandoned*:
//! listed, marked, and restorable by its id, but never chosen by `latest` or by time.

use crate::vault::entry::{Consistency, Entry, EntryHeader, EntryKind, Totals};
use crate::vault::names::{self, Parsed};
use crate::vault::{Group, Vault};
use crate::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::str::FromStr;
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
    /// Damaged or missing entries.
    pub damage: Vec<Error>,
    /// The last entry.
    pub head: u64,
}

/// Reads the whole log of a group.
///
/// # Errors
/// `GroupNotFound`, the store's. Damage is not an error here: see [`History::damage`].
pub fn history(vault: &Vault, group: &Group) -> Result<History> {
    history_with(vault, group, |_| {})
}

/// As [`history`], telling every readable entry, in order.
///
/// # Errors
/// As [`history`].
pub fn history_with(vault: &Vault, group: &Group, mut tell: impl FnMut(&Entry)) -> Result<History> {
    let mut history = History { head: last_entry(group)?, ..History::default() };
    if history.head == 0 {
        return Err(no_such_group(vault, &group.name)?);
    }
    let mut headers: BTreeMap<u64, EntryHeader> = BTreeMap::new();
    for seq in 1..=history.head {
        let entry = match group.entry_at(seq) {
            Ok(entry) => entry,
            Err(error) if matches!(error.kind(), Kind::Damage | Kind::NewerVault) => {
                history.damage.push(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let before = headers.get(&(seq - 1)).map_or([0; 32], EntryHeader::hash);
        if (seq == 1 || headers.contains_key(&(seq - 1))) && before != entry.header.previous {
            let name = names::entry(group.id(), seq);
            history.damage.push(Error::damage(&name, "it does not follow the entry before it"));
        }
        headers.insert(seq, entry.header);
        tell(&entry);
        if let (EntryKind::Point, Some(content)) = (entry.header.kind, entry.content()) {
            history.points.push(Point {
                id: entry.header.cut,
                seq,
                time_ns: entry.header.time_ns,
                consistency: content.consistency,
                disks: content
                    .disks
                    .iter()
                    .map(|disk| PointDisk { id: disk.id, name: disk.name.clone(), size: disk.size })
                    .collect(),
                totals: content.totals,
                abandoned: true,
            });
        }
    }
    let mut at = newest_image(&headers);
    while let Some(header) = headers.get(&at) {
        if let Ok(found) = history.points.binary_search_by_key(&at, |point| point.seq) {
            history.points[found].abandoned = false;
        }
        at = header.base;
    }
    Ok(history)
}

fn newest_image(headers: &BTreeMap<u64, EntryHeader>) -> u64 {
    let newest = headers.values().rev().find(|header| header.kind != EntryKind::Condemned);
    newest.map_or(0, |header| if header.kind == EntryKind::Claim { header.base } else { header.seq })
}

/// The last entry that a listing shows or that follows it.
fn last_entry(group: &Group) -> Result<u64> {
    match group.head(0) {
        Ok(head) => Ok(head),
        // A gap is a writer's reason to stop; a reader goes on and reports it.
        Err(error) if error.kind() == Kind::Damage => {
            let prefix = names::log(group.id());
            let (mut last, mut after) = (0, String::new());
            loop {
                let page = group.store.list(&prefix, &after, 1000)?;
                let Some(end) = page.last() else { return Ok(last) };
                after.clone_from(&end.name);
                for object in &page {
                    if let Some(Parsed::Entry { seq, .. }) = names::parse(&object.name) {
                        last = last.max(seq);
                    }
                }
            }
        }
        Err(error) => Err(error),
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

/// Which point is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The newest of the lineage.
    Latest,
    /// The one whose id begins so, in lower-case hexadecimal.
    Id(String),
    /// The newest of the lineage at or before this instant, in nanoseconds since 1970.
    At(u64),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self::Id(text.to_ascii_lowercase()));
        }
        let time: jiff::Timestamp = text.parse().map_err(|_| {
            "give `latest`, a point's id or its beginning, or a time as 2026-11-23T18:30:00Z".to_owned()
        })?;
        Ok(Self::At(u64::try_from(time.as_nanosecond()).unwrap_or(0)))
    }
}

/// The point that is meant.
///
/// # Errors
/// `PointNotFound`, also if an id's beginning fits several.
pub fn select<'a>(group: &str, history: &'a History, wanted: &Wanted) -> Result<&'a Point> {
    let mut line = history.points.iter().rev().filter(|point| !point.abandoned);
    let missing = |what: String| {
        let list = "`towline points` shows what there is";
        Error::new(Kind::PointNotFound, format!("group {group} has no recovery point {what}; {list}"))
    };
    match wanted {
        Wanted::Latest => line.next().ok_or_else(|| missing("yet".into())),
        Wanted::At(time_ns) => line
            .filter(|point| point.time_ns <= *time_ns)
            .max_by_key(|point| (point.time_ns, point.seq))
            .ok_or_else(|| missing(format!("at or before {}", crate::cli::time(*time_ns)))),
        Wanted::Id(id) => {
            let mut fitting = history.points.iter().filter(|point| point.id.to_string().starts_with(id));
            match (fitting.next(), fitting.next()) {
                (Some(point), None) => Ok(point),
                (None, _) => Err(missing(id.clone())),
                (Some(_), Some(_)) => Err(Error::new(
                    Kind::PointNotFound,
                    format!("several recovery points of group {group} begin with {id}; give more of the id"),
                )),
            }
        }
    }
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
        let find = |text: &str| select("db", &history, &text.parse().unwrap()).map(|point| point.id);
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
        for bad in ["", "yesterday", "2026-11-23", "0123456789abcdef0123456789abcdef0"] {
            assert!(bad.parse::<Wanted>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_ambiguous_id_is_refused() {
        let mut world = World::new();
        let ids: Vec<_> = (0..17).map(|n| world.cycle(&simple([(n, Change::Text(9))]))).collect();
        let history = history(&world.vault, &world.group).unwrap();
        let first = |id: &CutId| id.to_string()[..1].to_owned();
        let twice = ids.iter().find(|id| ids.iter().filter(|other| first(other) == first(id)).count() > 1);
        let twice = first(twice.expect("seventeen ids begin with sixteen digits"));
        assert_eq!(select("db", &history, &Wanted::Id(twice)).unwrap_err().kind(), Kind::PointNotFound);
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
        let draft = decision.claim(&world.attached, &world.claimant());
        let crate::vault::log::Appended::Ours(claim) = world.group.append(world.head, 0, &draft).unwrap()
        else {
            panic!()
        };
        world.attached.anchor = anchor;
        (world.epoch, world.head) = (claim.seq, Some(claim.reference()));
        let history = history(&world.vault, &world.group).unwrap();
        let marks: Vec<_> = history.points.iter().map(|point| (point.id, point.abandoned)).collect();
        assert_eq!(marks, [(kept, false), (lost, true)]);
        assert_eq!(select("db", &history, &Wanted::Latest).unwrap().id, kept);
        assert_eq!(select("db", &history, &Wanted::Id(lost.to_string())).unwrap().id, lost);
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
}
