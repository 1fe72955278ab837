//! The shipper's end of the control socket: one call a request, each with a deadline.
//!
//! Nothing here waits in the kernel for longer than [`TICK`] at a time, from the connection on: whatever a tracker that
//! hangs is asked for, its caller's wish to stop is heard. A call that ended in anything but an answer leaves the
//! connection of no more use: connect again.

use super::frame::{ANSWER_MAX, REQUEST_MAX};
use super::message::{Answer, Attached, DESCRIPTORS_PER_DISK, Frozen, Refusal, Request, Status, VERSION};
use super::sys::{Channel, ChannelError};
use crate::id::{Anchor, AttachNumber, CutId, TargetId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long an answer may take that the tracker gives from memory. A loaded host is slow: this finds the dead.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// How long the next part of a message may take that has begun to come.
const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// How often a wait looks whether its caller still wants the answer.
pub const TICK: Duration = Duration::from_millis(100);

/// Says whether the caller still wants what it asked for.
type Stop = Box<dyn Fn() -> bool + Send + Sync>;

/// Why a request has no answer of the expected kind.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens at the socket.
    Connect(io::Error),
    /// The connection broke; the tracker may be gone.
    Channel(ChannelError),
    /// No answer within the deadline.
    Deadline,
    /// The caller no longer wants the answer.
    Stopped,
    /// The tracker understood and said no.
    Refused(Refusal),
    /// An answer to another question, or with the wrong number of descriptors.
    Unexpected,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(_) => f.write_str("no tracker answers at the control socket"),
            Self::Channel(_) => f.write_str("the connection to the tracker broke"),
            Self::Deadline => f.write_str("the tracker does not answer"),
            Self::Stopped => f.write_str("stopped while waiting for the tracker"),
            Self::Refused(refusal) => write!(f, "the tracker refuses: {refusal}"),
            Self::Unexpected => f.write_str("the tracker gave an answer to another question"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) => Some(error),
            Self::Channel(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ChannelError> for ClientError {
    fn from(error: ChannelError) -> Self {
        Self::Channel(error)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "it speaks version {version} of the control protocol"),
            Self::Revoked { newest } => write!(f, "a newer shipper attached (number {newest})"),
            Self::Busy { cut } => write!(f, "the freeze of cut {cut} is live"),
            Self::NoSuchFreeze => f.write_str("no freeze of this cut is live"),
            Self::Mismatch(what) | Self::Unable(what) | Self::Protocol(what) => f.write_str(what),
            Self::Denied => f.write_str("this user may not ask it"),
        }
    }
}

/// The descriptors of one disk of a freeze, read-only and opened for this shipper alone (R1).
#[derive(Debug)]
pub struct HandedDisk {
    /// The disk itself.
    pub disk: OwnedFd,
    /// The sealed change log.
    pub changes: OwnedFd,
    /// The preserved map: 64-bit words on tmpfs.
    pub preserved: OwnedFd,
    /// The preserved data, at the disk's own offsets.
    pub store: OwnedFd,
    /// The map of the blocks changed since the cut, as long as the freeze lives: 64-bit words on tmpfs.
    pub open: OwnedFd,
}

/// A freeze that can be read.
#[derive(Debug)]
pub struct Handed {
    /// What it is.
    pub frozen: Frozen,
    /// For each disk of it, in order.
    pub disks: Vec<HandedDisk>,
}

