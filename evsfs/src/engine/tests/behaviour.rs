//! Single promises, one by one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::{BLOCK, Volume, VolumeError};
use super::{Memory, Rig, keys, read};
use crate::backing::Backing;
use crate::crypto::TablePurpose;
use crate::format::Superblock;
use crate::format::layout::SUPERBLOCK_SLOTS;

const MIB: u64 = 1 << 20;

#[test]
fn a_new_volume_reads_zeros_and_what_is_written_is_read() {
    let rig = Rig::new(8 * MIB, 64);
    let volume = rig.open();
    assert_eq!(volume.size(), 8 * MIB);
    assert!(read(&volume, 12_345, 50_000).iter().all(|byte| *byte == 0));
    volume.write(4000, &[7; 10_000]).unwrap();
    volume.write(100, &[8; 3]).unwrap();
    let all = read(&volume, 0, 20_000);
    assert_eq!(&all[100..103], [8; 3]);
    assert!(all[4000..14_000].iter().all(|byte| *byte == 7));
    assert!(all[..100].iter().chain(&all[103..4000]).chain(&all[14_000..]).all(|byte| *byte == 0));
    assert!(matches!(volume.write(8 * MIB - 1, &[0; 2]), Err(VolumeError::OutOfRange { .. })));
    assert!(matches!(volume.read(u64::MAX, &mut [0; 2]), Err(VolumeError::OutOfRange { .. })));
}

#[test]
fn f4_what_was_flushed_survives_and_close_leaves_an_empty_log() {
    let rig = Rig::new(8 * MIB, 64);
    let volume = rig.open();
    volume.write(MIB, &vec![1; 3 * 4096]).unwrap();
    volume.flush().unwrap();
    let anchor = volume.anchor();
    drop(volume);
    let volume = rig.open();
    assert_eq!(volume.anchor(), anchor);
    assert_eq!(read(&volume, MIB, 3 * 4096), vec![1; 3 * 4096]);
    volume.write(MIB + 4096, &[2; 4096]).unwrap();
    let closed = volume.close().unwrap();
    assert_eq!(closed.commit, anchor.commit + 1);
    let volume = rig.open();
    assert_eq!(volume.stats().dirty_entries, 0);
    assert_eq!(volume.anchor(), closed);
    assert_eq!(read(&volume, MIB, 4096), [1; 4096]);
    assert_eq!(read(&volume, MIB + 4096, 4096), [2; 4096]);
    let written = rig.memory.written.load(Ordering::Relaxed);
    volume.close().unwrap();
    assert_eq!(rig.memory.written.load(Ordering::Relaxed), written, "nothing to say: nothing is written");
}

#[test]
fn f5_a_flush_is_one_barrier_and_an_empty_one_none() {
    let rig = Rig::new(8 * MIB, 1024);
    let volume = rig.open();
    // The first write of an attach has one of its own.
    volume.write(MIB, &[1; 4096]).unwrap();
    volume.flush().unwrap();
    let before = rig.memory.syncs.load(Ordering::Relaxed);
    for number in 0..100 {
        volume.write(number * 3 * BLOCK, &[1; 4096]).unwrap();
        volume.flush().unwrap();
        volume.flush().unwrap();
    }
    assert_eq!(rig.memory.syncs.load(Ordering::Relaxed) - before, 100);
}

/// Reads, writes and discards of any offset and length, a snapshot, a header.
pub(super) fn use_in_every_way(volume: &Volume) {
    for number in 0..300 {
        let (offset, len) = (number * 70_001, 1 + number * 37);
        volume.write(offset, &vec![7; usize::try_from(len).unwrap()]).unwrap();
        read(volume, offset / 2, 5_000);
        volume.discard(offset / 3, len * 2).unwrap();
    }
    volume.flush().unwrap();
    volume.snapshot("s", super::ID, 0).unwrap();
    volume.write(5, &[1; 70_000]).unwrap();
    volume.rewrite_header(&volume.header()).unwrap();
    volume.delete_snapshot(super::ID).unwrap();
}

