//! What a start finds, before it changes anything: who each disk is, what its sidecar and the maps hold, and the verdict
//! of the table in [`crate::recover`] on it.

use super::files::{self, META, read_logs, store_name};
use super::folder::Folder;
use super::jobs::{DiskFacts, map_name, preserved_name};
use super::maps::Maps;
use super::start::{Candidate, Now};
use crate::error::{Error, Kind};
use crate::format::envelope::BadFile;
use crate::format::intents;
use crate::format::meta::{LOGS_MAX, Meta, PendingLog};
use crate::id::{Cut, DiskId, Generation};
use crate::map::header::{GroupHeader, Road, State};
use crate::map::{Words, bits};
use crate::mutant;
use crate::recover::{Evidence, Stop, Times, Verdict, changed, decide};
use std::io;
use std::ops::Range;

/// The stamp in the meta is at most this old while a tracker lives.
const STAMP_NS: i128 = 62_000_000_000;

/// What was read of one disk.
pub(super) struct Look {
    pub(super) id: DiskId,
    pub(super) meta: Option<Meta>,
    pub(super) fresh: bool,
    pub(super) intents: intents::IntentSet,
    pub(super) logs: files::Logs,
    /// Logs up to this generation are done with.
    pub(super) released: Generation,
    pub(super) verdict: Verdict,
}

pub(super) type Identity = (DiskId, Option<Meta>, bool);

/// Who the disk is: by its meta, by the mark that it carries, or by a new draw.
pub(super) fn read_identity<F: Folder, D: DiskFacts>(
    candidate: &Candidate<F, D>,
    draw: fn() -> DiskId,
) -> Result<Identity, Error> {
    let name = &candidate.name;
    let mark = candidate.facts.mark().map_err(|error| {
        Error::caused(
            Kind::Sidecar,
            format!("the mark (extended attribute) of disk {name} can't be read"),
            error,
        )
    })?;
    let meta = match candidate.folder.read(META) {
        Ok(bytes) => Some(Meta::decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(Error::caused(
                Kind::Sidecar,
                format!("the sidecar of disk {name} can't be read"),
                error,
            ));
        }
    };
    let path = &candidate.path;
    match (meta, mark) {
        (Some(Ok(meta)), Some(mark)) if meta.disk != mark.disk => Err(Error::new(
            Kind::Sidecar,
            format!(
                "the sidecar of {path} belongs to another disk: move it away, and the disk is resynchronized"
            ),
        )),
        (Some(Ok(meta)), _) => Ok((meta.disk, Some(meta), false)),
        (Some(Err(error @ BadFile::Newer(_))), _) => Err(Error::caused(
            Kind::Sidecar,
            format!("the sidecar of {path} is from a newer version of Towline: use that one"),
            error,
        )),
        // Damaged or missing: what the disk carries says who it is, and it is resynchronized.
        (_, Some(mark)) => Ok((mark.disk, None, false)),
        (_, None) => Ok((draw(), None, true)),
    }
}

pub(super) type Maps2 = (Vec<Words>, Vec<(Words, Words)>);

/// The maps that the header speaks of, if all are there: open, and frozen with preserved.
pub(super) fn open_maps<F, D, M: Maps>(
    candidates: &[Candidate<F, D>],
    maps: &M,
    header: Option<&GroupHeader>,
) -> Option<Maps2> {
    let state = header?.state();
    let (mut open, mut frozen) = (Vec::new(), Vec::new());
    for (index, candidate) in candidates.iter().enumerate() {
        let words = bits::words_for(candidate.geometry.blocks());
        open.push(maps.open(&map_name(state.open, index), words, true).ok()?);
        if state.road != Road::None {
            let generation = Generation(state.open.0 - 1);
            // A release or an undo may have deleted them already; what is left of it needs none.
            let over = state.road == Road::Releasing;
            let get = |name: String, dense| match maps.open(&name, words, dense) {
                Err(_) if over => Some(Words::private(words)),
                other => other.ok(),
            };
            let map = get(map_name(generation, index), true)?;
            frozen.push((map, get(preserved_name(generation, index), false)?));
        }
    }
    Some((open, frozen))
}

