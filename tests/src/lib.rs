//! Simulator and integration tests.

pub mod live;
