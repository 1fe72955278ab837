//! The start of a session, over any folder and any maps: look, decide (the table in [`crate::recover`]), and make the
//! new session durable in an order that a crash at any point survives.
//!
//! 1. Fresh maps are made and filled, or a good header is stamped with the new start: before the sidecar names it (S1).
//! 2. Intents of the new session, a fresh inode with all regions of the dead one (I3), and fresh logs: durable.
//! 3. The metas name them: the new session is in force. A crash before leaves the old session's files untouched.
//! 4. Fresh maps become valid, stamped ones forget the start before; the untracked mark is cleared; what nobody needs any
//!    more is deleted.

use super::files::{META, create_intents, create_log, intents_name, store_meta, store_name};
use super::folder::Folder;
use super::jobs::{DiskFacts, Home, Jobs, map_name, preserved_name, remove_logs};
use super::look::{Identity, Look, look, open_maps, read_identity, rebuild, sealed_log_is_there};
use super::maps::Maps;
use crate::disk::geometry::Geometry;
use crate::disk::regions::Regions;
use crate::disk::{Disk, FrozenDisk, Log, failed::Failed};
use crate::error::{Error, Kind};
use crate::format::changes::Header;
use crate::format::intents;
use crate::format::meta::{Mark, Meta, Recheck};
use crate::group::{Action, Group, GroupConfig, SidecarFile, Start};
use crate::id::{BootId, Cut, CutId, DiskId, DiskIndex, Generation, Nanos, Session, StartId};
use crate::map::header::{CutRecord, FailedSyncs, GroupHeader, Road, State};
use crate::map::{Words, bits};
use crate::mutant;
use crate::recover::Verdict;
use std::io;

/// The name of the group's header among the maps.
pub const HEADER: &str = "header";

/// Its name until it is whole.
const NEW_HEADER: &str = "header.new";

/// A disk as the start finds it.
#[derive(Debug)]
pub struct Candidate<F, D> {
    /// Its name in the group.
    pub name: String,
    /// Its path, for people.
    pub path: String,
    /// Its sidecar.
    pub folder: F,
    /// The disk itself.
    pub facts: D,
    /// Its sizes.
    pub geometry: Geometry,
    /// See [`super::OpenDisk::direct`].
    pub direct: bool,
    /// See [`super::OpenDisk::align`].
    pub align: u32,
}

/// The world at the start.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The random name of this start.
    pub start: StartId,
    /// This boot.
    pub boot: BootId,
    /// When it began, nanoseconds since 1970.
    pub boot_ns: i128,
    /// The wall clock, nanoseconds since 1970.
    pub wall_ns: i128,
    /// The monotonic clock, by which the machine lives: it stands still in suspend.
    pub monotonic: Nanos,
    /// The clock that does not: heartbeats are told by it (S3).
    pub since_boot: Nanos,
}

/// A session that is in force.
pub struct Started<F: Folder, D> {
    /// Where the machine begins.
    pub(crate) start: Start,
    /// Files for the engine.
    pub opened: Vec<(DiskIndex, SidecarFile, F::File)>,
    /// For the jobs.
    pub homes: Vec<Home<F, D>>,
    /// The session.
    pub session: Session,
}

/// A session that runs: what an engine drives.
#[derive(Debug)]
pub struct Running<F: Folder, D, M> {
    /// The machine.
    pub group: Group,
    /// Its first actions, to be executed before anything else.
    pub actions: Vec<Action>,
    /// Does its jobs.
    pub jobs: Jobs<F, D, M>,
    /// Files to be installed before the first action.
    pub opened: Vec<(DiskIndex, SidecarFile, F::File)>,
}

impl<F: Folder, D> Started<F, D> {
    /// Sets the machine and its jobs going, over the maps that the start was given. `draw` names cuts.
    pub fn run<M>(self, maps: M, draw: fn() -> CutId) -> Running<F, D, M> {
        let mut actions = Vec::new();
        let group = Group::new(self.start, &mut actions);
        let jobs = Jobs { homes: self.homes, maps, session: self.session, draw };
        Running { group, actions, jobs, opened: self.opened }
    }
}

