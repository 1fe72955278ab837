//! Packs: frames one after another, then a footer that says what they hold (V5). One pack holds blocks of one disk.

use super::cycle::Maker;
use super::envelope::{
    self, HEADER, ObjectKind, Opener, POSITION_TABLE, POSITION_TRAILER, Seal, Sealer, TAG,
};
use super::frame::{self, BlockHash, EncodedFrame};
use super::layout::{self, array, footer, footer_frame, footer_run, trailer};
use super::limits::{
    BLOCK_SHIFT_MAX, BLOCK_SHIFT_MIN, FOOTER_MAX, FRAME_BLOCKS_MAX, FRAME_SEALED_MAX, PACK_FRAMES_MAX,
};
use super::names::{self, ObjectName};
use crate::{Error, Result};
use towline_tracker::id::{CutId, DiskId};
use towline_tracker::mutant;

/// The sealed trailer's length: the last bytes of a pack or index.
pub const TRAILER: usize = trailer::LENGTH + TAG;

/// A frame in a finished pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedFrame {
    /// Where its sealed bytes begin in the pack.
    pub offset: u64,
    /// How many they are.
    pub sealed: u32,
    /// Its blocks, ascending.
    pub blocks: Vec<u64>,
    /// Their hashes.
    pub hashes: Vec<BlockHash>,
}

/// What an index must know of a finished pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackSummary {
    /// Its own name.
    pub name: ObjectName,
    /// The writer epoch in its full name.
    pub epoch: u64,
    /// The cut in its full name.
    pub cut: CutId,
    /// Its length in bytes.
    pub length: u64,
    /// Its salt.
    pub salt: [u8; 32],
    /// Its offset in the entry that holds it and the index; 0: an object of its own.
    pub offset: u64,
    /// Its frames, by number.
    pub frames: Vec<PackedFrame>,
}

/// A pack with all its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedPack {
    /// The full name to put it under.
    pub object: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// For the index.
    pub summary: PackSummary,
}

/// Builds one pack.
pub struct PackBuilder {
    disk: DiskId,
    block_shift: u8,
    sealer: Sealer,
    object: String,
    bytes: Vec<u8>,
    summary: PackSummary,
}

impl PackBuilder {
    /// An empty pack for blocks of `disk`. It is built in `buffer`, whose
    /// contents go: one of an earlier pack spares the kernel handing out its pages again.
    pub fn new(maker: &Maker, disk: DiskId, block_shift: u8, buffer: Vec<u8>) -> Self {
        let Maker { seal, epoch, cut } = maker;
        let (epoch, cut) = (*epoch, *cut);
        let name = ObjectName::draw(seal.draw);
        let object = names::pack(seal.group, epoch, cut, name);
        let sealer = seal.sealer(ObjectKind::Pack, &object);
        let summary =
            PackSummary { name, epoch, cut, length: 0, salt: sealer.salt(), offset: 0, frames: Vec::new() };
        let mut bytes = buffer;
        bytes.clear();
        bytes.extend_from_slice(sealer.header());
        Self { disk, block_shift, sealer, object, bytes, summary }
    }

    /// Seals a frame into the next place.
    pub fn push(&mut self, frame: EncodedFrame) {
        assert!(self.summary.frames.len() < PACK_FRAMES_MAX, "the pack is full");
        let offset = self.bytes.len();
        self.sealer.seal(self.summary.frames.len() as u64, frame.body(), &mut self.bytes);
        self.summary.frames.push(PackedFrame {
            // Mutant: counted from where the frames begin, not from where the pack does.
            offset: (offset - if mutant::active("frame-offset-from-first") { HEADER } else { 0 }) as u64,
            sealed: u32::try_from(self.bytes.len() - offset).expect("a frame is small"),
            blocks: frame.blocks().to_vec(),
            hashes: frame.hashes().to_vec(),
        });
    }

