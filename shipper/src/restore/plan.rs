//! What to fetch for a window, in pack order, without I/O.

use crate::vault::frame::BlockHash;
use crate::vault::image::{Found, FrameRef, Window};

/// Frames that lie so near one another are fetched in one request, what is between them included,
const GAP: u64 = 64 << 10;
/// as long as it is at most one in so many bytes of what is needed: however much of a pack was overwritten, a restore reads little
/// more than the frames of its image (V12).
const SPARE: u64 = 16;
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
        let (mut end, mut between) = (first.offset, 0);
        while let Some((frame, slot, block, hash)) = self.peek() {
            let after = frame.offset + u64::from(frame.sealed);
            match fetch.frames.last_mut() {
                Some(last) if last.frame == frame => last.blocks.push((slot, block, hash)),
                Some(_)
                    if frame.pack != fetch.pack
                        || !is_near(frame.offset.saturating_sub(end), between, after - fetch.offset)
                        || after - fetch.offset > REQUEST =>
                {
                    break;
                }
                _ => {
                    between += frame.offset.saturating_sub(end);
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

/// Whether a request of `length` bytes, of which so many lie between its frames, may have one more gap.
fn is_near(gap: u64, between: u64, length: u64) -> bool {
    gap <= GAP && (between + gap) * (SPARE + 1) <= length
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::access::Reader;
    use crate::vault::image::Image;
    use crate::vault::sample::{Change, World, simple};
    use std::sync::Arc;

    /// Goal: what is dead between frames is hardly fetched. Method: frames of which each second, or each twentieth, is overwritten.
    #[test]
    fn little_is_fetched_beside_the_frames_that_are_needed() {
        for each in [2u64, 20] {
            let mut world = World::new();
            (world.attached_max, world.pack_size) = (0, 8 << 20);
            let disk = |changes: Vec<(u64, Change)>| {
                let [_, other] = simple([]);
                [(640 * 4096, changes.into_iter().collect()), other]
            };
            // Large ones beside each other, or small ones in between.
            let dead = |block: &u64| (block / 16) % each == 1;
            let first = |block| match dead(&block) && each == 20 {
                true => (block, Change::Text(1)),
                false => (block, Change::Noise(block)),
            };
            world.cycle(&disk((0..640).map(first).collect()));
            let over = (0..640).filter(dead);
            world.cycle(&disk(over.map(|block| (block, Change::Noise(1 << 20 | block))).collect()));
            let entry = world.group.entry_at(world.group.head(0).unwrap()).unwrap();
            let reader = Arc::new(Reader::new(world.group.clone(), 1 << 20));
            let image = Image::open(reader, &entry.content().unwrap().disks[0]).unwrap();
            let window = image.window(0, 640).unwrap();
            let fetches: Vec<_> = Plan::new(&window).collect();
            let sealed =
                |fetch: &Fetch| fetch.frames.iter().map(|needed| u64::from(needed.frame.sealed)).sum::<u64>();
            let (needed, fetched): (u64, u64) =
                fetches.iter().fold((0, 0), |(n, f), fetch| (n + sealed(fetch), f + fetch.length as u64));
            assert!(fetched >= needed && fetched <= needed + needed / SPARE, "{fetched} for {needed}");
            let frames: usize = fetches.iter().map(|fetch| fetch.frames.len()).sum();
            assert_eq!(frames, 40, "each once");
            assert!(fetches.len() < 40 || each == 2, "{} requests", fetches.len());
        }
    }
}
