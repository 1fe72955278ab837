//! The loop itself: does what [`super::plan`] decides.

use super::audit::{self, Audit, Auditor};
use super::ground::Ground;
use super::plan::{self, Backoff, Fuzzy, Opening};
use super::tracker::{Mine, Tracker};
use super::{Ended, Options, Stop, Summary, Surroundings};
use crate::edge::Edge;
use crate::limit::Limit;
use crate::pipeline::{self, Checkpoint, Counters, Cycle, Hooks, Lately, Plan, Shipped};
use crate::retention::damage;
use crate::source::{FrozenSource, OpenedFreeze, Source};
use crate::store::tally::Requests;
use crate::vault::attach::{Base, Claimant, Decision, TakeOver};
use crate::vault::entry::{Content, EntryHeader, EntryKind, EntryRef, Totals};
use crate::vault::fold::Folder;
use crate::vault::publish::Publisher;
use crate::vault::{Group, Vault};
use crate::{Error, Kind, Result};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use towline_tracker::control::message::Attached;
use towline_tracker::id::{Anchor, CutId, TargetId};

/// A checkpoint is put at least this often while a freeze ships.
const CHECKPOINT_AGE: Duration = Duration::from_secs(300);
/// Steps of folding between two cycles, and more for each disk, although the next cycle is due: lists must not grow because
/// cuts follow one another without a pause. A small fold takes about two for each index.
const FOLD_STEPS: usize = 4;
/// How often a wait listens.
const LISTEN: Duration = Duration::from_millis(100);

/// Who is told what happens.
pub trait Report {
    /// A freeze is being shipped; called about ten times a second.
    fn progress(&mut self, counters: &Counters);
    /// A point or fuzzy entry is published and released.
    fn published(&mut self, summary: &Summary);
}

/// Ships into an open vault until the one point is published, somebody stops it, or an administrator must act.
///
/// # Errors
/// Everything that does not pass by itself; see [`crate::cli::exit`].
pub fn run(vault: Vault, options: &Options, stop: &Stop, report: &mut dyn Report) -> Result<Ended> {
    run_in(&Surroundings::here(), vault, options, stop, report)
}

/// As [`run`], in other surroundings.
///
/// # Errors
/// As [`run`].
pub fn run_in(
    surroundings: &Surroundings<'_>,
    mut vault: Vault,
    options: &Options,
    stop: &Stop,
    report: &mut dyn Report,
) -> Result<Ended> {
    vault.draw = surroundings.edge.draw;
    let plan = surroundings.plan.unwrap_or_else(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Plan::new(options.memory, options.pack_size, cores)
    });
    if plan.pack_size < options.pack_size {
        tracing::debug!(
            bytes = plan.pack_size,
            "packs are smaller than asked for: more don't fit the memory"
        );
    }
    let mut shipper = Shipper {
        target: TargetId(vault.id().0),
        surroundings: *surroundings,
        vault,
        options,
        stop,
        report,
        plan,
        limit: Limit::new(&options.limit, plan.pack_size),
        full: options.full,
        full_cut: None,
        untold: None,
        last: None,
        take_over: options.take_over.into(),
        mine: None,
        backoff: Backoff::new(options.minute),
        fuzzy: Fuzzy::default(),
        unreadable: 0,
        audited: (0, 0),
        told: Requests::default(),
    };
    loop {
        let error = match shipper.attached() {
            Ok(ended) => return Ok(ended),
            Err(error) if error.kind() == Kind::Stopped && options.every.is_some() => {
                return Ok(Ended::Stopped);
            }
            Err(error) if error.kind() == Kind::Unreadable && shipper.unreadable < plan::UNREADABLE_MAX => {
                tracing::warn!(error = error.line(), "the cut is undone; making another one");
                continue;
            }
            Err(error) => error,
        };
        // What fails before the first attach is the command line's fault; once is once.
        let wait = shipper.backoff.failed(error.kind());
        let Some(wait) = wait.filter(|_| shipper.mine.is_some() && options.every.is_some()) else {
            return Err(error);
        };
        tracing::warn!(error = error.line(), seconds = wait.as_secs_f64(), "trying again");
        match shipper.sit_out(wait) {
            Err(error) if error.kind() == Kind::Stopped => return Ok(Ended::Stopped),
            done => done?,
        }
    }
}

