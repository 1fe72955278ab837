//! A shipper's model: attach, cut, read optimistically (R1), confirm (R2), publish, release; from any interruption on.

use super::counts::Counts;
use super::disk::Disk;
use super::folder::{SimFile, SimFolder};
use super::maps::SimMaps;
use super::rng::Rng;
use super::vault::{Decision, Images, Vault};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use towline_tracker::control::message::{Answer, Attached, Frozen, Refusal};
use towline_tracker::format::changes::{self, Record};
use towline_tracker::group::Question;
use towline_tracker::id::{AttachNumber, CutId, Generation, TargetId};
use towline_tracker::map::{Words, bits};
use towline_tracker::mutant;
use towline_tracker::sidecar::files::{parse_log_name, store_name};
use towline_tracker::sidecar::jobs::preserved_name;

/// What a shipper can reach.
pub struct Port<'a> {
    /// The disks.
    pub disks: &'a [Rc<RefCell<Disk>>],
    /// Their sidecars.
    pub folders: &'a [SimFolder],
    /// The maps.
    pub maps: &'a SimMaps,
    /// The vault.
    pub vault: &'a mut Vault,
    /// Draws its choices.
    pub rng: &'a mut Rng,
    /// Counts what it does.
    pub counts: &'a mut Counts,
    /// log2 of the block size.
    pub block_shift: u8,
    /// The tracker writes past the page cache.
    pub direct: bool,
    /// See [`super::Plan::conduct`].
    pub conduct: bool,
    /// No more undoing and dawdling: the campaign's end.
    pub finish: bool,
}

/// What a step came to.
#[derive(Debug)]
pub enum Step {
    /// Nothing to be told.
    Went,
    /// A question for the tracker.
    Ask(Question),
    /// An entry was put.
    Put(u64),
    /// It was fenced, revoked or lost heart: it is gone.
    Gone,
    /// Something that must never happen.
    Wrong(String),
}

#[derive(Clone, Debug)]
struct ReadDisk {
    preserved: Words,
    store: SimFile,
    sectors: usize,
    /// Through the page cache, although the tracker writes past it.
    stale: bool,
}

/// A freeze being read.
#[derive(Clone, Debug)]
struct Reading {
    cut: CutId,
    disks: Vec<ReadDisk>,
    /// Blocks not yet read.
    todo: Vec<(usize, u64)>,
    /// Read from the disk, bits not yet looked at.
    half: VecDeque<(usize, u64, Vec<u64>)>,
    done: Vec<(usize, u64, Vec<u64>)>,
}

#[derive(Clone, Debug)]
enum Phase {
    /// To be connected.
    Start,
    /// A question is to be asked.
    Asking(Question, Wait),
    /// An answer is awaited.
    Waiting(Wait),
    /// The next cut is to be made.
    Ready,
    Reading,
    /// All was read and confirmed, or found fuzzy.
    Publishing {
        exact: bool,
    },
}

#[derive(Clone, Debug, PartialEq)]
enum Wait {
    Attach,
    Cut,
    Confirm,
    Release(u64),
    Undo,
    Other,
}

/// One shipper process.
#[derive(Clone, Debug)]
pub struct Shipper {
    phase: Phase,
    attach: Option<AttachNumber>,
    epoch: u64,
    base: u64,
    full: bool,
    reading: Option<Reading>,
    /// Points put since it began.
    pub points: u64,
}

impl Default for Shipper {
    fn default() -> Self {
        let phase = Phase::Start;
        Self { phase, attach: None, epoch: 0, base: 0, full: false, reading: None, points: 0 }
    }
}

impl Shipper {
    /// Whether a step of its own would change anything.
    pub fn can_step(&self, connected: bool) -> bool {
        match self.phase {
            Phase::Waiting(_) => false,
            Phase::Reading | Phase::Publishing { .. } => true,
            Phase::Start | Phase::Asking(..) | Phase::Ready => connected,
        }
    }

