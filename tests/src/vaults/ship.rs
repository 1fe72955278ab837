//! One run of a shipper, and the oracle that restores what it publishes.

use super::BLOCK;
use super::life::Life;
use crate::sim::Oracle;
use crate::sim::rng::Rng;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use towline::edge::Edge;
use towline::limit::{Limit, Rules};
use towline::pipeline::{
    self, Below, Checkpoint, Counters, Crew, Cycle, Hooks, ImageBelow, Lately, MEMORY_MIN, NothingBelow,
    Plan, Retry, Turn, Turns,
};
use towline::points::history;
use towline::ship::plan::{self, Opening};
use towline::source::Source;
use towline::store::Store;
use towline::vault::access::Reader;
use towline::vault::attach::{Base, Claimant, Claimed};
use towline::vault::entry::{Content, DiskImage, EntryHeader, EntryKind, Totals};
use towline::vault::fold::Folder;
use towline::vault::image::Image;
use towline::vault::publish::Publisher;
use towline::vault::{Group, Vault, pack};
use towline::{Error, Kind, Result};
use towline_tracker::control::message::Attached;
use towline_tracker::id::{Anchor, TargetId};

/// Who puts what when.
struct Dice(Mutex<Rng>);

impl Turns for Dice {
    fn next(&self, jobs: usize, puts: usize) -> Turn {
        let mut rng = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if jobs + puts == 0 {
            return Turn::Idle;
        }
        match rng.index(jobs + puts) {
            turn if turn < jobs => Turn::Work(turn),
            turn => Turn::Put(turn - jobs),
        }
    }
}

/// What a run is to be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Which host.
    pub(super) host: usize,
    /// Cycles of its own.
    pub(super) cycles: usize,
    /// The word to take over.
    pub(super) take_over: bool,
    /// Undo a live freeze instead of finishing it.
    pub(super) undo: bool,
    /// The release is lost.
    pub(super) unreleased: bool,
    /// Between its attach and its claim it sleeps, and a newer shipper of the same tracker has a run.
    pub(super) asleep: bool,
}

/// The pipeline's questions.
struct Answers<'a> {
    life: &'a Mutex<Life>,
    run: Run,
    attached: &'a Attached,
}

impl Hooks for Answers<'_> {
    fn tick(&mut self) -> Result<()> {
        Ok(())
    }

    fn confirm(&mut self) -> Result<bool> {
        newest(self.life, self.run, self.attached)?;
        let life = lock(self.life);
        Ok(life.hosts[self.run.host].live.as_ref().is_some_and(|freeze| !freeze.fuzzy))
    }

    fn published(&mut self, header: &EntryHeader, _content: &Content) -> Result<()> {
        let mut life = lock(self.life);
        if let Some(freeze) =
            life.hosts[self.run.host].live.as_mut().filter(|_| header.kind != EntryKind::Point)
        {
            freeze.shipped = header.hash();
        }
        Ok(())
    }
}

/// Whether this attach is still its tracker's newest.
fn newest(life: &Mutex<Life>, run: Run, attached: &Attached) -> Result<()> {
    match lock(life).hosts[run.host].is_attached(attached) {
        true => Ok(()),
        false => Err(Error::new(Kind::Revoked, "a newer shipper attached".to_owned())),
    }
}

pub(super) fn lock(life: &Mutex<Life>) -> MutexGuard<'_, Life> {
    life.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A shipper from its start to its end. The life is locked only between the steps: others may live while it puts.
pub(super) fn run(life: &Mutex<Life>, store: Arc<dyn Store>, wanted: Run, rng: &mut Rng) -> Result<()> {
    let vault = Vault::open(store.clone())?;
    let group = vault.group("vm");
    let attached = lock(life).hosts[wanted.host].attached();
    if wanted.asleep {
        drop(run(life, store, Run { asleep: false, take_over: false, cycles: 1, ..wanted }, rng));
    }
    let claimant = Claimant { host: "h".into(), target: TargetId(vault.id().0), time_ns: 1 };
    let claimed =
        group.claim(&attached, &claimant, wanted.take_over, &mut || newest(life, wanted, &attached))?;
    {
        let mut life = lock(life);
        life.trace(|| {
            format!("host {} claims {}: {:.60?}", wanted.host, claimed.claim.seq, claimed.decision)
        });
        life.claimed = Some((attached.clone(), claimed.clone()));
    }
    after_claim(life, &group, &attached, claimed, wanted, rng)
}