/// Starts a session of the group.
///
/// # Errors
/// A sidecar of another disk or of a newer program, or one that can't be written: one clear line.
pub fn start<F: Folder, D: DiskFacts, M: Maps>(
    candidates: Vec<Candidate<F, D>>,
    maps: &M,
    mut config: GroupConfig,
    intent_budget: u64,
    now: Now,
    draw: fn() -> DiskId,
) -> Result<Started<F, D>, Error> {
    let sidecar = |name: &str, what: &str, error: io::Error| {
        Error::caused(
            Kind::Sidecar,
            format!("{what} of disk {name} can't be used; check its file system"),
            error,
        )
    };
    let mut found = Vec::new();
    for candidate in &candidates {
        found.push(read_identity(candidate, draw)?);
    }
    let ids: Vec<_> = found.iter().map(|(id, ..)| *id).collect();
    if let Some(copy) = (1..ids.len()).find(|index| ids[..*index].contains(&ids[*index])) {
        let original = ids.iter().position(|id| *id == ids[copy]).expect("found above");
        let [original, copy] = [original, copy].map(|index| candidates[index].path.as_str());
        let line = format!(
            "{copy} is a copy of {original}, with its identity: remove that (setfattr -x user.towline {copy}, and the copy's \
             sidecar if it has one), and it is a disk of its own"
        );
        return Err(Error::new(Kind::Sidecar, line));
    }
    let sizes: Vec<_> = ids.iter().copied().zip(candidates.iter().map(|one| one.geometry.size)).collect();
    let header = maps.open(HEADER, GroupHeader::WORDS, true).ok().map(GroupHeader::new);
    let holder = holder(&found).cloned();
    let last = found.iter().filter_map(|(_, meta, _)| meta.as_ref()).map(|meta| meta.session).max();
    config.session = Session(last.unwrap_or_default().0 + 1);
    let session = config.session;
    // The maps are good only if they are so for every disk.
    let starts: Vec<_> =
        found.iter().map(|(_, meta, _)| meta.as_ref().map(|meta| meta.start).unwrap_or_default()).collect();
    let knows =
        |header: &GroupHeader| starts.iter().enumerate().all(|(disk, start)| header.knows(disk, *start));
    let fit = header.as_ref().is_some_and(|header| {
        header.fits(now.boot, &sizes) && knows(header) || mutant::active("stale-maps-believed")
    });
    // W6: what the dead process knew of failed syncs counts, whatever becomes of the maps. Per disk: nobody may have been
    // told; it is doubtful.
    let errors: Vec<_> = found
        .iter()
        .zip(&starts)
        .map(|((id, meta, _), start)| {
            let doubtful = meta.as_ref().is_some_and(|meta| meta.boot == now.boot && meta.doubtful);
            let none = FailedSyncs { latched: doubtful, doubtful };
            header.as_ref().map_or(none, |header| header.failed_syncs(now.boot, *id, (*start, doubtful)))
        })
        .collect();
    let mut good = !config.off && fit && found.iter().all(|(_, meta, _)| meta.is_some());
    good = good && open_maps(&candidates, maps, header.as_ref()).is_some();
    let mut looks = look(&candidates, &found, holder.as_ref(), header.as_ref(), good, now)
        .map_err(|(name, error)| sidecar(&name, "the sidecar", error))?;
    if good && !looks.iter().all(|look| look.verdict == Verdict::Continue) {
        good = false;
        looks = look(&candidates, &found, holder.as_ref(), header.as_ref(), false, now)
            .map_err(|(name, error)| sidecar(&name, "the sidecar", error))?;
    }

    // The identity travels with the disk from its first attach on; `--tracking off` is durable, here and in the meta,
    // before the first untracked write.
    for (candidate, look) in candidates.iter().zip(&looks).filter(|(_, look)| look.fresh || config.off) {
        candidate
            .facts
            .set_mark(&Mark { disk: look.id, untracked: config.off })
            .map_err(|error| sidecar(&candidate.name, "the mark (extended attribute)", error))?;
    }
    // S3: times first, then the sync that makes at least these durable.
    let mut stamps = Vec::new();
    for candidate in &candidates {
        stamps.push(candidate.facts.fingerprint().map_err(|error| {
            Error::caused(Kind::Disk, format!("disk {} can't be looked at", candidate.name), error)
        })?);
    }
    // Where what a sync says is noted, the header of these disks. If there is none, a void one: with the metas of this session
    // it says too that this session has not served. It begins with what is known, for from now on it is asked first.
    // It takes the place of another when it is whole: killed before, what the other says of syncs is found again.
    let make_header = |fill: &dyn Fn(Words) -> GroupHeader| {
        maps.create(NEW_HEADER, GroupHeader::WORDS, true)
            .map(fill)
            .and_then(|header| maps.rename(NEW_HEADER, HEADER).map(|()| header))
            .map_err(|error| Error::caused(Kind::Other, "the maps' header can't be made", error))
    };
    let notes = match header.as_ref() {
        Some(header) if header.is_of(now.boot, &sizes) => {
            note(header, &errors);
            header.clone()
        }
        other => {
            other.inspect(|header| header.void());
            let last = last.unwrap_or_default();
            make_header(&|words| GroupHeader::create_void(words, now.boot, last, &sizes, &errors))?
        }
    };
    // W6: an error is told once, and here to us. It is no reason not to serve: the guest is told by its next flush. Noted at
    // once, for this start may not come to its end.
    let mut lost = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        let synced = candidate.facts.fsync();
        if let Err(error) = &synced {
            tracing::error!(disk = candidate.name, %error, "a sync of the disk failed: it is doubtful from now on");
            notes.set_latched(index, true);
            notes.set_doubtful(index);
        }
        lost.push(synced.is_err());
    }

    // 1. Maps.
    let open_generation = match &header {
        Some(header) if good => header.state().open,
        // Mutant: of the session before.
        _ if mutant::active("generation-reused") => Generation::first_of(Session(session.0.max(2) - 1)),
        _ => Generation::first_of(session),
    };
    match &header {
        Some(header) if good => header.stamp(session, now.start, &starts),
        Some(header) => header.void(),
        None => {}
    }
    let words = |candidate: &Candidate<F, D>| bits::words_for(candidate.geometry.blocks());
    let mut open = Vec::new();
    let mut freeze_maps = Vec::new();
    let state = header.as_ref().filter(|_| good).map(GroupHeader::state);
    if let (Some(header), Some(state)) = (&header, state) {
        (open, freeze_maps) = open_maps(&candidates, maps, Some(header)).expect("looked at above");
        // Perhaps a start met it that died before it came here.
        let unsound = lost.contains(&true)
            || errors.iter().any(|known| known.latched)
                && matches!(state.road, Road::Draining | Road::Synced);
        let sealed = match state.road {
            // C2: a release that no meta tells of never happened.
            Road::Releasing => looks.iter().any(|look| look.released < Generation(state.open.0 - 1)),
            road => road == Road::Sealed,
        };
        if sealed && !sealed_log_is_there(&candidates, &looks, header, state) {
            tracing::warn!("the live freeze has lost its change log: it is undone");
            header.store(State { road: Road::Undoing, ..state });
        } else if unsound && (sealed || matches!(state.road, Road::Draining | Road::Synced)) {
            // W6: what was cut may be lost.
            header.store(State { road: Road::Undoing, ..state });
        }
    } else {
        maps.names().iter().filter(|name| *name != HEADER).for_each(|name| maps.remove(name));
        for (index, (candidate, look)) in candidates.iter().zip(&looks).enumerate() {
            let map = maps
                .create(&map_name(open_generation, index), words(candidate), true)
                .map_err(|error| sidecar(&candidate.name, "the map in memory", error))?;
            rebuild(candidate, &map, look)
                .map_err(|error| sidecar(&candidate.name, "a change log", error))?;
            open.push(map);
        }
    }
    let state = header.as_ref().filter(|_| good).map(GroupHeader::state);
    let frozen_generation =
        state.filter(|state| state.road != Road::None).map(|state| Generation(state.open.0 - 1));

    // 2 and 3. Files, then metas.
    let mut opened = Vec::new();
    let mut disks = Vec::new();
    let mut homes = Vec::new();
    let mut first_pending = open_generation;
    // V2: the next seal deletes the sealed logs of today, and with them all else that knows of their cuts. So does a freeze of
    // which only the maps are left: its blocks go back into the open ones. A log that can't be read, or is gone, had a name all
    // the same. A disk vouches as long as what the cut had of it is pending: a release ends that, and one that is compared as a
    // whole has everything pending. A cut counts if every disk vouches for it, and then each meta says so: any may be lost.
    let live =
        header.as_ref().zip(frozen_generation).map(|(header, frozen)| header.read_cut(frozen).identity());
    let theirs: Vec<Vec<Cut>> = looks.iter().map(|look| look.vouched(live)).collect();
    let mut vouched: Vec<Cut> = Vec::new();
    for cut in theirs.iter().flatten() {
        // Mutant: one is enough.
        let all = mutant::active("vouched-by-one")
            || looks
                .iter()
                .zip(&theirs)
                .all(|(look, cuts)| matches!(look.verdict, Verdict::Resync(_)) || cuts.contains(cut));
        if all && !vouched.contains(cut) {
            vouched.push(*cut);
        }
    }
    let mut fill = Vec::new();
    // Adopted by every disk; all of one that is new in the group is pending.
    let adopted = holder.as_ref();
    for (index, ((candidate, look), open)) in candidates.into_iter().zip(looks).zip(open).enumerate() {
        let disk_index = DiskIndex(index as u16);
        let complain = |what: &str, error| sidecar(&candidate.name, what, error);
        let mut recheck = look.meta.as_ref().and_then(|meta| meta.recheck.clone());
        recheck.take_if(|recheck| adopted.is_some_and(|holder| recheck.since <= holder.released));
        let since = open_generation;
        match &look.verdict {
            Verdict::Continue => {}
            Verdict::Rebuild { compare } => {
                if *compare && recheck.is_none() {
                    recheck = Some(Recheck { since, whole: false, reason: "after a crash".into() });
                }
            }
            Verdict::Resync(reason) => {
                tracing::warn!(disk = candidate.name, reason, "resynchronization required");
                recheck = Some(Recheck { since, whole: true, reason: reason.clone() });
            }
        }
        if config.off {
            recheck = Some(Recheck { since, whole: true, reason: "tracking was off".into() });
        }
        let resync = matches!(look.verdict, Verdict::Resync(_));
        // Only a restart of the host ends the doubt: what was lost shows then, and is compared as a whole.
        let doubtful_before = look.meta.as_ref().is_some_and(|meta| meta.doubtful) && !resync;
        let doubtful = doubtful_before || errors[index].doubtful || lost[index];
        if doubtful && !candidate.direct {
            // The pages are clean and lost. The dead session may not have come so far as to say so.
            if let Err(error) = candidate.facts.drop_cache() {
                tracing::warn!(disk = candidate.name, %error, "the disk's cache can't be dropped");
            }
            recheck = Some(Recheck { since, whole: true, reason: "a sync of the disk had failed".into() });
        }
        let known = header.as_ref().filter(|_| good).map(|header| header.failed(index));
        let mut failed = Failed::new(known.clone().flatten().unwrap_or_default());
        let per = candidate.geometry.region_shift - candidate.geometry.block_shift;
        let hull = |blocks: &std::ops::Range<u64>| ((blocks.end - 1) >> per) - (blocks.start >> per) + 1;
        let regions_of = |failed: &Failed| failed.extents().map(|blocks| hull(&blocks)).sum::<u64>();
        let held = regions_of(&failed);
        let crowded = 4 * held > intents::REGIONS_MAX as u64
            || held + look.intents.regions.len() as u64 > intents::REGIONS_MAX as u64;
        if crowded {
            failed = Failed::default();
        }
        if known == Some(None) || crowded {
            // W5: too many to know where, so anywhere.
            let reason = "more writes failed than can be remembered".to_string();
            recheck = Some(Recheck { since, whole: true, reason });
        }
        let carried =
            frozen_generation.is_some_and(|frozen| recheck.as_ref().is_some_and(|one| one.since <= frozen));
        if recheck.as_ref().is_some_and(|recheck| recheck.whole) && !carried && !config.off {
            fill.push(index);
        }
        // After a clean stop everything is in the logs; a disk to be compared as a whole needs no intents either.
        let clean = look.meta.as_ref().is_some_and(|meta| meta.clean.is_some());
        let mut regions = if clean || resync { Vec::new() } else { look.intents.regions.clone() };
        // The data of a failed write may still land: its region stays in the intents (I4).
        for blocks in failed.extents() {
            regions.extend((blocks.start >> per) as u32..((blocks.end - 1) >> per) as u32 + 1);
        }
        regions.sort_unstable();
        regions.dedup();
        let budget = usize::try_from(intent_budget >> candidate.geometry.region_shift).unwrap_or(usize::MAX);
        let least = config.bounds.regions_least(candidate.geometry.region_shift) as usize;
        // Those of failed writes don't leave: beside them there must be room for others, as after healing (S4).
        let budget = budget.max(least).max(4 * regions_of(&failed) as usize).min(intents::REGIONS_MAX);
        let capacity = budget.max(regions.len());
        let log_of = |generation| Header {
            disk: look.id,
            session,
            generation,
            block_shift: candidate.geometry.block_shift,
            size: candidate.geometry.size,
        };
        let mut new_log = |generation: Generation| -> io::Result<Log> {
            let file = create_log(&candidate.folder, &log_of(generation))?;
            opened.push((disk_index, SidecarFile::Changes(generation), file));
            Ok(Log::new(log_of(generation)))
        };
        let log = new_log(open_generation).map_err(|error| complain("a change log", error))?;
        let mut frozen = None;
        if let (Some(generation), Some(state)) = (frozen_generation, state) {
            let cut = header.as_ref().map(|header| header.read_cut(generation)).expect("there is a state");
            let (map, preserved): &(Words, Words) = &freeze_maps[index];
            let sealed = state.road >= Road::Sealed && state.road != Road::Undoing;
            let log = if sealed {
                Log::new(log_of(generation))
            } else {
                new_log(generation).map_err(|error| complain("a change log", error))?
            };
            frozen = Some(resume(&candidate, &look, map, preserved, cut, log, carried));
            if let Ok(store) = candidate.folder.open(&store_name(cut.cut)) {
                opened.push((disk_index, SidecarFile::Store(generation), store));
            }
            first_pending = first_pending.min(cut.first);
        }
        let marks =
            [log.mark(), frozen.as_ref().map(|frozen: &FrozenDisk| frozen.log.mark()).unwrap_or_default()];
        let (file, intent_sequence) = create_intents(
            &candidate.folder,
            &intents_name(session),
            look.id,
            session,
            marks,
            &regions,
            capacity,
        )
        .map_err(|error| complain("the intents", error))?;
        opened.push((disk_index, SidecarFile::Intents, file));
        let meta = Meta {
            disk: look.id,
            members: ids.clone(),
            size: candidate.geometry.size,
            block_shift: candidate.geometry.block_shift,
            region_shift: candidate.geometry.region_shift,
            session,
            start: now.start,
            boot: now.boot,
            intents: intents_name(session),
            clean: None,
            stamp: stamps[index],
            stamped_ns: now.wall_ns,
            vouched: vouched.clone(),
            recheck,
            doubtful,
            target: adopted.and_then(|holder| holder.target),
            anchor: adopted.and_then(|holder| holder.anchor),
            released: adopted.map_or(Generation(0), |holder| holder.released),
            // Also one that is missing, if the maps made up for it: only the next sealed log does so durably. A disk that is
            // compared as a whole needs none of them.
            logs: if resync || config.off || mutant::active("logs-not-listed") {
                Vec::new()
            } else {
                look.logs.pending.clone()
            },
        };
        // The names of the new files before the meta that needs them.
        candidate.folder.sync().map_err(|error| complain("the sidecar", error))?;
        store_meta(&candidate.folder, &meta).map_err(|error| complain("disk.meta", error))?;
        if let Some(first) = look.logs.first {
            first_pending = first_pending.min(first);
        }

        let mut region_table = Regions::new(candidate.geometry.regions(), budget, &regions);
        for blocks in failed.extents() {
            for region in (blocks.start >> per) as u32..((blocks.end - 1) >> per) as u32 + 1 {
                region_table.set_failed(region, true);
            }
        }
        let dirty_blocks = bits::count(&open);
        let logs = meta.logs.clone();
        let (name, path) = (candidate.name.clone(), candidate.path.clone());
        let begins = Disk::untracked(name, path, candidate.geometry, candidate.direct, candidate.align);
        disks.push(Disk {
            dirty_blocks,
            open,
            meta,
            log,
            regions: region_table,
            intent_sequence,
            intent_capacity: capacity,
            failed,
            filled: dirty_blocks == candidate.geometry.blocks(),
            // W6: the guest may not have been told.
            latched: lost[index] || errors[index].latched,
            frozen,
            ..begins
        });
        homes.push(Home {
            folder: candidate.folder,
            facts: candidate.facts,
            id: ids[index],
            size: candidate.geometry.size,
            block_shift: candidate.geometry.block_shift,
            logs,
        });
    }

    // 4. Valid from here on.
    let known: Vec<_> = disks
        .iter()
        .map(|disk| FailedSyncs { latched: disk.latched, doubtful: disk.meta.doubtful })
        .collect();
    let header = match header.filter(|_| good) {
        Some(header) => {
            header.settle(now.start);
            note(&header, &known);
            forget_maps(maps, disks.len(), header.state());
            header
        }
        None => {
            let of = (session, now.start);
            make_header(&|words| {
                let header = GroupHeader::create(words, now.boot, of, open_generation, &sizes, &known);
                header.set_attach(crate::id::AttachNumber(session.0 << 32));
                // Before it has its name: who finds it without a sign of life takes all since the boot for others' doing (S3).
                header.beat(now.since_boot);
                header
            })?
        }
    };
    header.beat(now.since_boot);
    let live_cut = frozen_generation.map(|generation| header.read_cut(generation).cut);
    for (home, disk) in homes.iter().zip(&mut disks) {
        let mark = Mark { disk: home.id, untracked: false };
        if !config.off && !matches!(home.facts.mark(), Ok(Some(found)) if found == mark) {
            // What it asked for is in the meta, durably. Left over it would ask the next start again.
            disk.unmark_again = true;
        }
        clean_up(home, &disk.meta, session, live_cut);
    }
    let anchor = disks.iter().find_map(|disk| disk.meta.anchor);
    let target = disks.iter().find_map(|disk| disk.meta.target);
    let start =
        Start { config, header, disks, target, anchor, vouched, first_pending, fill, now: now.monotonic };
    Ok(Started { start, opened, homes, session })
}

