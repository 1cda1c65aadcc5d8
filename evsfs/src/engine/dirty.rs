//! The dirty map: entries that are newer than the map in the file.
//!
//! It has two layers. Writes go into the *active* one; the cut of a checkpoint freezes it, and the frozen one is read until its
//! entries are in the map. Both layers of a block stand under one lock, so a look-up never falls between them. Readers of other
//! blocks do not meet: there are 64 locks, each for whole runs of 256 blocks (1 MiB).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::Arc;

use super::map::{is_lost, lost};
use super::ranges::RangeSet;
use crate::format::Entry;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{RwLock, RwLockWriteGuard};

const SHARDS: usize = 64;

/// log2 of the blocks that always share a shard.
pub(super) const CHUNK_BITS: u32 = 8;

/// How many dirty entries fit in so many bytes, in the worst case: both layers full. A hash table has a power of two of places and grows
/// when seven eighths are taken, so a limit at seven tenths of such a number costs least; the rest is for shards that get more than others.
pub(super) fn entries_within(bytes: u64) -> u64 {
    const PLACE: u64 = 41;
    let shards = 64;
    let places = (bytes / (2 * shards * PLACE)).clamp(64, 16_384);
    shards * (1 << places.ilog2()) * 7 / 10
}

/// A multiplicative hash: block numbers are the volume's own, and two cores must do hundreds of thousands of look-ups a second.
#[derive(Default)]
pub(super) struct BlockHasher(u64);

impl Hasher for BlockHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A hash map by block or slot number.
pub(super) type BlockMap<T> = HashMap<u64, T, BuildHasherDefault<BlockHasher>>;

/// Changes of one period.
#[derive(Default)]
struct Layer {
    entries: BlockMap<Entry>,
    /// The runs of 256 blocks that have entries: so few of them must be looked at to find those of a range, or the next one. Some may have
    /// none any more.
    runs: Runs,
    /// Discarded ranges. An entry of the same layer is newer than the range that it lies in: a range that comes drops those.
    holes: Arc<RangeSet>,
}

impl Layer {
    fn find(&self, block: u64, hole: Entry) -> Option<Entry> {
        if let Some(entry) = self.entries.get(&block) {
            return Some(*entry);
        }
        self.holes.contains(block).then_some(hole)
    }

    fn insert(&mut self, block: u64, entry: Entry) -> Option<Entry> {
        let old = self.entries.insert(block, entry);
        if old.is_none() {
            self.runs.insert(run_of(block));
        }
        old
    }

    /// Takes out the entries of a range and hands them to `dropped`.
    fn remove(&mut self, range: &Range<u64>, dropped: &mut impl FnMut(Entry)) {
        let runs = self.runs.within(range).to_vec();
        let blocks = runs.len().saturating_mul(1 << CHUNK_BITS);
        if blocks > self.entries.len() {
            self.entries.retain(|block, entry| {
                let hidden = range.contains(block);
                if hidden {
                    dropped(*entry);
                }
                !hidden
            });
        } else {
            for run in runs {
                let blocks = blocks_of(run);
                for block in blocks.start.max(range.start)..blocks.end.min(range.end) {
                    if let Some(entry) = self.entries.remove(&block) {
                        dropped(entry);
                    }
                }
            }
        }
        self.runs.remove_whole(range);
    }
}

/// Numbers of runs, sorted and in one piece: a tree of them would leave its nodes all over the heap.
#[derive(Default)]
struct Runs(Vec<u32>);

impl Runs {
    fn insert(&mut self, run: u32) {
        if let Err(place) = self.0.binary_search(&run) {
            self.0.insert(place, run);
        }
    }

    /// The first one that is not before `run`.
    fn from(&self, run: u32) -> Option<u32> {
        self.0.get(self.0.partition_point(|have| *have < run)).copied()
    }

    /// Those that blocks of a range lie in, which is not empty.
    fn within(&self, range: &Range<u64>) -> &[u32] {
        let start = self.0.partition_point(|have| *have < run_of(range.start));
        let end = self.0.partition_point(|have| *have <= run_of(range.end - 1));
        &self.0[start..end]
    }

