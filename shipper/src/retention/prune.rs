//! The next catalog: which points of a group are kept from now on.

use super::policy::{Candidate, Policy, Reason, reasons};
use crate::points::{History, Point, history_with};
use crate::vault::catalog::{Catalog, Kept};
use crate::vault::entry::{Claim, Content, EntryHeader, EntryRef, Payload};
use crate::vault::names::{self, ObjectName, Parsed};
use crate::vault::{Group, Vault};
use crate::{Error, Kind, Result, store};
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};
use towline_tracker::id::CutId;
use towline_tracker::mutant;

/// A point and why it is kept.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The point.
    pub point: Point,
    /// Why it is kept; empty: it is let go.
    pub reasons: Vec<Reason>,
}

/// What a policy means for a group.
#[derive(Debug)]
pub struct Pruning {
    /// Every point that exists, the oldest first.
    pub verdicts: Vec<Verdict>,
    /// The catalog as it is to be.
    pub catalog: Catalog,
    /// Whether that is another one than there is.
    pub is_new: bool,
}

/// What a log says, as far as a catalog needs it.
struct Log {
    history: History,
    /// Of all entries that exist.
    headers: BTreeMap<u64, EntryHeader>,
    /// The newest.
    claim: Claim,
    /// Which folds each content lists.
    folds: BTreeMap<u64, Vec<(u64, ObjectName)>>,
    /// Every index that is listed.
    listed: BTreeSet<ObjectName>,
    /// Condemned entries, and the catalogs that they rest on.
    condemned: BTreeMap<u64, u64>,
}

impl Log {
    /// The newest writer epoch.
    fn epoch(&self) -> u64 {
        self.headers.last_key_value().map_or(0, |(_, newest)| newest.epoch)
    }

    /// What somebody may be shipping over, although nothing lies over it yet.
    fn built_on(&self) -> Option<EntryRef> {
        super::built_on(self.claim.base, self.headers.values(), self.epoch())
    }
}

/// Decides, and changes nothing.
///
/// # Errors
/// `GroupNotFound`; `Damage` of the log: who does not know every point lets none go; the store's.
pub fn plan(vault: &Vault, group: &Group, policy: &Policy, zone: &TimeZone, now_ns: u64) -> Result<Pruning> {
    let log = read(vault, group, policy.past_damage)?;
    let mut pruning = decide(&log, &group.name, policy, zone, now_ns);
    // Of what is not listed nothing is to be collected; a stale listing costs a while.
    let (cuts, folds) = there(group)?;
    pruning.catalog.shipped.retain(|cut| cuts.contains(cut));
    pruning.catalog.folded.retain(|fold| folds.contains(fold));
    let before = log.history.catalog.as_ref();
    let same = |before: &Catalog| {
        let Catalog { number, previous, time_ns, .. } = *before;
        Catalog { number, previous, time_ns, ..pruning.catalog.clone() } == *before
    };
    pruning.is_new = match before {
        Some(before) => !same(before),
        None => pruning.catalog.boundary.is_some(),
    };
    Ok(pruning)
}

/// Lets go what the policy does not keep, and says what it decided. Who changes the catalog at the same time is waited for.
///
/// # Errors
/// As [`plan`]; `GroupFull`.
pub fn prune(vault: &Vault, group: &Group, policy: &Policy, zone: &TimeZone, now_ns: u64) -> Result<Pruning> {
    loop {
        let pruning = plan(vault, group, policy, zone, now_ns)?;
        if !pruning.is_new || group.put_catalog(&pruning.catalog)? {
            return Ok(pruning);
        }
    }
}

