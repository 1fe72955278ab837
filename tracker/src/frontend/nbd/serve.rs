//! One client's connection as the event loop sees it: memory for what comes and goes, and the conversation between.
//!
//! Small writes are taken from the receive buffer, where many requests arrive with one call; a large write is received
//! straight into memory of its own. Replies gather in a batch that is sent when the loop has served everything that
//! was there. A client that sends faster than its requests are served, or does not take its replies, is no longer
//! read from: what one connection holds is bounded.

use super::session::{Command, Event, Export, Extent, HANDSHAKE_OUT_MAX, Session, What};
use super::wire::REQUEST_LEN;
use crate::group::Errno;
use crate::id::{DiskIndex, Nanos};
use crate::io::buffer::{Buffer, Pool};
use crate::io::outgoing::Outgoing;
use crate::io::uring::{File, Ring};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the receive buffer: more than a unix socket holds. Only what is used is ever touched.
const INPUT_LEN: usize = 256 << 10;
/// A write of this many bytes gets memory of its own.
const LARGE: u32 = 64 << 10;
/// A receive wants at least this much room in the receive buffer, or makes room.
const ROOM_MIN: usize = 128 << 10;
/// The most requests of one connection in flight.
pub const REQUESTS_MAX: usize = 128;
/// The most bytes of one connection's requests in flight: a request may exceed it alone.
const BYTES_MAX: u64 = 64 << 20;
/// The most bytes of replies that may wait while the client takes the ones before: a reply may exceed it alone.
const BATCH_MAX: usize = 1 << 20;
/// How long a client may negotiate (F47).
pub const HANDSHAKE: Duration = Duration::from_secs(10);

const _: () = assert!(INPUT_LEN >= ROOM_MIN + LARGE as usize + REQUEST_LEN, "a small write fits");
const _: () = assert!(INPUT_LEN >= ROOM_MIN + 2 * super::session::OPTION_MAX, "an option fits");

/// Where the bytes of a write are.
#[derive(Debug)]
pub enum Payload {
    /// In the connection's receive buffer ([`Connection::payload`]), until it is served again.
    Here(Range<usize>),
    /// In memory of their own, from its first byte.
    Own(Buffer),
}

/// What the loop has to do next for a connection.
#[derive(Debug)]
pub enum Next {
    /// Nothing: more bytes are needed, or others must be done with first.
    Nothing,
    /// It serves this disk from now on.
    Opened(DiskIndex),
    /// Anything without payload.
    Command(Command),
    /// A write with its payload.
    Write(Command, Payload),
    /// The session is over; what is in flight is finished and sent.
    Leave(&'static str),
}

/// Why a connection is over at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It negotiates, or waits to be served (W8), or is served.
    Open,
    /// It says nothing more; in flight requests are finished and replied.
    Leaving,
    /// It is gone; in flight requests are finished for nobody.
    Dead,
}

/// A large write on its way in.
#[derive(Debug)]
struct Filling {
    command: Command,
    length: usize,
    filled: usize,
    /// `None` while the kernel has it.
    buffer: Option<Buffer>,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// Its socket.
    pub socket: File,
    /// How far it is.
    pub stage: Stage,
    /// It may not be served yet: an earlier connection's requests are in flight (W8).
    pub held: bool,
    /// Its requests in flight count against new connections to its disk (W8).
    pub draining: bool,
    /// When its negotiation must be over.
    pub deadline: Option<Nanos>,
    /// The loop has it on its list.
    pub listed: bool,
    /// The disk that it serves, or served.
    disk: Option<DiskIndex>,
    session: Session,
    /// `None` while the kernel has it.
    input: Option<Buffer>,
    start: usize,
    end: usize,
    /// A small write whose payload is not all here.
    partial: Option<Command>,
    filling: Option<Filling>,
    receiving: bool,
    /// The batch that grows.
    batch: Box<Outgoing>,
    /// The other one, if the kernel does not have it.
    spare: Option<Box<Outgoing>>,
    requests: usize,
    bytes: u64,
}

impl Connection {
    /// A client that has just connected. It is greeted.
    pub fn new(socket: File, exports: Arc<[Export]>, now: Nanos, pool: &mut Pool) -> Self {
        let mut batch = Box::<Outgoing>::default();
        let session = Session::new(exports, batch.bytes());
        Self {
            socket,
            stage: Stage::Open,
            held: false,
            draining: false,
            deadline: Some(now.after(HANDSHAKE)),
            listed: false,
            disk: None,
            session,
            input: Some(pool.take(INPUT_LEN)),
            start: 0,
            end: 0,
            partial: None,
            filling: None,
            receiving: false,
            batch,
            spare: Some(Box::default()),
            requests: 0,
            bytes: 0,
        }
    }

