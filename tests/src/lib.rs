//! Simulator and integration tests.

pub mod kills;
pub mod live;
pub mod sim;
