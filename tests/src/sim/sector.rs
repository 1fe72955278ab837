//! A sector's content is a number; here it becomes bytes, for who reads and stores bytes.

use super::disk::SECTOR;

const WORDS: usize = SECTOR as usize / 8;

fn word(value: u64, at: usize) -> u64 {
    // The first half does not compress.
    let mixed = (value ^ (at as u64) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    if at == 0 || at >= WORDS / 2 { value } else { mixed ^ mixed >> 29 }
}

/// The bytes of a sector of this number; of 0 they are zeros.
pub fn fill(value: u64, sector: &mut [u8]) {
    for (at, bytes) in sector.chunks_exact_mut(8).enumerate() {
        bytes.copy_from_slice(&if value == 0 { 0 } else { word(value, at) }.to_le_bytes());
    }
}

/// The number that a sector's bytes are of; none if they are of no number: torn, or no guest's.
pub fn read(sector: &[u8]) -> Option<u64> {
    let mut words =
        sector.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8 bytes")));
    let value = words.next()?;
    let mut rest = words.enumerate();
    let whole = match value {
        0 => rest.all(|(_, found)| found == 0),
        value => rest.all(|(at, found)| found == word(value, at + 1)),
    };
    whole.then_some(value)
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