    /// Takes out those that lie in a range with all their blocks.
    fn remove_whole(&mut self, range: &Range<u64>) {
        let start = self.0.partition_point(|have| blocks_of(*have).start < range.start);
        let end = self.0.partition_point(|have| blocks_of(*have).end <= range.end);
        if start < end {
            self.0.drain(start..end);
        }
    }
}

/// The run that a block belongs to.
fn run_of(block: u64) -> u32 {
    u32::try_from(block >> CHUNK_BITS).expect("a volume has at most 2^35 blocks")
}

fn blocks_of(run: u32) -> Range<u64> {
    u64::from(run) << CHUNK_BITS..(u64::from(run) + 1) << CHUNK_BITS
}

/// Blocks that share a lock.
#[derive(Default)]
pub(super) struct Shard {
    active: Layer,
    frozen: Layer,
}

/// What the dirty map says about a block, and which layer says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Active(Entry),
    Frozen(Entry),
    Below,
}

impl Shard {
    /// `hole` is how this volume records a discarded block.
    pub(super) fn find(&self, block: u64, hole: Entry) -> Found {
        if let Some(entry) = self.active.find(block, hole) {
            return Found::Active(entry);
        }
        self.frozen.find(block, hole).map_or(Found::Below, Found::Frozen)
    }
}

/// A shard that is locked for insertion.
pub(super) struct ShardGuard<'a> {
    shard: RwLockWriteGuard<'a, Shard>,
    count: &'a AtomicUsize,
}

impl ShardGuard<'_> {
    pub(super) fn find(&self, block: u64, hole: Entry) -> Found {
        self.shard.find(block, hole)
    }

    /// Puts a frozen entry into the active layer, unless that has something newer, which is false then.
    pub(super) fn carry_over(&mut self, block: u64, entry: Entry) -> bool {
        let is_newest = self.shard.active.find(block, entry).is_none();
        if is_newest {
            self.insert(block, entry);
        }
        is_newest
    }

    /// Puts an entry into the active layer and gives back the one that it replaces there, unless that stands for something lost: it has no
    /// slot that anybody could free.
    pub(super) fn insert(&mut self, block: u64, entry: Entry) -> Option<Entry> {
        let old = self.shard.active.insert(block, entry);
        if old.is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        old.filter(|old| !is_lost(old))
    }
}

/// Slots of entries that newer ones hid before either was in the map.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hidden {
    pub(super) replaced: Vec<u64>,
    pub(super) discarded: Vec<u64>,
}

/// See the module.
pub(super) struct DirtyMap {
    shards: Box<[RwLock<Shard>]>,
    active: AtomicUsize,
    frozen: AtomicUsize,
    ranges: AtomicUsize,
    frozen_ranges: AtomicUsize,
    /// Goes up when entries move: at a cut, when it is undone, and when frozen entries have come into the map.
    moves: AtomicU64,
}

