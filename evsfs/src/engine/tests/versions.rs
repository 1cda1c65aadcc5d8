//! Snapshots, rollback, extension, thin volumes, anchors, damage.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::super::{Anchor, BLOCK, BaseImage, Damage, OpenError, Volume, VolumeError};
use super::{Rig, read};
use crate::format::Text;
use crate::format::layout::BLOCK_BYTES;

const MIB: u64 = 1 << 20;

fn settle(volume: &Volume) {
    for _ in 0..1000 {
        volume.checkpoint().unwrap();
        if !volume.stats().trash {
            return;
        }
    }
    panic!("trash for ever: {:?}", volume.stats());
}

fn assert_sound(volume: &Volume) {
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn f8_a_snapshot_costs_the_same_whatever_the_size_and_its_space_comes_back() {
    let rig = Rig::new(256 * MIB, 1024);
    let volume = rig.open();
    let cost = |id: u128| {
        volume.checkpoint().unwrap();
        let before = rig.memory.written.load(Ordering::Relaxed);
        volume.snapshot("s", Uuid::from_u128(id), 0).unwrap();
        rig.memory.written.load(Ordering::Relaxed) - before
    };
    volume.write(0, &vec![1; 1 << 20]).unwrap();
    let small = cost(1);
    volume.write(0, &vec![2; 48 << 20]).unwrap();
    let large = cost(2);
    assert!(large <= small + 16 * 4096, "{large} bytes against {small}");
    let used = volume.stats().used_slots;
    volume.write(0, &vec![3; 48 << 20]).unwrap();
    volume.checkpoint().unwrap();
    assert!(volume.stats().used_slots > used + 48 * 256);
    assert_sound(&volume);
    let mut bytes = vec![0; 1 << 20];
    volume.read_snapshot(Uuid::from_u128(1), 0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 1));
    volume.delete_snapshot(Uuid::from_u128(2)).unwrap();
    assert!(matches!(volume.delete_snapshot(Uuid::from_u128(2)), Err(VolumeError::NoSuchSnapshot { .. })));
    settle(&volume);
    assert!(volume.stats().used_slots <= used + 300, "{:?} after {used}", volume.stats());
    assert_sound(&volume);
    assert_eq!(read(&volume, 0, 1 << 20), vec![3; 1 << 20]);
    volume.rollback(Uuid::from_u128(1)).unwrap();
    assert_eq!(read(&volume, 0, 1 << 20), vec![1; 1 << 20]);
    assert!(read(&volume, MIB, 1 << 20).iter().all(|byte| *byte == 0));
    drop(volume);
    let volume = rig.open();
    settle(&volume);
    assert_sound(&volume);
    assert_eq!(read(&volume, 0, 1 << 20), vec![1; 1 << 20]);
    assert_eq!(volume.snapshots().len(), 1);
}

#[test]
fn d6_extension_raises_the_map_and_snapshots_stay_valid() {
    let rig = Rig::new(64 * BLOCK, 64);
    let volume = rig.open();
    volume.write(0, &[1; 64 * 4096]).unwrap();
    volume.snapshot("small", Uuid::from_u128(9), 0).unwrap();
    for size in [200 * MIB, 40 << 30, 100 << 40] {
        volume.extend(size).unwrap();
        assert_eq!(volume.size(), size);
        volume.write(size - 5000, &[2; 5000]).unwrap();
        volume.write(4096, &[3; 4096]).unwrap();
        assert_eq!(
            volume.next_data(64 * BLOCK + 8 * MIB).unwrap(),
            Some((size - 5000) / 4096 * 4096)
                .map(|at| { if size == 200 * MIB { at } else { 200 * MIB - 8192 } })
        );
    }
    assert!(matches!(volume.extend(MIB), Err(VolumeError::WouldShrink { .. })));
    assert!(matches!(volume.extend(200 << 40), Err(VolumeError::BadSize { .. })));
    assert_sound(&volume);
    // A deleted snapshot with a lower map frees only what the higher one does not share.
    volume.snapshot("high", Uuid::from_u128(10), 0).unwrap();
    volume.rollback(Uuid::from_u128(9)).unwrap();
    settle(&volume);
    assert_sound(&volume);
    volume.delete_snapshot(Uuid::from_u128(9)).unwrap();
    settle(&volume);
    assert_sound(&volume);
    assert_eq!(read(&volume, 0, 64 * 4096), [1; 64 * 4096]);
    assert!(read(&volume, (40 << 30) - 5000, 5000).iter().all(|byte| *byte == 0));
    volume.delete_snapshot(Uuid::from_u128(10)).unwrap();
    settle(&volume);
    assert_sound(&volume);
    assert_eq!(read(&volume, 0, 64 * 4096), [1; 64 * 4096]);
}

