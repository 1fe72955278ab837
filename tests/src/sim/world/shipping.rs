//! Shippers at work: what they ask is done here, and what they end with is judged.

use super::*;
use crate::sim::coroutine::Came;
use crate::sim::process::{self, Ask, DiskHandle, LogHandle, MapHandle, Orders, Reply, StoreHandle};
use crate::sim::shipper::{Connection, Shipper, Waits, closed};
use std::num::NonZeroU64;
use towline::Kind;
use towline::limit::Rules;
use towline::pipeline::Plan as Sizes;
use towline::ship::Ended;
use towline::source::OpenedDisk;
use towline::store::Put;
use towline::vault::entry::EntryKind;
use towline::vault::names;
use towline_tracker::control::client::ClientError;
use towline_tracker::control::message::{Frozen, Refusal};
use towline_tracker::format::changes::{self, Record};
use towline_tracker::sidecar::files::{parse_log_name, store_name};
use towline_tracker::sidecar::jobs::{map_name, preserved_name};

/// How long an answer may take, in nanoseconds.
const ANSWER: u64 = 30_000_000_000;

impl World {
    // ---- processes ----

    /// A shipper is started, with orders as they come.
    pub(super) fn begin_shipper(&mut self) {
        let plain = self.finishing || !self.plan.mischief;
        let rng = &mut self.rng;
        let mut pick = |of: &[u64]| of[rng.index(of.len())];
        let plan = Sizes {
            workers: pick(&[1, 2, 3]) as usize,
            putters: pick(&[1, 2, 3]) as usize,
            window: pick(&[3, 4]) as usize,
            job_bytes: pick(&[16 << 10, 64 << 10, 256 << 10]) as usize,
            batch_bytes: pick(&[16 << 10, 64 << 10, 128 << 10]) as usize,
            attached_max: pick(&[0, 24 << 10, 1 << 20]) as usize,
            index_bytes: pick(&[Sizes::index_weight(24, 0), 1 << 20, 1 << 20]),
            cache_bytes: 32 << 10,
            ..Sizes::new(64 << 20, 64 << 10, 1)
        };
        let checkpoint_every = pick(&[32 << 10, 128 << 10, u64::MAX, u64::MAX]);
        let fold_every = pick(&[2, 3, 4]) as usize;
        let fold_every = if self.plan.workload == Some(Workload::Fold) { 2 } else { fold_every };
        let every = Some(Duration::from_millis(pick(&[0, 50, 400])));
        let once = if self.settings.preserve_limit.is_some() { 400 } else { 100 };
        let every = if !plain && rng.chance(once) { None } else { every };
        let full = !plain && rng.chance(140);
        let (plan, checkpoint_every) = match self.checkpoints {
            true => (Sizes { job_bytes: 16 << 10, batch_bytes: 16 << 10, ..plan }, 4 << 10),
            false => (plan, checkpoint_every),
        };
        // A pack in a sixteenth of a second, for every fourth.
        let limit = match self.shippers_begun % 4 {
            1 => Rules::always(NonZeroU64::new(1 << 20).expect("it is more")),
            _ => Rules::none(),
        };
        let orders = Orders {
            every,
            full: full || self.heal,
            distrust: full && rng.chance(300) || self.heal,
            take_over: self.word,
            checkpoint_every,
            fold_every,
            limit,
            plan,
        };
        self.shippers_begun += 1;
        let number = self.shippers_begun;
        self.note(40, || format!("shipper {number} begins: {orders:?}"));
        self.shippers.push(Shipper::new(number, orders));
    }

    fn shipper(&mut self, number: u64) -> Option<&mut Shipper> {
        self.shippers.iter_mut().find(|shipper| shipper.number == number)
    }

    /// A shipper dies. What it had asked the store for may be done all the same, at once, later, or never.
    pub(super) fn kill_shipper(&mut self, chosen: usize, fate: &mut Fate) {
        let shipper = self.shippers.remove(chosen);
        let number = shipper.number;
        self.tickets.retain(|_, of| *of != number);
        self.killed(shipper.attached.is_some());
        self.note(8, || format!("shipper {number} is killed; {}", shipper.state()));
        for put in shipper.under_way() {
            let of_fold = matches!(names::parse(&put.name), Some(names::Parsed::Fold { .. }));
            self.counts.more("shippers killed at a fold", u64::from(of_fold));
            let mut target = self.target.borrow_mut();
            match () {
                () if fate.lands(333) => drop(target.store.land(&put)),
                () if fate.lands(500) => target.store.late.push(put),
                () => {}
            }
        }
        self.look();
    }

