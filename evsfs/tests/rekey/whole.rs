//! Re-encryption from beginning to end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use evsfs::backing::sim::{Dice, Image, SimBacking};
use evsfs::crypto::witness::SealWitness;
use evsfs::engine::{OpenOptions, Step, VolumeError};

use crate::volume::{
    BLOCK, begin, contents, create, discard, finish, holds, keys, open, options, slots, try_open, unlock,
    with_past, wrapped, write,
};

/// Contents and snapshots are as they were, they share what they shared, and of what was sealed under the old key no slot is left anywhere in
/// the file: not in free space, not in the log ring, not in the other place of a page. No (key, nonce) pair was used twice on the way (F1).
#[test]
fn f9_everything_is_sealed_anew_and_nothing_of_the_old_key_is_left() {
    for (blocks, step) in [(40, 1), (700, 1), (700, 50), (20_000, 10_000)] {
        // Volumes of equal randomness are not of one world.
        let witness = SealWitness::new();
        let present = witness.attend();
        let (file, known, snapshots) = with_past(blocks, 3);
        let before = slots(&file);
        let volume = open(&file, 4);
        let used = volume.stats().used_slots;
        begin(&volume, 2);
        assert!(holds(&file, &wrapped(1, 1)) && holds(&file, &wrapped(2, 1)));
        finish(&volume, step);
        assert!(
            volume.stats().used_slots <= used + 4,
            "snapshots share less: {} of {used}",
            volume.stats().used_slots
        );
        assert_eq!(contents(&volume, None, blocks).unwrap(), known);
        volume.close().unwrap();

        assert!(!holds(&file, &wrapped(1, 1)), "the old wrapped key is in the file");
        let left = slots(&file).intersection(&before).count();
        assert_eq!(left, 0, "slots that the old key opens are left, of {}", before.len());
        let volume = open(&file, 5);
        assert!(volume.has_key(&evsfs::crypto::Dek::new(&[2; 32])));
        assert_eq!(contents(&volume, None, blocks).unwrap(), known);
        for (id, known) in &snapshots {
            assert_eq!(&contents(&volume, Some(*id), blocks).unwrap(), known);
        }
        let report = volume.check(&mut |_, _| {}).unwrap();
        assert!(report.is_sound(), "{report:?}");
        // The snapshots can be gone back to and deleted as ever.
        let (id, then) = &snapshots[0];
        volume.rollback(*id).unwrap();
        assert_eq!(&contents(&volume, None, blocks).unwrap(), then);
        for (id, _) in &snapshots {
            volume.delete_snapshot(*id).unwrap();
        }
        while volume.stats().trash {
            volume.checkpoint().unwrap();
        }
        assert!(volume.check(&mut |_, _| {}).unwrap().is_sound());
        drop(present);
        assert_eq!(witness.repeats(), 0);
        assert!(witness.pairs() > blocks.min(400), "{}", witness.pairs());
    }
}

