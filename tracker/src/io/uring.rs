//! The ring: the only file that knows io_uring.
//!
//! Every operation takes the memory that it needs and brings it back with its completion, so a caller can't free what
//! the kernel still writes to. Operations are queued and go to the kernel together in [`Ring::wait`].

use super::buffer::{Buffer, Pool};
use super::outgoing::Outgoing;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

/// Operations that can be queued before the kernel is called.
const ENTRIES: u32 = 512;
/// Completions that can wait: operations in flight are bounded by connections, this only avoids overflow handling.
const COMPLETIONS: u32 = 4096;
/// Completions that end a wait which lets them gather.
const GATHERED: usize = 32;
/// Places for registered files: disks and connections.
const FILES: u32 = 512;

/// Memory that an operation uses.
#[derive(Debug)]
pub enum Memory {
    /// None.
    None,
    /// A buffer.
    Buffer(Buffer),
    /// A buffer that several operations only read.
    Shared(Rc<Buffer>),
    /// A batch for a socket.
    Outgoing(Box<Outgoing>),
}

impl Memory {
    /// The bytes that a write would take.
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Buffer(buffer) => buffer,
            Self::Shared(buffer) => buffer,
            Self::None | Self::Outgoing(_) => &[],
        }
    }

    fn registered(&self) -> bool {
        matches!(self, Self::Buffer(buffer) if buffer.in_arena())
    }
}

/// An open file or socket, registered with the ring where that was possible.
#[derive(Debug)]
pub struct File {
    fd: OwnedFd,
    place: Option<u32>,
}

impl File {
    /// A file that is used too rarely to be registered.
    pub fn plain(fd: OwnedFd) -> Self {
        Self { fd, place: None }
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An operation that ended.
#[derive(Debug)]
pub struct Completion<T> {
    /// As given.
    pub tag: T,
    /// What the kernel says: a count, a descriptor, or an errno.
    pub result: Result<u32, i32>,
    /// The memory, back.
    pub memory: Memory,
}

/// Where an operation stands in the kernel's queue; to cancel it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

#[derive(Debug)]
struct InFlight<T> {
    tag: T,
    memory: Memory,
    /// A test says that it ended so.
    #[cfg(test)]
    fails: Option<i32>,
}

/// What becomes of the next transfers of files, for tests; the rest goes as usual.
#[cfg(test)]
pub(crate) type Faults = std::sync::Arc<std::sync::Mutex<std::collections::VecDeque<Fault>>>;

/// What becomes of a transfer.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// It goes as usual.
    None,
    /// At most so many bytes are moved.
    Short(u32),
    /// Nothing is done, and this errno comes back.
    Fails(i32),
}

/// The ring. One thread makes it and uses it.
pub struct Ring<T> {
    ring: IoUring,
    in_flight: Vec<Option<InFlight<T>>>,
    free: Vec<u32>,
    count: usize,
    file_places: Vec<u32>,
    buffers_registered: bool,
    /// The kernel can let completions gather (6.12).
    can_gather: bool,
    #[cfg(test)]
    pub(crate) faults: Faults,
    /// The next operation fails so.
    #[cfg(test)]
    next_fails: Option<i32>,
}

impl<T> std::fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({} in flight)", self.count)
    }
}

/// Builds an operation on a file by its registered place or its descriptor.
macro_rules! on {
    ($file:expr, |$target:ident| $build:expr) => {
        match $file.place {
            Some(place) => {
                let $target = Fixed(place);
                $build
            }
            None => {
                let $target = Fd($file.fd.as_raw_fd());
                $build
            }
        }
    };
}

