//! A bounded number of connections, of which those that have proved nothing give way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// All slots.
#[derive(Debug)]
pub(crate) struct Slots {
    limit: usize,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// In the order in which they came.
    unproven: BTreeMap<u64, Arc<Notify>>,
    proven: BTreeSet<u64>,
}

/// One connection's place. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    /// Changes only while `taken` is locked.
    id: AtomicU64,
    evicted: Arc<Notify>,
}

impl Slots {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default(), freed: Notify::new() })
    }

    /// A place; when none is free, that of the oldest connection which has proved nothing. `None` when all have.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut taken = self.taken.lock();
        if taken.unproven.len() + taken.proven.len() >= self.limit {
            let (_, oldest) = taken.unproven.pop_first()?;
            oldest.notify_one();
        }
        let id = taken.next;
        taken.next += 1;
        let evicted = Arc::new(Notify::new());
        taken.unproven.insert(id, Arc::clone(&evicted));
        Some(Slot { slots: Arc::clone(self), id: AtomicU64::new(id), evicted })
    }

    /// A place, as soon as there is one. For one task at a time.
    pub(crate) async fn wait(self: &Arc<Self>) -> Slot {
        loop {
            if let Some(slot) = self.take() {
                return slot;
            }
            self.freed.notified().await;
        }
    }
}

impl Slot {
    /// The peer has proved who it is: it keeps its place from now on, unless that is gone already.
    pub(crate) fn prove(&self) {
        let mut taken = self.slots.taken.lock();
        let id = self.id.load(Ordering::Relaxed);
        if taken.unproven.remove(&id).is_some() {
            taken.proven.insert(id);
        }
    }

    /// The peer is idle: it gives way again, after those that have been idle for longer.
    pub(crate) fn rest(&self) {
        let mut taken = self.slots.taken.lock();
        if taken.proven.remove(&self.id.load(Ordering::Relaxed)) {
            let id = taken.next;
            taken.next += 1;
            self.id.store(id, Ordering::Relaxed);
            taken.unproven.insert(id, Arc::clone(&self.evicted));
            drop(taken);
            self.slots.freed.notify_one();
        }
    }

    /// Completes when the place has been given to another.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let id = self.id.load(Ordering::Relaxed);
        let mut taken = self.slots.taken.lock();
        taken.unproven.remove(&id);
        taken.proven.remove(&id);
        drop(taken);
        self.slots.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_evicted(slot: &Slot) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime
            .block_on(async { tokio::time::timeout(std::time::Duration::ZERO, slot.evicted()).await.is_ok() })
    }

    #[test]
    fn the_oldest_that_proved_nothing_gives_way() {
        let slots = Slots::new(3);
        let [first, second, third] = std::array::from_fn(|_| slots.take().unwrap());
        first.prove();
        let fourth = slots.take().unwrap();
        assert_eq!([&first, &second, &third, &fourth].map(is_evicted), [false, true, false, false]);
        // It can neither prove itself afterwards nor give back what it has no more.
        second.prove();
        drop(second);
        let fifth = slots.take().unwrap();
        assert_eq!([&first, &third, &fourth, &fifth].map(is_evicted), [false, true, false, false]);
    }

    #[test]
    fn the_one_that_is_idle_for_longest_gives_way_first() {
        let slots = Slots::new(2);
        let [first, second] = std::array::from_fn(|_| slots.take().unwrap());
        first.prove();
        second.prove();
        assert!(slots.take().is_none());
        second.rest();
        first.rest();
        let third = slots.take().unwrap();
        assert_eq!([&first, &second, &third].map(is_evicted), [false, true, false]);
        second.rest();
        second.prove();
        drop(second);
        assert_eq!(slots.taken.lock().unproven.len(), 2);
    }

    #[tokio::test]
    async fn who_waits_gets_the_first_place_that_comes_free() {
        let slots = Slots::new(1);
        let busy = slots.take().unwrap();
        busy.prove();
        let waiting = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.wait().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        busy.rest();
        drop(waiting.await.unwrap());
        assert!(slots.taken.lock().unproven.is_empty());
    }

    #[test]
    fn there_are_never_more_than_the_limit() {
        let slots = Slots::new(2);
        let held = [slots.take().unwrap(), slots.take().unwrap()];
        held.iter().for_each(Slot::prove);
        assert!(slots.take().is_none());
        drop(held);
        assert!(slots.take().is_some());
        assert!(slots.taken.lock().unproven.is_empty());
    }
}
