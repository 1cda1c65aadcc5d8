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

/// A file of so many slots, in which nothing verifies but what was written.
#[derive(Default)]
struct Noise {
    slots: AtomicU64,
    written: AtomicU64,
    pages: Mutex<BTreeMap<u64, Vec<u8>>>,
}

impl Noise {
    fn of(slots: u64) -> Arc<Self> {
        Arc::new(Self { slots: AtomicU64::new(slots), ..Self::default() })
    }
}

impl Backing for Noise {
    fn len(&self) -> io::Result<u64> {
        Ok(self.slots.load(Ordering::Relaxed) * BLOCK_BYTES)
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        buf.fill(0x5a);
        if let Some(page) = self.pages.lock().get(&offset) {
            buf.copy_from_slice(page);
        }
        Ok(())
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let len = u64::try_from(buf.len()).unwrap();
        self.written.fetch_add(len, Ordering::Relaxed);
        self.slots.fetch_max((offset + len) / BLOCK_BYTES, Ordering::Relaxed);
        self.pages.lock().insert(offset, buf.to_vec());
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

/// A store over a file, outside any volume.
pub(super) fn store(backing: Arc<dyn Backing>) -> Store {
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
    let file = Noise::of(2_000);
    let store = store(Arc::clone(&file) as _);
    let alloc = Allocator::new(Vec::new(), Extent { now: 2_000, once: 2_000 }, 2_000, 1024, 200);
    for group in 0..FORGED / FAN {
        let entries = (0..FANOUT).map(|place| {
            let region = group * FAN + u64::try_from(place).unwrap();
            Entry::page(allocation_slots(0, region)[0], 1, 1, Tag::default())
        });
        let entries: Box<[Entry]> = entries.collect();
        alloc.keep_group(&mut alloc.inner.lock(), group, entries.try_into().unwrap());
    }
    let flight = alloc.take(&store, 10).unwrap();
    assert!(flight.runs.iter().all(|run| run.slot >= FORGED * REGION_SLOTS), "{:?}", flight.runs);
    // The head of the one region that is new, and in it the places of its bitmap once more.
    assert_eq!(file.written.load(Ordering::Relaxed), (REGION_HEAD + 2) * BLOCK_BYTES);
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

/// Entries of the log that older programs left dirty have slots that are used in the file too.
#[test]
fn f7_what_a_checkpoint_leaves_dirty_is_free_in_the_file_and_taken_in_memory() {
    let store = store(Noise::of(2_000));
    let alloc = Allocator::new(Vec::new(), Extent { now: 2_000, once: 2_000 }, 0, 1024, 8);
    let flight = alloc.take(&store, 10).unwrap();
    alloc.land(&flight);
    let left: Vec<u64> = flight.runs.iter().flat_map(|run| run.slot..run.slot + run.count).collect();
    let publish = |left: &[u64]| {
        alloc.begin_cut(&store);
        let prepared = alloc.prepare(&store, &[], &[], left, &[]).unwrap();
        alloc.commit(&store, prepared, &[]);
        let durable = alloc.read_bitmap(&mut alloc.inner.lock(), &store, 0).unwrap();
        move |slot: &u64| durable.is_set(*slot)
    };
    assert!(left.iter().all(publish(&[])));
    alloc.rest();
    assert!(!left.iter().any(publish(&left)));
    for _ in 0..20 {
        let other = alloc.take(&store, 10).unwrap();
        assert!(
            other
                .runs
                .iter()
                .all(|run| left.iter().all(|slot| !(run.slot..run.slot + run.count).contains(slot)))
        );
        alloc.land(&other);
    }
    assert!(left.iter().all(publish(&[])), "they are merged");
}
