//! The bytes of the NBD protocol (doc/proto.md of the NBD project): constants, headers, error numbers. All integers
//! are big-endian. Both sides use it: the server's [`super::session`] and the small [`super::client`].

use crate::group::Errno;

/// `NBDMAGIC`: the first bytes of a server.
pub const SERVER_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: newstyle negotiation, and the start of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Starts every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Starts every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Starts every simple reply.
pub const SIMPLE_MAGIC: u32 = 0x6744_6698;
/// Starts every chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag: fixed newstyle; client flag of the same value.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag: the 124 zero bytes after an export name may be left out; client flag of the same value.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Option: enter transmission without a reply of its own.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Option: end the session.
pub const OPT_ABORT: u32 = 2;
/// Option: name the exports.
pub const OPT_LIST: u32 = 3;
/// Option: describe an export.
pub const OPT_INFO: u32 = 6;
/// Option: describe an export and enter transmission.
pub const OPT_GO: u32 = 7;
/// Option: structured replies.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// Option: name the metadata contexts.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// Option: choose metadata contexts.
pub const OPT_SET_META_CONTEXT: u32 = 10;

/// Option reply: done.
pub const REP_ACK: u32 = 1;
/// Option reply: an export's name.
pub const REP_SERVER: u32 = 2;
/// Option reply: a fact about an export.
pub const REP_INFO: u32 = 3;
/// Option reply: a metadata context.
pub const REP_META_CONTEXT: u32 = 4;
/// Option reply: the option is not known.
pub const REP_ERR_UNSUP: u32 = (1 << 31) | 1;
/// Option reply: the option's data makes no sense, or its order.
pub const REP_ERR_INVALID: u32 = (1 << 31) | 3;
/// Option reply: not without TLS.
pub const REP_ERR_TLS_REQD: u32 = (1 << 31) | 5;
/// Option reply: no such export.
pub const REP_ERR_UNKNOWN: u32 = (1 << 31) | 6;
/// Option reply: the option is too long.
pub const REP_ERR_TOO_BIG: u32 = (1 << 31) | 9;

/// Fact: size and transmission flags.
pub const INFO_EXPORT: u16 = 0;
/// Fact: the export's full name.
pub const INFO_NAME: u16 = 1;
/// Fact: a text for people.
pub const INFO_DESCRIPTION: u16 = 2;
/// Fact: smallest, preferred and largest request.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flag: always set.
pub const HAS_FLAGS: u16 = 1 << 0;
/// Transmission flag: the export can't be written.
pub const READ_ONLY: u16 = 1 << 1;
/// Transmission flag: flush works.
pub const SEND_FLUSH: u16 = 1 << 2;
/// Transmission flag: FUA works.
pub const SEND_FUA: u16 = 1 << 3;
/// Transmission flag: trim works.
pub const SEND_TRIM: u16 = 1 << 5;
/// Transmission flag: write zeroes works.
pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
/// Transmission flag: "don't fragment" works; set exactly with structured replies.
pub const SEND_DF: u16 = 1 << 7;
/// Transmission flag: a flush on one connection covers writes answered on any.
pub const CAN_MULTI_CONN: u16 = 1 << 8;

/// Command.
pub const CMD_READ: u16 = 0;
/// Command.
pub const CMD_WRITE: u16 = 1;
/// Command: disconnect, without a reply.
pub const CMD_DISC: u16 = 2;
/// Command.
pub const CMD_FLUSH: u16 = 3;
/// Command.
pub const CMD_TRIM: u16 = 4;
/// Command.
pub const CMD_WRITE_ZEROES: u16 = 6;
/// Command.
pub const CMD_BLOCK_STATUS: u16 = 7;

/// Command flag: durable before the reply.
pub const CMD_FLAG_FUA: u16 = 1 << 0;
/// Command flag of write zeroes: stay allocated.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// Command flag of read: one chunk.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// Command flag of block status: one extent.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;

