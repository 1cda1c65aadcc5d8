//! Protections that are no syncs, each taken out of the engine in turn: a trial that the engine passes must fail without it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use evsfs::backing::Backing;
use evsfs::backing::sim::{Bound, CrashPoint, Fault, FaultPlan, PAGE, SimBacking};
use evsfs::engine::{Anchor, Protection, Volume};
use parking_lot::Mutex;

use crate::engine::{Engine, EngineSetup, create, open};
use crate::explore::{Depth, Explorer};
use crate::meddler::{Meddler, Moment};
use crate::oracle::State;
use crate::subject::Subject;
use crate::tamper::right_or_refused;
use crate::tasks;
use crate::workload::{ALL_KINDS, BLOCK, Op, Sense, bytes_of, random};

/// What is wrong, if something is.
pub(crate) type Outcome = Result<(), String>;

/// How to find out that something is missing.
struct Trial {
    run: fn(&EngineSetup) -> Outcome,
    /// What it fails without. Of two that do the same work, both are left out together.
    misses: &'static [&'static [Protection]],
}

const TRIALS: [Trial; 13] = [
    Trial { run: a_sync_fails_amid_a_checkpoint, misses: &[&[Protection::FailedSyncLasts]] },
    Trial { run: a_slot_is_used_again_while_it_is_read, misses: &[&[Protection::SecondLook]] },
    Trial { run: and_once_more, misses: &[&[Protection::LooksUntilStable]] },
    Trial { run: a_page_is_replaced_while_it_is_read, misses: &[&[Protection::SecondWalk]] },
    Trial { run: two_write_parts_of_a_block, misses: &[&[Protection::UnchangedMeanwhile]] },
    Trial {
        run: writers_go_on_while_a_superblock_is_written,
        misses: &[&[Protection::ReuseAfterCheckpoint]],
    },
    Trial {
        run: the_power_fails,
        misses: &[
            &[Protection::LastGroup],
            &[Protection::ReuseAfterCommit],
            &[Protection::SaltInLog],
            &[Protection::SaltInTable],
        ],
    },
    Trial { run: a_log_is_cut_off, misses: &[&[Protection::LeastCommit]] },
    Trial { run: copies_of_a_file_are_joined, misses: &[&[Protection::ChainLink], &[Protection::Anchor]] },
    Trial {
        run: a_page_is_lost_or_put_in_place_of_another,
        misses: &[&[Protection::SecondCopy], &[Protection::TableTag]],
    },
    Trial {
        run: tasks::a_read_fails_once_while_something_is_freed,
        misses: &[&[Protection::FreesWhenReadable]],
    },
    Trial {
        run: tasks::a_volume_is_re_encrypted,
        misses: &[
            &[Protection::Wiping],
            &[Protection::WalkOfSnapshots],
            &[Protection::WholeWalk, Protection::WalkProof],
        ],
    },
    Trial {
        run: tasks::a_thin_volume_is_flattened,
        misses: &[
            &[Protection::BothGenerations],
            &[Protection::BaseCopied],
            &[Protection::BaseCopiedInSuperblock],
            &[Protection::WholeWalk, Protection::WalkProof],
        ],
    },
];

#[test]
fn each_protection_of_the_engine_is_missed() {
    let mut missed = Vec::new();
    for trial in TRIALS {
        let setup = EngineSetup { ring_pages: 64, dirty_limit: 4_000, ..EngineSetup::small(200) };
        (trial.run)(&setup).unwrap_or_else(|found| panic!("with all protections: {found}"));
        for &omitted in trial.misses {
            let without = |omitted| EngineSetup { omitted, ..setup.clone() };
            let found = catch_unwind(AssertUnwindSafe(|| (trial.run)(&without(omitted))));
            let found = found.unwrap_or_else(|_| Err("it panicked".into()));
            let found = found.expect_err(&format!("nobody misses {omitted:?}"));
            println!("{omitted:?}: {}", found.chars().take(160).collect::<String>());
            if let [first, second] = omitted {
                for alone in [std::slice::from_ref(first), std::slice::from_ref(second)] {
                    (trial.run)(&without(alone)).unwrap_or_else(|found| {
                        panic!("without {alone:?}, which another stands for: {found}")
                    });
                }
            }
            missed.extend(omitted);
        }
    }
    for protection in Protection::ALL {
        assert!(missed.contains(&protection), "no trial for {protection:?}");
    }
}