struct Shipper<'a> {
    surroundings: Surroundings<'a>,
    vault: Vault,
    target: TargetId,
    options: &'a Options,
    stop: &'a Stop,
    report: &'a mut dyn Report,
    plan: Plan,
    /// Outlives the attaches: what the bucket owes it owes.
    limit: Limit,
    /// A whole cut is still to be made because somebody asked for it.
    full: bool,
    /// The whole cut that was made for it: when it is shipped, by whatever attach, the wish is fulfilled.
    full_cut: Option<CutId>,
    /// The entry that was published, but is not known to be released.
    untold: Option<EntryRef>,
    /// The last checkpoint or fuzzy entry. Its tracker may not know of it: it was put while the tracker was away.
    last: Option<EntryHeader>,
    take_over: TakeOver,
    mine: Option<Mine>,
    backoff: Backoff,
    fuzzy: Fuzzy,
    /// Freezes in a row that were undone because they can't be read.
    unreadable: u32,
    /// What was audited since the last entry.
    audited: (u64, u64),
    /// What the store had been asked when the last entry was told.
    told: Requests,
}

/// The right to append to a group's log, and the image that the next index is laid over.
struct Writer {
    group: Group,
    publisher: Publisher,
    base: Option<Base>,
    lately: Lately,
    auditor: Auditor,
    folder: Folder,
    attached: Attached,
    /// The catalog by which the base was last looked at for what is damaged.
    judged: u64,
}

impl Writer {
    fn anchor(&self, header: &EntryHeader) -> Anchor {
        Anchor { vault: self.group.seal.vault, seq: header.seq, hash: header.hash() }
    }
}