/// Reads what is there of each disk and decides.
pub(super) fn look<F: Folder, D: DiskFacts>(
    candidates: &[Candidate<F, D>],
    found: &[Identity],
    holder: Option<&Meta>,
    header: Option<&GroupHeader>,
    good: bool,
    now: Now,
) -> Result<Vec<Look>, (String, io::Error)> {
    let heartbeat =
        header.map(|header| now.wall_ns - i128::from(now.since_boot.0.saturating_sub(header.heartbeat().0)));
    let stamped = header.map(GroupHeader::session);
    let ids: Vec<_> = found.iter().map(|(id, ..)| *id).collect();
    let mut looks = Vec::new();
    for (index, (candidate, (id, meta, fresh))) in candidates.iter().zip(found).enumerate() {
        let complain = |error| (candidate.name.clone(), error);
        let Some(meta) = meta else {
            let why = if *fresh { "the disk is new" } else { "its sidecar is missing or damaged" };
            looks.push(Look {
                id: *id,
                meta: None,
                fresh: *fresh,
                intents: intents::IntentSet::default(),
                logs: files::Logs::default(),
                released: Generation(0),
                verdict: Verdict::Resync(why.into()),
            });
            continue;
        };
        let stop = match (&meta.clean, meta.boot == now.boot) {
            (Some(_), _) => Stop::Clean,
            (None, true) => Stop::Process,
            (None, false) => Stop::Host,
        };
        let mut damaged = None;
        let mut set = intents::IntentSet::default();
        let mut known = meta.logs.clone();
        let marked = |session, generation, length| PendingLog { generation, session, length, cut: None };
        if let Some(clean) = &meta.clean {
            known.push(marked(meta.session, clean.log.generation, clean.log.length));
        } else {
            let bytes = candidate.folder.read(&meta.intents).unwrap_or_default();
            match intents::newest(*id, &bytes) {
                Ok(newest) => {
                    known
                        .extend(newest.logs.map(|mark| marked(newest.session, mark.generation, mark.length)));
                    set = newest;
                }
                Err(error) => damaged = Some(error.to_string()),
            }
        }
        let rotten = damaged.is_some();
        let released = match holder {
            Some(holder) if holder.members.contains(id) => holder.released,
            _ => meta.released,
        };
        let mut end = 0;
        let each = |blocks: Range<u64>| end = end.max(blocks.end);
        let logs = read_logs(&candidate.folder, *id, released, &known, each).map_err(complain)?;
        if end > candidate.geometry.blocks().next_multiple_of(64) {
            damaged = Some("a log speaks of blocks beyond the disk's end".into());
        }
        if set.regions.iter().any(|region| u64::from(*region) >= candidate.geometry.regions()) {
            damaged = Some("the intents speak of regions beyond the disk's end".into());
        }
        let same_sizes = (meta.block_shift, meta.region_shift)
            == (candidate.geometry.block_shift, candidate.geometry.region_shift);
        if !same_sizes {
            damaged = Some("the block size or the region size was changed".into());
        }
        let found_now = candidate.facts.fingerprint().map_err(complain)?;
        let times = Times {
            heartbeat_ns: match (heartbeat, stamped) {
                // Another start's heartbeat says nothing of this one's end.
                (Some(beat), _) if header.is_some_and(|header| header.knows(index, meta.start)) => beat,
                // A session that came no further than its metas never served: its stamp is its last sign of life. One of other
                // disks, or in another order, had another header.
                (_, Some(stamped)) if stamped < meta.session && meta.members == ids => meta.stamped_ns,
                _ => meta.stamped_ns + STAMP_NS,
            },
            boot_ns: now.boot_ns,
            same_boot: meta.boot == now.boot,
        };
        let mark = candidate.facts.mark().map_err(complain)?;
        let member = holder.is_none_or(|holder| {
            holder.disk == *id || (holder.members.contains(id) && meta.members.contains(&holder.disk))
        });
        let verdict = decide(&Evidence {
            stop,
            maps: good && same_sizes,
            member,
            untracked: mark.is_some_and(|mark| mark.untracked),
            doubtful: meta.doubtful,
            same_boot: meta.boot == now.boot,
            rotten,
            crowded: logs.pending.len() > LOGS_MAX,
            changed: changed(stop, &meta.stamp, meta.clean.as_ref(), &found_now, times),
            // Mutant: what is left of the logs is taken for all.
            damaged: damaged.or(logs.bad.clone()).filter(|_| !mutant::active("damaged-log-forgiven")),
        });
        let meta = Some(meta.clone());
        looks.push(Look { id: *id, meta, fresh: false, intents: set, logs, released, verdict });
    }
    Ok(looks)
}

