//! A host that is full, and has space again; and how much is taken of it.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use super::super::{BLOCK, BaseIdentity, BaseImage, Step, Volume, VolumeError};
use super::{ID, Memory, Rig, read};
use crate::backing::Backing;
use crate::crypto::{Backend, Dek, VolumeKeys};
use crate::format::layout::{REGION_SLOTS, RING_START};
use crate::format::{Text, WrappedDekField};

const MIB: u64 = 1 << 20;
/// Pages of the log ring, at most.
const RING: u64 = 1024;

/// A file system on which what was never written, or was punched, takes no space.
struct Host {
    memory: Arc<Memory>,
    taken: Mutex<HashSet<u64>>,
    /// Slots that there is space for.
    most: AtomicUsize,
    /// What happens in the midst of the next write behind the log ring.
    amid: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// For what these threads write there, there is no space.
    refused: Mutex<Vec<ThreadId>>,
}

impl Host {
    /// With the rig's volume, which is written all over.
    fn of(rig: &Rig) -> Arc<Self> {
        let slots = rig.memory.len().unwrap() / BLOCK;
        Arc::new(Self {
            memory: Arc::clone(&rig.memory),
            taken: Mutex::new((0..slots).collect()),
            most: AtomicUsize::new(usize::MAX),
            amid: Mutex::default(),
            refused: Mutex::default(),
        })
    }

    /// Has no more space than is taken now.
    fn fill_up(&self) {
        self.most.store(self.taken.lock().len(), Ordering::Relaxed);
    }
}

