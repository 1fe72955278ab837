//! Faults of the moment: one has mattered if the machine stands elsewhere when it has been told of it.

use super::*;

/// Where the machine stands, as far as a fault may change it.
#[derive(PartialEq)]
pub(super) struct Stand {
    freeze: Option<State>,
    disks: Vec<DiskStand>,
}

#[derive(PartialEq)]
struct DiskStand {
    /// Its intents are not kept (S4).
    degraded: bool,
    latched: bool,
    doubtful: bool,
    /// Blocks of failed writes (W5).
    failed: Option<Vec<Range<u64>>>,
}

impl World {
    fn stand(&self) -> Stand {
        let header = self.header();
        let disk = |index: usize| {
            let group = self.tracker.as_ref().map(|tracker| &tracker.group);
            let degraded = group.is_some_and(|group| group.is_degraded(DiskIndex(index as u16)));
            let says = |what: fn(&GroupHeader, usize) -> bool| {
                header.as_ref().is_some_and(|header| what(header, index))
            };
            let failed = header.as_ref().and_then(|header| header.failed(index));
            let (latched, doubtful) = (says(GroupHeader::latched), says(GroupHeader::doubtful));
            DiskStand { degraded, latched, doubtful, failed }
        };
        let disks = (0..self.disks.len()).map(disk).collect();
        Stand { freeze: header.as_ref().map(GroupHeader::state), disks }
    }

    /// Tells the machine what came of something, with the faults that were in it.
    pub(super) fn drive_into(
        &mut self,
        faults: &[&'static str],
        call: impl FnOnce(&mut Group, Nanos, &mut Vec<Action>),
    ) {
        let before = (!faults.is_empty()).then(|| self.stand());
        self.drive(call);
        if let Some(before) = before {
            let mattered = self.stand() != before;
            faults.iter().for_each(|fault| self.counts.fault(fault, mattered));
        }
    }

    /// What hangs while so much time passes at once: longer than the machine waits for it.
    pub(super) fn hanging(&self, nanos: u64) -> Vec<&'static str> {
        let operations = self.tracker.iter().flat_map(|tracker| &tracker.operations);
        let mut hanging = Vec::new();
        for operation in operations {
            let (limit, what) = match operation {
                Operation::Persist { .. } => (1_000_000_000, "a sidecar that hangs"),
                Operation::Preserve { .. } => (250_000_000, "a copy that hangs"),
                _ => continue,
            };
            if nanos > limit && !hanging.contains(&what) {
                hanging.push(what);
            }
        }
        hanging
    }

    /// Calls have failed since there were so many that had: of the device, of space.
    pub(super) fn calls_failed(&mut self, before: [u64; 2], mattered: bool) {
        let names = ["calls that fail (EIO)", "calls that fail (no space)"];
        for ((name, before), now) in names.into_iter().zip(before).zip(self.faults.injected_of()) {
            if now > before {
                self.counts.more(name, now - before);
                self.counts.matter(name, mattered);
            }
        }
    }

    /// A sync has failed. If no flush was told, the next one must be, although its own sync may be good (W6).
    pub(super) fn sync_failed(&mut self, told: bool) {
        if !told && !std::mem::replace(&mut self.untold, true) {
            self.counts.add("a sync error that no flush met");
        }
    }

    /// A flush was told at once, of what had failed before.
    pub(super) fn told_of_latch(&mut self) {
        if std::mem::take(&mut self.untold) {
            self.counts.matter("a sync error that no flush met", true);
        }
    }
}

/// Whether a job came to nothing.
pub(super) fn has_failed(done: &JobDone) -> bool {
    match done {
        JobDone::Prepared(result) => result.is_err(),
        JobDone::Marked { result, .. } | JobDone::Unmarked { result, .. } => result.is_err(),
        JobDone::IntentsRenewed { result, .. } => result.is_err(),
        JobDone::Reserved(result)
        | JobDone::Sealed { result, .. }
        | JobDone::Released { result, .. }
        | JobDone::Forgotten { result }
        | JobDone::MetaStored { result, .. }
        | JobDone::Stopped { result, .. } => result.is_err(),
        JobDone::Stamped(stamps) => stamps.iter().any(Result::is_err),
        JobDone::Watched { .. } | JobDone::StampsStored => false,
    }
}
