//! The caller's end of the pipeline: frames into packs in order, objects to the putters, entries in their order.

use super::below::{Below, shape};
use super::lately::Lately;
use super::line::{Crew, Heard, Line};
use super::put::{Item, Outcome};
use super::work::{Done, Said};
use super::{Counters, Plan, Retry, TICK, inline, threads};
use crate::edge::Edge;
use crate::limit::Limit;
use crate::source::Source;
use crate::vault::Group;
use crate::vault::cycle::{Assembler, Flushed, Maker, Object, Sizes};
use crate::vault::entry::{
    Consistency, Content, Covered, DiskImage, Draft, EntryHeader, EntryKind, Payload, Totals,
};
use crate::vault::log::Appended;
use crate::vault::publish::{Action, Publisher, Token};
use crate::{Error, Kind, Result};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use towline_tracker::id::{AttachNumber, Session};
use towline_tracker::mutant;

/// When a checkpoint is put.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint {
    /// After this many bytes put since the one before.
    pub bytes: u64,
    /// Or after this time.
    pub age: Duration,
}

/// One cycle: a freeze to be shipped.
pub struct Cycle<'a> {
    /// The freeze.
    pub source: &'a dyn Source,
    /// Where it goes.
    pub group: &'a Group,
    /// The content over which it is laid.
    pub base: Option<&'a Content>,
    /// What is known of the blocks of `base`.
    pub below: &'a dyn Below,
    /// For each disk, whether its blocks are compared with `below`.
    pub compare: &'a [bool],
    /// What was put lately, for disks that are not compared.
    pub lately: Option<&'a Lately>,
    /// What checkpoints of this cut have shipped already.
    pub skip: &'a [Covered],
    /// What this cycle had done before it was interrupted.
    pub totals: Totals,
    /// The tracker's session.
    pub session: Session,
    /// The attach under which the freeze is read.
    pub attach: AttachNumber,
    /// Sizes.
    pub plan: Plan,
    /// Checkpoints.
    pub checkpoint: Checkpoint,
    /// The store's bad moments.
    pub retry: Retry,
    /// How fast it may go.
    pub limit: &'a Limit,
    /// Progress.
    pub counters: &'a Counters,
    /// Time and names.
    pub edge: Edge,
    /// Who does the work.
    pub crew: Crew<'a>,
}

/// What a cycle asks of its caller, always from the caller's own thread. An error ends the cycle.
pub trait Hooks {
    /// At least ten times a second.
    ///
    /// # Errors
    /// The caller wants no more.
    fn tick(&mut self) -> Result<()>;

    /// After the last read over all disks and before the point is put (R2): whether the freeze is still exact.
    ///
    /// # Errors
    /// The tracker did not say.
    fn confirm(&mut self) -> Result<bool>;

    /// An entry is in the log.
    ///
    /// # Errors
    /// The tracker could not be told.
    fn published(&mut self, header: &EntryHeader, content: &Content) -> Result<()>;
}

/// What came of a cycle.
#[derive(Clone, Debug)]
pub struct Shipped {
    /// The point or fuzzy entry.
    pub header: EntryHeader,
    /// Its content, resolved.
    pub content: Content,
}

/// Ships a freeze: everything from the first read to the published entry.
///
/// # Errors
/// The source's, the store's, the hooks'; `Revoked` if another shipper's claim has our place.
pub fn ship(cycle: &Cycle<'_>, publisher: &mut Publisher, hooks: &mut dyn Hooks) -> Result<Shipped> {
    let shipped = |line: &mut dyn Line| {
        let mut run = Run::new(cycle, publisher, hooks, line);
        let shipped = run.run();
        if let Err(error) = &shipped
            && matches!(error.kind(), Kind::NoSpace | Kind::Stopped)
        {
            run.salvage();
        }
        shipped
    };
    match cycle.crew {
        Crew::Threads => threads::with(cycle, shipped),
        Crew::InLine(turns) => inline::with(cycle, turns, shipped),
    }
}