/// What follows a claim: the open freeze, then cycles.
pub(super) fn after_claim(
    life: &Mutex<Life>,
    group: &Group,
    attached: &Attached,
    claimed: Claimed,
    run: Run,
    rng: &mut Rng,
) -> Result<()> {
    let mut publisher = Publisher::new(group.seal.clone(), &claimed.claim);
    let mut base = claimed.decision.base().cloned();
    let mut whole = plan::needs_whole(&claimed.decision);
    let anchor =
        |header: &EntryHeader| Anchor { vault: group.seal.vault, seq: header.seq, hash: header.hash() };
    // As soon as there are two; and parts of a page or two, or all in one.
    let memory = if rng.chance(500) { 4 << 10 } else { 4 << 20 };
    let mut folder = Folder::new(group, publisher.epoch(), 2 + rng.index(3), memory);
    let mut lately = lock(life).hosts[run.host].lately.take().unwrap_or_else(|| Lately::new(1 << 20));
    let mut ship = |publisher: &mut Publisher, base: &mut Option<Base>, resume: bool, rng: &mut Rng| {
        one(life, group, attached, publisher, &mut lately, base, resume, run, rng)
    };
    let mut all = || -> Result<()> {
        if let Some(live) = attached.live {
            match plan::opening(&claimed.decision, live) {
                Opening::Release => {
                    let header = base.as_ref().expect("what is adopted is there").header;
                    lock(life).hosts[run.host].release(live.cut, anchor(&header));
                    whole = false;
                }
                Opening::Finish { .. } if run.undo => lock(life).hosts[run.host].undo(),
                Opening::Finish { resume } => {
                    let source = lock(life).hosts[run.host].source();
                    let content = base.as_ref().map(|base| &base.content);
                    if plan::fits(source.disks(), content, plan::needs_whole(&claimed.decision)) {
                        ship(&mut publisher, &mut base, resume, rng)?;
                        whole = false;
                    } else {
                        lock(life).hosts[run.host].undo();
                    }
                }
            }
        }
        for _ in 0..run.cycles {
            {
                let mut life = lock(life);
                let Life { hosts, cuts, before_cut, .. } = &mut *life;
                if !hosts[run.host].is_attached(attached) {
                    return Err(Error::new(Kind::Revoked, "a newer shipper attached".to_owned()));
                }
                *before_cut = Some(hosts[run.host].cloned());
                hosts[run.host].cut(whole, rng, cuts);
                let source = hosts[run.host].source();
                if !plan::fits(source.disks(), base.as_ref().map(|base| &base.content), whole) {
                    hosts[run.host].undo();
                    hosts[run.host].cut(true, rng, cuts);
                }
                // While it ships, the guest goes on.
                let count = rng.index(30);
                hosts[run.host].write(rng, count);
            }
            ship(&mut publisher, &mut base, false, rng)?;
            whole = false;
            // As far as there is time; the rest goes on behind the next cycle.
            let steps = rng.index(20);
            if let Some(base) = &mut base {
                (0..steps)
                    .take_while(|_| folder.step(&mut base.content, &mut publisher.unlisted))
                    .for_each(drop);
            }
        }
        Ok(())
    };
    let done = all();
    lock(life).hosts[run.host].lately = Some(lately);
    done
}

/// Ships the live freeze, checks the entry, releases it.
#[expect(clippy::too_many_arguments, reason = "the parts of a shipper, each with an owner of its own")]
fn one(
    life: &Mutex<Life>,
    group: &Group,
    attached: &Attached,
    publisher: &mut Publisher,
    lately: &mut Lately,
    base: &mut Option<Base>,
    resume: bool,
    run: Run,
    rng: &mut Rng,
) -> Result<()> {
    let source = lock(life).hosts[run.host].source();
    let info = source.info();
    let content = base.as_ref().map(|base| &base.content);
    let compare = plan::compare(source.disks(), content, 0);
    let below: Box<dyn Below> = match content {
        Some(content) => Box::new(ImageBelow::open(group, content, source.disks(), &compare, 1 << 20)?),
        None => Box::new(NothingBelow),
    };
    let whole = source.disks().iter().any(|disk| disk.whole);
    let delta = !whole && !compare.contains(&true);
    lately.begin(base.as_ref().map(Base::reference), source.disks(), delta);
    let (skip, totals) = match content.filter(|_| resume) {
        Some(content) => (content.covered.clone(), content.totals),
        None => (Vec::new(), Totals::default()),
    };
    let counters = Counters::default();
    let dice = Dice(Mutex::new(Rng::new(rng.draw())));
    // Small packs, or one that is closed at the end and too large to ride in the entry.
    let pack_size = if rng.chance(300) { 4 << 20 } else { 64 << 10 };
    let bytes = if rng.chance(500) { 64 << 10 } else { u64::MAX };
    let cycle = Cycle {
        source: &source,
        group,
        base: content,
        below: &*below,
        compare: &compare,
        lately: delta.then_some(lately),
        skip: &skip,
        totals,
        session: attached.session,
        attach: attached.attach,
        plan: Plan { workers: 1, putters: 1 + rng.index(2), ..Plan::new(MEMORY_MIN, pack_size, 1) },
        checkpoint: Checkpoint { bytes, age: Duration::from_secs(3600) },
        retry: Retry { first: Duration::from_micros(10), tries: 3 },
        limit: &Limit::new(&Rules::none(), 1),
        counters: &counters,
        edge: Edge { sleep: |_| {}, ..Edge::SYSTEM },
        crew: Crew::InLine(&dice),
    };
    let mut hooks = Answers { life, run, attached };
    let shipped = pipeline::ship(&cycle, publisher, &mut hooks)?;
    let (header, content) = (shipped.header, shipped.content);
    lately.published(header.reference(), source.disks());
    let mut life = lock(life);
    life.trace(|| format!("host {} published {} {:?} resume {resume}", run.host, header.seq, header.kind));
    if header.kind == EntryKind::Point {
        let expected = life.cuts[&(info.cut, info.time_ns)].clone();
        life.check(group, header.seq, &expected);
    }
    *base = Some(Base { header, content });
    let host = &mut life.hosts[run.host];
    if run.unreleased || !host.is_attached(attached) {
        return Err(Error::new(Kind::TrackerNotRunning, "the release is lost".to_owned()));
    }
    host.release(info.cut, Anchor { vault: group.seal.vault, seq: header.seq, hash: header.hash() });
    Ok(())
}

