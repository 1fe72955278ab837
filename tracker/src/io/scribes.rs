//! Threads that write to files whose file system may hang: one at a time to a file, and no file waits for another.
//!
//! The ring can't promise that. Its writes through the page cache are done by the kernel's worker threads, those to one
//! file one after another, and the kernel tells files apart by six bits of a hash: a guest's write to a disk in buffered
//! mode, or its discard on any, would share a queue with a file that hangs. The workers and their queues are those of the
//! thread that submits, so a second ring would not help.

use super::buffer::Buffer;
use super::plain;
use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many threads stay when there is nothing to write.
const KEPT: usize = 4;
/// They call nothing deep.
const STACK_LEN: usize = 128 << 10;

/// An open file, with what is to be written to it.
#[derive(Debug)]
pub struct Sheet<T> {
    fd: OwnedFd,
    tasks: Mutex<Tasks<T>>,
}

#[derive(Debug)]
struct Tasks<T> {
    waiting: VecDeque<Task<T>>,
    /// A thread has the sheet, or is about to.
    taken: bool,
}

/// What is to be written.
#[derive(Debug)]
pub struct Task<T> {
    /// Comes back.
    pub tag: T,
    /// Its first `length` bytes are written.
    pub buffer: Buffer,
    /// See `buffer`.
    pub length: usize,
    /// Where to.
    pub offset: u64,
    /// On the device when it is done.
    pub durable: bool,
}

/// What has been written.
#[derive(Debug)]
pub struct Written<T> {
    /// As given.
    pub tag: T,
    /// As given.
    pub buffer: Buffer,
    /// All of it, or what the kernel says.
    pub result: io::Result<()>,
}

impl<T> Sheet<T> {
    /// Of an open file.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, tasks: Mutex::new(Tasks { waiting: VecDeque::new(), taken: false }) }
    }

    /// The file. Nobody writes to it: a thread that does has a hold on the sheet.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks<T>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next task; if there is none the sheet is no longer taken.
    fn next(&self) -> Option<Task<T>> {
        let mut tasks = self.tasks();
        let next = tasks.waiting.pop_front();
        tasks.taken = next.is_some();
        next
    }
}

impl<T> AsFd for Sheet<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The threads, of one user.
#[derive(Debug)]
pub struct Scribes<T> {
    sheets: Sender<Arc<Sheet<T>>>,
    written: Receiver<Written<T>>,
    desk: Desk<T>,
}

/// What a thread has.
#[derive(Debug)]
struct Desk<T> {
    sheets: Receiver<Arc<Sheet<T>>>,
    written: Sender<Written<T>>,
    wakeup: Arc<EventFd>,
    /// Threads without a sheet that nobody has promised one.
    idle: Arc<AtomicUsize>,
}

impl<T: Send + 'static> Scribes<T> {
    /// None yet.
    ///
    /// # Errors
    /// There is no descriptor to tell by.
    pub fn new() -> io::Result<Self> {
        let wakeup = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let ((sheets, taken), (told, written)) = (unbounded(), unbounded());
        let desk = Desk { sheets: taken, written: told, wakeup, idle: Arc::default() };
        Ok(Self { sheets, written, desk })
    }

    /// Writes, after what was to be written to the same file before; never blocks.
    pub fn write(&self, sheet: &Arc<Sheet<T>>, task: Task<T>) {
        let mut tasks = sheet.tasks();
        tasks.waiting.push_back(task);
        if std::mem::replace(&mut tasks.taken, true) {
            return;
        }
        drop(tasks);
        let one_less = |idle: usize| idle.checked_sub(1);
        let sheet = Arc::clone(sheet);
        if self.desk.idle.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            // We have a receiver ourselves.
            let _ = self.sheets.send(sheet);
            return;
        }
        let (desk, first) = (self.desk.clone(), Arc::clone(&sheet));
        let thread = std::thread::Builder::new().name("scribe".into()).stack_size(STACK_LEN);
        if let Err(error) = thread.spawn(move || desk.work(first)) {
            while let Some(Task { tag, buffer, .. }) = sheet.next() {
                let error =
                    error.raw_os_error().map_or(io::ErrorKind::Other.into(), io::Error::from_raw_os_error);
                self.desk.tell(Written { tag, buffer, result: Err(error) });
            }
        }
    }

    /// Readable (an eventfd) when [`Self::poll`] has something; to be read empty before polling.
    pub fn wakeup(&self) -> &Arc<EventFd> {
        &self.desk.wakeup
    }

    /// What has been written, if there is something; in no order.
    pub fn poll(&self) -> Option<Written<T>> {
        self.written.try_recv().ok()
    }
}