    /// The disk that it serves, or served.
    pub fn disk(&self) -> Option<DiskIndex> {
        self.disk
    }

    /// Requests in flight.
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// A request was taken for it.
    #[inline]
    pub fn began(&mut self, length: u64) {
        self.requests += 1;
        self.bytes += length;
    }

    /// A request of it ended.
    #[inline]
    pub fn ended(&mut self, length: u64) {
        self.requests -= 1;
        self.bytes -= length;
    }

    /// It takes no more requests for now: back-pressure.
    fn is_full(&self) -> bool {
        self.requests >= REQUESTS_MAX
            || self.bytes >= BYTES_MAX
            || self.batch.len() >= BATCH_MAX
            || self.batch.is_full()
    }

    /// The bytes of a payload that is [`Payload::Here`].
    #[inline]
    pub fn payload(&self, range: Range<usize>) -> &[u8] {
        &self.input.as_ref().expect("it is ours while requests are taken from it")[range]
    }

    /// The next thing to do with what has come.
    pub fn next(&mut self, pool: &mut Pool) -> Next {
        if self.stage != Stage::Open || self.held || self.is_full() {
            return Next::Nothing;
        }
        if let Some(filling) = &mut self.filling {
            if filling.filled < filling.length {
                return Next::Nothing;
            }
            let Filling { command, buffer, .. } = self.filling.take().expect("just seen");
            return Next::Write(command, Payload::Own(buffer.expect("it is back when it is full")));
        }
        let Some(input) = &self.input else {
            return Next::Nothing;
        };
        let command = match self.partial.take() {
            Some(command) => command,
            None => {
                let (used, event) = self.session.advance(&input[self.start..self.end], self.batch.bytes());
                self.start += used;
                match event {
                    Event::Starved if self.disk.is_none() && self.batch.len() > HANDSHAKE_OUT_MAX => {
                        return Next::Leave("the client does not take what it asks for");
                    }
                    Event::Starved => return Next::Nothing,
                    Event::Closed(reason) => return Next::Leave(reason),
                    Event::Opened(place) => {
                        let disk = DiskIndex(u16::try_from(place).expect("disks are bounded"));
                        self.disk = Some(disk);
                        self.deadline = None;
                        return Next::Opened(disk);
                    }
                    Event::Command(Command { what: What::Disconnect, .. }) => {
                        return Next::Leave("the client disconnected");
                    }
                    Event::Command(command) => command,
                }
            }
        };
        let What::Write { length, .. } = command.what else {
            return Next::Command(command);
        };
        let (here, wanted) = (self.end - self.start, length as usize);
        if length >= LARGE {
            let mut buffer = pool.take(wanted);
            let filled = here.min(wanted);
            buffer[..filled].copy_from_slice(&input[self.start..self.start + filled]);
            self.start += filled;
            if filled == wanted {
                return Next::Write(command, Payload::Own(buffer));
            }
            self.filling = Some(Filling { command, length: wanted, filled, buffer: Some(buffer) });
            return Next::Nothing;
        }
        if here < wanted {
            self.partial = Some(command);
            return Next::Nothing;
        }
        let range = self.start..self.start + wanted;
        self.start += wanted;
        Next::Write(command, Payload::Here(range))
    }

