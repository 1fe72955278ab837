//! Random lives of a vault: the shipper's own claims, attach table, pipeline, hash cache and images over stores in memory that
//! fail, lose answers and die, with trackers of a few lines in front of them. Clones, vaults put back, lost packs, shippers
//! that sleep while others take over, and collectors among all of it. Every published point is restored and compared with its cut.
//!
//! One seed is one life. Threads of the pipeline make the order of puts differ a little from run to run; what must hold does not.

mod collector;
mod host;
mod life;
mod ship;

pub use life::live;

/// The block size.
const BLOCK: usize = 4096;
