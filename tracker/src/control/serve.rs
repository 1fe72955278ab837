//! The tracker's end of the control socket: threads of their own, off the event loop, that check who asks, carry
//! questions to the loop and answers back, and open the descriptors that go with them (R1).
//!
//! A connection has one thread; there are few shippers. The loop answers from memory, or when something is durable:
//! a thread may wait long, but never holds anybody up.

use super::frame::{ANSWER_MAX, FrameError, REQUEST_MAX};
use super::message::{Answer, Frozen, Refusal, Request, VERSION};
use super::sys::{Channel, ChannelError, peer_groups};
use crate::engine::{Asker, Stopped};
use crate::error::{Error, Kind};
use crate::group::Question;
use crate::id::AttachNumber;
use crate::limits::clip_reason;
use crate::sidecar::Handout;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, Uid, geteuid};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tracing::{debug, info, warn};

/// The most connections at once.
const PEERS_MAX: usize = 16;
/// How long a message may take from its first byte to its last, and a connection until its hello.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(10);
/// How often a thread that waits for an answer looks whether its shipper is still there.
const LOOK: Duration = Duration::from_millis(200);

/// Where questions go and descriptors come from.
pub trait Tracker: Clone + Send + 'static {
    /// See [`Asker::ask`].
    ///
    /// # Errors
    /// The loop has ended.
    fn ask(&self, question: Question) -> Result<Receiver<Answer>, Stopped>;

    /// See [`Handout::open`].
    ///
    /// # Errors
    /// Whatever the file system says.
    fn open(&self, frozen: &Frozen) -> io::Result<Vec<OwnedFd>>;
}

/// The tracker of this process.
#[derive(Clone, Debug)]
pub struct Served {
    /// Asks the loop.
    pub asker: Asker,
    /// Opens what is handed out.
    pub handout: Handout,
}

impl Tracker for Served {
    fn ask(&self, question: Question) -> Result<Receiver<Answer>, Stopped> {
        self.asker.ask(question)
    }

    fn open(&self, frozen: &Frozen) -> io::Result<Vec<OwnedFd>> {
        self.handout.open(frozen.generation, frozen.cut)
    }
}

/// Who may ask: root, the tracker's own user, and members of one group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Access {
    /// The group, if one is named.
    pub group: Option<Gid>,
}

impl Access {
    fn allows(self, stream: &UnixStream) -> bool {
        let Ok(peer) = getsockopt(stream, PeerCredentials) else {
            return false;
        };
        let (uid, gid) = (Uid::from_raw(peer.uid()), Gid::from_raw(peer.gid()));
        if uid.is_root() || uid == geteuid() {
            return true;
        }
        // As the kernel counted when it let the peer connect: what a database of users says may be older or newer.
        self.group.is_some_and(|group| {
            gid == group || peer_groups(stream).is_ok_and(|groups| groups.contains(&group))
        })
    }
}

/// One connection.
#[derive(Debug)]
struct Peer {
    channel: Channel,
    state: Mutex<PeerState>,
}

#[derive(Debug, Default)]
struct PeerState {
    /// The attach number that it last used.
    attach: Option<AttachNumber>,
    /// Told that a newer shipper attached: nothing more is said.
    revoked: bool,
}

impl Peer {
    fn state(&self) -> MutexGuard<'_, PeerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something, whole: answers and a revocation don't mix. False: nothing more can be said.
    fn say(&self, answer: &Answer, descriptors: &[OwnedFd]) -> bool {
        let state = self.state();
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        if state.revoked {
            return false;
        }
        match self.channel.send::<_, ANSWER_MAX>(answer, &borrowed) {
            Err(ChannelError::Frame(FrameError::Length(bytes))) => {
                let why = format!("the answer would have {bytes} bytes, more than {ANSWER_MAX}");
                self.channel.send::<_, ANSWER_MAX>(&Answer::Refused(Refusal::Unable(why)), &[]).is_ok()
            }
            sent => sent.is_ok(),
        }
    }

