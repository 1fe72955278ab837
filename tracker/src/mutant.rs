//! Protocol bugs on demand. With the feature `mutants`, `TOWLINE_MUTANT=NAME` breaks one rule at one place, and the
//! tests must notice; without it [`active`] is a constant `false` and nothing of this is in the binary.

/// Whether the bug of this name is switched on.
#[cfg(feature = "mutants")]
pub fn active(name: &str) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("TOWLINE_MUTANT").ok()).as_deref() == Some(name)
}

/// Whether the bug of this name is switched on: never, in a build without the feature.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn active(_name: &str) -> bool {
    false
}
