//! Block maps: one bit a block; and the group's header, the one word that says which map is which.

pub mod bits;
pub mod header;
mod sync;
mod words;

pub use words::Words;