/// Pins a point, so that no rule lets it go, or takes the pin away; whether anything changed.
///
/// # Errors
/// `PointNotFound` if it was let go before it could be pinned; `Damage`, `GroupFull`, the store's.
pub fn pin(group: &Group, point: &Point, pinned: bool, now_ns: u64) -> Result<bool> {
    loop {
        let before = group.catalog(0)?;
        let kept = before.as_ref().and_then(|catalog| catalog.kept(point.seq));
        let entry = match kept {
            Some(kept) => kept.entry,
            None if before.as_ref().is_some_and(|catalog| point.seq <= catalog.bound()) => {
                let line = format!("point {} was let go by a prune", point.id);
                return Err(Error::new(Kind::PointNotFound, line));
            }
            None => group.entry_at(point.seq)?.header.reference(),
        };
        let mut catalog = next(before.as_ref(), &group.name, now_ns);
        catalog.pins.retain(|pin| *pin != entry);
        if pinned {
            catalog.pins.push(entry);
            catalog.pins.sort_by_key(|pin| pin.seq);
        }
        if before.as_ref().map_or(&[][..], |before| &before.pins) == catalog.pins {
            return Ok(false);
        }
        if group.put_catalog(&catalog)? {
            return Ok(true);
        }
    }
}

/// The catalog that follows another one and changes nothing.
pub(super) fn next(before: Option<&Catalog>, group: &str, now_ns: u64) -> Catalog {
    let mut catalog = before.cloned().unwrap_or_default();
    catalog.group = group.to_owned();
    catalog.previous = before.map_or([0; 32], Catalog::hash);
    catalog.number += 1;
    catalog.time_ns = now_ns;
    catalog
}

fn read(vault: &Vault, group: &Group, past_damage: bool) -> Result<Log> {
    loop {
        let (mut headers, mut claim, mut folds) = (BTreeMap::new(), None, BTreeMap::new());
        let (mut listed, mut condemned) = (BTreeSet::new(), BTreeMap::new());
        let history = history_with(vault, group, |entry| {
            headers.insert(entry.header.seq, entry.header);
            claim = entry.claim().cloned().or(claim.take());
            if let Payload::Condemned(by) = &entry.payload {
                condemned.insert(entry.header.seq, by.catalog.0);
            }
            if let Some(content) = entry.content() {
                folds.insert(entry.header.seq, super::folds(content).collect());
                listed.extend(names_in(content));
            }
        })?;
        let damage = match history.damage.first() {
            None => None,
            Some(_) if history.is_old(group)? => continue,
            Some(_) if past_damage => None,
            Some(damage) => Some(Error::new(damage.kind(), damage.line())),
        };
        let read = damage.map_or(Ok(()), Err).and_then(|()| match claim {
            Some(claim) => Ok(claim),
            None => known_claim(group, history.catalog.as_ref()),
        });
        let read = read.and_then(|claim| {
            listed_by_base(group, &claim, &headers).map(|base| {
                listed.extend(base);
                claim
            })
        });
        return match read {
            Ok(claim) => Ok(Log { history, headers, claim, folds, listed, condemned }),
            Err(error) if error.kind() == Kind::Damage && history.is_old(group)? => continue,
            Err(error) => {
                let remedy = "nothing is let go of a group that can't be read whole: run `towline verify`, and prune \
                              with --past-damage to let go what it can't read";
                Err(Error::new(error.kind(), format!("{}; {remedy}", error.line())))
            }
        };
    }
}

/// What is listed by the base that somebody ships over, if it was let go: he had claimed before.
fn listed_by_base(
    group: &Group,
    claim: &Claim,
    headers: &BTreeMap<u64, EntryHeader>,
) -> Result<Vec<ObjectName>> {
    let epoch = headers.last_key_value().map_or(0, |(_, newest)| newest.epoch);
    let base = super::built_on(claim.base, headers.values(), epoch);
    let Some(base) = base.filter(|base| !headers.contains_key(&base.seq)) else { return Ok(Vec::new()) };
    Ok(group.entry_at(base.seq)?.content().into_iter().flat_map(names_in).collect())
}

/// The indexes that a content lists.
fn names_in(content: &Content) -> impl Iterator<Item = ObjectName> {
    content.disks.iter().flat_map(|disk| &disk.indexes).map(|index| index.name)
}

