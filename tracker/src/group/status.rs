//! What the machine says of itself: to a shipper that attaches, and to people.

use super::Group;
use super::action::Action;
use crate::control::message::{Answer, Attached, DiskInfo, DiskStatus, LiveFreeze, Refusal, Status};
use crate::disk::IntentMode;
use crate::id::{AttachNumber, TargetId};
use crate::map::header::Road;
use crate::mutant;

impl Group {
    /// V9: the next attach number; the one before is revoked by it.
    pub(super) fn attach(&mut self, target: TargetId, actions: &mut Vec<Action>) -> Answer {
        if !self.tracking {
            return Refusal::Unable("tracking is off: nothing can be replicated".into()).into();
        }
        self.attach = AttachNumber(self.attach.0 + 1);
        self.header.set_attach(self.attach);
        self.target = Some(target);
        self.refuse_cut("a newer shipper attached", actions);
        let live =
            self.freeze.as_ref().filter(|freeze| self.state.road < Road::Releasing && !freeze.internal).map(
                |freeze| LiveFreeze {
                    cut: freeze.cut,
                    generation: freeze.generation,
                    time_ns: freeze.time_ns,
                    sealed: self.state.road == Road::Sealed,
                    fuzzy: self.state.fuzzy,
                    shipped: self.header.shipped(),
                },
            );
        // A release that has begun ends, in this process, before anything else is asked of the freeze; and where it ends with
        // the process, its entry is found in the vault. Who is told the anchor before it would go on from that one, without
        // what this freeze had, if something below the entry is nobody's.
        let ending = self.freeze.as_ref().and_then(|freeze| freeze.release);
        // Mutant: what is not stored has not begun.
        let ending = ending.filter(|_| !mutant::active("releasing-not-told"));
        let disks = self.disks.iter().map(|disk| DiskInfo {
            id: disk.meta.disk,
            name: disk.name.clone(),
            size: disk.geometry.size,
            block_shift: disk.geometry.block_shift,
            resync: self.resync_reason(disk),
        });
        Answer::Attached(Attached {
            attach: self.attach,
            group: self.config.name.clone(),
            session: self.config.session,
            disks: disks.collect(),
            anchor: ending.or(self.anchor),
            live,
            vouched: if ending.is_some() { Vec::new() } else { self.vouched.clone() },
        })
    }

    fn resync_reason(&self, disk: &crate::disk::Disk) -> Option<String> {
        disk.meta.recheck.as_ref().filter(|recheck| recheck.whole).map(|recheck| recheck.reason.clone())
    }

    /// The state; the engine fills in what it alone knows (sockets, memory, connections, reads).
    pub(super) fn status(&self) -> Status {
        let disks = self.disks.iter().map(|disk| {
            let bytes = |blocks| disk.geometry.block_bytes(blocks);
            let frozen = disk.frozen.as_ref();
            DiskStatus {
                name: disk.name.clone(),
                id: disk.meta.disk.to_string(),
                path: disk.path.clone(),
                size: disk.geometry.size,
                block_size: 1 << disk.geometry.block_shift,
                cache: if disk.direct { "direct" } else { "buffered" }.into(),
                dirty_bytes: bytes(disk.dirty_blocks),
                frozen_bytes: bytes(frozen.map_or(0, |frozen| frozen.frozen_blocks)),
                preserved_bytes: bytes(frozen.map_or(0, |frozen| frozen.preserved_blocks)),
                intent_regions: disk.regions.len() as u64,
                intent_budget: disk.regions.budget() as u64,
                resync: self.resync_reason(disk),
                degraded: disk.intent_mode != IntentMode::Kept,
                doubtful: disk.meta.doubtful,
                writes: disk.writes,
                reads: 0,
            }
        });
        Status {
            group: self.config.name.clone(),
            session: self.config.session.0,
            generation: self.state.open.0,
            tracking: match (self.config.off, self.config.strict) {
                (true, _) => "off",
                (_, true) => "strict",
                _ => "availability",
            }
            .into(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: 0,
            nbd: String::new(),
            attach: self.attach.0,
            freeze: self.state.road.name().into(),
            cut: self.freeze.as_ref().map(|freeze| freeze.cut.to_string()),
            fuzzy: self.freeze.as_ref().and_then(|freeze| freeze.fuzzy.clone()),
            anchor: self.anchor.map(|anchor| format!("{}/{}", anchor.vault, anchor.seq)),
            cut_hold_ns_last: self.counts.cut_hold_ns_last,
            cut_hold_ns_max: self.counts.cut_hold_ns_max,
            cut_cpu_ns_last: self.counts.cut_cpu_ns_last,
            cut_cpu_ns_max: self.counts.cut_cpu_ns_max,
            cuts: self.counts.cuts,
            waited_intent: self.counts.waited_intent,
            waited_drain: self.counts.waited_drain,
            waited_preserve: self.counts.waited_preserve,
            preserved_blocks: self.counts.preserved_blocks,
            in_flight_at_cuts: self.counts.in_flight_at_cuts,
            fuzzy_freezes: self.counts.fuzzy_freezes,
            memory_locked: false,
            buffers_registered: false,
            connections: 0,
            disks: disks.collect(),
        }
    }
}
