//! Folds that no entry lists, and what becomes of them when somebody collects.

use crate::vault::entry::{Content, IndexRef};
use towline_tracker::mutant;

/// A fold that was put into a list, and what stood there before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Folded {
    of: Vec<IndexRef>,
    parts: Vec<IndexRef>,
}

impl Folded {
    /// Puts back what it was made of, where it stands in this list.
    fn undo(&self, list: &mut Vec<IndexRef>) {
        let count = self.parts.len();
        if let Some(at) = list.windows(count).position(|some| some == self.parts) {
            list.splice(at..at + count, self.of.iter().copied());
        }
    }
}

/// What a writer of one epoch has folded and not listed yet.
///
/// Schedule that it is for (V14): 1. a fold is made of an index; 2. a compaction moves blocks of that index, and catalogs it; 3. the
/// packs that the fold names show nowhere: condemned, deleted; 4. the entry with the fold. It comes behind the condemned
/// one, so it loses its place to that first; from then on the list has what the fold was made of, for which the moved
/// index stands. Who lists a fold before the condemned entry is seen by who puts that.
#[derive(Debug, Default)]
pub struct Unlisted {
    /// In contents that are still to be put.
    waiting: Vec<Folded>,
    /// Which no entry may list any more.
    void: Vec<Folded>,
    /// Somebody has collected since this was asked last.
    collected: bool,
}

impl Unlisted {
    /// A fold stands in the base of the next content, in the place of what it is made of.
    pub(super) fn wait(&mut self, of: Vec<IndexRef>, parts: Vec<IndexRef>) {
        self.waiting.push(Folded { of, parts });
    }

    /// Whether somebody has collected since this was asked last: then what is being folded was read before.
    pub(super) fn was_collected(&mut self) -> bool {
        // Mutant: what was read of an index is as good as the index.
        std::mem::take(&mut self.collected) && !mutant::active("fold-outlives-collection")
    }

    /// A condemned entry was found.
    pub(in crate::vault) fn collected(&mut self) {
        self.void.append(&mut self.waiting);
        self.collected = true;
    }

    /// A content is in the log, and all folds that it lists.
    pub(in crate::vault) fn published(&mut self) {
        self.waiting.clear();
    }

    /// Takes out of a content the folds that may not be listed.
    pub(crate) fn undo(&self, content: &mut Content) {
        if mutant::active("fold-outlives-collection") {
            return;
        }
        // One may be made of another.
        for fold in self.void.iter().rev() {
            content.disks.iter_mut().for_each(|disk| fold.undo(&mut disk.indexes));
        }
    }
}