fn put(volume: &Volume, block: u64, stamp: u64) {
    volume.write(block * BLOCK, &bytes_of(stamp, BLOCK)).unwrap();
}

fn shows(volume: &Volume, block: u64, stamp: u64) -> Outcome {
    let mut seen = vec![0; PAGE];
    volume.read(block * BLOCK, &mut seen).map_err(|e| e.to_string())?;
    let expected = if stamp == 0 { vec![0; PAGE] } else { bytes_of(stamp, BLOCK) };
    if seen == expected { Ok(()) } else { Err(format!("block {block} is not that of stamp {stamp}")) }
}

/// A volume whose blocks 0 to 40 have their numbers, and 1,000 more, as stamps. Closed.
fn written(setup: &EngineSetup) -> SimBacking {
    let file = SimBacking::new();
    create(setup, &file, 1).unwrap();
    let volume = open(setup, &file, 2).unwrap();
    (0..40).for_each(|block| put(&volume, block, 1_000 + block));
    volume.close().unwrap();
    file
}

/// Writes other blocks until every slot that was free is in use, or was.
fn use_every_slot(volume: &Volume) {
    for number in 0..volume.stats().file_slots * 2 {
        put(volume, 50 + number % 20, 10_000 + number);
        volume.flush().unwrap();
    }
}

fn a_slot_is_used_again_while_it_is_read(setup: &EngineSetup) -> Outcome {
    let (meddler, volume) = Meddler::open(setup, &written(setup), 5);
    put(&volume, 5, 100);
    volume.flush().unwrap();
    meddler.at(Moment::Read, 0, |volume| {
        put(volume, 5, 101);
        use_every_slot(volume);
    });
    let outcome = shows(&volume, 5, 101);
    assert_eq!(meddler.met(), 1);
    assert!(outcome.is_err() || volume.stats().retried_reads > 0, "its slot was not used again");
    meddler.end();
    outcome
}

fn and_once_more(setup: &EngineSetup) -> Outcome {
    let (meddler, volume) = Meddler::open(setup, &written(setup), 5);
    put(&volume, 5, 100);
    volume.flush().unwrap();
    for stamp in [101, 102] {
        meddler.at(Moment::Read, 0, move |volume| {
            put(volume, 5, stamp);
            use_every_slot(volume);
        });
    }
    let outcome = shows(&volume, 5, 102);
    assert_eq!(meddler.met(), 2);
    meddler.end();
    outcome
}

fn a_page_is_replaced_while_it_is_read(setup: &EngineSetup) -> Outcome {
    let (meddler, volume) = Meddler::open(setup, &written(setup), 5);
    meddler.at(Moment::Read, 0, |volume| {
        for round in 0..volume.stats().file_slots {
            put(volume, 50, 10_000 + round);
            put(volume, 51, 20_000 + round);
            volume.checkpoint().unwrap();
        }
    });
    let outcome = shows(&volume, 5, 1_005);
    assert_eq!(meddler.met(), 1);
    meddler.end();
    outcome
}

fn two_write_parts_of_a_block(setup: &EngineSetup) -> Outcome {
    let (meddler, volume) = Meddler::open(setup, &written(setup), 5);
    meddler.at(Moment::Read, 0, |volume| volume.write(5 * BLOCK + 2_000, &[2; 100]).unwrap());
    volume.write(5 * BLOCK + 10, &[1; 100]).map_err(|e| e.to_string())?;
    assert_eq!(meddler.met(), 1);
    meddler.end();
    let mut expected = bytes_of(1_005, BLOCK);
    expected[10..110].fill(1);
    expected[2_000..2_100].fill(2);
    let mut seen = vec![0; PAGE];
    volume.read(5 * BLOCK, &mut seen).map_err(|e| e.to_string())?;
    if seen == expected { Ok(()) } else { Err("one of two writes is lost".into()) }
}

