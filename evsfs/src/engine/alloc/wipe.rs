//! What a re-encryption asks of the allocator: bitmaps of the older DEK, and slots that hold nothing any more.

use super::{Allocator, FAN, Run, place_in, reserve_slots};
use crate::engine::error::{Damage, VolumeError};
use crate::engine::store::Store;
use crate::format::layout::{REGION_SLOTS, RING_START, allocation_slots};
use crate::format::{Entry, Tree};

impl Allocator {
    /// Whether a slot is one that is kept for checkpoints on a full host, and so has to stay allocated there.
    pub(in crate::engine) fn is_reserve(&self, slot: u64) -> bool {
        let start = RING_START + self.ring_pages;
        (start..start + reserve_slots(self.ring_pages)).contains(&slot)
    }

    /// Regions whose bitmap was sealed in an epoch before this one, at most `most`. One that does not verify is left out: nothing in it is
    /// handed out, under any key.
    ///
    /// # Errors
    /// If the host cannot read one: that may pass, and the bitmap be good.
    pub(in crate::engine) fn sealed_before(
        &self,
        store: &Store,
        epoch: u32,
        most: usize,
    ) -> Result<Vec<u64>, VolumeError> {
        let mut aged = Vec::new();
        for region in 0..self.regions() {
            let Some(entry) = self.readable(region, store)? else { continue };
            if entry.is_absent() || entry.epoch() >= epoch {
                continue;
            }
            match store.open_page(Tree::Allocation, 0, region, &entry) {
                Ok(_) => aged.push(region),
                Err(reason @ Damage::Unreadable) => {
                    return Err(VolumeError::DamagedTable { volume: store.uuid, slot: entry.slot(), reason });
                }
                Err(_) => {}
            }
            if aged.len() == most {
                break;
            }
        }
        Ok(aged)
    }

    /// The durable entry of a region's bitmap; nothing if a page above it is damaged.
    fn readable(&self, region: u64, store: &Store) -> Result<Option<Entry>, VolumeError> {
        match self.durable(&mut self.inner.lock(), store, region) {
            Ok(entry) => Ok(Some(entry)),
            Err(error @ VolumeError::DamagedTable { reason: Damage::Unreadable, .. }) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// The places of the allocation tree in a region that the durable tree does not use. No checkpoint runs meanwhile.
    ///
    /// # Errors
    /// If the host cannot read the pages above.
    pub(in crate::engine) fn unused_places(
        &self,
        store: &Store,
        region: u64,
    ) -> Result<Vec<u64>, VolumeError> {
        let Some(bitmap) = self.readable(region, store)? else { return Ok(Vec::new()) };
        let inner = self.inner.lock();
        let (group, top) = (region / FAN, region / FAN / FAN);
        let mut used: Vec<(u8, u64, Entry)> = vec![(0, region, bitmap)];
        if region.is_multiple_of(FAN) {
            let entry = inner.middle.get(&top).map(|page| page[place_in(group)]);
            used.push((1, group, entry.unwrap_or_default()));
        }
        if region.is_multiple_of(FAN * FAN) {
            let entry = usize::try_from(top).ok().and_then(|top| inner.upper.get(top).copied());
            used.push((2, top, entry.unwrap_or_default()));
        }
        let places = used.into_iter().flat_map(|(level, index, entry)| {
            allocation_slots(level, index)
                .into_iter()
                .filter(move |slot| entry.is_absent() || *slot != entry.slot())
        });
        Ok(places.collect())
    }

    /// Takes free slots of a region, at most `most`, from its slot `from` on, and says where to go on. The caller holds the checkpointer, so that
    /// no cut sees them taken, until it gives them back.
    pub(in crate::engine) fn borrow_free(
        &self,
        store: &Store,
        region: u64,
        from: u64,
        most: u64,
    ) -> Result<(Vec<Run>, Option<u64>), VolumeError> {
        let mut inner = self.inner.lock();
        let (base, cut) = (region * REGION_SLOTS, inner.cut);
        let end = inner.file_slots.saturating_sub(base).min(REGION_SLOTS);
        let loaded = self.load(&mut inner, store, region)?;
        let (mut runs, mut at, mut left) = (Vec::new(), from, most);
        while left > 0
            && let Some(run) = loaded.bits.free_run(at, left)
            && run.start < end
        {
            // Slots of the reserve are a run of their own.
            let mut stop = run.end.min(end);
            let kept = RING_START + self.ring_pages + reserve_slots(self.ring_pages);
            if region == 0 && run.start < kept {
                stop = stop.min(kept);
            }
            runs.push(Run { slot: base + run.start, count: stop - run.start });
            left -= stop - run.start;
            at = stop;
        }
        let taken = most - left;
        let bits = loaded.change(cut);
        for run in &runs {
            (run.slot..run.slot + run.count).for_each(|slot| bits.set(slot - base));
        }
        loaded.used += taken;
        self.add_used(taken);
        Ok((runs, (left == 0).then_some(at)))
    }

    /// Gives back what [`Self::borrow_free`] took.
    pub(in crate::engine) fn give_back(&self, store: &Store, runs: &[Run]) {
        let mut inner = self.inner.lock();
        for run in runs {
            self.free_run(&mut inner, store, *run);
            self.sub_used(run.count);
        }
    }
}