    /// A newer shipper attached (V9): says so, even unasked, and hangs up.
    fn revoke(&self, newest: AttachNumber) {
        let mut state = self.state();
        if !state.revoked {
            state.revoked = true;
            let answer = Answer::Refused(Refusal::Revoked { newest });
            // One that does not listen finds the connection closed.
            let _ = self.channel.send::<_, ANSWER_MAX>(&answer, &[]);
        }
        drop(state);
        self.hang_up();
    }

    fn hang_up(&self) {
        let _ = self.channel.stream().shutdown(Shutdown::Both);
    }
}

#[derive(Debug, Default)]
struct Peers {
    newest: Option<AttachNumber>,
    connected: Vec<Arc<Peer>>,
    /// No more connections.
    closed: bool,
}

/// What the threads share.
#[derive(Clone, Debug, Default)]
struct Shared(Arc<Mutex<Peers>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Peers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection in, unless there are too many.
    fn join(&self, peer: &Arc<Peer>) -> bool {
        let mut peers = self.lock();
        let joined = !peers.closed && peers.connected.len() < PEERS_MAX;
        if joined {
            peers.connected.push(Arc::clone(peer));
        }
        joined
    }

    fn part(&self, peer: &Arc<Peer>) {
        self.lock().connected.retain(|other| !Arc::ptr_eq(other, peer));
    }

    /// `peer` has attached with this number: whoever has an older one is told.
    fn attached(&self, peer: &Peer, number: AttachNumber) {
        peer.state().attach = Some(number);
        let (newest, connected) = {
            let mut peers = self.lock();
            peers.newest = peers.newest.max(Some(number));
            (peers.newest.expect("just set"), peers.connected.clone())
        };
        for other in connected {
            let older = other.state().attach.is_some_and(|attach| attach < newest);
            if older {
                other.revoke(newest);
            }
        }
    }
}

/// The running server.
#[derive(Debug)]
pub struct ControlServer {
    shared: Shared,
    stop: Arc<EventFd>,
    thread: JoinHandle<()>,
}

impl ControlServer {
    /// Hangs up on everybody and waits until no thread answers any more.
    pub fn stop(self) {
        // It can't fail: the counter is written once.
        let _ = self.stop.write(1);
        let connected = {
            let mut peers = self.shared.lock();
            peers.closed = true;
            peers.connected.clone()
        };
        connected.iter().for_each(|peer| peer.hang_up());
        // A panic aborts the process; there is nothing to report here.
        let _ = self.thread.join();
    }
}

/// Serves shippers on a socket.
///
/// # Errors
/// The thread can't be made.
pub fn serve(listener: UnixListener, tracker: impl Tracker, access: Access) -> Result<ControlServer, Error> {
    let failed = |error: io::Error| Error::caused(Kind::Other, "the control server can't be started", error);
    let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(|error| failed(error.into()))?;
    let (shared, stop) = (Shared::default(), Arc::new(stop));
    let (for_thread, stopped) = (shared.clone(), Arc::clone(&stop));
    let thread = std::thread::Builder::new()
        .name("towline-control".into())
        .spawn(move || accept(&listener, &stopped, &for_thread, &tracker, access))
        .map_err(failed)?;
    Ok(ControlServer { shared, stop, thread })
}

fn accept(listener: &UnixListener, stop: &EventFd, shared: &Shared, tracker: &impl Tracker, access: Access) {
    loop {
        let mut wanted =
            [PollFd::new(listener.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wanted, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return warn!(%error, "the control socket can't be watched"),
        }
        if wanted[1].any().unwrap_or(true) {
            return;
        }
        if !wanted[0].any().unwrap_or(true) {
            continue;
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "a shipper can't be accepted");
                std::thread::sleep(LOOK);
                continue;
            }
        };
        let (shared, tracker) = (shared.clone(), tracker.clone());
        let spawned = std::thread::Builder::new()
            .name("towline-shipper".into())
            .spawn(move || converse(stream, &shared, &tracker, access));
        if let Err(error) = spawned {
            warn!(%error, "a shipper can't be served");
        }
    }
}

