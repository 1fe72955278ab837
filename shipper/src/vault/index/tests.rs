//! Indexes as they are built and as somebody may make them up.

use super::super::cycle::Maker;
use super::super::envelope::{ObjectKind, Seal, TAG};
use super::super::frame::BlockHasher;
use super::super::frame::builder::FrameBuilder;
use super::super::names::GroupId;
use super::super::pack::PackBuilder;
use super::*;
use proptest::prelude::*;
use towline_tracker::id::VaultId;

const SEAL: Seal = Seal::unkeyed(VaultId([1; 16]), GroupId([2; 16]));
const CUT: CutId = CutId([3; 16]);
const DISK: DiskId = DiskId([4; 16]);

fn index(blocks: impl Iterator<Item = u64>, size: u64) -> FinishedIndex {
    let mut pack = PackBuilder::new(&Maker { seal: SEAL, epoch: 5, cut: CUT }, DISK, 12, Vec::new());
    let mut frames = FrameBuilder::new(BlockHasher::unkeyed(SEAL.vault), 12).unwrap();
    blocks.for_each(|block| frames.push(block, &[7; 4096]).into_iter().for_each(|frame| pack.push(frame)));
    frames.finish().into_iter().for_each(|frame| pack.push(frame));
    let mut builder = IndexBuilder::new(IndexHead { disk: DISK, size, block_shift: 12, level: 0 });
    builder.add_pack(pack.finish().summary);
    builder.add_zeros((size >> 12) - 10, 7);
    builder.finish(&Maker { seal: SEAL, epoch: 5, cut: CUT })
}

fn open(index: &FinishedIndex) -> (Opener, Directory) {
    let opener = SEAL.opener(ObjectKind::Index, &index.object, &index.bytes).unwrap();
    let (tail, length) = (&index.bytes[index.bytes.len() - TRAILER..], index.bytes.len() as u64);
    let (offset, sealed) = locate_directory(&opener, tail, length).unwrap();
    let start = usize::try_from(offset).unwrap();
    let mut section = index.bytes[start..start + sealed].to_vec();
    let directory = open_directory(&opener, &mut section, offset, &index.reference).unwrap();
    (opener, directory)
}

#[test]
fn pages_are_bounded_and_metadata_stays_small() {
    // Every third block: the worst for an index, each block a run of its own.
    let index = index((0..30_000).map(|n| n * 3), 90_010 << 12);
    let (opener, directory) = open(&index);
    assert!(
        directory.pages.len() > 10
            && directory.pages.iter().all(|page| page.sealed as usize <= PAGE_SEALED_MAX)
    );
    let mut blocks = Vec::new();
    for (number, page) in directory.pages.iter().enumerate() {
        let start = usize::try_from(page.offset).unwrap();
        let mut sealed = index.bytes[start..start + page.sealed as usize].to_vec();
        let page = open_page(&opener, &directory, number, &mut sealed).unwrap();
        blocks.extend(page.runs.iter().filter(|run| run.frame.is_some()).map(|run| run.block));
    }
    assert!(blocks.iter().copied().eq((0..30_000).map(|n| n * 3)));
    // 50 bytes for a block of 4096 at random: 1.2 %.
    assert!(index.bytes.len() < 30_000 * 51, "{}", index.bytes.len());
    assert_eq!((directory.data_blocks, directory.zero_blocks), (30_000, 7));
}

proptest! {
    /// Goal: an index that somebody made, with good seals, never panics a reader. Method: change the bodies and
    /// decode them without their seals.
    #[test]
    fn made_up_directories_and_pages_are_refused_or_sound(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let index = index((0..40).map(|n| n * 2), 1 << 20);
        let (_, directory) = open(&index);
        let end = index.bytes.len() - TRAILER - TAG;
        let page_end = HEADER + directory.pages[0].sealed as usize - TAG;
        let offset = (page_end + TAG) as u64;
        for (from, to) in [(page_end + TAG, end), (HEADER, page_end)] {
            let mut body = index.bytes[from..to].to_vec();
            for (at, value) in &changes {
                let at = at.index(body.len());
                body[at] = *value;
            }
            if cut {
                body.truncate(length.index(body.len()));
            }
            if from == HEADER {
                if let Ok(page) = decode_page(&body, &directory, &directory.pages[0]) {
                    let data: u32 = page.runs.iter().filter(|run| run.frame.is_some()).map(|run| run.count).sum();
                    prop_assert_eq!(data as usize, page.hashes.len());
                }
            } else {
                let _ = decode_directory(&body, offset, &index.reference);
            }
        }
    }
}
