//! The lock protocol of the engine in many orders of its threads (D10, F2). Every schedule runs the engine's own code.
// A test ends where something is not as it should be, and its sizes are small.
#![allow(clippy::unwrap_used)]

mod rig;

use std::sync::Arc;

use evsfs_schedules::engine::{BLOCK, Protection, Step, Volume};
use evsfs_schedules::{Call, Memory};
use rig::{Rig, Under, fill, must_fail, read_one, reopened, schedules, version_of};
use shuttle::thread;
use uuid::Uuid;

/// Versions that are written where slots are few.
const LAST: u64 = 24;

/// Slots are used again all the time: the host is full, and but a few are free. Readers see each block whole, and no block goes
/// back to an older version.
fn readers_among_reuse() {
    let rig = Rig::crowded();
    let volume = rig.open();
    let writer = thread::spawn({
        let volume = Arc::clone(&volume);
        move || {
            // More versions than there are free slots: those of the first ones are used again.
            for version in 2..=LAST {
                volume.write(0, &fill(0, version)).unwrap();
                volume.flush().unwrap();
            }
        }
    });
    let checkpointer = thread::spawn({
        let volume = Arc::clone(&volume);
        move || volume.checkpoint().unwrap()
    });
    let mut seen = 1;
    for _ in 0..6 {
        let now = read_one(&volume, 0);
        assert!(now >= seen, "back from version {seen} to {now}");
        seen = now;
    }
    writer.join().unwrap();
    checkpointer.join().unwrap();
    assert_eq!(read_one(&volume, 0), LAST);
}

#[test]
fn f2_readers_see_whole_blocks_while_slots_are_used_again() {
    schedules(None, readers_among_reuse);
}

#[test]
fn f2_without_the_second_look_up_a_reader_calls_a_sound_block_damaged() {
    must_fail(Protection::SecondLook, "DamagedBlock", readers_among_reuse);
}

/// Only pages of the map are moved and used again while a reader walks it with a cold cache.
fn walkers_among_checkpoints() {
    let rig = Rig::crowded();
    let volume = rig.open();
    let changer = thread::spawn({
        let volume = Arc::clone(&volume);
        move || {
            for version in 2..=LAST {
                volume.write(BLOCK, &fill(1, version)).unwrap();
                volume.checkpoint().unwrap();
            }
        }
    });
    assert_eq!(read_one(&volume, 0), 1);
    changer.join().unwrap();
    assert_eq!(read_one(&volume, 1), LAST);
}

#[test]
fn f2_a_reader_on_its_way_through_the_map_survives_checkpoints() {
    schedules(None, walkers_among_checkpoints);
}

#[test]
fn f2_without_the_second_walk_a_reader_calls_a_sound_page_damaged() {
    must_fail(Protection::SecondWalk, "DamagedPage", walkers_among_checkpoints);
}

/// What was read once is never unread: the block is written, and moves from the dirty map into the map.
fn a_reader_across_the_publication() {
    let rig = Rig::roomy();
    let volume = rig.open();
    volume.write(0, &fill(0, 2)).unwrap();
    let checkpointer = thread::spawn({
        let volume = Arc::clone(&volume);
        move || volume.checkpoint().unwrap()
    });
    for _ in 0..4 {
        assert_eq!(read_one(&volume, 0), 2, "an old version came back");
    }
    checkpointer.join().unwrap();
}

#[test]
fn d10_a_checkpoint_never_shows_an_older_block() {
    schedules(None, a_reader_across_the_publication);
}

#[test]
fn d10_entries_that_go_before_the_root_is_there_are_missed() {
    must_fail(Protection::RootBeforeEntriesGo, "an old version came back", a_reader_across_the_publication);
}

/// Data that moves from the dirty map into the map is found all the while.
fn a_search_across_the_publication() {
    let rig = Rig::roomy();
    let volume = rig.open();
    volume.write(300 * BLOCK, &fill(300, 2)).unwrap();
    let checkpointer = thread::spawn({
        let volume = Arc::clone(&volume);
        move || volume.checkpoint().unwrap()
    });
    for _ in 0..3 {
        assert_eq!(volume.next_data(257 * BLOCK).unwrap(), Some(300 * BLOCK), "data was passed over");
    }
    checkpointer.join().unwrap();
}

#[test]
fn f7_a_search_for_data_misses_none_that_a_checkpoint_moves() {
    schedules(None, a_search_across_the_publication);
}

#[test]
fn f7_a_search_that_looks_at_the_map_first_passes_over_data() {
    must_fail(Protection::DirtyBeforeMap, "data was passed over", a_search_across_the_publication);
}

