//! Frames over a unix socket, with descriptors: the kernel's side of the control socket, blocking, for both ends.

use super::frame::{self, FrameError, HEADER_LEN, Header};
use bincode::{Decode, Encode};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use nix::unistd::Gid;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// The most descriptors that one `sendmsg` carries; the kernel's own limit is 253.
const DESCRIPTORS_PER_MESSAGE: usize = 128;

/// Why a message was not sent or received.
#[derive(Debug)]
pub enum ChannelError {
    /// The other side closed the connection between two messages.
    Closed,
    /// The socket failed or timed out.
    Io(io::Error),
    /// What came is not a message.
    Frame(FrameError),
}

impl std::fmt::Display for ChannelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("the other side closed the control connection"),
            Self::Io(_) => f.write_str("the control connection failed"),
            Self::Frame(_) => f.write_str("the control connection carries something else than messages"),
        }
    }
}

impl std::error::Error for ChannelError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Closed => None,
            Self::Io(error) => Some(error),
            Self::Frame(error) => Some(error),
        }
    }
}

impl From<io::Error> for ChannelError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<FrameError> for ChannelError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

/// The supplementary groups that the process at the other end had when it connected.
///
/// # Errors
/// Whatever the kernel says.
pub fn peer_groups(stream: &UnixStream) -> io::Result<Vec<Gid>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut length = libc::socklen_t::try_from(size_of_val(&groups[..])).map_err(io::Error::other)?;
        // SAFETY: the buffer has the length that is told, and any bytes are group ids.
        let asked = unsafe {
            let (level, name) = (libc::SOL_SOCKET, libc::SO_PEERGROUPS);
            libc::getsockopt(stream.as_raw_fd(), level, name, groups.as_mut_ptr().cast(), &mut length)
        };
        let count = length as usize / size_of::<libc::gid_t>();
        if asked == 0 {
            groups.truncate(count);
            return Ok(groups.into_iter().map(Gid::from_raw).collect());
        }
        match io::Error::last_os_error() {
            // The length is now what it takes.
            error if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() => {
                groups.resize(count, 0);
            }
            error => return Err(error),
        }
    }
}

/// One end of a control connection. Blocking; deadlines are the socket's own timeouts.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
}

impl Channel {
    /// Speaks over `stream`, which must be in blocking mode.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// The socket, for timeouts, polling and shutting down.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends a value of at most `LIMIT` bytes with descriptors, which stay open here.
    ///
    /// # Errors
    /// [`FrameError::Length`] if the value is larger: nothing is sent then. Whatever the socket says; the connection is
    /// then of no more use.
    pub fn send<T: Encode, const LIMIT: usize>(
        &self,
        value: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let bytes = frame::encode::<T, LIMIT>(value, descriptors.len())?;
        let mut rest = &bytes[..];
        let mut chunks = descriptors.chunks(DESCRIPTORS_PER_MESSAGE).peekable();
        while let Some(chunk) = chunks.next() {
            // Every message needs a byte to travel with; the last one takes what is left.
            let take = if chunks.peek().is_some() { 1 } else { rest.len() };
            let raw: Vec<RawFd> = chunk.iter().map(AsRawFd::as_raw_fd).collect();
            let sent = self.send_once(&rest[..take], &raw)?;
            rest = &rest[sent..];
        }
        while !rest.is_empty() {
            let sent = self.send_once(rest, &[])?;
            rest = &rest[sent..];
        }
        Ok(())
    }

    fn send_once(&self, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<usize> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control: &[ControlMessage<'_>] = if descriptors.is_empty() { &[] } else { &rights };
        let iov = [IoSlice::new(bytes)];
        loop {
            let sent =
                sendmsg::<UnixAddr>(self.stream.as_raw_fd(), &iov, control, MsgFlags::MSG_NOSIGNAL, None);
            match sent {
                Err(nix::Error::EINTR) => {}
                sent => return Ok(sent?),
            }
        }
    }

    /// Waits for a value of at most `LIMIT` bytes and its descriptors (close-on-exec).
    ///
    /// # Errors
    /// [`ChannelError::Closed`] if the other side closed between two messages; whatever the socket says, a timeout
    /// included; anything that is not a message.
    pub fn receive<T: Decode<()>, const LIMIT: usize>(&self) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        self.receive_when::<T, ChannelError, LIMIT>(|| Ok(()))
    }

