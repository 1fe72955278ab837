//! Block change tracking in the write path of virtual disk files.

pub mod codec;
pub mod control;
pub mod disk;
pub mod engine;
pub mod error;
pub mod format;
pub mod frontend;
pub mod group;
pub mod id;
pub mod io;
pub mod limits;
pub mod map;
pub mod mutant;
pub mod recover;
pub mod sidecar;
pub mod units;
