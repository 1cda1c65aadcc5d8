//! A host that fails to read one place of the file, for good: everything else goes on.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::super::{BLOCK, Damage, OpenError, Volume, VolumeError};
use super::{ID, Memory, Rig, read};
use crate::backing::Backing;
use crate::crypto::{Backend, Dek, VolumeKeys};
use crate::format::WrappedDekField;
use crate::format::layout::RING_START;

const MIB: u64 = 1 << 20;
const LEAF: u64 = 128 * BLOCK;

/// Slots that cannot be read, and those that were.
struct Disk {
    memory: Arc<Memory>,
    bad: Mutex<BTreeSet<u64>>,
    read: Mutex<BTreeSet<u64>>,
    /// Happens once, when a bad slot is read.
    then: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Disk {
    fn of(rig: &Rig) -> Arc<Self> {
        Arc::new(Self {
            memory: Arc::clone(&rig.memory),
            bad: Mutex::default(),
            read: Mutex::default(),
            then: Mutex::default(),
        })
    }

    /// Makes the page of `level` unreadable that `read` needs of a volume that was just opened.
    fn spoil(self: &Arc<Self>, rig: &Rig, wanted: u8, read: impl Fn(&Volume) -> Result<(), VolumeError>) {
        self.read.lock().clear();
        read(&rig.try_open_on(Arc::clone(self) as _).unwrap()).unwrap();
        let seen = self.read.lock().clone();
        for slot in seen {
            self.bad.lock().insert(slot);
            let volume = rig.try_open_on(Arc::clone(self) as _);
            let error = volume.ok().and_then(|volume| read(&volume).err());
            if matches!(error, Some(VolumeError::DamagedPage { level, .. }) if level == wanted) {
                return;
            }
            self.bad.lock().remove(&slot);
        }
        panic!("no page of level {wanted} was read");
    }
}

impl Backing for Disk {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let slots = offset / BLOCK..(offset + u64::try_from(buf.len()).unwrap()) / BLOCK;
        if self.bad.lock().range(slots.clone()).next().is_some() {
            if let Some(then) = self.then.lock().take() {
                then();
            }
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.read.lock().extend(slots);
        self.memory.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.memory.write_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        self.memory.punch(offset, len)
    }
    fn sync(&self) -> io::Result<()> {
        self.memory.sync()
    }
}

fn is_unreadable(volume: &Volume, offset: u64) {
    let error = volume.read(offset, &mut [0; 4096]).unwrap_err();
    assert!(matches!(error, VolumeError::DamagedPage { level: 0, .. }), "{error}");
}

/// Blocks under several leaves, all in the map.
fn written() -> Rig {
    let mut rig = Rig::new(64 * MIB, 64);
    rig.options.dirty_limit = Some(1_000);
    let volume = rig.open();
    for leaf in 0..16 {
        volume.write(leaf * LEAF, &vec![1; usize::try_from(LEAF).unwrap()]).unwrap();
    }
    volume.close().unwrap();
    rig
}

/// Writes under the third leaf and elsewhere, over and over.
fn go_on(volume: &Volume, rounds: std::ops::Range<u8>) {
    for round in rounds {
        volume.write(2 * LEAF + 5 * BLOCK, &[round; 8192]).unwrap();
        volume.write(8 * LEAF, &vec![round; 200 << 12]).unwrap();
        volume.flush().unwrap();
        if round % 3 > 0 {
            // A part of the leaf: the ends of a range that is discarded.
            volume.discard(2 * LEAF + 100 * BLOCK, 6 * LEAF).unwrap();
        }
        volume.checkpoint().unwrap_or_else(|error| panic!("round {round}: {error}"));
        if round % 3 == 1 {
            volume.write(2 * LEAF + 5 * BLOCK, &[round; 4096]).unwrap();
        }
    }
}

#[test]
fn f11_a_page_that_cannot_be_read_keeps_nothing_else_from_the_map() {
    let rig = written();
    let disk = Disk::of(&rig);
    disk.spoil(&rig, 0, |volume| volume.read(2 * LEAF, &mut [0; 4096]));
    let volume = rig.try_open_on(Arc::clone(&disk) as _).unwrap();
    go_on(&volume, 1..100);
    assert!(volume.stats().dirty_entries < 128, "{:?}", volume.stats());
    assert_eq!(read(&volume, 2 * LEAF + 5 * BLOCK, 8192), [99; 8192]);
    assert_eq!(read(&volume, 8 * LEAF, 200 << 12), vec![99; 200 << 12]);
    assert!(read(&volume, 2 * LEAF + 100 * BLOCK, 28 << 12).iter().all(|byte| *byte == 0));
    is_unreadable(&volume, 2 * LEAF);
    volume.flush().unwrap();
    let anchor = volume.anchor();
    drop(volume);

    // At the next attach it is the same; and when the page can be read again, nothing is missing.
    let volume = rig.try_open_on(Arc::clone(&disk) as _).unwrap();
    assert_eq!(volume.anchor(), anchor);
    go_on(&volume, 100..120);
    drop(volume);
    let log = rig.memory.bytes.read()[usize::try_from(RING_START * BLOCK).unwrap()..][..64 << 12].to_vec();
    rig.memory.bytes.write()[usize::try_from(RING_START * BLOCK).unwrap()..][..64 << 12].fill(0);
    assert!(matches!(rig.try_open(), Err(OpenError::LogCut { .. })), "a log that was cut off");
    rig.memory.bytes.write()[usize::try_from(RING_START * BLOCK).unwrap()..][..64 << 12]
        .copy_from_slice(&log);

    let volume = rig.open();
    assert_eq!(read(&volume, 2 * LEAF, 5 << 12), vec![1; 5 << 12]);
    assert_eq!(read(&volume, 2 * LEAF + 5 * BLOCK, 8192), [119; 8192]);
    assert_eq!(read(&volume, 2 * LEAF + 7 * BLOCK, 93 << 12), vec![1; 93 << 12]);
    assert!(read(&volume, 2 * LEAF + 100 * BLOCK, 28 << 12).iter().all(|byte| *byte == 0));
    volume.checkpoint().unwrap();
    assert_eq!(volume.stats().dirty_entries, 0);
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
    volume.close().unwrap();
}

/// It is overwritten, and the process dies: its slot, which no map ever had, is free. So it is where the log was compacted meanwhile.
#[test]
fn f7_what_was_carried_over_and_overwritten_leaves_no_slot_behind() {
    for compactions in 0..3 {
        let rig = written();
        let disk = Disk::of(&rig);
        disk.spoil(&rig, 0, |volume| volume.read(2 * LEAF, &mut [0; 4096]));
        let volume = rig.try_open_on(Arc::clone(&disk) as _).unwrap();
        volume.write(2 * LEAF + 5 * BLOCK, &[7; 8192]).unwrap();
        volume.flush().unwrap();
        volume.checkpoint().unwrap();
        assert_eq!(volume.stats().dirty_entries, 2, "nothing was carried over");
        let mut round = 8;
        while round == 8 || volume.stats().compactions < compactions {
            volume.write(2 * LEAF + 5 * BLOCK, &[round; 4096]).unwrap();
            volume.flush().unwrap();
            round += 1;
        }
        drop(volume);
        let volume = rig.open();
        volume.checkpoint().unwrap();
        assert_eq!(read(&volume, 2 * LEAF + 5 * BLOCK, 4096), [round - 1; 4096]);
        assert_eq!(read(&volume, 2 * LEAF + 6 * BLOCK, 4096), [7; 4096]);
        let report = volume.check(&mut |_, _| {}).unwrap();
        assert!(report.is_sound(), "after {compactions} compactions: {report:?}");
    }
}

/// A block is flushed, and written again while a checkpoint finds that it must carry it over: the write may get lost, what was flushed may not.
#[test]
fn f4_what_was_flushed_is_carried_over_although_something_newer_hides_it() {
    for newer in [Some(3), None] {
        let rig = written();
        let disk = Disk::of(&rig);
        disk.spoil(&rig, 0, |volume| volume.read(2 * LEAF, &mut [0; 4096]));
        let volume = Arc::new(rig.try_open_on(Arc::clone(&disk) as _).unwrap());
        volume.write(2 * LEAF, &[2; 4096]).unwrap();
        volume.flush().unwrap();
        let hidden = Arc::clone(&volume);
        *disk.then.lock() = Some(Box::new(move || match newer {
            Some(byte) => hidden.write(2 * LEAF, &[byte; 4096]).unwrap(),
            None => hidden.discard(2 * LEAF, BLOCK).unwrap(),
        }));
        volume.checkpoint().unwrap();
        assert!(disk.then.lock().is_none(), "nothing was carried over");
        drop(volume);
        disk.bad.lock().clear();
        let now = read(&rig.open(), 2 * LEAF, 4096);
        assert!([2, newer.unwrap_or(0)].iter().any(|byte| now == [*byte; 4096]), "{} came back", now[0]);
    }
}

/// What keeps a snapshot from being made keeps a re-encryption from beginning.
#[test]
fn f9_a_re_encryption_that_cannot_begin_has_not_begun() {
    let rig = written();
    let disk = Disk::of(&rig);
    disk.spoil(&rig, 0, |volume| volume.read(2 * LEAF, &mut [0; 4096]));
    let volume = rig.try_open_on(Arc::clone(&disk) as _).unwrap();
    volume.write(2 * LEAF, &[2; 4096]).unwrap();
    let begin = || {
        let next = VolumeKeys::new(Dek::new(&[8; 32]), ID, Backend::AwsLc);
        volume.start_reencryption(next, WrappedDekField::new(vec![2; 40]).unwrap(), 0)
    };
    assert!(matches!(begin(), Err(VolumeError::DamagedPage { level: 0, .. })));
    assert!(volume.header().next.is_none(), "the header has two keys");
    disk.bad.lock().clear();
    begin().unwrap();
    assert!(volume.header().next.is_some());
}

/// More than the log has room for waits for the page, and says so; nothing is lost by it.
#[test]
fn f11_what_cannot_be_carried_over_stays_in_the_cut() {
    let rig = written();
    let disk = Disk::of(&rig);
    disk.spoil(&rig, 1, |volume| volume.read(2 * LEAF, &mut [0; 4096]));
    let volume = rig.try_open_on(Arc::clone(&disk) as _).unwrap();
    for leaf in 0..5 {
        volume.write(leaf * LEAF, &vec![7; 100 << 12]).unwrap();
    }
    for _ in 0..3 {
        assert!(matches!(volume.checkpoint(), Err(VolumeError::DamagedPage { level: 1, .. })));
    }
    // A check names it, and looks at what waits for it too.
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert_eq!((report.bad_count, report.blocks), (1, 500), "{report:?}");
    assert_eq!((report.unaccounted_slots, report.shared_slots), (0, 0), "{report:?}");
    volume.flush().unwrap();
    drop(volume);
    let volume = rig.open();
    assert_eq!(read(&volume, 4 * LEAF, 100 << 12), vec![7; 100 << 12]);
    volume.checkpoint().unwrap();
    assert!(volume.check(&mut |_, _| {}).unwrap().is_sound());
}

/// A page of the log holds records of one epoch, and each attach seals under its own: so a few entries are more than the log takes.
#[test]
fn f11_what_the_log_has_no_pages_for_stays_in_the_cut() {
    let rig = written();
    let disk = Disk::of(&rig);
    disk.spoil(&rig, 0, |volume| volume.read(2 * LEAF, &mut [0; 4096]));
    let mut flushed = 0u8;
    let volume = loop {
        let volume = rig.try_open_on(Arc::clone(&disk) as _).unwrap();
        let at = 2 * LEAF + u64::from(flushed) * BLOCK;
        match volume.write(at, &[flushed + 2; 4096]).and_then(|()| volume.flush()) {
            Ok(()) => flushed += 1,
            Err(VolumeError::DamagedPage { level: 0, .. }) => break volume,
            Err(error) => panic!("after {flushed} attaches: {error}"),
        }
    };
    assert!(flushed > 20, "{flushed} attaches");
    for _ in 0..3 {
        assert!(matches!(volume.checkpoint(), Err(VolumeError::DamagedPage { level: 0, .. })));
    }
    drop(volume);
    let volume = rig.open();
    let all = |volume: &Volume| {
        (0..flushed).all(|at| read(volume, 2 * LEAF + u64::from(at) * BLOCK, 4096) == [at + 2; 4096])
    };
    assert!(all(&volume));
    volume.checkpoint().unwrap();
    assert!(all(&volume) && volume.check(&mut |_, _| {}).unwrap().is_sound());
}

/// A cut waited, with more than could be carried over, and when that is less a part of it is outdated.
#[test]
fn f11_what_is_carried_over_stays_under_what_was_written_meanwhile() {
    let rig = written();
    let disk = Disk::of(&rig);
    let look = |volume: &Volume| volume.read(2 * LEAF, &mut [0; 4096]);
    disk.spoil(&rig, 0, look);
    let leaf = std::mem::take(&mut *disk.bad.lock());
    disk.spoil(&rig, 1, look);
    let volume = rig.try_open_on(Arc::clone(&disk) as _).unwrap();
    for leaf in 0..5 {
        volume.write(leaf * LEAF, &vec![7; 100 << 12]).unwrap();
    }
    assert!(matches!(volume.checkpoint(), Err(VolumeError::DamagedPage { level: 1, .. })));
    volume.write(2 * LEAF + 10 * BLOCK, &[8; 8192]).unwrap();
    volume.discard(2 * LEAF + 20 * BLOCK, 4 * BLOCK).unwrap();
    volume.flush().unwrap();
    *disk.bad.lock() = leaf;
    volume.checkpoint().unwrap();
    assert!(volume.stats().dirty_entries >= 100, "{:?}", volume.stats());
    let expected = [vec![7; 10 << 12], vec![8; 8192], vec![7; 8 << 12], vec![0; 4 << 12], vec![7; 76 << 12]];
    let expected = expected.concat();
    assert!(read(&volume, 2 * LEAF, 100 << 12) == expected);
    drop(volume);
    let volume = rig.open();
    assert!(read(&volume, 2 * LEAF, 100 << 12) == expected);
    volume.checkpoint().unwrap();
    assert!(read(&volume, 2 * LEAF, 100 << 12) == expected);
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.unaccounted_slots, 0);
}

