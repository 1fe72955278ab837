//! A tracker of a few lines: what it knows of its disks, its freeze and its vault.

use super::BLOCK;
use crate::sim::rng::Rng;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use towline::pipeline::Lately;
use towline::source::{FreezeInfo, MemoryDisk, MemorySource, SourceDisk};
use towline_tracker::control::message::{Attached, DiskInfo, LiveFreeze};
use towline_tracker::id::{Anchor, AttachNumber, Cut, CutId, DiskId, Generation, Session};

/// The disks at a cut, by the cut's name and time.
pub(super) type Cuts = HashMap<(CutId, u64), Vec<Vec<u8>>>;

/// A cut that is being shipped.
#[derive(Clone)]
pub(super) struct Freeze {
    pub(super) cut: CutId,
    pub(super) time_ns: u64,
    pub(super) whole: bool,
    pub(super) fuzzy: bool,
    /// The last entry of it that its shipper told of.
    pub(super) shipped: [u8; 32],
    frozen: Vec<BTreeSet<u64>>,
    /// The disks as the cut found them.
    kept: Vec<Vec<u8>>,
}

/// A tracker with its disks.
pub(super) struct Host {
    pub(super) disks: Vec<Vec<u8>>,
    dirty: Vec<BTreeSet<u64>>,
    pub(super) live: Option<Freeze>,
    pub(super) anchor: Option<Anchor>,
    pub(super) vouched: Vec<Cut>,
    /// Everything is to be compared.
    pub(super) recheck: bool,
    attach: u64,
    session: u64,
    /// The name of the next cut: drawn ahead, so that a copy of this host's memory has it too.
    next: CutId,
    time_ns: u64,
    pub(super) lately: Option<Lately>,
}

fn id(disk: usize) -> DiskId {
    DiskId([disk as u8 + 1; 16])
}

