//! The target behind one small trait: objects by name, written once, listed in order.
//!
//! Blocking on purpose: every caller is a thread of a bounded pool, and a runtime that a store's library needs stays
//! inside that store. The contract is [`conformance`]; each store here passes it, and anybody's can.

pub mod conformance;
pub mod directory;
pub mod location;
pub mod memory;
pub mod probe;
pub mod remote;
pub mod scripted;
pub mod tally;

use location::{Location, Options};
use remote::oldest::{AsOf, Oldest};
use remote::{Environment, RemoteStore};
use std::fmt;
use std::sync::Arc;
use tally::{Counted, Tally};

/// The longest name of an object, in bytes.
pub const NAME_MAX: usize = 512;

/// Objects by name. Names are `a/b/c`: components of `[A-Za-z0-9._-]`, none starting with a dot, at most
/// [`NAME_MAX`] bytes. What has been answered survives the end of this process and of its host.
pub trait Store: Send + Sync {
    /// Where the objects are, for people: a URL without secrets.
    fn url(&self) -> String;

    /// Stores an object under a name that nobody used before (random names): no condition is asked of the store.
    ///
    /// # Errors
    /// Any kind but `NotFound` and `TooLarge`. The object may exist all the same.
    fn put(&self, name: &str, data: &[u8]) -> Result<(), StoreError>;

    /// Stores an object if there is none of that name. Of any number of racing callers exactly one is told
    /// [`Put::Created`], and the object holds that caller's bytes, whole, from its first visibility on.
    ///
    /// # Errors
    /// As [`Self::put`]; after an error the object may exist, with these bytes.
    fn put_if_absent(&self, name: &str, data: &[u8]) -> Result<Put, StoreError>;

    /// The whole object, if it has at most `limit` bytes.
    ///
    /// # Errors
    /// `NotFound`, `TooLarge` and the rest.
    fn get(&self, name: &str, limit: usize) -> Result<Vec<u8>, StoreError>;

    /// The bytes `[offset, offset + length)`, fewer where the object ends before.
    ///
    /// # Errors
    /// `NotFound` and the rest.
    fn get_range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError>;

    /// The object's length in bytes.
    ///
    /// # Errors
    /// `NotFound` and the rest.
    fn len(&self, name: &str) -> Result<u64, StoreError>;

    /// Up to `limit` objects whose names begin with `prefix` and are greater than `after`, in the byte order of
    /// their names. Fewer than `limit` means there are no more.
    ///
    /// # Errors
    /// Any kind but `NotFound`: a prefix of nothing lists nothing.
    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Listed>, StoreError>;

    /// Deletes an object; one that is not there is no error.
    ///
    /// # Errors
    /// Any kind but `NotFound`.
    fn delete(&self, name: &str) -> Result<(), StoreError>;
}

/// Objects in one request for a listing.
const PAGE: usize = 1000;

/// Tells every object whose name begins with `prefix` and is greater than `after`, in order.
///
/// # Errors
/// The store's, and those of `tell`, which end it.
pub fn each<E: From<StoreError>>(
    store: &dyn Store,
    prefix: &str,
    after: &str,
    mut tell: impl FnMut(&Listed) -> Result<(), E>,
) -> Result<(), E> {
    let mut after = after.to_owned();
    loop {
        let page = store.list(prefix, &after, PAGE)?;
        // Not by its length: a page may be short for other reasons (a wrapper that hides names).
        let Some(last) = page.last() else { return Ok(()) };
        after.clone_from(&last.name);
        page.iter().try_for_each(&mut tell)?;
    }
}

/// The answer to a conditional put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is ours.
    Created,
    /// Somebody's object was there; nothing changed, and from now on it survives as if it had been put now.
    AlreadyExists,
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
}

/// What a caller can do about a store's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// There is no such object.
    NotFound,
    /// The object is larger than the caller's limit.
    TooLarge,
    /// Permission is missing.
    Denied,
    /// The store keeps it from everybody for a while yet.
    Locked,
    /// The store is full.
    NoSpace,
    /// Trying again may help.
    Transient,
    /// The name is not one of ours: a mistake of the caller.
    BadName,
    /// Anything else.
    Other,
}

/// What a folder on a network's or a removable file system answers while that is away or short of something, and what
/// comes back by itself or by whoever looks after it. A disk's `EIO` is the same number as a network's.
const PASSING: [i32; 20] = [
    libc::EMFILE,
    libc::ENFILE,
    libc::ENOMEM,
    libc::ENOBUFS,
    libc::ESTALE,
    libc::EIO,
    libc::EREMOTEIO,
    libc::ENODEV,
    libc::ENXIO,
    libc::ENOTCONN,
    libc::ESHUTDOWN,
    libc::ECONNRESET,
    libc::ECONNABORTED,
    libc::ECONNREFUSED,
    libc::EPIPE,
    libc::EHOSTDOWN,
    libc::EHOSTUNREACH,
    libc::ENETDOWN,
    libc::ENETUNREACH,
    libc::ENETRESET,
];

/// A store's failure: kind, object and cause.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    name: String,
    source: Option<std::io::Error>,
}

impl StoreError {
    /// A failure on the object `name`.
    pub fn new(kind: StoreErrorKind, name: &str) -> Self {
        Self { kind, name: name.to_owned(), source: None }
    }

