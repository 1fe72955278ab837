//! The command line of the tracker.

fn main() {}
