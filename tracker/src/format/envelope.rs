//! The envelope of small files whose body is bincode: who it is, which version, how long, and a checksum.

use super::bytes::{Writer, u16_at, u32_at, u64_at};
use super::checksum::checksum;

/// Bytes before the body.
pub const HEADER: usize = 32;
/// The most bytes of a body.
pub const BODY_MAX: usize = 64 << 10;

/// Why a file can't be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadFile {
    /// It is something else.
    Magic,
    /// It is damaged.
    Damaged,
    /// A newer program wrote it.
    Newer(u16),
}

impl std::fmt::Display for BadFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Magic => f.write_str("the file is none of Towline's"),
            Self::Damaged => f.write_str("the file is damaged"),
            Self::Newer(version) => {
                write!(f, "the file has format version {version}, newer than this program")
            }
        }
    }
}

impl std::error::Error for BadFile {}

/// Wraps a body.
pub fn wrap(magic: [u8; 8], version: u16, body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= BODY_MAX);
    let mut writer = Writer::default();
    writer.put(&magic).u16(version).pad(12).u32(body.len() as u32).pad(24);
    let sum = checksum(checksum(0, &writer.0), body);
    writer.u64(sum).put(body);
    writer.0
}

/// The body of a file.
///
/// # Errors
/// Another magic, a newer version, or damage.
pub fn unwrap(magic: [u8; 8], version: u16, file: &[u8]) -> Result<&[u8], BadFile> {
    if file.len() < HEADER || file[..8] != magic {
        return Err(BadFile::Magic);
    }
    let body = &file[HEADER..];
    if checksum(checksum(0, &file[..24]), body) != u64_at(file, 24) || u32_at(file, 12) as usize != body.len()
    {
        return Err(BadFile::Damaged);
    }
    match u16_at(file, 8) {
        found if found != version => Err(BadFile::Newer(found)),
        _ if file[10..12].iter().chain(&file[16..24]).any(|byte| *byte != 0) => Err(BadFile::Damaged),
        _ => Ok(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A later version may use what is reserved now, if it says so by its number only.
    #[test]
    fn what_is_reserved_must_be_zero() {
        let file = wrap(*b"TESTFILE", 1, b"body");
        assert_eq!(unwrap(*b"TESTFILE", 1, &file), Ok(&b"body"[..]));
        for at in (10..12).chain(16..24) {
            let mut other = file.clone();
            other[at] = 1;
            let sum = checksum(checksum(0, &other[..24]), b"body");
            other[24..32].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(unwrap(*b"TESTFILE", 1, &other), Err(BadFile::Damaged), "byte {at}");
            other[8] = 2;
            let sum = checksum(checksum(0, &other[..24]), b"body");
            other[24..32].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(unwrap(*b"TESTFILE", 1, &other), Err(BadFile::Newer(2)));
        }
    }
}
