//! The shipper.

pub mod cli;
pub mod error;
pub mod pipeline;
pub mod source;
pub mod store;
pub mod vault;

pub use error::{Error, Kind, Result};
