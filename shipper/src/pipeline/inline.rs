//! A crew of one: the caller's thread plans, works and puts, each step when its turn comes. The simulator interrupts it
//! between any two of them and chooses their order, which is that of some run of the threads.

use super::assemble::Cycle;
use super::jobs::{self, Job};
use super::line::{Begun, Heard, Line, Turn, Turns};
use super::put::{self, Item, Outcome};
use super::work::{Said, Shop, Worker};
use crate::Result;
use std::collections::VecDeque;
use std::ops::ControlFlow;

struct InLine<'a> {
    cycle: &'a Cycle<'a>,
    turns: &'a dyn Turns,
    shop: &'a Shop<'a>,
    worker: Option<Worker<'a>>,
    /// Cut, and not worked on.
    jobs: Option<VecDeque<Job>>,
    /// Jobs with a lower number may begin.
    credits: u64,
    items: VecDeque<Item>,
    given_up: bool,
}

/// Calls.
pub(super) fn with<T>(cycle: &Cycle<'_>, turns: &dyn Turns, call: impl FnOnce(&mut dyn Line) -> T) -> T {
    let shop = Shop::of(cycle);
    call(&mut InLine {
        cycle,
        turns,
        shop: &shop,
        worker: None,
        jobs: None,
        credits: cycle.plan.window as u64,
        items: VecDeque::new(),
        given_up: false,
    })
}

impl InLine<'_> {
    fn work(&mut self, number: usize) -> Result<Heard> {
        let worker = match &mut self.worker {
            Some(worker) => worker,
            none => none.insert(Worker::new(self.shop)?),
        };
        let job = self.jobs.as_mut().and_then(|jobs| jobs.remove(number)).expect("it was offered");
        let (give, take) = crossbeam_channel::bounded(1);
        let (done, said) = crossbeam_channel::bounded(1);
        let _ = give.send(job);
        drop(give);
        worker.run(&take, &done)?;
        said.try_recv().expect("a job ends with what became of it").map(Heard::Said)
    }

    fn put_one(&mut self, number: usize) -> Outcome {
        let item = self.items.remove(number).expect("it was offered");
        let (sleep, given_up) = (self.cycle.edge.sleep, self.given_up);
        put::put(self.cycle, item, &mut |time| {
            sleep(time);
            !given_up
        })
    }
}

impl Line for InLine<'_> {
    fn credit(&mut self) {
        self.credits += 1;
    }

    fn put(&mut self, item: Item) {
        let (name, bytes, entry) = match &item {
            Item::Object { name, bytes, .. } => (name.clone(), bytes, false),
            Item::Entry { header, bytes } => (self.cycle.group.name_of(header.seq), bytes, true),
        };
        self.turns.begun(&Begun { name: &name, bytes, entry });
        self.items.push_back(item);
    }

    fn hear(&mut self, workers: bool) -> Result<Heard> {
        let Some(jobs) = &self.jobs else {
            let mut all = VecDeque::new();
            let count = jobs::plan(self.cycle.source, self.cycle.skip, &self.cycle.plan, &mut |job| {
                all.push_back(job);
                ControlFlow::Continue(())
            })?;
            self.jobs = Some(all);
            return Ok(Heard::Said(Said::End(count.expect("nobody breaks"))));
        };
        let ready = jobs.iter().take(self.cycle.plan.workers).take_while(|job| job.number < self.credits);
        match self.turns.next(if workers { ready.count() } else { 0 }, self.items.len()) {
            Turn::Work(number) => self.work(number),
            Turn::Put(number) => Ok(Heard::Put(self.put_one(number))),
            Turn::Idle => Ok(Heard::Nothing),
        }
    }

    fn give_up(&mut self) {
        self.given_up = true;
    }

    fn last(&mut self) -> Option<Outcome> {
        (!self.items.is_empty()).then(|| self.put_one(0))
    }
}