    /// All of them die.
    pub(super) fn kill_shippers(&mut self) {
        let mut fate = Fate::draw(&mut self.rng);
        while !self.shippers.is_empty() {
            self.kill_shipper(0, &mut fate);
        }
    }

    /// A put of a dead shipper arrives.
    pub(super) fn land_late(&mut self) {
        let put = {
            let mut target = self.target.borrow_mut();
            let at = self.rng.index(target.store.late.len());
            let put = target.store.late.swap_remove(at);
            let landed = target.store.land(&put);
            match put.entry {
                // Nobody needs it: an entry was put behind all that it needs, or not at all (V1).
                false => self.counts.add("late objects of the dead"),
                // The log that the next shipper finds is another.
                true => self.counts.fault("late entries of the dead", landed == Put::Created),
            }
            put
        };
        self.note(41, || format!("{} arrives late", put.name));
        self.look();
        self.look_again();
    }

    /// What was put is looked at.
    pub(super) fn look(&mut self) {
        let reused = self.target.borrow_mut().store.reused.take();
        if let Some(what) = reused {
            self.is_wrong(Oracle::Secrecy, what);
        }
        let looked = self.target.borrow_mut().look(&mut self.counts);
        if let Err(what) = looked {
            self.is_wrong(Oracle::Image, what);
        }
        let entries = std::mem::take(&mut self.target.borrow_mut().entries);
        for entry in entries {
            let header = entry.header;
            self.note(30, || format!("entry {} is a {}, cut {}", header.seq, header.kind.word(), header.cut));
            self.digest ^= header.seq.rotate_left(23) ^ u64::from(header.hash()[0]);
            if header.kind == EntryKind::Point {
                self.check_durable(header.seq, (header.cut, header.time_ns));
            }
            self.tell_entry(&entry);
        }
    }

    /// Durable before shipped (C2): nobody would notice that a disk has lost what a point has of it.
    fn check_durable(&mut self, seq: u64, cut: (CutId, u64)) {
        let target = self.target.borrow();
        let Some(snapshot) = target.cuts.get(&cut).filter(|snapshot| snapshot.host == self.plan.seed) else {
            return;
        };
        let lost = snapshot.newest.iter().zip(&self.disks).enumerate().find_map(|(disk, (newest, now))| {
            let now = now.borrow();
            let sectors = newest.iter().enumerate().take(now.sectors());
            let mut volatile = sectors.filter(|(sector, number)| now.is_volatile(*sector, **number));
            volatile.next().map(|(sector, _)| (disk, sector))
        });
        drop(target);
        if let Some((disk, sector)) = lost {
            let what = format!("a power cut takes back what point {seq} has: disk {disk} sector {sector}");
            self.is_wrong(Oracle::Image, what);
        }
    }

    /// What may have spoiled a point has happened.
    pub(super) fn look_again(&mut self) {
        let spoiled = self.counts.get("points spoiled by damage");
        let looked = self.target.borrow_mut().look_again(&mut self.counts);
        if self.counts.get("points spoiled by damage") > spoiled {
            self.vault_noticed(&["objects damaged"]);
        }
        if let Err(what) = looked {
            self.is_wrong(Oracle::Image, what);
        }
    }

    // ---- a step ----

    /// One shipper goes on, some steps or one.
    pub(super) fn ship(&mut self, chosen: usize) {
        let number = self.shippers[chosen].number;
        for _ in 0..1 + self.rng.below(8) {
            let at = self.shippers.iter().position(|shipper| shipper.number == number);
            let Some(at) = at.filter(|at| self.shippers[*at].can_step(self.events, self.mono)) else {
                return;
            };
            self.ship_on(at);
            // Whoever waits for that sees it.
            if self.plan.workload == Some(Workload::Fold) && self.puts_fold() {
                return;
            }
            if self.struck || self.wrong.is_some() || self.tracker.is_none() {
                return;
            }
        }
    }

