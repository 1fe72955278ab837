//! Network Block Device: the protocol that QEMU, the kernel, libnbd and fio speak.
//!
//! [`wire`] has the bytes, [`session`] the conversation (pure: bytes in, commands and replies out), [`serve`] one
//! client's connection as the event loop sees it, [`client`] a small client for tests, benches and the demo.

pub mod client;
pub mod serve;
pub mod session;
pub mod wire;