/// While it runs: writes, discards, snapshots, rollback, growth, a re-wrap, detaching and killing. It goes on where it was.
#[test]
fn f9_it_goes_on_through_changes_detaching_and_killing() {
    for seed in 0..12 {
        let blocks = 900;
        let (file, mut known, mut snapshots) = with_past(blocks, seed);
        let before = slots(&file);
        let mut dice = Dice::new(seed);
        let mut volume = open(&file, 100);
        begin(&volume, 2);
        let (mut size, mut next, mut byte) = (blocks, 100_u128, 10_u8);
        let mut finished = false;
        for round in 0..60 {
            byte += 1;
            match dice.below(9) {
                0 | 1 => write(&volume, &mut known, dice.index(size - 20), 1 + dice.index(20), byte),
                2 => {
                    let block = dice.index(size - 20);
                    discard(&volume, &mut known, block, 1 + dice.index(20));
                }
                3 if snapshots.len() < 6 => {
                    next += 1;
                    let id = uuid::Uuid::from_u128(next);
                    volume.snapshot("s", id, 0).unwrap();
                    snapshots.push((id, known.clone()));
                }
                4 if snapshots.len() > 2 => {
                    let (id, _) = snapshots.remove(dice.index(snapshots.len()));
                    volume.delete_snapshot(id).unwrap();
                }
                5 => {
                    let (id, then) = snapshots[dice.index(snapshots.len())].clone();
                    volume.rollback(id).unwrap();
                    known = then;
                    known.resize(size, 0);
                }
                6 if size < 40_000 => {
                    size += if dice.below(4) == 0 { 16_000 } else { 128 };
                    volume.extend(u64::try_from(size * BLOCK).unwrap()).unwrap();
                    known.resize(size, 0);
                }
                7 => {
                    if dice.below(2) == 0 {
                        volume.close().unwrap();
                    } else {
                        volume.flush().unwrap();
                        drop(volume);
                    }
                    volume = open(&file, 200 + round);
                }
                _ => {
                    let header = volume.header();
                    let wrapped_dek = wrapped(header.wrapped_dek.as_bytes()[0], byte);
                    volume.rewrite_header(&evsfs::format::Header { wrapped_dek, ..header }).unwrap();
                }
            }
            for _ in 0..dice.below(3) {
                finished |= volume.task_step(1 + dice.below(200)).unwrap() == Step::Finished;
            }
            let block = dice.index(size);
            let mut data = [0; BLOCK];
            volume.read(u64::try_from(block * BLOCK).unwrap(), &mut data).unwrap();
            assert_eq!(data, [known[block]; BLOCK], "block {block} in round {round} of seed {seed}");
        }
        if !finished {
            finish(&volume, 64);
        }
        volume.close().unwrap();
        assert_eq!(slots(&file).intersection(&before).count(), 0, "seed {seed}");
        let volume = open(&file, 999);
        assert_eq!(contents(&volume, None, size).unwrap(), known, "seed {seed}");
        for (id, known) in &snapshots {
            assert_eq!(&contents(&volume, Some(*id), known.len()).unwrap(), known, "seed {seed}");
        }
        let report = volume.check(&mut |_, _| {}).unwrap();
        assert!(report.is_sound(), "seed {seed}: {report:?}");
    }
}