/// A cut waited, and when its page can be read the host is full: it is undone, under what is newer. What that hides gives its slots back.
#[test]
fn f7_a_cut_that_is_undone_keeps_no_slot_of_what_was_written_meanwhile() {
    let rig = Rig::new(1 << 30, 64);
    let write = |volume: &Volume, leaves: std::ops::Range<u64>, version: u8| {
        for leaf in leaves {
            volume.write(leaf * LEAF, &[version; 4096]).unwrap();
        }
    };
    let volume = rig.open();
    write(&volume, 0..1, 1);
    volume.close().unwrap();
    let disk = Disk::of(&rig);
    disk.spoil(&rig, 2, |volume| volume.read(0, &mut [0; 4096]));
    let volume = rig.try_open_on(Arc::clone(&disk) as _).unwrap();
    write(&volume, 0..900, 2);
    assert!(matches!(volume.checkpoint(), Err(VolumeError::DamagedPage { level: 2, .. })));
    write(&volume, 100..150, 3);
    volume.discard(200 * LEAF, BLOCK).unwrap();
    volume.flush().unwrap();
    disk.bad.lock().clear();
    rig.memory.capacity.store(rig.memory.len().unwrap(), Ordering::Relaxed);
    assert!(matches!(volume.checkpoint(), Err(VolumeError::NoSpace)));
    rig.memory.capacity.store(0, Ordering::Relaxed);
    volume.checkpoint().unwrap();
    assert_eq!(read(&volume, 120 * LEAF, 4096), [3; 4096]);
    assert_eq!(read(&volume, 200 * LEAF, 4096), [0; 4096]);
    assert_eq!(read(&volume, 899 * LEAF, 4096), [2; 4096]);
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert!(report.is_sound() && report.unaccounted_slots == 0, "{report:?}");
}

