//! A sector's content is a number; here it becomes bytes, for who reads and stores bytes.

use super::disk::SECTOR;

const WORDS: usize = SECTOR as usize / 8;

/// The bytes of a sector of this number; of 0 they are zeros.
pub fn fill(value: u64, sector: &mut [u8]) {
    let mut words = [value; WORDS];
    if value != 0 {
        // The first half does not compress.
        for (word, at) in words[1..WORDS / 2].iter_mut().zip(1..) {
            let mixed = (value ^ at << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            *word = mixed ^ mixed >> 29;
        }
    }
    for (bytes, word) in sector.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
}

/// The number that a sector's bytes are of; none if they are of no number: torn, or no guest's.
pub fn read(sector: &[u8]) -> Option<u64> {
    let value = u64::from_le_bytes(*sector.first_chunk()?);
    let mut whole = [0; SECTOR as usize];
    fill(value, &mut whole);
    (whole == sector).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_is_its_number_and_nothing_else_is() {
        for value in [0, 1, 77, 1 << 41] {
            let mut sector = [1; SECTOR as usize];
            fill(value, &mut sector);
            assert_eq!(read(&sector), Some(value));
            for at in [0, 9, 300, 511] {
                let mut other = sector;
                other[at] ^= 1;
                assert_eq!(read(&other), None, "{value} {at}");
            }
        }
    }
}
