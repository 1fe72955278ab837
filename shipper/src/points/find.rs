//! Which recovery point is meant.

use super::lineage::Lineage;
use super::{Point, no_such_group};
use crate::vault::entry::{EntryHeader, EntryKind};
use crate::vault::numbers::Numbers;
use crate::vault::{Group, Vault, names};
use crate::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::str::FromStr;

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

/// The point that is meant. Reads only headers of entries, and of these only as many as it must: all for an id, from
/// the newest back for others. So what is read for one point does not grow with the lists of all others (V12).
///
/// # Errors
/// `GroupNotFound`; `PointNotFound`, also if an id's beginning fits several; `Damage` if there is none but entries
/// can't be read, or if one that can't be read may be the one that is meant: an older one is not handed out for it;
/// the store's.
pub fn find(vault: &Vault, group: &Group, wanted: &Wanted) -> Result<Point> {
    loop {
        let numbers = group.numbers()?;
        let found = find_among(vault, group, &numbers, wanted);
        // What was let go while it was looked at is not damaged.
        let damaged = found.as_ref().is_err_and(|error| error.kind() == Kind::Damage);
        if !damaged || group.newer_catalog(numbers.catalog_number())?.is_none() {
            return found;
        }
    }
}

fn find_among(vault: &Vault, group: &Group, numbers: &Numbers, wanted: &Wanted) -> Result<Point> {
    if numbers.count() == 0 {
        return Err(no_such_group(vault, &group.name)?);
    }
    let mut known: BTreeMap<u64, Option<EntryHeader>> = BTreeMap::new();
    let mut damage = None;
    let mut header = |seq: u64| -> Result<Option<EntryHeader>> {
        if let Some(known) = known.get(&seq) {
            return Ok(*known);
        }
        let missing = || Error::damage(&names::entry(group.id(), seq), "it is missing");
        let other =
            || Error::damage(&names::entry(group.id(), seq), "it is not the point that the catalog keeps");
        let kept = |found: EntryHeader| match numbers.known(seq) {
            Some(known) if known != found.reference() => Err(other()),
            _ => Ok(found),
        };
        let read = group.entry_header(seq).and_then(|found| found.ok_or_else(missing)).and_then(kept);
        let found = match read {
            Ok(found) => Some(found),
            Err(error) if matches!(error.kind(), Kind::Damage | Kind::NewerVault) => {
                damage = Some(error);
                None
            }
            Err(error) => return Err(error),
        };
        known.insert(seq, found);
        Ok(found)
    };
    let mut fitting = Vec::new();
    if let Wanted::Id(id) = wanted {
        for seq in numbers.iter() {
            if numbers.gap(seq).is_some() {
                header(seq - 1)?;
            }
            fitting.extend(
                header(seq)?
                    .filter(|found| found.kind == EntryKind::Point && found.cut.to_string().starts_with(id)),
            );
        }
    }
    let mut abandoned = true;
    let mut lineage = Lineage::new(numbers, &mut header)?;
    while let Some(found) = lineage.next()? {
        let meant = match wanted {
            Wanted::Id(_) => fitting.len() == 1 && fitting[0].seq == found.seq,
            Wanted::Latest => true,
            Wanted::At(time_ns) => found.time_ns <= *time_ns,
        };
        if meant && found.kind == EntryKind::Point {
            abandoned = false;
            fitting = vec![found];
            break;
        }
    }
    match (&fitting[..], damage) {
        // What was looked at and can't be read is newer than what was found: it may be what is meant.
        (&[found], Some(damage)) if !matches!(wanted, Wanted::Id(_)) => {
            let line = damage.line();
            let line = format!("{line}; the newest point below it is {}: ask for it by --point", found.cut);
            Err(Error::new(Kind::Damage, line))
        }
        (&[found], _) => {
            let entry = group.entry_at(found.seq)?;
            let name = names::entry(group.id(), found.seq);
            Point::of(&entry, abandoned)
                .ok_or_else(|| Error::damage(&name, "it was a point and is one no more"))
        }
        ([], damage) => Err(not_found(&group.name, wanted, damage)),
        _ => Err(Error::new(
            Kind::PointNotFound,
            format!("several recovery points of group {} begin so; give more of the id", group.name),
        )),
    }
}

fn not_found(group: &str, wanted: &Wanted, damage: Option<Error>) -> Error {
    let which = match wanted {
        Wanted::Latest => "yet".to_owned(),
        Wanted::Id(id) => id.clone(),
        Wanted::At(time_ns) => format!("at or before {}", crate::cli::time(*time_ns)),
    };
    let line = format!("group {group} has no recovery point {which}");
    match damage {
        // What can't be read may be what is asked for: say so rather than "not found".
        Some(damage) => {
            Error::new(Kind::Damage, format!("{line}, but {}; run `towline verify`", damage.line()))
        }
        None => Error::new(Kind::PointNotFound, format!("{line}; `towline points` shows what there is")),
    }
}