/// The end of the file was cut off, and the log has no record for what is lost with it: that stays in the cut, too.
#[test]
fn f2_what_is_lost_is_not_carried_over() {
    let rig = written();
    let kept = rig.memory.len().unwrap();
    let volume = rig.open();
    for leaf in 2..10 {
        volume.write(leaf * LEAF, &vec![7; 100 << 12]).unwrap();
    }
    volume.flush().unwrap();
    volume.discard(0, BLOCK).unwrap();
    volume.flush().unwrap();
    drop(volume);
    rig.memory.set_len(kept).unwrap();
    let volume = rig.open();
    let is_lost = |volume: &Volume, block: u64| {
        let read = volume.read(block * BLOCK, &mut [0; 4096]);
        matches!(read, Err(VolumeError::DamagedBlock { reason: Damage::Lost, .. }))
    };
    let lost = (2 * 128..10 * 128).rfind(|block| is_lost(&volume, *block)).expect("nothing was cut off");
    drop(volume);
    let disk = Disk::of(&rig);
    disk.spoil(&rig, 0, |volume| volume.read((lost / 128 * 128 + 110) * BLOCK, &mut [0; 4096]));
    let volume = rig.try_open_on(Arc::clone(&disk) as _).unwrap();
    assert!(matches!(volume.checkpoint(), Err(VolumeError::DamagedPage { level: 0, .. })));
    assert!(is_lost(&volume, lost));
    drop(volume);
    for _ in 0..2 {
        let volume = rig.open();
        assert!(is_lost(&volume, lost));
        assert_eq!(read(&volume, (lost / 128 * 128 + 110) * BLOCK, 4096), [1; 4096]);
        volume.checkpoint().unwrap();
        assert!(is_lost(&volume, lost));
    }
}

