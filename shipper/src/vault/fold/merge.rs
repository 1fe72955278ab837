//! Several indexes laid one over the other, run by run in block order: what one index says that stands for them all.
//!
//! Over whatever is below, and under whatever is above, it must read as they do (V6). So it has the size of the newest;
//! and where one of them was for a smaller disk, nothing that is below shows any more: what none of them says behind that
//! end is zeros, and must be said. Over nothing no zeros need to be said at all.
//!
//! Bounded: a window ends where so many pages have begun, however far apart their blocks are. Pages that newer indexes cover
//! are not read: one may be damaged, and was shipped again for that.

use crate::Result;
use crate::vault::frame::BlockHash;
use crate::vault::image::Image;
use crate::vault::index::{IndexHead, PackRef, Page, PageFrame};
use std::ops::Range;
use std::sync::Arc;
use towline_tracker::mutant;

/// Pages that begin in a window, at the most, and so the least that is read in a step.
const PAGES: usize = 16;

/// A run of blocks.
pub(super) enum Run<'a> {
    /// That are zeros.
    Zeros(Range<u64>),
    /// With data, in this frame (its pack by number in the image), from this slot on.
    Data { block: u64, pack: &'a PackRef, frame: PageFrame, slot: u16, hashes: &'a [BlockHash] },
}

/// What one of the indexes has at some blocks, nothing newer being there.
struct Piece {
    block: u64,
    count: u64,
    /// Page of the window, frame, slot, first hash; `None`: zeros.
    place: Option<(usize, PageFrame, u16, usize)>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.block + self.count
    }
}

/// A walk over the indexes of a part of a list.
pub(super) struct Merge {
    image: Image,
    /// Everything before this block is told.
    at: u64,
    /// Before this block, what is below shows where nothing is said.
    shown: u64,
    /// Nothing is below.
    bottom: bool,
    /// Zeros that are not told yet: more may follow.
    zeros: Range<u64>,
}

impl Merge {
    /// Over an image of these indexes, at least one.
    pub(super) fn new(mut image: Image, bottom: bool) -> Self {
        let newest = image.layers().last().expect("at least one").index.directory.head;
        image.clip(newest.size);
        // Mutant: what is below shows again when the disk has grown again.
        let shown = match mutant::active("fold-not-clipped") {
            true => image.blocks(),
            false => image.layers()[0].end,
        };
        // Mutant: zeros are as good as nothing.
        let bottom = bottom || mutant::active("fold-loses-zeros");
        Self { image, at: 0, shown, bottom, zeros: 0..0 }
    }

    /// What stands for them all is about this disk, at this level.
    pub(super) fn head(&self, level: u8) -> IndexHead {
        IndexHead { level, ..self.image.layers().last().expect("at least one").index.directory.head }
    }

    /// All is told.
    pub(super) fn is_over(&self) -> bool {
        self.at >= self.image.blocks()
    }