impl Backing for Host {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.memory.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if offset / BLOCK >= RING_START + RING {
            let act = self.amid.lock().take();
            if let Some(act) = act {
                act();
            }
            if self.refused.lock().contains(&thread::current().id()) {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let end = (offset + u64::try_from(buf.len()).unwrap()).div_ceil(BLOCK);
        let mut taken = self.taken.lock();
        let new: Vec<u64> = (offset / BLOCK..end).filter(|slot| !taken.contains(slot)).collect();
        if taken.len() + new.len() > self.most.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        taken.extend(new);
        self.memory.write_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        let slots = offset / BLOCK..(offset + len) / BLOCK;
        self.taken.lock().retain(|slot| !slots.contains(slot));
        self.memory.punch(offset, len)
    }
    fn sync(&self) -> io::Result<()> {
        self.memory.sync()
    }
}

/// Writes blocks, each under another leaf of the map, until the host is full, and says how many.
fn fill_with_leaves(volume: &Volume) -> u64 {
    let mut written = 0;
    loop {
        match volume.write(written * 128 * BLOCK, &[7; 4096]) {
            Ok(()) => written += 1,
            Err(VolumeError::NoSpace) => break,
            Err(error) => panic!("{error}"),
        }
    }
    written
}

/// A host that is full of such blocks: a checkpoint needs far more pages than are kept for it.
fn filled_with_leaves() -> (Rig, Volume, u64) {
    let rig = Rig::new(1 << 30, 64);
    rig.memory.capacity.store(6 * MIB, Ordering::Relaxed);
    let volume = rig.open();
    let written = fill_with_leaves(&volume);
    assert!(written > 1_000, "only {written}");
    assert!(matches!(volume.checkpoint(), Err(VolumeError::NoSpace)));
    (rig, volume, written)
}

#[test]
fn f11_a_host_that_has_space_again_is_used_again() {
    type GoOn = fn(&Volume) -> Result<(), VolumeError>;
    let ways: [GoOn; 3] =
        [|volume| volume.write(100, &[8; 100]), Volume::checkpoint, |volume| volume.extend(2 << 30)];
    for (number, go_on) in ways.into_iter().enumerate() {
        let (rig, volume, written) = filled_with_leaves();
        rig.memory.capacity.store(0, Ordering::Relaxed);
        go_on(&volume).unwrap_or_else(|error| panic!("way {number}: {error}"));
        volume.close().unwrap();
        let volume = rig.open();
        assert!((1..written).all(|block| read(&volume, block * 128 * BLOCK, 4096) == [7; 4096]));
        let report = volume.check(&mut |_, _| {}).unwrap();
        assert!(report.is_sound(), "way {number}: {report:?}");
    }
    let (rig, volume, _) = filled_with_leaves();
    rig.memory.capacity.store(0, Ordering::Relaxed);
    volume.close().unwrap();
}

#[test]
fn f9_a_re_encryption_goes_on_when_the_host_has_space_again() {
    let rig = Rig::new(8 * MIB, 64);
    let volume = rig.open();
    volume.write(0, &vec![7; 4 << 20]).unwrap();
    volume.checkpoint().unwrap();
    rig.memory.capacity.store(rig.memory.len().unwrap(), Ordering::Relaxed);
    let next = VolumeKeys::new(Dek::new(&[4; 32]), ID, Backend::AwsLc);
    volume.start_reencryption(next, WrappedDekField::new(vec![2; 40]).unwrap(), 0).unwrap();
    let met = (0..100).any(|_| volume.task_step(4096).unwrap() == Step::NoSpace);
    assert!(met, "the host was not full");
    rig.memory.capacity.store(0, Ordering::Relaxed);
    let ended = (0..100).any(|_| volume.task_step(4096).unwrap() == Step::Finished);
    assert!(ended, "it does not go on");
    assert_eq!(read(&volume, 0, 4 << 20), vec![7; 4 << 20]);
}

/// A discard can be carried out although the file has just grown into another region, whose bitmap was never written, and the host is full.
#[test]
fn f7_a_discard_frees_space_on_a_host_that_fills_up_when_a_region_has_just_begun() {
    let rig = Rig::new(256 * MIB, 1024);
    let host = Host::of(&rig);
    let volume = rig.try_open_on(Arc::clone(&host) as _).unwrap();
    let mut at = 0;
    while volume.stats().used_slots <= REGION_SLOTS + 256 {
        volume.write(at, &vec![1; 1 << 20]).unwrap();
        at += MIB;
        // The region's own bitmap is in no checkpoint yet.
        if volume.stats().used_slots < REGION_SLOTS - 1024 {
            volume.checkpoint().unwrap();
        }
    }
    assert!(
        (0..16).all(|slot| host.taken.lock().contains(&(REGION_SLOTS + slot))),
        "the head is not written"
    );
    host.fill_up();
    volume.discard(0, 8 * MIB).unwrap();
    volume.checkpoint().unwrap();
    let free = host.most.load(Ordering::Relaxed) - host.taken.lock().len();
    assert!(free > 1_000, "{free} slots came back");
    volume.write(at, &vec![2; 1 << 20]).unwrap();
    volume.close().unwrap();
    let volume = rig.try_open_on(host).unwrap();
    assert_eq!(read(&volume, at, 1 << 20), vec![2; 1 << 20]);
    assert_eq!(read(&volume, at - MIB, 1 << 20), vec![1; 1 << 20]);
}

/// A range that does not begin or end with a block: its ends are written, which needs space.
#[test]
fn f7_a_discard_of_any_bytes_frees_space_on_a_full_host() {
    let rig = Rig::new(64 * MIB, 64);
    let host = Host::of(&rig);
    let volume = rig.try_open_on(Arc::clone(&host) as _).unwrap();
    let mut at = 0;
    while at < 32 * MIB {
        volume.write(at, &vec![1; 1 << 20]).unwrap();
        at += MIB;
    }
    volume.checkpoint().unwrap();
    host.fill_up();
    // What is free in the file is used up as well.
    while volume.write(at, &[1; 4096]).is_ok() {
        at += BLOCK;
    }
    volume.discard(512, 8 * MIB).unwrap();
    assert_eq!(read(&volume, 0, 512), [1; 512]);
    assert!(read(&volume, 512, 8 << 20).iter().all(|byte| *byte == 0));
    assert_eq!(read(&volume, 8 * MIB + 512, 512), [1; 512]);
    // Nothing is written where there is nothing.
    let written = rig.memory.written.load(Ordering::Relaxed);
    volume.discard(4 * MIB + 100, 700).unwrap();
    volume.discard(5 * MIB + 100, 5_000).unwrap();
    assert_eq!(rig.memory.written.load(Ordering::Relaxed), written);
    volume.close().unwrap();
    assert_eq!(read(&rig.try_open_on(host).unwrap(), 8 * MIB + 512, 512), [1; 512]);
}

/// An attach made the file reach into a region, and did not come to write its head.
#[test]
fn f7_a_region_whose_head_is_missing_gets_one_before_it_is_used() {
    let rig = Rig::new(256 * MIB, 1024);
    let host = Host::of(&rig);
    host.set_len((REGION_SLOTS + 300) * BLOCK).unwrap();
    let volume = rig.try_open_on(Arc::clone(&host) as _).unwrap();
    volume.write(0, &vec![1; 1 << 20]).unwrap();
    assert!(host.taken.lock().contains(&(REGION_SLOTS + 100)), "it was written elsewhere");
    host.fill_up();
    volume.discard(0, MIB / 2).unwrap();
    volume.checkpoint().unwrap();
    drop(volume);
    let volume = rig.try_open_on(host).unwrap();
    assert_eq!(read(&volume, MIB / 2, 1 << 19), vec![1; 1 << 19]);
    assert!(volume.check(&mut |_, _| {}).unwrap().is_sound());
}

/// Earlier programs let a file reach into its first regions without their heads, so that a bitmap had only one of its places on the host. Where
/// that bitmap is damaged nothing but the free space of its region is lost, as with any other: the second place is no copy of the first.
#[test]
fn f7_a_place_of_a_bitmap_that_was_never_written_is_written_while_there_is_space() {
    let rig = Rig::new(256 * MIB, 1024);
    let host = Host::of(&rig);
    for region in 1..3 {
        host.set_len((region * REGION_SLOTS + 300) * BLOCK).unwrap();
        let volume = rig.try_open_on(Arc::clone(&host) as _).unwrap();
        volume.write(region * MIB, &vec![1; 1 << 20]).unwrap();
        volume.checkpoint().unwrap();
    }
    let places = [REGION_SLOTS + 3, REGION_SLOTS + 4];
    let is_empty = |place: &u64| {
        let at = usize::try_from(place * BLOCK).unwrap();
        rig.memory.bytes.read()[at..at + 4096] == [0; 4096]
    };
    let empty: Vec<u64> = places.into_iter().filter(is_empty).collect();
    assert_eq!(empty.len(), 1, "one bitmap of the region was written");
    assert!(host.taken.lock().remove(&empty[0]));
    // Nothing of the region is written here.
    let volume = rig.try_open_on(Arc::clone(&host) as _).unwrap();
    volume.write(4 * MIB, &[1; 4096]).unwrap();
    volume.checkpoint().unwrap();
    assert_eq!((is_empty(&empty[0]), host.taken.lock().contains(&empty[0])), (true, true));
    host.fill_up();
    volume.discard(MIB, MIB).unwrap();
    volume.checkpoint().unwrap();
    let free = host.most.load(Ordering::Relaxed) - host.taken.lock().len();
    assert!(free >= 256, "{free} slots came back");
    drop(volume);
    let volume = rig.try_open_on(Arc::clone(&host) as _).unwrap();
    assert!(volume.check(&mut |_, _| {}).unwrap().is_sound());
    drop(volume);

    // That bitmap, damaged.
    let written = usize::try_from(empty[0] * BLOCK).unwrap();
    rig.memory.bytes.write()[written + 9] ^= 1;
    let volume = rig.try_open_on(Arc::clone(&host) as _).unwrap();
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert_eq!((report.bad_count, report.bad_allocation_pages, report.unaccounted_slots), (0, 1, 0));
    volume.write(MIB, &vec![3; 1 << 19]).unwrap();
    volume.close().unwrap();
    let volume = rig.try_open_on(host).unwrap();
    assert_eq!(read(&volume, MIB, 1 << 19), vec![3; 1 << 19]);
    assert_eq!(read(&volume, 2 * MIB, 1 << 20), vec![1; 1 << 20]);
    assert_eq!(read(&volume, 4 * MIB, 4096), [1; 4096]);
}

/// Writing and discarding one region in turn keeps few entries dirty, so nothing else asks for a checkpoint: neither a log that gets long, which is written
/// anew else, nor who goes on before it is.
#[test]
fn f7_discarded_space_comes_back_although_few_entries_are_dirty() {
    for ring_pages in [64, 4096] {
        let mut rig = Rig::new(64 * MIB, ring_pages);
        rig.options.dirty_limit = Some(1_000);
        let volume = rig.open();
        let before = volume.stats().used_slots;
        for round in 0..100 {
            volume.write(0, &vec![round; 256 << 12]).unwrap();
            volume.flush().unwrap();
            volume.discard(0, 256 * BLOCK).unwrap();
            volume.flush().unwrap();
            let used = volume.stats().used_slots - before;
            assert!(used < 2_000 + 3 * 256, "{used} slots are taken in round {round}, {ring_pages} pages");
        }
    }
}

/// The most that a checkpoint can need is a page for each dirty entry, and those above: here eight times what is kept for it, on a host without
/// a slot to spare. It is made piece by piece, over and over, as each frees as much as it takes.
#[test]
fn f7_a_checkpoint_of_more_leaves_than_there_are_slots_for_is_made_on_a_full_host() {
    const LEAVES: u64 = 2048;
    let rig = Rig::new(1 << 30, 1024);
    let host = Host::of(&rig);
    let volume = rig.try_open_on(Arc::clone(&host) as _).unwrap();
    let write_all = |volume: &Volume, version: u8| {
        for leaf in 0..LEAVES {
            volume.write(leaf * 128 * BLOCK, &[version; 4096]).unwrap();
        }
    };
    write_all(&volume, 1);
    volume.write(5 * BLOCK, &vec![77; 100 << 12]).unwrap();
    volume.checkpoint().unwrap();
    // There is space for the data, and for next to no page of the map.
    host.most.store(host.taken.lock().len() + usize::try_from(LEAVES).unwrap() + 20, Ordering::Relaxed);
    let before = volume.stats().checkpoints;
    for version in 2..6 {
        write_all(&volume, version);
        volume.checkpoint().unwrap_or_else(|error| panic!("version {version}: {error}"));
        assert_eq!(volume.stats().dirty_entries, 0);
    }
    let pieces = volume.stats().checkpoints - before;
    assert!(pieces > 8, "{pieces} checkpoints");
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
    // Now what is there is filled up with data, as far as that goes; and a discard still works, and gives room.
    let mut filled = 0;
    while volume.write((6000 + filled) * 17 * BLOCK, &[9; 4096]).is_ok() {
        filled += 1;
    }
    assert!(filled > 100, "{filled}");
    volume.flush().unwrap();
    volume.discard(0, 110 * BLOCK).unwrap();
    volume.checkpoint().unwrap();
    volume.write(3 * BLOCK, &vec![10; 50 << 12]).unwrap();
    volume.flush().unwrap();
    drop(volume);
    let volume = rig.try_open_on(host).unwrap();
    assert_eq!(read(&volume, 3 * BLOCK, 50 << 12), vec![10; 50 << 12]);
    assert_eq!(read(&volume, 53 * BLOCK, 50 << 12), vec![0; 50 << 12]);
    assert!((1..LEAVES).all(|leaf| {
        let found = read(&volume, leaf * 128 * BLOCK, 4096);
        found == [5; 4096] || found == [9; 4096]
    }));
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
}

/// Nothing gives space, and what comes in needs none: each checkpoint that is tried goes to the log, which is let go of piece by piece, or written anew.
#[test]
fn f7_the_log_is_kept_short_while_there_is_no_space_for_a_checkpoint() {
    let rig = Rig::new(1 << 30, 64);
    rig.memory.capacity.store(5 * MIB, Ordering::Relaxed);
    let volume = rig.open();
    let written = fill_with_leaves(&volume);
    assert!((1_000..1_300).contains(&written), "{written}");
    for number in 0..150 {
        volume.discard((170_000 + number * 600) * BLOCK, 550 * BLOCK).unwrap();
        assert!(matches!(volume.checkpoint(), Err(VolumeError::NoSpace)));
    }
    let (stats, log) = (volume.stats(), volume.core().log.lock().used());
    assert!(log < 48 && stats.commits > 150 && stats.dirty_entries > 1_000, "{log} pages, {stats:?}");
    rig.memory.capacity.store(0, Ordering::Relaxed);
    volume.checkpoint().unwrap();
    assert!((0..written).all(|leaf| read(&volume, leaf * 128 * BLOCK, 4096) == [7; 4096]));
    assert!(volume.check(&mut |_, _| {}).unwrap().is_sound());
}

/// Leaves that never were need slots that nothing gives: then a checkpoint finds no space. But discards come in, though no entry more would, and give it;
/// and what was written and flushed before is there, whatever happens.
#[test]
fn f7_discards_give_room_for_the_checkpoint_that_found_none() {
    let mut rig = Rig::new(1 << 30, 1024);
    rig.options.dirty_limit = Some(3_000);
    let host = Host::of(&rig);
    let volume = rig.try_open_on(Arc::clone(&host) as _).unwrap();
    volume.write(0, &[1; 4096]).unwrap();
    volume.checkpoint().unwrap();
    host.most.store(host.taken.lock().len() + 1_500, Ordering::Relaxed);
    let written = fill_with_leaves(&volume);
    assert!(written > 1_000, "{written}");
    volume.flush().unwrap();
    assert!(matches!(volume.checkpoint(), Err(VolumeError::NoSpace)));
    assert!(volume.stats().dirty_entries > 500, "{:?}", volume.stats());
    // After a crash it is the same.
    drop(volume);
    rig.options.dirty_limit = Some(100);
    let volume = rig.try_open_on(Arc::clone(&host) as _).unwrap();
    assert!(matches!(volume.write(written * 128 * BLOCK, &[7; 4096]), Err(VolumeError::NoSpace)));
    for block in (0..written).filter(|block| block % 4 != 0) {
        if volume.discard(block * 128 * BLOCK, BLOCK).is_err() {
            // There is a bound on what comes in before a checkpoint. It frees what came, and perhaps gets no further.
            assert!(matches!(volume.checkpoint(), Ok(()) | Err(VolumeError::NoSpace)));
            volume.discard(block * 128 * BLOCK, BLOCK).unwrap();
        }
    }
    volume.checkpoint().unwrap();
    assert_eq!(volume.stats().dirty_entries, 0);
    volume.write(900_000 / 128 * BLOCK, &vec![8; 300 << 12]).unwrap();
    volume.close().unwrap();
    let volume = rig.try_open_on(host).unwrap();
    for block in 0..written {
        let expected = if block % 4 == 0 { 7 } else { 0 };
        let found = read(&volume, block * 128 * BLOCK, 4096);
        assert!(found == [expected; 4096] || found == [8; 4096], "block {block}: {}", found[0]);
    }
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
}

/// Discards go on while checkpoints fail, one after the other. What is flushed meanwhile is there after a crash: no more ranges come into the log than
/// whoever opens it takes for possible.
#[test]
fn f4_failing_checkpoints_let_no_more_ranges_into_the_log_than_can_be_read() {
    const ROUNDS: u64 = 7;
    let rig = Rig::new(64 << 30, RING);
    let host = Host::of(&rig);
    let volume = Arc::new(rig.try_open_on(Arc::clone(&host) as _).unwrap());
    for leaf in 0..=ROUNDS {
        volume.write(leaf * 128 * BLOCK, &[7; 4096]).unwrap();
    }
    volume.flush().unwrap();
    host.refused.lock().push(thread::current().id());
    let kept = Mutex::new(Vec::new());
    // How many rounds have begun, and ended.
    let rounds = Arc::new((Mutex::new((0, 0)), Condvar::new()));
    thread::scope(|scope| {
        scope.spawn(|| {
            host.refused.lock().push(thread::current().id());
            let (state, changed) = &*rounds;
            let mut ranges = 0;
            for round in 1..=ROUNDS {
                changed.wait_while(&mut state.lock(), |(begun, _)| *begun < round);
                if volume.discard(round * 128 * BLOCK, BLOCK).is_ok() && volume.flush().is_ok() {
                    kept.lock().push(round);
                }
                for _ in 0..1_000 {
                    if volume.discard((2 << 30) + ranges * 4 * MIB, 3 * MIB).is_err() {
                        break;
                    }
                    ranges += 1;
                }
                state.lock().1 = round;
                changed.notify_all();
            }
        });
        for round in 1..=ROUNDS {
            let shared = Arc::clone(&rounds);
            *host.amid.lock() = Some(Box::new(move || {
                let (state, changed) = &*shared;
                let mut state = state.lock();
                state.0 = round;
                changed.notify_all();
                // Who finds no room waits for the end of the checkpoint that this is a part of.
                let patience = Duration::from_millis(150);
                changed.wait_while_for(&mut state, |(_, ended)| *ended < round, patience);
            }));
            assert!(matches!(volume.checkpoint(), Err(VolumeError::NoSpace)), "round {round}");
            assert!(host.amid.lock().is_none(), "it wrote nothing");
            let (state, changed) = &*rounds;
            changed.wait_while(&mut state.lock(), |(_, ended)| *ended < round);
        }
    });
    drop(volume);
    let volume = rig.try_open_on(Arc::clone(&host) as _).unwrap();
    let kept = kept.into_inner();
    assert!(kept.len() > 1, "{kept:?}");
    for round in kept {
        assert_eq!(read(&volume, round * 128 * BLOCK, 4096), [0; 4096], "what was flushed in round {round}");
    }
    host.refused.lock().clear();
    volume.checkpoint().unwrap();
    assert!(volume.check(&mut |_, _| {}).unwrap().is_sound());
}

/// It was written, so on a full host it is worth more than what the host gets back.
#[test]
fn f7_what_is_overwritten_while_a_checkpoint_finds_no_space_is_not_given_back_to_the_host() {
    let rig = Rig::new(64 * MIB, RING);
    let host = Host::of(&rig);
    let volume = Arc::new(rig.try_open_on(Arc::clone(&host) as _).unwrap());
    volume.write(0, &vec![1; 64 << 12]).unwrap();
    volume.flush().unwrap();
    let used = volume.stats().used_slots;
    let guest = Arc::clone(&volume);
    *host.amid.lock() = Some(Box::new(move || {
        let others = thread::spawn(move || {
            guest.write(0, &vec![2; 20 << 12]).unwrap();
            guest.discard(30 * BLOCK, 4 * BLOCK).unwrap();
            guest.flush().unwrap();
        });
        others.join().unwrap();
    }));
    host.refused.lock().push(thread::current().id());
    assert!(matches!(volume.checkpoint(), Err(VolumeError::NoSpace)));
    host.refused.lock().clear();
    volume.write(40 * BLOCK, &[3; 4096]).unwrap();
    volume.flush().unwrap();
    assert_eq!(
        volume.stats().used_slots,
        used,
        "what was overwritten is free, and what was discarded not yet"
    );
    volume.checkpoint().unwrap();
    assert_eq!(rig.memory.punched.load(Ordering::Relaxed), 4 * BLOCK);
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
}

/// What has no space for its leaves lies before what is discarded, and is not discarded itself.
#[test]
fn f7_what_is_in_the_map_gives_space_when_it_is_discarded_though_new_leaves_before_it_find_none() {
    const DATA: u64 = 64 * MIB;
    let at = 1_920 * 128 * BLOCK;
    let at_once = |volume: &Volume| volume.discard(at, DATA).unwrap();
    let in_parts = |volume: &Volume| {
        for part in 0..DATA / MIB {
            volume.discard(at + part * MIB, MIB - 8 * BLOCK).unwrap();
        }
    };
    for (discard, kept) in [(&at_once as &dyn Fn(&Volume), 0), (&in_parts, 8)] {
        let rig = Rig::new(2 << 30, RING);
        let host = Host::of(&rig);
        let volume = rig.try_open_on(Arc::clone(&host) as _).unwrap();
        for part in 0..DATA / MIB {
            volume.write(at + part * MIB, &vec![1; 1 << 20]).unwrap();
        }
        volume.checkpoint().unwrap();
        host.most.store(host.taken.lock().len() + 1_200, Ordering::Relaxed);
        let written = fill_with_leaves(&volume);
        assert!((1_000..1_900).contains(&written), "{written}");
        assert!(matches!(volume.checkpoint(), Err(VolumeError::NoSpace)));
        discard(&volume);
        volume.checkpoint().unwrap();
        assert_eq!(volume.stats().dirty_entries, 0);
        let free = host.most.load(Ordering::Relaxed) - host.taken.lock().len();
        assert!(free > 13_000, "{free} slots came back");
        drop(volume);
        let volume = rig.try_open_on(host).unwrap();
        assert!((0..written).all(|leaf| read(&volume, leaf * 128 * BLOCK, 4096) == [7; 4096]));
        for part in 0..DATA / MIB {
            let left = read(&volume, at + part * MIB + MIB - 8 * BLOCK, 8 << 12);
            assert_eq!(left, vec![u8::from(kept > 0); 8 << 12], "part {part}");
            assert_eq!(read(&volume, at + part * MIB, 4096), [0; 4096]);
        }
        let report = volume.check(&mut |_, _| {}).unwrap();
        assert!(report.is_sound(), "{report:?}");
    }
}

/// Everybody who writes to a disk on a full host waits for as much, one after the other, so it is not tried again what has just failed.
#[test]
fn d10_a_write_that_finds_no_space_tries_one_checkpoint_and_who_waits_for_it_none() {
    let mut rig = Rig::new(1 << 30, RING);
    let host = Host::of(&rig);
    let volume = rig.try_open_on(Arc::clone(&host) as _).unwrap();
    host.most.store(host.taken.lock().len() + 1_200, Ordering::Relaxed);
    let written = fill_with_leaves(&volume);
    volume.flush().unwrap();
    drop(volume);
    // More is dirty now than may be.
    rig.options.dirty_limit = Some(100);
    let volume = rig.try_open_on(Arc::clone(&host) as _).unwrap();
    assert!(volume.checkpoint().is_err() && volume.stats().dirty_entries > 200);
    let cost = |act: &dyn Fn() -> Result<(), VolumeError>| {
        let before = rig.memory.written.load(Ordering::Relaxed);
        assert!(matches!(act(), Err(VolumeError::NoSpace)));
        rig.memory.written.load(Ordering::Relaxed) - before
    };
    let write = || volume.write(written * 128 * BLOCK, &[8; 4096]);
    // (What the writes before have left to be freed is not of interest.)
    let one = cost(&|| volume.checkpoint()).min(cost(&|| volume.checkpoint()));
    assert!(one > 100 * BLOCK, "{one} bytes");
    let each = cost(&write);
    assert!(each < 2 * one, "{each} bytes for one that needs {one}");
    // Whoever came before it began, and waited for it, makes none of his own; who comes later does, and whoever finds that something was discarded.
    let core = volume.core();
    let since = core.attempts.load(Ordering::Acquire);
    let mine = cost(&|| core.checkpoint_since(since));
    assert_eq!(cost(&|| core.checkpoint_since(since)), 0);
    assert!(cost(&|| core.checkpoint_since(since + 1)) >= mine / 2);
    volume.discard((written - 1) * 128 * BLOCK, BLOCK).unwrap();
    let since = core.attempts.load(Ordering::Acquire) - 1;
    assert!(cost(&|| core.checkpoint_since(since)) >= mine / 2);
    host.most.store(usize::MAX, Ordering::Relaxed);
    write().unwrap();
}

/// Where the checkpoint before it finds no space a check reports all the same, of what is dirty too.
#[test]
fn f2_a_check_reports_although_there_is_no_space_for_a_checkpoint() {
    let (rig, volume, written) = filled_with_leaves();
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.blocks, written);
    drop(volume);
    assert!(rig.open().check(&mut |_, _| {}).unwrap().is_sound());
}