fn writers_go_on_while_a_superblock_is_written(setup: &EngineSetup) -> Outcome {
    let file = written(setup);
    let (meddler, volume) = Meddler::open(setup, &file, 5);
    (0..10).for_each(|block| put(&volume, block, 2_000 + block));
    volume.flush().unwrap();
    // The first barrier is that of data and pages, the second that of the superblock.
    let taken: Arc<Mutex<Option<CrashPoint>>> = Arc::default();
    let take = Arc::clone(&taken);
    meddler.at(Moment::Sync, 1, move |volume| {
        for number in 0..volume.stats().file_slots + 100 {
            put(volume, 60 + number % 20, 9_000 + number);
        }
        *take.lock() = Some(file.crash_point());
    });
    volume.checkpoint().unwrap();
    meddler.end();
    let point = taken.lock().take().expect("the checkpoint has two barriers");
    for survivors in point.states(&Bound { exhaustive: 0, random: 100, torn: 1 }, 1) {
        let volume = open(setup, &SimBacking::from_image(point.image(&survivors)), 7)?;
        for block in 0..40 {
            shows(&volume, block, if block < 10 { 2_000 } else { 1_000 } + block)?;
        }
        shows(&volume, 60, 0)?;
    }
    Ok(())
}

/// What a checkpoint has written, and has not asked for yet, is lost by a flush that fails. Nothing may refer to it.
fn a_sync_fails_amid_a_checkpoint(setup: &EngineSetup) -> Outcome {
    let file = written(setup);
    let (meddler, volume) = Meddler::open(setup, &file, 5);
    (0..10).for_each(|block| put(&volume, block, 2_000 + block));
    volume.flush().unwrap();
    let failing = file.clone();
    // The pages of the map are written first.
    meddler.at(Moment::Write, 1, move |volume| {
        put(volume, 45, 3_000);
        let call = failing.calls().total();
        failing.plan_fault(Some(FaultPlan { call, fault: Fault::Sync, lasting: false }));
        volume.flush().unwrap_err();
    });
    let checkpointed = volume.checkpoint();
    assert_eq!((meddler.met(), file.faults_met()), (1, 1));
    meddler.end();
    let point = file.crash_point();
    for survivors in point.states(&Bound { exhaustive: 0, random: 100, torn: 1 }, 1) {
        let volume = open(setup, &SimBacking::from_image(point.image(&survivors)), 7)?;
        for block in 0..40 {
            shows(&volume, block, if block < 10 { 2_000 } else { 1_000 } + block)?;
        }
    }
    if checkpointed.is_ok() { Err("a checkpoint succeeded after a sync that failed".into()) } else { Ok(()) }
}

fn the_power_fails(setup: &EngineSetup) -> Outcome {
    let before = [Op::Write { offset: 0, len: 6 * BLOCK, stamp: 1 }, Op::Snapshot(0)];
    let write = |block: u64, stamp| Op::Write { offset: block * BLOCK, len: BLOCK, stamp };
    // Nothing is sealed in this attach before the tables are written.
    let deleting = vec![Op::DeleteSnapshot(0), write(2, 2), Op::Flush];
    // A slot is replaced, and is taken again when there is no other one in the file.
    let mut replacing = vec![write(5, 3), Op::Flush, write(5, 4)];
    replacing.extend((0..300).map(|number| write(10 + number % 30, 100 + number)));
    replacing.push(Op::Flush);
    let bound = Bound { exhaustive: 32, random: 8, torn: 0 };
    let mut depth = Depth { bound, full_every: 1, again_every: 1 << 20, again_bound: bound };
    let small = EngineSetup { omitted: setup.omitted, ..EngineSetup::small(64) };
    for (setup, mut workloads) in [(setup, vec![deleting]), (setup, vec![replacing]), (&small, Vec::new())] {
        let explorer = Explorer::<Engine>::new(setup, depth);
        let start = explorer.start(&before)?;
        if workloads.is_empty() {
            workloads.extend((0..8).map(|seed| random(ALL_KINDS, 12, 12, &Sense::of(&start.state), seed)));
        }
        explorer.run_all(&start, &workloads).map_err(|violation| violation.to_string())?;
        depth.full_every = 64;
    }
    Ok(())
}

/// After a compaction the map is older than the state that the superblock names: the log holds the rest.
fn a_log_is_cut_off(setup: &EngineSetup) -> Outcome {
    let file = written(setup);
    let volume = open(setup, &file, 5).unwrap();
    let mut last = 0;
    while volume.stats().compactions == 0 {
        last += 1;
        assert!(last < 200, "the log was never compacted");
        put(&volume, 5, last);
        volume.flush().unwrap();
    }
    drop(volume);
    for page in 0..setup.ring_pages {
        let cut = SimBacking::from_image(file.image());
        cut.write_at(&[0; PAGE], (16 + page) * BLOCK).unwrap();
        if let Ok(volume) = open(setup, &cut, 6) {
            shows(&volume, 5, last)?;
        }
    }
    Ok(())
}