#[test]
fn i4_a_thin_volume_reads_its_base_and_hides_it_with_zeros() {
    let base = Rig::new(4 * MIB, 64);
    let volume = base.open();
    volume.write(0, &vec![7; 2 << 20]).unwrap();
    volume.close().unwrap();
    let base = Arc::new(base.open());
    let mut thin = Rig::thin(8 * MIB, base.identity().reference(Text::new("base").unwrap()));
    assert!(matches!(thin.try_open(), Err(OpenError::BaseMissing { .. })));
    thin.options.base = Some(Arc::clone(&base) as _);
    let volume = thin.open();
    assert_eq!(read(&volume, MIB, 2 << 20), [vec![7; 1 << 20], vec![0; 1 << 20]].concat());
    assert_eq!(volume.next_hole(0).unwrap(), 2 * MIB);
    volume.write(100, &[8; 50]).unwrap();
    volume.discard(MIB / 2, MIB).unwrap();
    volume.discard(6 * MIB, MIB).unwrap();
    let expect = |volume: &Volume| {
        let bytes = read(volume, 0, 2 << 20);
        assert_eq!((bytes[99], &bytes[100..150], bytes[150]), (7, [8; 50].as_slice(), 7));
        assert!(bytes[(MIB / 2) as usize..(MIB * 3 / 2) as usize].iter().all(|byte| *byte == 0));
        assert!(bytes[(MIB * 3 / 2) as usize..].iter().all(|byte| *byte == 7));
        assert_eq!(volume.next_hole(0).unwrap(), MIB / 2);
        assert_eq!(volume.next_data(MIB / 2).unwrap(), Some(MIB * 3 / 2));
    };
    expect(&volume);
    volume.close().unwrap();
    expect(&thin.open());
    // Another state of the base is another base, though it has as many commits.
    let other = Rig::new(4 * MIB, 64);
    let changed = other.open();
    while changed.anchor().commit < base.anchor().commit {
        changed.write(0, &[1; 4096]).unwrap();
        changed.flush().unwrap();
    }
    thin.options.base = Some(Arc::new(changed));
    let refused = thin.try_open();
    assert!(matches!(refused, Err(OpenError::BaseExchanged { .. })), "{:?}", refused.err());
}

#[test]
fn f3_an_older_file_and_a_forked_one_are_refused() {
    let mut rig = Rig::new(4 * MIB, 64);
    let volume = rig.open();
    volume.write(0, &[1; 4096]).unwrap();
    volume.flush().unwrap();
    let old = rig.memory.bytes.read().clone();
    volume.write(0, &[2; 4096]).unwrap();
    volume.flush().unwrap();
    let anchor = volume.offer_anchor();
    drop(volume);
    let new = rig.memory.bytes.read().clone();
    rig.options.anchor = Some(anchor);
    drop(rig.open());
    // The old file.
    *rig.memory.bytes.write() = old;
    assert!(matches!(rig.try_open(), Err(OpenError::RolledBack { found: 1, anchor: 2, .. })));
    // The old file, written to as often.
    rig.options.accept_rollback = true;
    let volume = rig.open();
    for _ in 0..3 {
        volume.write(0, &[3; 4096]).unwrap();
        volume.flush().unwrap();
    }
    drop(volume);
    rig.options.accept_rollback = false;
    assert!(matches!(rig.try_open(), Err(OpenError::Forked { anchor: 2, .. })));
    // A file that went on without the key service opens by itself, with the anchor in its log or in its superblock.
    *rig.memory.bytes.write() = new;
    let volume = rig.open();
    volume.confirm_anchor(anchor);
    for round in 0..200 {
        volume.write(u64::from(round) * BLOCK, &[round; 4096]).unwrap();
        volume.flush().unwrap();
    }
    volume.checkpoint().unwrap();
    drop(volume);
    drop(rig.open());
    rig.options.anchor = Some(Anchor { commit: anchor.commit + 1, chain: anchor.chain });
    assert!(matches!(rig.try_open(), Err(OpenError::Forked { .. })));
}

#[test]
fn d5_the_file_from_before_a_rollback_does_not_pass_for_the_one_after_it() {
    let mut rig = Rig::new(4 * MIB, 64);
    let volume = rig.open();
    volume.write(0, &[1; 4096]).unwrap();
    volume.snapshot("s", Uuid::from_u128(1), 0).unwrap();
    volume.write(0, &[2; 4096]).unwrap();
    volume.checkpoint().unwrap();
    let before = rig.memory.bytes.read().clone();
    volume.rollback(Uuid::from_u128(1)).unwrap();
    rig.options.anchor = Some(volume.offer_anchor());
    drop(volume);
    assert_eq!(read(&rig.open(), 0, 4096), [1; 4096]);
    *rig.memory.bytes.write() = before;
    assert!(matches!(rig.try_open(), Err(OpenError::RolledBack { .. })));
}