/// What is lost with the end of a file is in no record of the log. Where the host is full as well, a checkpoint would put what is left of each piece into
/// the log, and the log be written anew for want of room: then neither is done.
#[test]
fn f2_what_is_lost_stays_so_on_a_full_host() {
    let rig = Rig::new(2 << 30, 64);
    let host = Host::of(&rig);
    let open = || rig.try_open_on(Arc::clone(&host) as _).unwrap();
    let at = |leaf: u64| leaf * 128 * BLOCK;
    let volume = open();
    for leaf in 0..300 {
        volume.write(at(leaf), &[1; 4096]).unwrap();
    }
    volume.checkpoint().unwrap();
    let kept = rig.memory.len().unwrap();
    for leaf in 1_000..2_200 {
        volume.write(at(leaf), &[2; 4096]).unwrap();
    }
    volume.flush().unwrap();
    volume.discard(0, BLOCK).unwrap();
    volume.flush().unwrap();
    drop(volume);
    host.set_len(kept).unwrap();
    host.taken.lock().retain(|slot| *slot < kept / BLOCK);
    host.most.store(host.taken.lock().len() + 100, Ordering::Relaxed);

    let is_lost = |volume: &Volume, leaf: u64| {
        matches!(volume.read(at(leaf), &mut [0; 4096]), Err(VolumeError::DamagedBlock { .. }))
    };
    let volume = open();
    let lost: Vec<u64> = (1_000..2_200).filter(|leaf| is_lost(&volume, *leaf)).collect();
    assert!(lost.len() > 900, "{}", lost.len());
    assert!(matches!(volume.write(at(500), &[3; 4096]), Err(VolumeError::NoSpace)));
    let mut discarded = 1;
    loop {
        match volume.discard(at(discarded), BLOCK).and_then(|()| volume.flush()) {
            Ok(()) => discarded += 1,
            Err(VolumeError::NoSpace) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!((10..300).contains(&discarded), "{discarded}");
    assert_eq!((volume.stats().checkpoints, volume.stats().compactions), (0, 0));
    drop(volume);
    for _ in 0..2 {
        let volume = open();
        host.most.store(usize::MAX, Ordering::Relaxed);
        volume.checkpoint().unwrap();
        assert!(lost.iter().all(|leaf| is_lost(&volume, *leaf)));
        assert!((0..discarded).all(|leaf| read(&volume, at(leaf), 4096) == [0; 4096]));
        assert!((discarded + 1..300).all(|leaf| read(&volume, at(leaf), 4096) == [1; 4096]));
        let report = volume.check(&mut |_, _| {}).unwrap();
        assert_eq!((report.shared_slots, report.unaccounted_slots), (0, 0), "{report:?}");
    }
}

/// Counts what is asked of a base, and how far it has to look.
struct Counted {
    base: Arc<Volume>,
    asked: AtomicU64,
    furthest: AtomicU64,
}

impl BaseImage for Counted {
    fn identity(&self) -> BaseIdentity {
        self.base.identity()
    }
    fn size(&self) -> u64 {
        BaseImage::size(&*self.base)
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), VolumeError> {
        BaseImage::read(&*self.base, offset, buf)
    }
    fn next_data(&self, offset: u64) -> Result<Option<u64>, VolumeError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        BaseImage::next_data(&*self.base, offset)
    }
    fn next_hole(&self, offset: u64, end: u64) -> Result<u64, VolumeError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.furthest.fetch_max(end.saturating_sub(offset), Ordering::Relaxed);
        BaseImage::next_hole(&*self.base, offset, end)
    }
}

