//! Who asks: connections of NBD clients, users in the same process, shippers. Their requests become the machine's, and
//! the machine's replies find their way back.

use super::event_loop::{CONNECTIONS_MAX, Data, Engine, Owner, Pending, Tag};
use super::execute;
use super::machine::{Jobs, Machine};
use super::port::{Completion, Operation};
use crate::control::message::Answer;
use crate::frontend::nbd::serve::{Connection, HANDSHAKE, Next, Payload, REQUESTS_MAX, Stage};
use crate::frontend::nbd::session::{Command, What};
use crate::group::{Change, Errno, Question, Request, Ticket, Token};
use crate::id::{DiskIndex, Nanos};
use crate::io::buffer::Buffer;
use crate::io::outgoing::Outgoing;
use crate::io::plain;
use crate::limits::NBD_PAYLOAD_MAX;
use crossbeam_channel::Sender;
use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::debug;

/// Wished size of a socket's send buffer: replies of a whole batch.
const SEND_BUFFER: usize = 1 << 20;
/// With more requests than these in flight, of all kinds, those of users in the same process are refused.
const PORT_REQUESTS_MAX: usize = 32 << 10;
const _: () = assert!(PORT_REQUESTS_MAX + CONNECTIONS_MAX * REQUESTS_MAX <= u16::MAX as usize);
/// An inline read up to this size goes into the batch; a larger one into memory of its own.
const BATCHED_READ_MAX: u32 = 32 << 10;

impl<M: Machine, J: Jobs> Engine<M, J> {
    /// A client has connected.
    pub(super) fn connected(&mut self, socket: OwnedFd) {
        plain::widen(&socket, SEND_BUFFER);
        let socket = self.ring.register(socket);
        let connection = Connection::new(socket, Arc::clone(&self.exports), self.now, &mut self.pool);
        let key = self.connections.insert(connection);
        let deadline = self.now.after(HANDSHAKE);
        self.deadline_at = Some(self.deadline_at.map_or(deadline, |at| at.min(deadline)));
        self.list(key);
    }