    /// Whether it is between reading and publishing.
    pub fn is_publishing(&self) -> bool {
        matches!(self.phase, Phase::Publishing { .. })
    }

    /// What it does, for a trace.
    pub fn state(&self) -> String {
        let text = format!("{:?}", self.phase);
        text.chars().take(60).collect()
    }

    /// The tracker is gone. Reading goes on with the descriptors that it has.
    pub fn disconnected(&mut self, keep: bool) {
        self.attach = None;
        match self.phase {
            Phase::Reading if keep => {}
            Phase::Publishing { .. } => {}
            _ => {
                self.phase = Phase::Start;
                if !keep {
                    self.reading = None;
                }
            }
        }
    }

    fn ask(&mut self, wait: Wait, question: Question) {
        self.phase = Phase::Asking(question, wait);
    }

    fn again(&mut self) {
        *self = Self { points: self.points, ..Self::default() };
    }

    /// Its next step.
    pub fn step(&mut self, port: &mut Port) -> Step {
        let Some(attach) = self.attach else {
            return match &self.phase {
                Phase::Reading => self.read(port),
                Phase::Publishing { exact } => self.publish(*exact, port),
                _ => {
                    self.phase = Phase::Waiting(Wait::Attach);
                    Step::Ask(Question::Attach { target: TargetId(port.vault.id.0) })
                }
            };
        };
        match self.phase.clone() {
            Phase::Asking(question, wait) => {
                self.phase = Phase::Waiting(wait);
                Step::Ask(question)
            }
            Phase::Ready => {
                if !port.finish && port.rng.chance(20) {
                    let reason = "the simulator asked".to_string();
                    port.counts.add("resync asked");
                    self.phase = Phase::Waiting(Wait::Other);
                    return Step::Ask(Question::Resynchronize { attach, reason });
                }
                let full = self.full || (!port.finish && port.rng.chance(50));
                self.phase = Phase::Waiting(Wait::Cut);
                Step::Ask(Question::Cut { attach, full })
            }
            Phase::Reading => self.read(port),
            Phase::Publishing { exact } => self.publish(exact, port),
            Phase::Start | Phase::Waiting(_) => Step::Went,
        }
    }

    /// R1, a few blocks at a time: the disk first, then the bits, then the store.
    fn read(&mut self, port: &mut Port) -> Step {
        let per = 1usize << (port.block_shift - 9);
        let reading = self.reading.as_mut().expect("it reads");
        if !port.finish
            && port.rng.chance(4)
            && let Some(attach) = self.attach
        {
            let cut = reading.cut;
            port.counts.add("undone by the shipper");
            self.reading = None;
            self.ask(Wait::Undo, Question::Undo { attach, cut });
            return Step::Went;
        }
        for _ in 0..1 + port.rng.index(6) {
            let first = reading.half.len() < 12 && (reading.half.is_empty() || port.rng.chance(500));
            if first && let Some((disk, block)) = reading.todo.pop() {
                let start = block as usize * per;
                let stop = (start + per).min(reading.disks[disk].sectors);
                let (mut from, stale) = (port.disks[disk].borrow_mut(), reading.disks[disk].stale);
                let mut read = |sector| if stale { from.read_buffered(sector) } else { from.read(sector) };
                let values = (start..stop).map(&mut read).collect();
                reading.half.push_back((disk, block, values));
            } else if let Some((disk, block, mut values)) = reading.half.pop_front() {
                let one = &reading.disks[disk];
                if bits::get(&one.preserved, block) {
                    port.counts.add("blocks read from the store");
                    for (index, value) in values.iter_mut().enumerate() {
                        *value = one.store.preserved(block as usize * per + index);
                    }
                }
                reading.done.push((disk, block, values));
            }
        }
        if !reading.todo.is_empty() || !reading.half.is_empty() {
            return Step::Went;
        }
        let cut = reading.cut;
        match self.attach {
            None => self.phase = Phase::Start,
            Some(_) if mutant::active("no-confirm") => self.phase = Phase::Publishing { exact: true },
            Some(attach) => self.ask(Wait::Confirm, Question::Confirm { attach, cut }),
        }
        Step::Went
    }

