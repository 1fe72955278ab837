//! Bytes to values and back, without I/O.

mod bytes;
pub mod changes;
pub mod checksum;
pub mod envelope;
pub mod intents;
pub mod meta;