/// A connection that has said hello.
pub struct Client {
    channel: Channel,
    stop: Stop,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("channel", &self.channel).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects and says hello.
    ///
    /// # Errors
    /// Nobody listens, or whoever does speaks another version.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        Self::connect_until(socket, || false)
    }

    /// As [`Self::connect`]; this and every later wait ends with [`ClientError::Stopped`] once `stop` says so.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_until(
        socket: &Path,
        stop: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<Self, ClientError> {
        let stream = dial(socket, &stop)?;
        Self::over(stream, Box::new(stop))
    }

    /// Says hello over a connected stream.
    fn over(stream: UnixStream, stop: Stop) -> Result<Self, ClientError> {
        stream.set_write_timeout(Some(BODY_DEADLINE)).map_err(ClientError::Connect)?;
        let mut client = Self { channel: Channel::new(stream), stop };
        match client.ask(&Request::Hello { version: VERSION }, Some(ANSWER_DEADLINE))? {
            (Answer::Hello { version }, _) if version == VERSION => Ok(client),
            (Answer::Hello { version }, _) => Err(ClientError::Refused(Refusal::Version(version))),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Takes the next attach number and so revokes the shipper before (V9).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn attach(&mut self, target: TargetId) -> Result<Attached, ClientError> {
        match self.ask(&Request::Attach { target }, Some(ANSWER_DEADLINE))? {
            (Answer::Attached(attached), _) => Ok(attached),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Cuts the group and waits, without a deadline of its own, until the freeze is sealed (C2).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn cut(&mut self, attach: AttachNumber, full: bool) -> Result<Handed, ClientError> {
        self.handed(&Request::Cut { attach, full })
    }

    /// Gets the descriptors of the live freeze again, once it is sealed.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn reopen(&mut self, attach: AttachNumber, cut: CutId) -> Result<Handed, ClientError> {
        self.handed(&Request::Reopen { attach, cut })
    }

    /// Whether the freeze is still exact (R2). To be asked after the last read of all disks.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn confirm(&mut self, attach: AttachNumber, cut: CutId) -> Result<bool, ClientError> {
        match self.ask(&Request::Confirm { attach, cut }, Some(ANSWER_DEADLINE))? {
            (Answer::Confirmed { exact }, _) => Ok(exact),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Tells of a checkpoint or fuzzy entry of the live freeze, by the hash of its header (V10).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn shipped(&mut self, attach: AttachNumber, cut: CutId, entry: [u8; 32]) -> Result<(), ClientError> {
        self.done(&Request::Shipped { attach, cut, entry })
    }

    /// Ends a freeze whose entry is published (V9). Waits for durability, so it has four deadlines' time.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn release(
        &mut self,
        target: TargetId,
        attach: AttachNumber,
        cut: CutId,
        anchor: Anchor,
    ) -> Result<(), ClientError> {
        self.done(&Request::Release { target, attach, cut, anchor })
    }

    /// Forgets a freeze; its blocks stay pending (C4).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn undo(&mut self, attach: AttachNumber, cut: CutId) -> Result<(), ClientError> {
        self.done(&Request::Undo { attach, cut })
    }

    /// Has the next cut freeze and compare everything.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn resynchronize(&mut self, attach: AttachNumber, reason: &str) -> Result<(), ClientError> {
        self.done(&Request::Resynchronize { attach, reason: reason.to_owned() })
    }

    /// The tracker's state.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        match self.ask(&Request::Status, Some(ANSWER_DEADLINE))? {
            (Answer::Status(status), _) => Ok(status),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Whether the tracker has said something unasked, or has closed: a newer shipper attached, or it is gone.
    ///
    /// # Errors
    /// What it said.
    pub fn idle(&mut self) -> Result<(), ClientError> {
        if !self.readable(Duration::ZERO)? {
            return Ok(());
        }
        match self.receive(Some(BODY_DEADLINE))? {
            (Answer::Refused(refusal), _) => Err(ClientError::Refused(refusal)),
            _ => Err(ClientError::Unexpected),
        }
    }

    fn done(&mut self, request: &Request) -> Result<(), ClientError> {
        match self.ask(request, Some(4 * ANSWER_DEADLINE))? {
            (Answer::Done, _) => Ok(()),
            _ => Err(ClientError::Unexpected),
        }
    }

    fn handed(&mut self, request: &Request) -> Result<Handed, ClientError> {
        let (Answer::Frozen(frozen), descriptors) = self.ask(request, None)? else {
            return Err(ClientError::Unexpected);
        };
        if descriptors.len() != frozen.disks.len() * DESCRIPTORS_PER_DISK {
            return Err(ClientError::Unexpected);
        }
        let mut rest = descriptors.into_iter();
        let mut disks = Vec::with_capacity(frozen.disks.len());
        while let (Some(disk), Some(changes), Some(preserved), Some(store), Some(open)) =
            (rest.next(), rest.next(), rest.next(), rest.next(), rest.next())
        {
            disks.push(HandedDisk { disk, changes, preserved, store, open });
        }
        Ok(Handed { frozen, disks })
    }

    /// Sends a request and waits for its answer; a refusal is an error.
    fn ask(
        &mut self,
        request: &Request,
        deadline: Option<Duration>,
    ) -> Result<(Answer, Vec<OwnedFd>), ClientError> {
        // A refusal said unasked explains a broken pipe better than the pipe does.
        if let Err(error) = self.channel.send::<_, REQUEST_MAX>(request, &[]) {
            self.idle()?;
            return Err(ClientError::Channel(error));
        }
        match self.receive(deadline)? {
            (Answer::Refused(refusal), _) => Err(ClientError::Refused(refusal)),
            answer => Ok(answer),
        }
    }

    /// Receives a message that begins to come within `deadline`.
    fn receive(&self, mut deadline: Option<Duration>) -> Result<(Answer, Vec<OwnedFd>), ClientError> {
        self.channel.receive_when::<Answer, ClientError, ANSWER_MAX>(|| {
            self.wait(deadline)?;
            deadline = Some(BODY_DEADLINE);
            Ok(())
        })
    }

    /// Waits until there is something to read, or the end of the connection.
    fn wait(&self, deadline: Option<Duration>) -> Result<(), ClientError> {
        let begun = Instant::now();
        while !self.readable(TICK)? {
            go_on(begun, deadline, &self.stop)?;
        }
        Ok(())
    }

    /// Waits at most `wait`.
    fn readable(&self, wait: Duration) -> Result<bool, ClientError> {
        let mut fds = [PollFd::new(self.channel.stream().as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(wait).expect("a short wait fits");
        match poll(&mut fds, timeout) {
            Ok(ready) => Ok(ready > 0),
            Err(nix::Error::EINTR) => Ok(false),
            Err(error) => Err(ClientError::Channel(ChannelError::Io(error.into()))),
        }
    }
}

/// Connects. A tracker that hangs does not take connections from its queue, and who finds that full would wait in the
/// kernel: it is tried again instead.
fn dial(path: &Path, stop: &impl Fn() -> bool) -> Result<UnixStream, ClientError> {
    let failed = |error: nix::Error| ClientError::Connect(error.into());
    let address =
        UnixAddr::new(path).map_err(|_| ClientError::Connect(io::ErrorKind::InvalidInput.into()))?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => break,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => go_on(begun, Some(ANSWER_DEADLINE), stop)?,
            Err(error) => return Err(failed(error)),
        }
        std::thread::sleep(TICK);
    }
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false).map_err(ClientError::Connect)?;
    Ok(stream)
}

