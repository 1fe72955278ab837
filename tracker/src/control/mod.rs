//! The control socket: how a shipper drives a tracker.

pub mod client;
pub mod frame;
pub mod message;
pub mod serve;
pub mod sys;
