//! Where every field of every hand-written structure lies. `format.md` is the byte table for people; a test parses
//! it and compares it with these constants, so there is one truth. A structure has no gaps: checked at compile time.

use std::ops::Range;

/// One structure: its name in `format.md`, its length and its fields.
#[derive(Debug)]
pub struct Structure {
    /// The heading in `format.md`.
    pub name: &'static str,
    /// Its length in bytes.
    pub length: usize,
    /// Name, first byte, number of bytes.
    pub fields: &'static [(&'static str, usize, usize)],
}

macro_rules! structures {
    ($($(#[$doc:meta])* $module:ident $title:literal $length:literal { $($field:ident $offset:literal $bytes:literal)+ })+) => {
        $(
            $(#[$doc])*
            pub mod $module {
                use super::{Range, Structure, contiguous};
                /// The structure's length in bytes.
                pub const LENGTH: usize = $length;
                $(
                    /// The bytes of this field.
                    pub const $field: Range<usize> = $offset..$offset + $bytes;
                )+
                /// The structure as a value.
                pub const STRUCTURE: Structure =
                    Structure { name: $title, length: $length, fields: &[$((stringify!($field), $offset, $bytes)),+] };
                const _: () = assert!(contiguous(&STRUCTURE));
            }
        )+
        /// Every structure, in the order of `format.md`.
        pub const ALL: &[Structure] = &[$($module::STRUCTURE),+];
    };
}

const fn contiguous(structure: &Structure) -> bool {
    let (mut at, mut i) = (0, 0);
    while i < structure.fields.len() {
        if structure.fields[i].1 != at {
            return false;
        }
        at += structure.fields[i].2;
        i += 1;
    }
    at == structure.length
}

structures! {
    /// In front of every object.
    object "object header" 64 {
        MAGIC 0 8
        VERSION 8 2
        SUITE 10 2
        KIND 12 2
        RESERVED 14 2
        SALT 16 32
        TAG 48 16
    }
    /// The body of `vault`.
    descriptor "descriptor" 96 {
        FORMAT 0 4
        SUITE 4 2
        RESERVED 6 2
        REQUIRED 8 8
        OPTIONAL 16 8
        VAULT 24 16
        CREATED 40 8
        COMMITMENT 48 32
        RESERVED2 80 16
    }
    /// The first section of an entry.
    entry "entry header" 144 {
        SEQ 0 8
        PREVIOUS 8 32
        EPOCH 40 8
        CUT 48 16
        KIND 64 2
        RESERVED 66 6
        TIME 72 8
        BASE 80 8
        ATTACHED 88 8
        PAYLOAD 96 8
        PAYLOAD_HASH 104 32
        RESERVED2 136 8
    }
    /// In front of a frame's data.
    frame "frame header" 8 {
        CODEC 0 1
        RESERVED 1 3
        RAW 4 4
    }
    /// The beginning of a pack's footer.
    footer "pack footer" 32 {
        DISK 0 16
        FRAMES 16 4
        RUNS 20 4
        BLOCK_SHIFT 24 1
        RESERVED 25 7
    }
    /// A frame in a pack's footer.
    footer_frame "footer frame" 24 {
        OFFSET 0 8
        SEALED 8 4
        RUNS 12 4
        BLOCKS 16 4
        RESERVED 20 4
    }
    /// A run of blocks in a pack's footer.
    footer_run "footer run" 16 {
        BLOCK 0 8
        COUNT 8 4
        RESERVED 12 4
    }
    /// The end of a pack and of an index.
    trailer "trailer" 32 {
        OFFSET 0 8
        SEALED 8 8
        TOTAL 16 8
        RESERVED 24 8
    }
    /// The beginning of an index page.
    page "index page" 16 {
        FRAMES 0 4
        RUNS 4 4
        HASHES 8 4
        RESERVED 12 4
    }
    /// A frame in an index page.
    page_frame "page frame" 24 {
        PACK 0 4
        NUMBER 4 4
        OFFSET 8 8
        SEALED 16 4
        BLOCKS 20 4
    }
    /// A run of blocks in an index page.
    page_run "page run" 16 {
        BLOCK 0 8
        COUNT 8 4
        FRAME 12 2
        SLOT 14 2
    }
    /// The beginning of an index's directory.
    directory "index directory" 64 {
        DISK 0 16
        SIZE 16 8
        BLOCK_SHIFT 24 1
        LEVEL 25 1
        RESERVED 26 6
        PAGES 32 4
        PACKS 36 4
        DATA_BLOCKS 40 8
        ZERO_BLOCKS 48 8
        RESERVED2 56 8
    }
    /// A page in an index's directory.
    directory_page "directory page" 64 {
        FIRST 0 8
        END 8 8
        OFFSET 16 8
        SEALED 24 4
        RUNS 28 4
        HASH 32 32
    }
    /// A pack in an index's directory.
    directory_pack "directory pack" 96 {
        NAME 0 16
        CUT 16 16
        EPOCH 32 8
        ENTRY 40 8
        OFFSET 48 8
        TOTAL 56 8
        SALT 64 32
    }
}

/// The little-endian integer in a field of up to eight bytes.
pub fn get(bytes: &[u8], field: Range<usize>) -> u64 {
    bytes[field].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Stores a little-endian integer in a field of up to eight bytes.
///
/// # Panics
/// If the value does not fit: our own mistake.
pub fn set(bytes: &mut [u8], field: Range<usize>, value: u64) {
    let width = field.len();
    assert!(width >= 8 || value >> (8 * width) == 0, "{value} does not fit {width} bytes");
    bytes[field].copy_from_slice(&value.to_le_bytes()[..width]);
}

/// The bytes of a field as an array.
pub fn array<const N: usize>(bytes: &[u8], field: Range<usize>) -> [u8; N] {
    bytes[field].try_into().expect("the field has N bytes")
}

/// Whether a reserved field is zero, as it must be.
pub fn is_zero(bytes: &[u8], field: Range<usize>) -> bool {
    bytes[field].iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the byte tables that people read are the ones that the code uses. Method: parse `format.md`.
    #[test]
    fn the_byte_tables_are_true() {
        let text = include_str!("format.md");
        let mut found = Vec::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let Some((name, length)) = line.strip_prefix("### ").and_then(|line| line.split_once(" ("))
            else {
                continue;
            };
            let Some(length) = length.strip_suffix(" bytes)") else { continue };
            let mut fields = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                let cells: Vec<_> = line.split('|').map(str::trim).collect();
                if let [_, offset, bytes, name, ..] = cells[..]
                    && let (Ok(offset), Ok(bytes)) = (offset.parse::<usize>(), bytes.parse::<usize>())
                {
                    fields.push((name.to_uppercase().replace(' ', "_"), offset, bytes));
                }
            }
            found.push((name.to_owned(), length.parse::<usize>().unwrap(), fields));
        }
        let expected: Vec<_> = ALL
            .iter()
            .map(|structure| {
                let fields =
                    structure.fields.iter().map(|(name, at, bytes)| ((*name).to_owned(), *at, *bytes));
                (structure.name.to_owned(), structure.length, fields.collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(found, expected);
    }
}