/// Two copies of a file are written to, and an attacker makes one file of them, in all possible ways. What it shows is the state of one of
/// them at some commit, and none from before the anchor.
fn copies_of_a_file_are_joined(setup: &EngineSetup) -> Outcome {
    let file = written(setup);
    let old = file.image();
    let volume = open(setup, &file, 5).unwrap();
    put(&volume, 7, 3_000);
    let anchor = volume.close().unwrap();
    let mut state = State::new(setup.blocks * BLOCK);
    let write = |block: u64, stamp| Op::Write { offset: block * BLOCK, len: BLOCK, stamp };
    (0..40).for_each(|block| state.apply(&write(block, 1_000 + block)));
    state.apply(&write(7, 3_000));
    let mut allowed = vec![state.clone()];
    // The one process writes all that it writes; of the other the process dies after each group.
    let copies = [(11, false), (12, true)].map(|(seed, dies)| {
        let copy = SimBacking::from_image(file.image());
        let mut volume = open(setup, &copy, seed).unwrap();
        let mut state = state.clone();
        for group in 0..3 {
            if dies {
                drop(volume);
                volume = open(setup, &copy, seed * 10 + group).unwrap();
            }
            put(&volume, group, seed * 1_000 + group);
            volume.flush().unwrap();
            state.apply(&write(group, seed * 1_000 + group));
            allowed.push(state.clone());
        }
        copy.image()
    });
    let [left, right] = copies;
    let differ =
        |&slot: &u64| left.page(slot).map(|page| *page.bytes()) != right.page(slot).map(|page| *page.bytes());
    let slots: Vec<u64> = (0..left.pages().max(right.pages())).filter(differ).collect();
    assert!((6..12).contains(&slots.len()), "{slots:?}");
    let known = |anchor: Anchor| EngineSetup { anchor: Some(anchor), ..setup.clone() };
    let files = (0..1_u32 << slots.len()).map(|choice| {
        let mut image = left.clone();
        for (_, &slot) in slots.iter().enumerate().filter(|(bit, _)| choice >> bit & 1 == 1) {
            image.put(slot, right.page(slot));
        }
        image
    });
    for image in files.chain([old]) {
        let Ok(engine) = Engine::open(&known(anchor), &SimBacking::from_image(image), 9) else { continue };
        if !allowed.iter().any(|state| right_or_refused(&engine, state, "joined").is_ok()) {
            return Err("it shows what neither copy ever held after the anchor".into());
        }
    }
    Ok(())
}

fn a_page_is_lost_or_put_in_place_of_another(setup: &EngineSetup) -> Outcome {
    let file = written(setup);
    let mut engine = Engine::open(setup, &file, 5)?;
    for op in [Op::Snapshot(0), Op::Snapshot(1), Op::DeleteSnapshot(0)] {
        engine.apply(&op)?;
    }
    let shown = engine.snapshots();
    // The newest superblock alone knows of the deletion.
    let anchor = engine.0.anchor();
    drop(engine);
    let setup = EngineSetup { anchor: Some(anchor), ..setup.clone() };
    // Of header and superblock each copy is enough.
    for slot in [0, 8, 1, 9, 2, 10] {
        let damaged = SimBacking::from_image(file.image());
        damaged.write_at(&[0xDA; PAGE], slot * BLOCK).unwrap();
        let volume = open(&setup, &damaged, 6).map_err(|e| format!("without slot {slot}: {e}"))?;
        shows(&volume, 5, 1_005)?;
    }
    // No table passes for a later one.
    let image = file.image();
    let used: Vec<u64> = (16 + setup.ring_pages..image.pages())
        .filter(|&slot| image.page(slot).is_some_and(|page| page.bytes().iter().any(|&byte| byte != 0)))
        .collect();
    for &from in &used {
        for &to in &used {
            let mut image = image.clone();
            image.put(to, image.page(from));
            let Ok(engine) = Engine::open(&setup, &SimBacking::from_image(image), 8) else { continue };
            if engine.snapshots() != shown {
                return Err(format!("with slot {from} in {to} it has {:?}", engine.snapshots()));
            }
        }
    }
    Ok(())
}
