//! Blocks that say who wrote them: every byte of a block follows from the number of its write and its place, so that
//! a block of two writes, of another place or of nobody is told from a whole one.

/// Bytes of a stamped block; also the trackers' default block.
pub const BLOCK: usize = 4096;

/// The number of a write: never zero, so that no stamp is a block of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WriteId(pub u64);

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Only zeros.
    Zeros,
    /// All of it was written by this write.
    Stamp(WriteId),
    /// A mixture, or nothing of ours.
    Foreign,
}

/// Fills a block with the stamp of a write for its place.
///
/// # Panics
/// If the write has number zero, or the block another size.
pub fn fill(bytes: &mut [u8], id: WriteId, disk: usize, block: u64) {
    assert!(id.0 != 0 && bytes.len() == BLOCK);
    let mut state = seed(id, disk, block);
    bytes[..8].copy_from_slice(&id.0.to_le_bytes());
    for word in bytes[8..].chunks_exact_mut(8) {
        state = next(state);
        word.copy_from_slice(&state.to_le_bytes());
    }
}

/// Reads a block's stamp, and checks every byte of it.
///
/// # Panics
/// If the block has another size.
pub fn read(bytes: &[u8], disk: usize, block: u64) -> Content {
    assert_eq!(bytes.len(), BLOCK);
    let first = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    if first == 0 {
        return if bytes.iter().all(|&byte| byte == 0) { Content::Zeros } else { Content::Foreign };
    }
    let id = WriteId(first);
    let mut state = seed(id, disk, block);
    for word in bytes[8..].chunks_exact(8) {
        state = next(state);
        if word != state.to_le_bytes() {
            return Content::Foreign;
        }
    }
    Content::Stamp(id)
}

fn seed(id: WriteId, disk: usize, block: u64) -> u64 {
    let mixed = id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ block.wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed ^ (disk as u64 + 1).rotate_left(48)) | 1
}

/// Xorshift: fast, and not compressible.
pub(crate) fn next(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ (state << 17)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_only_where_it_was_written_and_whole() {
        let mut block = vec![0; BLOCK];
        assert_eq!(read(&block, 0, 7), Content::Zeros);
        fill(&mut block, WriteId(5), 0, 7);
        assert_eq!(read(&block, 0, 7), Content::Stamp(WriteId(5)));
        assert_eq!([read(&block, 1, 7), read(&block, 0, 8)], [Content::Foreign; 2]);
        let mut other = vec![0; BLOCK];
        fill(&mut other, WriteId(6), 0, 7);
        for sector in 0..8 {
            let mut torn = block.clone();
            torn[sector * 512..][..512].copy_from_slice(&other[sector * 512..][..512]);
            assert_eq!(read(&torn, 0, 7), Content::Foreign, "sector {sector}");
        }
        block[..8].fill(0);
        assert_eq!(read(&block, 0, 7), Content::Foreign);
    }
}
