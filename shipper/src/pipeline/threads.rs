//! The crew of threads, over bounded channels.

use super::assemble::Cycle;
use super::jobs::{self, Job};
use super::line::{Heard, Line};
use super::put::{self, Item, Outcome};
use super::work::{self, Said, Shop};
use super::{Plan, TICK};
use crate::{Error, Kind, Result};
use crossbeam_channel::{Receiver, Sender, bounded, never, select, unbounded};
use std::ops::ControlFlow;

/// The caller's ends of the channels.
struct Threads {
    credit: Sender<()>,
    done: Receiver<Result<Said>>,
    nobody: Receiver<Result<Said>>,
    items: Sender<Item>,
    outcomes: Receiver<Outcome>,
    over: Option<Sender<()>>,
}

/// Makes the threads, calls, and waits for their ends.
pub(super) fn with<T>(cycle: &Cycle<'_>, call: impl FnOnce(&mut dyn Line) -> T) -> T {
    let Plan { workers, putters, window, .. } = cycle.plan;
    let shop = Shop::of(cycle);
    std::thread::scope(|scope| {
        let (credit, credits) = bounded(window);
        let (job_out, job_in) = bounded(window + 1);
        let (done_out, done_in) = bounded(window + workers);
        let (item_out, item_in) = bounded(putters);
        let (outcome_out, outcome_in) = unbounded();
        let (over_out, over_in) = bounded::<()>(0);
        (0..window).for_each(|_| credit.send(()).expect("there is room"));
        let planner = done_out.clone();
        scope.spawn(move || {
            let planned =
                jobs::plan(cycle.source, cycle.skip, &cycle.plan, &mut |job| match credits.recv().is_ok()
                    && job_out.send(job).is_ok()
                {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                });
            if let Some(said) = planned.map(|jobs| jobs.map(Said::End)).transpose() {
                let _ = planner.send(said);
            }
        });
        for _ in 0..workers {
            let (jobs, done): (Receiver<Job>, Sender<Result<Said>>) = (job_in.clone(), done_out.clone());
            let shop = &shop;
            scope.spawn(move || work::work(shop, &jobs, &done));
        }
        drop((job_in, done_out));
        for _ in 0..putters {
            let (items, over, outcomes) = (item_in.clone(), over_in.clone(), outcome_out.clone());
            scope.spawn(move || {
                let mut pause = |time| put::paused(time, &over);
                for item in items {
                    if outcomes.send(put::put(cycle, item, &mut pause)).is_err() {
                        return;
                    }
                }
            });
        }
        // Whatever ends the call closes every channel, and so ends every thread.
        let mut line = Threads {
            credit,
            done: done_in,
            nobody: never(),
            items: item_out,
            outcomes: outcome_in,
            over: Some(over_out),
        };
        let value = call(&mut line);
        drop(line);
        value
    })
}

impl Line for Threads {
    fn credit(&mut self) {
        // The planner may have gone already.
        let _ = self.credit.try_send(());
    }

    fn put(&mut self, item: Item) {
        self.items.send(item).expect("the putters live as long as we send");
    }

    fn hear(&mut self, workers: bool) -> Result<Heard> {
        let done = if workers { &self.done } else { &self.nobody };
        select! {
            recv(done) -> said => match said {
                Ok(said) => Ok(Heard::Said(said?)),
                Err(_) => Err(Error::new(Kind::Other, "a thread of the pipeline ended early")),
            },
            recv(self.outcomes) -> outcome => match outcome {
                Ok(outcome) => Ok(Heard::Put(outcome)),
                Err(_) => Err(Error::new(Kind::Other, "the pipeline's putters ended early")),
            },
            default(TICK) => Ok(Heard::Nothing),
        }
    }

    fn give_up(&mut self) {
        self.over = None;
    }

    fn last(&mut self) -> Option<Outcome> {
        self.outcomes.recv().ok()
    }
}