impl Life {
    /// The point that was just published is its cut.
    fn check(&mut self, group: &Group, seq: u64, expected: &[Vec<u8>]) {
        // Not through the shipper's store, which may be about to die.
        let group = Group { store: Arc::new(self.store.clone()), ..group.clone() };
        if let Some(what) = differs(&group, seq, expected) {
            self.is_wrong(Oracle::Image, what);
        }
    }
}

/// How the image of an entry differs from what it must be, if it does.
pub(super) fn differs(group: &Group, seq: u64, expected: &[Vec<u8>]) -> Option<String> {
    let entry = match group.entry_at(seq) {
        Ok(entry) => entry,
        Err(error) => return Some(format!("point {seq} can't be read: {}", error.line())),
    };
    let content = entry.content()?;
    if content.disks.len() != expected.len() {
        return Some(format!("point {seq} has {} disks, not {}", content.disks.len(), expected.len()));
    }
    for (disk, (image, expected)) in content.disks.iter().zip(expected).enumerate() {
        match restored(group, image) {
            Err(error) => return Some(format!("point {seq} can't be restored: {}", error.line())),
            Ok(found) if found == *expected => {}
            Ok(found) => {
                let blocks = found.chunks(BLOCK).zip(expected.chunks(BLOCK)).enumerate();
                let block =
                    blocks.filter(|(_, (found, expected))| found != expected).map(|(block, _)| block).next();
                let sizes = (found.len(), expected.len());
                return Some(format!(
                    "point {seq} is not its cut: disk {disk} at block {block:?}, sizes {sizes:?}"
                ));
            }
        }
    }
    None
}

/// The bytes of an image, block by block.
fn restored(group: &Group, image: &DiskImage) -> Result<Vec<u8>> {
    let reader = Arc::new(Reader::new(group.clone(), 1 << 20));
    let opened = Image::open(reader.clone(), image)?;
    let mut out = vec![0; opened.blocks() as usize * BLOCK];
    let window = opened.window(0, opened.blocks() as usize)?;
    for (block, frame, slot, hash) in window.data() {
        let pack = opened.pack(frame.pack);
        let mut sealed = reader.read(&reader.pack_place(pack), frame.offset, frame.sealed as usize)?;
        let opener = reader.pack_opener(pack);
        let data = pack::open_frame(&opener, frame.number.into(), &mut sealed, frame.blocks as usize, 12)?;
        let data = &data[usize::from(slot) * BLOCK..][..BLOCK];
        if group.hasher().hash(data) != *hash {
            return Err(Error::damage(
                "an image",
                format_args!("block {block} is not the one that the index names"),
            ));
        }
        out[block as usize * BLOCK..][..BLOCK].copy_from_slice(data);
    }
    out.truncate(image.size as usize);
    Ok(out)
}

/// Every point of the group, the oldest first, by its entry.
pub(super) fn points(vault: &Vault, group: &Group) -> Result<Vec<EntryHeader>> {
    let history = match history(vault, group) {
        Err(error) if error.kind() == Kind::GroupNotFound => return Ok(Vec::new()),
        history => history?,
    };
    if let Some(damage) = history.damage.into_iter().next() {
        return Err(damage);
    }
    history.points.iter().map(|point| Ok(group.entry_at(point.seq)?.header)).collect()
}

/// Whether a claim goes on over somebody else's entries only by the word.
pub(super) fn refused(error: &Error) -> bool {
    matches!(error.kind(), Kind::BrokenLineage | Kind::ForeignOwner)
}
