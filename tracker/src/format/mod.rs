//! Bytes to values and back, without I/O.
#![doc = include_str!("format.md")]

mod bytes;
pub mod changes;
pub mod checksum;
pub mod envelope;
pub mod intents;
pub mod meta;
#[cfg(test)]
mod tables;