impl Shipper<'_> {
    fn edge(&self) -> Edge {
        self.surroundings.edge
    }

    /// One attach: everything from the connection to its end.
    fn attached(&mut self) -> Result<Ended> {
        let mut tracker = Tracker::connect(&self.surroundings, &self.options.tracker, self.stop, self.mine)?;
        let attached = tracker.attach(self.target);
        self.mine = tracker.mine();
        let mut attached = attached?;
        self.tell(&mut tracker, &mut attached)?;
        self.vault.keys.check_open(&attached.group)?;
        let group = self.vault.group(&attached.group);
        let claimant =
            Claimant { host: (self.edge().host)(), target: self.target, time_ns: (self.edge().wall_ns)() };
        let claimed = group.claim(&attached, &claimant, self.take_over, &mut || tracker.is_newest())?;
        self.limit.charge(self.edge(), claimed.claim.object_length());
        let decision = claimed.decision;
        // The word was for what was found now, not for what may come: until something of ours lies over it, the next
        // attach finds the same.
        self.take_over = match decision {
            Decision::Resync { taken_over: true, .. } => TakeOver::Since(claimed.claim.reference()),
            _ => TakeOver::No,
        };
        tracing::info!(
            group = attached.group,
            attach = attached.attach.0,
            epoch = claimed.claim.seq,
            "{}",
            describe(&decision)
        );
        let publisher = Publisher::new(group.seal.clone(), &claimed.claim);
        // Where the audits begin is nobody's choice; anything random will do.
        let start = u64::from_le_bytes((self.edge().draw)()[..8].try_into().expect("eight bytes"));
        let mut writer = Writer {
            auditor: Auditor::new(&group, self.options.audit, start, self.plan.cache_bytes),
            folder: Folder::new(&group, publisher.epoch(), self.options.fold_every, self.plan.fold_bytes()),
            group,
            publisher,
            base: decision.base().cloned(),
            lately: Lately::new(self.plan.cache_bytes),
            attached,
            judged: 0,
        };
        let mut whole = plan::needs_whole(&decision);
        if self.open_freeze(&mut tracker, &mut writer, &decision)? {
            whole = false;
        }
        if self.options.every.is_none() {
            self.fuzzy.begin();
        }
        let mut reason = match &decision {
            Decision::Resync { reason, .. } if whole => Some(reason.clone()),
            _ => None,
        };
        loop {
            let begun = (self.edge().now)();
            if let Some(reason) = reason.take() {
                // Stored by the tracker, so that it outlives this process and the tracker's.
                tracker.resynchronize(&reason)?;
            }
            // A single point has none before it whose folds it could list, and none comes after it.
            if self.options.every.is_none() {
                self.fold(&mut tracker, &mut writer, None)?;
            }
            let summary = self.cycle(&mut tracker, &mut writer, whole)?;
            whole = false;
            if self.full {
                tracing::warn!("the image in the vault is damaged: cutting again at once, in full");
                tracker.tick()?;
                continue;
            }
            if summary.kind == EntryKind::Point.word() && self.options.every.is_none() {
                return Ok(Ended::Once(summary));
            }
            if self.fuzzy.again() {
                tracing::warn!(
                    in_a_row = self.fuzzy.in_a_row,
                    "the freeze turned fuzzy; cutting again at once"
                );
                tracker.tick()?;
                continue;
            }
            let Some(every) = self.options.every else { return Err(self.hopeless()) };
            if self.fuzzy.hopeless() {
                tracing::error!("{}", self.hopeless().line());
            }
            self.fold(&mut tracker, &mut writer, Some(begun + every))?;
            wait(&mut tracker, self.edge(), begun + every)?;
        }
    }

    /// Folds what is due in the base that the next entry will be laid over (V6): as far as it goes until the next cycle is due,
    /// and a little in any case; a larger fold goes on after that cycle.
    fn fold(&self, tracker: &mut Tracker<'_>, writer: &mut Writer, until: Option<Instant>) -> Result<()> {
        let Some(base) = &mut writer.base else { return Ok(()) };
        let edge = self.edge();
        let (mut least, mut listened) = (FOLD_STEPS * (1 + base.content.disks.len()), (edge.now)());
        let early = || until.is_none_or(|until| (edge.now)() < until);
        let mut put = self.options.tally.so_far().bytes_up;
        while (least > 0 || early()) && writer.folder.step(&mut base.content, &mut writer.publisher.unlisted)
        {
            least = least.saturating_sub(1);
            // The lanes have nothing to do: what was put is the fold's. What it owes it waits for here, or they do later.
            let before = std::mem::replace(&mut put, self.options.tally.so_far().bytes_up);
            if put > before {
                self.limit.charge(edge, put - before);
                let mut heard = Ok(());
                let paid = self.limit.wait(edge, 0, &mut |time| {
                    (edge.sleep)(time.min(LISTEN));
                    heard = tracker.tick();
                    heard.is_ok() && early()
                });
                heard?;
                if !paid {
                    return Ok(());
                }
            }
            if edge.since(listened) >= LISTEN {
                tracker.tick()?;
                listened = (edge.now)();
            }
        }
        Ok(())
    }

    /// What this process shipped of the freeze that is live, in case it could not say so.
    fn tell(&self, tracker: &mut Tracker<'_>, attached: &mut Attached) -> Result<()> {
        if let (Some(live), Some(last)) = (&mut attached.live, &self.last)
            && live.identity() == last.identity()
            && live.shipped != last.hash()
        {
            live.shipped = last.hash();
            tracker.shipped(live.cut, live.shipped)?;
        }
        Ok(())
    }

    /// Finishes, releases or undoes the freeze that was open at the attach. True if it completed the image.
    fn open_freeze(
        &mut self,
        tracker: &mut Tracker<'_>,
        writer: &mut Writer,
        decision: &Decision,
    ) -> Result<bool> {
        let begun = (self.edge().now)();
        let Some(live) = writer.attached.live else {
            // The release was done, and only its answer was lost.
            if let Some(base) = decision.base().filter(|base| self.untold == Some(base.reference())) {
                self.released(writer, &base.header, &base.content, &Counters::default(), (begun, 0.0));
            }
            return Ok(false);
        };
        match plan::opening(decision, live) {
            Opening::Release => {
                let base = decision.base().expect("what is adopted is there");
                tracker.release(self.target, live.cut, writer.anchor(&base.header))?;
                tracing::info!(cut = %live.cut, entry = base.header.seq, "released what was published already");
                self.released(writer, &base.header, &base.content, &Counters::default(), (begun, 0.0));
                Ok(true)
            }
            Opening::Finish { resume } => {
                let source = tracker.reopen(live.cut).and_then(|handed| source(handed, &writer.attached));
                let source = match source {
                    Err(error) if error.kind() == Kind::TrackerRefused => {
                        tracing::warn!(cut = %live.cut, %error, "the open freeze can't be read; undoing it");
                        tracker.undo(live.cut)?;
                        return Ok(false);
                    }
                    source => source?,
                };
                let ground = self.ground(writer, &source)?;
                if !plan::fits(source.disks(), ground.content(), plan::needs_whole(decision)) {
                    writer.base = ground.into_base();
                    tracing::info!(cut = %live.cut, "the open freeze does not complete the vault's image; undoing it");
                    tracker.undo(live.cut)?;
                    return Ok(false);
                }
                tracing::info!(cut = %live.cut, resume, "finishing the open freeze");
                self.ship(tracker, writer, &source, ground, resume, begun)?;
                Ok(true)
            }
        }
    }

    /// Cuts and ships.
    fn cycle(&mut self, tracker: &mut Tracker<'_>, writer: &mut Writer, whole: bool) -> Result<Summary> {
        let begun = (self.edge().now)();
        self.look_for_damage(writer)?;
        // Before a freeze is made that can't be published.
        writer.base.as_ref().map_or(Ok(()), |base| base.content.room_for(writer.attached.disks.len()))?;
        let handed = tracker.cut(whole || self.full)?;
        let mut source = source(handed, &writer.attached)?;
        if self.full {
            self.full_cut = Some(source.info().cut);
        }
        let mut ground = self.ground(writer, &source)?;
        let fits = plan::fits(source.disks(), ground.content(), whole);
        let untracked = if fits { self.audit(tracker, writer, &source, ground.content())? } else { None };
        if !fits || untracked.is_some() {
            // A disk that the vault does not have, not with these blocks, or no more, or whose blocks were changed unseen:
            // only a whole freeze gives its image.
            tracker.undo(source.info().cut)?;
            if let Some(what) = untracked {
                tracing::error!("{what}; comparing everything");
                tracker.resynchronize(&what)?;
            }
            writer.base = ground.into_base();
            source = self::source(tracker.cut(true)?, &writer.attached)?;
            ground = self.ground(writer, &source)?;
            if !plan::fits(source.disks(), ground.content(), true) {
                tracker.undo(source.info().cut)?;
                let line = "the tracker does not freeze the whole disks although asked to";
                return Err(Error::new(Kind::TrackerRefused, line));
            }
        }
        self.ship(tracker, writer, &source, ground, false, begun)
    }

    /// What a verification found damaged is shipped again, if the next entry would still show it: only a whole cut has it.
    fn look_for_damage(&mut self, writer: &mut Writer) -> Result<()> {
        let number = writer.group.known.number();
        if std::mem::replace(&mut writer.judged, number) == number {
            return Ok(());
        }
        let Some(base) = &writer.base else { return Ok(()) };
        if !self.full && damage::shows(&writer.group, &base.content)? {
            tracing::warn!(
                "a verification found damage in the newest image: comparing everything, and shipping that again"
            );
            self.full = true;
        }
        Ok(())
    }

    /// Audits a sample of what the freeze does not hold. Answers what is to be said of changes that nobody saw.
    fn audit(
        &mut self,
        tracker: &mut Tracker<'_>,
        writer: &mut Writer,
        source: &FrozenSource,
        base: Option<&Content>,
    ) -> Result<Option<String>> {
        let Some(base) = base.filter(|_| !source.info().fuzzy) else { return Ok(None) };
        let Audit { bytes, mut differing, met_damage } = match writer.auditor.audit(source, base) {
            // The cycle finds by itself whether the store is away.
            Err(error) => {
                tracing::warn!(error = error.line(), "no audit this time");
                return Ok(None);
            }
            Ok(audit) => audit,
        };
        self.full |= met_damage;
        self.audited.0 += bytes;
        if differing.is_empty() {
            return Ok(None);
        }
        let tracked = tracker.tracked_behind(source.info().generation)?;
        differing.retain(|(disk, _)| tracked.contains(&source.disks()[*disk].name));
        self.audited.1 += differing.len() as u64;
        Ok(audit::describe(source.disks(), &differing))
    }

    /// What the freeze is laid over. The writer's base is taken: it is whatever comes of the freeze.
    fn ground(&self, writer: &mut Writer, source: &FrozenSource) -> Result<Ground> {
        let (info, base) = (source.info(), writer.base.take());
        // A checkpoint of this very cut has only what was shipped for it.
        let of_this = |base: &Base| (base.header.cut, base.header.time_ns) == (info.cut, info.time_ns);
        let begun = base.as_ref().is_some_and(of_this);
        let distrust = self.options.distrust && self.full_cut == Some(info.cut) && !begun;
        let resync_at = self.options.resync_at;
        Ground::new(&writer.group, base, source.disks(), distrust, resync_at, self.plan.cache_bytes)
    }

    /// Ships a freeze, publishes it and releases it.
    fn ship(
        &mut self,
        tracker: &mut Tracker<'_>,
        writer: &mut Writer,
        source: &FrozenSource,
        ground: Ground,
        resume: bool,
        begun: Instant,
    ) -> Result<Summary> {
        let seconds_cut = self.edge().since(begun).as_secs_f64();
        let info = source.info();
        let content = ground.content();
        let whole = source.disks().iter().any(|disk| disk.whole);
        // A cycle over everything would only sweep the table, and one that compares needs its memory.
        let delta = !whole && !ground.compare().contains(&true);
        writer.lately.begin(ground.reference(), source.disks(), delta);
        let (skip, totals) = match content.filter(|_| resume) {
            Some(content) => (content.covered.clone(), content.totals),
            None => (Vec::new(), Totals::default()),
        };
        let counters = Counters::default();
        let frozen = source.disks().iter().map(|disk| disk.frozen_bytes).sum();
        counters.todo.store(frozen, Ordering::Relaxed);
        // The first tick comes later than the end of a short cycle, which is shown too.
        self.report.progress(&counters);
        let cycle = Cycle {
            source,
            group: &writer.group,
            base: content,
            below: ground.below(),
            compare: ground.compare(),
            lately: delta.then_some(&writer.lately),
            skip: &skip,
            totals,
            session: writer.attached.session,
            attach: writer.attached.attach,
            plan: self.plan,
            checkpoint: Checkpoint { bytes: self.options.checkpoint_every, age: CHECKPOINT_AGE },
            retry: self.options.retry,
            limit: &self.limit,
            counters: &counters,
            edge: self.edge(),
            crew: self.surroundings.crew,
        };
        let mut hooks = Talk {
            tracker,
            last: &mut self.last,
            report: self.report,
            counters: &counters,
            cut: info.cut,
            fuzzy: info.fuzzy,
        };
        let Shipped { header, content } = match pipeline::ship(&cycle, &mut writer.publisher, &mut hooks) {
            // It would fail again, and the guest would go on preserving for it.
            Err(error) if error.kind() == Kind::Unreadable => {
                tracker.undo(info.cut)?;
                self.unreadable += 1;
                return Err(error);
            }
            shipped => shipped?,
        };
        writer.lately.published(header.reference(), source.disks());
        self.untold = Some(header.reference());
        let anchor = writer.anchor(&header);
        match tracker.release(self.target, info.cut, anchor) {
            // The point is in the vault; the next attach finds it there and releases it.
            Err(error) if error.kind() == Kind::TrackerNotRunning && self.options.every.is_none() => {
                tracing::warn!(
                    error = error.line(),
                    "the point is published, but the tracker does not know it yet"
                );
            }
            done => done?,
        }
        let summary = self.released(writer, &header, &content, &counters, (begun, seconds_cut));
        // Only a freeze of everything ships all that a damaged page said.
        self.full |= ground.met_damage() && !source.disks().iter().all(|disk| disk.whole);
        writer.base = Some(Base { header, content });
        Ok(summary)
    }

    /// An entry is published and released, by this attach or an earlier one's pipeline.
    fn released(
        &mut self,
        writer: &Writer,
        header: &EntryHeader,
        content: &Content,
        counters: &Counters,
        seconds: (Instant, f64),
    ) -> Summary {
        // A freeze that an earlier process left open is not the comparison that was asked for.
        if self.full_cut == Some(header.cut) {
            self.full = false;
        }
        self.untold = None;
        self.backoff.succeeded();
        self.unreadable = 0;
        self.fuzzy.published(header.kind, header.time_ns, content.totals.bytes_changed);
        let summary = self.summary(writer, header, content, counters, seconds);
        self.audited = (0, 0);
        self.told = self.options.tally.so_far();
        self.report.published(&summary);
        summary
    }

    fn summary(
        &self,
        writer: &Writer,
        header: &EntryHeader,
        content: &Content,
        counters: &Counters,
        (begun, seconds_cut): (Instant, f64),
    ) -> Summary {
        let totals = content.totals;
        let shift = content.disks.first().map_or(0, |disk| disk.block_shift);
        Summary {
            id: header.cut.to_string(),
            kind: header.kind.word(),
            group: writer.attached.group.clone(),
            entry: header.seq,
            generation: content.generation.0,
            time_ns: header.time_ns,
            bytes_changed: totals.bytes_changed,
            bytes_read: totals.bytes_read,
            bytes_put: totals.bytes_put + header.object_length() - header.attached,
            bytes_zero: totals.blocks_zero << shift,
            bytes_unchanged: totals.blocks_unchanged << shift,
            bytes_shipped: totals.blocks_put << shift,
            reads_from_store: Counters::get(&counters.from_store),
            seconds: self.edge().since(begun).as_secs_f64(),
            seconds_cut,
            fuzzy_in_a_row: self.fuzzy.in_a_row,
            bytes_audited: self.audited.0,
            blocks_untracked: self.audited.1,
            requests: self.options.tally.so_far() - self.told,
        }
    }

    fn hopeless(&self) -> Error {
        let rate = match self.fuzzy.rate {
            Some(rate) => format!("{:.1} MiB/s", rate / f64::from(1 << 20)),
            None => "an unknown rate".to_owned(),
        };
        let line = format!(
            "{} freezes in a row turned fuzzy: the guest overwrites at {rate}, faster than they can be kept exact; \
             raise the tracker's --preserve-limit or --preserve-deadline, or ship to a faster vault",
            self.fuzzy.in_a_row
        );
        Error::new(Kind::FuzzyGiveUp, line)
    }

    /// Waits before another attach; the tracker is not listened to, but nothing is done that a newer shipper minds.
    fn sit_out(&self, time: Duration) -> Result<()> {
        let edge = self.edge();
        let until = (edge.now)() + time;
        let mut asked = (edge.now)();
        while (edge.now)() < until {
            self.stop.check()?;
            // A long wait for the store must not hide that a newer shipper is at work.
            if edge.since(asked) > Duration::from_secs(5) {
                asked = (edge.now)();
                match Tracker::connect(&self.surroundings, &self.options.tracker, self.stop, self.mine) {
                    Err(error) if error.kind() == Kind::Revoked => return Err(error),
                    _ => {}
                }
            }
            (edge.sleep)(LISTEN.min(until - (edge.now)().min(until)));
        }
        Ok(())
    }
}

