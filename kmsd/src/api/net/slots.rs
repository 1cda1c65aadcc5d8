//! A bounded number of connections, of which those that have proved nothing give way, and of which nobody has more than a share.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::Principal;

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
    unproven: BTreeMap<u64, Unproven>,
    /// With their owners.
    proven: BTreeMap<u64, Option<Principal>>,
    /// How many each owner has.
    held: HashMap<Principal, usize>,
}

#[derive(Debug)]
struct Unproven {
    owner: Option<Principal>,
    evicted: Arc<Notify>,
}

/// One connection's place. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    /// Changes only while `taken` is locked.
    id: AtomicU64,
    evicted: Arc<Notify>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoSlot {
    /// All are taken, and none gives way.
    AllTaken,
    /// The owner has its share, and none of it gives way.
    ShareTaken,
}

impl Taken {
    fn held_by(&self, owner: Option<&Principal>) -> usize {
        owner.and_then(|owner| self.held.get(owner)).copied().unwrap_or(0)
    }

    fn gone(&mut self, owner: Option<&Principal>) {
        if let Some(owner) = owner
            && let Some(held) = self.held.get_mut(owner)
        {
            *held -= 1;
            if *held == 0 {
                self.held.remove(owner);
            }
        }
    }

    /// Lets one that has proved nothing give way: of an owner, or of whoever has most. Whether there was one.
    fn evict(&mut self, of: Option<&Principal>) -> bool {
        let mut oldest = None;
        let mut most = 0;
        for (id, unproven) in &self.unproven {
            let held = self.held_by(unproven.owner.as_ref());
            if (of.is_none() || unproven.owner.as_ref() == of) && (oldest.is_none() || held > most) {
                (oldest, most) = (Some(*id), held);
            }
        }
        let Some(unproven) = oldest.and_then(|id| self.unproven.remove(&id)) else { return false };
        unproven.evicted.notify_one();
        self.gone(unproven.owner.as_ref());
        true
    }
}

impl Slots {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default(), freed: Notify::new() })
    }

    /// A place. When none is free, that of the oldest connection which has proved nothing, of the owner who has most. An owner who has half of all gets
    /// another only in place of one of its own.
    pub(crate) fn take(self: &Arc<Self>, owner: Option<&Principal>) -> Result<Slot, NoSlot> {
        let mut taken = self.taken.lock();
        if taken.held_by(owner) >= self.share() && !taken.evict(owner) {
            return Err(NoSlot::ShareTaken);
        }
        if taken.unproven.len() + taken.proven.len() >= self.limit && !taken.evict(None) {
            return Err(NoSlot::AllTaken);
        }
        let id = taken.next;
        taken.next += 1;
        let evicted = Arc::new(Notify::new());
        taken.unproven.insert(id, Unproven { owner: owner.cloned(), evicted: Arc::clone(&evicted) });
        if let Some(owner) = owner {
            *taken.held.entry(owner.clone()).or_default() += 1;
        }
        Ok(Slot { slots: Arc::clone(self), id: AtomicU64::new(id), evicted })
    }

    /// As many as one owner may have.
    const fn share(&self) -> usize {
        self.limit.div_ceil(2)
    }

    /// A place, as soon as there is one; `None` if the owner has its share. For one task at a time.
    pub(crate) async fn wait(self: &Arc<Self>, owner: Option<&Principal>) -> Option<Slot> {
        loop {
            match self.take(owner) {
                Ok(slot) => return Some(slot),
                Err(NoSlot::ShareTaken) => return None,
                Err(NoSlot::AllTaken) => self.freed.notified().await,
            }
        }
    }
}

impl Slot {
    /// The peer has proved who it is: it keeps its place from now on, unless that is gone already.
    pub(crate) fn prove(&self) {
        let mut taken = self.slots.taken.lock();
        let id = self.id.load(Ordering::Relaxed);
        if let Some(Unproven { owner, .. }) = taken.unproven.remove(&id) {
            taken.proven.insert(id, owner);
        }
    }

    /// The same where that shows only now whose the connection is. An owner who has half of all places keeps no more of them: further connections are
    /// served, and give way like those of strangers.
    pub(crate) fn prove_as(&self, owner: &Principal) {
        let mut taken = self.slots.taken.lock();
        let id = self.id.load(Ordering::Relaxed);
        if taken.held_by(Some(owner)) >= self.slots.share() || taken.unproven.remove(&id).is_none() {
            return;
        }
        *taken.held.entry(owner.clone()).or_default() += 1;
        taken.proven.insert(id, Some(owner.clone()));
    }

