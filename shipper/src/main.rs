//! The command line of the shipper.

fn main() {}