/// Two flush at once what one of them has to make durable; that sync fails, and none before it succeeds.
fn flushes_beside_one_that_fails() {
    let rig = Rig::roomy();
    let volume = rig.open();
    volume.write(0, &fill(0, 2)).unwrap();
    rig.memory.fail_next_sync();
    let other = thread::spawn({
        let volume = Arc::clone(&volume);
        move || volume.flush().is_ok()
    });
    let third = thread::spawn({
        let volume = Arc::clone(&volume);
        move || volume.write(BLOCK, &fill(1, 2)).and_then(|()| volume.flush()).is_ok()
    });
    let one = volume.flush().is_ok();
    let flushed = [one, other.join().unwrap(), third.join().unwrap()];
    assert_eq!(flushed, [false; 3], "a flush succeeded after one that failed");
}

#[test]
fn f11_no_flush_succeeds_beside_one_that_fails() {
    schedules(None, flushes_beside_one_that_fails);
}

#[test]
fn f11_without_remembering_it_a_flush_succeeds_after_one_that_failed() {
    must_fail(
        Protection::FailedSyncLasts,
        "a flush succeeded after one that failed",
        flushes_beside_one_that_fails,
    );
}

/// A block moves from the base into the volume, and the base goes, while readers look it up; another is written in part meanwhile.
fn readers_while_the_base_goes() {
    let volume = Rig::thin();
    volume.start_flatten(None).unwrap();
    let flattener = thread::spawn({
        let volume = Arc::clone(&volume);
        move || while volume.task_step(1000).unwrap() != Step::Finished {}
    });
    let writer = thread::spawn({
        let volume = Arc::clone(&volume);
        move || volume.write(5 * BLOCK, &fill(5, 2)[..2048]).unwrap()
    });
    for _ in 0..4 {
        assert_eq!(read_one(&volume, 3), Under::VERSION);
    }
    flattener.join().unwrap();
    writer.join().unwrap();
    let halves = rig::read(&volume, 5);
    assert!(halves[..2048] == fill(5, 2)[..2048] && halves[2048..] == fill(5, Under::VERSION)[2048..]);
}

#[test]
fn d10_a_base_that_goes_is_not_missed() {
    schedules(None, readers_while_the_base_goes);
}

#[test]
fn d10_without_the_base_before_the_look_up_a_reader_finds_nothing() {
    must_fail(Protection::BaseBeforeLookUp, "block 3 is a mixture", readers_while_the_base_goes);
}

/// Two writers of parts of one block, and a checkpoint amid them: no part is lost.
fn writers_of_parts() {
    let rig = Rig::roomy();
    let volume = rig.open();
    let writers: Vec<_> = [(100, 7_u8), (3000, 9)]
        .map(|(within, byte)| {
            let volume = Arc::clone(&volume);
            thread::spawn(move || volume.write(BLOCK + within, &[byte; 50]).unwrap())
        })
        .into();
    let checkpointer = thread::spawn({
        let volume = Arc::clone(&volume);
        move || volume.checkpoint().unwrap()
    });
    writers.into_iter().chain([checkpointer]).for_each(|thread| thread.join().unwrap());
    let mut expected = fill(1, 1);
    expected[100..150].fill(7);
    expected[3000..3050].fill(9);
    let mut found = vec![0; expected.len()];
    volume.read(BLOCK, &mut found).unwrap();
    assert!(found == expected, "a part was lost");
}

#[test]
fn d10_parts_of_a_block_written_at_once_are_all_there() {
    schedules(None, writers_of_parts);
}

#[test]
fn d10_without_comparing_before_insertion_a_part_is_lost() {
    must_fail(Protection::UnchangedMeanwhile, "a part was lost", writers_of_parts);
}

/// Overlapping writers with flush and checkpoint: each block is one writer's, and after the death of the process it is the same one's.
fn overlapping_writers() {
    let rig = Rig::roomy();
    let volume = rig.open();
    let writers: Vec<_> = [2, 3]
        .map(|version| {
            let volume = Arc::clone(&volume);
            let both = [fill(2, version), fill(3, version)].concat();
            thread::spawn(move || volume.write(2 * BLOCK, &both).unwrap())
        })
        .into();
    writers.into_iter().for_each(|thread| thread.join().unwrap());
    volume.flush().unwrap();
    let seen = [2, 3].map(|block| read_one(&volume, block));
    assert!(seen.iter().all(|version| [2, 3].contains(version)), "{seen:?}");
    drop(volume);
    let again = reopened(&rig);
    assert_eq!([2, 3].map(|block| read_one(&again, block)), seen, "another write won in the log");
}

#[test]
fn d10_overlapping_writes_are_whole_in_each_block_and_the_same_after_a_kill() {
    schedules(None, overlapping_writers);
}

#[test]
fn d10_if_map_and_log_take_writes_in_different_orders_a_kill_shows_it() {
    must_fail(Protection::MapAndLogTogether, "another write won in the log", overlapping_writers);
}

