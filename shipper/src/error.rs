//! The shipper's one error: what a caller can do about it (the kind), one line for people with the remedy, and the
//! cause underneath. Each kind has an exit code in [`crate::cli::exit`].

use crate::store::{StoreError, StoreErrorKind};
use std::fmt;

/// What went wrong, by what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The arguments make no sense.
    Usage,
    /// There is no vault at the given place, or something that is not a vault.
    NotAVault,
    /// The vault was made by a newer version, or needs a feature that this version does not know.
    NewerVault,
    /// The vault has no such group, or the group no such disk.
    GroupNotFound,
    /// The group has no such recovery point.
    PointNotFound,
    /// What was to be created exists.
    OutputExists,
    /// The output, or the store, is full.
    NoSpace,
    /// Bytes of the vault are missing or not what was written.
    Damage,
    /// The vault's log went on without this tracker's knowledge (V10).
    BrokenLineage,
    /// The group in the vault belongs to other disks (V10).
    ForeignOwner,
    /// Another shipper took over, at the tracker (V9) or by a claim in the log (V1).
    Revoked,
    /// The group's log can take no more cycles.
    GroupFull,
    /// The vault is sealed, and the key given does not open it; or it is not sealed, and a key was given.
    Locked,
    /// The vault does not have an entry that it had.
    RolledBack,
    /// Changes were found that the tracker had not seen.
    Untracked,
    /// The guest overwrites faster than a freeze can be kept exact; given up.
    FuzzyGiveUp,
    /// No tracker answers.
    TrackerNotRunning,
    /// The tracker answered that it can't.
    TrackerRefused,
    /// A frozen block of a disk, or what was preserved of it, can't be read.
    Unreadable,
    /// Permission is missing.
    Denied,
    /// The store can't be reached at the moment; trying again may help.
    Unreachable,
    /// Somebody stopped it (a signal) before it was done.
    Stopped,
    /// Anything else.
    Other,
}

/// A failure with its kind, its line for people and its cause.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of nearly everything here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure without a cause underneath. The message is one line and names the remedy.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// A failure with its cause; the message does not repeat the cause.
    pub fn caused(
        kind: Kind,
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(Box::new(source)) }
    }

    /// Damage in the object `name`.
    pub fn damage(name: &str, what: impl fmt::Display) -> Self {
        Self::new(Kind::Damage, format!("{name} is damaged: {what}"))
    }

    /// A failed system call on a path: the kind follows from the error number.
    pub fn io(what: impl fmt::Display, source: std::io::Error) -> Self {
        let kind = match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Kind::NoSpace,
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => Kind::Denied,
            _ => Kind::Other,
        };
        Self::caused(kind, what.to_string(), source)
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same failure, said to be of another kind.
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The same failure with words in front that say where it happened.
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The message and every cause underneath, in one line.
    pub fn line(&self) -> String {
        let mut line = self.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line.replace('\n', " ")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let kind = match error.kind() {
            StoreErrorKind::NotFound | StoreErrorKind::TooLarge => Kind::Damage,
            StoreErrorKind::Denied | StoreErrorKind::Locked => Kind::Denied,
            StoreErrorKind::NoSpace => Kind::NoSpace,
            StoreErrorKind::Transient => Kind::Unreachable,
            StoreErrorKind::BadName | StoreErrorKind::Other => Kind::Other,
        };
        Self {
            kind,
            message: error.to_string(),
            source: error.into_source().map(|source| Box::new(source) as _),
        }
    }
}
