//! The crash simulator: the tracker's own machine, jobs and start-up run over a simulated disk, sidecar, maps, guest,
//! shipper and clock, single-threaded, from one seed. What is published is compared with a model of every sector.
//!
//! ```text
//!  guest ──► Group ──► actions ──► disk (cache, in flight, durable)      crash: process, host, inside a job,
//!   shipper ──► questions  └────► sidecar folder, jobs, start()                 inside the start
//!      └──► vault (images) ──► oracle: every point is the instant of its cut
//! ```
//!
//! A sector's content is a number: the request that wrote it, 0 for zeros. One step is one event: an action handed
//! over, a completion, a block read, a job; inside jobs and the start every call to the folder is a step as well.

pub mod counts;
pub mod disk;
pub mod fault;
pub mod folder;
pub mod maps;
pub mod rng;
pub mod shipper;
pub mod vault;
pub mod world;

pub use counts::Counts;
pub use world::{CrashKind, Failure, Oracle, Plan, World, run};