/// Waits for the next cycle, listening.
fn wait(tracker: &mut Tracker<'_>, edge: Edge, until: Instant) -> Result<()> {
    loop {
        tracker.tick()?;
        let now = (edge.now)();
        if now >= until {
            return Ok(());
        }
        (edge.sleep)(LISTEN.min(until - now));
    }
}

/// The pipeline's questions, answered by the tracker.
struct Talk<'a, 'b> {
    tracker: &'a mut Tracker<'b>,
    last: &'a mut Option<EntryHeader>,
    report: &'a mut dyn Report,
    counters: &'a Counters,
    cut: CutId,
    fuzzy: bool,
}

impl Hooks for Talk<'_, '_> {
    fn tick(&mut self) -> Result<()> {
        self.report.progress(self.counters);
        self.tracker.tick()
    }

    fn confirm(&mut self) -> Result<bool> {
        Ok(!self.fuzzy && self.tracker.confirm(self.cut)?)
    }

    fn published(&mut self, header: &EntryHeader, content: &Content) -> Result<()> {
        let put = content.totals.bytes_put;
        tracing::info!(entry = header.seq, kind = header.kind.word(), cut = %header.cut, put, "published");
        if header.kind == EntryKind::Point {
            return Ok(());
        }
        *self.last = Some(*header);
        self.tracker.shipped(header.cut, header.hash())
    }
}

/// The freeze that was handed out, its disks named as the group names them.
fn source(handed: OpenedFreeze, attached: &Attached) -> Result<FrozenSource> {
    let name = |id| {
        attached
            .disks
            .iter()
            .find(|disk| disk.id == id)
            .map_or_else(|| id.to_string(), |disk| disk.name.clone())
    };
    let names: Vec<_> = handed.frozen.disks.iter().map(|disk| name(disk.id)).collect();
    FrozenSource::new(handed, &names)
}

fn describe(decision: &Decision) -> String {
    match decision {
        Decision::Initial => "initial replication".to_owned(),
        Decision::Delta(base) => format!("going on over entry {}", base.header.seq),
        Decision::Adopt(base) => format!("entry {} was published, but not released", base.header.seq),
        Decision::Continue(base) => format!("going on from the checkpoint in entry {}", base.header.seq),
        Decision::Resync { reason, base, .. } => {
            format!("resynchronization over entry {}: {reason}", base.header.seq)
        }
        Decision::BrokenLineage { .. } | Decision::Foreign { .. } => "refused".to_owned(),
    }
}