    /// The first block in it.
    pub fn first(&self) -> Option<u64> {
        self.summary.frames.first().and_then(|frame| frame.blocks.first()).copied()
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// No frame is in it yet.
    pub fn is_empty(&self) -> bool {
        self.summary.frames.is_empty()
    }

    /// It holds `size` bytes or as many frames as a pack may.
    pub fn is_full(&self, size: usize) -> bool {
        self.bytes.len() >= size || self.summary.frames.len() >= PACK_FRAMES_MAX
    }

    /// Closes the pack.
    pub fn finish(mut self) -> FinishedPack {
        let table = encode_footer(self.disk, self.block_shift, &self.summary.frames);
        close(&self.sealer, &table, &mut self.bytes);
        self.summary.length = self.bytes.len() as u64;
        FinishedPack { object: self.object, bytes: self.bytes, summary: self.summary }
    }
}

/// Appends a table and the trailer that says where it is.
pub(super) fn close(sealer: &Sealer, table: &[u8], bytes: &mut Vec<u8>) {
    let offset = bytes.len();
    sealer.seal(POSITION_TABLE, table, bytes);
    let mut end = [0; trailer::LENGTH];
    layout::set(&mut end, trailer::OFFSET, offset as u64);
    layout::set(&mut end, trailer::SEALED, (bytes.len() - offset) as u64);
    layout::set(&mut end, trailer::TOTAL, (bytes.len() + TRAILER) as u64);
    sealer.seal(POSITION_TRAILER, &end, bytes);
}

/// Where an object's table is, from its last [`TRAILER`] bytes; `length` is the object's.
pub(super) fn open_trailer(opener: &Opener, tail: &[u8], length: u64, limit: usize) -> Result<(u64, usize)> {
    let mut section = tail.to_vec();
    let end = &*opener.open(POSITION_TRAILER, &mut section)?;
    let offset = layout::get(end, trailer::OFFSET);
    let sealed = layout::get(end, trailer::SEALED);
    let sound = end.len() == trailer::LENGTH
        && layout::is_zero(end, trailer::RESERVED)
        && layout::get(end, trailer::TOTAL) == length
        && sealed <= limit as u64
        && offset >= HEADER as u64
        && offset.checked_add(sealed + TRAILER as u64) == Some(length);
    if !sound {
        return Err(Error::damage(opener.name(), "its end contradicts its length"));
    }
    Ok((offset, usize::try_from(sealed).expect("checked against the limit")))
}

fn encode_footer(disk: DiskId, block_shift: u8, frames: &[PackedFrame]) -> Vec<u8> {
    let mut bytes = vec![0; footer::LENGTH];
    let mut runs = Vec::new();
    for frame in frames {
        let before = runs.len();
        for run in frame.blocks.chunk_by(|a, b| a + 1 == *b) {
            let mut record = [0; footer_run::LENGTH];
            layout::set(&mut record, footer_run::BLOCK, run[0]);
            layout::set(&mut record, footer_run::COUNT, run.len() as u64);
            runs.push(record);
        }
        let mut record = [0; footer_frame::LENGTH];
        layout::set(&mut record, footer_frame::OFFSET, frame.offset);
        layout::set(&mut record, footer_frame::SEALED, frame.sealed.into());
        layout::set(&mut record, footer_frame::RUNS, (runs.len() - before) as u64);
        layout::set(&mut record, footer_frame::BLOCKS, frame.blocks.len() as u64);
        bytes.extend_from_slice(&record);
    }
    bytes[footer::DISK].copy_from_slice(&disk.0);
    layout::set(&mut bytes, footer::FRAMES, frames.len() as u64);
    layout::set(&mut bytes, footer::RUNS, runs.len() as u64);
    layout::set(&mut bytes, footer::BLOCK_SHIFT, block_shift.into());
    runs.iter().for_each(|run| bytes.extend_from_slice(run));
    bytes
}

/// A frame as a pack's footer tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FooterFrame {
    /// Where its sealed bytes begin.
    pub offset: u64,
    /// How many they are.
    pub sealed: u32,
    /// Its blocks, ascending.
    pub blocks: Vec<u64>,
}

/// Where a pack's footer is, from the pack's last [`TRAILER`] bytes.
///
/// # Errors
/// `Damage`.
pub fn locate_footer(opener: &Opener, tail: &[u8], length: u64) -> Result<(u64, usize)> {
    open_trailer(opener, tail, length, FOOTER_MAX)
}

/// The frames of a pack, by number, from its sealed footer.
///
/// # Errors
/// `Damage`.
pub fn open_footer(opener: &Opener, sealed: &mut [u8]) -> Result<Vec<FooterFrame>> {
    let (_, _, frames) = decode_footer(opener.open(POSITION_TABLE, sealed)?)
        .map_err(|what| Error::damage(opener.name(), what))?;
    Ok(frames)
}