impl<T> Ring<T> {
    /// Makes a ring, with the best settings that this kernel has; registers the pool's arena and a table of files if
    /// the kernel lets us (locked memory is limited for plain users), and works without otherwise.
    ///
    /// # Errors
    /// The kernel has no io_uring for us, or one that lacks what we need.
    pub fn new(pool: &Pool) -> io::Result<Self> {
        let ring = build()?;
        super::probe::check(&ring.submitter())?;
        let (start, length) = pool.arena();
        let arena = libc::iovec { iov_base: start.cast(), iov_len: length };
        // SAFETY: the pool outlives its buffers or leaks the arena; the kernel pins the pages, which stay valid even
        // after an unmapping.
        let buffers_registered = unsafe { ring.submitter().register_buffers(&[arena]) }.is_ok();
        let file_places = match ring.submitter().register_files_sparse(FILES) {
            Ok(()) => (0..FILES).rev().collect(),
            Err(_) => Vec::new(),
        };
        let can_gather = ring.params().is_feature_min_timeout();
        Ok(Self {
            ring,
            can_gather,
            in_flight: Vec::with_capacity(COMPLETIONS as usize),
            free: Vec::with_capacity(COMPLETIONS as usize),
            count: 0,
            file_places,
            buffers_registered,
            #[cfg(test)]
            faults: Faults::default(),
            #[cfg(test)]
            next_fails: None,
        })
    }

    /// I/O buffers are registered with the kernel.
    pub fn buffers_registered(&self) -> bool {
        self.buffers_registered
    }

    /// Operations that did not complete yet.
    pub fn in_flight(&self) -> usize {
        self.count
    }

    /// Registers a file, if there is a place.
    pub fn register(&mut self, fd: OwnedFd) -> File {
        let Some(place) = self.file_places.pop() else {
            return File::plain(fd);
        };
        match self.ring.submitter().register_files_update(place, &[fd.as_raw_fd()]) {
            Ok(_) => File { fd, place: Some(place) },
            Err(_) => File::plain(fd),
        }
    }

    /// Closes a file that no operation uses.
    pub fn close(&mut self, file: File) {
        if let Some(place) = file.place
            && self.let_go(&file)
        {
            self.file_places.push(place);
        }
    }

    /// The ring's own hold on a file that no operation uses ends, and so its description with its descriptor: what the
    /// kernel does with a dead ring's files comes some time after the process's end. Whether that worked; the file is
    /// of no more use.
    pub fn let_go(&self, file: &File) -> bool {
        file.place.is_some_and(|place| self.ring.submitter().register_files_update(place, &[-1]).is_ok())
    }

    /// Reads into `range` of the buffer.
    pub fn read(&mut self, tag: T, file: &File, buffer: Buffer, range: Range<usize>, offset: u64) {
        let fixed = self.buffers_registered && buffer.in_arena();
        let (start, length) = place_in(&buffer, &range);
        let length = self.transfer(length);
        let entry = on!(file, |fd| if fixed {
            opcode::ReadFixed::new(fd, start, length, 0).offset(offset).build()
        } else {
            opcode::Read::new(fd, start, length).offset(offset).build()
        });
        self.push(tag, Memory::Buffer(buffer), entry);
    }

    /// Writes `range` of the memory; durable when it completes, if asked for.
    pub fn write(
        &mut self,
        tag: T,
        file: &File,
        memory: Memory,
        range: Range<usize>,
        offset: u64,
        durable: bool,
    ) {
        let fixed = self.buffers_registered && memory.registered();
        let bytes = &memory.bytes()[range];
        let (start, length) = (bytes.as_ptr(), u32::try_from(bytes.len()).expect("writes are bounded"));
        let length = self.transfer(length);
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        let entry = on!(file, |fd| if fixed {
            opcode::WriteFixed::new(fd, start, length, 0).offset(offset).rw_flags(flags).build()
        } else {
            opcode::Write::new(fd, start, length).offset(offset).rw_flags(flags).build()
        });
        self.push(tag, memory, entry);
    }

    /// `fdatasync`, or `fsync` with the inode.
    pub fn sync(&mut self, tag: T, file: &File, inode: bool) {
        let flags = if inode { FsyncFlags::empty() } else { FsyncFlags::DATASYNC };
        let entry = on!(file, |fd| opcode::Fsync::new(fd).flags(flags).build());
        // A sync always waits: hand it to a worker at once instead of trying.
        self.push(tag, Memory::None, entry.flags(Flags::ASYNC));
    }

    /// `fallocate`.
    pub fn allocate(&mut self, tag: T, file: &File, mode: i32, offset: u64, length: u64) {
        let entry = on!(file, |fd| opcode::Fallocate::new(fd, length).offset(offset).mode(mode).build());
        self.push(tag, Memory::None, entry);
    }