    fn publish(&mut self, exact: bool, port: &mut Port) -> Step {
        let reading = self.reading.take().expect("it was read");
        let images = overlay(&reading, port.vault.entry(self.base).map(|entry| entry.images.clone()), port);
        let Some(seq) = port.vault.put(self.epoch, reading.cut, exact, self.base, images) else {
            port.counts.add("fenced");
            self.again();
            return Step::Gone;
        };
        port.counts.add(if exact { "points" } else { "fuzzy entries" });
        self.points += u64::from(exact);
        match self.attach {
            Some(_) => self.release(seq, port),
            None => self.phase = Phase::Start,
        }
        Step::Put(seq)
    }

    fn release(&mut self, seq: u64, port: &Port) {
        let Some(attach) = self.attach else { return };
        let cut = port.vault.entry(seq).expect("it was put").cut;
        let target = TargetId(port.vault.id.0);
        let question = Question::Release { attach, target, cut, anchor: port.vault.anchor(seq) };
        self.ask(Wait::Release(seq), question);
    }

    /// An answer came.
    pub fn answer(&mut self, answer: Answer, port: &mut Port) -> Step {
        let Phase::Waiting(wait) = self.phase.clone() else {
            return Step::Wrong(format!("an answer that nobody awaits: {answer:?}"));
        };
        match (wait, answer) {
            (Wait::Attach, Answer::Attached(attached)) => return self.attached(&attached, port),
            (Wait::Cut, Answer::Frozen(frozen)) => return self.frozen(&frozen, port),
            (Wait::Cut, Answer::Refused(Refusal::Busy { cut })) => {
                let Some(attach) = self.attach else { return Step::Went };
                port.counts.add("busy");
                self.ask(Wait::Undo, Question::Undo { attach, cut });
            }
            (Wait::Confirm, Answer::Confirmed { exact }) => self.phase = Phase::Publishing { exact },
            (Wait::Release(seq), Answer::Done) => {
                port.counts.add("released");
                self.base = seq;
                self.full = false;
                self.phase = Phase::Ready;
            }
            (Wait::Undo | Wait::Other, Answer::Done) => {
                self.reading = None;
                self.phase = Phase::Ready;
            }
            // Revoked: somebody else ships. Others: begin again.
            (_, Answer::Refused(Refusal::Revoked { .. })) => {
                port.counts.add("revoked");
                self.again();
                return Step::Gone;
            }
            (_, Answer::Refused(_)) => {
                port.counts.add("refused");
                self.again();
            }
            (wait, answer) => return Step::Wrong(format!("{answer:?} is no answer to {wait:?}")),
        }
        Step::Went
    }

    fn attached(&mut self, attached: &Attached, port: &mut Port) -> Step {
        self.attach = Some(attached.attach);
        let attach = attached.attach;
        let decision = port.vault.decide(attached);
        let (base, full) = match decision {
            Decision::Broken(why) => return Step::Wrong(format!("broken lineage: {why}; {attached:?}")),
            Decision::Adopt(seq) => {
                port.counts.add("adopted");
                self.reading = None;
                self.epoch = port.vault.claim(seq);
                self.release(seq, port);
                return Step::Went;
            }
            Decision::Initial => (0, true),
            Decision::Delta(base) => (base, false),
            Decision::Resync(base) => (base, true),
        };
        self.epoch = port.vault.claim(base);
        (self.base, self.full) = (base, full);
        let Some(live) = attached.live else {
            self.reading = None;
            self.phase = Phase::Ready;
            return Step::Went;
        };
        let cut = live.cut;
        if !full && let Some(reading) = &self.reading {
            if reading.cut == cut && reading.todo.is_empty() && reading.half.is_empty() {
                port.counts.add("confirmed by a successor");
                self.ask(Wait::Confirm, Question::Confirm { attach, cut });
                return Step::Went;
            }
            if reading.cut == cut {
                self.phase = Phase::Reading;
                return Step::Went;
            }
        }
        self.reading = None;
        if !full && (port.finish || port.rng.chance(700)) {
            port.counts.add("reopened");
            self.ask(Wait::Cut, Question::Reopen { attach, cut });
        } else {
            port.counts.add("undone by the shipper");
            self.ask(Wait::Undo, Question::Undo { attach, cut });
        }
        Step::Went
    }