    /// As [`Self::receive`], for who must not be held up in the kernel: before each read of the socket `ready` waits
    /// until there is something to read, or says why not to wait any longer.
    ///
    /// # Errors
    /// As [`Self::receive`]; what `ready` says.
    pub fn receive_when<T: Decode<()>, E: From<ChannelError>, const LIMIT: usize>(
        &self,
        mut ready: impl FnMut() -> Result<(), E>,
    ) -> Result<(T, Vec<OwnedFd>), E> {
        let mut descriptors = Vec::new();
        let mut head = [0; HEADER_LEN];
        if !self.fill(&mut head, &mut descriptors, &mut ready)? {
            return Err(ChannelError::Closed.into());
        }
        let Header { length, descriptors: expected } =
            frame::header(&head, LIMIT).map_err(ChannelError::Frame)?;
        let mut body = vec![0; length];
        if !self.fill(&mut body, &mut descriptors, &mut ready)? && length > 0 {
            return Err(ChannelError::Io(io::ErrorKind::UnexpectedEof.into()).into());
        }
        if descriptors.len() != expected {
            return Err(ChannelError::Frame(FrameError::Descriptors(descriptors.len())).into());
        }
        let value = frame::payload::<T, LIMIT>(&body).map_err(ChannelError::Frame)?;
        Ok((value, descriptors))
    }

    /// Fills the buffer whole and collects the descriptors on the way. False: the stream ended before the first byte.
    fn fill<E: From<ChannelError>>(
        &self,
        buffer: &mut [u8],
        descriptors: &mut Vec<OwnedFd>,
        ready: &mut impl FnMut() -> Result<(), E>,
    ) -> Result<bool, E> {
        let mut filled = 0;
        while filled < buffer.len() {
            ready()?;
            let got = self.receive_once(&mut buffer[filled..], descriptors).map_err(ChannelError::Io)?;
            if got == 0 && filled == 0 {
                return Ok(false);
            }
            if got == 0 {
                return Err(ChannelError::Io(io::ErrorKind::UnexpectedEof.into()).into());
            }
            if descriptors.len() > frame::DESCRIPTORS_MAX {
                return Err(ChannelError::Frame(FrameError::Descriptors(descriptors.len())).into());
            }
            filled += got;
        }
        Ok(true)
    }

    fn receive_once(&self, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
        // Room for more than the kernel ever sends, so that none is cut off and leaked.
        let mut control = nix::cmsg_space!([RawFd; 253]);
        let mut iov = [IoSliceMut::new(buffer)];
        let message = loop {
            let received = recvmsg::<UnixAddr>(
                self.stream.as_raw_fd(),
                &mut iov,
                Some(&mut control),
                MsgFlags::MSG_CMSG_CLOEXEC,
            );
            match received {
                Err(nix::Error::EINTR) => {}
                received => break received?,
            }
        };
        for item in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = item {
                // SAFETY: the kernel has just installed these descriptors for us; nobody else knows them.
                descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        Ok(message.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{ANSWER_MAX, DESCRIPTORS_MAX, REQUEST_MAX};
    use super::super::message::{Answer, Request};
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    fn pair() -> (Channel, Channel) {
        let (a, b) = UnixStream::pair().unwrap();
        (Channel::new(a), Channel::new(b))
    }

    #[test]
    fn descriptors_arrive_in_order_even_when_one_message_cannot_carry_them() {
        let (here, there) = pair();
        let files: Vec<_> = (0..DESCRIPTORS_MAX)
            .map(|n| {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&(n as u64).to_le_bytes()).unwrap();
                file
            })
            .collect();
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        here.send::<_, ANSWER_MAX>(&Answer::Done, &borrowed).unwrap();
        here.send::<_, ANSWER_MAX>(&Answer::Confirmed { exact: true }, &[]).unwrap();
        let (answer, received) = there.receive::<Answer, ANSWER_MAX>().unwrap();
        assert_eq!(answer, Answer::Done);
        assert_eq!(received.len(), DESCRIPTORS_MAX);
        for (n, fd) in received.into_iter().enumerate() {
            let mut bytes = [0; 8];
            std::os::unix::fs::FileExt::read_exact_at(&std::fs::File::from(fd), &mut bytes, 0).unwrap();
            assert_eq!(u64::from_le_bytes(bytes), n as u64);
        }
        let (answer, received) = there.receive::<Answer, ANSWER_MAX>().unwrap();
        assert_eq!((answer, received.len()), (Answer::Confirmed { exact: true }, 0));
    }

    #[test]
    fn the_groups_of_a_peer_are_those_of_its_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let [mut found, mut expected] = [peer_groups(&ours).unwrap(), nix::unistd::getgroups().unwrap()];
        found.sort_unstable_by_key(|group| group.as_raw());
        expected.sort_unstable_by_key(|group| group.as_raw());
        assert_eq!(found, expected);
    }

    #[test]
    fn a_closed_connection_and_a_torn_message_are_told_apart() {
        let (here, there) = pair();
        drop(here);
        assert!(matches!(there.receive::<Request, REQUEST_MAX>(), Err(ChannelError::Closed)));
        let (here, there) = pair();
        let bytes = frame::encode::<_, REQUEST_MAX>(&Request::Status, 0).unwrap();
        (&here.stream).write_all(&bytes[..bytes.len() - 1]).unwrap();
        drop(here);
        assert!(matches!(there.receive::<Request, REQUEST_MAX>(), Err(ChannelError::Io(_))));
    }
}