/// A cut falls into the midst of a write: what the bitmaps of the checkpoint call used is what is referred to.
fn a_cut_amid_writes() {
    let rig = Rig::roomy();
    let volume = rig.open();
    volume.write(BLOCK, &fill(1, 2)).unwrap();
    let writer = thread::spawn({
        let volume = Arc::clone(&volume);
        move || volume.write(0, &fill(0, 2)).unwrap()
    });
    volume.checkpoint().unwrap();
    // The process dies when the checkpoint is durable.
    let then = rig.memory.bytes();
    writer.join().unwrap();
    drop(volume);
    let volume = Rig::over(Memory::new(then, false)).open();
    assert!([1, 2].contains(&read_one(&volume, 0)));
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "not sound: {report:?}");
}

#[test]
fn f7_a_cut_amid_writes_loses_no_space() {
    schedules(None, a_cut_amid_writes);
}

/// The same with writers who give back the slots that they took, since the block has changed under them.
fn a_cut_amid_writes_of_parts() {
    let rig = Rig::crowded();
    let volume = rig.open();
    let writers = [8, 16].map(|within| {
        let volume = Arc::clone(&volume);
        thread::spawn(move || volume.write(within, &2u64.to_le_bytes()).unwrap())
    });
    volume.checkpoint().unwrap();
    // More versions than there are free slots: what was given back is among those that are taken.
    for version in 2..=LAST {
        volume.write(BLOCK, &fill(1, version)).unwrap();
        volume.flush().unwrap();
        volume.checkpoint().unwrap();
        let volume = reopened(&rig);
        assert_eq!(read_one(&volume, 1), version);
        let report = volume.check(&mut |_, _| {}).unwrap();
        assert!(report.is_sound(), "not sound: {report:?}");
    }
    for writer in writers {
        writer.join().unwrap();
    }
}

#[test]
fn f2_slots_that_were_given_back_are_whose_they_are_at_a_cut() {
    schedules(None, a_cut_amid_writes_of_parts);
}

#[test]
fn f7_a_cut_with_what_is_in_flight_counts_slots_that_nobody_refers_to() {
    must_fail(Protection::CutWithoutFlights, "not sound", a_cut_amid_writes);
}

#[test]
fn f2_slots_that_land_after_their_entries_are_free_in_a_cut_between() {
    must_fail(Protection::LandingWithEntries, "not sound", a_cut_amid_writes);
}

type OnVolume = fn(&Volume);

/// One thread is held up in a call to the file; all others go on, or the schedule would end in a deadlock.
fn nobody_waits(call: Call, held_up: OnVolume, others: OnVolume) {
    let rig = Rig::roomy();
    let volume = rig.open();
    volume.write(4 * BLOCK, &fill(4, 2)).unwrap();
    volume.flush().unwrap();
    let one = thread::spawn({
        let (volume, memory) = (Arc::clone(&volume), Arc::clone(&rig.memory));
        move || {
            memory.hold_up(call);
            held_up(&volume);
        }
    });
    rig.memory.wait_until_held_up();
    assert_eq!(version_of(0, &rig::read(&volume, 0)), 1, "the block itself is read as it was");
    assert_eq!(read_one(&volume, 1), 1);
    volume.write(BLOCK, &fill(1, 2)).unwrap();
    assert_eq!(read_one(&volume, 1), 2);
    volume.write(2 * BLOCK + 5, &[0; 5]).unwrap();
    others(&volume);
    rig.memory.let_go();
    one.join().unwrap();
}

#[test]
fn d10_nobody_waits_for_a_writer_of_another_block() {
    schedules(None, || {
        nobody_waits(
            Call::Write,
            |volume| volume.write(0, &fill(0, 2)).unwrap(),
            |volume| {
                volume.flush().unwrap();
                volume.checkpoint().unwrap();
                // A range, which hides entries.
                volume.discard(8 * BLOCK, 1000 * BLOCK).unwrap();
                volume.snapshot("now", Uuid::from_u128(9), 0).unwrap();
            },
        );
    });
}

#[test]
fn d10_nobody_waits_for_a_reader() {
    schedules(None, || {
        nobody_waits(
            Call::Read,
            |volume| drop(rig::read(volume, 0)),
            |volume| {
                volume.flush().unwrap();
                volume.checkpoint().unwrap();
            },
        );
    });
}

#[test]
fn d10_nobody_who_reads_or_writes_waits_for_a_flush() {
    schedules(None, || {
        nobody_waits(
            Call::Sync,
            |volume| {
                volume.write(3 * BLOCK, &fill(3, 2)).unwrap();
                volume.flush().unwrap();
            },
            |_| {},
        );
    });
}

/// Neither while it writes its pages nor at its barriers. What is flushed by others is durable before it is.
#[test]
fn d10_nobody_waits_for_a_checkpoint() {
    for call in [Call::Write, Call::Sync] {
        schedules(None, move || {
            let flush = |volume: &Volume| volume.flush().unwrap();
            nobody_waits(call, |volume| volume.checkpoint().unwrap(), flush);
        });
    }
}