struct Run<'a> {
    cycle: &'a Cycle<'a>,
    publisher: &'a mut Publisher,
    hooks: &'a mut dyn Hooks,
    line: &'a mut dyn Line,
    /// Gone once the cycle's last frame is in.
    assembler: Option<Assembler>,
    /// Jobs that overtook others.
    early: BTreeMap<u64, Done>,
    next: u64,
    jobs: Option<u64>,
    /// For each disk, the block before which everything frozen is assembled.
    frontier: Vec<u64>,
    totals: Totals,
    waiting: VecDeque<Item>,
    putting: usize,
    /// Names of the objects that are not durable yet.
    undone: BTreeMap<Token, String>,
    since: Since,
    shipped: Option<Shipped>,
}

/// What happened since the last checkpoint.
struct Since {
    time: Instant,
    bytes: u64,
    blocks: u64,
    zero_runs: u64,
    /// Where each job ended, and the totals with it.
    jobs: Vec<(usize, u64, Totals)>,
    /// The frontier of then.
    frontier: Vec<u64>,
}

impl Since {
    fn begin(time: Instant, frontier: &[u64]) -> Self {
        let (jobs, frontier) = (Vec::new(), frontier.to_vec());
        Self { time, bytes: 0, blocks: 0, zero_runs: 0, jobs, frontier }
    }
}

impl<'a> Run<'a> {
    fn new(
        cycle: &'a Cycle<'a>,
        publisher: &'a mut Publisher,
        hooks: &'a mut dyn Hooks,
        line: &'a mut dyn Line,
    ) -> Self {
        let disks = cycle.source.disks();
        let shapes: Vec<_> = disks.iter().map(shape).collect();
        let (seal, epoch, cut) = (cycle.group.seal.clone(), publisher.epoch(), cycle.source.info().cut);
        let maker = Maker { seal, epoch, cut };
        let sizes = Sizes { pack: cycle.plan.pack_size, attached: cycle.plan.attached_max };
        let assembler = Assembler::new(maker, sizes, cycle.base, &shapes);
        let totals =
            Totals { bytes_changed: disks.iter().map(|disk| disk.frozen_bytes).sum(), ..cycle.totals };
        let covered = |id| {
            let of = cycle.skip.iter().filter(move |covered| covered.disk == id);
            of.filter(|covered| covered.first == 0).map(|covered| covered.count).max().unwrap_or(0)
        };
        let frontier: Vec<_> = disks.iter().map(|disk| covered(disk.id)).collect();
        let skipped: u64 = disks.iter().map(|disk| covered(disk.id) << disk.block_shift).sum();
        cycle.counters.todo.store(totals.bytes_changed.saturating_sub(skipped), Ordering::Relaxed);
        Self {
            cycle,
            publisher,
            hooks,
            line,
            assembler: Some(assembler),
            early: BTreeMap::new(),
            next: 0,
            jobs: None,
            since: Since::begin((cycle.edge.now)(), &frontier),
            frontier,
            totals,
            waiting: VecDeque::new(),
            putting: 0,
            undone: BTreeMap::new(),
            shipped: None,
        }
    }

    fn run(&mut self) -> Result<Shipped> {
        let mut ticked = (self.cycle.edge.now)();
        loop {
            self.publish()?;
            if let Some(shipped) = self.shipped.take() {
                return Ok(shipped);
            }
            self.hand_out();
            // Packs wait for a putter, or a full index for the checkpoint before it: let the workers wait too. Once all
            // is assembled they have nothing more to say.
            let wait = !self.waiting.is_empty() || self.publisher.is_busy() && self.index_is_full();
            match self.line.hear(!wait && self.assembler.is_some())? {
                Heard::Said(said) => self.hear(said)?,
                Heard::Put(outcome) => self.put(outcome)?,
                Heard::Nothing => {}
            }
            if self.cycle.edge.since(ticked) >= TICK {
                self.hooks.tick()?;
                ticked = (self.cycle.edge.now)();
            }
        }
    }

    fn hear(&mut self, said: Said) -> Result<()> {
        match said {
            Said::End(jobs) => self.jobs = Some(jobs),
            Said::Done(done) => drop(self.early.insert(done.job.number, done)),
        }
        while let Some(done) = self.early.remove(&self.next) {
            self.assemble(done);
            self.next += 1;
            self.line.credit();
        }
        if self.jobs == Some(self.next) {
            // The last read over all disks is done, and no point is put: now the tracker says what it is (R2).
            // Mutant: whatever was read is called exact.
            let exact = mutant::active("no-confirm") || self.hooks.confirm()?;
            self.end(if exact { EntryKind::Point } else { EntryKind::Fuzzy })
        } else {
            self.checkpoint()
        }
    }

