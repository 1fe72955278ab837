//! Errors of the tracker: what a caller can do about it, what happened to which disk, and the cause.

use std::fmt;

/// What a caller can do. Each kind has its exit code (see `--help`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anything else: 1.
    Other,
    /// The command line makes no sense: 2.
    Usage,
    /// The disk is missing, a folder, of a bad size, or can't be opened: 3.
    Disk,
    /// Somebody else has the disk: 4.
    InUse,
    /// The sidecar belongs to another disk, is newer, or can't be used: 5.
    Sidecar,
    /// A socket can't be made (path too long, in use): 6.
    Socket,
    /// A clean stop came to no end: a disk or its sidecar does not answer: 7.
    Stuck,
}

impl Kind {
    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Other => 1,
            Self::Usage => 2,
            Self::Disk => 3,
            Self::InUse => 4,
            Self::Sidecar => 5,
            Self::Socket => 6,
            Self::Stuck => 7,
        }
    }
}

/// An error: kind, one line that says what happened, to which disk, and what to do; and the cause.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error without a cause below it.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An error with its cause.
    pub fn caused(
        kind: Kind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()) }
    }

    /// What a caller can do.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}
