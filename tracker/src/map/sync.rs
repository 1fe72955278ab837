//! The atomics of maps and headers: those of the standard library. In the build of the models (`make models`) they are
//! loom's, so that the models run this very code in every order that the memory model allows; and a model can take one
//! of its orders away to see that it is missed.

#[cfg(all(test, loom))]
pub(crate) use self::weakened::{AtomicU64, fence};
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::atomic::{AtomicU64, fence};

#[cfg(all(test, loom))]
mod weakened {
    use crate::mutant;
    use std::sync::atomic::Ordering;

    /// A word whose orders a model may weaken.
    #[derive(Debug)]
    pub struct AtomicU64(loom::sync::atomic::AtomicU64);

    impl AtomicU64 {
        /// A word of a model.
        pub fn new(value: u64) -> Self {
            Self(loom::sync::atomic::AtomicU64::new(value))
        }

        /// Loads it.
        pub fn load(&self, order: Ordering) -> u64 {
            self.0.load(if mutant::active("acquire-is-relaxed") { Ordering::Relaxed } else { order })
        }

        /// Stores it.
        pub fn store(&self, value: u64, order: Ordering) {
            self.0.store(value, if mutant::active("release-is-relaxed") { Ordering::Relaxed } else { order });
        }
    }

    /// A fence, unless the model goes without.
    pub(crate) fn fence(order: Ordering) {
        if !mutant::active("no-fence") {
            loom::sync::atomic::fence(order);
        }
    }
}
