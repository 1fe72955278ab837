//! Bytes to values and back, without I/O.

mod bytes;
pub mod changes;
pub mod checksum;