impl DirtyMap {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            active: AtomicUsize::new(0),
            frozen: AtomicUsize::new(0),
            ranges: AtomicUsize::new(0),
            frozen_ranges: AtomicUsize::new(0),
            moves: AtomicU64::new(0),
        }
    }

    fn index(block: u64) -> usize {
        let mixed = (block >> CHUNK_BITS).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        usize::try_from(mixed >> 58).expect("six bits")
    }

    /// Looks up blocks of one run of 256, under one lock.
    pub(super) fn find_each(&self, blocks: Range<u64>, hole: Entry, mut found: impl FnMut(u64, Found)) {
        let shard = self.shards[Self::index(blocks.start)].read();
        for block in blocks {
            found(block, shard.find(block, hole));
        }
    }

    /// Locks the shard of a block (and of its run of 256) for insertion.
    pub(super) fn lock(&self, block: u64) -> ShardGuard<'_> {
        ShardGuard { shard: self.shards[Self::index(block)].write(), count: &self.active }
    }

    /// Whether a range is discarded already in the active layer, and nothing was written into it since. The caller keeps writers away.
    pub(super) fn is_hole(&self, range: &Range<u64>) -> bool {
        self.shards[0].read().active.holes.covers(range)
            && self.shards.iter().all(|shard| shard.read().active.runs.within(range).is_empty())
    }

    /// Records a discarded range, which is not empty, in the active layer, drops the entries that it hides, and hands each to `dropped` that
    /// has something to be freed. The caller keeps writers away; readers see each block either before or after.
    pub(super) fn insert_hole(&self, range: &Range<u64>, mut dropped: impl FnMut(Entry)) {
        let mut dropped = |entry| {
            if !is_lost(&entry) {
                dropped(entry);
            }
        };
        let mut holes = RangeSet::clone(&self.shards[0].read().active.holes);
        holes.insert(range.clone());
        self.ranges.store(holes.len(), Ordering::Relaxed);
        let holes = Arc::new(holes);
        let mut gone = 0;
        for shard in &self.shards {
            let active = &mut shard.write().active;
            active.holes = Arc::clone(&holes);
            active.remove(range, &mut |entry| {
                gone += 1;
                dropped(entry);
            });
        }
        self.active.fetch_sub(gone, Ordering::Relaxed);
    }

    /// The file ends before this slot: what the active layer has in it, or behind it, is lost, and refers to no slot from now on. Gives the
    /// first block and how many there are.
    pub(super) fn lose_from(&self, end: u64) -> Option<(u64, u64)> {
        let mut gone: Option<(u64, u64)> = None;
        for shard in &self.shards {
            for (block, entry) in &mut shard.write().active.entries {
                if entry.is_data() && entry.slot() >= end {
                    *entry = lost(0);
                    let (first, blocks) = gone.unwrap_or((*block, 0));
                    gone = Some((first.min(*block), blocks + 1));
                }
            }
        }
        gone
    }

    /// Whether neither layer holds anything, so that a look-up can be spared. A cut fills the counts of the frozen layer before it
    /// empties those of the active one, so whoever looks in the other order never finds both empty by mistake.
    ///
    /// Where a cut is undone they go the other way, which is told by the count of moves.
    pub(super) fn is_empty(&self) -> bool {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Acquire);
        let moves = self.moves();
        count(&self.active) + count(&self.ranges) == 0
            && count(&self.frozen) + count(&self.frozen_ranges) == 0
            && self.moves() == moves
    }

    /// The cut: the active layer becomes the frozen one. The caller keeps writers away, and nothing is frozen yet.
    pub(super) fn freeze(&self) {
        for shard in &self.shards {
            let mut shard = shard.write();
            shard.frozen = std::mem::take(&mut shard.active);
        }
        self.frozen.store(self.active.load(Ordering::Relaxed), Ordering::Release);
        self.frozen_ranges.store(self.ranges.load(Ordering::Relaxed), Ordering::Release);
        self.active.store(0, Ordering::Release);
        self.ranges.store(0, Ordering::Release);
        self.moves.fetch_add(1, Ordering::Release);
    }

    /// The frozen layer is in the map now. Readers that miss it here must look at a map that has it: so the map changes first.
    pub(super) fn clear_frozen(&self) {
        for shard in &self.shards {
            let old = std::mem::take(&mut shard.write().frozen);
            drop(old);
        }
        self.frozen.store(0, Ordering::Release);
        self.frozen_ranges.store(0, Ordering::Release);
        self.moves.fetch_add(1, Ordering::Release);
    }

    /// This part of the frozen layer, which is not empty, is in the map now, as in [`Self::clear_frozen`].
    pub(super) fn clear_frozen_within(&self, part: &Range<u64>) {
        let mut left = 0;
        let holes = Arc::new(outside(&self.shards[0].read().frozen.holes, part));
        for shard in &self.shards {
            let frozen = &mut shard.write().frozen;
            frozen.remove(part, &mut |_| {});
            frozen.holes = Arc::clone(&holes);
            left += frozen.entries.len();
        }
        self.frozen.store(left, Ordering::Release);
        self.frozen_ranges.store(holes.len(), Ordering::Release);
        self.moves.fetch_add(1, Ordering::Release);
    }

    /// Undoes a cut: what is frozen becomes active again, under what came since. The caller keeps writers away.
    pub(super) fn thaw(&self) -> Hidden {
        let (frozen, newer) = {
            let first = self.shards[0].read();
            (Arc::clone(&first.frozen.holes), Arc::clone(&first.active.holes))
        };
        let mut all = RangeSet::clone(&newer);
        frozen.iter().for_each(|range| all.insert(range));
        self.ranges.store(all.len(), Ordering::Release);
        let all = Arc::new(all);
        let mut hidden = Hidden::default();
        for shard in &self.shards {
            let mut shard = shard.write();
            let Layer { entries, .. } = std::mem::take(&mut shard.frozen);
            for (block, entry) in entries {
                let by = shard.active.entries.get(&block).map(Entry::is_data);
                let Some(by_data) = by.or(newer.contains(block).then_some(false)) else {
                    shard.active.insert(block, entry);
                    self.active.fetch_add(1, Ordering::Release);
                    continue;
                };
                if entry.is_data() && !is_lost(&entry) {
                    let slots = if by_data { &mut hidden.replaced } else { &mut hidden.discarded };
                    slots.push(entry.slot());
                }
            }
            shard.active.holes = Arc::clone(&all);
        }
        // In this order: see `is_empty`.
        self.moves.fetch_add(1, Ordering::AcqRel);
        self.frozen.store(0, Ordering::Release);
        self.frozen_ranges.store(0, Ordering::Release);
        hidden
    }

    /// See the field: who looks in several places compares it before and after.
    pub(super) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    /// Entries of the active layer.
    pub(super) fn active_len(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Discarded ranges of the active layer.
    pub(super) fn active_ranges(&self) -> usize {
        self.ranges.load(Ordering::Relaxed)
    }

    /// Discarded ranges of both layers.
    pub(super) fn ranges(&self) -> usize {
        self.active_ranges() + self.frozen_ranges.load(Ordering::Relaxed)
    }

    /// Entries of both layers.
    pub(super) fn len(&self) -> usize {
        self.active_len() + self.frozen.load(Ordering::Relaxed)
    }

    /// The frozen blocks, sorted, and the frozen ranges.
    pub(super) fn frozen(&self) -> (Vec<u64>, Arc<RangeSet>) {
        let mut blocks = Vec::with_capacity(self.frozen.load(Ordering::Relaxed));
        let mut holes = Arc::default();
        for shard in &self.shards {
            let shard = shard.read();
            blocks.extend(shard.frozen.entries.keys().copied());
            holes = Arc::clone(&shard.frozen.holes);
        }
        blocks.sort_unstable();
        (blocks, holes)
    }

    /// What is frozen outside of this part: entries, in no order, and ranges.
    pub(super) fn frozen_outside(&self, part: &Range<u64>) -> (Vec<(u64, Entry)>, RangeSet) {
        let mut entries = Vec::new();
        for shard in &self.shards {
            let shard = shard.read();
            let here = shard.frozen.entries.iter().filter(|(block, _)| !part.contains(block));
            entries.extend(here.map(|(block, entry)| (*block, *entry)));
        }
        (entries, outside(&self.shards[0].read().frozen.holes, part))
    }

    /// The slots of frozen data outside of this part, in no order.
    pub(super) fn frozen_slots_outside(&self, part: &Range<u64>) -> Vec<u64> {
        let mut slots = Vec::new();
        for shard in &self.shards {
            let shard = shard.read();
            let here = shard.frozen.entries.iter().filter(|(block, _)| !part.contains(block));
            let data = here.map(|(_, entry)| entry).filter(|entry| entry.is_data() && !is_lost(entry));
            slots.extend(data.map(Entry::slot));
        }
        slots
    }

    /// A frozen entry.
    pub(super) fn frozen_entry(&self, block: u64) -> Option<Entry> {
        self.shards[Self::index(block)].read().frozen.entries.get(&block).copied()
    }

    /// Whether an entry of either layer is such a one.
    pub(super) fn has(&self, is_one: impl Fn(&Entry) -> bool) -> bool {
        self.shards.iter().any(|shard| {
            let shard = shard.read();
            shard.active.entries.values().chain(shard.frozen.entries.values()).any(&is_one)
        })
    }

    /// The active entries, in no order, and the active ranges.
    pub(super) fn active(&self) -> (Vec<(u64, Entry)>, Arc<RangeSet>) {
        let mut entries = Vec::with_capacity(self.active_len());
        let mut holes = Arc::default();
        for shard in &self.shards {
            let shard = shard.read();
            entries.extend(shard.active.entries.iter().map(|(block, entry)| (*block, *entry)));
            holes = Arc::clone(&shard.active.holes);
        }
        (entries, holes)
    }

    /// The blocks of a range that have an entry in either layer, in order.
    pub(super) fn entries_of(&self, blocks: &Range<u64>) -> Vec<u64> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.read();
            let keys = shard.active.entries.keys().chain(shard.frozen.entries.keys());
            found.extend(keys.copied().filter(|block| blocks.contains(block)));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The first block at or after `block` with an entry in either layer.
    pub(super) fn next_entry(&self, block: u64) -> Option<u64> {
        let mut from = run_of(block);
        loop {
            let next = |shard: &RwLock<Shard>| {
                let shard = shard.read();
                let runs = |layer: &Layer| layer.runs.from(from);
                [runs(&shard.active), runs(&shard.frozen)].into_iter().flatten().min()
            };
            let run = self.shards.iter().filter_map(next).min()?;
            let blocks = blocks_of(run);
            let shard = self.shards[Self::index(blocks.start)].read();
            let has = |block: &u64| {
                shard.active.entries.contains_key(block) || shard.frozen.entries.contains_key(block)
            };
            if let Some(found) = (blocks.start.max(block)..blocks.end).find(has) {
                return Some(found);
            }
            from = run + 1;
        }
    }
}