#[test]
fn f7_searches_on_a_thin_volume_ask_its_base_little_whatever_its_size() {
    const SIZE: u64 = 64 << 40;
    let under = Rig::new(16 * MIB, 64);
    let volume = under.open();
    volume.write(0, &vec![7; 8 << 20]).unwrap();
    volume.close().unwrap();
    let base = Arc::new(under.open());
    assert_eq!(BaseImage::next_hole(&*base, 5000, 20_000).unwrap(), 20_000);
    assert_eq!(BaseImage::next_hole(&*base, 5000, u64::MAX).unwrap(), 8 * MIB);
    let mut thin = Rig::thin(SIZE, base.identity().reference(Text::new("base").unwrap()));
    let counted = Arc::new(Counted { base, asked: AtomicU64::new(0), furthest: AtomicU64::new(0) });
    thin.options.base = Some(Arc::clone(&counted) as _);
    let volume = thin.open();
    volume.write(4 * MIB, &[8; 4096]).unwrap();
    volume.write(SIZE - BLOCK, &[8; 4096]).unwrap();
    let id = Uuid::from_u128(5);
    volume.snapshot("s", id, 0).unwrap();
    let (start, asked) = (Instant::now(), || counted.asked.swap(0, Ordering::Relaxed));
    for (data, hole, found) in [
        (volume.next_data(9 * MIB), volume.next_hole(0), volume.next_hole(SIZE - BLOCK)),
        (volume.next_data_in(id, 9 * MIB), volume.next_hole_in(id, 0), volume.next_hole_in(id, SIZE - BLOCK)),
    ] {
        assert_eq!((data.unwrap(), hole.unwrap(), found.unwrap()), (Some(SIZE - BLOCK), 8 * MIB, SIZE));
    }
    // Two questions for each 512 KiB of the base that are read through, and a few more.
    let asked = asked();
    assert!(asked < 100, "{asked} questions");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    // A flatten looks no further than it copies.
    counted.furthest.store(0, Ordering::Relaxed);
    volume.start_flatten(None).unwrap();
    assert!((0..100).any(|_| volume.task_step(4096).unwrap() == Step::Finished));
    assert!(counted.furthest.load(Ordering::Relaxed) <= 128 * BLOCK);
    assert_eq!(read(&volume, 7 * MIB, 1 << 20), vec![7; 1 << 20]);
}
