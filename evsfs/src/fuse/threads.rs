//! How many serving threads ask the kernel for requests.
//!
//! As many as there are processors are fastest: each further one only takes turns with them. But a thread that waits for the host (a read of
//! a slow disk, a barrier) serves nobody meanwhile, and when all of them wait, requests lie that others could have answered. So there
//! are some more threads, which rest. A thread lends its place to one of them while it waits: from the beginning, if requests of its kind have
//! lately waited for the host, or when a resting thread finds that nobody has moved for a while.

mod expectation;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use self::expectation::Expectation;
use super::buffers::ReadBuffer;

/// Those who are awake, at most: with more processors, more have nothing to do.
const PLACES: usize = 4;

/// All of them. Each costs up to two requests' worth of memory while it serves.
const COUNT: usize = 8;

/// A resting thread returns after this time to take one request, so that none outlives its session, and none has to look for work while
/// there is none.
const REST: Duration = Duration::from_secs(1);

/// How often one resting thread looks whether those who serve have moved.
const WATCH: Duration = Duration::from_millis(10);

/// A thread has lent its place, and takes one when its call is over.
const LENT: u64 = 1 << 63;

thread_local! {
    /// A thread serves one session.
    static SLOT: RefCell<Option<Arc<Slot>>> = const { RefCell::new(None) };
}

/// What a request asks of the device, as far as time matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// To fetch data, or to find it.
    Read,
    /// To change data.
    Write,
    /// To make it durable.
    Flush,
}

/// The serving threads of one session.
#[derive(Debug)]
pub struct Threads {
    count: usize,
    /// Those who may be awake.
    places: usize,
    /// Those who are: they wait for a request, or serve one and have not lent their place. Changes under the lock alone.
    awake: AtomicUsize,
    crew: Mutex<Crew>,
    moved: Condvar,
    slots: Mutex<Vec<Arc<Slot>>>,
    /// What [`Self::are_idle`] found.
    seen: AtomicU64,
    reads: Expectation,
    flushes: Expectation,
}

#[derive(Debug, Default)]
struct Crew {
    resting: usize,
    /// Places that were given to resting threads which have not woken up yet; they count as awake.
    given: usize,
    /// One of the resting threads watches the others.
    watched: bool,
    ended: bool,
}

/// What the others see of a thread.
#[derive(Debug, Default)]
struct Slot {
    /// An odd number while it is in a call to the device, with [`LENT`] if it has lent its place.
    number: AtomicU64,
    /// Made with a thread's first read, touched only as far as requests reach, and given back when all rest: one after the other do amid large reads, and to
    /// have it mapped anew each time costs more than half of their speed.
    buffer: Mutex<Option<ReadBuffer>>,
}

impl Threads {
    /// For a machine with so many processors.
    #[must_use]
    pub fn new(processors: usize) -> Self {
        Self::of(COUNT, processors.clamp(1, PLACES))
    }

    /// All of `count` threads wait for requests at first; at most `places` of them go on doing so.
    fn of(count: usize, places: usize) -> Self {
        Self {
            count,
            places,
            awake: AtomicUsize::new(count),
            crew: Mutex::default(),
            moved: Condvar::new(),
            slots: Mutex::default(),
            seen: AtomicU64::new(0),
            reads: Expectation::default(),
            flushes: Expectation::default(),
        }
    }

    /// How many there are, resting ones included.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Calls the device for one request of `length` bytes.
    pub(super) fn call<R>(&self, kind: Kind, length: u64, work: impl FnOnce() -> R) -> R {
        let slot = self.slot();
        let expectation = self.expectation(kind);
        let lends = expectation.is_some_and(Expectation::is_slow);
        let number = slot.number.load(Ordering::Relaxed) + 1;
        if lends {
            slot.number.store(number | LENT, Ordering::Release);
            self.lend();
        } else {
            slot.number.store(number, Ordering::Release);
            if self.awake.load(Ordering::SeqCst) < self.places {
                self.give(&mut self.crew.lock());
            }
        }
        let result = match expectation {
            Some(expectation) => expectation.observe(length, work),
            None => work(),
        };
        if slot.number.swap(number + 1, Ordering::AcqRel) & LENT != 0 {
            self.take_back();
        }
        result
    }

    /// What is known of requests of this kind. A write goes to the host's cache. When that keeps it waiting, it is for all writers alike, and more of them
    /// only get in each other's way.
    const fn expectation(&self, kind: Kind) -> Option<&Expectation> {
        match kind {
            Kind::Read => Some(&self.reads),
            Kind::Flush => Some(&self.flushes),
            Kind::Write => None,
        }
    }