/// The ranges but for what lies in this part.
fn outside(holes: &RangeSet, part: &Range<u64>) -> RangeSet {
    let mut rest = holes.clipped(0..part.start);
    holes.within(part.end..u64::MAX).for_each(|range| rest.insert(range));
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Tag;

    fn entry(slot: u64) -> Entry {
        Entry::data(slot, 1, 1, Tag::default())
    }

    fn find(map: &DirtyMap, block: u64) -> Found {
        let mut result = Found::Below;
        map.find_each(block..block + 1, Entry::ABSENT, |_, found| result = found);
        result
    }

    #[test]
    fn the_newest_layer_wins_and_ranges_hide_what_came_before_them() {
        let map = DirtyMap::new();
        assert_eq!(map.lock(5).insert(5, entry(100)), None);
        assert_eq!(map.lock(5).insert(5, entry(101)), Some(entry(100)));
        assert_eq!(map.active_len(), 1);
        map.freeze();
        assert_eq!(find(&map, 5), Found::Frozen(entry(101)));
        let mut dropped = Vec::new();
        map.lock(700).insert(700, entry(102));
        map.insert_hole(&(0..1000), |entry| dropped.push(entry));
        assert_eq!(dropped, [entry(102)]);
        assert_eq!((map.active_len(), map.active_ranges()), (0, 1));
        assert_eq!(find(&map, 5), Found::Active(Entry::ABSENT));
        map.lock(6).insert(6, entry(103));
        assert_eq!(find(&map, 6), Found::Active(entry(103)));
        let before = map.moves();
        map.clear_frozen();
        assert_ne!(map.moves(), before);
        map.freeze();
        assert_eq!(map.frozen().0, [6]);
        assert!(map.frozen().1.covers(&(0..1000)));
        assert_eq!(map.frozen_entry(6), Some(entry(103)));
        assert_eq!((find(&map, 7), find(&map, 1000)), (Found::Frozen(Entry::ABSENT), Found::Below));
        assert_eq!((map.next_entry(0), map.next_entry(7)), (Some(6), None));
    }

    /// However the entries lie, those of a range go and the others stay, and the next one is found.
    #[test]
    fn entries_of_a_range_are_found_by_the_runs_that_they_lie_in() {
        for step in [1, 3, 200, 256, 1_000] {
            let map = DirtyMap::new();
            let blocks: Vec<u64> = (0..2_000).map(|number| number * step).collect();
            for block in &blocks {
                map.lock(*block).insert(*block, entry(*block));
            }
            let (start, end) = (blocks[300] + 1, blocks[1_700]);
            let mut dropped = 0;
            assert!(!map.is_hole(&(start..end)));
            map.insert_hole(&(start..end), |_| dropped += 1);
            assert_eq!((dropped, map.active_len()), (1_399, 601), "step {step}");
            assert_eq!(map.next_entry(start), Some(end));
            assert_eq!(map.next_entry(blocks[1_999]), Some(blocks[1_999]));
            assert_eq!(map.next_entry(blocks[1_999] + 1), None);
            let whole = (start.next_multiple_of(256), end / 256 * 256);
            assert!(map.is_hole(&(whole.0..whole.1)), "step {step}");
            map.lock(whole.0).insert(whole.0, entry(1));
            assert!(!map.is_hole(&(whole.0..whole.1)));
            map.freeze();
            assert!(!map.is_hole(&(whole.0..whole.1)), "that is the other layer");
            assert_eq!(map.next_entry(start), Some(whole.0));
        }
    }

    /// A log with many of both must not keep an attach busy.
    #[test]
    fn f6_ranges_beside_many_entries_cost_no_look_at_them() {
        let map = DirtyMap::new();
        for block in 0..1_000_000 {
            map.lock(block).insert(block, entry(block));
        }
        let start = std::time::Instant::now();
        for number in 0..5_000 {
            map.insert_hole(&(3_000_000 + number % 2..4_000_000), |_| panic!("nothing lies there"));
            assert_eq!(map.next_entry(2_000_000), None);
            assert!(map.is_hole(&(3_000_001..4_000_000)));
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(3), "{:?}", start.elapsed());
        assert_eq!(map.active_len(), 1_000_000);
    }

    #[test]
    fn a_cut_that_is_undone_goes_under_what_came_since() {
        let map = DirtyMap::new();
        for block in [1, 2, 3, 600, 900] {
            map.lock(block).insert(block, entry(100 + block));
        }
        map.insert_hole(&(5000..6000), |_| {});
        map.freeze();
        map.lock(2).insert(2, entry(7));
        map.insert_hole(&(500..700), |_| {});
        map.lock(650).insert(650, entry(8));
        assert_eq!(map.frozen_outside(&(0..600)).0.len(), 2);
        // The part before block 2 is in the map.
        map.clear_frozen_within(&(0..2));
        assert_eq!((find(&map, 1), map.len()), (Found::Below, 6));
        let before = map.moves();
        assert_eq!(map.thaw(), Hidden { replaced: vec![102], discarded: vec![700] });
        assert_ne!(map.moves(), before);
        assert_eq!((map.active_len(), map.active_ranges(), map.len()), (4, 2, 4));
        for (block, slot) in [(2, 7), (3, 103), (650, 8), (900, 1000)] {
            assert_eq!(find(&map, block), Found::Active(entry(slot)));
        }
        for hole in [600, 5500] {
            assert_eq!(find(&map, hole), Found::Active(Entry::ABSENT));
        }
        map.freeze();
        assert_eq!(map.frozen().0, [2, 3, 650, 900]);
        map.clear_frozen_within(&(3..900));
        let mut rest = map.frozen_outside(&(901..5500));
        rest.0.sort_unstable_by_key(|(block, _)| *block);
        assert_eq!(rest.0, [(2, entry(7)), (900, entry(1000))]);
        assert!(rest.1.iter().eq(std::iter::once(5500..6000)));
        map.clear_frozen_within(&(0..3000));
        assert_eq!((map.len(), map.frozen_outside(&(0..0)).1), (0, map.frozen().1.clipped(5000..6000)));
        assert!(!map.is_empty());
        map.clear_frozen();
        assert!(map.is_empty());
    }

    /// It stands in no slot: who got one to free would free somebody else's.
    #[test]
    fn f2_what_is_lost_gives_no_slot_back() {
        let map = DirtyMap::new();
        for block in [1, 2, 3, 600] {
            map.lock(block).insert(block, entry(100 + block));
        }
        assert_eq!(map.lose_from(102), Some((2, 3)));
        assert_eq!(map.lock(2).insert(2, entry(7)), None);
        map.insert_hole(&(512..1024), |entry| panic!("{entry:?}"));
        map.freeze();
        map.lock(3).insert(3, entry(8));
        map.lock(1).insert(1, entry(9));
        assert_eq!(map.thaw(), Hidden { replaced: vec![101], discarded: vec![] });
    }

    #[test]
    fn f6_an_entry_takes_at_most_about_64_bytes() {
        assert_eq!(size_of::<(u64, Entry)>(), 40);
        assert_eq!(
            [64 << 20, 192 << 20, 1 << 40].map(|memory| entries_within(memory * 9 / 20)),
            [183_500, 734_003, 734_003]
        );
    }
}