/// Whatever the user's offsets and lengths are, the file is read and written by whole slots, as direct I/O on it asks for.
#[test]
fn f10_the_file_is_used_by_whole_slots() {
    let rig = Rig::new(32 * MIB, 64);
    let volume = rig.open();
    use_in_every_way(&volume);
    drop(volume);
    rig.open().close().unwrap();
    assert!(rig.memory.punched.load(Ordering::Relaxed) > 0);
    assert_eq!(rig.memory.ragged.load(Ordering::Relaxed), 0);
}

#[test]
fn f11_after_a_failed_sync_nothing_is_acknowledged_and_reads_go_on() {
    let rig = Rig::new(8 * MIB, 64);
    let volume = rig.open();
    volume.write(0, &[1; 4096]).unwrap();
    volume.flush().unwrap();
    volume.write(0, &[2; 4096]).unwrap();
    rig.memory.fail_sync.store(true, Ordering::Relaxed);
    assert!(matches!(volume.flush(), Err(VolumeError::Io(_))));
    rig.memory.fail_sync.store(false, Ordering::Relaxed);
    assert!(matches!(volume.flush(), Err(VolumeError::Poisoned)));
    assert!(matches!(volume.write(0, &[3; 4096]), Err(VolumeError::Poisoned)));
    assert!(matches!(volume.discard(0, 4096), Err(VolumeError::Poisoned)));
    assert!(matches!(volume.checkpoint(), Err(VolumeError::Poisoned)));
    assert_eq!(read(&volume, 0, 4096), [2; 4096]);
    assert!(volume.close().is_err());
    assert_ne!(read(&rig.open(), 0, 4096), [3; 4096]);
}

/// F12: a volume that turns out to be somebody else's takes and acknowledges nothing more, and what was not durable by then never becomes so; reads go on.
#[test]
fn f12_who_lost_the_volume_writes_nothing_more_and_reads_on() {
    let rig = Rig::new(8 * MIB, 64);
    let volume = rig.open();
    volume.write(0, &[1; 4096]).unwrap();
    volume.flush().unwrap();
    volume.write(0, &[2; 4096]).unwrap();
    let (before, brake) = (rig.memory.bytes.read().clone(), volume.brake());
    brake.pull();
    assert!(matches!(volume.flush(), Err(VolumeError::Superseded { .. })));
    assert!(matches!(volume.write(0, &[3; 4096]), Err(VolumeError::Superseded { .. })));
    assert!(matches!(volume.discard(0, 4096), Err(VolumeError::Superseded { .. })));
    assert!(matches!(volume.checkpoint(), Err(VolumeError::Superseded { .. })));
    assert!(matches!(volume.snapshot("s", super::ID, 0), Err(VolumeError::Superseded { .. })));
    assert!(matches!(volume.rewrite_header(&volume.header()), Err(VolumeError::Superseded { .. })));
    assert_eq!(read(&volume, 0, 4096), [2; 4096]);
    assert!(matches!(volume.close(), Err(VolumeError::Superseded { .. })));
    assert!(*rig.memory.bytes.read() == before, "something was written");
    brake.pull();
    assert_eq!(read(&rig.open(), 0, 4096), [1; 4096]);
}

/// A disk that fails where the superblocks lie.
struct WithoutSuperblocks(Arc<Memory>);