    fn ship_on(&mut self, chosen: usize) {
        self.shipper_steps.push(self.faults.steps() + 1);
        if self.faults.step() {
            self.struck = true;
            self.striking = self.shippers[chosen].number;
            return;
        }
        self.goes_on(chosen);
        let number = self.shippers[chosen].number;
        let waits = std::mem::replace(&mut self.shippers[chosen].waits, Waits::Begin);
        let reply = match waits {
            Waits::Begin => None,
            Waits::Ready(reply) => Some(reply),
            Waits::Until(_) => Some(Reply::Slept),
            Waits::Answer(ticket, _) => {
                self.tickets.remove(&ticket);
                self.counts.add("answers that came too late");
                self.hang_matters();
                self.shippers[chosen].connection = None;
                Some(Reply::Answer(Err(ClientError::Deadline)))
            }
            Waits::Ask(ask) => match self.serve(chosen, ask) {
                None => return,
                reply => reply,
            },
        };
        let clock = (self.mono, self.wall as u64);
        let Some(shipper) = self.shipper(number) else { return };
        let came = shipper.running.resume(reply, clock);
        shipper.flying.append(&mut process::begun());
        self.counts.more("bytes audited", process::audited());
        match came {
            Came::Asks(ask) => {
                let text = self.plan.trace.then(|| format!("{ask:?}").chars().take(160).collect::<String>());
                let mono = self.mono;
                let shipper = self.shipper(number).expect("it asks");
                shipper.waits = match ask {
                    Ask::Sleep(time) => Waits::Until(mono + time.as_nanos() as u64),
                    ask => Waits::Ask(ask),
                };
                if let Some(text) = text {
                    shipper.last.clone_from(&text);
                    self.note(42, || format!("shipper {number}: {text}"));
                }
            }
            Came::Ended(ended) => self.shipper_ended(number, ended),
        }
    }

    /// Does what is asked; no reply: it comes later.
    fn serve(&mut self, chosen: usize, ask: Ask) -> Option<Reply> {
        let number = self.shippers[chosen].number;
        Some(match ask {
            Ask::Connect => {
                let serves = self.tracker.as_ref().is_some_and(|tracker| !tracker.stop_begun);
                self.shippers[chosen].connection = serves.then(Connection::default);
                let refused = || ClientError::Connect(std::io::ErrorKind::ConnectionRefused.into());
                self.connects(number);
                Reply::Heard(if serves { Ok(()) } else { Err(refused()) })
            }
            Ask::Idle => Reply::Heard(match &self.shippers[chosen].connection {
                None => Err(closed()),
                Some(Connection { revoked: Some(newest), .. }) => {
                    let newest = *newest;
                    self.shippers[chosen].connection = None;
                    Err(ClientError::Refused(Refusal::Revoked { newest }))
                }
                Some(_) => Ok(()),
            }),
            Ask::Tracker(question) => return self.question(chosen, question),
            Ask::Disk { disk, sectors, stale } => {
                if !self.finishing && self.rng.chance(self.settings.read_errors) {
                    self.met(number, vec![("failed reads of shippers", String::new())]);
                    return Some(Reply::Sectors(Err(std::io::Error::from_raw_os_error(libc_errno::EIO))));
                }
                let mut from = self.disks[disk].borrow_mut();
                let mut stop = sectors.end.min(from.sectors());
                if stop > sectors.start + 1 && self.rng.chance(80) {
                    stop = sectors.start + 1 + self.rng.index(stop - sectors.start - 1);
                }
                let mut read = |at| if stale { from.read_buffered(at) } else { from.read(at) };
                Reply::Sectors(Ok((sectors.start..stop.max(sectors.start)).map(&mut read).collect()))
            }
            Ask::Holes { disk, range } => Reply::Holes(self.holes(disk, range)),
            Ask::Preserved { file, sectors } => {
                self.counts.more("sectors read from the store", sectors.len() as u64);
                Reply::Sectors(Ok(sectors.map(|sector| self.opened[file].preserved(sector)).collect()))
            }
            Ask::Store(request) => {
                let mut met = Vec::new();
                let answer =
                    self.target.borrow_mut().store.ask(&request, &mut self.rng, &mut self.counts, &mut met);
                self.asked_store(number, &request, &answer);
                self.met(number, met);
                let told = answer.as_ref().err().map(ToString::to_string);
                if let Some(told) = told {
                    self.note(43, || format!("the store to shipper {number}: {told}"));
                }
                if let crate::sim::store::Request::Put(put) = &request {
                    self.shippers[chosen].flying.retain(|other| other.name != put.name);
                    self.look();
                }
                Reply::Store(answer)
            }
            Ask::Sleep(_) => Reply::Slept,
        })
    }

