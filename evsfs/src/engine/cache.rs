//! Opened pages of the map, as many as memory allows (F6).
//!
//! A page is found by its slot and accepted only if it is the very page that the entry names (epoch and counter), so an entry
//! that is out of date never gets what lies in its slot now.

use std::sync::Arc;

use super::dirty::BlockMap;
use crate::format::{Entry, MapPage};
use crate::sync::Mutex;

const SHARDS: u64 = 16;
/// What a page costs, with its allocation and its place in the table.
pub(super) const PAGE_COST: usize = 4096 + 128;

struct Cached {
    page: Arc<MapPage>,
    epoch: u32,
    counter: u32,
    used: bool,
}

#[derive(Default)]
struct CacheShard {
    pages: BlockMap<Cached>,
    /// Slots in the order in which they came; a page that was used since goes to the back once more (second chance).
    order: std::collections::VecDeque<u64>,
}

/// See the module.
pub(super) struct PageCache {
    shards: Box<[Mutex<CacheShard>]>,
    per_shard: usize,
}

impl PageCache {
    pub(super) fn new(pages: usize) -> Self {
        let shards = usize::try_from(SHARDS).expect("small");
        Self { shards: (0..shards).map(|_| Mutex::default()).collect(), per_shard: (pages / shards).max(4) }
    }

    fn shard(&self, slot: u64) -> &Mutex<CacheShard> {
        &self.shards[usize::try_from(slot % SHARDS).expect("small")]
    }

    pub(super) fn find(&self, entry: &Entry) -> Option<Arc<MapPage>> {
        let mut shard = self.shard(entry.slot()).lock();
        let cached = shard.pages.get_mut(&entry.slot())?;
        if (cached.epoch, cached.counter) != (entry.epoch(), entry.counter()) {
            return None;
        }
        cached.used = true;
        Some(Arc::clone(&cached.page))
    }

    pub(super) fn insert(&self, entry: &Entry, page: Arc<MapPage>) {
        let slot = entry.slot();
        let mut guard = self.shard(slot).lock();
        let shard = &mut *guard;
        let cached = Cached { page, epoch: entry.epoch(), counter: entry.counter(), used: false };
        if shard.pages.insert(slot, cached).is_none() {
            shard.order.push_back(slot);
        }
        while shard.pages.len() > self.per_shard {
            let Some(oldest) = shard.order.pop_front() else { break };
            match shard.pages.get_mut(&oldest) {
                Some(cached) if cached.used => {
                    cached.used = false;
                    shard.order.push_back(oldest);
                }
                Some(_) => {
                    shard.pages.remove(&oldest);
                }
                None => {}
            }
        }
    }

    /// Drops every page.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            *shard.lock() = CacheShard::default();
        }
    }

    /// Pages held.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().pages.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Tag;

    #[test]
    fn f6_it_stays_within_its_limit_and_keeps_what_is_used() {
        let cache = PageCache::new(160);
        let entry = |slot| Entry::page(slot, 1, 7, Tag::default());
        cache.insert(&entry(1000), Arc::new(MapPage::empty()));
        for slot in 0..10_000 {
            if slot != 1000 {
                cache.insert(&entry(slot), Arc::new(MapPage::empty()));
            }
            assert!(cache.find(&entry(1000)).is_some(), "in use all the time, lost after {slot}");
        }
        assert!(cache.len() <= 160);
    }

    #[test]
    fn another_page_in_the_same_slot_is_not_taken_for_it() {
        let cache = PageCache::new(160);
        cache.insert(&Entry::page(20, 1, 7, Tag::default()), Arc::new(MapPage::empty()));
        assert!(cache.find(&Entry::page(20, 1, 8, Tag::default())).is_none());
        assert!(cache.find(&Entry::page(20, 2, 7, Tag::default())).is_none());
        assert!(cache.find(&Entry::page(20, 1, 7, Tag::default())).is_some());
    }
}
