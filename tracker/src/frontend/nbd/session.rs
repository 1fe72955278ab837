//! A client's conversation, as a pure machine: bytes in, commands and replies out. It owns no socket, reads no clock
//! and keeps no bytes of its own; what it can't use yet stays in the caller's buffer.
//!
//! Invariants:
//! - A command comes out only if it lies inside the export, is a multiple of the alignment and may be done at all
//!   (W9): what is refused is answered here and changes nothing. Its payload is skipped.
//! - The bytes that follow a [`What::Write`] are its payload: the caller takes exactly `length` of them before it
//!   calls again.
//! - Options are bounded in length and number (F47); no input makes it panic or hold memory.

use super::wire::*;
use crate::group::Errno;
use crate::limits::NBD_PAYLOAD_MAX;
use crate::mutant;
use std::sync::Arc;

/// The longest option that is looked at; longer ones are skipped and refused.
pub const OPTION_MAX: usize = 16 << 10;
/// An option longer than this ends the session: nobody means it.
const OPTION_SKIP_MAX: u32 = 1 << 20;
/// The most options of a session: a `LIST` and the facts of every disk, several times over.
const OPTIONS_MAX: u32 = 512;
/// The most bytes of replies to options that may wait unsent before the session is ended by its caller.
pub const HANDSHAKE_OUT_MAX: usize = 1 << 20;
/// What a client should use if it has the choice.
const PREFERRED_BLOCK: u32 = 4096;

const _: () = assert!(OPTION_MAX > NAME_MAX + 64, "the longest name fits an option");

/// A disk as clients see it.
#[derive(Clone, Debug)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// A text for people.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// Offsets and lengths are multiples of this; a power of two, 1 to 65536.
    pub align: u32,
    /// Writes are refused.
    pub read_only: bool,
}

/// A command that may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// The client's name for it, to be used in the reply.
    pub cookie: u64,
    /// What to do.
    pub what: What,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Read a range.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Write the payload that follows.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// Make durable what was answered.
    Flush,
    /// Deallocate a range.
    Trim {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// Make a range read as zeros.
    Zero {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
        /// The range need not stay allocated.
        may_punch: bool,
        /// Durable before the reply.
        fua: bool,
    },
    /// Say what is allocated.
    Status {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Only the first extent.
        one: bool,
    },
    /// The client leaves: everything in flight is finished, then the connection closes.
    Disconnect,
}

/// What the next bytes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// More bytes are needed.
    Starved,
    /// The session serves this export from now on. What it has written must not be sent before the export may be
    /// served (W8).
    Opened(usize),
    /// To be done and replied.
    Command(Command),
    /// The session is over, for this reason; what it has written is still to be sent.
    Closed(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waiting for the client's flags.
    Flags,
    Options,
    Transmission(usize),
    Closed(&'static str),
}

/// The conversation.
#[derive(Debug)]
pub struct Session {
    exports: Arc<[Export]>,
    phase: Phase,
    /// Bytes of the stream to be thrown away.
    skip: u64,
    options: u32,
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was chosen.
    context: Option<usize>,
}

/// A run of bytes with the same state, for a block status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub length: u32,
    /// Not allocated, reads as zeros.
    pub hole: bool,
}

