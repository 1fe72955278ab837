//! The frame around every control message: a header of fixed size, then one bincode value. Pure: bytes to values
//! and back. [`super::sys::Channel`] moves frames and their descriptors over a socket.
//!
//! ```text
//! 0        4          8            12
//! | magic  | length   | descriptors | payload of `length` bytes ...
//! ```
//! All integers are little-endian. `length` is checked against the receiver's limit before anything is allocated,
//! and `descriptors` says how many descriptors travel with the frame.

use crate::codec::{self, CodecError};
use bincode::{Decode, Encode};
use std::fmt;

/// Begins every frame; the last byte is not text, so that a client of a text protocol is told apart at once.
pub const MAGIC: [u8; 4] = *b"TWC\x8e";
/// Bytes of a header.
pub const HEADER_LEN: usize = 12;
/// The largest request, in bytes without the header.
pub const REQUEST_MAX: usize = 64 << 10;
/// The largest answer, in bytes without the header: the status of [`crate::limits::DISKS_MAX`] disks with paths of
/// 4 KiB and reasons of as much again fits.
pub const ANSWER_MAX: usize = 1 << 20;
/// The most descriptors of one frame.
pub const DESCRIPTORS_MAX: usize = crate::limits::DISKS_MAX * super::message::DESCRIPTORS_PER_DISK;

const _: () = assert!(crate::limits::DISKS_MAX * 2 * 4096 < ANSWER_MAX, "a full status fits an answer");

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the payload.
    pub length: usize,
    /// Descriptors that travel with the frame.
    pub descriptors: usize,
}

/// Why bytes are not a frame.
#[derive(Debug)]
pub enum FrameError {
    /// The other side does not speak this protocol.
    Magic,
    /// The payload is over the limit.
    Length(usize),
    /// More descriptors than any message has.
    Descriptors(usize),
    /// The payload is not the expected value.
    Payload(CodecError),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("the other side does not speak towline's control protocol"),
            Self::Length(length) => write!(f, "a message of {length} bytes is over the limit"),
            Self::Descriptors(count) => write!(f, "a message with {count} descriptors is over the limit"),
            Self::Payload(_) => f.write_str("a message can't be understood"),
        }
    }
}

impl std::error::Error for FrameError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Payload(error) => Some(error),
            _ => None,
        }
    }
}

/// The frame of a value of at most `LIMIT` bytes, with which `descriptors` will travel.
///
/// # Errors
/// The value is larger than `LIMIT`: texts in it may come from elsewhere.
///
/// # Panics
/// If there are more than [`DESCRIPTORS_MAX`] descriptors: our own mistake.
pub fn encode<T: Encode, const LIMIT: usize>(value: &T, descriptors: usize) -> Result<Vec<u8>, FrameError> {
    assert!(descriptors <= DESCRIPTORS_MAX, "{descriptors} descriptors are over the limit");
    let payload = codec::encode_any(value);
    if payload.len() > LIMIT {
        return Err(FrameError::Length(payload.len()));
    }
    let mut frame = Vec::with_capacity(HEADER_LEN + payload.len());
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&u32::try_from(payload.len()).expect("limits are below 4 GiB").to_le_bytes());
    frame.extend_from_slice(&u32::try_from(descriptors).expect("checked above").to_le_bytes());
    frame.extend_from_slice(&payload);
    Ok(frame)
}

/// Reads a header and checks it against the receiver's limit.
///
/// # Errors
/// A foreign magic, a payload over `limit`, too many descriptors.
pub fn header(bytes: &[u8; HEADER_LEN], limit: usize) -> Result<Header, FrameError> {
    let (magic, rest) = bytes.split_at(4);
    let (length, descriptors) = rest.split_at(4);
    if magic != MAGIC {
        return Err(FrameError::Magic);
    }
    let length = u32::from_le_bytes(length.try_into().expect("4 bytes")) as usize;
    if length > limit {
        return Err(FrameError::Length(length));
    }
    let descriptors = u32::from_le_bytes(descriptors.try_into().expect("4 bytes")) as usize;
    if descriptors > DESCRIPTORS_MAX {
        return Err(FrameError::Descriptors(descriptors));
    }
    Ok(Header { length, descriptors })
}

/// The value in a whole payload.
///
/// # Errors
/// Anything that is not exactly one value.
pub fn payload<T: Decode<()>, const LIMIT: usize>(bytes: &[u8]) -> Result<T, FrameError> {
    codec::decode::<T, LIMIT>(bytes).map_err(FrameError::Payload)
}

#[cfg(test)]
mod tests {
    use super::super::message::{Answer, Request};
    use super::*;
    use proptest::prelude::*;

    fn split(frame: &[u8]) -> (&[u8; HEADER_LEN], &[u8]) {
        frame.split_first_chunk().expect("a frame has a header")
    }

    #[test]
    fn a_frame_is_read_back() {
        let frame = encode::<_, REQUEST_MAX>(&Request::Hello { version: 7 }, 3).unwrap();
        let (head, body) = split(&frame);
        assert_eq!(header(head, REQUEST_MAX).unwrap(), Header { length: body.len(), descriptors: 3 });
        assert_eq!(payload::<Request, REQUEST_MAX>(body).unwrap(), Request::Hello { version: 7 });
    }

    #[test]
    fn an_overlong_frame_is_refused_by_its_header() {
        let mut head = [0; HEADER_LEN];
        head[..4].copy_from_slice(&MAGIC);
        head[4..8].copy_from_slice(&(REQUEST_MAX as u32 + 1).to_le_bytes());
        assert!(matches!(header(&head, REQUEST_MAX), Err(FrameError::Length(_))));
        assert!(header(&head, ANSWER_MAX).is_ok());
        head[4..8].copy_from_slice(&0u32.to_le_bytes());
        head[8..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(header(&head, REQUEST_MAX), Err(FrameError::Descriptors(_))));
    }

    proptest! {
        /// F49: bytes from nowhere.
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some((head, body)) = bytes.split_first_chunk::<HEADER_LEN>() {
                let _ = header(head, REQUEST_MAX);
                let _ = payload::<Request, REQUEST_MAX>(body);
                let _ = payload::<Answer, ANSWER_MAX>(body);
            }
        }
    }
}
