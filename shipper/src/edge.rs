//! What the shipper takes from its surroundings beside tracker and store: time, waits, and names that nobody had before.
//! One small value, so that whoever runs the loop in a world of its own (the simulator) gives it that world's.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Draws 128 bits for a name.
pub type Draw = fn() -> [u8; 16];

/// Draws them from the kernel.
pub fn kernel() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

/// The surroundings.
#[derive(Clone, Copy)]
pub struct Edge {
    /// The time that only rises; instants are compared with one another only.
    pub now: fn() -> Instant,
    /// Nanoseconds since 1970, which may jump.
    pub wall_ns: fn() -> u64,
    /// Waits.
    pub sleep: fn(Duration),
    /// Draws names.
    pub draw: Draw,
    /// The host's name, for people.
    pub host: fn() -> String,
}

impl Edge {
    /// Those of this process.
    pub const SYSTEM: Self =
        Self { now: Instant::now, wall_ns: now_ns, sleep: std::thread::sleep, draw: kernel, host };

    /// The time that has passed since then.
    pub fn since(&self, then: Instant) -> Duration {
        (self.now)().saturating_duration_since(then)
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Edge")
    }
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