/// Promise 5: deletes the maps that this state of the freeze does not need. A process that dies between the end of a freeze and the
/// job that deletes its maps leaves them, and so it does with spares. Who still reads keeps the inodes (C3).
fn forget_maps<M: Maps>(maps: &M, disks: usize, state: State) {
    let mut needed = vec![HEADER.to_string()];
    let frozen = (state.road != Road::None).then(|| Generation(state.open.0 - 1));
    for disk in 0..disks {
        needed.push(map_name(state.open, disk));
        needed.extend(frozen.map(|frozen| map_name(frozen, disk)));
        needed.extend(frozen.map(|frozen| preserved_name(frozen, disk)));
    }
    maps.names().iter().filter(|name| !needed.contains(name)).for_each(|name| maps.remove(name));
}

/// The meta that says what the group has released last: any of its disks' may be behind, if a host died while a release was
/// stored. The group is the largest number of disks that know each other; of two such, the one with the first disk. Who
/// came from elsewhere has another past, however far.
fn holder(found: &[Identity]) -> Option<&Meta> {
    let metas = || found.iter().filter_map(|(_, meta, _)| meta.as_ref());
    let know = |one: &Meta, other: &Meta| {
        one.disk == other.disk || one.members.contains(&other.disk) && other.members.contains(&one.disk)
    };
    let first = metas().next()?;
    metas()
        .max_by_key(|one| (metas().filter(|other| know(one, other)).count(), know(one, first), one.released))
}

