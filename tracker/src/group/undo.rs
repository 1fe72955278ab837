//! A freeze that is forgotten (C4): its frozen map is folded into the open one, and its blocks stay pending.

use super::Group;
use super::action::{Action, Ticket};
use super::job::Job;
use crate::control::message::{Answer, Refusal};
use crate::disk::Fold;
use crate::format::changes;
use crate::format::intents::LogMark;
use crate::format::meta::PendingLog;
use crate::id::{CutId, DiskIndex};
use crate::map::header::Road;
use crate::mutant;

/// Undone cuts that a meta remembers.
const VOUCHED_MAX: usize = 64;

impl Group {
    /// C4: forgets a freeze. Its frozen map is folded into the open one, its log stays pending.
    pub(super) fn ask_undo(&mut self, ticket: Ticket, cut: CutId, actions: &mut Vec<Action>) {
        match &mut self.freeze {
            Some(freeze) if freeze.cut == cut && self.state.road != Road::Releasing => {
                freeze.tickets.push(ticket);
                if self.state.road != Road::Undoing {
                    self.undo_now("the shipper asked");
                }
            }
            Some(freeze) if freeze.cut == cut => {
                let answer = Refusal::Mismatch("it is being released".into()).into();
                actions.push(Action::answer(ticket, answer));
            }
            // Undone already, or never there: the same to who asks.
            _ => actions.push(Action::answer(ticket, Answer::Done)),
        }
    }

    /// Begins to undo the freeze. A release that has begun is finished instead: its entry is published.
    pub(super) fn undo_now(&mut self, why: &str) {
        let Some(freeze) = &self.freeze else { return };
        if matches!(self.state.road, Road::Releasing | Road::Undoing | Road::None) {
            return;
        }
        tracing::info!(cut = %freeze.cut, reason = why, "the cut is undone");
        self.state.road = Road::Undoing;
        self.header.store(self.state);
        self.wake_preserve_waiters();
        self.wake_drain_waiters();
        self.start_undo_fold();
    }

    /// Folds the frozen maps into the open ones. A fold of everything that runs already covers it.
    pub(super) fn start_undo_fold(&mut self) {
        for disk in &mut self.disks {
            let frozen = disk.frozen.as_ref().expect("a freeze has every disk");
            if disk.fold.as_ref().is_none_or(|fold| fold.source.is_some())
                && !mutant::active("undo-without-fold")
            {
                disk.fold = Some(Fold { source: Some(frozen.frozen.clone()), next: 0 });
            }
        }
        self.unsettled = true;
    }

    /// The undo is complete when every fold is, no sealing runs that still reads the maps, and no append to its log whose
    /// length is not known yet.
    pub(super) fn finish_undo(&mut self, actions: &mut Vec<Action>) {
        if self.state.road != Road::Undoing
            || self.sealing
            || self.disks.iter().any(|disk| disk.fold.is_some())
            || self.disks.iter().any(|disk| disk.frozen.as_ref().is_some_and(|frozen| frozen.log.appending))
        {
            return;
        }
        let freeze = self.freeze.as_mut().expect("undoing is a state of a freeze");
        let (generation, cut, sealed) = (freeze.generation, freeze.identity(), freeze.sealed);
        let (tickets, readers) = (std::mem::take(&mut freeze.tickets), std::mem::take(&mut freeze.readers));
        let internal = freeze.internal;
        self.first_pending = freeze.first;
        for disk in &mut self.disks {
            disk.filled |= disk.frozen.as_ref().is_some_and(|frozen| frozen.whole);
            if sealed && !internal {
                // An entry of this cut may be in the vault; its log goes with the next seal, its blocks stay pending (V2).
                // Mutant: an entry of this cut is nobody's.
                if !disk.meta.vouched.contains(&cut) && !mutant::active("undone-not-vouched") {
                    disk.meta.vouched.push(cut);
                }
                let surplus = disk.meta.vouched.len().saturating_sub(VOUCHED_MAX);
                disk.meta.vouched.drain(..surplus);
            }
        }
        if sealed && !internal {
            self.store_metas(&(0..self.disks.len()).collect::<Vec<_>>(), actions);
        }
        let mut left = Vec::new();
        for (index, disk) in self.disks.iter_mut().enumerate().filter(|_| !sealed) {
            let mark = disk.frozen.as_ref().map(|frozen| frozen.log.mark()).unwrap_or_default();
            if mark.length > changes::HEADER as u64 {
                disk.left = mark;
                let LogMark { generation, length } = mark;
                let session = disk.meta.session;
                disk.meta.logs.push(PendingLog { generation, session, length, cut: None });
                left.push((DiskIndex(index as u16), mark, disk.meta.clone()));
            }
        }
        self.post(Job::Forget { generation, cut: cut.id, left }, actions);
        self.end_freeze(actions);
        for ticket in readers {
            actions.push(Action::answer(ticket, Refusal::NoSuchFreeze.into()));
        }
        for ticket in tickets {
            actions.push(Action::answer(ticket, Answer::Done));
        }
    }
}
