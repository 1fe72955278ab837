//! A process of the simulation: the product's own code on a stack of its own. Whatever it asks of the world outside it
//! asks by [`call`], which suspends it until the world has answered; what kills it unwinds it there.

use super::rng::Rng;
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::{Cell, RefCell};
use std::ptr;
use std::time::{Duration, Instant};

thread_local! {
    /// Of the process that runs.
    static YIELDER: Cell<*const ()> = const { Cell::new(ptr::null()) };
    /// Monotonic and wall clock, in nanoseconds.
    static CLOCK: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    /// Where instants are counted from.
    static BEGINNING: Instant = Instant::now();
    static DICE: RefCell<Rng> = RefCell::new(Rng::new(0));
}

thread_local! {
    /// Stacks of processes that are no more, for the next: to map one costs more than a short life.
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

/// A process that asks `Ask` and ends with `End`.
pub struct Process<Ask, Reply, End>(Option<Coroutine<Option<Reply>, Ask, End>>);

impl<Ask, Reply, End> Drop for Process<Ask, Reply, End> {
    fn drop(&mut self) {
        let Some(mut coroutine) = self.0.take() else { return };
        coroutine.force_unwind();
        STACKS.with_borrow_mut(|stacks| stacks.push(coroutine.into_stack()));
    }
}

/// What a process comes to.
pub enum Came<Ask, End> {
    /// It asks.
    Asks(Ask),
    /// It has ended.
    Ended(End),
}

impl<Ask: 'static, Reply: 'static, End: 'static> Process<Ask, Reply, End> {
    /// One that will run this.
    pub fn new(main: impl FnOnce() -> End + 'static) -> Self {
        let stack = STACKS.with_borrow_mut(Vec::pop).unwrap_or_default();
        Self(Some(Coroutine::with_stack(stack, move |yielder: &Yielder<Option<Reply>, Ask>, _| {
            YIELDER.set(ptr::from_ref(yielder).cast());
            main()
        })))
    }

    /// Lets it run, at first without a reply, until it asks again or ends. At these times, by this world's dice.
    pub fn resume(&mut self, reply: Option<Reply>, clock: (u64, u64)) -> Came<Ask, End> {
        CLOCK.set(clock);
        let came = self.0.as_mut().expect("it lives").resume(reply);
        YIELDER.set(ptr::null());
        match came {
            CoroutineResult::Yield(ask) => Came::Asks(ask),
            CoroutineResult::Return(end) => Came::Ended(end),
        }
    }
}

/// Asks the world, from inside a process of these types.
pub fn call<Ask: 'static, Reply: 'static>(ask: Ask) -> Reply {
    let yielder = YIELDER.get();
    assert!(!yielder.is_null(), "only a process asks");
    // SAFETY: set by the process that runs, on its own stack, which is alive as long as it runs; all processes of the
    // simulation ask and are answered with the same types.
    let reply = unsafe { &*yielder.cast::<Yielder<Option<Reply>, Ask>>() }.suspend(ask);
    YIELDER.set(yielder);
    reply.expect("an answer to what was asked")
}

/// The process's time that only rises.
pub fn now() -> Instant {
    BEGINNING.with(|beginning| *beginning + Duration::from_nanos(CLOCK.get().0))
}

/// The process's time of day.
pub fn wall_ns() -> u64 {
    CLOCK.get().1
}

/// Gives the processes of this thread their dice.
pub fn set_dice(rng: Rng) {
    DICE.set(rng);
}

/// Rolls them.
pub fn dice<T>(roll: impl FnOnce(&mut Rng) -> T) -> T {
    DICE.with_borrow_mut(roll)
}