/// One connection from hello to goodbye.
fn converse(stream: UnixStream, shared: &Shared, tracker: &impl Tracker, access: Access) {
    let allowed = access.allows(&stream);
    let deadlines = stream
        .set_read_timeout(Some(MESSAGE_DEADLINE))
        .and_then(|()| stream.set_write_timeout(Some(MESSAGE_DEADLINE)));
    if let Err(error) = deadlines {
        return debug!(%error, "a connection without deadlines is not served");
    }
    let peer = Arc::new(Peer { channel: Channel::new(stream), state: Mutex::default() });
    if !shared.join(&peer) {
        let why = format!("{PEERS_MAX} shippers are connected already");
        peer.say(&Answer::Refused(Refusal::Unable(why)), &[]);
        return;
    }
    if hello(&peer, allowed) {
        while answer_next(&peer, shared, tracker) {}
    }
    peer.hang_up();
    shared.part(&peer);
}

/// The first message. False: the connection is over.
fn hello(peer: &Peer, allowed: bool) -> bool {
    let Ok((request, _)) = peer.channel.receive::<Request, REQUEST_MAX>() else {
        return false;
    };
    let refusal = match request {
        _ if !allowed => Refusal::Denied,
        Request::Hello { version: VERSION } => return peer.say(&Answer::Hello { version: VERSION }, &[]),
        Request::Hello { .. } => Refusal::Version(VERSION),
        _ => Refusal::Protocol("a connection begins with hello".into()),
    };
    debug!(?refusal, "a shipper is not let in");
    peer.say(&Answer::Refused(refusal), &[]);
    false
}

/// Waits for a request and answers it. False: the connection is over.
fn answer_next(peer: &Peer, shared: &Shared, tracker: &impl Tracker) -> bool {
    // A shipper may sleep between two requests; the deadline is for a message that has begun.
    let mut wanted = [PollFd::new(peer.channel.stream().as_fd(), PollFlags::POLLIN)];
    while let Err(nix::Error::EINTR) = poll(&mut wanted, PollTimeout::NONE) {}
    let Ok((request, _)) = peer.channel.receive::<Request, REQUEST_MAX>() else {
        return false;
    };
    let (question, attach) = match question(request) {
        Ok(question) => question,
        Err(refusal) => return peer.say(&Answer::Refused(refusal), &[]),
    };
    if let Some(attach) = attach {
        peer.state().attach = Some(attach);
    }
    let stopping = || Answer::Refused(Refusal::Unable("the tracker is stopping".into()));
    let answer = match tracker.ask(question) {
        Ok(answer) => match wait(peer, &answer) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => stopping(),
            Err(RecvTimeoutError::Timeout) => return false,
        },
        Err(Stopped) => stopping(),
    };
    match answer {
        Answer::Frozen(frozen) => {
            let (answer, descriptors) = match tracker.open(&frozen) {
                Ok(descriptors) => (Answer::Frozen(frozen), descriptors),
                Err(error) => {
                    let why = format!("the freeze can't be handed out: {error}");
                    warn!(%error, cut = %frozen.cut, "the freeze can't be handed out");
                    (Answer::Refused(Refusal::Unable(why)), Vec::new())
                }
            };
            peer.say(&answer, &descriptors)
        }
        Answer::Attached(attached) => {
            let number = attached.attach;
            info!(attach = %number, "a shipper attached");
            let said = peer.say(&Answer::Attached(attached), &[]);
            // After the answer: an older shipper that does not listen must not hold the new one up.
            shared.attached(peer, number);
            said
        }
        Answer::Refused(Refusal::Revoked { newest }) => {
            peer.revoke(newest);
            false
        }
        answer => peer.say(&answer, &[]),
    }
}

/// Waits for the loop's answer as long as the shipper is there: `Timeout` means that it is not.
fn wait(peer: &Peer, answer: &Receiver<Answer>) -> Result<Answer, RecvTimeoutError> {
    loop {
        match answer.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) => {
                // Nothing is asked for: a hang-up is told anyway.
                let mut wanted = [PollFd::new(peer.channel.stream().as_fd(), PollFlags::empty())];
                if poll(&mut wanted, PollTimeout::ZERO).is_ok() && wanted[0].any().unwrap_or(true) {
                    return Err(RecvTimeoutError::Timeout);
                }
            }
            answer => return answer,
        }
    }
}