/// W6: the header of these disks says what is known of their failed syncs, and of none any more that is still running.
fn note(header: &GroupHeader, known: &[FailedSyncs]) {
    for (index, known) in known.iter().enumerate() {
        header.set_latched(index, known.latched);
        if known.doubtful {
            header.set_doubtful(index);
        }
        header.set_slow_sync(index, false);
    }
}

/// A freeze that survived with its maps.
fn resume<F, D>(
    candidate: &Candidate<F, D>,
    look: &Look,
    map: &Words,
    preserved: &Words,
    cut: CutRecord,
    log: Log,
    carried: bool,
) -> FrozenDisk {
    let seal = look.logs.seals.iter().find(|seal| seal.cut == cut.cut);
    let recheck = look.meta.as_ref().and_then(|meta| meta.recheck.as_ref()).filter(|_| carried);
    FrozenDisk {
        frozen: map.clone(),
        preserved: preserved.clone(),
        log,
        size: candidate.geometry.size,
        blocks: candidate.geometry.blocks(),
        frozen_blocks: bits::count(map),
        preserved_blocks: bits::count(preserved),
        compare: seal.map_or(recheck.is_some(), |seal| seal.compare),
        whole: seal.map_or(recheck.is_some_and(|recheck| recheck.whole), |seal| seal.whole),
        synced: false,
    }
}

/// Deletes what the session that is in force doesn't need.
fn clean_up<F: Folder, D>(home: &Home<F, D>, meta: &Meta, session: Session, live: Option<CutId>) {
    let _ = remove_logs(&home.folder, |generation, _| generation > meta.released);
    let keep = [META.to_string(), intents_name(session), live.map(store_name).unwrap_or_default()];
    for name in home.folder.names().unwrap_or_default() {
        let ours = [".intents", ".preserved", ".new"].iter().any(|end| name.ends_with(end));
        if ours && !keep.contains(&name) {
            let _ = home.folder.remove(&name);
        }
    }
}