    /// Receives what is there into `range` of the buffer.
    pub fn receive(&mut self, tag: T, file: &File, buffer: Buffer, range: Range<usize>) {
        let (start, length) = place_in(&buffer, &range);
        let entry = on!(file, |fd| opcode::Recv::new(fd, start, length).build());
        self.push(tag, Memory::Buffer(buffer), entry);
    }

    /// Sends what a batch has not yet sent, all of it if nothing goes wrong.
    pub fn send(&mut self, tag: T, file: &File, mut batch: Box<Outgoing>) {
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let entry = if let Some(bytes) = batch.contiguous() {
            let length = u32::try_from(bytes.len()).expect("batches are bounded");
            on!(file, |fd| opcode::Send::new(fd, bytes.as_ptr(), length).flags(flags).build())
        } else {
            let header = batch.prepare();
            on!(file, |fd| opcode::SendMsg::new(fd, header).flags(flags as u32).build())
        };
        self.push(tag, Memory::Outgoing(batch), entry);
    }

    /// Accepts a connection; the count is its descriptor ([`accepted`]).
    pub fn accept(&mut self, tag: T, listener: &File) -> Place {
        let none = std::ptr::null_mut();
        let entry =
            on!(listener, |fd| opcode::Accept::new(fd, none, none.cast()).flags(libc::SOCK_CLOEXEC).build());
        self.push(tag, Memory::None, entry)
    }

    /// Waits until a descriptor can be read.
    pub fn poll(&mut self, tag: T, fd: BorrowedFd<'_>) -> Place {
        let entry = opcode::PollAdd::new(Fd(fd.as_raw_fd()), libc::POLLIN as u32).build();
        self.push(tag, Memory::None, entry)
    }

    /// Tries to cancel an operation that waits; it completes anyway. `tag` is that of the cancelling itself.
    pub fn cancel(&mut self, tag: T, place: Place) {
        let entry = opcode::AsyncCancel::new(u64::from(place.0)).build();
        self.push(tag, Memory::None, entry);
    }

    /// How many of these bytes the kernel is asked for: all, unless a test meddles.
    #[cfg(not(test))]
    #[inline]
    fn transfer(&self, length: u32) -> u32 {
        length
    }

    #[cfg(test)]
    fn transfer(&mut self, length: u32) -> u32 {
        match self.faults.lock().unwrap().pop_front() {
            Some(Fault::Short(most)) => length.min(most),
            Some(Fault::Fails(errno)) => {
                self.next_fails = Some(errno);
                length
            }
            Some(Fault::None) | None => length,
        }
    }

