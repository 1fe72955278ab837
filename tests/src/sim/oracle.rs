//! Who notices that a promise is broken, by what it shows.

/// What noticed that a promise is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oracle {
    /// A published image is not the instant of its cut, or the newest one is not the disk.
    Image,
    /// The chain in the vault is not the tracker's.
    Lineage,
    /// A disk does not hold what its guest was told.
    Disk,
    /// One key seals two things: who reads the store learns of both.
    Secrecy,
    /// Something happened that must not, whatever comes of it.
    Conduct,
    /// A crash or an outage costs more than it may.
    Cost,
    /// Replication does not catch up.
    Liveness,
    /// A panic.
    Panic,
}

impl Oracle {
    /// Whether data show it: what a mutant's death counts by.
    pub fn sees_data(self) -> bool {
        matches!(self, Self::Image | Self::Lineage | Self::Disk | Self::Secrecy)
    }
}

/// What is wrong, and who says so.
pub type Wrong = (Oracle, String);
