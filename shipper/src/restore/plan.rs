//! What to fetch for a window, in pack order, without I/O.

use crate::vault::frame::BlockHash;
use crate::vault::image::{Found, FrameRef, Window};

/// Frames that lie so near one another are fetched in one request, what is between them included.
const GAP: u64 = 64 << 10;
/// The most that one request fetches, unless a single frame is larger.
const REQUEST: u64 = 2 << 20;

/// One request: a range of a pack with the frames in it that are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Which pack of the image.
    pub pack: u32,
    /// Where the range begins in the pack.
    pub offset: u64,
    /// How long it is.
    pub length: usize,
    /// The frames, by offset.
    pub frames: Vec<NeededFrame>,
}

/// A frame and what of it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeededFrame {
    /// The frame.
    pub frame: FrameRef,
    /// Place in the frame, block, hash; by place.
    pub blocks: Vec<(u16, u64, BlockHash)>,
}

/// The requests for all data of a window, by pack and offset.
pub struct Plan<'a> {
    window: &'a Window,
    /// Blocks with data, in the order in which they lie in packs.
    order: Vec<u32>,
    at: usize,
}

impl<'a> Plan<'a> {
    /// Sorts the window's blocks: four bytes each.
    pub fn new(window: &'a Window) -> Self {
        Self::without(window, &[])
    }

    /// As [`Self::new`], without the blocks of the window of which `has` says that they are there already.
    pub fn without(window: &'a Window, has: &[bool]) -> Self {
        let first = window.first();
        let mut order: Vec<u32> = window
            .data()
            .map(|(block, ..)| u32::try_from(block - first).expect("a window is small"))
            .filter(|at| !has.get(*at as usize).is_some_and(|has| *has))
            .collect();
        let key = |at: &u32| {
            let Found::Data { frame, slot, .. } = window.get(first + u64::from(*at)) else { unreachable!() };
            (frame.pack, frame.offset, slot)
        };
        order.sort_unstable_by_key(key);
        Self { window, order, at: 0 }
    }

    fn peek(&self) -> Option<(FrameRef, u16, u64, BlockHash)> {
        let block = self.window.first() + u64::from(*self.order.get(self.at)?);
        match self.window.get(block) {
            Found::Data { frame, slot, hash } => Some((*frame, slot, block, *hash)),
            Found::Zero => None,
        }
    }
}

impl Iterator for Plan<'_> {
    type Item = Fetch;

    fn next(&mut self) -> Option<Fetch> {
        let (first, ..) = self.peek()?;
        let mut fetch = Fetch { pack: first.pack, offset: first.offset, length: 0, frames: Vec::new() };
        let mut end = first.offset;
        while let Some((frame, slot, block, hash)) = self.peek() {
            let after = frame.offset + u64::from(frame.sealed);
            match fetch.frames.last_mut() {
                Some(last) if last.frame == frame => last.blocks.push((slot, block, hash)),
                Some(_)
                    if frame.pack != fetch.pack
                        || frame.offset.saturating_sub(end) > GAP
                        || after - fetch.offset > REQUEST =>
                {
                    break;
                }
                _ => {
                    end = end.max(after);
                    fetch.frames.push(NeededFrame { frame, blocks: vec![(slot, block, hash)] });
                }
            }
            self.at += 1;
        }
        fetch.length = usize::try_from(end - fetch.offset).expect("a request is small");
        Some(fetch)
    }
}
