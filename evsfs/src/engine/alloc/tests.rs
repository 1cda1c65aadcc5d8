//! Files and allocation trees that somebody made who knows the format.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::backing::Backing;
use crate::crypto::{Backend, Dek, Keyring, SeededEntropy, Tag, VolumeKeys};
use crate::engine::epochs::Epochs;
use crate::engine::protection::Protections;
use crate::engine::store::{Barrier, Counters, Keys};
use crate::format::layout::SLOT_MAX;

/// A file of so many slots, in which nothing verifies.
struct Noise {
    slots: AtomicU64,
    written: AtomicU64,
}

impl Backing for Noise {
    fn len(&self) -> io::Result<u64> {
        Ok(self.slots.load(Ordering::Relaxed) * BLOCK_BYTES)
    }
    fn read_at(&self, buf: &mut [u8], _: u64) -> io::Result<()> {
        buf.fill(0x5a);
        Ok(())
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let len = u64::try_from(buf.len()).unwrap();
        self.written.fetch_add(len, Ordering::Relaxed);
        self.slots.fetch_max((offset + len) / BLOCK_BYTES, Ordering::Relaxed);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.slots.store(len / BLOCK_BYTES, Ordering::Relaxed);
        Ok(())
    }
    fn punch(&self, _: u64, _: u64) -> io::Result<bool> {
        Ok(false)
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn store(backing: Arc<Noise>) -> Store {
    let uuid = uuid::Uuid::from_u128(1);
    let keys = Arc::new(Keys::new(Keyring::from(VolumeKeys::new(Dek::new(&[1; 32]), uuid, Backend::AwsLc))));
    let entropy: Arc<SeededEntropy> = Arc::new(SeededEntropy::new(1));
    let epochs = Epochs::new(Arc::clone(&keys), Arc::clone(&entropy) as _, Vec::new(), 1);
    Store {
        backing,
        uuid,
        keys,
        entropy,
        epochs,
        counters: Counters::default(),
        protections: Protections::default(),
        barrier: Barrier::default(),
    }
}

/// Of regions that the file does not reach into the tree says that they have bitmaps. The first region has one that does not verify, so space is
/// looked for elsewhere.
#[test]
fn f2_bitmaps_behind_the_end_of_the_file_cost_neither_time_nor_space() {
    const FORGED: u64 = 8 * FAN;
    let file = Arc::new(Noise { slots: AtomicU64::new(2_000), written: AtomicU64::new(0) });
    let store = store(Arc::clone(&file));
    let alloc = Allocator::new(Vec::new(), Extent { now: 2_000, once: 2_000 }, 2_000, 1024, 8);
    for group in 0..FORGED / FAN {
        let entries = (0..FANOUT).map(|place| {
            let region = group * FAN + u64::try_from(place).unwrap();
            Entry::page(allocation_slots(0, region)[0], 1, 1, Tag::default())
        });
        let entries: Box<[Entry]> = entries.collect();
        alloc.inner.lock().lower.insert(group, entries.try_into().unwrap());
    }
    let flight = alloc.take(&store, 10).unwrap();
    assert!(flight.runs.iter().all(|run| run.slot >= FORGED * REGION_SLOTS), "{:?}", flight.runs);
    // The head of the one region that is new.
    assert_eq!(file.written.load(Ordering::Relaxed), REGION_HEAD * BLOCK_BYTES);
    assert_eq!(alloc.inner.lock().damaged.len(), 1, "bitmaps were looked for");
}

/// A superblock has room for the entries of so many regions, and a file can be made longer by who can write to it.
#[test]
fn f2_a_file_that_is_longer_than_any_volume_has_no_more_regions_than_can_be_recorded() {
    for (now, once) in [(u64::MAX >> 12, 0), (1, SLOT_MAX), (FILE_SLOTS_MOST + 1, SLOT_MAX)] {
        let alloc = Allocator::new(Vec::new(), Extent { now, once }, 0, 1024, 8);
        let inner = alloc.inner.lock();
        assert!(inner.regions <= REGIONS_MOST && inner.reached <= REGIONS_MOST);
        assert!(inner.file_slots <= FILE_SLOTS_MOST);
    }
}
