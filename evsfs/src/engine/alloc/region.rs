//! The bitmap of one allocation region: 32,768 slots, one page.

use std::ops::Range;
use std::sync::Arc;

use crate::format::Block;
use crate::format::layout::{BLOCK, REGION_SLOTS, RING_START, allocation_slots};

const WORDS: usize = BLOCK / 8;

/// A set bit is a slot in use. Slot *n* of the region is bit `n % 64` of word `n / 64`.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::engine) struct Bitmap(Box<[u64; WORDS]>);

impl Bitmap {
    /// A region in which nothing was allocated: only the places of the allocation tree are taken, and in region 0 those of
    /// headers, superblocks and the log.
    pub(in crate::engine) fn fresh(region: u64, ring_pages: u64) -> Self {
        let mut bits = Self(Box::new([0; WORDS]));
        let base = region * REGION_SLOTS;
        let mut reserve = |slots: [u64; 2]| slots.into_iter().for_each(|slot| bits.set(slot - base));
        reserve(allocation_slots(0, region));
        if region.is_multiple_of(128) {
            reserve(allocation_slots(1, region / 128));
        }
        if region.is_multiple_of(16_384) {
            reserve(allocation_slots(2, region / 16_384));
        }
        if region == 0 {
            (0..RING_START + ring_pages).for_each(|slot| bits.set(slot));
        }
        bits
    }

    /// Without any slot.
    pub(in crate::engine) fn empty() -> Self {
        Self(Box::new([0; WORDS]))
    }

    /// Takes over what `other` has.
    pub(in crate::engine) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(mine, theirs)| *mine |= theirs);
    }

    /// The slots that both have.
    pub(in crate::engine) fn count_common(&self, other: &Self) -> u64 {
        self.0.iter().zip(other.0.iter()).map(|(mine, theirs)| u64::from((mine & theirs).count_ones())).sum()
    }

    pub(in crate::engine) fn decode(bytes: &Block) -> Self {
        let mut words = Box::new([0; WORDS]);
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Self(words)
    }

    pub(in crate::engine) fn encode(&self, out: &mut Block) {
        for (word, bytes) in self.0.iter().zip(out.as_chunks_mut::<8>().0) {
            *bytes = word.to_le_bytes();
        }
    }

    fn place(slot: u64) -> (usize, u64) {
        (usize::try_from(slot / 64).expect("within the region"), 1 << (slot % 64))
    }

    pub(in crate::engine) fn is_set(&self, slot: u64) -> bool {
        let (word, bit) = Self::place(slot);
        self.0[word] & bit != 0
    }

    pub(in crate::engine) fn set(&mut self, slot: u64) {
        let (word, bit) = Self::place(slot);
        self.0[word] |= bit;
    }

    pub(in crate::engine) fn clear(&mut self, slot: u64) {
        let (word, bit) = Self::place(slot);
        self.0[word] &= !bit;
    }

    pub(in crate::engine) fn used(&self) -> u16 {
        u16::try_from(self.0.iter().map(|word| word.count_ones()).sum::<u32>()).expect("at most 32,768")
    }

    /// The first free run at or after `from`: at most `most` slots.
    pub(in crate::engine) fn free_run(&self, from: u64, most: u64) -> Option<Range<u64>> {
        let start = self.next(from, false)?;
        let end = self.next(start, true).unwrap_or(REGION_SLOTS);
        Some(start..end.min(start + most))
    }

    /// The first slot at or after `from` that is in use (or not).
    fn next(&self, from: u64, used: bool) -> Option<u64> {
        if from >= REGION_SLOTS {
            return None;
        }
        let (first, _) = Self::place(from);
        let flip = if used { 0 } else { u64::MAX };
        let mut mask = u64::MAX << (from % 64);
        for (index, word) in (first..).zip(&self.0[first..]) {
            let found = (word ^ flip) & mask;
            if found != 0 {
                let index = u64::try_from(index).expect("small");
                return Some(index * 64 + u64::from(found.trailing_zeros()));
            }
            mask = u64::MAX;
        }
        None
    }

    /// How many of these slots are free.
    pub(in crate::engine) fn count_free(&self, mut slots: Range<u64>) -> u64 {
        let mut free = 0;
        while let Some(run) = self.free_run(slots.start, slots.end - slots.start)
            && run.start < slots.end
        {
            let end = run.end.min(slots.end);
            free += end - run.start;
            slots.start = end;
        }
        free
    }

    /// The slot after the last one in use, if any is.
    pub(in crate::engine) fn end(&self) -> Option<u64> {
        let (place, word) = (0u64..).zip(self.0.iter()).filter(|(_, word)| **word != 0).last()?;
        Some(place * 64 + 64 - u64::from(word.leading_zeros()))
    }

    /// The slots in use that `other` calls free.
    pub(in crate::engine) fn count_not_in(&self, other: &Self) -> u64 {
        self.0.iter().zip(other.0.iter()).map(|(mine, theirs)| u64::from((mine & !theirs).count_ones())).sum()
    }
}