/// The background thread at work under those who read and write all the time; and the next re-encryption after this one.
#[test]
fn f9_readers_and_writers_go_on_while_it_runs() {
    let blocks = 3_000_usize;
    let (file, _, _) = with_past(blocks, 7);
    let before = slots(&file);
    let background = || OpenOptions { background: true, dirty_limit: Some(200), ..options() };
    let volume = try_open(&file, 8, background()).unwrap();
    for (dek, round) in [(2_u8, 1_u8), (3, 2)] {
        begin(&volume, dek);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..2_usize {
                let (volume, done) = (&volume, &done);
                scope.spawn(move || {
                    // Each has blocks of its own, and knows what it wrote.
                    let mut dice = Dice::new(u64::from(round) * 10 + u64::try_from(writer).unwrap());
                    let mut mine = vec![None; blocks / 2];
                    let mut data = [0; BLOCK];
                    while !done.load(Ordering::Relaxed) {
                        let place = dice.index(mine.len());
                        let offset = u64::try_from((place * 2 + writer) * BLOCK).unwrap();
                        if dice.below(3) == 0 {
                            let byte = u8::try_from(dice.below(250)).unwrap() + 1;
                            volume.write(offset, &[byte; BLOCK]).unwrap();
                            mine[place] = Some(byte);
                        } else {
                            volume.read(offset, &mut data).unwrap();
                            let first = data[0];
                            assert!(data.iter().all(|byte| *byte == first));
                            assert!(
                                mine[place].is_none_or(|byte| byte == first),
                                "block {place} lost its write"
                            );
                        }
                        if dice.below(200) == 0 {
                            volume.flush().unwrap();
                        }
                    }
                });
            }
            let deadline = Instant::now() + Duration::from_secs(60);
            while volume.reencryption().is_some() {
                assert!(Instant::now() < deadline, "{:?}", volume.reencryption());
                std::thread::yield_now();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(volume.has_key(&evsfs::crypto::Dek::new(&[dek; 32])));
    }
    volume.close().unwrap();
    assert_eq!(slots(&file).intersection(&before).count(), 0);
    assert!(!holds(&file, &wrapped(1, 1)) && !holds(&file, &wrapped(2, 1)));
    assert!(open(&file, 9).check(&mut |_, _| {}).unwrap().is_sound());
}

/// A rate makes it wait, and is kept over attaches; a second one is refused while one runs; `Finished` is said when there is none.
#[test]
fn f9_a_rate_is_kept_and_only_one_runs() {
    let (file, known, _) = with_past(700, 5);
    let volume = open(&file, 6);
    assert_eq!((volume.reencryption(), volume.task_step(10).unwrap()), (None, Step::Finished));
    volume.start_reencryption(keys(2), wrapped(2, 1), 1 << 20).unwrap();
    let again = volume.start_reencryption(keys(3), wrapped(3, 1), 0).unwrap_err();
    assert!(matches!(again, VolumeError::Reencrypting { .. }), "{again}");
    let (step, pause) = volume.task_paced().unwrap();
    let Step::Went { bytes } = step else { panic!("{step:?}") };
    assert!(bytes > 0 && bytes <= 256 * 4096, "{bytes} in a quarter of a second");
    assert!(
        pause > Duration::from_micros(bytes / 2) && pause <= Duration::from_micros(bytes),
        "{pause:?} for {bytes}"
    );
    let position = volume.reencryption().unwrap().position;
    assert!(position > 0 && position < 700 * 4096);
    volume.close().unwrap();
    let volume = open(&file, 7);
    let status = volume.reencryption().unwrap();
    assert_eq!((status.rate, status.position, status.phase), (1 << 20, position, "blocks"));
    volume.set_task_rate(0);
    assert_eq!(volume.task_paced().unwrap().1, Duration::ZERO);
    finish(&volume, 100);
    assert_eq!(contents(&volume, None, 700).unwrap(), known);
}

/// A block that does not verify stops it, and nothing is given up: the old key stays until the block was overwritten.
#[test]
fn f9_a_damaged_block_stops_it_until_it_is_overwritten() {
    let file = create(300, 1);
    let mut known = vec![0; 300];
    let volume = open(&file, 1);
    write(&volume, &mut known, 0, 200, 5);
    volume.close().unwrap();
    // Of all slots only one with data is changed: the first that makes a read fail.
    let mut image = file.image().to_bytes();
    let blocks = image.len() / BLOCK;
    let damaged = (16 + 8 + 2..blocks).find(|slot| {
        let mut copy = image.clone();
        copy[slot * BLOCK + 9] ^= 1;
        let copy = SimBacking::from_image(Image::from_bytes(&copy));
        let Ok(volume) = try_open(&copy, 2, options()) else { return false };
        volume
            .check(&mut |_, _| {})
            .is_ok_and(|report| report.bad_count == 1 && report.bad[0].page_level.is_none())
    });
    image[damaged.unwrap() * BLOCK + 9] ^= 1;
    let file = SimBacking::from_image(Image::from_bytes(&image));
    let volume = open(&file, 3);
    let bad = volume.check(&mut |_, _| {}).unwrap().bad[0].block;
    begin(&volume, 2);
    for _ in 0..3 {
        let stopped = volume.task_step(1_000).unwrap_err();
        assert!(matches!(stopped, VolumeError::DamagedBlock { block, .. } if block == bad), "{stopped}");
    }
    assert!(holds(&file, &wrapped(1, 1)) && volume.reencryption().is_some());
    // The rest can be read and written.
    write(&volume, &mut known, 250, 3, 6);
    volume.flush().unwrap();
    let damaged = usize::try_from(bad).unwrap();
    write(&volume, &mut known, damaged, 1, 7);
    finish(&volume, 50);
    assert_eq!(contents(&volume, None, 300).unwrap(), known);
    volume.close().unwrap();
    assert!(!holds(&file, &wrapped(1, 1)) && unlock(&file).is_ok());
    assert!(open(&file, 4).check(&mut |_, _| {}).unwrap().is_sound());
}