    /// The peer is idle: it gives way again, after those that have been idle for longer.
    pub(crate) fn rest(&self) {
        let mut taken = self.slots.taken.lock();
        if let Some(owner) = taken.proven.remove(&self.id.load(Ordering::Relaxed)) {
            let id = taken.next;
            taken.next += 1;
            self.id.store(id, Ordering::Relaxed);
            let unproven = Unproven { owner, evicted: Arc::clone(&self.evicted) };
            taken.unproven.insert(id, unproven);
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
        let owner = match taken.unproven.remove(&id) {
            Some(unproven) => unproven.owner,
            None => taken.proven.remove(&id).flatten(),
        };
        taken.gone(owner.as_ref());
        drop(taken);
        self.slots.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(uid: u32) -> Principal {
        Principal::Uid(uid)
    }

    fn is_evicted(slot: &Slot) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime
            .block_on(async { tokio::time::timeout(std::time::Duration::ZERO, slot.evicted()).await.is_ok() })
    }

    #[test]
    fn the_oldest_that_proved_nothing_gives_way() {
        let slots = Slots::new(3);
        let [first, second, third] = std::array::from_fn(|_| slots.take(None).unwrap());
        first.prove();
        let fourth = slots.take(None).unwrap();
        assert_eq!([&first, &second, &third, &fourth].map(is_evicted), [false, true, false, false]);
        // It can neither prove itself afterwards nor give back what it has no more.
        second.prove();
        drop(second);
        let fifth = slots.take(None).unwrap();
        assert_eq!([&first, &third, &fourth, &fifth].map(is_evicted), [false, true, false, false]);
    }

    #[test]
    fn the_one_that_is_idle_for_longest_gives_way_first() {
        let slots = Slots::new(2);
        let [first, second] = std::array::from_fn(|_| slots.take(None).unwrap());
        first.prove();
        second.prove();
        assert!(slots.take(None).is_err());
        second.rest();
        first.rest();
        let third = slots.take(None).unwrap();
        assert_eq!([&first, &second, &third].map(is_evicted), [false, true, false]);
        second.rest();
        second.prove();
        drop(second);
        assert_eq!(slots.taken.lock().unproven.len(), 2);
    }

    #[tokio::test]
    async fn who_waits_gets_the_first_place_that_comes_free() {
        let slots = Slots::new(1);
        let busy = slots.take(None).unwrap();
        busy.prove();
        let waiting = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.wait(None).await.unwrap() }
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
        let held = [slots.take(None).unwrap(), slots.take(None).unwrap()];
        held.iter().for_each(Slot::prove);
        assert!(slots.take(None).is_err());
        drop(held);
        assert!(slots.take(None).is_ok());
        assert!(slots.taken.lock().unproven.is_empty());
    }

    #[test]
    fn nobody_has_more_than_half() {
        let slots = Slots::new(4);
        let [first, second] = std::array::from_fn(|_| slots.take(Some(&uid(1))).unwrap());
        // Of its own, the oldest gives way; the others' places stay free.
        let third = slots.take(Some(&uid(1))).unwrap();
        assert_eq!([&first, &second, &third].map(is_evicted), [true, false, false]);
        drop(first);
        second.prove();
        third.prove();
        assert_eq!(slots.take(Some(&uid(1))).unwrap_err(), NoSlot::ShareTaken);
        let others = [slots.take(Some(&uid(2))).unwrap(), slots.take(Some(&uid(3))).unwrap()];
        assert_eq!(slots.taken.lock().held, HashMap::from([(uid(1), 2), (uid(2), 1), (uid(3), 1)]));
        others.iter().for_each(Slot::prove);
        assert_eq!(slots.take(Some(&uid(4))).unwrap_err(), NoSlot::AllTaken);
        drop((second, third, others));
        assert_eq!(slots.taken.lock().held, HashMap::new());
    }

    /// However many connections one user opens, those of another stay.
    #[test]
    fn who_has_most_gives_way() {
        let slots = Slots::new(4);
        let quiet = slots.take(Some(&uid(1))).unwrap();
        let mut many: Vec<_> = (0..2).map(|_| slots.take(Some(&uid(2))).unwrap()).collect();
        let fourth = slots.take(Some(&uid(3))).unwrap();
        many.push(slots.take(Some(&uid(4))).unwrap());
        assert!(!is_evicted(&quiet) && !is_evicted(&fourth));
        assert_eq!(many.iter().map(is_evicted).collect::<Vec<_>>(), [true, false, false]);
    }

    /// On the network it shows only by the first request whose a connection is: nobody keeps more than half of all, however many requests are signed.
    #[test]
    fn who_proves_itself_later_keeps_no_more_than_half() {
        let slots = Slots::new(4);
        let own: Vec<_> = (0..3).map(|_| slots.take(None).unwrap()).collect();
        own.iter().for_each(|slot| slot.prove_as(&uid(1)));
        own.iter().for_each(|slot| slot.prove_as(&uid(1)));
        let other = slots.take(None).unwrap();
        other.prove_as(&uid(2));
        // All are taken: the third of its gives way, and no other.
        let new = slots.take(None).unwrap();
        new.prove_as(&uid(3));
        assert_eq!(
            own.iter().chain([&other, &new]).map(is_evicted).collect::<Vec<_>>(),
            [false, false, true, false, false]
        );
        assert_eq!(slots.take(None).unwrap_err(), NoSlot::AllTaken);
        drop((own, other, new));
        assert_eq!(slots.taken.lock().held, HashMap::new());
        let again = slots.take(None).unwrap();
        again.prove_as(&uid(1));
        assert_eq!(slots.taken.lock().proven.len(), 1);
    }
}