impl<T> Clone for Desk<T> {
    fn clone(&self) -> Self {
        Self {
            sheets: self.sheets.clone(),
            written: self.written.clone(),
            wakeup: Arc::clone(&self.wakeup),
            idle: Arc::clone(&self.idle),
        }
    }
}

impl<T> Desk<T> {
    /// A thread's life.
    fn work(self, first: Arc<Sheet<T>>) {
        let mut given = Some(first);
        while let Some(sheet) = given {
            self.serve(sheet);
            let one_more = |idle: usize| (idle < KEPT).then_some(idle + 1);
            if self.idle.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
                return;
            }
            given = self.sheets.recv().ok();
        }
    }

    /// Writes all that is to be written to a file.
    fn serve(&self, sheet: Arc<Sheet<T>>) {
        let mut next = sheet.next();
        while let Some(Task { tag, buffer, length, offset, durable }) = next {
            let mut result = plain::write(sheet.as_fd(), &buffer[..length], offset);
            if durable {
                result = result.and_then(|()| plain::sync(sheet.as_fd(), false));
            }
            let written = Written { tag, buffer, result };
            next = sheet.next();
            if next.is_none() {
                // First: whoever hears of the last one may close the file.
                drop(sheet);
                return self.tell(written);
            }
            self.tell(written);
        }
    }

    fn tell(&self, written: Written<T>) {
        // Nobody listens any more? Then it is of no use to anybody.
        if self.written.send(written).is_ok() {
            let _ = self.wakeup.write(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn task(tag: u64, length: usize, offset: u64, durable: bool) -> Task<u64> {
        let mut buffer = Buffer::map(length);
        buffer[..length].fill(tag as u8);
        Task { tag, buffer, length, offset, durable }
    }

    fn wait_one(scribes: &Scribes<u64>) -> Written<u64> {
        loop {
            if let Some(written) = scribes.poll() {
                return written;
            }
            let mut wanted = [PollFd::new(scribes.wakeup().as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut wanted, PollTimeout::from(60_000u16)), Ok(1), "it is woken");
            let _ = scribes.wakeup().read();
        }
    }

    /// What is written later to the same place stands there in the end, and nobody has the file when the last one is told.
    #[test]
    fn a_file_is_written_in_order_and_is_let_go_of() {
        let scribes = Scribes::new().unwrap();
        let file = tempfile::tempfile().unwrap();
        let sheet = Arc::new(Sheet::new(file.try_clone().unwrap().into()));
        for round in 0..50u64 {
            let tags = round * 4 + 1..=round * 4 + 4;
            tags.clone().for_each(|tag| scribes.write(&sheet, task(tag, 10_000, 100, tag % 3 == 0)));
            let told = tags.clone().map(|_| wait_one(&scribes)).inspect(|one| assert!(one.result.is_ok()));
            let mut told: Vec<u64> = told.map(|written| written.tag).collect();
            told.sort_unstable();
            assert!(told.into_iter().eq(tags.clone()));
            assert_eq!(Arc::strong_count(&sheet), 1);
            let mut bytes = [0; 10_000];
            plain::read(sheet.as_fd(), &mut bytes, 100).unwrap();
            assert_eq!(bytes, [*tags.end() as u8; 10_000]);
        }
    }

    #[test]
    fn an_error_is_told_and_the_next_task_is_done() {
        let scribes = Scribes::new().unwrap();
        let (folder, sheet) = (tempfile::tempdir().unwrap(), |fd: OwnedFd| Arc::new(Sheet::new(fd)));
        let path = folder.path().join("file");
        std::fs::write(&path, []).unwrap();
        let read_only = sheet(std::fs::File::open(&path).unwrap().into());
        let good = sheet(std::fs::File::options().write(true).open(&path).unwrap().into());
        scribes.write(&read_only, task(1, 10, 0, true));
        assert_eq!(wait_one(&scribes).result.unwrap_err().raw_os_error(), Some(libc::EBADF));
        scribes.write(&good, task(2, 10, 0, true));
        wait_one(&scribes).result.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [2; 10]);
    }
}