/// What a request asks of the machine, and with which attach number.
fn question(request: Request) -> Result<(Question, Option<AttachNumber>), Refusal> {
    Ok(match request {
        Request::Hello { .. } => return Err(Refusal::Protocol("hello is said once".into())),
        Request::Attach { target } => (Question::Attach { target }, None),
        Request::Cut { attach, full } => (Question::Cut { attach, full }, Some(attach)),
        Request::Reopen { attach, cut } => (Question::Reopen { attach, cut }, Some(attach)),
        Request::Confirm { attach, cut } => (Question::Confirm { attach, cut }, Some(attach)),
        Request::Shipped { attach, cut, entry } => (Question::Shipped { attach, cut, entry }, Some(attach)),
        Request::Release { target, attach, cut, anchor } => {
            (Question::Release { attach, target, cut, anchor }, Some(attach))
        }
        Request::Undo { attach, cut } => (Question::Undo { attach, cut }, Some(attach)),
        Request::Resynchronize { attach, reason } => {
            (Question::Resynchronize { attach, reason: clip_reason(&reason).to_owned() }, Some(attach))
        }
        Request::Status => (Question::Status, None),
    })
}

#[cfg(test)]
mod tests {
    use super::super::client::{Client, ClientError};
    use super::*;
    use crate::control::message::{Attached, FrozenDisk};
    use crate::id::{CutId, DiskId, Generation, Session, TargetId};
    use crossbeam_channel::{Sender, bounded};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    /// Numbers attaches, seals a cut at once unless it is full, never answers an undo, and a status with too much.
    #[derive(Clone, Debug, Default)]
    struct Fake {
        attaches: Arc<AtomicU64>,
        silent: Arc<Mutex<Vec<Sender<Answer>>>>,
    }

    impl Tracker for Fake {
        fn ask(&self, question: Question) -> Result<Receiver<Answer>, Stopped> {
            let (reply, answer) = bounded(1);
            let said = match question {
                Question::Attach { .. } => Answer::Attached(Attached {
                    attach: AttachNumber(self.attaches.fetch_add(1, SeqCst) + 1),
                    group: "g".into(),
                    session: Session(1),
                    disks: Vec::new(),
                    anchor: None,
                    live: None,
                    vouched: Vec::new(),
                }),
                Question::Cut { full: true, .. } => return Err(Stopped),
                Question::Cut { .. } => Answer::Frozen(frozen()),
                Question::Undo { .. } => {
                    self.silent.lock().unwrap().push(reply);
                    return Ok(answer);
                }
                Question::Confirm { attach, .. } if attach.0 < self.attaches.load(SeqCst) => {
                    let newest = AttachNumber(self.attaches.load(SeqCst));
                    Answer::Refused(Refusal::Revoked { newest })
                }
                Question::Status => Answer::Refused(Refusal::Unable("x".repeat(ANSWER_MAX))),
                _ => Answer::Confirmed { exact: true },
            };
            reply.send(said).unwrap();
            Ok(answer)
        }

        fn open(&self, frozen: &Frozen) -> io::Result<Vec<OwnedFd>> {
            let file = |_| Ok(tempfile::tempfile()?.into());
            (0..frozen.disks.len() * crate::control::message::DESCRIPTORS_PER_DISK).map(file).collect()
        }
    }

    fn frozen() -> Frozen {
        let disk = FrozenDisk {
            id: DiskId::default(),
            size: 1 << 20,
            block_shift: 12,
            direct: false,
            align: 1,
            compare: false,
            whole: false,
            frozen_bytes: 0,
        };
        Frozen {
            cut: CutId::default(),
            first_generation: Generation(1),
            generation: Generation(1),
            time_ns: 1,
            fuzzy: false,
            disks: vec![disk; 2],
        }
    }