#[test]
fn f11_a_snapshots_page_that_cannot_be_read_keeps_nothing_else_from_the_map() {
    let rig = written();
    let volume = rig.open();
    volume.snapshot("s", ID, 0).unwrap();
    volume.write(2 * LEAF, &[2; 4096]).unwrap();
    volume.close().unwrap();
    let disk = Disk::of(&rig);
    disk.spoil(&rig, 0, |volume| volume.read_snapshot(ID, 2 * LEAF, &mut [0; 4096]));
    let volume = rig.try_open_on(Arc::clone(&disk) as _).unwrap();
    go_on(&volume, 1..100);
    assert!(volume.stats().dirty_entries < 128, "{:?}", volume.stats());
    assert_eq!(read(&volume, 2 * LEAF, 4096), [2; 4096]);
    assert_eq!(read(&volume, 2 * LEAF + 5 * BLOCK, 8192), [99; 8192]);
    // What would have to know what the snapshot has says that it cannot.
    assert!(matches!(volume.extend(65 * MIB), Err(VolumeError::DamagedPage { level: 0, .. })));
    disk.bad.lock().clear();
    volume.checkpoint().unwrap();
    assert_eq!(volume.stats().dirty_entries, 0);
    volume.extend(65 * MIB).unwrap();
    volume.delete_snapshot(ID).unwrap();
    while volume.stats().trash {
        volume.checkpoint().unwrap();
    }
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
}

