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

/// An edge for tests: time passes when somebody sleeps, in each thread by itself, and names are drawn in order.
#[cfg(test)]
pub(crate) mod by_hand {
    use super::Edge;
    use std::cell::{Cell, RefCell};
    use std::time::{Duration, Instant};

    thread_local! {
        static BEGINNING: Instant = Instant::now();
        static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
        static WALL: Cell<u64> = const { Cell::new(0) };
        static SLEPT: RefCell<Vec<Duration>> = const { RefCell::new(Vec::new()) };
        static DRAWN: Cell<u64> = const { Cell::new(0) };
    }

    /// The edge.
    pub(crate) const EDGE: Edge = Edge {
        now: || BEGINNING.with(|beginning| *beginning + PASSED.get()),
        wall_ns: || WALL.get() + u64::try_from(PASSED.get().as_nanos()).unwrap(),
        sleep: |time| {
            PASSED.set(PASSED.get() + time);
            SLEPT.with_borrow_mut(|slept| slept.push(time));
        },
        draw: || {
            DRAWN.set(DRAWN.get() + 1);
            blake3::hash(&DRAWN.get().to_le_bytes()).as_bytes()[..16].try_into().unwrap()
        },
        host: || "by-hand".to_owned(),
    };

    /// Time begins anew, at this time of day, and so do the names.
    pub(crate) fn begin(wall: &str) {
        let wall: jiff::Timestamp = wall.parse().unwrap();
        WALL.set(u64::try_from(wall.as_nanosecond()).unwrap());
        PASSED.set(Duration::ZERO);
        DRAWN.set(0);
        SLEPT.take();
    }

    /// The time that has passed.
    pub(crate) fn passed() -> Duration {
        PASSED.get()
    }

    /// What was slept since it was last asked, one by one.
    pub(crate) fn slept() -> Vec<Duration> {
        SLEPT.take()
    }
}