/// Chunk flag: the reply's last.
pub const CHUNK_DONE: u16 = 1 << 0;
/// Chunk: nothing.
pub const CHUNK_NONE: u16 = 0;
/// Chunk: offset and data.
pub const CHUNK_OFFSET_DATA: u16 = 1;
/// Chunk: offset and length of zeros.
pub const CHUNK_OFFSET_HOLE: u16 = 2;
/// Chunk: context and extents.
pub const CHUNK_BLOCK_STATUS: u16 = 5;
/// Chunk: an error.
pub const CHUNK_ERROR: u16 = (1 << 15) | 1;
/// Chunk: an error at an offset.
pub const CHUNK_ERROR_OFFSET: u16 = (1 << 15) | 2;

/// The only metadata context.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Its id on the wire.
pub const BASE_ALLOCATION_ID: u32 = 1;
/// Extent flag: not allocated.
pub const STATE_HOLE: u32 = 1 << 0;
/// Extent flag: reads as zeros.
pub const STATE_ZERO: u32 = 1 << 1;

/// Bytes of a request without payload.
pub const REQUEST_LEN: usize = 28;
/// Bytes of a simple reply without payload.
pub const SIMPLE_LEN: usize = 16;
/// Bytes of a chunk without payload.
pub const CHUNK_LEN: usize = 20;
/// Bytes of an option without its data.
pub const OPTION_LEN: usize = 16;
/// Bytes of an option's reply without its data.
pub const OPTION_REPLY_LEN: usize = 20;
/// The longest export name in bytes; a limit of the protocol.
pub const NAME_MAX: usize = 4096;

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Command flags.
    pub flags: u16,
    /// The command.
    pub command: u16,
    /// The client's name for it.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

impl RequestHeader {
    /// Reads a header; `None` if the magic is wrong.
    #[inline]
    pub fn read(bytes: &[u8; REQUEST_LEN]) -> Option<Self> {
        (be32(bytes, 0) == REQUEST_MAGIC).then(|| Self {
            flags: be16(bytes, 4),
            command: be16(bytes, 6),
            cookie: be64(bytes, 8),
            offset: be64(bytes, 16),
            length: be32(bytes, 24),
        })
    }

    /// The bytes of a header.
    pub fn bytes(&self) -> [u8; REQUEST_LEN] {
        let mut bytes = [0; REQUEST_LEN];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

/// The bytes of a simple reply without payload.
#[inline]
pub fn simple_reply(error: u32, cookie: u64) -> [u8; SIMPLE_LEN] {
    let mut bytes = [0; SIMPLE_LEN];
    bytes[..4].copy_from_slice(&SIMPLE_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.to_be_bytes());
    bytes[8..].copy_from_slice(&cookie.to_be_bytes());
    bytes
}

/// The header of a chunk whose payload has `length` bytes.
#[inline]
pub fn chunk_header(flags: u16, kind: u16, cookie: u64, length: u32) -> [u8; CHUNK_LEN] {
    let mut bytes = [0; CHUNK_LEN];
    bytes[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&flags.to_be_bytes());
    bytes[6..8].copy_from_slice(&kind.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// The NBD error number of an errno; total. The protocol knows eight, the rest is an I/O error.
pub fn error_number(errno: Errno) -> u32 {
    match errno.0 {
        libc::EPERM | libc::EACCES | libc::EROFS => 1,
        libc::ENOMEM => 12,
        libc::EINVAL => 22,
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => 28,
        libc::EOVERFLOW => 75,
        libc::EOPNOTSUPP => 95,
        libc::ESHUTDOWN => 108,
        _ => 5,
    }
}

/// Two bytes at `at`.
///
/// # Panics
/// If they are not there, as the next two.
#[inline]
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().expect("2 bytes"))
}

/// Four bytes at `at`.
#[inline]
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

/// Eight bytes at `at`.
#[inline]
pub fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_header_is_read_back_and_a_foreign_one_refused() {
        let header =
            RequestHeader { flags: 1, command: 6, cookie: u64::MAX - 1, offset: 1 << 40, length: 77 };
        let mut bytes = header.bytes();
        assert_eq!(RequestHeader::read(&bytes), Some(header));
        bytes[0] ^= 1;
        assert_eq!(RequestHeader::read(&bytes), None);
    }

    #[test]
    fn every_errno_becomes_an_error_of_the_protocol() {
        for errno in 0..=200 {
            assert!([1, 5, 12, 22, 28, 75, 95, 108].contains(&error_number(Errno(errno))));
        }
    }
}