/// Nothing is written under the page; discarded pages below it wait to be freed.
#[test]
fn f11_a_page_above_discarded_ones_that_cannot_be_read_keeps_nothing_from_the_map() {
    let mut rig = Rig::new(256 * MIB, 64);
    rig.options.trash_budget = 1;
    let volume = rig.open();
    for leaf in 0..40 {
        volume.write(64 * MIB + leaf * LEAF, &[1; 4096]).unwrap();
    }
    volume.checkpoint().unwrap();
    volume.discard(64 * MIB + LEAF, 38 * LEAF).unwrap();
    volume.checkpoint().unwrap();
    assert!(volume.stats().trash);
    drop(volume);
    let disk = Disk::of(&rig);
    disk.spoil(&rig, 1, |volume| volume.read(64 * MIB, &mut [0; 4096]));
    let volume = rig.try_open_on(Arc::clone(&disk) as _).unwrap();
    for round in 0..100 {
        volume.write(128 * MIB, &[round; 4096]).unwrap();
        volume.flush().unwrap();
        volume.checkpoint().unwrap();
    }
    assert!(volume.stats().trash);
    disk.bad.lock().clear();
    while volume.stats().trash {
        volume.checkpoint().unwrap();
    }
    assert_eq!(read(&volume, 64 * MIB, 4096), [1; 4096]);
    assert_eq!(read(&volume, 64 * MIB + 39 * LEAF, 4096), [1; 4096]);
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
}