/// The newest claim, where it is not above the boundary.
fn known_claim(group: &Group, catalog: Option<&Catalog>) -> Result<Claim> {
    let bad = |seq, what| Err(Error::damage(&group.name_of(seq), what));
    let Some(known) = catalog.and_then(|catalog| catalog.claim) else { return bad(1, "it is no claim") };
    let entry = group.entry_at(known.seq)?;
    match entry.claim() {
        Some(claim) if entry.header.reference() == known => Ok(claim.clone()),
        _ => bad(known.seq, "it is not the claim that the catalog keeps"),
    }
}

fn decide(log: &Log, group: &str, policy: &Policy, zone: &TimeZone, now_ns: u64) -> Pruning {
    let (history, headers) = (&log.history, &log.headers);
    let before = history.catalog.as_ref();
    let lies_below = |header: &EntryHeader| before.map_or(header.base, |catalog| catalog.below(header));
    let bound = bound(log);
    let candidates: Vec<_> = history
        .points
        .iter()
        // No rule takes a damaged point in the place of a sound one.
        .map(|point| Candidate {
            time_ns: point.time_ns,
            abandoned: point.abandoned || history.is_spoiled(point),
        })
        .collect();
    let mut why = reasons(&candidates, policy, zone);
    for (point, why) in history.points.iter().zip(&mut why) {
        if history.is_pinned(point) {
            why.push(Reason::Pinned);
        }
        let built_on = log.built_on().is_some_and(|base| base.seq == point.seq);
        if (point.seq > bound || built_on) && why.is_empty() {
            why.push(Reason::InUse);
        }
    }
    let kept: BTreeSet<u64> = (history.points.iter().zip(&why))
        .filter(|(point, why)| point.seq <= bound && !why.is_empty())
        .map(|(point, _)| point.seq)
        .collect();
    // The newest kept point below an image. What can't be read is passed over, as by readers.
    let before_in_log = |seq: u64| headers.range(..seq).next_back().map_or(0, |(seq, _)| *seq);
    let standing = |mut seq: u64| {
        while seq > 0 && !kept.contains(&seq) {
            seq = headers.get(&seq).map_or_else(|| before_in_log(seq), &lies_below);
        }
        seq
    };
    let reference = |seq: u64| headers.get(&seq).map(EntryHeader::reference);
    let mut catalog = next(before, group, now_ns);
    if bound > before.map_or(0, Catalog::bound) {
        catalog.boundary = reference(bound);
    }
    catalog.kept = kept
        .iter()
        .filter_map(|seq| {
            Some(Kept { entry: reference(*seq)?, below: standing(lies_below(headers.get(seq)?)) })
        })
        .collect();
    // For all that is let go now, for who builds on it may not have put his entry yet; and for what is built on.
    let above = headers.range(bound + 1..).map(|(_, header)| header);
    let built_on =
        above.filter(|header| header.base <= bound).map(|header| (header.base, standing(lies_below(header))));
    let passed = headers.range(..=bound).map(|(seq, _)| (*seq, standing(*seq)));
    let links: BTreeMap<u64, u64> = built_on.chain(passed).collect();
    catalog.links = links.into_iter().filter(|(base, _)| *base > 0 && !kept.contains(base)).collect();
    let epoch = log.epoch();
    catalog.claim =
        (epoch <= bound).then(|| reference(epoch).or(before.and_then(|catalog| catalog.claim))).flatten();
    catalog.shipped = shipped(headers, before, epoch, bound).into_iter().collect();
    catalog.folded = folded(log, &catalog).into_iter().collect();
    catalog.settled =
        log.condemned.range(..=bound).map(|(_, by)| *by).max().unwrap_or(0).max(catalog.settled);
    let exists = |point: &EntryRef| point.seq > bound || kept.contains(&point.seq);
    catalog.spoiled.retain(exists);
    // Also what is listed only by what is let go now: somebody may be claiming over it, who has not seen this catalog.
    // Mutant: it is known where everything is.
    catalog.moved.retain(|moved| log.listed.contains(&moved.from) && !mutant::active("moved-forgotten"));
    let verdicts = history.points.iter().zip(why);
    let verdicts = verdicts.map(|(point, reasons)| Verdict { point: point.clone(), reasons }).collect();
    Pruning { verdicts, catalog, is_new: true }
}

