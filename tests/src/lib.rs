//! Simulator and integration tests.
