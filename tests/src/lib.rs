//! Simulator and integration tests.

pub mod fuzz;
pub mod kills;
pub mod live;
pub mod sim;
