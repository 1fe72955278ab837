//! A vault of whole images, with the attach table (V10) and the claims (V1, V2) in their simple form.

use std::rc::Rc;
use towline_tracker::control::message::Attached;
use towline_tracker::id::{Anchor, CutId, VaultId};

/// One image a disk.
pub type Images = Rc<Vec<Vec<u64>>>;

/// An entry with an image.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number; 0 is never used.
    pub seq: u64,
    /// Of which cut.
    pub cut: CutId,
    /// A point; else fuzzy.
    pub exact: bool,
    /// Over which entry it lies; 0: nothing.
    pub base: u64,
    /// The image.
    pub images: Images,
}

/// What a shipper is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing is there: cut in full.
    Initial,
    /// The live freeze is published: release it.
    Adopt(u64),
    /// Ship frozen blocks over this entry.
    Delta(u64),
    /// Cut in full over this entry.
    Resync(u64),
    /// The log went on without the tracker.
    Broken(String),
}

/// The vault.
#[derive(Clone, Debug)]
pub struct Vault {
    /// Its name.
    pub id: VaultId,
    entries: Vec<Entry>,
    /// The newest claim.
    pub epoch: u64,
    /// The newest content that counts; 0: none.
    pub tip: u64,
}

impl Default for Vault {
    fn default() -> Self {
        Self { id: VaultId([9; 16]), entries: Vec::new(), epoch: 0, tip: 0 }
    }
}

impl Vault {
    /// An entry by number.
    pub fn entry(&self, seq: u64) -> Option<&Entry> {
        seq.checked_sub(1).and_then(|at| self.entries.get(at as usize))
    }

    /// Entries.
    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Nothing was ever put.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The anchor that names an entry.
    pub fn anchor(&self, seq: u64) -> Anchor {
        let entry = self.entry(seq).expect("it was put");
        let mut hash = [0; 32];
        hash[..16].copy_from_slice(&entry.cut.0);
        hash[16..24].copy_from_slice(&seq.to_le_bytes());
        Anchor { vault: self.id, seq, hash }
    }

    /// A new writer claims, over this base (0: nothing): who claimed before can't put any more.
    pub fn claim(&mut self, base: u64) -> u64 {
        self.epoch += 1;
        self.tip = base;
        self.epoch
    }

    /// Puts an entry; none if a later claim fences.
    pub fn put(&mut self, epoch: u64, cut: CutId, exact: bool, base: u64, images: Images) -> Option<u64> {
        if epoch != self.epoch {
            return None;
        }
        let seq = self.len() + 1;
        self.entries.push(Entry { seq, cut, exact, base, images });
        self.tip = seq;
        Some(seq)
    }

    /// The attach table.
    pub fn decide(&self, attached: &Attached) -> Decision {
        let Some(top) = self.entry(self.tip) else { return Decision::Initial };
        let live = attached.live.map(|live| live.cut);
        if live == Some(top.cut) {
            return Decision::Adopt(top.seq);
        }
        let anchor = attached.anchor.filter(|anchor| anchor.vault == self.id);
        let bottom = anchor.map_or(0, |anchor| anchor.seq);
        let mut above = Vec::new();
        let mut at = self.tip;
        while at > bottom {
            let entry = self.entry(at).expect("links lead to entries");
            above.push(entry);
            at = entry.base;
        }
        let vouched = |entry: &&&Entry| attached.vouched.contains(&entry.cut) || live == Some(entry.cut);
        let in_log = anchor
            .is_some_and(|anchor| self.entry(anchor.seq).is_some() && self.anchor(anchor.seq) == anchor);
        if at == bottom && (in_log || anchor.is_none()) {
            let known = above.iter().rev().take_while(vouched).count();
            let (unknown, known) = above.split_at(above.len() - known);
            let newest = known.first().map_or(bottom, |entry| entry.seq);
            if anchor.is_none() && !unknown.is_empty() {
                return Decision::Resync(self.tip);
            }
            if let Some(point) = unknown.iter().find(|entry| entry.exact) {
                return Decision::Broken(format!("entry {} is a point that nobody vouches for", point.seq));
            }
            return if newest == 0 { Decision::Initial } else { Decision::Delta(newest) };
        }
        if attached.vouched.contains(&top.cut) {
            return Decision::Resync(self.tip);
        }
        Decision::Broken(format!("the anchor {bottom} is not below the tip {}", self.tip))
    }
}