    fn assemble(&mut self, done: Done) {
        let assembler = self.assembler.as_mut().expect("jobs come before the end");
        let disk = done.job.disk;
        let blocks_shift = self.cycle.source.disks()[disk].block_shift;
        let mut full = Vec::new();
        for frame in done.frames {
            full.extend(assembler.frame(disk, frame));
        }
        for run in &done.zeros {
            assembler.zeros(disk, run.start, run.end - run.start);
        }
        self.frontier[disk] = self.frontier[disk].max(done.job.end);
        self.totals.bytes_read += done.bytes_read;
        self.totals.blocks_zero += done.blocks_zero;
        self.totals.blocks_unchanged += done.blocks_unchanged;
        self.totals.blocks_put += done.blocks_put;
        self.since.bytes += done.blocks_put << blocks_shift;
        self.since.blocks += done.blocks_put;
        self.since.zero_runs += done.zeros.len() as u64;
        Counters::add(&self.cycle.counters.done, done.job.blocks << blocks_shift);
        full.into_iter().for_each(|object| self.begin(object));
        self.since.jobs.push((disk, done.job.end, self.totals));
    }

    /// An object is on its way: every entry queued from now on waits for it (V1).
    fn begin(&mut self, object: Object) {
        let Object { name, bytes } = object;
        self.totals.bytes_put += bytes.len() as u64;
        let token = self.publisher.begin();
        self.undone.insert(token, name.clone());
        self.waiting.push_back(Item::Object { token, name, bytes });
    }

    /// Puts a checkpoint if it is time, one at a time.
    fn checkpoint(&mut self) -> Result<()> {
        let due = self.since.bytes >= self.cycle.checkpoint.bytes
            || self.cycle.edge.since(self.since.time) >= self.cycle.checkpoint.age
            || self.index_is_full();
        if !due || self.since.jobs.is_empty() || self.publisher.is_busy() {
            return Ok(());
        }
        let assembler = self.assembler.as_mut().expect("jobs come before the end");
        let Flushed { objects, attached, disks } = assembler.checkpoint();
        objects.into_iter().for_each(|object| self.begin(object));
        let covered = self.covered();
        self.since = Since::begin((self.cycle.edge.now)(), &self.frontier);
        self.entry(EntryKind::Checkpoint, attached, disks, covered)
    }

    /// The index that is being built has all the memory that it may have.
    fn index_is_full(&self) -> bool {
        Plan::index_weight(self.since.blocks, self.since.zero_runs) >= self.cycle.plan.index_bytes
    }

    fn covered(&self) -> Vec<Covered> {
        let disks = self.cycle.source.disks().iter().zip(&self.frontier);
        disks
            .filter(|(_, end)| **end > 0)
            .map(|(disk, end)| Covered { disk: disk.id, first: 0, count: *end })
            .collect()
    }

    /// All frames are in: what is open is closed, and the entry is queued behind everything.
    fn end(&mut self, kind: EntryKind) -> Result<()> {
        let Flushed { objects, attached, disks } = self.assembler.take().expect("a cycle ends once").finish();
        self.totals.bytes_put += attached.len() as u64;
        // Mutant: the entry does not wait for the last pack.
        if mutant::active("publish-before-last-pack") {
            self.entry(kind, attached, disks, Vec::new())?;
            objects.into_iter().for_each(|object| self.begin(object));
            return Ok(());
        }
        objects.into_iter().for_each(|object| self.begin(object));
        self.entry(kind, attached, disks, Vec::new())
    }

    fn entry(
        &mut self,
        kind: EntryKind,
        attached: Vec<u8>,
        disks: Vec<DiskImage>,
        covered: Vec<Covered>,
    ) -> Result<()> {
        let content = self.content(disks, covered)?;
        self.publisher.entry(self.draft(kind, attached, content));
        Ok(())
    }

    fn content(&self, disks: Vec<DiskImage>, covered: Vec<Covered>) -> Result<Content> {
        let info = self.cycle.source.info();
        let content = Content {
            first_generation: info.first_generation,
            generation: info.generation,
            session: self.cycle.session,
            attach: self.cycle.attach,
            consistency: Consistency::Crash,
            disks,
            covered,
            totals: self.totals,
        };
        content.room_for(0).map(|()| content)
    }

