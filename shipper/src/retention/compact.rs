//! Compaction: what still shows of packs with little live data is copied into new packs, so that the old ones can go (V14).
//!
//! ```text
//! weigh     what shows of each pack, in all images that exist     victims: objects of which less than half does
//! copy      their blocks that show, each checked by its hash      moved/<n+1>-*.pack
//! rewrite   each index that shows one of them                     moved/<n+1>-*.index, says the same: compared
//! catalog   n+1: read these where those are listed                put-if-absent: now it is real
//! collect   the victims show nowhere any more                     condemned, deleted
//! ```
//!
//! Entries are never rewritten: their lists go on naming the indexes that were made for them, and whoever opens one looks into
//! the newest catalog for what stands for it. The new index says the same of the same blocks, with the same hashes, so
//! it does not matter what lies below or above, who reads by an older catalog, or what was appended meanwhile. Only the
//! objects that data are read from differ, and of these the old ones go as all garbage does, after a plan of its own.
//!
//! What was made is named after the catalog that it is for, and is nobody's garbage until that number is taken. Schedule
//! against plain random names: 1. A copies and sleeps before its catalog; 2. B collects: nothing names what A made, it is
//! deleted; 3. A puts its catalog, and images show what is gone.
//!
//! Packs are named by indexes and by folds, which copy what an index says. A fold that was made before and is listed after is
//! what [`super::collect`] and [`crate::vault::publish`] look out for.

mod copy;
mod same;
mod weigh;

use super::collect::{Progress, State};
use super::prune::next;
use crate::vault::Group;
use crate::vault::access::Reader;
use crate::vault::catalog::{Catalog, Moved};
use crate::vault::cycle::Maker;
use crate::vault::entry::{Content, IndexRef};
use crate::vault::limits::CATALOG_MAX;
use crate::vault::names::{self, ObjectName};
use crate::{Error, Kind, Result};
use copy::{Copies, Rewritten};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Memory for index pages.
const CACHE: usize = 64 << 20;
/// Indexes that are listed: a catalog must have room for each that is moved, and for half as much besides.
const MOVED_MAX: usize = CATALOG_MAX / 2 / 128;
/// The most that is copied for one catalog: about a tenth of it is memory.
const ROUND: u64 = 1 << 30;

/// What may be done.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of packs that may be copied; at least one pack is, unless this is 0.
    pub budget: u64,
    /// How large the new packs are.
    pub pack_size: usize,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Objects of which nothing shows any more, and their bytes.
    pub emptied: (u64, u64),
    /// Bytes of packs and indexes put instead.
    pub put: u64,
}

/// Compacts a group as far as the bounds let it. May be ended anywhere and done again; any number may do it at once. What it
/// empties is for [`super::collect`] to delete.
///
/// # Errors
/// `GroupNotFound`; `Damage`: what can't be read can't be weighed; `GroupFull` if a catalog has no more room, the
/// store's; the progress's.
pub fn compact(group: &Group, bounds: Bounds, now_ns: u64, progress: &mut dyn Progress) -> Result<Compacted> {
    let mut done = Compacted::default();
    let mut left = bounds.budget;
    while left > 0 {
        let (head, catalog) = group.tail(0)?;
        let number = catalog.as_ref().map_or(0, |catalog| catalog.number);
        let state = State::read(group, head, catalog);
        let round = Bounds { budget: left.min(ROUND), ..bounds };
        match state.and_then(|state| self::round(group, &state, round, now_ns, progress)) {
            // What was let go, or moved, while it was looked at is not damaged. That the log went on takes nothing away.
            Err(error) if error.kind() == Kind::Damage && group.newer_catalog(number)?.is_some() => {}
            Err(error) => return Err(error),
            Ok(None) => break,
            Ok(Some(round)) => {
                done.emptied = (done.emptied.0 + round.emptied.0, done.emptied.1 + round.emptied.1);
                done.put += round.put;
                left = left.saturating_sub(round.put.max(1));
            }
        }
    }
    Ok(done)
}

/// What [`compact`] would do under a catalog that is there, or one that is to be: of what it would put only the blocks are told.
///
/// # Errors
/// As [`compact`].
pub fn estimate(
    group: &Group,
    by: Option<&Catalog>,
    bounds: Bounds,
    progress: &mut dyn Progress,
) -> Result<Compacted> {
    if bounds.budget == 0 {
        return Ok(Compacted::default());
    }
    let (head, catalog) = group.tail(0)?;
    let mut state = State::read(group, head, catalog)?;
    if let Some(by) = by {
        state = state.under(by);
    }
    let reader = Arc::new(Reader::new(group.clone(), CACHE));
    let weighed = weigh::weigh(&reader, &state.contents(), progress)?;
    let victims = weigh::victims(&reader, &state, &weighed, bounds.budget)?;
    Ok(Compacted { emptied: victims.emptied, put: victims.live })
}

/// As much as one catalog is to say. `None`: there is nothing to do.
fn round(
    group: &Group,
    state: &State,
    bounds: Bounds,
    now_ns: u64,
    progress: &mut dyn Progress,
) -> Result<Option<Compacted>> {
    let reader = Arc::new(Reader::new(group.clone(), CACHE));
    let contents = state.contents();
    let weighed = weigh::weigh(&reader, &contents, progress)?;
    let victims = weigh::victims(&reader, state, &weighed, bounds.budget)?;
    if victims.emptied.0 == 0 {
        return Ok(None);
    }
    if listed(&contents).len() > MOVED_MAX {
        tracing::warn!(
            group = group.name,
            "its points list too many indexes for more to be repacked: let some go"
        );
        return Ok(None);
    }
    let mut catalog = next(state.catalog.as_ref(), &group.name, now_ns);
    let maker = Maker { seal: group.seal.clone(), epoch: catalog.number, cut: names::NO_CUT };
    let mut copies = Copies::new(&reader, maker.clone(), bounds.pack_size);
    copies.all(weigh::shown(&reader, &contents, victims.packs)?, progress)?;
    let mut put = copies.finish()?;
    let mut moved: BTreeMap<ObjectName, IndexRef> =
        catalog.moved.iter().map(|moved| (moved.from, moved.to)).collect();
    for listed in listed(&contents) {
        let Some(Rewritten { index, to }) = copies.rewrite(&listed, &maker)? else { continue };
        group.store.put(&index.object, &index.bytes)?;
        put += index.bytes.len() as u64;
        // Everything that is dropped later rests on this: read back, block by block.
        if !same::same(&reader, &listed, &to)? {
            return Err(Error::new(Kind::Other, "an index was not rewritten as it was; nothing is moved"));
        }
        moved.insert(listed.name, to);
    }
    catalog.moved = moved.into_iter().map(|(from, to)| Moved { from, to }).collect();
    // Whoever puts the vault back to an older copy under us takes away what we have made.
    if !copies.are_there()? || group.entry_header(state.head.seq)? != Some(state.head) {
        return Err(Error::new(
            Kind::Other,
            format!("group {} was put back while it was repacked", group.name),
        ));
    }
    if copies.is_empty() || !group.put_catalog(&catalog)? {
        // Damaged, all of it, or somebody else was quicker: then what was made is garbage.
        return Ok(None);
    }
    Ok(Some(Compacted { emptied: victims.emptied, put }))
}

/// Every index that is listed, once.
fn listed(contents: &[Content]) -> Vec<IndexRef> {
    let all = contents.iter().flat_map(|content| &content.disks).flat_map(|disk| &disk.indexes);
    let by_name: BTreeMap<_, _> = all.map(|index| (index.name, *index)).collect();
    by_name.into_values().collect()
}

#[cfg(test)]
mod tests;