/// A pack that was read whole.
pub struct PackReader {
    name: String,
    opener: Opener,
    bytes: Vec<u8>,
    /// Whose blocks it holds.
    pub disk: DiskId,
    /// log2 of the block size.
    pub block_shift: u8,
    /// Its frames, by number.
    pub frames: Vec<FooterFrame>,
}

impl PackReader {
    /// Opens a whole pack of this full name and checks its header, footer and trailer: the frames fill it without a gap.
    ///
    /// # Errors
    /// `Damage`, `NewerVault`.
    pub fn open(seal: &Seal, name: &str, bytes: Vec<u8>) -> Result<Self> {
        let opener = seal.opener(ObjectKind::Pack, name, &bytes)?;
        let Some(end) = bytes.len().checked_sub(TRAILER).filter(|end| *end >= HEADER) else {
            return Err(Error::damage(name, "it ends too early"));
        };
        let (offset, sealed) = open_trailer(&opener, &bytes[end..], bytes.len() as u64, FOOTER_MAX)?;
        let start = usize::try_from(offset).expect("inside the object");
        let mut section = bytes[start..start + sealed].to_vec();
        let (disk, block_shift, frames) = decode_footer(opener.open(POSITION_TABLE, &mut section)?)
            .map_err(|what| Error::damage(name, what))?;
        let mut at = HEADER as u64;
        for frame in &frames {
            if frame.offset != at {
                return Err(Error::damage(name, "its frames don't fill it"));
            }
            at += u64::from(frame.sealed);
        }
        if at != offset {
            return Err(Error::damage(name, "its frames don't fill it"));
        }
        Ok(Self { name: name.to_owned(), opener, bytes, disk, block_shift, frames })
    }

    /// The data of a frame, checked against its seal.
    ///
    /// # Errors
    /// `Damage`.
    pub fn frame(&self, number: usize) -> Result<Vec<u8>> {
        let frame = &self.frames[number];
        let start = usize::try_from(frame.offset).expect("inside the object");
        let mut sealed = self.bytes[start..start + frame.sealed as usize].to_vec();
        open_frame(&self.opener, number as u64, &mut sealed, frame.blocks.len(), self.block_shift)
    }

    /// Its full name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The data of a frame from its sealed bytes.
///
/// # Errors
/// `Damage`.
pub fn open_frame(
    opener: &Opener,
    number: u64,
    sealed: &mut [u8],
    blocks: usize,
    block_shift: u8,
) -> Result<Vec<u8>> {
    let body = opener.open(number, sealed)?;
    frame::decode(opener.name(), body, blocks, block_shift)
}

type Footer = (DiskId, u8, Vec<FooterFrame>);

fn decode_footer(bytes: &[u8]) -> std::result::Result<Footer, &'static str> {
    if bytes.len() < footer::LENGTH || !layout::is_zero(bytes, footer::RESERVED) {
        return Err("its footer has another form");
    }
    let count = |field| usize::try_from(layout::get(bytes, field)).expect("four bytes");
    let (frames, runs) = (count(footer::FRAMES), count(footer::RUNS));
    let block_shift = bytes[footer::BLOCK_SHIFT.start];
    if frames > PACK_FRAMES_MAX
        || runs > frames * FRAME_BLOCKS_MAX
        || !(BLOCK_SHIFT_MIN..=BLOCK_SHIFT_MAX).contains(&block_shift)
        || bytes.len() != footer::LENGTH + frames * footer_frame::LENGTH + runs * footer_run::LENGTH
    {
        return Err("its footer has another length");
    }
    let (head, run_bytes) = bytes.split_at(footer::LENGTH + frames * footer_frame::LENGTH);
    let mut runs = run_bytes.chunks_exact(footer_run::LENGTH);
    let mut found = Vec::with_capacity(frames);
    for record in head[footer::LENGTH..].chunks_exact(footer_frame::LENGTH) {
        let mut blocks = Vec::new();
        for _ in 0..layout::get(record, footer_frame::RUNS) {
            let run = runs.next().ok_or("its footer lists too few runs")?;
            let (block, count) = (layout::get(run, footer_run::BLOCK), layout::get(run, footer_run::COUNT));
            let ascending = blocks.last().is_none_or(|last| *last < block);
            let bounded = blocks.len() as u64 + count <= frame::blocks_per_frame(block_shift) as u64;
            if count == 0 || !ascending || !bounded || block.checked_add(count).is_none() {
                return Err("its footer lists impossible runs");
            }
            if !layout::is_zero(run, footer_run::RESERVED) {
                return Err("its footer has another form");
            }
            blocks.extend(block..block + count);
        }
        let sealed = layout::get(record, footer_frame::SEALED);
        if blocks.len() as u64 != layout::get(record, footer_frame::BLOCKS)
            || blocks.is_empty()
            || sealed > FRAME_SEALED_MAX as u64
            || !layout::is_zero(record, footer_frame::RESERVED)
        {
            return Err("its footer contradicts itself");
        }
        found.push(FooterFrame {
            offset: layout::get(record, footer_frame::OFFSET),
            sealed: u32::try_from(sealed).expect("checked"),
            blocks,
        });
    }
    if runs.next().is_some() {
        return Err("its footer lists too many runs");
    }
    Ok((DiskId(array(bytes, footer::DISK)), block_shift, found))
}

