//! Which points are kept, and how what no point needs is deleted (V14).
//!
//! ```text
//! prune    points of the log --policy--> the next catalog            put-if-absent at catalog n+1
//! protect  the same live names                                      locked for a while, where the store can
//! collect  catalog, log --> roots --> what they show --> live names
//!          names that are listed, not live, not in use               condemned entry, put-if-absent at head+1
//!          the condemned names                                       deletes, in any order, at any later time
//! ```
//!
//! Why nothing is deleted that anybody needs. Take the log up to a head h and a catalog n, read one after the other. What no
//! root of them shows and no upload can still be listing is garbage *for ever*: a later entry lies over the newest content
//! or over a kept point, which are roots, and adds objects with new random names; a later catalog only lets go. So it does
//! not matter how long a collector sleeps between its steps. What it must not miss is an upload that is on its way: of
//! the newest claim's epoch, or of a cut that this claim continues, or of a claim it has not seen, whose epoch is higher
//! than any it knows. The condemned entry is put at h+1, so it is there only if there was no such claim when it was put.

pub mod collect;
pub mod compact;
pub mod damage;
pub mod live;
pub mod policy;
pub mod protect;
pub mod prune;

use crate::vault::entry::{Content, EntryHeader, EntryKind, EntryRef};
use crate::vault::names::ObjectName;
use std::collections::BTreeSet;
use towline_tracker::id::CutId;

/// The cuts whose shipment under the claim `epoch` is over, by the entries that are told in order: one that has ended, and one
/// that got as far as a checkpoint before another ended. One shipment goes on at a time. The same cut may be shipped again
/// under another claim, so what others ended says nothing.
fn over<'a>(headers: impl Iterator<Item = &'a EntryHeader>, epoch: u64) -> BTreeSet<CutId> {
    let (mut over, mut begun) = (BTreeSet::new(), None);
    for header in headers.filter(|header| header.epoch == epoch) {
        if header.ends_shipment() {
            over.insert(header.cut);
            over.extend(begun.take());
        } else if header.kind == EntryKind::Checkpoint {
            begun = Some(header.cut);
        }
    }
    over
}

/// The folds that a content lists, with the claims that they were made under: what was listed is not about to be.
fn folds(content: &Content) -> impl Iterator<Item = (u64, ObjectName)> {
    let indexes = content.disks.iter().flat_map(|disk| &disk.indexes);
    indexes.filter(|index| index.level > 0).map(|index| (index.epoch, index.name))
}

/// The base of the newest claim, as long as no content of it is there, which would list all of that base. It exists, whatever
/// the catalog says.
///
/// Schedule: 1. a prune looks at the log; 2. a claim over an older point; 3. the prune, which has not seen it, lets that
/// point go; 4. a collection; 5. hours later the first entry over it.
fn built_on<'a>(
    base: Option<EntryRef>,
    mut headers: impl Iterator<Item = &'a EntryHeader>,
    epoch: u64,
) -> Option<EntryRef> {
    base.filter(|_| !headers.any(|header| header.epoch == epoch && header.kind.has_content()))
}

#[cfg(test)]
mod tests;