    /// Receives more, if there is room for it and nothing else comes first.
    pub fn receive<T>(&mut self, tag: T, ring: &mut Ring<T>) {
        if self.receiving || self.stage != Stage::Open || self.held || self.is_full() {
            return;
        }
        if let Some(filling) = &mut self.filling {
            if let Some(buffer) = filling.buffer.take() {
                // Part by part: waiting for all of it in the kernel costs more (measured: a sixth of a 1 MiB write).
                ring.receive(tag, &self.socket, buffer, filling.filled..filling.length);
                self.receiving = true;
            }
            return;
        }
        let Some(mut input) = self.input.take() else {
            return;
        };
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if input.len() - self.end < ROOM_MIN {
            input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let range = self.end..input.len();
        ring.receive(tag, &self.socket, input, range);
        self.receiving = true;
    }

    /// What was received.
    ///
    /// # Errors
    /// The client is gone.
    pub fn received(&mut self, result: Result<u32, i32>, buffer: Buffer) -> Result<(), Lost> {
        self.receiving = false;
        let count = result.map_or(0, |count| count as usize);
        let again = matches!(result, Err(libc::EINTR | libc::EAGAIN));
        if let Some(filling) = &mut self.filling {
            filling.buffer = Some(buffer);
            filling.filled += count;
        } else {
            self.input = Some(buffer);
            self.end += count;
        }
        if count > 0 || again { Ok(()) } else { Err(Lost) }
    }

    /// Sends the batch, if there is one and the one before is gone. True: it was full, so that there may be more to
    /// take from what has come.
    pub fn send<T>(&mut self, tag: T, ring: &mut Ring<T>) -> bool {
        if self.batch.is_empty() || self.held || self.stage == Stage::Dead {
            return false;
        }
        let Some(spare) = self.spare.take() else {
            return false;
        };
        let was_full = self.is_full();
        let batch = std::mem::replace(&mut self.batch, spare);
        ring.send(tag, &self.socket, batch);
        was_full
    }

    /// What became of a batch: sends the rest of it, if the kernel stopped midway.
    ///
    /// # Errors
    /// The client is gone.
    pub fn sent<T>(
        &mut self,
        tag: T,
        result: Result<u32, i32>,
        mut batch: Box<Outgoing>,
        ring: &mut Ring<T>,
        pool: &mut Pool,
    ) -> Result<(), Lost> {
        let count = match result {
            Ok(count) if count > 0 => count as usize,
            Err(libc::EINTR | libc::EAGAIN) => 0,
            _ => {
                batch.clear(pool);
                self.spare = Some(batch);
                return Err(Lost);
            }
        };
        if batch.advance(count) || self.stage == Stage::Dead {
            batch.clear(pool);
            self.spare = Some(batch);
        } else {
            ring.send(tag, &self.socket, batch);
        }
        Ok(())
    }

    /// Replies to a change or flush.
    #[inline]
    pub fn reply(&mut self, cookie: u64, result: Result<(), Errno>) {
        self.session.reply(cookie, result, self.batch.bytes());
    }

    /// Replies to a read with data that lies in a buffer.
    pub fn reply_buffer(&mut self, cookie: u64, offset: u64, length: u32, buffer: Buffer) {
        self.session.reply_data(cookie, offset, length, self.batch.bytes());
        self.batch.append(buffer, length as usize);
    }

    /// Replies to a read by having the data appended to the batch. If that fails, the reply is the error.
    pub fn reply_with(
        &mut self,
        cookie: u64,
        offset: u64,
        length: u32,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), Errno>,
    ) {
        let before = self.batch.bytes().len();
        self.session.reply_data(cookie, offset, length, self.batch.bytes());
        if let Err(errno) = fill(self.batch.bytes()) {
            self.batch.bytes().truncate(before);
            self.reply_failed(cookie, errno);
        }
    }

    /// Replies to a read or block status that failed.
    pub fn reply_failed(&mut self, cookie: u64, errno: Errno) {
        self.session.reply_failed(cookie, errno, self.batch.bytes());
    }

    /// Replies to a block status.
    pub fn reply_status(&mut self, cookie: u64, extents: &[Extent]) {
        self.session.reply_status(cookie, extents, self.batch.bytes());
    }

    /// Nothing is in flight for it and nothing waits to be sent.
    pub fn is_idle(&self) -> bool {
        self.requests == 0 && self.spare.is_some() && (self.batch.is_empty() || self.stage == Stage::Dead)
    }

    /// The kernel uses nothing of it: it can be closed.
    pub fn is_quiet(&self) -> bool {
        self.requests == 0 && self.spare.is_some() && !self.receiving
    }

    /// Takes it apart: its memory goes back, its socket is to be closed.
    ///
    /// # Panics
    /// If it is not quiet.
    pub fn dissolve(mut self, pool: &mut Pool) -> File {
        assert!(self.is_quiet(), "the kernel uses nothing of a connection that ends");
        let filling = self.filling.take().and_then(|filling| filling.buffer);
        for buffer in [self.input.take(), filling].into_iter().flatten() {
            pool.give(buffer);
        }
        self.batch.clear(pool);
        self.socket
    }
}
