//! The doors through which clients reach a disk.

pub mod nbd;