/// A region in memory.
pub(super) struct Region {
    /// Now. Shared with the cut while a checkpoint runs and nobody changes it.
    pub(super) bits: Arc<Bitmap>,
    pub(super) used: u64,
    /// At the cut of the running checkpoint, if it changed since.
    pub(super) at_cut: Option<Arc<Bitmap>>,
    /// What the running checkpoint wrote.
    pub(super) written: Option<Arc<Bitmap>>,
    /// Whether it differs from the durable one.
    pub(super) dirty: bool,
    /// Whether the places of its bitmap are known to be written.
    pub(super) has_head: bool,
    /// Where the search for free slots goes on.
    pub(super) hint: u64,
    /// No free run as long as this was found since slots were last freed.
    pub(super) no_run: u64,
    /// The end of the file, within the region, when that was found.
    pub(super) no_run_before: u64,
    /// When it was last used, by the allocator's own count.
    pub(super) touched: u64,
}

impl Region {
    pub(super) fn new(bits: Bitmap, dirty: bool) -> Self {
        let used = u64::from(bits.used());
        Self {
            bits: Arc::new(bits),
            used,
            at_cut: None,
            written: None,
            dirty,
            has_head: false,
            hint: 0,
            no_run: u64::MAX,
            no_run_before: 0,
            touched: 0,
        }
    }

    /// The bits, to be changed; `cut` says that a checkpoint runs and wants those of its cut.
    pub(super) fn change(&mut self, cut: bool) -> &mut Bitmap {
        if cut && self.at_cut.is_none() {
            self.at_cut = Some(Arc::clone(&self.bits));
        }
        self.dirty = true;
        Arc::make_mut(&mut self.bits)
    }

    /// Whether it is as in the file, and no checkpoint runs that needs it.
    pub(super) const fn is_clean(&self) -> bool {
        !self.dirty && self.at_cut.is_none() && self.written.is_none()
    }

    pub(super) const fn free(&self) -> u64 {
        REGION_SLOTS - self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_region_reserves_the_places_of_the_allocation_tree() {
        assert_eq!(Bitmap::fresh(1, 1024).used(), 2);
        assert_eq!(Bitmap::fresh(128, 1024).used(), 4);
        assert_eq!(Bitmap::fresh(16_384, 1024).used(), 6);
        assert_eq!(Bitmap::fresh(0, 1024).used(), 16 + 1024);
        assert!(Bitmap::fresh(16_384, 0).is_set(11));
    }

    #[test]
    fn runs_are_found_across_words_and_codecs_keep_every_bit() {
        let mut bits = Bitmap::decode(&[0xff; BLOCK]);
        assert_eq!((bits.used(), bits.free_run(0, 10)), (32_768, None));
        (60..140).for_each(|slot| bits.clear(slot));
        bits.clear(32_767);
        assert_eq!(bits.free_run(0, 1000), Some(60..140));
        assert_eq!(bits.free_run(64, 10), Some(64..74));
        assert_eq!(bits.free_run(140, 10), Some(32_767..32_768));
        assert_eq!(bits.free_run(32_768, 10), None);
        assert_eq!(bits.end(), Some(32_767));
        assert_eq!(
            [0..32_768, 50..70, 130..200, 140..140].map(|slots| bits.count_free(slots)),
            [81, 10, 10, 0]
        );
        let mut bytes = [0; BLOCK];
        bits.encode(&mut bytes);
        assert!(Bitmap::decode(&bytes) == bits);
        let mut other = bits.clone();
        other.set(60);
        assert_eq!((other.count_not_in(&bits), bits.count_not_in(&other)), (1, 0));
    }
}