const _: () = assert!(envelope::HEADER == 64 && TRAILER == 48);

#[cfg(test)]
mod tests {
    use super::super::frame::BlockHasher;
    use super::super::frame::builder::FrameBuilder;
    use super::super::names::GroupId;
    use super::*;
    use towline_tracker::id::VaultId;

    fn pack() -> (Seal, FinishedPack) {
        let seal = Seal::unkeyed(VaultId([1; 16]), GroupId([2; 16]));
        let mut builder = PackBuilder::new(
            &Maker { seal: seal.clone(), epoch: 5, cut: CutId([3; 16]) },
            DiskId([4; 16]),
            12,
            vec![9; 3],
        );
        let mut frames = FrameBuilder::new(BlockHasher::unkeyed(seal.vault), 12).unwrap();
        for block in [1u64, 2, 3, 9, 10, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 40] {
            frames.push(block, &[block as u8; 4096]).into_iter().for_each(|frame| builder.push(frame));
        }
        builder.push(frames.finish().unwrap());
        (seal, builder.finish())
    }

    #[test]
    fn a_pack_reads_back() {
        let (seal, pack) = pack();
        let reader = PackReader::open(&seal, &pack.object, pack.bytes.clone()).unwrap();
        assert_eq!((reader.disk, reader.block_shift, reader.frames.len()), (DiskId([4; 16]), 12, 2));
        for (number, frame) in reader.frames.iter().enumerate() {
            assert_eq!(frame.blocks, pack.summary.frames[number].blocks);
            let data = reader.frame(number).unwrap();
            for (block, bytes) in frame.blocks.iter().zip(data.chunks(4096)) {
                assert!(bytes.iter().all(|byte| *byte == *block as u8));
            }
        }
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_found() {
        let (seal, pack) = pack();
        let sound = |bytes: Vec<u8>| -> Result<()> {
            let reader = PackReader::open(&seal, &pack.object, bytes)?;
            (0..reader.frames.len()).try_for_each(|number| reader.frame(number).map(|_| ()))
        };
        assert!(sound(pack.bytes.clone()).is_ok());
        for bit in 0..pack.bytes.len() * 8 {
            let mut bytes = pack.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(sound(bytes).is_err(), "bit {bit}");
        }
        for length in 0..pack.bytes.len() {
            assert!(sound(pack.bytes[..length].to_vec()).is_err(), "length {length}");
        }
    }

    proptest::proptest! {
        /// Goal: a pack that somebody made, with good seals, never panics a reader. Method: change the footer's body.
        #[test]
        fn made_up_footers_are_refused_or_sound(
            changes in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), 0u8..), 1..4),
        ) {
            let (_, pack) = pack();
            let mut body = encode_footer(DiskId([4; 16]), 12, &pack.summary.frames);
            for (at, value) in &changes {
                let at = at.index(body.len());
                body[at] = *value;
            }
            if let Ok((_, shift, frames)) = decode_footer(&body) {
                let most = frame::blocks_per_frame(shift);
                proptest::prop_assert!(frames.iter().all(|frame| (1..=most).contains(&frame.blocks.len())));
            }
        }
    }
}
