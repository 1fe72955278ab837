//! The crash simulator: the tracker's own machine, jobs and start-up, and the shipper's own loop, pipeline, log and attach
//! table run over a simulated disk, sidecar, maps, guest, store and clock, on one thread, from one seed. Every point that
//! is published is restored by the product's own readers and compared with a model of every sector.
//!
//! ```text
//!  guest ──► Group ──► actions ──► disk (cache, in flight, durable)      crash: process, host, inside a job,
//!              ▲           └────► sidecar folder, jobs, start()                 inside the start; a shipper's
//!              │ questions                                                      death at anything it asks
//!   shipper (a coroutine that runs `ship::run_in`) ◄── reads of disk, bits, preserved data
//!              └──► store (moods) ──► restorer: every point is the instant of its cut, now and later
//! ```
//!
//! A sector's content is a number: the request that wrote it, 0 for zeros; [`sector`] makes bytes of it. One step is one
//! event: an action handed over, a completion, a request of a shipper, a job; inside jobs and the start every call to the
//! folder is a step as well.

pub mod coroutine;
pub mod counts;
pub mod disk;
pub mod fault;
pub mod flat;
pub mod folder;
pub mod host;
pub mod leaves;
pub mod maps;
mod name;
pub mod oracle;
pub mod powercut;
pub mod process;
pub mod restorer;
pub mod rng;
pub mod sealing;
pub mod sector;
pub mod shipper;
pub mod store;
pub mod target;
pub mod world;

pub use counts::Counts;
pub use leaves::Leaves;
pub use oracle::Oracle;
pub use world::{CrashKind, Failure, Plan, Strike, Workload, World, run};