    fn push(&mut self, tag: T, memory: Memory, entry: Entry) -> Place {
        #[cfg(test)]
        let fails = self.next_fails.take();
        #[cfg(test)]
        let entry = if fails.is_some() { opcode::Nop::new().build() } else { entry };
        let operation = Some(InFlight {
            tag,
            memory,
            #[cfg(test)]
            fails,
        });
        let place = match self.free.pop() {
            Some(place) => {
                self.in_flight[place as usize] = operation;
                place
            }
            None => {
                self.in_flight.push(operation);
                u32::try_from(self.in_flight.len() - 1).expect("operations are bounded")
            }
        };
        self.count += 1;
        let entry = entry.user_data(u64::from(place));
        // SAFETY: all memory that the entry points to is on the heap and owned by `in_flight[place]` until its
        // completion is taken; descriptors are closed by their owners only when nothing uses them.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.ring.submit().expect("the kernel takes a full queue");
        }
        Place(place)
    }

    /// Hands everything queued to the kernel and waits until something completes or the time is over. With `gather`
    /// it sleeps that long even if something completes before, unless that is a lot.
    ///
    /// # Errors
    /// What the kernel says, but for time-outs and interruptions.
    pub fn wait(&mut self, timeout: Option<Duration>, gather: Option<Duration>) -> io::Result<()> {
        let spec = Timespec::from(timeout.unwrap_or_default());
        let mut arguments = SubmitArgs::new();
        if timeout.is_some() {
            arguments = arguments.timespec(&spec);
        }
        let mut want = 1;
        if let Some(gather) = gather
            && self.can_gather
            && timeout.is_none_or(|timeout| timeout > gather)
        {
            want = GATHERED;
            arguments = arguments.min_wait_usec(gather.as_micros() as u32);
        }
        let done = self.ring.submitter().submit_with_args(want, &arguments);
        match done {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Takes the next completion that has arrived.
    #[inline]
    pub fn take(&mut self) -> Option<Completion<T>> {
        let entry = self.ring.completion().next()?;
        let place = u32::try_from(entry.user_data()).expect("our own number");
        let operation = self.in_flight[place as usize].take().expect("an operation completes once");
        self.free.push(place);
        self.count -= 1;
        let result = u32::try_from(entry.result()).map_err(|_| -entry.result());
        #[cfg(test)]
        let result = operation.fails.map_or(result, Err);
        Some(Completion { tag: operation.tag, result, memory: operation.memory })
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // The kernel may still use this memory until it has closed the ring, some time later: leak it. A clean stop
        // leaves nothing but polls here.
        for operation in self.in_flight.drain(..).flatten() {
            std::mem::forget(operation.memory);
        }
    }
}

/// The descriptor that an accept brought.
pub fn accepted(count: u32) -> OwnedFd {
    let raw = i32::try_from(count).expect("descriptors are small");
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn place_in(buffer: &Buffer, range: &Range<usize>) -> (*mut u8, u32) {
    assert!(range.start <= range.end && range.end <= buffer.len(), "a range lies in its buffer");
    let length = u32::try_from(range.len()).expect("buffers are bounded");
    (buffer.pointer().wrapping_add(range.start), length)
}

/// The best ring that this kernel makes: completions only when we look (6.1), else without interruptions (5.19), else
/// any.
fn build() -> io::Result<IoUring> {
    let with = |set: fn(&mut io_uring::Builder)| {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS).setup_submit_all();
        set(&mut builder);
        builder.build(ENTRIES)
    };
    let deferred = with(|builder| {
        builder.setup_single_issuer().setup_defer_taskrun();
    });
    deferred
        .or_else(|_| {
            with(|builder| {
                builder.setup_coop_taskrun();
            })
        })
        .or_else(|_| IoUring::builder().setup_cqsize(COMPLETIONS).build(ENTRIES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn wait_one(ring: &mut Ring<u32>) -> Completion<u32> {
        loop {
            if let Some(completion) = ring.take() {
                return completion;
            }
            ring.wait(Some(Duration::from_secs(10)), None).unwrap();
        }
    }

    #[test]
    fn what_is_written_is_read_through_registered_and_other_memory() {
        let mut pool = Pool::new();
        let mut ring = Ring::new(&pool).unwrap();
        let file = ring.register(tempfile::tempfile().unwrap().into());
        for (length, offset) in [(4096, 0), (200_000, 8192)] {
            let mut buffer = pool.take(length);
            buffer[..length].iter_mut().enumerate().for_each(|(n, byte)| *byte = n as u8);
            ring.write(1, &file, Memory::Buffer(buffer), 0..length, offset, true);
            let completion = wait_one(&mut ring);
            assert_eq!((completion.tag, completion.result), (1, Ok(length as u32)));
            let buffer = pool.take(length);
            ring.read(2, &file, buffer, 0..length, offset);
            let completion = wait_one(&mut ring);
            assert_eq!(completion.result, Ok(length as u32));
            let Memory::Buffer(buffer) = completion.memory else { panic!("the buffer is back") };
            assert!(buffer[..length].iter().enumerate().all(|(n, &byte)| byte == n as u8));
        }
        ring.close(file);
        assert_eq!(ring.in_flight(), 0);
    }

    #[test]
    fn a_time_out_ends_a_wait_and_an_event_does_too() {
        let pool = Pool::new();
        let mut ring: Ring<u32> = Ring::new(&pool).unwrap();
        let event = nix::sys::eventfd::EventFd::new().unwrap();
        let place = ring.poll(7, event.as_fd());
        ring.wait(Some(Duration::from_millis(1)), None).unwrap();
        assert!(ring.take().is_none());
        event.write(1).unwrap();
        assert_eq!(wait_one(&mut ring).tag, 7);
        let again = ring.poll(8, event.as_fd());
        assert_eq!((wait_one(&mut ring).tag, again), (8, place));
    }
}