    /// Opens what the control server hands out.
    fn frozen(&mut self, frozen: &Frozen, port: &mut Port) -> Step {
        let (mut disks, mut todo) = (Vec::new(), Vec::new());
        for (index, (folder, info)) in port.folders.iter().zip(&frozen.disks).enumerate() {
            let preserved = port.maps.get(&preserved_name(frozen.generation, index));
            let store = folder.file(&store_name(frozen.cut));
            let ranges = sealed_ranges(folder, frozen.generation, frozen.cut);
            let (Some(preserved), Some(store), Some(ranges)) = (&preserved, &store, &ranges) else {
                let missing = (preserved.is_none(), store.is_none(), ranges.is_none());
                return Step::Wrong(format!("a sealed freeze can't be handed out: {missing:?}"));
            };
            if !port.maps.is_reserved(&preserved_name(frozen.generation, index)) && port.conduct {
                return Step::Wrong("a freeze's map has no memory of its own".to_string());
            }
            let count: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            let blocks = info.size.div_ceil(1 << info.block_shift);
            if info.whole && count != blocks && port.conduct {
                return Step::Wrong(format!("a whole freeze of {blocks} blocks has {count}"));
            }
            todo.extend(ranges.iter().flat_map(|range| range.clone()).map(|block| (index, block)));
            let sectors = (info.size / 512) as usize;
            let stale = port.direct && !info.direct;
            disks.push(ReadDisk { preserved: preserved.clone(), store: store.clone(), sectors, stale });
            port.counts.add(match (info.whole, info.compare) {
                (true, _) => "whole freezes",
                (_, true) => "compared freezes",
                _ => "delta freezes",
            });
        }
        if port.rng.chance(500) {
            todo.reverse();
        }
        self.reading =
            Some(Reading { cut: frozen.cut, disks, todo, half: VecDeque::new(), done: Vec::new() });
        self.phase = Phase::Reading;
        Step::Went
    }
}

/// The frozen blocks in the sealed log of a cut: evicted records don't count.
fn sealed_ranges(
    folder: &SimFolder,
    generation: Generation,
    cut: CutId,
) -> Option<Vec<std::ops::Range<u64>>> {
    for name in folder.listing() {
        if parse_log_name(&name).is_none_or(|(of, _)| of != generation) {
            continue;
        }
        let mut ranges = Vec::new();
        let read = changes::read(&folder.peek(&name)?[..], |record| {
            if let Record::Sealed(mut blocks) = record {
                ranges.append(&mut blocks);
            }
        });
        if read.is_ok_and(|log| log.seal.is_some_and(|seal| seal.cut == cut)) {
            return Some(ranges);
        }
    }
    None
}

fn overlay(reading: &Reading, base: Option<Images>, port: &Port) -> Images {
    let per = 1usize << (port.block_shift - 9);
    let mut images = match base {
        Some(base) => (*base).clone(),
        None => port.disks.iter().map(|disk| vec![0; disk.borrow().sectors()]).collect(),
    };
    for (disk, block, values) in &reading.done {
        let start = *block as usize * per;
        images[*disk][start..start + values.len()].copy_from_slice(values);
    }
    Rc::new(images)
}
