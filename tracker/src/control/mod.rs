//! The control socket: how a shipper drives a tracker.

pub mod message;
