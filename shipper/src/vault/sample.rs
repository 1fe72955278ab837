//! A small writer for tests: cycles of one group of two disks into a memory store, with a model of what each point
//! must be.

use super::attach::{Base, Claimant};
use super::cycle::{Assembler, DiskShape, Flushed, Maker, Sizes};
use super::entry::{Consistency, Content, Draft, EntryHeader, EntryKind, EntryRef, Payload, Totals};
use super::frame::builder::FrameBuilder;
use super::limits::ATTACHED_MAX;
use super::log::Appended;
use super::slots::{Making, Secrets};
use super::{Group, Vault};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use std::collections::BTreeMap;
use std::sync::Arc;
use towline_tracker::control::message::{Attached, DiskInfo, LiveFreeze};
use towline_tracker::id::{Anchor, AttachNumber, Cut, CutId, DiskId, Generation, Session, TargetId};

/// The block size of everything here.
pub(crate) const BLOCK: usize = 4096;

/// What the guest did to a block.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Noise of this seed.
    Noise(u64),
    /// Data that compresses.
    Text(u8),
    Zero,
}

impl Change {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Zero => vec![0; BLOCK],
            Self::Text(letter) => vec![*letter | 1; BLOCK],
            Self::Noise(seed) => {
                let mut bytes = vec![0; BLOCK];
                blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
                bytes
            }
        }
    }
}

/// One cycle: for each disk its size in bytes and its changed blocks.
pub(crate) type Cycle = [(u64, BTreeMap<u64, Change>); 2];

pub(crate) struct World {
    pub(crate) store: MemoryStore,
    pub(crate) vault: Vault,
    pub(crate) group: Group,
    pub(crate) head: Option<EntryRef>,
    pub(crate) epoch: u64,
    pub(crate) base: Option<Base>,
    pub(crate) attached: Attached,
    /// The disks as they are.
    pub(crate) disks: [Vec<u8>; 2],
    /// Each point with the disks as they were.
    pub(crate) points: Vec<(CutId, [Vec<u8>; 2])>,
    pub(crate) pack_size: usize,
    /// What rides inside an entry.
    pub(crate) attached_max: usize,
    time_ns: u64,
}

/// What opens the worlds' vaults.
pub(crate) fn secrets() -> Secrets {
    Secrets { key_file: Some(zeroize::Zeroizing::new(b"a key for tests".to_vec())), ..Secrets::default() }
}

pub(crate) fn disk_id(n: u8) -> DiskId {
    DiskId([0xd0 + n; 16])
}

impl World {
    pub(crate) fn new() -> Self {
        let store = MemoryStore::new();
        let vault = Vault::init_sealed(
            Arc::new(store.clone()),
            &Making { secrets: &secrets(), label: "", created_ns: 1, draw: crate::edge::kernel },
        )
        .unwrap();
        let group = vault.group("db");
        let disk = |n: u8| DiskInfo {
            id: disk_id(n),
            name: format!("disk{n}.raw"),
            size: 0,
            block_shift: 12,
            resync: None,
        };
        let attached = Attached {
            attach: AttachNumber(1),
            group: "db".into(),
            session: Session(1),
            disks: vec![disk(0), disk(1)],
            anchor: None,
            live: None,
            vouched: Vec::new(),
        };
        let (disks, points) = (Default::default(), Vec::new());
        Self {
            store,
            vault,
            group,
            head: None,
            epoch: 0,
            base: None,
            attached,
            disks,
            points,
            pack_size: 1 << 16,
            attached_max: ATTACHED_MAX,
            time_ns: 1_700_000_000_000_456_789,
        }
    }

    /// The same tracker in front of another store.
    pub(crate) fn switch(&mut self, store: &MemoryStore) {
        self.store = store.clone();
        self.vault = Vault::open_with(Arc::new(store.clone()), &secrets()).unwrap();
        self.group = self.vault.group("db");
    }

    pub(crate) fn claimant(&self) -> Claimant {
        Claimant { host: "here".into(), target: TargetId([7; 16]), time_ns: self.time_ns }
    }

    /// Claims as a shipper does at its start, and takes its decision's base.
    pub(crate) fn claim(&mut self, take_over: bool) -> crate::Result<super::attach::Decision> {
        let claimed = self.group.claim(&self.attached, &self.claimant(), take_over, &mut || Ok(()))?;
        self.epoch = claimed.claim.seq;
        self.head = Some(claimed.claim.reference());
        self.base = claimed.decision.base().cloned();
        Ok(claimed.decision)
    }

    /// Publishes a cycle as a point and releases it.
    pub(crate) fn cycle(&mut self, cycle: &Cycle) -> CutId {
        let cut = CutId::random();
        let header = self.publish(cycle, cut, EntryKind::Point, usize::MAX);
        self.release(&header);
        cut
    }

    pub(crate) fn release(&mut self, header: &EntryHeader) {
        self.attached.anchor = Some(Anchor { vault: self.vault.id(), seq: header.seq, hash: header.hash() });
        self.attached.live = None;
        self.attached.vouched.clear();
    }

    /// The tracker holds this freeze.
    pub(crate) fn freeze(&mut self, cut: CutId) {
        self.time_ns += 1_000_000_000;
        let (generation, time_ns) = (Generation(1), self.time_ns);
        self.attached.live =
            Some(LiveFreeze { cut, generation, time_ns, sealed: true, fuzzy: false, shipped: [0; 32] });
        self.attached.vouched = vec![Cut { id: cut, time_ns }];
    }

