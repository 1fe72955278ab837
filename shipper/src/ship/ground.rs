//! What a freeze's indexes are laid over: as much of the base as can be used.
//!
//! An image that can't be opened is no image. Readers open every index that a point lists (V4), so laid over a lost one
//! no later point could be restored: the disk counts as never shipped, which only a whole freeze completes, and nothing
//! of the old list stands in the new one.

use super::plan;
use crate::Result;
use crate::pipeline::{Below, ImageBelow, NothingBelow};
use crate::source::SourceDisk;
use crate::vault::Group;
use crate::vault::attach::Base;
use crate::vault::entry::{Content, EntryRef};

/// A base, and how the disks of a freeze are compared with it.
pub(super) struct Ground {
    base: Option<Base>,
    compare: Vec<bool>,
    images: Option<ImageBelow>,
}

impl Ground {
    /// Opens the images that are compared, with pages cached up to `cache` bytes. With `distrust` the base has none;
    /// `resync_at` as for [`plan::compare`].
    ///
    /// # Errors
    /// The store's. Damage is no error: the image that has it is forgotten.
    pub(super) fn new(
        group: &Group,
        mut base: Option<Base>,
        disks: &[SourceDisk],
        distrust: bool,
        resync_at: u8,
        cache: u64,
    ) -> Result<Self> {
        if let Some(base) = base.as_mut().filter(|_| distrust) {
            disks.iter().for_each(|disk| base.content.forget(disk.id));
        }
        let mut compare = plan::compare(disks, base.as_ref().map(|base| &base.content), resync_at);
        let mut images = None;
        if let Some(base) = base.as_mut().filter(|_| compare.contains(&true)) {
            let opened = ImageBelow::open(group, &base.content, disks, &compare, cache)?;
            for (place, disk) in disks.iter().enumerate().filter(|(place, _)| !opened.has(*place)) {
                if std::mem::take(&mut compare[place]) {
                    base.content.forget(disk.id);
                }
            }
            images = Some(opened);
        }
        Ok(Self { base, compare, images })
    }

    /// The images that the new indexes are laid over.
    pub(super) fn content(&self) -> Option<&Content> {
        self.base.as_ref().map(|base| &base.content)
    }

    /// The entry that has them.
    pub(super) fn reference(&self) -> Option<EntryRef> {
        self.base.as_ref().map(Base::reference)
    }

    /// For each disk, whether its blocks are compared.
    pub(super) fn compare(&self) -> &[bool] {
        &self.compare
    }

    /// What they are compared with.
    pub(super) fn below(&self) -> &dyn Below {
        self.images.as_ref().map_or(&NothingBelow, |images| images)
    }

    /// Whether a part of an image could not be compared with: what else it held is lost too.
    pub(super) fn met_damage(&self) -> bool {
        self.images.as_ref().is_some_and(ImageBelow::met_damage)
    }

    /// The base, without the images that can't be used.
    pub(super) fn into_base(self) -> Option<Base> {
        self.base
    }
}
