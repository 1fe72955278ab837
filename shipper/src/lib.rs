//! The shipper.

pub mod cli;
pub mod edge;
pub mod error;
pub mod limit;
pub mod pipeline;
pub mod points;
pub mod progress;
pub mod restore;
pub mod retention;
pub mod ship;
pub mod source;
pub mod stat;
pub mod store;
pub mod unfinished;
pub mod vault;
pub mod verify;

pub use error::{Error, Kind, Result};
