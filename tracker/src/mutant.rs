//! Protocol bugs on demand. With the feature `mutants`, `TOWLINE_MUTANT=NAME` breaks one rule at one place, and the
//! tests must notice; without it [`active`] is a constant `false` and nothing of this is in the binary.

/// Whether the bug of this name is switched on.
#[cfg(all(feature = "mutants", not(all(test, loom))))]
pub fn active(name: &str) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("TOWLINE_MUTANT").ok()).as_deref() == Some(name)
}

/// Whether the bug of this name is switched on: never, in a build without the feature.
#[cfg(not(any(feature = "mutants", all(test, loom))))]
#[inline(always)]
pub const fn active(_name: &str) -> bool {
    false
}

#[cfg(all(test, loom))]
thread_local! {
    /// The bug of the model that this thread runs, with all threads of the model: loom's are no threads of the system.
    static OF_THE_MODEL: std::cell::Cell<&'static str> = const { std::cell::Cell::new("") };
}

/// Whether the bug of this name is switched on, by the model that runs.
#[cfg(all(test, loom))]
pub fn active(name: &str) -> bool {
    OF_THE_MODEL.get() == name
}

/// Switches on the bug of this name, and no other, for the models of this thread.
#[cfg(all(test, loom))]
pub fn choose(name: &'static str) {
    OF_THE_MODEL.set(name);
}