    /// The tracker is asked.
    fn question(&mut self, chosen: usize, question: Question) -> Option<Reply> {
        let shipper = &mut self.shippers[chosen];
        let failed = |error| Some(Reply::Answer(Err(error)));
        match shipper.connection.as_mut() {
            None => return failed(closed()),
            Some(Connection { revoked: Some(newest), .. }) => {
                let newest = *newest;
                shipper.connection = None;
                return failed(ClientError::Refused(Refusal::Revoked { newest }));
            }
            Some(connection) => {
                if let Question::Cut { attach, .. }
                | Question::Reopen { attach, .. }
                | Question::Confirm { attach, .. }
                | Question::Shipped { attach, .. }
                | Question::Release { attach, .. }
                | Question::Undo { attach, .. }
                | Question::Resynchronize { attach, .. } = &question
                {
                    connection.attach = Some(*attach);
                }
            }
        }
        // Nothing is ever changed unseen here that a start would not have noticed.
        if let Question::Resynchronize { reason, .. } = &question
            && reason.starts_with("the self-audit found")
        {
            self.is_wrong(Oracle::Image, format!("a false alarm, or a lost change: {reason}"));
        }
        let (what, limit) = match &question {
            Question::Cut { .. } => (None, None),
            Question::Reopen { .. } => (Some("reopened"), None),
            Question::Undo { .. } => (Some("undone by the shipper"), Some(4 * ANSWER)),
            Question::Resynchronize { .. } => (Some("resync asked"), Some(4 * ANSWER)),
            Question::Release { .. } => (None, Some(4 * ANSWER)),
            _ => (None, Some(ANSWER)),
        };
        if let Some(what) = what {
            self.counts.add(what);
        }
        match &question {
            Question::Reopen { .. } | Question::Release { .. } => self.taken_up(),
            Question::Undo { .. } => {
                self.taken_up();
                self.gives_up_freeze(self.shippers[chosen].number);
            }
            _ => {}
        }
        self.shippers[chosen].releasing = matches!(question, Question::Release { .. });
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let number = self.shippers[chosen].number;
        self.tickets.insert(ticket, number);
        self.shippers[chosen].waits = Waits::Answer(ticket, limit.map(|limit| self.mono + limit));
        self.note(29, || format!("shipper {number} asks {question:?}"));
        let time = self.wall as u64;
        self.drive(|group, now, actions| group.ask(question, Ticket(ticket), time, now, actions));
        None
    }

    /// The tracker answers.
    pub(super) fn answer(&mut self, ticket: u64, answer: Answer) {
        let Some(number) = self.tickets.remove(&ticket) else { return };
        let text = self.plan.trace.then(|| format!("{answer:?}").chars().take(300).collect::<String>());
        self.note(28, || format!("answer to shipper {number}: {}", text.unwrap_or_default()));
        let opened = match &answer {
            Answer::Frozen(frozen) => {
                self.handed_out(frozen.cut);
                self.open(frozen)
            }
            _ => Vec::new(),
        };
        let Some(shipper) = self.shipper(number) else { return };
        let released = shipper.releasing && answer == Answer::Done;
        match &answer {
            Answer::Attached(attached) => {
                let newest = attached.attach;
                if let Some(connection) = &mut shipper.connection {
                    connection.attach = Some(newest);
                }
                shipper.attached = Some(attached.clone());
                shipper.waits = Waits::Ready(Reply::Answer(Ok(Box::new((answer, opened)))));
                let revoked = self.shippers.iter_mut().map(|other| other.revoke(newest));
                let revoked = revoked.filter(|revoked| *revoked).count();
                return self.attached(revoked);
            }
            Answer::Refused(Refusal::Revoked { .. }) => shipper.connection = None,
            _ => {}
        }
        if let Answer::Refused(refusal) = &answer {
            let refused = ClientError::Refused(refusal.clone());
            shipper.waits = Waits::Ready(Reply::Answer(Err(refused)));
        } else {
            shipper.waits = Waits::Ready(Reply::Answer(Ok(Box::new((answer, opened)))));
        }
        self.counts.more("released", u64::from(released));
    }

