//! Block maps: one bit a block.

pub mod bits;
mod words;

pub use words::Words;
