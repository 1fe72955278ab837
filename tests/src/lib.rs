//! Simulator and integration tests.

pub mod fuzz;
pub mod isolation;
pub mod kills;
pub mod live;
pub mod mutants;
pub mod powercuts;
pub mod sim;
pub mod vaults;