    /// Opens what the control server hands out.
    fn open(&mut self, frozen: &Frozen) -> Vec<OpenedDisk> {
        let mut all = Vec::new();
        for (index, info) in frozen.disks.iter().enumerate() {
            let folder = &self.folders[index];
            let preserved = self.maps.get(&preserved_name(frozen.generation, index));
            let store = folder.file(&store_name(frozen.cut));
            let log = sealed_log(folder, frozen.generation, frozen.cut);
            let open = self.maps.get(&map_name(frozen.generation.next(), index));
            let (Some(preserved), Some(store), Some((log, count)), Some(open)) =
                (preserved, store, log, open)
            else {
                self.is_wrong(Oracle::Conduct, "a sealed freeze can't be handed out".into());
                return all;
            };
            if !self.maps.is_reserved(&preserved_name(frozen.generation, index)) {
                self.is_wrong(Oracle::Conduct, "a freeze's map has no memory of its own".into());
            }
            let blocks = info.size.div_ceil(1 << info.block_shift);
            if info.whole && count != blocks {
                self.is_wrong(Oracle::Conduct, format!("a whole freeze of {blocks} blocks has {count}"));
            }
            self.counts.add(match (info.whole, info.compare) {
                (true, _) => "whole freezes",
                (_, true) => "compared freezes",
                _ => "delta freezes",
            });
            self.opened.push(store);
            all.push(OpenedDisk {
                disk: Box::new(DiskHandle { disk: index, stale: self.settings.direct && !info.direct }),
                changes: Box::new(LogHandle(log)),
                preserved: Box::new(MapHandle(preserved)),
                store: Box::new(StoreHandle(self.opened.len() - 1)),
                open: Box::new(MapHandle(open)),
            });
        }
        all
    }

