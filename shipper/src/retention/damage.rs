//! What a verification found damaged, told to whom it concerns: the group's shipper, which ships it again as long as the disks have
//! it, and whoever lists, prunes or restores points. The catalog carries it: a shipper looks for a newer one at each entry.
//!
//! Nothing is believed less because of it than is shown by the objects themselves: a mark makes somebody ship, and keeps no
//! point from being restored.

use super::prune::next;
use crate::vault::Group;
use crate::vault::access::{CACHE, Reader};
use crate::vault::entry::{Content, EntryRef};
use crate::vault::image::Image;
use crate::vault::names::ObjectName;
use crate::{Kind, Result};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Blocks looked at together.
const WINDOW: usize = 1 << 18;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Packs and indexes that are damaged, or lost.
    pub objects: BTreeSet<ObjectName>,
    /// The entries of the points that need them.
    pub points: Vec<EntryRef>,
    /// Everything was read: what is not named is sound.
    pub everything: bool,
}

/// Puts what was found into the catalog, with what was found before unless everything was read now; whether anything changed.
///
/// # Errors
/// `Damage` of the catalog itself: then it can't be told; `GroupFull`, the store's.
pub fn mark(group: &Group, found: &Found, now_ns: u64) -> Result<bool> {
    loop {
        let before = group.catalog(0)?;
        let mut catalog = next(before.as_ref(), &group.name, now_ns);
        if found.everything {
            catalog.damaged.clear();
            catalog.spoiled.clear();
        }
        let objects: BTreeSet<_> = found.objects.iter().chain(&catalog.damaged).copied().collect();
        let is_there = |point: &&EntryRef| before.as_ref().is_none_or(|before| before.has(**point));
        let points = found.points.iter().filter(is_there).chain(&catalog.spoiled);
        let points: BTreeSet<_> = points.map(|point| (point.seq, point.hash)).collect();
        catalog.damaged = objects.into_iter().collect();
        catalog.spoiled = points.into_iter().map(|(seq, hash)| EntryRef { seq, hash }).collect();
        let same = match &before {
            Some(before) => (&before.damaged, &before.spoiled) == (&catalog.damaged, &catalog.spoiled),
            None => catalog.damaged.is_empty() && catalog.spoiled.is_empty(),
        };
        if same {
            return Ok(false);
        }
        if group.put_catalog(&catalog)? {
            return Ok(true);
        }
    }
}

/// Whether an image shows anything of a pack that is marked as damaged, or of an index that can't be read. Reads all of its index pages, unless
/// nothing is marked.
///
/// # Errors
/// The store's.
pub fn shows(group: &Group, content: &Content) -> Result<bool> {
    let damaged = group.known.damaged();
    if damaged.is_empty() {
        return Ok(false);
    }
    let reader = Arc::new(Reader::new(group.clone(), CACHE));
    for disk in &content.disks {
        let shown = || -> Result<bool> {
            let image = Image::open(reader.clone(), disk)?;
            for window in image.windows(WINDOW) {
                let window = window?;
                if window.data().any(|(_, frame, ..)| damaged.contains(&image.pack(frame.pack).name)) {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        match shown() {
            Ok(false) => {}
            Err(error) if error.kind() != Kind::Damage => return Err(error),
            _ => return Ok(true),
        }
    }
    Ok(false)
}
