//! Collectors at work: somewhere else than shippers, with the same store, as long as they like between two requests.

use super::*;
use crate::sim::coroutine::Came;
use crate::sim::process::{self, Ask, Collecting, Reply};
use crate::sim::store::{Done, Request};
use towline::Kind;

/// A collector.
pub(super) struct Collector {
    number: u64,
    running: Collecting,
    /// What it asked for and has no answer to.
    asks: Option<Request>,
    begun: bool,
    /// It does not run before this event.
    paused: u64,
}

impl World {
    /// Somebody begins to collect.
    pub(super) fn begin_collector(&mut self) {
        let last = self.rng.chance(700).then(|| 1 + self.rng.index(3) as u32);
        let budget = [0, 1, 1 << 30][self.rng.index(3)];
        self.collectors_begun += 1;
        let number = self.collectors_begun;
        self.note(58, || format!("collector {number} begins: {last:?}"));
        let running = process::collecting(last, budget);
        self.collectors.push(Collector { number, running, asks: None, begun: false, paused: 0 });
    }

    /// Collectors that would do something now.
    pub(super) fn ready_collectors(&self) -> Vec<usize> {
        (0..self.collectors.len()).filter(|at| self.collectors[*at].paused <= self.events).collect()
    }

    /// One of them goes on, some steps; or it sleeps, or is killed.
    pub(super) fn collect(&mut self, chosen: usize) {
        match self.rng.below(1000) {
            0..20 => return self.kill_collector(chosen),
            20..35 => {
                self.collectors[chosen].paused = self.events + 20 + self.rng.below(400);
                self.counts.add("collectors paused");
                return;
            }
            _ => {}
        }
        let number = self.collectors[chosen].number;
        for _ in 0..1 + self.rng.below(24) {
            let Some(at) = self.collectors.iter().position(|collector| collector.number == number) else {
                return;
            };
            self.collect_on(at);
            if self.wrong.is_some() {
                return;
            }
        }
    }

    fn collect_on(&mut self, chosen: usize) {
        let asked = self.collectors[chosen].asks.take();
        let reply = asked.map(|request| Reply::Store(self.collector_asks(&request)));
        let clock = (self.mono, self.wall as u64);
        let collector = &mut self.collectors[chosen];
        assert!(reply.is_some() || !std::mem::replace(&mut collector.begun, true), "it asks, or it begins");
        match collector.running.resume(reply, clock) {
            Came::Asks(Ask::Store(request)) => {
                let number = collector.number;
                if self.plan.trace {
                    let text: String = format!("{request:?}").chars().take(140).collect();
                    self.note(59, || format!("collector {number}: {text}"));
                }
                self.collectors[chosen].asks = Some(request);
            }
            Came::Asks(other) => panic!("a collector asks nothing but the store: {other:?}"),
            Came::Ended(ended) => {
                let number = self.collectors.remove(chosen).number;
                self.collector_ended(number, ended);
            }
        }
    }

    fn collector_asks(&mut self, request: &Request) -> Result<Done, towline::store::StoreError> {
        let answer =
            self.target.borrow_mut().store.ask(request, &mut self.rng, &mut self.counts, &mut Vec::new());
        self.landed(request);
        answer
    }

    /// What a collector asked for may be done.
    fn landed(&mut self, request: &Request) {
        match request {
            Request::Put(_) => self.look(),
            Request::Delete { .. } => {
                self.counts.add("objects collected");
                self.look_again();
            }
            _ => {}
        }
    }

    /// A collector dies. What it had asked for is done, or comes later, or never.
    fn kill_collector(&mut self, chosen: usize) {
        let Collector { number, asks, .. } = self.collectors.remove(chosen);
        self.counts.add("collectors killed");
        self.note(60, || format!("collector {number} is killed"));
        let fate = self.rng.below(3);
        {
            let mut target = self.target.borrow_mut();
            match (asks, fate) {
                (Some(Request::Put(put)), 0) => drop(target.store.land(&put)),
                (Some(Request::Put(put)), 1) => target.store.late.push(put),
                (Some(Request::Delete { name }), 0) => target.store.delete(&name),
                (Some(Request::Delete { name }), 1) => target.store.late_deletes.push(name),
                _ => {}
            }
        }
        self.look();
        self.look_again();
    }

    /// All of them end without a trace: whoever puts a vault back stops them before.
    pub(super) fn stop_collectors(&mut self) {
        self.collectors.clear();
        self.target.borrow_mut().store.late_deletes.clear();
    }

    /// A delete of a dead collector arrives.
    pub(super) fn delete_late(&mut self) {
        let name = {
            let mut target = self.target.borrow_mut();
            let at = self.rng.index(target.store.late_deletes.len());
            let name = target.store.late_deletes.swap_remove(at);
            target.store.delete(&name);
            name
        };
        self.counts.add("late deletes of the dead");
        self.note(61, || format!("{name} is deleted late"));
        self.look_again();
    }

    fn collector_ended(&mut self, number: u64, ended: towline::Result<()>) {
        let (kind, line) = match &ended {
            Ok(()) => ("done".to_owned(), String::new()),
            Err(error) => (format!("{:?}", error.kind()), error.line()),
        };
        self.counts.add(&format!("collectors ended: {kind}"));
        self.note(62, || format!("collector {number} ends: {kind} {line}"));
        let target = self.target.borrow();
        let fine = match ended.map_err(|error| error.kind()) {
            // The log went on below its feet, or there is none yet.
            Ok(()) | Err(Kind::Unreachable | Kind::NoSpace | Kind::GroupNotFound | Kind::Other) => true,
            Err(Kind::Damage) => !target.store.damaged.is_empty(),
            Err(_) => false,
        };
        drop(target);
        if !fine {
            self.is_wrong(Oracle::Conduct, format!("collector {number} ends with {kind}: {line}"));
        }
    }
}
