//! Simulator and integration tests.

pub mod live;
pub mod sim;