impl Backing for WithoutSuperblocks {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if SUPERBLOCK_SLOTS.as_flattened().contains(&(offset / BLOCK)) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.0.write_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        self.0.punch(offset, len)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

/// An attach ended between the cut of a checkpoint, which had used up the room that the log keeps for it, and its superblock.
#[test]
fn f11_a_log_that_is_nearly_full_when_the_volume_is_opened_gets_room_first() {
    let mut rig = Rig::new(64 * MIB, 128);
    rig.options.dirty_limit = Some(10_000);
    let volume = rig.try_open_on(Arc::new(WithoutSuperblocks(Arc::clone(&rig.memory)))).unwrap();
    for number in 0..5_000 {
        volume.write(number * BLOCK, &[1; 4096]).unwrap();
    }
    // Small groups leave what is kept for a cut, of which the large one takes a part.
    let core = volume.core();
    let room = || core.log.lock().free();
    while room() > core.limits.log_reserve + 6 {
        volume.write(5_001 * BLOCK, &[3; 4096]).unwrap();
        volume.flush().unwrap();
    }
    for number in 0..1_000 {
        volume.write(number * BLOCK, &[1; 4096]).unwrap();
    }
    assert_eq!((volume.stats().checkpoints, volume.stats().compactions), (0, 0));
    assert!(volume.flush().is_err());
    assert!(room() < core.limits.log_reserve);
    drop(volume);
    let volume = rig.open();
    volume.write(0, &[2; 4096]).unwrap();
    assert_eq!(volume.stats().checkpoints, 1, "nothing made room first");
    for number in 1..2_000 {
        volume.write(number * BLOCK, &[2; 4096]).unwrap();
    }
    volume.flush().unwrap();
    drop(volume);
    let volume = rig.open();
    assert_eq!(read(&volume, 1_999 * BLOCK, 4096), [2; 4096]);
    assert_eq!(read(&volume, 4_000 * BLOCK, 4096), [1; 4096]);
}

/// What recovery found may be in the host's cache only; it is no anchor if it cannot be made durable, however often that is tried.
#[test]
fn f11_no_anchor_is_offered_after_the_first_sync_has_failed() {
    let rig = Rig::new(8 * MIB, 64);
    let volume = rig.open();
    volume.write(0, &[1; 4096]).unwrap();
    volume.flush().unwrap();
    let flushed = volume.anchor();
    drop(volume);
    let volume = rig.open();
    assert_eq!(volume.anchor(), flushed);
    rig.memory.fail_sync.store(true, Ordering::Relaxed);
    let known = volume.offer_anchor();
    assert_ne!(known, flushed);
    rig.memory.fail_sync.store(false, Ordering::Relaxed);
    assert_eq!(volume.offer_anchor(), known);
    assert!(matches!(volume.write(0, &[2; 4096]), Err(VolumeError::Poisoned)));
    drop(volume);
    assert_eq!(rig.open().offer_anchor(), flushed);
}

/// A file that was cut off is damaged, not lost: it is written to, and what was flushed then is there at the next attach.
#[test]
fn f2_a_file_that_was_cut_off_opens_again_after_it_was_written_to() {
    let rig = Rig::new(32 * MIB, 64);
    let volume = rig.open();
    volume.write(0, &[1; 4096]).unwrap();
    volume.checkpoint().unwrap();
    volume.write(MIB, &vec![2; 16 << 20]).unwrap();
    volume.checkpoint().unwrap();
    drop(volume);
    {
        let mut bytes = rig.memory.bytes.write();
        let half = bytes.len() / 2 / 4096 * 4096;
        bytes.truncate(half);
    }
    let volume = rig.open();
    for round in 3..6 {
        volume.write(0, &[round; 4096]).unwrap();
        volume.checkpoint().unwrap();
    }
    drop(volume);
    assert_eq!(read(&rig.open(), 0, 4096), [5; 4096]);
}

/// The log refers to slots behind the end of a file that was cut off. They are given to nobody else when the file grows again.
#[test]
fn f2_slots_that_were_cut_off_are_not_given_out_again_while_the_log_refers_to_them() {
    let rig = Rig::new(32 * MIB, 64);
    let volume = rig.open();
    volume.write(0, &[1; 4096]).unwrap();
    volume.checkpoint().unwrap();
    let kept = rig.memory.bytes.read().len();
    volume.write(MIB, &vec![2; 4 << 20]).unwrap();
    volume.flush().unwrap();
    volume.write(0, &[3; 4096]).unwrap();
    volume.flush().unwrap();
    drop(volume);
    // The second group is gone, which looks like a crash; the first one was followed, so it counts.
    rig.memory.bytes.write().truncate(kept);
    let volume = rig.open();
    volume.write(8 * MIB, &vec![4; 4 << 20]).unwrap();
    volume.checkpoint().unwrap();
    for round in 0..8 {
        volume.write(MIB, &vec![5; 4 << 20]).unwrap();
        volume.write(16 * MIB, &vec![round; 4 << 20]).unwrap();
        volume.flush().unwrap();
    }
    drop(volume);
    let volume = rig.open();
    assert_eq!(read(&volume, 8 * MIB, 4 << 20), vec![4; 4 << 20]);
    assert_eq!(read(&volume, MIB, 4 << 20), vec![5; 4 << 20]);
    assert_eq!(read(&volume, 16 * MIB, 4 << 20), vec![7; 4 << 20]);
}

/// The same, and the attach ends before a checkpoint: else two records of the log would name one slot, and who overwrites the lost block free it under
/// the other.
#[test]
fn f2_slots_that_were_cut_off_are_nobody_elses_at_the_next_attach() {
    let rig = Rig::new(32 * MIB, 64);
    let kept = rig.memory.bytes.read().len();
    let volume = rig.open();
    volume.write(MIB, &vec![2; 4 << 20]).unwrap();
    volume.flush().unwrap();
    volume.discard(MIB, BLOCK).unwrap();
    volume.flush().unwrap();
    drop(volume);
    rig.memory.bytes.write().truncate(kept);
    let volume = rig.open();
    volume.write(8 * MIB, &vec![4; 4 << 20]).unwrap();
    volume.flush().unwrap();
    drop(volume);
    let volume = rig.open();
    for round in 5..8 {
        volume.write(MIB, &vec![round; 4 << 20]).unwrap();
        volume.flush().unwrap();
        volume.write(16 * MIB, &vec![round; 4 << 20]).unwrap();
        volume.flush().unwrap();
    }
    assert!(read(&volume, 8 * MIB, 4 << 20) == vec![4; 4 << 20]);
    volume.close().unwrap();
    let volume = rig.open();
    assert!(read(&volume, 8 * MIB, 4 << 20) == vec![4; 4 << 20]);
    assert!(read(&volume, MIB, 4 << 20) == vec![7; 4 << 20]);
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
}

/// Who has the key can write what no program does: too high a count of slots does not become one that nobody can read.
#[test]
fn f2_after_a_superblock_that_counts_too_much_comes_one_that_can_be_read() {
    let rig = Rig::new(8 * MIB, 64);
    let volume = rig.open();
    volume.write(0, &vec![1; 1 << 20]).unwrap();
    volume.close().unwrap();
    for slot in SUPERBLOCK_SLOTS.as_flattened() {
        let mut page = [0; 4096];
        rig.memory.read_at(&mut page, slot * BLOCK).unwrap();
        let superblock = Superblock::decode(&keys().open_superblock(&page).unwrap()).unwrap();
        let forged = Superblock { used_slots: superblock.file_slots, ..superblock }.encode();
        let page = keys().seal_table(TablePurpose::Superblock, &forged, &*rig.entropy).unwrap();
        rig.memory.write_at(page.as_ref(), slot * BLOCK).unwrap();
    }
    let volume = rig.open();
    for round in 2..5 {
        volume.write(MIB, &[round; 8192]).unwrap();
        volume.checkpoint().unwrap();
    }
    drop(volume);
    assert_eq!(read(&rig.open(), MIB, 8192), [4; 8192]);
}

/// What `fstrim` and `mkfs` do on a large disk: thousands of ranges that touch, between two flushes.
#[test]
fn f4_what_is_flushed_after_thousands_of_discards_is_there_after_a_crash() {
    const PIECE: u64 = 4 * MIB;
    let rig = Rig::new(5_000 * PIECE, 1024);
    let volume = rig.open();
    for number in 0..5_000 {
        volume.discard(number * PIECE, PIECE).unwrap();
    }
    assert!(volume.stats().commits >= 4, "a group of more ranges than earlier programs read");
    volume.write(8 * MIB, &[7; 4096]).unwrap();
    volume.flush().unwrap();
    let anchor = volume.anchor();
    volume.write(9 * MIB, &[8; 4096]).unwrap();
    volume.flush().unwrap();
    drop(volume);
    let volume = rig.open();
    assert_eq!(volume.anchor().commit, anchor.commit + 1);
    assert_eq!(read(&volume, 8 * MIB, 4096), [7; 4096]);
    assert_eq!(read(&volume, 9 * MIB, 4096), [8; 4096]);
}

/// A range that is discarded already takes neither a record nor a look at the dirty map.
#[test]
fn f7_what_is_discarded_is_discarded_once() {
    let rig = Rig::new(64 * MIB, 1024);
    let volume = rig.open();
    for _ in 0..1_000 {
        volume.discard(4 * MIB, 8 * MIB).unwrap();
        volume.discard(5 * MIB, 4 * MIB).unwrap();
    }
    assert_eq!(volume.stats().pending_records, 1);
    volume.write(6 * MIB, &[7; 4096]).unwrap();
    volume.discard(5 * MIB, 4 * MIB).unwrap();
    assert_eq!(volume.stats().pending_records, 3);
    volume.flush().unwrap();
    drop(volume);
    assert_eq!(read(&rig.open(), 6 * MIB, 4096), [0; 4096]);
}

#[test]
fn f7_discarded_blocks_read_zeros_and_their_space_goes_back() {
    let rig = Rig::new(32 * MIB, 1024);
    let volume = rig.open();
    volume.write(0, &vec![5; usize::try_from(16 * MIB).unwrap()]).unwrap();
    volume.checkpoint().unwrap();
    let used = volume.stats().used_slots;
    volume.discard(100, 8 * MIB).unwrap();
    assert!(read(&volume, 100, 8 << 20).iter().all(|byte| *byte == 0));
    assert_eq!(read(&volume, 8 * MIB + 100, 100), [5; 100]);
    assert_eq!(read(&volume, 0, 100), [5; 100]);
    volume.discard(12 * MIB, 64 * BLOCK).unwrap();
    assert_eq!(volume.next_data(8192).unwrap(), Some(8 * MIB));
    assert_eq!(volume.next_hole(9 * MIB).unwrap(), 12 * MIB);
    assert_eq!(volume.next_data(12 * MIB).unwrap(), Some(12 * MIB + 64 * BLOCK));
    assert_eq!(volume.next_data(16 * MIB).unwrap(), None);
    volume.checkpoint().unwrap();
    while volume.stats().trash {
        volume.checkpoint().unwrap();
    }
    let freed = 8 * MIB / BLOCK - 1 + 64;
    assert!(volume.stats().used_slots <= used - freed, "{:?} after {used}", volume.stats());
    assert!(rig.memory.punched.load(Ordering::Relaxed) >= freed * BLOCK);
    drop(volume);
    let volume = rig.open();
    assert!(read(&volume, 4096, 4 << 20).iter().all(|byte| *byte == 0));
}

#[test]
fn space_is_found_again_when_blocks_are_overwritten_for_ever() {
    let rig = Rig::new(4 * MIB, 64);
    let volume = rig.open();
    for round in 0..40u8 {
        volume.write(0, &vec![round; 4 << 20]).unwrap();
        if round % 3 == 0 {
            volume.flush().unwrap();
        }
    }
    assert_eq!(read(&volume, 0, 4 << 20), vec![39; 4 << 20]);
    let slots = volume.stats().file_slots;
    assert!(slots < 6 * 1024, "{slots} slots for a volume of 1,024 blocks");
}

#[test]
fn f1_epochs_change_in_the_midst_of_everything() {
    let mut rig = Rig::new(8 * MIB, 64);
    rig.options.seals_per_epoch = 1024;
    let mut volume = rig.open();
    for round in 0..12u8 {
        volume.write(u64::from(round) * 4096, &vec![round; 6 << 20]).unwrap();
        volume.flush().unwrap();
        if round % 4 == 3 {
            drop(volume);
            volume = rig.open();
        }
        assert_eq!(read(&volume, u64::from(round) * 4096, 6 << 20), vec![round; 6 << 20]);
    }
    volume.close().unwrap();
    let volume = rig.open();
    assert_eq!(read(&volume, 11 * 4096, 6 << 20), vec![11; 6 << 20]);
    assert_eq!(read(&volume, 5 * 4096, 4096), vec![5; 4096]);
}

#[test]
fn a_full_host_refuses_writes_and_loses_nothing() {
    let rig = Rig::new(32 * MIB, 64);
    rig.memory.capacity.store(6 * MIB, Ordering::Relaxed);
    let volume = rig.open();
    let mut written = 0;
    loop {
        match volume.write(written * 65_536, &[9; 65_536]) {
            Ok(()) => written += 1,
            Err(VolumeError::NoSpace) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(written * 65_536 > 4 * MIB, "only {written}");
    volume.flush().unwrap();
    assert_eq!(read(&volume, 0, 65_536), [9; 65_536]);
    // A discard works on a full volume, and makes room.
    volume.discard(0, 2 * MIB).unwrap();
    volume.write(20 * MIB, &[4; 65_536]).unwrap();
    drop(volume);
    let volume = rig.open();
    assert_eq!(read(&volume, (written - 1) * 65_536, 65_536), [9; 65_536]);
}