    fn start() -> (ControlServer, PathBuf, tempfile::TempDir, Fake) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let fake = Fake::default();
        let listener = UnixListener::bind(&socket).unwrap();
        (serve(listener, fake.clone(), Access::default()).unwrap(), socket, directory, fake)
    }

    #[test]
    fn a_cut_comes_with_its_descriptors() {
        let (server, socket, _directory, _) = start();
        let mut client = Client::connect(&socket).unwrap();
        let attached = client.attach(TargetId::default()).unwrap();
        let handed = client.cut(attached.attach, false).unwrap();
        assert_eq!((handed.frozen, handed.disks.len()), (frozen(), 2));
        server.stop();
    }

    #[test]
    fn a_newer_attach_reaches_an_older_shipper_that_sleeps_or_waits() {
        let (server, socket, _directory, fake) = start();
        let mut sleeping = Client::connect(&socket).unwrap();
        let first = sleeping.attach(TargetId::default()).unwrap().attach;
        sleeping.idle().unwrap();
        let mut newer = Client::connect(&socket).unwrap();
        newer.attach(TargetId::default()).unwrap();
        let hears = |error: ClientError| matches!(error, ClientError::Refused(Refusal::Revoked { newest }) if newest.0 >= 2);
        let told = loop {
            if let Err(error) = sleeping.idle() {
                break error;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        assert!(hears(told));
        // A connection that comes back with the old number is refused and closed.
        let mut back = Client::connect(&socket).unwrap();
        assert!(hears(back.confirm(first, CutId::default()).unwrap_err()));
        assert!(back.status().is_err());
        // One that waits for its answer hears it as the answer.
        let waiting = std::thread::spawn(move || newer.undo(AttachNumber(2), CutId::default()));
        while fake.silent.lock().unwrap().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Client::connect(&socket).unwrap().attach(TargetId::default()).unwrap();
        assert!(hears(waiting.join().unwrap().unwrap_err()));
        server.stop();
    }

    #[test]
    fn an_answer_that_is_too_long_is_refused_and_the_connection_lives() {
        let (server, socket, _directory, _) = start();
        let mut client = Client::connect(&socket).unwrap();
        let attach = client.attach(TargetId::default()).unwrap().attach;
        let refused = client.status().unwrap_err();
        assert!(matches!(refused, ClientError::Refused(Refusal::Unable(why)) if why.len() < 100));
        assert!(client.confirm(attach, CutId::default()).unwrap());
        server.stop();
    }

    #[test]
    fn a_long_reason_is_clipped_between_two_letters() {
        let reason = "x".to_owned() + &"ü".repeat(REQUEST_MAX / 2 - 100);
        let asked = question(Request::Resynchronize { attach: AttachNumber(1), reason: reason.clone() });
        let Ok((Question::Resynchronize { reason: kept, .. }, _)) = asked else { panic!("the question") };
        assert_eq!((kept.len(), reason.starts_with(&kept)), (crate::limits::REASON_MAX - 1, true));
    }

    #[test]
    fn who_does_not_say_hello_or_speaks_otherwise_is_refused() {
        let (server, socket, _directory, _) = start();
        for (request, expected) in [
            (Request::Status, Refusal::Protocol("a connection begins with hello".into())),
            (Request::Hello { version: VERSION + 1 }, Refusal::Version(VERSION)),
        ] {
            let channel = Channel::new(UnixStream::connect(&socket).unwrap());
            channel.send::<_, REQUEST_MAX>(&request, &[]).unwrap();
            let (answer, _) = channel.receive::<Answer, ANSWER_MAX>().unwrap();
            assert_eq!(answer, Answer::Refused(expected));
            assert!(channel.receive::<Answer, ANSWER_MAX>().is_err());
        }
        server.stop();
    }

    #[test]
    fn a_stopped_loop_is_told_and_too_many_shippers_are_refused() {
        let (server, socket, _directory, _) = start();
        let mut clients: Vec<_> = (0..PEERS_MAX).map(|_| Client::connect(&socket).unwrap()).collect();
        let refused = Client::connect(&socket).unwrap_err();
        assert!(matches!(refused, ClientError::Refused(Refusal::Unable(_)) | ClientError::Channel(_)));
        let stopped = clients[0].cut(AttachNumber(1), true).unwrap_err();
        assert!(matches!(stopped, ClientError::Refused(Refusal::Unable(_))));
        server.stop();
        assert!(clients[1].status().is_err());
    }
}
