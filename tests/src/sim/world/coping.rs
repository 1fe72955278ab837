//! Faults that shippers, and those who look after them, meet: whether each has mattered is seen when they cope with it.

use super::*;
use crate::sim::shipper::Stood;
use crate::sim::store::{self, Done, Request};
use towline::Kind;
use towline::store::{Put, StoreError};

/// Faults of shippers that nobody has coped with yet.
#[derive(Default)]
pub(super) struct Unmet {
    /// Shippers that were killed over a freeze. One has mattered if another one then goes on with what it has left.
    killed: u64,
    /// Second shippers. One has mattered if one of two then loses its place to the other (V9).
    second: u64,
}

impl World {
    /// What this shipper met and now copes with, it does otherwise than without: it has mattered.
    fn coped(&mut self, number: u64, with: impl Fn(&str, &str) -> bool) {
        let Some(shipper) = self.shippers.iter_mut().find(|shipper| shipper.number == number) else { return };
        for (fault, _) in shipper.met.extract_if(.., |(fault, of)| with(fault, of)) {
            self.counts.matter(fault, true);
        }
    }

    /// A shipper has met faults, each with what it would ask for if it copes.
    pub(super) fn met(&mut self, number: u64, faults: Vec<(&'static str, String)>) {
        faults.iter().for_each(|(fault, _)| self.counts.fault(fault, false));
        if let Some(shipper) = self.shippers.iter_mut().find(|shipper| shipper.number == number) {
            shipper.met.extend(faults);
        }
    }

    /// It asks the store, and is answered.
    pub(super) fn asked_store(&mut self, number: u64, request: &Request, answer: &Result<Done, StoreError>) {
        let object = request.object();
        let found = match answer {
            Ok(Done::Put(Put::AlreadyExists) | Done::Bytes(_) | Done::Length(_)) => true,
            Ok(Done::Listed(rest)) => !rest.is_empty(),
            Ok(Done::Put(Put::Created) | Done::Deleted) | Err(_) => false,
        };
        let lists = matches!(request, Request::List { .. });
        self.coped(number, |fault, of| {
            of == object
                && match fault {
                    store::ENTRY_LOST | store::FAILED_AND_DONE | store::NOT_LISTED => found && !lists,
                    store::SHORT_PAGE => found && lists,
                    store::DOWN | store::FAILED | store::NO_SPACE | store::OBJECT_LOST => true,
                    _ => false,
                }
        });
    }

    /// It connects: whoever lost his connection does so again.
    pub(super) fn connects(&mut self, number: u64) {
        self.coped(number, |fault, _| fault == "shippers disconnected");
    }

    /// It gives up a freeze that it could not read.
    pub(super) fn gives_up_freeze(&mut self, number: u64) {
        self.coped(number, |fault, _| fault == "failed reads of shippers");
    }

    /// It ends with this: what it met last is why.
    pub(super) fn ends_by(&mut self, number: u64, kind: Kind) {
        self.coped(number, |fault, _| match kind {
            Kind::Unreachable => [store::DOWN, store::FAILED, store::OBJECT_LOST].contains(&fault),
            Kind::NoSpace => fault == store::NO_SPACE,
            Kind::Unreadable => fault == "failed reads of shippers",
            Kind::TrackerNotRunning => fault == "shippers disconnected",
            _ => false,
        });
    }

    /// What a shipper that sleeps relies on.
    fn stood(&self) -> Stood {
        let header = self.header().filter(|_| self.tracker.is_some());
        Stood { session: self.sessions, of: header.map(|header| (header.attach(), header.state().open)) }
    }

    /// A shipper is paused. It matters if it finds another session, another's attach or another cut when it goes on.
    pub(super) fn pause(&mut self, chosen: usize, until: u64) {
        let stood = self.stood();
        let shipper = &mut self.shippers[chosen];
        shipper.paused = until;
        shipper.left.get_or_insert(stood);
        self.counts.fault("shippers paused", false);
    }

    /// It goes on, if it was paused.
    pub(super) fn goes_on(&mut self, chosen: usize) {
        if let Some(left) = self.shippers[chosen].left.take() {
            let mattered = left != self.stood();
            self.counts.matter("shippers paused", mattered);
        }
    }

    /// A shipper is killed, and with it what it met.
    pub(super) fn killed(&mut self, attached: bool) {
        let live = self.tracker.is_some() && self.state().is_some_and(|state| state.road != Road::None);
        self.unmet.killed += u64::from(attached && live);
        self.counts.fault("shippers killed", false);
    }

    /// A freeze is gone on with, or undone: whoever was killed over it has left that.
    pub(super) fn taken_up(&mut self) {
        for _ in 0..std::mem::take(&mut self.unmet.killed) {
            self.counts.matter("shippers killed", true);
        }
    }

    /// There is no freeze any more that somebody could have left.
    pub(super) fn nothing_is_left(&mut self) {
        self.unmet.killed = 0;
    }

    /// Another shipper comes beside the one that is there.
    pub(super) fn second_shipper(&mut self) {
        self.begin_shipper();
        self.rivals = true;
        self.unmet.second += 1;
        self.counts.fault("second shippers", false);
    }

    /// A shipper has attached, and so many have lost their places by it.
    pub(super) fn attached(&mut self, revoked: usize) {
        if revoked > 0 && self.unmet.second > 0 {
            self.unmet.second -= 1;
            self.counts.matter("second shippers", true);
        }
    }

    /// Somebody has laid hands on the vault, or come with another group's disks: it matters if a shipper then refuses, or claims
    /// otherwise than over the last image; of damage, if somebody who reads is told.
    pub(super) fn vault_meets(&mut self, fault: &'static str) {
        self.counts.fault(fault, false);
        self.target.borrow_mut().unmet.push(fault);
    }

    /// A shipper, or who restores, has noticed one of these.
    pub(super) fn vault_noticed(&mut self, faults: &[&'static str]) {
        let mut target = self.target.borrow_mut();
        if let Some(at) = target.unmet.iter().rposition(|fault| faults.contains(fault)) {
            let fault = target.unmet.remove(at);
            drop(target);
            self.counts.matter(fault, true);
        }
    }

    /// A claim was put, by this row of the attach table.
    pub(super) fn claimed(&mut self, row: &str) {
        let anew = row.starts_with("resync: ") || row.starts_with("initial");
        match row {
            "resync: the vault is older than what this tracker released last" => {
                self.vault_noticed(&["vaults put back"]);
            }
            "resync: the damaged log was taken over" => self.vault_noticed(&["objects damaged"]),
            _ if anew => self.vault_noticed(&["vaults changed"]),
            _ => {}
        }
    }

    /// A shipper was refused with this.
    pub(super) fn refused(&mut self, kind: Kind) {
        match kind {
            Kind::BrokenLineage => self.vault_noticed(&["clones", "vaults put back"]),
            Kind::ForeignOwner => self.vault_noticed(&["strangers with our group's name"]),
            Kind::Damage => self.vault_noticed(&["objects damaged", "vaults put back"]),
            _ => {}
        }
    }
}