/// A place of the log may hold what was acknowledged, so the volume does not open; to save the rest it does, and says that it ends there.
#[test]
fn f11_a_log_that_cannot_be_read_is_the_end_only_for_who_saves_what_is_left() {
    let mut rig = written();
    let volume = rig.open();
    volume.write(0, &[5; 4096]).unwrap();
    volume.flush().unwrap();
    let anchor = volume.anchor();
    volume.write(0, &[6; 4096]).unwrap();
    volume.flush().unwrap();
    drop(volume);
    let disk = Disk::of(&rig);
    let refused = |rig: &Rig| match rig.try_open_on(Arc::clone(&disk) as _) {
        Err(OpenError::Volume(VolumeError::DamagedTable { reason: Damage::Unreadable, .. })) => true,
        Err(error) => panic!("{error}"),
        Ok(_) => false,
    };
    let mut ends = Vec::new();
    for page in RING_START..RING_START + 64 {
        *disk.bad.lock() = BTreeSet::from([page]);
        rig.options.salvage = false;
        rig.options.read_only = true;
        let is_refused = refused(&rig);
        rig.options.salvage = true;
        let volume = rig.try_open_on(Arc::clone(&disk) as _).unwrap();
        assert_eq!(volume.ends_unread(), is_refused, "page {page}");
        if is_refused {
            ends.push((volume.anchor().commit, read(&volume, 0, 1)[0]));
        }
        rig.options.read_only = false;
        assert_eq!(refused(&rig), is_refused, "who writes is refused");
    }
    // Before the first group, before the second, and behind it.
    let commit = anchor.commit;
    assert_eq!(ends, [(commit - 1, 1), (commit, 5), (commit + 1, 6)]);
}

/// What a log that was written anew holds is in no map. Who saves what is left does without.
#[test]
fn f11_a_compacted_log_that_cannot_be_read_is_no_reason_to_save_nothing() {
    let mut rig = written();
    let volume = rig.open();
    for round in 0..200 {
        volume.write(0, &[round; 4096]).unwrap();
        volume.flush().unwrap();
    }
    assert!(volume.stats().compactions > 0, "{:?}", volume.stats());
    drop(volume);
    let disk = Disk::of(&rig);
    rig.options.read_only = true;
    let mut ends = Vec::new();
    for page in RING_START..RING_START + 64 {
        *disk.bad.lock() = BTreeSet::from([page]);
        rig.options.salvage = false;
        if rig.try_open_on(Arc::clone(&disk) as _).is_err() {
            rig.options.salvage = true;
            let volume = rig.try_open_on(Arc::clone(&disk) as _).unwrap();
            assert!(volume.ends_unread());
            assert_eq!(read(&volume, LEAF, 1), [1]);
            ends.push(read(&volume, 0, 1)[0]);
        }
    }
    // The first of them is the one of before the log was written anew.
    ends.sort_unstable();
    assert_eq!((ends.first(), ends.last()), (Some(&1), Some(&199)), "{ends:?}");
}

/// The last group counts if its data is there, and what cannot be read may be.
#[test]
fn f11_data_of_the_last_group_that_cannot_be_read_is_no_loss_of_the_group() {
    let mut rig = written();
    let volume = rig.open();
    for leaf in 0..2 {
        volume.write(leaf * LEAF, &[5; 4096]).unwrap();
        volume.flush().unwrap();
    }
    let anchor = volume.anchor();
    drop(volume);
    let disk = Disk::of(&rig);
    drop(rig.try_open_on(Arc::clone(&disk) as _).unwrap());
    let seen = std::mem::take(&mut *disk.read.lock());
    let is_its_data = |slot: &u64| {
        *disk.bad.lock() = BTreeSet::from([*slot]);
        let opened = rig.try_open_on(Arc::clone(&disk) as _);
        matches!(opened, Err(OpenError::Volume(VolumeError::DamagedBlock { block: 128, .. })))
    };
    assert!(seen.iter().any(is_its_data), "it opens without the data");
    (rig.options.read_only, rig.options.salvage) = (true, true);
    let volume = rig.try_open_on(Arc::clone(&disk) as _).unwrap();
    assert_eq!(volume.anchor(), anchor);
    let error = volume.read(LEAF, &mut [0; 4096]).unwrap_err();
    assert!(matches!(error, VolumeError::DamagedBlock { reason: Damage::Unreadable, .. }), "{error}");
    assert_eq!(read(&volume, 0, 4096), [5; 4096]);
    assert_eq!(read(&rig.open(), LEAF, 4096), [5; 4096]);
}
