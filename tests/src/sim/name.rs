//! Names that nobody had before, the same in every run of a seed.

use super::rng::Rng;
use std::cell::Cell;
use towline_tracker::id::{CutId, DiskId, StartId};

thread_local! {
    static NAMES: Cell<u64> = const { Cell::new(0) };
}

/// From here on names are this seed's.
pub(super) fn begin(seed: u64) {
    NAMES.set(seed << 20);
}

/// A name that nobody had before.
pub(super) fn name() -> [u8; 16] {
    NAMES.set(NAMES.get() + 1);
    let mut bytes = [0; 16];
    let mixed = Rng::new(NAMES.get()).draw();
    bytes[..8].copy_from_slice(&NAMES.get().to_be_bytes());
    bytes[8..].copy_from_slice(&mixed.to_le_bytes());
    bytes
}

pub(super) fn cut_name() -> CutId {
    CutId(name())
}

pub(super) fn start_name() -> StartId {
    let name = name();
    StartId(u64::from_le_bytes(name[8..].try_into().expect("8 bytes")))
}

pub(super) fn disk_name() -> DiskId {
    DiskId(name())
}