    /// A failure on the object `name` with its cause; the kind follows from the error number.
    pub fn io(name: &str, source: std::io::Error) -> Self {
        use std::io::ErrorKind;
        let kind = match (source.kind(), source.raw_os_error()) {
            (_, Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG)) => StoreErrorKind::NoSpace,
            (_, Some(libc::EROFS)) => StoreErrorKind::Denied,
            (_, Some(errno)) if PASSING.contains(&errno) => StoreErrorKind::Transient,
            (ErrorKind::NotFound, _) => StoreErrorKind::NotFound,
            (ErrorKind::PermissionDenied, _) => StoreErrorKind::Denied,
            (ErrorKind::Interrupted | ErrorKind::TimedOut | ErrorKind::WouldBlock, _) => {
                StoreErrorKind::Transient
            }
            _ => StoreErrorKind::Other,
        };
        Self { kind, name: name.to_owned(), source: Some(source) }
    }

    /// A failure on the object `name` that a server told in these words.
    pub fn remote(kind: StoreErrorKind, name: &str, words: &str) -> Self {
        Self { kind, name: name.to_owned(), source: Some(std::io::Error::other(words)) }
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// The object.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cause underneath, if a system call failed.
    pub fn into_source(self) -> Option<std::io::Error> {
        self.source
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            StoreErrorKind::NotFound => "is missing",
            StoreErrorKind::TooLarge => "is larger than it can be",
            StoreErrorKind::Denied => "may not be accessed",
            StoreErrorKind::Locked => "is locked by the store: it can't be deleted yet",
            StoreErrorKind::NoSpace => "does not fit: the store is full",
            StoreErrorKind::Transient => "can't be reached at the moment",
            StoreErrorKind::BadName => "is not a name of an object",
            StoreErrorKind::Other => "can't be accessed",
        };
        write!(f, "{} {what}", self.name)
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// Checks a name, before it becomes a path or a request.
///
/// # Errors
/// `BadName`.
pub fn check_name(name: &str) -> Result<(), StoreError> {
    let component = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if name.len() <= NAME_MAX && name.split('/').all(component) {
        Ok(())
    } else {
        Err(StoreError::new(StoreErrorKind::BadName, name))
    }
}

/// The store at a URL, reached as the environment says.
///
/// # Errors
/// `Usage` for what is no URL of a store, and what is missing to reach it.
pub fn open(url: &str) -> crate::Result<Arc<dyn Store>> {
    open_with(url, &Options::default(), &Arc::default())
}

/// The store at a URL, whose requests are counted. Nothing is asked of it yet, but whether it locks objects if it is to.
///
/// # Errors
/// `Usage` for what is no URL of a store, and what is missing to reach it; as [`remote::RemoteStore::check_locks`].
pub fn open_with(url: &str, options: &Options, tally: &Arc<Tally>) -> crate::Result<Arc<dyn Store>> {
    let location = Location::parse(url)?;
    options.check(&location)?;
    Ok(match location {
        Location::Directory(path) => {
            Arc::new(Counted::new(Arc::new(directory::DirectoryStore::new(path)), tally.clone()))
        }
        Location::Bucket(bucket) => {
            if options.as_of.is_some() {
                return Ok(open_oldest(url, options, tally)?);
            }
            let store = RemoteStore::new(&bucket, options, &Environment::here())?.counted_by(tally.clone());
            store.check_locks()?;
            Arc::new(store)
        }
    })
}

/// The store at a URL as it was: as [`open_with`].
///
/// # Errors
/// As [`open_with`]; `Usage` for one that has no versions.
pub fn open_oldest(url: &str, options: &Options, tally: &Arc<Tally>) -> crate::Result<Arc<Oldest>> {
    let location = Location::parse(url)?;
    options.check(&location)?;
    let Location::Bucket(bucket) = location else {
        return Err(crate::Error::new(crate::Kind::Usage, "only s3:// keeps old versions of objects"));
    };
    let store = RemoteStore::new(&bucket, options, &Environment::here())?.counted_by(tally.clone());
    store.check_locks()?;
    Ok(Arc::new(Oldest::new(Arc::new(store), options.as_of.unwrap_or(AsOf::Now))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        for bad in
            ["", "/", "/a", "a/", "a//b", "..", "a/../b", ".tmp", "a/.b", "a b", "a\0", "ä", &"x".repeat(513)]
        {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["vault", "groups/00ff/log/00000000000000000001", "a-b_c.d"] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn what_a_network_answers_while_it_is_away_may_pass_and_a_missing_right_may_not() {
        let kind = |errno| StoreError::io("a", std::io::Error::from_raw_os_error(errno)).kind();
        for errno in
            [libc::ENOTCONN, libc::ECONNRESET, libc::EHOSTUNREACH, libc::ENETDOWN, libc::EIO, libc::ETIMEDOUT]
        {
            assert_eq!(kind(errno), StoreErrorKind::Transient, "{errno}");
        }
        for (errno, expected) in [
            (libc::ENOENT, StoreErrorKind::NotFound),
            (libc::EACCES, StoreErrorKind::Denied),
            (libc::ENOSPC, StoreErrorKind::NoSpace),
            (libc::ENAMETOOLONG, StoreErrorKind::Other),
        ] {
            assert_eq!(kind(errno), expected, "{errno}");
        }
    }
}
