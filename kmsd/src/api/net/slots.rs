//! A bounded number of connections, of which those that have proved nothing give way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// All slots.
#[derive(Debug)]
pub(super) struct Slots {
    limit: usize,
    taken: Mutex<Taken>,
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
pub(super) struct Slot {
    slots: Arc<Slots>,
    id: u64,
    evicted: Arc<Notify>,
}

impl Slots {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default() })
    }

    /// A place; when none is free, that of the oldest connection which has proved nothing. `None` when all have.
    pub(super) fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut taken = self.taken.lock();
        if taken.unproven.len() + taken.proven.len() >= self.limit {
            let (_, oldest) = taken.unproven.pop_first()?;
            oldest.notify_one();
        }
        let id = taken.next;
        taken.next += 1;
        let evicted = Arc::new(Notify::new());
        taken.unproven.insert(id, Arc::clone(&evicted));
        Some(Slot { slots: Arc::clone(self), id, evicted })
    }
}

impl Slot {
    /// The peer has proved who it is: it keeps its place from now on, unless that is gone already.
    pub(super) fn prove(&self) {
        let mut taken = self.slots.taken.lock();
        if taken.unproven.remove(&self.id).is_some() {
            taken.proven.insert(self.id);
        }
    }

    /// Completes when the place has been given to another.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock();
        taken.unproven.remove(&self.id);
        taken.proven.remove(&self.id);
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