/// Whether a wait that has begun then is to go on.
fn go_on(begun: Instant, deadline: Option<Duration>, stop: &impl Fn() -> bool) -> Result<(), ClientError> {
    if stop() {
        return Err(ClientError::Stopped);
    }
    if deadline.is_some_and(|deadline| begun.elapsed() >= deadline) {
        return Err(ClientError::Deadline);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Session;
    use std::io::Write;
    use std::os::fd::BorrowedFd;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::JoinHandle;

    /// A tracker that gives the listed answers, whatever it is asked.
    fn server(answers: Vec<(Answer, usize)>) -> (UnixStream, JoinHandle<Vec<Request>>) {
        let (here, there) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            let channel = Channel::new(there);
            let file = tempfile::tempfile().unwrap();
            let mut asked = Vec::new();
            for (answer, descriptors) in answers {
                match channel.receive::<Request, REQUEST_MAX>() {
                    Ok((request, _)) => asked.push(request),
                    Err(_) => break,
                }
                let fds: Vec<BorrowedFd<'_>> = (0..descriptors).map(|_| file.as_fd()).collect();
                channel.send::<_, ANSWER_MAX>(&answer, &fds).unwrap();
            }
            asked
        });
        (here, thread)
    }

    fn frozen(disks: usize) -> Frozen {
        let disk = super::super::message::FrozenDisk {
            id: Default::default(),
            size: 4096,
            block_shift: 12,
            direct: false,
            align: 1,
            compare: false,
            whole: true,
            frozen_bytes: 4096,
        };
        Frozen {
            cut: CutId([1; 16]),
            first_generation: Default::default(),
            generation: Default::default(),
            time_ns: 1,
            fuzzy: false,
            disks: vec![disk; disks],
        }
    }

    const HELLO: (Answer, usize) = (Answer::Hello { version: VERSION }, 0);

    #[test]
    fn a_freeze_comes_with_four_descriptors_a_disk_or_not_at_all() {
        let (stream, thread) = server(vec![
            HELLO,
            (Answer::Frozen(frozen(2)), 2 * DESCRIPTORS_PER_DISK),
            (Answer::Frozen(frozen(2)), 2 * DESCRIPTORS_PER_DISK - 1),
        ]);
        let mut client = Client::over(stream, Box::new(|| false)).unwrap();
        let attach = AttachNumber(3);
        let handed = client.cut(attach, true).unwrap();
        assert_eq!((handed.frozen.disks.len(), handed.disks.len()), (2, 2));
        let torn = client.reopen(attach, CutId([1; 16]));
        assert!(matches!(torn, Err(ClientError::Unexpected)));
        drop(client);
        let asked = thread.join().unwrap();
        assert_eq!(asked[1], Request::Cut { attach, full: true });
    }

    /// Schedule: the tracker hangs (it reads, and answers nothing, or only the first bytes of an answer) with any of our
    /// requests; the caller wants to stop.
    #[test]
    fn every_wait_ends_when_its_caller_stops() {
        type Call = fn(&mut Client) -> ClientError;
        let calls: [Call; 8] = [
            |client| client.attach(TargetId::default()).unwrap_err(),
            |client| client.cut(AttachNumber(1), false).unwrap_err(),
            |client| client.reopen(AttachNumber(1), CutId([1; 16])).unwrap_err(),
            |client| client.confirm(AttachNumber(1), CutId([1; 16])).unwrap_err(),
            |client| {
                let anchor = Anchor { vault: Default::default(), seq: 1, hash: [0; 32] };
                client.release(TargetId::default(), AttachNumber(1), CutId([1; 16]), anchor).unwrap_err()
            },
            |client| client.undo(AttachNumber(1), CutId([1; 16])).unwrap_err(),
            |client| client.resynchronize(AttachNumber(1), "why").unwrap_err(),
            |client| client.status().unwrap_err(),
        ];
        for begins in [false, true] {
            for call in calls {
                let (here, there) = UnixStream::pair().unwrap();
                let thread = std::thread::spawn(move || {
                    let channel = Channel::new(there);
                    let _ = channel.receive::<Request, REQUEST_MAX>().unwrap();
                    channel.send::<_, ANSWER_MAX>(&HELLO.0, &[]).unwrap();
                    let _ = channel.receive::<Request, REQUEST_MAX>().unwrap();
                    if begins {
                        channel.stream().write_all(&[0]).unwrap();
                    }
                    assert!(channel.receive::<Request, REQUEST_MAX>().is_err(), "the client has gone");
                });
                let stop = Arc::new(AtomicBool::new(false));
                let asked = stop.clone();
                let mut client = Client::over(here, Box::new(move || asked.load(Ordering::Relaxed))).unwrap();
                stop.store(true, Ordering::Relaxed);
                let begun = Instant::now();
                assert!(matches!(call(&mut client), ClientError::Stopped));
                assert!(begun.elapsed() < BODY_DEADLINE, "it was a deadline that ended it");
                drop(client);
                thread.join().unwrap();
            }
        }
    }

    /// Schedule: the tracker hangs and takes no connections; its queue is full; the caller wants to stop.
    #[test]
    fn connecting_ends_when_its_caller_stops() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let flags = SockFlag::SOCK_CLOEXEC;
        let listening = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        nix::sys::socket::bind(listening.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        nix::sys::socket::listen(&listening, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let _queued = UnixStream::connect(&path).unwrap();
        let begun = Instant::now();
        assert!(matches!(Client::connect_until(&path, || true), Err(ClientError::Stopped)));
        assert!(begun.elapsed() < ANSWER_DEADLINE, "it was a deadline that ended it");
    }

    #[test]
    fn revocation_is_heard_between_requests_and_within_one() {
        let revoked = Refusal::Revoked { newest: AttachNumber(9) };
        let (here, there) = UnixStream::pair().unwrap();
        let said = revoked.clone();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let channel = Channel::new(there);
            let _ = channel.receive::<Request, REQUEST_MAX>().unwrap();
            channel.send::<_, ANSWER_MAX>(&HELLO.0, &[]).unwrap();
            wait.recv().unwrap();
            channel.send::<_, ANSWER_MAX>(&Answer::Refused(said), &[]).unwrap();
        });
        let mut client = Client::over(here, Box::new(|| false)).unwrap();
        client.idle().expect("nothing was said yet");
        go.send(()).unwrap();
        thread.join().unwrap();
        let heard = client.confirm(AttachNumber(1), CutId([0; 16]));
        assert!(matches!(heard, Err(ClientError::Refused(refusal)) if refusal == revoked));
        assert!(matches!(client.idle(), Err(ClientError::Channel(ChannelError::Closed))));
    }

    #[test]
    fn a_tracker_of_another_version_is_refused() {
        let (stream, _thread) = server(vec![(Answer::Hello { version: VERSION + 1 }, 0)]);
        let refused = Client::over(stream, Box::new(|| false));
        assert!(
            matches!(refused, Err(ClientError::Refused(Refusal::Version(version))) if version == VERSION + 1)
        );
        let (stream, _thread) = server(vec![
            HELLO,
            (
                Answer::Attached(Attached {
                    attach: AttachNumber(2),
                    group: "g".into(),
                    session: Session(1),
                    disks: vec![],
                    anchor: None,
                    live: None,
                    vouched: vec![],
                }),
                0,
            ),
        ]);
        let mut client = Client::over(stream, Box::new(|| false)).unwrap();
        assert_eq!(client.attach(TargetId([0; 16])).unwrap().attach, AttachNumber(2));
    }
}