    /// Whether this thread should rest before it asks for another request.
    pub(super) fn are_too_many(&self) -> bool {
        self.awake.load(Ordering::SeqCst) > self.places
    }

    /// Rests, if too many are awake, until there is a place or some time has passed.
    pub(super) fn rest(&self) {
        let mut crew = self.crew.lock();
        if crew.ended || !self.are_too_many() {
            return;
        }
        self.awake.fetch_sub(1, Ordering::SeqCst);
        crew.resting += 1;
        let mut rested = Duration::ZERO;
        let mut watching = false;
        let mut seen = Vec::new();
        while crew.given == 0 && !crew.ended && rested < REST {
            if !crew.watched {
                (crew.watched, watching) = (true, true);
            }
            let time = if watching { WATCH } else { REST };
            if self.moved.wait_for(&mut crew, time).timed_out() {
                rested += time;
                if watching {
                    self.lend_for_those_who_hang(&mut crew, &mut seen);
                }
            }
        }
        crew.resting -= 1;
        if watching {
            crew.watched = false;
            // Somebody else watches now.
            self.moved.notify_one();
        }
        if crew.given > 0 {
            crew.given -= 1;
        } else {
            self.awake.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Reads through this thread's own buffer.
    pub(super) fn with_buffer<R>(&self, work: impl FnOnce(&mut ReadBuffer) -> R) -> R {
        work(self.slot().buffer.lock().get_or_insert_with(ReadBuffer::new))
    }

    /// Whether nobody has served a request since this was last asked.
    #[must_use]
    pub fn are_idle(&self) -> bool {
        let numbers = |slot: &Arc<Slot>| slot.number.load(Ordering::Acquire) & !LENT;
        let (sum, calls) = {
            let slots = self.slots.lock();
            (slots.iter().map(numbers).sum(), slots.iter().any(|slot| numbers(slot) % 2 == 1))
        };
        self.seen.swap(sum, Ordering::Relaxed) == sum && !calls
    }

    /// Gives the buffers of all threads back that do not read at the moment.
    pub fn drop_buffers(&self) {
        for slot in &*self.slots.lock() {
            if let Some(mut buffer) = slot.buffer.try_lock() {
                buffer.take();
            }
        }
    }

    /// Nobody rests from now on: the session ends.
    pub fn end(&self) {
        self.crew.lock().ended = true;
        self.moved.notify_all();
    }

    /// Lends the places of those who have been in one call since the last look, which left their numbers in `seen`.
    fn lend_for_those_who_hang(&self, crew: &mut Crew, seen: &mut Vec<u64>) {
        let slots = self.slots.lock().clone();
        let numbers: Vec<u64> = slots.iter().map(|slot| slot.number.load(Ordering::Acquire)).collect();
        for ((slot, number), before) in slots.iter().zip(&numbers).zip(&*seen) {
            let hangs = number == before && number % 2 == 1 && number & LENT == 0;
            if hangs
                && slot
                    .number
                    .compare_exchange(*number, number | LENT, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
            {
                self.awake.fetch_sub(1, Ordering::SeqCst);
                self.give(crew);
            }
        }
        *seen = numbers;
    }

    fn lend(&self) {
        let mut crew = self.crew.lock();
        self.awake.fetch_sub(1, Ordering::SeqCst);
        self.give(&mut crew);
    }

    /// Gives a free place to somebody who rests, unless somebody waits for requests anyway or is about to.
    fn give(&self, crew: &mut Crew) {
        let awake = self.awake.load(Ordering::SeqCst);
        if crew.resting > crew.given && awake < self.places && awake <= self.serving() {
            crew.given += 1;
            self.awake.fetch_add(1, Ordering::SeqCst);
            self.moved.notify_one();
        }
    }

    /// How many serve a request and have not lent their place.
    fn serving(&self) -> usize {
        let serves = |slot: &&Arc<Slot>| {
            let number = slot.number.load(Ordering::Acquire);
            number % 2 == 1 && number & LENT == 0
        };
        self.slots.lock().iter().filter(serves).count()
    }

    fn take_back(&self) {
        let _crew = self.crew.lock();
        self.awake.fetch_add(1, Ordering::SeqCst);
    }

    fn slot(&self) -> Arc<Slot> {
        SLOT.with_borrow_mut(|own| {
            Arc::clone(own.get_or_insert_with(|| {
                let slot = Arc::new(Slot::default());
                self.slots.lock().push(Arc::clone(&slot));
                slot
            }))
        })
    }
}