    /// Ships a cycle; a checkpoint after every `checkpoint_every` blocks of a disk.
    pub(crate) fn publish(
        &mut self,
        cycle: &Cycle,
        cut: CutId,
        kind: EntryKind,
        checkpoint_every: usize,
    ) -> EntryHeader {
        if self.epoch == 0 {
            self.claim(false).unwrap();
        }
        let shapes: Vec<DiskShape> = (0u8..)
            .zip(cycle)
            .map(|(n, (size, _))| DiskShape {
                id: disk_id(n),
                name: format!("disk{n}.raw"),
                size: *size,
                block_shift: 12,
            })
            .collect();
        let base = self.base.as_ref().map(|base| &base.content);
        let maker = Maker { seal: self.group.seal.clone(), epoch: self.epoch, cut };
        let sizes = Sizes { pack: self.pack_size, attached: self.attached_max };
        let mut assembler = Assembler::new(maker, sizes, base, &shapes);
        for (n, (size, changes)) in cycle.iter().enumerate() {
            self.disks[n].resize(usize::try_from(*size).unwrap(), 0);
            let mut frames = FrameBuilder::new(self.group.hasher(), 12).unwrap();
            for (done, (block, change)) in changes.iter().enumerate() {
                let at = usize::try_from(*block).unwrap() * BLOCK;
                let length = BLOCK.min(self.disks[n].len() - at);
                let bytes = &change.bytes()[..length];
                self.disks[n][at..at + length].copy_from_slice(bytes);
                match change {
                    Change::Zero => assembler.zeros(n, *block, 1),
                    _ => {
                        let full = frames.push(*block, bytes).and_then(|frame| assembler.frame(n, frame));
                        full.into_iter()
                            .for_each(|object| self.store.put(&object.name, &object.bytes).unwrap());
                    }
                }
                if (done + 1) % checkpoint_every == 0 {
                    let full = frames.finish().and_then(|frame| assembler.frame(n, frame));
                    full.into_iter().for_each(|object| self.store.put(&object.name, &object.bytes).unwrap());
                    let flushed = assembler.checkpoint();
                    self.entry(EntryKind::Checkpoint, cut, flushed);
                }
            }
            let full = frames.finish().and_then(|frame| assembler.frame(n, frame));
            full.into_iter().for_each(|object| self.store.put(&object.name, &object.bytes).unwrap());
        }
        let flushed = match kind {
            EntryKind::Checkpoint => assembler.checkpoint(),
            _ => assembler.finish(),
        };
        let header = self.entry(kind, cut, flushed);
        if kind == EntryKind::Point {
            self.points.push((cut, self.disks.clone()));
        }
        header
    }

    fn entry(&mut self, kind: EntryKind, cut: CutId, flushed: Flushed) -> EntryHeader {
        for object in &flushed.objects {
            self.store.put(&object.name, &object.bytes).unwrap();
        }
        let content = Content {
            first_generation: Generation(1),
            generation: Generation(1),
            session: self.attached.session,
            attach: self.attached.attach,
            consistency: Consistency::Crash,
            disks: flushed.disks,
            covered: Vec::new(),
            totals: Totals::default(),
        };
        // Every entry of a cut has the cut's time.
        let live = self.attached.live.filter(|live| live.cut == cut).map(|live| live.time_ns);
        let time_ns = live.unwrap_or_else(|| {
            self.time_ns += 1_000_000_000;
            self.time_ns
        });
        let draft = Draft {
            kind,
            cut,
            time_ns,
            base: self.base.as_ref().map_or(0, |base| base.header.seq),
            attached: flushed.attached,
            payload: Payload::Content(content.clone()),
        };
        let header = loop {
            match self.group.append(self.head, self.epoch, &draft).unwrap() {
                Appended::Ours(header) => break header,
                // As the publisher does (V2).
                Appended::Theirs(by) if by.kind == EntryKind::Condemned => self.head = Some(by.reference()),
                Appended::Theirs(by) => panic!("nobody else writes, and yet there is {by:?}"),
            }
        };
        self.head = Some(header.reference());
        if let Some(live) = self.attached.live.as_mut().filter(|live| live.cut == cut) {
            live.shipped = header.hash();
        }
        let mut content = content;
        content.resolve(header.seq);
        self.base = Some(Base { header, content });
        header
    }
}

/// A cycle that only touches the first disk, both of 40 blocks and a half.
pub(crate) fn simple(changes: impl IntoIterator<Item = (u64, Change)>) -> Cycle {
    let size = 40 * BLOCK as u64 + 512;
    [(size, changes.into_iter().collect()), (size, BTreeMap::new())]
}

/// A block that a shrink cut through, or that came back, is dirty (DESIGN 3.6): the tracker marks what lies
/// between the old and the new end.
pub(crate) fn with_edges(cycle: &mut Cycle, disks: &[Vec<u8>; 2]) {
    for (n, (size, changes)) in cycle.iter_mut().enumerate() {
        let (old, new) = (disks[n].len() as u64, *size);
        for end in [old, new] {
            let edge = end / BLOCK as u64;
            if old != new && end % BLOCK as u64 != 0 && edge * (BLOCK as u64) < new {
                changes.entry(edge).or_insert(Change::Text(3));
            }
        }
    }
}