    /// An entry without its place and its base, which the publisher gives it.
    fn draft(&self, kind: EntryKind, attached: Vec<u8>, content: Content) -> Draft {
        let info = self.cycle.source.info();
        let payload = Payload::Content(content);
        Draft { kind, cut: info.cut, time_ns: info.time_ns, base: 0, attached, payload }
    }

    /// Does what the publisher says, as far as it goes without waiting.
    fn publish(&mut self) -> Result<()> {
        while let Some(action) = self.publisher.poll() {
            match action {
                Action::Put { header, bytes } => {
                    self.waiting.push_front(Item::Entry { header, bytes });
                }
                Action::Published { header, content } => self.published(header, content)?,
                Action::Fenced { by } => {
                    let line = format!(
                        "another shipper took the group over in the vault (entry {} is its {}); this one ends",
                        by.seq,
                        by.kind.word()
                    );
                    return Err(Error::new(Kind::Revoked, line));
                }
            }
        }
        Ok(())
    }

    fn published(&mut self, header: EntryHeader, mut content: Content) -> Result<()> {
        self.totals.bytes_put += header.object_length() - header.attached;
        content.resolve(header.seq);
        self.hooks.published(&header, &content)?;
        if header.kind != EntryKind::Checkpoint {
            self.shipped = Some(Shipped { header, content });
        }
        Ok(())
    }

    fn done(&mut self, token: Token) {
        self.publisher.done(token);
        self.undone.remove(&token);
    }

    /// What a cycle that ends early has put is listed in a last, small checkpoint: packs that nothing lists would be put
    /// again, into a store that is full already. Nothing is lost without it.
    fn salvage(&mut self) {
        // Whoever pauses before another try gives up; what is on its way arrives or not.
        self.line.give_up();
        let in_order = !self.publisher.is_busy();
        while self.putting > 0
            && let Some(outcome) = self.line.last()
        {
            self.putting -= 1;
            if let Outcome::Object(token, Ok(_)) = outcome {
                self.done(token);
            }
        }
        let Some(assembler) = self.assembler.take().filter(|_| in_order) else { return };
        let undone: HashSet<_> = self.undone.values().cloned().collect();
        let Some((flushed, missing)) = assembler.salvage(|name| !undone.contains(name)) else { return };
        // As far as everything is durable, job by job.
        self.frontier.clone_from(&self.since.frontier);
        let whole = |(disk, end, _): &&(usize, u64, Totals)| missing[*disk].is_none_or(|first| *end <= first);
        let jobs: Vec<_> = self.since.jobs.iter().take_while(whole).copied().collect();
        let Some((_, _, totals)) = jobs.last().copied() else { return };
        jobs.iter().for_each(|(disk, end, _)| self.frontier[*disk] = self.frontier[*disk].max(*end));
        self.totals = totals;
        let Ok(mut content) = self.content(flushed.disks, self.covered()) else { return };
        self.publisher.unlisted.undo(&mut content);
        let draft = self.draft(EntryKind::Checkpoint, flushed.attached, content.clone());
        let draft = Draft { base: self.publisher.tip(), ..draft };
        let put = self.cycle.group.append(Some(self.publisher.head()), self.publisher.epoch(), &draft);
        tracing::info!(jobs = jobs.len(), ?put, "what was put so far is listed in a checkpoint");
        if let Ok(Appended::Ours(header)) = put {
            self.cycle.limit.charge(self.cycle.edge, header.object_length());
            content.resolve(header.seq);
            // The error that ends the cycle says why the tracker can't be told.
            let _ = self.hooks.published(&header, &content);
        }
    }

    fn hand_out(&mut self) {
        while self.putting < self.cycle.plan.putters
            && let Some(item) = self.waiting.pop_front()
        {
            self.putting += 1;
            self.line.put(item);
        }
    }

    fn put(&mut self, outcome: Outcome) -> Result<()> {
        self.putting -= 1;
        match outcome {
            Outcome::Object(token, put) => {
                let buffer = put?;
                self.done(token);
                if let Some(assembler) = &mut self.assembler {
                    assembler.recycle(buffer);
                }
            }
            Outcome::Entry(put) => self.publisher.answer(put?),
        }
        Ok(())
    }
}
