//! The only place that names bincode (unmaintained since RUSTSEC-2025-0141, a fixed choice of the project).
//!
//! Every decoding has a byte limit and must consume its input to the last byte. Types that pass through here have
//! no recursion, no vectors of zero-sized elements and no `usize`. Files wrap the bytes in a checksummed envelope
//! (`format::envelope`), messages in a length-limited frame (`control::frame`); long-lived layouts of records are
//! written by hand and never come here.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};

/// Why bytes are not a value.
#[derive(Debug)]
pub struct CodecError(String);

impl std::fmt::Display for CodecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CodecError {}

fn config<const LIMIT: usize>() -> Configuration<LittleEndian, Fixint, Limit<LIMIT>> {
    bincode::config::standard().with_fixed_int_encoding().with_limit::<LIMIT>()
}

/// The bytes of a value: little-endian, integers of fixed width.
///
/// # Panics
/// If the value is larger than `LIMIT`: our own mistake, never foreign data.
pub fn encode<T: Encode, const LIMIT: usize>(value: &T) -> Vec<u8> {
    let bytes = encode_any(value);
    assert!(bytes.len() <= LIMIT, "a value of {} bytes is over its limit of {LIMIT}", bytes.len());
    bytes
}

/// [`encode`] for who checks the size.
pub fn encode_any<T: Encode>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, config::<{ usize::MAX }>()).expect("our own values encode")
}

/// The value in `bytes`, which must hold nothing else and need at most `LIMIT` bytes.
///
/// # Errors
/// Any malformed, over-long or trailing input.
pub fn decode<T: Decode<()>, const LIMIT: usize>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > LIMIT {
        return Err(CodecError(format!("{} bytes are over the limit of {LIMIT}", bytes.len())));
    }
    let (value, used) = bincode::decode_from_slice(bytes, config::<LIMIT>())
        .map_err(|error| CodecError(error.to_string()))?;
    if used != bytes.len() {
        return Err(CodecError(format!("{} bytes follow the value", bytes.len() - used)));
    }
    Ok(value)
}
