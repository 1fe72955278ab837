//! Listening sockets in the file system: they appear whole, take the place of stale ones, and go away with us.

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, chown};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use towline_tracker::error::{Error, Kind};

/// The longest path of a socket: the kernel's limit of 108 bytes with its end.
const PATH_MAX: usize = 107;

/// How long the sockets of a killed process may still answer.
const DYING: Duration = Duration::from_secs(2);
/// And how long if it is known that it is dead: a slow disk takes its time over the last requests.
const DEAD: Duration = Duration::from_secs(30);

/// Who may connect.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Access {
    /// What the process's umask says.
    Umask,
    /// This user only, and a group if one is given.
    Private(Option<Gid>),
}

/// A socket file that is removed at the end, unless another has taken its name.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| inode(&found) == self.inode) {
            // Somebody may have removed it before us.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(found: &fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// Checks that a socket can be made here, without making it.
///
/// # Errors
/// The path is too long, something else is there, somebody listens.
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    let length = path.as_os_str().len();
    if length > PATH_MAX {
        let text = format!(
            "{}: a socket's path has at most {PATH_MAX} bytes, this one has {length}: choose a shorter one, \
             in /run for instance",
            path.display()
        );
        return Err(Error::new(Kind::Socket, text));
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(path, error)),
        Ok(found) if !found.file_type().is_socket() => {
            let text = format!("{} is there and no socket: remove it or choose another path", path.display());
            return Err(Error::new(Kind::Socket, text));
        }
        Ok(_) => {}
    }
    let start = Instant::now();
    loop {
        match UnixStream::connect(path) {
            // Stale: its process is gone.
            Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A killed process's ring keeps its sockets until its last request is done: that is soon over.
            Ok(stream) if start.elapsed() < if is_dead(&stream) { DEAD } else { DYING } => {
                std::thread::sleep(Duration::from_millis(10))
            }
            Ok(_) => {
                let shown = path.display();
                let text = format!("{shown}: somebody listens there already: stop it or choose another path");
                return Err(Error::new(Kind::Socket, text));
            }
            Err(error) => return Err(failed(path, error)),
        }
    }
}

/// Whether the process that listens has ended but for what the kernel still does for it.
fn is_dead(stream: &UnixStream) -> bool {
    let Ok(peer) = getsockopt(stream, PeerCredentials) else { return false };
    match fs::read_to_string(format!("/proc/{}/stat", peer.pid())) {
        // The state follows the name, which is in parentheses.
        Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Listens. The file appears when connecting works, in place of a stale one.
///
/// # Errors
/// As [`check`], and whatever the file system says.
pub(crate) fn listen(path: &Path, access: Access) -> Result<(UnixListener, SocketFile), Error> {
    check(path)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let made = File::open(folder).and_then(|folder| {
        // By the folder's descriptor: the interim name can't be too long.
        let interim = format!("/proc/self/fd/{}/.towline-{}", folder.as_raw_fd(), std::process::id());
        let _ = fs::remove_file(&interim);
        let listener = UnixListener::bind(&interim)?;
        let finish = || -> io::Result<SocketFile> {
            if let Access::Private(group) = access {
                fs::set_permissions(&interim, Permissions::from_mode(0o600))?;
                if let Some(group) = group {
                    chown(interim.as_str(), None, Some(group))?;
                    fs::set_permissions(&interim, Permissions::from_mode(0o660))?;
                }
            }
            let inode = inode(&fs::symlink_metadata(&interim)?);
            fs::rename(&interim, path)?;
            Ok(SocketFile { path: path.to_owned(), inode })
        };
        let file = finish().inspect_err(|_| {
            let _ = fs::remove_file(&interim);
        })?;
        Ok((listener, file))
    });
    made.map_err(|error| failed(path, error))
}

/// Lets a group pass through our private folder to a socket in it; the folder can't be listed, its files stay ours.
///
/// # Errors
/// The folder can't be given to the group.
pub(crate) fn let_through(folder: &Path, group: Gid) -> Result<(), Error> {
    let given = chown(folder, None, Some(group)).map_err(io::Error::from);
    given.and_then(|()| fs::set_permissions(folder, Permissions::from_mode(0o710))).map_err(|error| {
        let shown = folder.display();
        let text = format!("{shown} can't be opened to the control group: name another place with --control");
        Error::caused(Kind::Socket, text, error)
    })
}

fn failed(path: &Path, error: io::Error) -> Error {
    let text = format!("{}: the socket can't be made ({error})", path.display());
    Error::caused(Kind::Socket, text, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (listener, file) = listen(&path, Access::Private(None)).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(listen(&path, Access::Umask).unwrap_err().kind(), Kind::Socket);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing interim is left");
        drop((listener, file));
        assert!(!path.exists());
    }

    #[test]
    fn the_socket_of_who_came_after_us_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (listener, file) = listen(&path, Access::Private(None)).unwrap();
        drop(listener);
        let _successor = listen(&path, Access::Private(None)).unwrap();
        drop(file);
        UnixStream::connect(&path).unwrap();
    }

    /// S2: what answers for a dead process is waited for longer than somebody alive.
    #[test]
    fn the_socket_of_a_dead_process_is_waited_for() {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
        use std::os::fd::AsRawFd;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let held =
            socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        bind(held.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        // Who listens is who answers: a child that is dead at once, while we hold the socket as the kernel would.
        // SAFETY: the child makes two system calls and touches no memory.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe {
                libc::listen(held.as_raw_fd(), 8);
                libc::_exit(0);
            }
        }
        let stat = format!("/proc/{child}/stat");
        while !fs::read_to_string(&stat).unwrap().contains(") Z") {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(is_dead(&UnixStream::connect(&path).unwrap()), "a zombie");
        // SAFETY: the child is ours, and nobody else waits for it.
        assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
        assert!(is_dead(&UnixStream::connect(&path).unwrap()), "gone");
        let _alive = UnixListener::bind(folder.path().join("alive")).unwrap();
        assert!(!is_dead(&UnixStream::connect(folder.path().join("alive")).unwrap()));
        let ends = std::thread::spawn(move || {
            std::thread::sleep(DYING + Duration::from_millis(500));
            drop(held);
        });
        listen(&path, Access::Umask).unwrap();
        ends.join().unwrap();
    }

    #[test]
    fn other_files_and_long_paths_are_refused_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert!(listen(&path, Access::Umask).unwrap_err().to_string().contains("remove it"));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let long = folder.path().join("x".repeat(120));
        assert!(listen(&long, Access::Umask).unwrap_err().to_string().contains("shorter"));
        let nowhere = folder.path().join("no/such/folder");
        assert_eq!(listen(&nowhere, Access::Umask).unwrap_err().kind(), Kind::Socket);
    }
}
