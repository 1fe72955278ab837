//! The images of a group, one below the other.

use crate::Result;
use crate::vault::entry::{EntryHeader, EntryKind};
use crate::vault::numbers::Numbers;

/// The images of a group's lineage, the newest first. An entry that can't be read (`None`) is passed over: what is
/// below it in the log is taken for what is below it in the lineage.
pub(super) struct Lineage<'a, F> {
    numbers: &'a Numbers,
    at: u64,
    header: F,
}

impl<'a, F: FnMut(u64) -> Result<Option<EntryHeader>>> Lineage<'a, F> {
    pub(super) fn new(numbers: &'a Numbers, header: F) -> Result<Self> {
        let mut lineage = Self { numbers, at: 0, header };
        lineage.at = lineage.stands_for(numbers.last())?;
        Ok(lineage)
    }

    /// The image that the log up to this entry stands for.
    fn stands_for(&mut self, mut seq: u64) -> Result<u64> {
        while seq > 0 {
            match (self.header)(seq)? {
                Some(header) if header.kind == EntryKind::Claim => {
                    return Ok(self.numbers.stands_for(header.base));
                }
                Some(header) if header.kind.has_content() => return Ok(seq),
                Some(_) | None => seq = self.numbers.before(seq),
            }
        }
        Ok(0)
    }

    pub(super) fn next(&mut self) -> Result<Option<EntryHeader>> {
        while self.at > 0 {
            match (self.header)(self.at)? {
                Some(header) => {
                    self.at = self.numbers.below(&header);
                    return Ok(Some(header));
                }
                None => self.at = self.stands_for(self.numbers.before(self.at))?,
            }
        }
        Ok(None)
    }
}