    /// Where a disk reads as zeros, some of it in holes.
    fn holes(&mut self, disk: usize, range: Range<u64>) -> Vec<(bool, Range<u64>)> {
        const HOLE: u64 = 4096;
        if !self.settings.holes {
            return vec![(true, range)];
        }
        let from = self.disks[disk].borrow();
        let mut parts: Vec<(bool, Range<u64>)> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let stop = ((at / HOLE + 1) * HOLE).min(range.end);
            let sectors = (at / SECTOR) as usize..(stop.div_ceil(SECTOR) as usize).min(from.sectors());
            let data = sectors.clone().any(|sector| from.read(sector) != 0);
            match parts.last_mut() {
                Some((same, part)) if *same == data => part.end = stop,
                _ => parts.push((data, at..stop)),
            }
            at = stop;
        }
        self.counts.more("holes", parts.iter().filter(|(data, _)| !data).count() as u64);
        parts
    }

    // ---- the end ----

    /// A shipper has ended: with this exit kind it may, or not.
    fn shipper_ended(&mut self, number: u64, ended: towline::Result<Ended>) {
        if let Err(error) = &ended {
            self.ends_by(number, error.kind());
        }
        let at = self.shippers.iter().position(|shipper| shipper.number == number).expect("it has just run");
        let shipper = self.shippers.remove(at);
        self.tickets.retain(|_, of| *of != number);
        let once = shipper.orders.every.is_none();
        let (kind, line) = match &ended {
            Ok(Ended::Once(_)) => ("once".to_owned(), String::new()),
            Ok(Ended::Stopped) => ("stopped".to_owned(), String::new()),
            Err(error) => (format!("{:?}", error.kind()), error.line().to_owned()),
        };
        if shipper.paused > 0 && kind == "Revoked" {
            self.counts.add("paused shippers whose place was taken");
        }
        self.counts.add(&format!("shippers ended: {kind}"));
        self.note(44, || format!("shipper {number} ends: {kind}: {line}"));
        let fine = match &ended {
            Ok(Ended::Once(_)) => once,
            Ok(Ended::Stopped) => shipper.stop.is_asked(),
            Err(error) => match error.kind() {
                Kind::Stopped => shipper.stop.is_asked(),
                Kind::Revoked => self.rivals || self.target.borrow().taken_over,
                // What a first try or a single one meets ends it; whoever supervises it starts it again.
                Kind::TrackerNotRunning | Kind::TrackerRefused => once || shipper.attached.is_none(),
                Kind::Unreachable | Kind::NoSpace => once || shipper.attached.is_none(),
                Kind::FuzzyGiveUp => once,
                Kind::Unreadable => self.settings.read_errors > 0,
                Kind::Damage | Kind::BrokenLineage | Kind::ForeignOwner => self.due(error),
                _ => false,
            },
        };
        if !fine {
            let lineage = matches!(&ended, Err(error) if matches!(error.kind(), Kind::BrokenLineage | Kind::ForeignOwner));
            let oracle = if lineage { Oracle::Lineage } else { Oracle::Conduct };
            self.is_wrong(oracle, format!("shipper {number} ends with {kind}: {line}"));
        }
    }

    /// A refusal that an administrator must answer: whether there is a reason for it. From now on he gives the word.
    fn due(&mut self, error: &towline::Error) -> bool {
        let kind = error.kind();
        if error.line().contains("must be removed") {
            self.counts.add("gaps that somebody closed");
            let mut target = self.target.borrow_mut();
            let bound = target.bound();
            target.store.close_gap(bound);
            target.forget_points();
        }
        let target = self.target.borrow();
        let due = match kind {
            Kind::Damage => target.put_back || !target.store.damaged.is_empty(),
            _ => self.estranged || target.taken_over,
        };
        drop(target);
        self.refused(kind);
        if self.obstinate {
            self.counts.add("refused for good");
            return due;
        }
        self.counts.add(&format!("the word to take over, after {kind:?}"));
        self.word = true;
        self.target.borrow_mut().taken_over = true;
        due
    }

    /// What an entry says of the decisions behind it.
    fn tell_entry(&mut self, entry: &towline::vault::entry::Entry) {
        let Some(claim) = entry.claim() else { return };
        let mut shippers = self.shippers.iter().filter_map(|shipper| shipper.attached.as_ref());
        let Some(attached) = shippers.find(|attached| attached.attach == claim.attach) else { return };
        let base = claim.base.map_or(0, |base| base.seq);
        let anchor = attached.anchor.filter(|anchor| anchor.vault.0 == claim.target.0);
        let (kind, top) = (self.target.borrow().kind(base), self.target.borrow().top_below(entry.header.seq));
        let row = match (claim.reason.strip_prefix("resynchronization: "), base, anchor) {
            (Some(reason), ..) => format!("resync: {reason}"),
            (None, 0, _) if entry.header.seq == 1 => "initial, no entries".into(),
            (None, 0, _) => "initial, no image".into(),
            (None, base, _) if base != top => "delta, what nobody vouches for is void".into(),
            (None, base, Some(anchor)) if anchor.seq == base => "delta over the anchor".into(),
            (None, _, anchor) => {
                let of_live = attached.live.is_some_and(|live| claim.continued.contains(&live.cut));
                let over = if anchor.is_none() { " from the beginning" } else { "" };
                match (of_live, kind) {
                    (true, Some(EntryKind::Checkpoint)) => format!("continue{over}"),
                    (true, _) => "adopt".into(),
                    (false, _) => format!("delta over a vouched cut{over}"),
                }
            }
        };
        let row: String =
            row.split("; ").next().unwrap_or_default().split(": groups/").next().unwrap_or_default().into();
        self.claimed(&row);
        self.counts.add(&format!("claim: {row}"));
    }
}

/// The sealed log of a cut, and how many blocks it says are frozen: evicted records don't count.
fn sealed_log(folder: &SimFolder, generation: Generation, cut: CutId) -> Option<(Vec<u8>, u64)> {
    for name in folder.listing() {
        if parse_log_name(&name).is_none_or(|(of, _)| of != generation) {
            continue;
        }
        let (bytes, mut count) = (folder.peek(&name)?, 0);
        let read = changes::read(&bytes[..], |record| {
            if let Record::Sealed(blocks) = record {
                count += blocks.iter().map(|range| range.end - range.start).sum::<u64>();
            }
        });
        if read.is_ok_and(|log| log.seal.is_some_and(|seal| seal.cut == cut)) {
            return Some((bytes, count));
        }
    }
    None
}