#[test]
fn f2_damage_is_an_error_is_named_by_a_check_and_does_not_spread() {
    let rig = Rig::new(64 * MIB, 1024);
    let volume = rig.open();
    volume.write(0, &vec![5; 8 << 20]).unwrap();
    volume.checkpoint().unwrap();
    drop(volume);
    // Slots in use behind the fixed ones are damaged in turn: a part of them, and the last, which is a page of the map.
    let whole = rig.memory.bytes.read().clone();
    let (mut data, mut pages) = (0, 0);
    let in_use = |slot: &usize| whole[slot * 4096..(slot + 1) * 4096].iter().any(|byte| *byte != 0);
    let slots: Vec<usize> = (16 + 1024..whole.len() / 4096).filter(in_use).collect();
    for slot in slots.iter().step_by(29).chain(slots.last()) {
        *rig.memory.bytes.write() = whole.clone();
        rig.memory.bytes.write()[slot * 4096 + 77] ^= 1;
        let Ok(volume) = rig.try_open() else { continue };
        let report = volume.check(&mut |_, _| {}).unwrap();
        for bad in &report.bad {
            assert_eq!(bad.reason, Damage::Tag);
            let mut bytes = [0; 4096];
            for block in bad.block..bad.block + bad.count.min(3) {
                assert!(volume.read(block * BLOCK_BYTES, &mut bytes).is_err());
                assert!(bytes.iter().all(|byte| *byte == 0), "no plaintext that is not authentic");
            }
            if bad.page_level.is_none() {
                data += 1;
            } else {
                pages += 1;
            }
            // (A page of level 1 is above all that was written here.)
            if bad.count < 2048 {
                assert_eq!(read(&volume, (bad.block + bad.count) % 2048 * BLOCK, 4096), [5; 4096]);
            }
            // The rest reads, new data can be written beside the damage, and the damage stays an error.
            volume.write((bad.block + 1) * BLOCK, &[6; 4096]).unwrap();
            volume.checkpoint().unwrap();
            assert_eq!(read(&volume, (bad.block + 1) * BLOCK, 4096), [6; 4096]);
            assert!(volume.read(bad.block * BLOCK, &mut bytes).is_err());
            volume.discard(bad.block * BLOCK, BLOCK).unwrap();
            volume.checkpoint().unwrap();
            assert_eq!(read(&volume, bad.block * BLOCK, 4096), [0; 4096]);
        }
        let mut bytes = [0; 4096];
        for block in 0..2048 {
            let whole =
                |bytes: &[u8]| bytes.iter().all(|byte| *byte == bytes[0]) && [0, 5, 6].contains(&bytes[0]);
            assert!(volume.read(block * BLOCK, &mut bytes).is_err() || whole(&bytes), "block {block}");
        }
    }
    assert!(data > 20 && pages > 0, "{data} blocks and {pages} pages were hit");
}

#[test]
fn f9_the_header_is_rewritten_while_the_volume_is_in_use() {
    let rig = Rig::new(4 * MIB, 64);
    let volume = rig.open();
    volume.write(0, &[1; 4096]).unwrap();
    let mut header = volume.header();
    header.cmk_version = 2;
    volume.rewrite_header(&header).unwrap();
    volume.flush().unwrap();
    drop(volume);
    let volume = rig.open();
    assert_eq!((volume.header().cmk_version, volume.header().sequence), (2, 2));
    assert_eq!(read(&volume, 0, 4096), [1; 4096]);
}

/// Whatever waits to be freed: nobody may write while a snapshot is made, so nothing of it is freed then.
#[test]
fn f8_a_snapshot_is_made_without_freeing_what_an_older_one_held() {
    let mut rig = Rig::new(256 * MIB, 1024);
    rig.options.trash_budget = 100;
    let volume = rig.open();
    for round in 0..2 {
        for leaf in 0..500 {
            volume.write(leaf * 128 * BLOCK, &[round; 4096]).unwrap();
        }
        volume.snapshot("s", Uuid::from_u128(1), 0).unwrap();
    }
    volume.checkpoint().unwrap();
    volume.delete_snapshot(Uuid::from_u128(1)).unwrap();
    drop(volume);
    let volume = rig.open();
    let opens = || volume.stats().opens;
    let before = opens();
    volume.checkpoint().unwrap();
    let of_a_checkpoint = opens() - before;
    assert!(of_a_checkpoint > 150, "{of_a_checkpoint} pages: it frees nothing");
    // First one without a pause, then the one with it.
    let before = opens();
    volume.snapshot("t", Uuid::from_u128(2), 0).unwrap();
    let of_the_snapshot = opens() - before;
    assert!(of_the_snapshot < of_a_checkpoint + 50, "{of_the_snapshot} pages against {of_a_checkpoint}");
    settle(&volume);
    assert_sound(&volume);
}
