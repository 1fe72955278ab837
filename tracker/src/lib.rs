//! Block change tracking in the write path of virtual disk files.

pub mod codec;
pub mod control;
pub mod id;
pub mod mutant;