impl Host {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let disk = |rng: &mut Rng| vec![0; (48 + rng.index(400)) * BLOCK];
        let disks: Vec<_> = (0..1 + rng.index(2)).map(|_| disk(rng)).collect();
        let mut host = Self {
            dirty: vec![BTreeSet::new(); disks.len()],
            disks,
            live: None,
            anchor: None,
            vouched: Vec::new(),
            recheck: false,
            attach: 0,
            session: 1,
            next: CutId::random(),
            time_ns: 0,
            lately: Some(Lately::new(1 << 20)),
        };
        host.write(rng, 300);
        host
    }

    /// A copy of the machine, with its memory.
    pub(super) fn cloned(&self) -> Self {
        Self {
            disks: self.disks.clone(),
            dirty: self.dirty.clone(),
            live: self.live.clone(),
            anchor: self.anchor,
            vouched: self.vouched.clone(),
            recheck: self.recheck,
            attach: self.attach,
            session: self.session,
            next: self.next,
            // Its own clock: no two cut at one time.
            time_ns: self.time_ns
                + 1
                + u64::from(u16::from_le_bytes([CutId::random().0[0], CutId::random().0[1]])),
            lately: Some(Lately::new(1 << 20)),
        }
    }

    fn blocks(&self, disk: usize) -> u64 {
        (self.disks[disk].len() / BLOCK) as u64
    }

    /// The guest writes: few values a block, so that old ones come back.
    pub(super) fn write(&mut self, rng: &mut Rng, count: usize) {
        for _ in 0..count {
            let disk = rng.index(self.disks.len());
            let first = rng.below(self.blocks(disk));
            for block in first..(first + 1 + rng.below(3)).min(self.blocks(disk)) {
                let at = block as usize * BLOCK;
                let data = match rng.below(5) {
                    0 => vec![0; BLOCK],
                    value => {
                        let mut data = vec![0; BLOCK];
                        let seed = block << 8 | value;
                        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut data);
                        data
                    }
                };
                self.disks[disk][at..at + BLOCK].copy_from_slice(&data);
                self.dirty[disk].insert(block);
            }
        }
    }

    /// The disk shrinks or grows between cuts. Blocks that come back are zeros and dirty.
    pub(super) fn resize(&mut self, rng: &mut Rng) {
        if self.live.is_some() {
            return;
        }
        let disk = rng.index(self.disks.len());
        let (old, new) = (self.blocks(disk), 48 + rng.below(400));
        self.disks[disk].resize(new as usize * BLOCK, 0);
        self.dirty[disk].retain(|block| *block < new);
        self.dirty[disk].extend(old..new.max(old));
    }

    /// The sidecar is lost.
    pub(super) fn forget(&mut self) {
        (self.anchor, self.live) = (None, None);
        self.vouched.clear();
        self.recheck = true;
        self.session += 1;
    }

    pub(super) fn attached(&mut self) -> Attached {
        self.attach += 1;
        let disks = self.disks.iter().enumerate().map(|(disk, data)| DiskInfo {
            id: id(disk),
            name: format!("disk{disk}"),
            size: data.len() as u64,
            block_shift: 12,
            resync: None,
        });
        Attached {
            attach: AttachNumber(self.attach),
            group: "vm".into(),
            session: Session(self.session),
            disks: disks.collect(),
            anchor: self.anchor,
            live: self.live.as_ref().map(|freeze| LiveFreeze {
                cut: freeze.cut,
                generation: Generation(1),
                time_ns: freeze.time_ns,
                sealed: true,
                fuzzy: freeze.fuzzy,
                shipped: freeze.shipped,
            }),
            vouched: self.vouched.clone(),
        }
    }

    /// Whether this attach is still the newest.
    pub(super) fn is_attached(&self, attached: &Attached) -> bool {
        self.attach == attached.attach.0
    }

    pub(super) fn cut(&mut self, whole: bool, rng: &mut Rng, cuts: &mut Cuts) {
        assert!(self.live.is_none(), "one freeze at a time");
        let whole = whole || self.recheck;
        let all = |disk: usize| (0..self.blocks(disk)).collect();
        let frozen = match whole {
            true => (0..self.disks.len()).map(all).collect(),
            false => self.dirty.clone(),
        };
        self.dirty.iter_mut().for_each(BTreeSet::clear);
        self.time_ns += 1_000_000_000;
        let cut = std::mem::replace(&mut self.next, CutId::random());
        let kept = self.disks.clone();
        cuts.insert((cut, self.time_ns), kept.clone());
        let fuzzy = rng.chance(200);
        let (time_ns, shipped) = (self.time_ns, [0; 32]);
        self.live = Some(Freeze { cut, time_ns, whole, fuzzy, shipped, frozen, kept });
        self.vouched.push(Cut { id: cut, time_ns: self.time_ns });
    }

    /// The live freeze as its reader finds it: a fuzzy one as the disks are now.
    pub(super) fn source(&self) -> MemorySource {
        let freeze = self.live.as_ref().expect("a live freeze");
        let info = FreezeInfo {
            cut: freeze.cut,
            first_generation: Generation(1),
            generation: Generation(1),
            time_ns: freeze.time_ns,
            fuzzy: freeze.fuzzy,
        };
        let content = if freeze.fuzzy { &self.disks } else { &freeze.kept };
        let disks = content.iter().zip(&freeze.frozen).enumerate().map(|(disk, (data, frozen))| {
            let about = SourceDisk {
                id: id(disk),
                name: format!("disk{disk}"),
                size: data.len() as u64,
                block_shift: 12,
                compare: self.recheck,
                whole: freeze.whole,
                frozen_bytes: (frozen.len() * BLOCK) as u64,
            };
            MemoryDisk { about, data: data.clone(), frozen: extents(frozen) }
        });
        MemorySource::new(info, disks.collect())
    }

    /// The freeze's blocks are pending again (C4).
    pub(super) fn undo(&mut self) {
        if let Some(freeze) = self.live.take() {
            for (dirty, frozen) in self.dirty.iter_mut().zip(freeze.frozen) {
                dirty.extend(frozen);
            }
        }
    }

    /// The entry of this cut is published (V9).
    pub(super) fn release(&mut self, cut: CutId, anchor: Anchor) {
        if let Some(freeze) = self.live.take_if(|freeze| freeze.cut == cut) {
            self.anchor = Some(anchor);
            self.vouched.clear();
            self.recheck &= !freeze.whole;
        }
    }
}

fn extents(blocks: &BTreeSet<u64>) -> Vec<Range<u64>> {
    let mut extents: Vec<Range<u64>> = Vec::new();
    for block in blocks {
        match extents.last_mut() {
            Some(last) if last.end == *block => last.end += 1,
            _ => extents.push(*block..*block + 1),
        }
    }
    extents
}