    /// Tells the runs of the next window.
    ///
    /// # Errors
    /// `Damage`, the store's; then nothing was told, and it can be tried again.
    pub(super) fn step(&mut self, tell: &mut dyn FnMut(Run<'_>)) -> Result<()> {
        let window = self.at..self.window_end();
        let (pieces, pages) = self.pieces(&window)?;
        let mut at = window.start;
        for piece in &pieces {
            self.unsaid(at..piece.block, tell);
            at = piece.end();
            let Some((page, frame, slot, hash)) = piece.place else {
                self.zeros(piece.block..at, tell);
                continue;
            };
            self.flush(tell);
            let count = usize::try_from(piece.count).expect("a data run is short");
            let (pack, hashes) = (self.image.pack(frame.pack), &pages[page].hashes[hash..hash + count]);
            tell(Run::Data { block: piece.block, pack, frame, slot, hashes });
        }
        self.unsaid(at..window.end, tell);
        self.at = window.end;
        if self.is_over() {
            self.flush(tell);
        }
        Ok(())
    }

    fn window_end(&self) -> u64 {
        let mut starts = Vec::new();
        for layer in self.image.layers() {
            let pages = &layer.index.directory.pages;
            let from = pages.partition_point(|page| page.first <= self.at);
            let first = pages[from..].iter().take(PAGES).map(|page| page.first);
            starts.extend(first.take_while(|first| *first < layer.end));
        }
        match starts.len() > PAGES {
            true => self.image.blocks().min(*starts.select_nth_unstable(PAGES).1),
            false => self.image.blocks(),
        }
    }

    /// What the newest index that says anything says of the window's blocks, in order, and the pages that it stands in.
    fn pieces(&self, window: &Range<u64>) -> Result<(Vec<Piece>, Vec<Arc<Page>>)> {
        let (mut found, mut pages) = (Vec::<Piece>::new(), Vec::new());
        for layer in self.image.layers().iter().rev() {
            let stop = layer.end.min(window.end);
            let refs = &layer.index.directory.pages;
            let from = refs.partition_point(|page| page.end <= window.start);
            let mut fresh = Vec::new();
            for (number, page) in refs.iter().enumerate().skip(from).take_while(|(_, page)| page.first < stop)
            {
                if covers(&found, page.first.max(window.start)..page.end.min(stop)) {
                    continue;
                }
                let page = self.image.reader().page(&layer.index, number)?;
                let begin = page.runs.partition_point(|run| run.block + u64::from(run.count) <= window.start);
                for run in page.runs[begin..].iter().take_while(|run| run.block < stop) {
                    let part = run.block.max(window.start)..(run.block + u64::from(run.count)).min(stop);
                    holes(&found, part, |hole| {
                        let into = || u32::try_from(hole.start - run.block).expect("a data run is short");
                        let place = run.frame.map(|frame| {
                            let frame = page.frames[usize::from(frame)];
                            let frame = PageFrame { pack: layer.first_pack + frame.pack, ..frame };
                            let slot = run.slot + u16::try_from(into()).expect("a data run is short");
                            (pages.len(), frame, slot, (run.hash + into()) as usize)
                        });
                        fresh.push(Piece { block: hole.start, count: hole.end - hole.start, place });
                    });
                }
                pages.push(page);
            }
            found.append(&mut fresh);
            found.sort_by_key(|piece| piece.block);
        }
        Ok((found, pages))
    }

    /// None of the indexes says anything of these blocks.
    fn unsaid(&mut self, blocks: Range<u64>, tell: &mut dyn FnMut(Run<'_>)) {
        self.zeros(blocks.start.max(self.shown)..blocks.end, tell);
    }

    fn zeros(&mut self, blocks: Range<u64>, tell: &mut dyn FnMut(Run<'_>)) {
        if blocks.is_empty() || self.bottom {
            return;
        }
        if self.zeros.end != blocks.start {
            self.flush(tell);
            self.zeros.start = blocks.start;
        }
        self.zeros.end = blocks.end;
    }

    fn flush(&mut self, tell: &mut dyn FnMut(Run<'_>)) {
        let zeros = std::mem::replace(&mut self.zeros, 0..0);
        if !zeros.is_empty() {
            tell(Run::Zeros(zeros));
        }
    }
}

/// Calls for each part of `blocks` that no piece has.
fn holes(pieces: &[Piece], blocks: Range<u64>, mut call: impl FnMut(Range<u64>)) {
    let mut at = blocks.start;
    let first = pieces.partition_point(|piece| piece.end() <= at);
    for piece in pieces[first..].iter().take_while(|piece| piece.block < blocks.end) {
        if at < piece.block {
            call(at..piece.block);
        }
        at = piece.end();
    }
    if at < blocks.end {
        call(at..blocks.end);
    }
}

fn covers(pieces: &[Piece], blocks: Range<u64>) -> bool {
    let mut covers = true;
    holes(pieces, blocks, |_| covers = false);
    covers
}