impl Look {
    /// The cuts of which this disk says that their blocks are pending; `live` is of the freeze whose maps are there.
    pub(super) fn vouched(&self, live: Option<Cut>) -> Vec<Cut> {
        // A release that only another disk's meta tells of has ended what this one says.
        let before = self.meta.iter().filter(|meta| meta.released >= self.released);
        let before = before.flat_map(|meta| meta.vouched.iter().copied());
        let sealed = self.logs.seals.iter().map(|seal| seal.identity());
        let listed = self.logs.pending.iter().filter_map(|log| log.cut);
        before.chain(sealed).chain(listed).chain(live).collect()
    }

    /// Gives the blocks of all pending logs to `each`, in no order, and some more than once.
    ///
    /// # Errors
    /// The folder can't be read.
    pub(super) fn read_pending(&self, folder: &impl Folder, each: impl FnMut(Range<u64>)) -> io::Result<()> {
        read_logs(folder, self.id, self.released, &self.logs.pending, each).map(drop)
    }
}

/// Fills a fresh open map (DESIGN 3.5): intents and unreleased logs. The logs are read once more, straight into the map:
/// which blocks are in them is nowhere else in memory.
///
/// # Errors
/// A log can't be read any more.
pub(super) fn rebuild<F: Folder, D>(candidate: &Candidate<F, D>, map: &Words, look: &Look) -> io::Result<()> {
    if !matches!(look.verdict, Verdict::Rebuild { .. }) {
        return Ok(());
    }
    let blocks = candidate.geometry.blocks();
    let each = |range: Range<u64>| {
        // Mutant: the last block of each is left out.
        let end = range.end - u64::from(mutant::active("extent-end-off-by-one"));
        bits::set(map, range.start.min(blocks)..end.min(blocks));
    };
    let logs = read_logs(&candidate.folder, look.id, look.released, &look.logs.pending, each)?;
    if let Some(why) = logs.bad.filter(|_| !mutant::active("damaged-log-forgiven")) {
        return Err(io::Error::other(why));
    }
    if look.meta.as_ref().is_some_and(|meta| meta.clean.is_none()) {
        for region in &look.intents.regions {
            bits::set(map, candidate.geometry.region_blocks(*region));
        }
    }
    Ok(())
}

/// The sealed freeze's log must be there for the shipper.
pub(super) fn sealed_log_is_there<F: Folder, D>(
    candidates: &[Candidate<F, D>],
    looks: &[Look],
    header: &GroupHeader,
    state: State,
) -> bool {
    let cut = header.read_cut(Generation(state.open.0 - 1)).cut;
    let store = |candidate: &Candidate<F, D>| candidate.folder.open(&store_name(cut)).is_ok();
    looks.iter().all(|look| look.logs.seals.iter().any(|seal| seal.cut == cut))
        && candidates.iter().all(store)
}