/// How far the boundary may rise: to below the base of the newest point of the lineage, and below what the tracker
/// released last, which its next attach looks for. That is at least
/// - the last but one entry that ended a shipment of the newest claim: it was released before the next one began;
/// - the base of the newest claim, unless the claim says that it is another one.
///
/// Schedule against "below the newest point's base" alone: 1. a point is published, and the host dies before it is released;
/// 2. its log is pending, so the cut is vouched for, and the next point goes on over it; 3. the same again: the anchor
/// is two points below the newest one's base.
fn bound(log: &Log) -> u64 {
    let history = &log.history;
    let before = history.catalog.as_ref().map_or(0, Catalog::bound);
    let newest = history.points.iter().rfind(|point| !point.abandoned);
    let base = newest.and_then(|point| log.headers.get(&point.seq)).map_or(0, |header| header.base);
    let epoch = log.epoch();
    let ends = log.headers.values().filter(|header| header.epoch == epoch && header.ends_shipment());
    let last_but_one = ends.map(|header| header.seq).nth_back(1);
    let says_anchor = log.claim.continued.is_empty() && log.claim.reason.is_empty();
    let anchored = log.claim.base.filter(|_| says_anchor).map(|base| base.seq);
    let anchor = last_but_one.max(anchored);
    base.min(anchor.unwrap_or(0)).saturating_sub(1).max(before)
}

/// The cuts that were shipped whole at or below the boundary, under the newest claim.
fn shipped(
    headers: &BTreeMap<u64, EntryHeader>,
    before: Option<&Catalog>,
    epoch: u64,
    bound: u64,
) -> BTreeSet<CutId> {
    let passed = super::over(headers.range(..=bound).map(|(_, header)| header), epoch);
    let same = before.filter(|before| before.claim.is_some_and(|claim| claim.seq == epoch));
    passed.into_iter().chain(same.into_iter().flat_map(|before| before.shipped.iter().copied())).collect()
}

/// The folds of the newest claim that were listed, and are not by what exists from now on.
fn folded(log: &Log, catalog: &Catalog) -> BTreeSet<ObjectName> {
    let epoch = log.epoch();
    let exists = |seq: u64| seq > catalog.bound() || catalog.kept(seq).is_some();
    let of = |there: bool| {
        let contents = log.folds.iter().filter(move |(seq, _)| exists(**seq) == there);
        contents.flat_map(|(_, folds)| folds).filter(move |fold| fold.0 == epoch).map(|fold| fold.1)
    };
    let before = log.history.catalog.as_ref();
    let same = before.filter(|before| before.claim.is_some_and(|claim| claim.seq == epoch));
    let gone = of(false).chain(same.into_iter().flat_map(|before| before.folded.iter().copied()));
    &gone.collect::<BTreeSet<_>>() - &of(true).collect()
}

/// The cuts that have a folder of objects, and the folds.
fn there(group: &Group) -> Result<(BTreeSet<CutId>, BTreeSet<ObjectName>)> {
    let (mut cuts, mut folds) = (BTreeSet::new(), BTreeSet::new());
    for prefix in [names::packs(group.id()), names::folds(group.id())] {
        store::each(&*group.store, &prefix, "", |object| {
            match names::parse(&object.name) {
                Some(Parsed::Data { cut, .. }) => drop(cuts.insert(cut)),
                Some(Parsed::Fold { name, .. }) => drop(folds.insert(name)),
                _ => {}
            }
            Ok::<_, Error>(())
        })?;
    }
    Ok((cuts, folds))
}
