//! Block maps: one bit a block.

mod words;

pub use words::Words;
