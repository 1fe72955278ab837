//! Work that may take long and never runs on the event loop (S5): the sidecar's worker does it, in order.

/// What is to be done. Opaque to the engine: it posts jobs to the [`crate::sidecar::Worker`] and brings back what
/// the worker says.
#[derive(Debug)]
pub enum Job {}

/// What became of a job.
#[derive(Debug)]
pub enum JobDone {}