impl Session {
    /// Begins a conversation: greets.
    pub fn new(exports: Arc<[Export]>, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&SERVER_MAGIC.to_be_bytes());
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
        Self {
            exports,
            phase: Phase::Flags,
            skip: 0,
            options: 0,
            no_zeroes: false,
            structured: false,
            context: None,
        }
    }

    /// Takes the next thing from the stream's bytes: how many it used, and what they mean.
    #[inline]
    pub fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Event) {
        let mut used = 0;
        loop {
            if self.skip > 0 {
                let skipped = self.skip.min((input.len() - used) as u64);
                self.skip -= skipped;
                used += usize::try_from(skipped).expect("no more than the input");
                if self.skip > 0 {
                    return (used, Event::Starved);
                }
            }
            let rest = &input[used..];
            let (took, event) = match self.phase {
                Phase::Transmission(export) => self.request(export, rest, out),
                Phase::Flags => self.flags(rest),
                Phase::Options => self.option(rest, out),
                Phase::Closed(reason) => (0, Some(Event::Closed(reason))),
            };
            used += took;
            match event {
                Some(event) => return (used, event),
                None => continue,
            }
        }
    }

    /// Replies to anything but a read or block status.
    #[inline]
    pub fn reply(&self, cookie: u64, result: Result<(), Errno>, out: &mut Vec<u8>) {
        let error = result.err().map_or(0, error_number);
        out.extend_from_slice(&simple_reply(error, cookie));
    }

    /// Begins the reply to a read that went well: exactly `length` bytes of data must follow.
    #[inline]
    pub fn reply_data(&self, cookie: u64, offset: u64, length: u32, out: &mut Vec<u8>) {
        if self.structured {
            out.extend_from_slice(&chunk_header(CHUNK_DONE, CHUNK_OFFSET_DATA, cookie, length + 8));
            out.extend_from_slice(&offset.to_be_bytes());
        } else {
            out.extend_from_slice(&simple_reply(0, cookie));
        }
    }

    /// Replies to a read or block status that failed.
    pub fn reply_failed(&self, cookie: u64, errno: Errno, out: &mut Vec<u8>) {
        if self.structured {
            out.extend_from_slice(&chunk_header(CHUNK_DONE, CHUNK_ERROR, cookie, 6));
            out.extend_from_slice(&error_number(errno).to_be_bytes());
            out.extend_from_slice(&0u16.to_be_bytes());
        } else {
            out.extend_from_slice(&simple_reply(error_number(errno), cookie));
        }
    }

    /// Replies to a block status. `extents` are at least one and follow each other from the asked offset.
    pub fn reply_status(&self, cookie: u64, extents: &[Extent], out: &mut Vec<u8>) {
        let length = u32::try_from(4 + 8 * extents.len()).expect("extents are bounded");
        out.extend_from_slice(&chunk_header(CHUNK_DONE, CHUNK_BLOCK_STATUS, cookie, length));
        out.extend_from_slice(&BASE_ALLOCATION_ID.to_be_bytes());
        for extent in extents {
            out.extend_from_slice(&extent.length.to_be_bytes());
            let state = if extent.hole { STATE_HOLE | STATE_ZERO } else { 0 };
            out.extend_from_slice(&state.to_be_bytes());
        }
    }

    fn close(&mut self, reason: &'static str) -> Option<Event> {
        self.phase = Phase::Closed(reason);
        Some(Event::Closed(reason))
    }

    fn flags(&mut self, input: &[u8]) -> (usize, Option<Event>) {
        if input.len() < 4 {
            return (0, Some(Event::Starved));
        }
        let flags = be32(input, 0);
        let known = u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
        if flags & !known != 0 {
            return (4, self.close("the client set flags that nobody knows"));
        }
        self.no_zeroes = flags & u32::from(FLAG_NO_ZEROES) != 0;
        self.phase = Phase::Options;
        (4, None)
    }

    fn option(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Option<Event>) {
        if input.len() < OPTION_LEN {
            return (0, Some(Event::Starved));
        }
        if be64(input, 0) != OPTION_MAGIC {
            return (OPTION_LEN, self.close("an option has a wrong magic"));
        }
        let option = be32(input, 8);
        let length = be32(input, 12);
        if length > OPTION_SKIP_MAX || (option == OPT_EXPORT_NAME && length as usize > NAME_MAX) {
            return (OPTION_LEN, self.close("an option is far too long"));
        }
        if length as usize <= OPTION_MAX && input.len() < OPTION_LEN + length as usize {
            return (0, Some(Event::Starved));
        }
        self.options += 1;
        if self.options > OPTIONS_MAX {
            return (OPTION_LEN, self.close("the client sends options without end"));
        }
        if length as usize > OPTION_MAX {
            self.skip = u64::from(length);
            option_reply(option, REP_ERR_TOO_BIG, &[], out);
            return (OPTION_LEN, None);
        }
        let used = OPTION_LEN + length as usize;
        let data = &input[OPTION_LEN..used];
        let event = match option {
            OPT_EXPORT_NAME => self.export_name(data, out),
            OPT_ABORT => {
                option_reply(option, REP_ACK, &[], out);
                self.close("the client gave up the negotiation")
            }
            OPT_LIST => self.list(data, out),
            OPT_INFO | OPT_GO => self.info(option, data, out),
            OPT_STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                option_reply(option, REP_ACK, &[], out);
                None
            }
            OPT_STRUCTURED_REPLY => invalid(option, out),
            OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT => self.meta_context(option, data, out),
            _ => {
                option_reply(option, REP_ERR_UNSUP, &[], out);
                None
            }
        };
        (used, event)
    }

    /// The place of the export of this name; the empty name is the first.
    fn find(&self, name: &[u8]) -> Option<usize> {
        if name.is_empty() {
            return (!self.exports.is_empty()).then_some(0);
        }
        self.exports.iter().position(|export| export.name.as_bytes() == name)
    }

    fn transmission_flags(&self, export: usize) -> u16 {
        let mut flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | CAN_MULTI_CONN;
        flags |= if self.exports[export].read_only { READ_ONLY } else { SEND_TRIM | SEND_WRITE_ZEROES };
        if self.structured {
            flags |= SEND_DF;
        }
        flags
    }

    fn open(&mut self, export: usize) -> Option<Event> {
        if self.context != Some(export) {
            self.context = None;
        }
        self.phase = Phase::Transmission(export);
        Some(Event::Opened(export))
    }

    fn export_name(&mut self, name: &[u8], out: &mut Vec<u8>) -> Option<Event> {
        let Some(export) = self.find(name) else {
            return self.close("the client asked for an export that is not here");
        };
        out.extend_from_slice(&self.exports[export].size.to_be_bytes());
        out.extend_from_slice(&self.transmission_flags(export).to_be_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; 124]);
        }
        self.open(export)
    }

    fn list(&mut self, data: &[u8], out: &mut Vec<u8>) -> Option<Event> {
        if !data.is_empty() {
            return invalid(OPT_LIST, out);
        }
        for export in self.exports.iter() {
            let mut entry = Vec::with_capacity(4 + export.name.len());
            entry.extend_from_slice(&(export.name.len() as u32).to_be_bytes());
            entry.extend_from_slice(export.name.as_bytes());
            option_reply(OPT_LIST, REP_SERVER, &entry, out);
        }
        option_reply(OPT_LIST, REP_ACK, &[], out);
        None
    }

    fn info(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Option<Event> {
        let Some((name, rest)) = take_text(data) else {
            return invalid(option, out);
        };
        if rest.len() < 2 || rest.len() != 2 + 2 * usize::from(be16(rest, 0)) {
            return invalid(option, out);
        }
        let Some(place) = self.find(name) else {
            option_reply(option, REP_ERR_UNKNOWN, &[], out);
            return None;
        };
        let export = &self.exports[place];
        let mut fact = Vec::with_capacity(14);
        fact.extend_from_slice(&INFO_EXPORT.to_be_bytes());
        fact.extend_from_slice(&export.size.to_be_bytes());
        fact.extend_from_slice(&self.transmission_flags(place).to_be_bytes());
        option_reply(option, REP_INFO, &fact, out);
        // Sent whether asked for or not: a client that listens knows then, and others lose nothing.
        fact.clear();
        fact.extend_from_slice(&INFO_BLOCK_SIZE.to_be_bytes());
        fact.extend_from_slice(&export.align.to_be_bytes());
        fact.extend_from_slice(&PREFERRED_BLOCK.max(export.align).to_be_bytes());
        fact.extend_from_slice(&NBD_PAYLOAD_MAX.to_be_bytes());
        option_reply(option, REP_INFO, &fact, out);
        for (kind, text) in [(INFO_NAME, &export.name), (INFO_DESCRIPTION, &export.description)] {
            if rest[2..].chunks_exact(2).any(|asked| be16(asked, 0) == kind) {
                fact.clear();
                fact.extend_from_slice(&kind.to_be_bytes());
                fact.extend_from_slice(text.as_bytes());
                option_reply(option, REP_INFO, &fact, out);
            }
        }
        option_reply(option, REP_ACK, &[], out);
        if option == OPT_GO { self.open(place) } else { None }
    }

    fn meta_context(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Option<Event> {
        let set = option == OPT_SET_META_CONTEXT;
        if set {
            self.context = None;
        }
        let Some((name, rest)) = take_text(data) else {
            return invalid(option, out);
        };
        if rest.len() < 4 || (set && !self.structured) {
            return invalid(option, out);
        }
        let (queries, mut rest) = (be32(rest, 0), &rest[4..]);
        // Without queries a list names everything.
        let mut wanted = queries == 0 && !set;
        for _ in 0..queries {
            let Some((query, after)) = take_text(rest) else {
                return invalid(option, out);
            };
            wanted |= query == BASE_ALLOCATION.as_bytes() || (!set && query == b"base:");
            rest = after;
        }
        if !rest.is_empty() {
            return invalid(option, out);
        }
        let Some(export) = self.find(name) else {
            option_reply(option, REP_ERR_UNKNOWN, &[], out);
            return None;
        };
        if wanted {
            // A list has no ids.
            let id = if set { BASE_ALLOCATION_ID } else { 0 };
            let mut entry = id.to_be_bytes().to_vec();
            entry.extend_from_slice(BASE_ALLOCATION.as_bytes());
            option_reply(option, REP_META_CONTEXT, &entry, out);
            if set {
                self.context = Some(export);
            }
        }
        option_reply(option, REP_ACK, &[], out);
        None
    }

    #[inline]
    fn request(&mut self, export: usize, input: &[u8], out: &mut Vec<u8>) -> (usize, Option<Event>) {
        let Some(bytes) = input.first_chunk() else {
            return (0, Some(Event::Starved));
        };
        let Some(header) = RequestHeader::read(bytes) else {
            return (REQUEST_LEN, self.close("a request has a wrong magic"));
        };
        match self.check(export, &header) {
            Ok(what) => {
                if what == What::Disconnect {
                    self.phase = Phase::Closed("the client disconnected");
                }
                (REQUEST_LEN, Some(Event::Command(Command { cookie: header.cookie, what })))
            }
            Err(errno) => {
                match header.command {
                    CMD_READ | CMD_BLOCK_STATUS => self.reply_failed(header.cookie, errno, out),
                    _ => self.reply(header.cookie, Err(errno), out),
                }
                if header.command == CMD_WRITE {
                    self.skip = u64::from(header.length);
                }
                (REQUEST_LEN, None)
            }
        }
    }

    /// The command in a header, if it may be done.
    #[inline]
    fn check(&self, export: usize, header: &RequestHeader) -> Result<What, Errno> {
        let export = &self.exports[export];
        let RequestHeader { flags, command, offset, length, .. } = *header;
        let allowed = match command {
            CMD_READ => CMD_FLAG_FUA | if self.structured { CMD_FLAG_DF } else { 0 },
            CMD_WRITE_ZEROES => CMD_FLAG_FUA | CMD_FLAG_NO_HOLE,
            CMD_BLOCK_STATUS => CMD_FLAG_FUA | CMD_FLAG_REQ_ONE,
            _ => CMD_FLAG_FUA,
        };
        let fua = flags & CMD_FLAG_FUA != 0;
        match command {
            CMD_DISC => return Ok(What::Disconnect),
            _ if flags & !allowed != 0 => return Err(Errno(libc::EINVAL)),
            CMD_FLUSH => return Ok(What::Flush),
            CMD_READ | CMD_WRITE | CMD_TRIM | CMD_WRITE_ZEROES | CMD_BLOCK_STATUS => {}
            _ => return Err(Errno(libc::EINVAL)),
        }
        let changes = matches!(command, CMD_WRITE | CMD_TRIM | CMD_WRITE_ZEROES);
        if changes && export.read_only {
            return Err(Errno(libc::EPERM));
        }
        let mask = u64::from(export.align) - 1;
        // Mutant: zeros go as far as whole units go.
        let rounds = command == CMD_WRITE_ZEROES && mutant::active("unaligned-rounded-down");
        let length = if rounds { length & !(mask as u32) } else { length };
        if length == 0 || (offset | u64::from(length)) & mask != 0 {
            return Err(Errno(libc::EINVAL)); // W9
        }
        if offset.checked_add(u64::from(length)).is_none_or(|end| end > export.size) {
            let full = matches!(command, CMD_WRITE | CMD_WRITE_ZEROES);
            return Err(Errno(if full { libc::ENOSPC } else { libc::EINVAL }));
        }
        if matches!(command, CMD_READ | CMD_WRITE) && length > NBD_PAYLOAD_MAX {
            return Err(Errno(libc::EINVAL));
        }
        Ok(match command {
            CMD_READ => What::Read { offset, length },
            CMD_WRITE => What::Write { offset, length, fua },
            CMD_TRIM => What::Trim { offset, length, fua },
            CMD_WRITE_ZEROES => What::Zero { offset, length, may_punch: flags & CMD_FLAG_NO_HOLE == 0, fua },
            _ if self.context.is_none() => return Err(Errno(libc::EINVAL)),
            _ => What::Status { offset, length, one: flags & CMD_FLAG_REQ_ONE != 0 },
        })
    }
}

/// A text after its length, and what follows.
fn take_text(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = be32(data.first_chunk::<4>()?, 0) as usize;
    data[4..].split_at_checked(length)
}

fn option_reply(option: u32, kind: u32, data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

fn invalid(option: u32, out: &mut Vec<u8>) -> Option<Event> {
    option_reply(option, REP_ERR_INVALID, &[], out);
    None
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