    /// Puts a connection on the list of those to be served or sent.
    #[inline]
    pub(super) fn list(&mut self, key: u64) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.listed
        {
            connection.listed = true;
            self.listed.push(key);
        }
    }

    /// Serves everything that is there, then sends what is to be sent: one batch a connection.
    pub(super) fn serve_listed(&mut self) {
        while let Some(key) = self.listed.pop() {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.listed = false;
                self.serve(key);
            }
        }
    }

    pub(super) fn received(&mut self, key: u64, result: Result<u32, i32>, buffer: Buffer) {
        let connection = self.connections.get_mut(key).expect("it stays while the kernel receives for it");
        match connection.received(result, buffer) {
            Ok(()) => self.list(key),
            Err(_) => self.lose(key),
        }
    }

    pub(super) fn sent(&mut self, key: u64, result: Result<u32, i32>, batch: Box<Outgoing>) {
        let connection = self.connections.get_mut(key).expect("it stays while the kernel sends for it");
        match connection.sent(Tag::Send(key), result, batch, &mut self.ring, &mut self.pool) {
            Ok(()) => self.list(key),
            Err(_) => self.lose(key),
        }
    }

    fn serve(&mut self, key: u64) {
        loop {
            let Some(connection) = self.connections.get_mut(key) else {
                return;
            };
            match connection.next(&mut self.pool) {
                Next::Nothing => {
                    if !connection.send(Tag::Send(key), &mut self.ring) {
                        break;
                    }
                }
                Next::Opened(disk) => self.opened(key, disk),
                Next::Command(command) => self.command(key, command, Data::None),
                Next::Write(command, Payload::Here(range)) => self.command(key, command, Data::Here(range)),
                Next::Write(command, Payload::Own(buffer)) => self.command(key, command, Data::Own(buffer)),
                Next::Leave(reason) => {
                    debug!(reason, "a client leaves");
                    self.leave(key);
                }
            }
        }
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.receive(Tag::Receive(key), &mut self.ring);
        if connection.stage == Stage::Leaving && connection.is_idle() {
            self.lose(key);
        } else if connection.stage == Stage::Dead && connection.is_quiet() {
            let connection = self.connections.remove(key).expect("just seen");
            let socket = connection.dissolve(&mut self.pool);
            self.ring.close(socket);
        }
    }

    /// W8: a client is served not before the requests of those who went are done. Under back-pressure nothing is
    /// received from a connection, so its death may not have been noticed yet: each is asked now.
    fn opened(&mut self, key: u64, disk: DiskIndex) {
        for other in self.connections.keys() {
            let connection = self.connections.get(other).expect("its key was just listed");
            let open = connection.stage == Stage::Open && connection.disk() == Some(disk);
            if open && other != key && plain::hung_up(connection.socket.as_fd()) {
                self.lose(other);
            }
        }
        let held = self.disks[disk.index()].draining > 0;
        debug!(disk = self.disks[disk.index()].name, held, "a client opens a disk");
        self.connections.get_mut(key).expect("it is being served").held = held;
    }

    #[inline]
    fn command(&mut self, key: u64, command: Command, data: Data) {
        self.served += 1;
        let connection = self.connections.get_mut(key).expect("it is being served");
        let disk = connection.disk().expect("commands come when a disk is open");
        let owner = Owner::Connection(key, command.cookie);
        match command.what {
            What::Write { offset, length, fua } => {
                self.served_bytes += u64::from(length);
                self.change(owner, disk, Change::Write, fua, offset, u64::from(length), data);
            }
            What::Read { offset, length } => {
                self.served_bytes += u64::from(length);
                self.read(key, command.cookie, disk, offset, length);
            }
            What::Flush => self.flush(owner, disk),
            What::Trim { offset, length, fua } => {
                self.change(owner, disk, Change::Discard, fua, offset, u64::from(length), Data::None);
            }
            What::Zero { offset, length, may_punch, fua } => {
                let change = Change::Zero { may_punch };
                self.change(owner, disk, change, fua, offset, u64::from(length), Data::None);
            }
            What::Status { offset, length, one } => {
                let extents = self.disks[disk.index()].extents(offset, length, one);
                connection.reply_status(command.cookie, &extents);
            }
            What::Disconnect => unreachable!("the connection says so by itself"),
        }
    }

    /// Hands a change to the machine.
    #[expect(clippy::too_many_arguments, reason = "a request's parts, named once more")]
    #[inline]
    fn change(
        &mut self,
        owner: Owner,
        disk: DiskIndex,
        change: Change,
        fua: bool,
        offset: u64,
        length: u64,
        data: Data,
    ) {
        if let Owner::Connection(key, _) = owner {
            self.connections.get_mut(key).expect("it is being served").began(length);
        }
        let token = self.requests.insert(Pending { owner, disk, offset, length, data, id: None });
        let request = Request { disk, change, fua, offset, length, token: Token(token) };
        let id = self.machine.request(request, self.now, &mut self.actions);
        self.requests.get_mut(token).expect("replies are executed later").id = Some(id);
        self.settle();
        // It waits: the receive buffer will not.
        if let Some(pending) = self.requests.get_mut(token)
            && let Data::Here(range) = &pending.data
            && let Owner::Connection(key, _) = pending.owner
        {
            let connection = self.connections.get(key).expect("it is being served");
            let payload = connection.payload(range.clone());
            let mut buffer = self.pool.take(payload.len());
            buffer[..payload.len()].copy_from_slice(payload);
            pending.data = Data::Own(buffer);
        }
    }

    fn flush(&mut self, owner: Owner, disk: DiskIndex) {
        if let Owner::Connection(key, _) = owner {
            self.connections.get_mut(key).expect("it is being served").began(0);
        }
        let pending = Pending { owner, disk, offset: 0, length: 0, data: Data::None, id: None };
        let token = Token(self.requests.insert(pending));
        self.machine.flush(disk, token, self.now, &mut self.actions);
        self.settle();
    }

    /// Reads go past the machine, straight to the disk.
    #[inline]
    fn read(&mut self, key: u64, cookie: u64, index: DiskIndex, offset: u64, length: u32) {
        let disk = &mut self.disks[index.index()];
        disk.reads += 1;
        let connection = self.connections.get_mut(key).expect("it is being served");
        if !disk.inline {
            connection.began(u64::from(length));
            return self.begin_read(Owner::Connection(key, cookie), index, offset, length);
        }
        let file = disk.file.as_fd();
        if length <= BATCHED_READ_MAX {
            connection.reply_with(cookie, offset, length, |bytes| {
                plain::read_append(file, bytes, length as usize, offset)
                    .map_err(|error| execute::errno(&error))
            });
            return;
        }
        let mut buffer = self.pool.take(length as usize);
        match plain::read(file, &mut buffer[..length as usize], offset) {
            Ok(()) => connection.reply_buffer(cookie, offset, length, buffer),
            Err(error) => {
                connection.reply_failed(cookie, execute::errno(&error));
                self.pool.give(buffer);
            }
        }
    }

    fn begin_read(&mut self, owner: Owner, disk: DiskIndex, offset: u64, length: u32) {
        let pending = Pending { owner, disk, offset, length: u64::from(length), data: Data::None, id: None };
        let request = self.requests.insert(pending);
        let length = length as usize;
        let operation = execute::Operation::Read { request, offset, length, done: 0 };
        let key = self.operations.insert(operation);
        let buffer = self.pool.take(length);
        let file = Rc::clone(&self.disks[disk.index()].file);
        self.ring.read(Tag::Operation(key), &file, buffer, 0..length, offset);
    }

    /// A read of the ring ended.
    pub(super) fn read_ended(&mut self, request: u64, result: Result<(), Errno>, buffer: Buffer) {
        let pending = self.requests.remove(request).expect("a read ends once");
        let length = u32::try_from(pending.length).expect("reads are bounded");
        match pending.owner {
            Owner::Connection(key, cookie) => {
                let connection = self.connections.get_mut(key).expect("it stays while it has requests");
                match result {
                    _ if connection.stage == Stage::Dead => self.pool.give(buffer),
                    Ok(()) => connection.reply_buffer(cookie, pending.offset, length, buffer),
                    Err(errno) => {
                        connection.reply_failed(cookie, errno);
                        self.pool.give(buffer);
                    }
                }
                self.request_ended(key, pending.length);
            }
            Owner::Port(reply, tag) => {
                let result = result.map(|()| buffer[..length as usize].to_vec());
                // A user that is gone wants no answer.
                let _ = reply.send(Completion { tag, result });
                self.pool.give(buffer);
            }
        }
    }

    /// The machine's reply to a change or flush.
    #[inline]
    pub(super) fn reply(&mut self, token: Token, result: Result<(), Errno>) {
        let pending = self.requests.remove(token.0).expect("a request is answered once");
        if let Data::Own(buffer) = pending.data {
            self.pool.give(buffer);
        }
        match pending.owner {
            Owner::Connection(key, cookie) => {
                let connection = self.connections.get_mut(key).expect("it stays while it has requests");
                if connection.stage != Stage::Dead {
                    connection.reply(cookie, result);
                }
                self.request_ended(key, pending.length);
            }
            Owner::Port(reply, tag) => {
                let _ = reply.send(Completion { tag, result: result.map(|()| Vec::new()) });
            }
        }
    }

    /// A connection's request is over: it may take more, or go, or let others in.
    #[inline]
    fn request_ended(&mut self, key: u64, length: u64) {
        let connection = self.connections.get_mut(key).expect("it stays while it has requests");
        connection.ended(length);
        if connection.draining && connection.requests() == 0 {
            connection.draining = false;
            let disk = connection.disk().expect("it had requests");
            self.drained(disk);
        }
        self.list(key);
    }

    /// The connection says nothing more, but takes what it is owed. Until then no new one is served (W8).
    fn leave(&mut self, key: u64) {
        let connection = self.connections.get_mut(key).expect("it is being served");
        if connection.stage == Stage::Open {
            connection.stage = Stage::Leaving;
            self.begin_draining(key);
        }
        self.list(key);
    }

    /// The connection is gone: what the machine has not submitted is dropped (W8).
    fn lose(&mut self, key: u64) {
        let connection = self.connections.get_mut(key).expect("it is there until it is quiet");
        if connection.stage != Stage::Dead {
            connection.stage = Stage::Dead;
            // Ends what the kernel still does for it.
            let _ = shutdown(connection.socket.as_fd().as_raw_fd(), Shutdown::Both);
            if connection.requests() > 0 {
                self.abandon_requests(key);
                self.begin_draining(key);
            }
        }
        self.list(key);
    }

    fn abandon_requests(&mut self, key: u64) {
        for token in self.requests.keys() {
            let pending = self.requests.get(token).expect("nothing ends meanwhile");
            let Some(id) = pending.id else { continue };
            if !matches!(pending.owner, Owner::Connection(owner, _) if owner == key) {
                continue;
            }
            if self.machine.abandon(id, self.now, &mut self.actions) {
                let pending = self.requests.remove(token).expect("just seen");
                if let Data::Own(buffer) = pending.data {
                    self.pool.give(buffer);
                }
                self.request_ended(key, pending.length);
            }
        }
        // What the dropped ones held lets others go on: not before all are dropped.
        self.measured(|machine, now, actions| machine.tick(now, actions));
        self.settle();
    }

    fn begin_draining(&mut self, key: u64) {
        let connection = self.connections.get_mut(key).expect("it is there until it is quiet");
        if connection.requests() > 0
            && !connection.draining
            && let Some(disk) = connection.disk()
        {
            connection.draining = true;
            self.disks[disk.index()].draining += 1;
        }
    }

    fn drained(&mut self, disk: DiskIndex) {
        self.disks[disk.index()].draining -= 1;
        if self.disks[disk.index()].draining > 0 {
            return;
        }
        for key in self.connections.keys() {
            let connection = self.connections.get_mut(key).expect("its key was just listed");
            if connection.held && connection.disk() == Some(disk) {
                connection.held = false;
                self.list(key);
            }
        }
    }

    /// The earliest instant at which a negotiation may be over time.
    pub(super) fn next_deadline(&self) -> Option<Nanos> {
        self.deadline_at
    }

    /// Drops clients that negotiate for too long (F47).
    pub(super) fn keep_deadlines(&mut self) {
        if self.deadline_at.is_none_or(|at| at > self.now) {
            return;
        }
        let mut next = None::<Nanos>;
        for key in self.connections.keys() {
            let connection = self.connections.get(key).expect("its key was just listed");
            match connection.deadline {
                Some(at) if at <= self.now && connection.stage != Stage::Dead => {
                    debug!("a client negotiates for too long");
                    self.lose(key);
                }
                Some(at) if connection.stage != Stage::Dead => {
                    next = Some(next.map_or(at, |next| next.min(at)));
                }
                _ => {}
            }
        }
        self.deadline_at = next;
        self.serve_listed();
    }

    /// A stop begins: nobody is listened to any more.
    pub(super) fn let_all_leave(&mut self) {
        for key in self.connections.keys() {
            let connection = self.connections.get_mut(key).expect("its key was just listed");
            // A client that waits to be served is owed nothing.
            if connection.held {
                self.lose(key);
            } else {
                self.leave(key);
            }
        }
    }

    /// A stop waits no longer: connections go, and so does what the machine has not submitted, whoever asked for it.
    pub(super) fn drop_all(&mut self) {
        for key in self.connections.keys() {
            self.lose(key);
        }
        self.serve_listed();
        for token in self.requests.keys() {
            let Some(Pending { owner: Owner::Port(..), id: Some(id), .. }) = self.requests.get(token) else {
                continue;
            };
            if self.machine.abandon(*id, self.now, &mut self.actions)
                && let Some(Pending { owner: Owner::Port(reply, tag), .. }) = self.requests.remove(token)
            {
                // A user that is gone wants no answer.
                let _ = reply.send(Completion { tag, result: Err(Errno(libc::ESHUTDOWN)) });
            }
        }
        self.measured(|machine, now, actions| machine.tick(now, actions));
        self.settle();
    }

    /// A shipper asks.
    pub(super) fn ask(&mut self, question: Question, reply: Sender<Answer>) {
        let ticket = Ticket(self.tickets.insert(reply));
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.measured(|machine, now, actions| machine.ask(question, ticket, time_ns, now, actions));
        self.settle();
    }

    /// The machine answers a shipper.
    pub(super) fn answer(&mut self, ticket: Ticket, mut answer: Answer) {
        let reply = self.tickets.remove(ticket.0).expect("a question is answered once");
        if let Answer::Status(status) = &mut answer {
            self.fill_status(status);
        }
        // A shipper that is gone wants no answer.
        let _ = reply.send(answer);
    }

    /// A user in this process asks.
    pub(super) fn operate(
        &mut self,
        disk: DiskIndex,
        operation: Operation,
        tag: u64,
        reply: Sender<Completion>,
    ) {
        if let Err(errno) = self.check(disk, &operation) {
            let _ = reply.send(Completion { tag, result: Err(errno) });
            return;
        }
        let owner = Owner::Port(reply, tag);
        match operation {
            Operation::Read { offset, length } => {
                self.disks[disk.index()].reads += 1;
                self.begin_read(owner, disk, offset, length);
            }
            Operation::Write { offset, data, fua } => {
                let length = data.len() as u64;
                self.change(owner, disk, Change::Write, fua, offset, length, Data::Bytes(data));
            }
            Operation::Zero { offset, length, may_punch, fua } => {
                self.change(owner, disk, Change::Zero { may_punch }, fua, offset, length, Data::None);
            }
            Operation::Discard { offset, length } => {
                self.change(owner, disk, Change::Discard, false, offset, length, Data::None);
            }
            Operation::Flush => self.flush(owner, disk),
        }
    }

    /// The customs of the port: the same rules as a session's (W9).
    fn check(&self, disk: DiskIndex, operation: &Operation) -> Result<(), Errno> {
        let disk = self.disks.get(disk.index()).ok_or(Errno(libc::ENODEV))?;
        if self.is_stopping() {
            return Err(Errno(libc::ESHUTDOWN));
        }
        // A region counts the requests that hold it in 16 bits; those of connections are bounded by themselves.
        if self.requests.len() >= PORT_REQUESTS_MAX {
            return Err(Errno(libc::EAGAIN));
        }
        let limit = u64::from(NBD_PAYLOAD_MAX);
        let (offset, length, limit) = match operation {
            Operation::Flush => return Ok(()),
            Operation::Read { offset, length } => (*offset, u64::from(*length), limit),
            Operation::Write { offset, data, .. } => (*offset, data.len() as u64, limit),
            Operation::Zero { offset, length, .. } | Operation::Discard { offset, length } => {
                (*offset, *length, u64::MAX)
            }
        };
        if self.read_only && !matches!(operation, Operation::Read { .. }) {
            return Err(Errno(libc::EPERM));
        }
        let ragged = (offset | length) & (u64::from(disk.align) - 1) != 0;
        if length == 0 || length > limit || ragged {
            return Err(Errno(libc::EINVAL));
        }
        match offset.checked_add(length) {
            Some(end) if end <= disk.size => Ok(()),
            _ => Err(Errno(libc::EINVAL)),
        }
    }
}
