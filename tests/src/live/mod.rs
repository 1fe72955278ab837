//! What drives the real programs from outside: processes that end with their owner, writers that remember what they
//! wrote, and the oracle that says whether an image is one instant of it.

pub mod evidence;
pub mod google;
pub mod history;
pub mod process;
pub mod proxy;
pub mod reader;
pub mod relay;
pub mod room;
pub mod servers;
pub mod stamp;
pub mod writer;
