//! Control messages and their frames. A payload that is accepted is framed again as the same bytes; a header that is
//! accepted is within its limit.

use super::{Input, told};
use towline_tracker::control::frame::{
    ANSWER_MAX, DESCRIPTORS_MAX, HEADER_LEN, Header, MAGIC, REQUEST_MAX, encode, header, payload,
};
use towline_tracker::control::message::{Answer, Request};

/// Two types, one claim; the encoding's traits are the tracker's own matter.
macro_rules! message {
    ($type:ty, $limit:expr, $bytes:expr) => {
        if let Some(value) = told(payload::<$type, { $limit }>($bytes)) {
            let frame = encode::<_, { $limit }>(&value, 0).expect("what was read fits");
            let (head, body) = frame.split_first_chunk().expect("a frame has a header");
            let length = body.len();
            assert_eq!(header(head, $limit).expect("our own"), Header { length, descriptors: 0 });
            assert_eq!(body, $bytes, "{value:?}");
        }
    };
}

/// Reads made-up messages.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() % 3 {
        0 => {
            let bytes = input.rest();
            message!(Request, REQUEST_MAX, bytes);
        }
        1 => {
            let bytes = input.rest();
            message!(Answer, ANSWER_MAX, bytes);
        }
        _ => {
            let limit = if input.bool() { REQUEST_MAX } else { ANSWER_MAX };
            let mut bytes: [u8; HEADER_LEN] = input.array();
            if input.bool() {
                bytes[..4].copy_from_slice(&MAGIC);
            }
            if let Some(Header { length, descriptors }) = told(header(&bytes, limit)) {
                assert!(length <= limit && descriptors <= DESCRIPTORS_MAX);
                assert_eq!(bytes[4..8], (length as u32).to_le_bytes());
                assert_eq!(bytes[8..], (descriptors as u32).to_le_bytes());
            }
        }
    }
}
