//! The kernel's edge: memory that it may write to, its ring, and plain calls. The only rooms with `unsafe` besides
//! the shared maps; everything above works with owned buffers and can't get a lifetime wrong.

pub mod buffer;
pub mod outgoing;
pub mod plain;
pub mod probe;
pub mod schedule;
pub mod scribes;
pub mod uring;
