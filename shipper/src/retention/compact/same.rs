//! Whether two indexes say the same: the same blocks, zeros where the other has zeros, data with the same hashes elsewhere.

use crate::Result;
use crate::vault::access::{Index, Reader};
use crate::vault::entry::IndexRef;
use crate::vault::frame::BlockHash;
use crate::vault::index::Page;
use std::sync::Arc;

/// Compares the index that is read where `listed` is listed with `to`, both as they are in the store.
///
/// # Errors
/// `Damage`, the store's.
pub(super) fn same(reader: &Reader, listed: &IndexRef, to: &IndexRef) -> Result<bool> {
    let (before, after) = (reader.open_index(listed)?, reader.open(listed, to)?);
    if before.directory.head != after.directory.head {
        return Ok(false);
    }
    let (mut before, mut after) = (Runs::of(reader, &before), Runs::of(reader, &after));
    loop {
        let (a, b) = match (before.peek()?, after.peek()?) {
            (Some(a), Some(b)) => (a, b),
            (a, b) => return Ok(a.is_none() && b.is_none()),
        };
        let count = a.count.min(b.count);
        let hashes = |run: &Run| {
            run.hashes.as_ref().map(|(page, first)| {
                page.hashes[*first..*first + usize::try_from(count).expect("a data run is short")].to_vec()
            })
        };
        let (of_a, of_b): (Option<Vec<BlockHash>>, _) = (hashes(&a), hashes(&b));
        if a.block != b.block || of_a != of_b {
            return Ok(false);
        }
        before.skip(count);
        after.skip(count);
    }
}

/// The rest of a run of blocks.
#[derive(Clone)]
struct Run {
    block: u64,
    count: u64,
    /// The page, and the first of the hashes in it; `None`: zeros.
    hashes: Option<(Arc<Page>, usize)>,
}

/// The runs of an index, one after another.
struct Runs<'a> {
    reader: &'a Reader,
    index: &'a Index,
    page: Option<Arc<Page>>,
    pages: usize,
    run: usize,
    /// Blocks of the run that were compared.
    done: u64,
}

impl<'a> Runs<'a> {
    fn of(reader: &'a Reader, index: &'a Index) -> Self {
        Self { reader, index, page: None, pages: 0, run: 0, done: 0 }
    }

    fn peek(&mut self) -> Result<Option<Run>> {
        loop {
            let Some(page) = &self.page else {
                if self.pages == self.index.directory.pages.len() {
                    return Ok(None);
                }
                self.page = Some(self.reader.page(self.index, self.pages)?);
                (self.pages, self.run, self.done) = (self.pages + 1, 0, 0);
                continue;
            };
            let Some(run) = page.runs.get(self.run) else {
                self.page = None;
                continue;
            };
            let count = u64::from(run.count) - self.done;
            if count == 0 {
                (self.run, self.done) = (self.run + 1, 0);
                continue;
            }
            let first = run.hash as usize + usize::try_from(self.done).unwrap_or(usize::MAX);
            let hashes = run.frame.map(|_| (page.clone(), first));
            return Ok(Some(Run { block: run.block + self.done, count, hashes }));
        }
    }

    fn skip(&mut self, count: u64) {
        self.done += count;
    }
}
