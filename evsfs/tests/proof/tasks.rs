//! Re-encryption and flatten from beginning to end: what is there afterwards, and what is not; and what is freed when a read fails once.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use evsfs::backing::sim::{Dice, Fault, FaultPlan, Image, PAGE, SimBacking};
use evsfs::engine::Step;

use crate::engine::{Base, Engine, EngineSetup, begin_reencryption, open};
use crate::oracle::State;
use crate::protections::Outcome;
use crate::subject::Subject;
use crate::tamper::right_or_refused;
use crate::workload::{BLOCK, Op, bytes_of};

fn write(block: u64, count: u64, stamp: u64) -> Op {
    Op::Write { offset: block * BLOCK, len: count * BLOCK, stamp }
}

/// Carries out `ops`, and notes what they do.
fn apply(engine: &mut Engine, state: &mut State, ops: &[Op]) -> Outcome {
    for op in ops {
        engine.apply(op)?;
        state.apply(op);
    }
    Ok(())
}

/// A volume of two leaves or more with two snapshots: they share blocks with it and with each other, and differ in others. Closed.
fn with_a_past(setup: &EngineSetup) -> Result<(SimBacking, State), String> {
    let file = SimBacking::new();
    Engine::create(setup, &file, 1)?;
    let mut engine = Engine::open(setup, &file, 2)?;
    let mut state = Engine::empty(setup);
    let ops = [
        write(0, 8, 1),
        write(140, 20, 2),
        Op::Snapshot(0),
        write(3, 2, 3),
        Op::Discard { offset: 5 * BLOCK, len: 3 * BLOCK },
        write(150, 4, 4),
        Op::Snapshot(1),
        write(151, 2, 5),
        Op::Write { offset: 20 * BLOCK + 100, len: 300, stamp: 6 },
        Op::Flush,
    ];
    apply(&mut engine, &mut state, &ops)?;
    engine.close()?;
    Ok((file, state))
}

fn is_right(engine: &Engine, state: &State, when: &str) -> Outcome {
    match right_or_refused(engine, state, when)? {
        0 => engine.sound(),
        refused => Err(format!("{refused} blocks are refused, {when}")),
    }
}

/// Begins it, and goes on to its end.
fn to_the_end(engine: &mut Engine, flatten: bool, blocks: u64) -> Outcome {
    engine.apply(&Op::Step { flatten, blocks })?;
    for _ in 0..10_000 {
        if engine.0.task_step(blocks).map_err(|e| e.to_string())? == Step::Finished {
            return Ok(());
        }
    }
    Err("it does not end".into())
}

/// What stands in the slots of a file, but for the header.
fn slots(file: &SimBacking) -> HashSet<[u8; PAGE]> {
    let image = file.image();
    let of = |slot: u64| image.page(slot).map(|page| *page.bytes());
    let full = |bytes: &[u8; PAGE]| bytes.iter().any(|byte| *byte != 0);
    (0..image.pages()).filter(|slot| ![0, 8].contains(slot)).filter_map(of).filter(full).collect()
}

/// Nothing that the older key opens is left, and everything is as it was.
pub(crate) fn a_volume_is_re_encrypted(setup: &EngineSetup) -> Outcome {
    let (file, state) = with_a_past(setup)?;
    let before = slots(&file);
    let mut engine = Engine::open(setup, &file, 5)?;
    to_the_end(&mut engine, false, 40)?;
    is_right(&engine, &state, "re-encrypted")?;
    engine.check(false)?;
    engine.close()?;
    let left = slots(&file).intersection(&before).count();
    if left > 0 {
        return Err(format!("{left} slots are of the older key"));
    }
    let engine = Engine::open(setup, &file, 6)?;
    is_right(&engine, &state, "re-encrypted, and opened again")
}

/// Nothing is read from the base any more, whichever older part of the file comes back.
pub(crate) fn a_thin_volume_is_flattened(setup: &EngineSetup) -> Outcome {
    let thin = EngineSetup { base: Some(Base::new(180)), ..setup.clone() };
    let (file, mut state) = with_a_past(&thin)?;
    let old = file.image();
    let mut engine = Engine::open(&thin, &file, 5)?;
    to_the_end(&mut engine, true, 40)?;
    is_right(&engine, &state, "flattened")?;
    engine.check(false)?;
    let flattened = file.image();
    // Of the state that it had when it was done, one superblock of two is enough.
    drop(engine);
    let alone = EngineSetup { base: None, ..thin };
    for copies in [[1, 9], [2, 10]] {
        let damaged = SimBacking::from_image(flattened.clone());
        damage(&damaged, &copies);
        let engine = Engine::open(&alone, &damaged, 6).map_err(|e| format!("without {copies:?}: {e}"))?;
        is_right(&engine, &state, "without the newest superblock")?;
    }
    let with_headers = |image: &Image, headers: &Image| {
        let mut image = image.clone();
        [0, 8].into_iter().for_each(|slot| image.put(slot, headers.page(slot)));
        SimBacking::from_image(image)
    };
    let right_if_it_opens = |setup: &EngineSetup, file: &SimBacking, state: &State, when: &str| {
        match Engine::open(setup, file, 7) {
            Ok(engine) => right_or_refused(&engine, state, when).map(|_| ()),
            Err(_) => Ok(()),
        }
    };
    // The older file under the new header: what was in the base is not zeros.
    right_if_it_opens(&alone, &with_headers(&old, &flattened), &state, "older, under the new header")?;
    // The new file under the older header: what was discarded since is not the base's.
    let file = SimBacking::from_image(flattened);
    let mut engine = Engine::open(&alone, &file, 8)?;
    let ops = [
        Op::Discard { offset: 30 * BLOCK, len: 30 * BLOCK },
        write(40, 2, 9),
        Op::Rollback(1),
        Op::Discard { offset: 60 * BLOCK, len: 70 * BLOCK },
        Op::DeleteSnapshot(0),
    ];
    apply(&mut engine, &mut state, &ops)?;
    engine.close()?;
    let engine = Engine::open(&alone, &file, 9)?;
    is_right(&engine, &state, "flattened, and used since")?;
    engine.check(false)?;
    drop(engine);
    right_if_it_opens(&thin, &with_headers(&file.image(), &old), &state, "under the older header")
}

fn damage(file: &SimBacking, slots: &[u64]) {
    use evsfs::backing::Backing;
    slots.iter().for_each(|slot| file.write_at(&[0xDA; PAGE], slot * BLOCK).unwrap());
}

/// Each read of the checkpoint that frees a deleted snapshot and a discarded range fails once: nothing is lost by that, no slot either.
pub(crate) fn a_read_fails_once_while_something_is_freed(setup: &EngineSetup) -> Outcome {
    let setup = EngineSetup { blocks: 1_400, ..setup.clone() };
    let (file, state) = with_a_past(&setup)?;
    let mut met = 0;
    for call in 0.. {
        let copy = SimBacking::from_image(file.image());
        let mut engine = Engine::open(&setup, &copy, 3)?;
        let mut state = state.clone();
        // The first write reads the bitmap.
        let ops = [
            write(1_000, 1, 20),
            Op::Flush,
            Op::Discard { offset: 0, len: 900 * BLOCK },
            write(2, 1, 21),
            Op::Flush,
        ];
        apply(&mut engine, &mut state, &ops)?;
        copy.plan_fault(Some(FaultPlan {
            call: copy.calls().total() + call,
            fault: Fault::Io,
            lasting: false,
        }));
        let deleted = engine.apply(&Op::DeleteSnapshot(0));
        let freed = deleted.clone().and_then(|()| engine.apply(&Op::Checkpoint));
        if copy.faults_met() == 0 {
            freed?;
            break;
        }
        met += 1;
        if freed.is_err() {
            drop(engine);
            engine = Engine::open(&setup, &copy, 4)?;
        }
        if engine.snapshots().len() == 2 {
            engine.apply(&Op::DeleteSnapshot(0))?;
        }
        state.apply(&Op::DeleteSnapshot(0));
        for _ in 0..100 {
            engine.apply(&Op::Checkpoint)?;
            if !engine.0.stats().trash {
                break;
            }
        }
        is_right(&engine, &state, &format!("call {call}"))?;
        engine.check(false).map_err(|e| format!("call {call}: {e}"))?;
    }
    if met < 5 { Err(format!("only {met} calls failed")) } else { Ok(()) }
}

/// In steps of every size, and with writes, snapshots, rollbacks and extensions between them. Snapshots share afterwards what they all read
/// from the base.
#[test]
fn f8_a_flatten_amid_everything_else_leaves_all_as_it_was_and_needs_no_base() {
    for (seed, blocks) in [(1, 1), (2, 7), (3, 50), (4, 100_000)] {
        let base = Base::new(700);
        let setup =
            EngineSetup { base: Some(base), ring_pages: 64, dirty_limit: 60, ..EngineSetup::small(900) };
        let (file, mut state) = with_a_past(&setup).unwrap();
        let mut engine = Engine::open(&setup, &file, 10 + seed).unwrap();
        let mut dice = Dice::new(seed);
        let mut snapshot = 2;
        engine.apply(&Op::Step { flatten: true, blocks }).unwrap();
        while engine.0.flatten().is_some() {
            let block = dice.below(880);
            let op = match dice.below(10) {
                0 => {
                    Op::Discard { offset: block * BLOCK, len: (1 + dice.below(600)).min(900 - block) * BLOCK }
                }
                1 if snapshot < 6 => {
                    snapshot += 1;
                    Op::Snapshot(snapshot)
                }
                2 if snapshot > 2 && snapshot < 6 => Op::Rollback(snapshot),
                3 if state.size() < 1_200 * BLOCK => Op::Extend(state.size() + 64 * BLOCK),
                4 => Op::Flush,
                _ => {
                    Op::Write { offset: block * BLOCK + dice.below(9), len: 3 * BLOCK, stamp: 1_000 + block }
                }
            };
            if blocks >= 7 || dice.below(8) == 0 {
                apply(&mut engine, &mut state, &[op]).unwrap();
            }
            engine.0.task_step(blocks).unwrap();
        }
        is_right(&engine, &state, "flattened").unwrap();
        engine.check(false).unwrap();
        assert!(engine.0.header().base.is_none() && engine.0.header().base_copied);
        engine.close().unwrap();
        let alone = EngineSetup { base: None, ..setup };
        let mut engine = Engine::open(&alone, &file, 20).unwrap();
        is_right(&engine, &state, "without its base").unwrap();
        // As any other volume: what the snapshots held is freed with them.
        for number in state.snapshots.iter().map(|kept| kept.number).collect::<Vec<_>>() {
            apply(&mut engine, &mut state, &[Op::DeleteSnapshot(number)]).unwrap();
        }
        while engine.0.stats().trash {
            engine.apply(&Op::Checkpoint).unwrap();
        }
        is_right(&engine, &state, "without snapshots").unwrap();
        engine.check(false).unwrap();
    }
}

/// What two snapshots and the volume read from the base is copied once.
#[test]
fn f8_what_is_read_by_several_is_copied_once() {
    let setup = EngineSetup { base: Some(Base::new(500)), ring_pages: 64, ..EngineSetup::small(500) };
    let (file, state) = with_a_past(&setup).unwrap();
    let mut engine = Engine::open(&setup, &file, 5).unwrap();
    let before = engine.0.stats().used_slots;
    to_the_end(&mut engine, true, 200).unwrap();
    let grown = engine.0.stats().used_slots - before;
    // Three fifths of the base are data, and each of the four leaves of each of the three trees is a page.
    assert!((250..330).contains(&grown), "{grown} slots");
    is_right(&engine, &state, "flattened").unwrap();
}

/// Readers and a writer go on while a thread flattens; nobody ever sees anything but what was last written, or the base.
#[test]
fn d10_a_flatten_disturbs_neither_readers_nor_writers() {
    let setup = EngineSetup {
        base: Some(Base::new(600)),
        ring_pages: 64,
        dirty_limit: 200,
        background: true,
        ..EngineSetup::small(600)
    };
    let (file, state) = with_a_past(&EngineSetup { background: false, ..setup.clone() }).unwrap();
    let volume = open(&setup, &file, 5).unwrap();
    let done = AtomicBool::new(false);
    volume.start_flatten(Some(4 << 20)).unwrap();
    std::thread::scope(|scope| {
        // Odd blocks are read only, even ones belong to the writer.
        for reader in 0..2_u64 {
            let (volume, state, done) = (&volume, &state, &done);
            scope.spawn(move || {
                let mut dice = Dice::new(reader);
                let mut seen = vec![0; PAGE];
                while !done.load(Ordering::Relaxed) {
                    let block = dice.below(300) * 2 + 1;
                    volume.read(block * BLOCK, &mut seen).unwrap();
                    assert!(state.allows(usize::try_from(block).unwrap(), &seen), "block {block}");
                }
            });
        }
        let mut dice = Dice::new(9);
        let mut stamp = 0;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while volume.flatten().is_some() {
            assert!(std::time::Instant::now() < deadline, "{:?}", volume.flatten());
            let block = dice.below(300) * 2;
            stamp += 1;
            let (mut seen, data) = (vec![0; PAGE], bytes_of(stamp, BLOCK));
            volume.write(block * BLOCK, &data).unwrap();
            volume.read(block * BLOCK, &mut seen).unwrap();
            assert!(seen == data, "block {block} is not what was just written");
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(volume.header().base.is_none());
    volume.close().unwrap();
    let alone = EngineSetup { base: None, background: false, ..setup };
    let engine = Engine::open(&alone, &file, 6).unwrap();
    let mut seen = vec![0; PAGE];
    for block in (1..600_u64).step_by(2) {
        engine.read(block * BLOCK, &mut seen).unwrap();
        assert!(state.allows(usize::try_from(block).unwrap(), &seen), "block {block}");
    }
    engine.check(false).unwrap();
}

/// Free slots that read as zeros lie before and behind those with old ciphertext.
#[test]
fn f9_nothing_of_the_older_key_is_left_where_the_host_has_no_holes() {
    let setup = EngineSetup { ring_pages: 64, dirty_limit: 4_000, ..EngineSetup::small(200) };
    let file = SimBacking::new();
    Engine::create(&setup, &file, 1).unwrap();
    let mut state = Engine::empty(&setup);
    let mut engine = Engine::open(&setup, &file, 2).unwrap();
    let ops = [
        write(0, 30, 1),
        Op::Checkpoint,
        Op::Discard { offset: 0, len: 5 * BLOCK },
        Op::Checkpoint,
        write(150, 4, 2),
    ];
    apply(&mut engine, &mut state, &ops).unwrap();
    engine.close().unwrap();
    let before = slots(&file);
    file.without_holes();
    let mut engine = Engine::open(&setup, &file, 3).unwrap();
    to_the_end(&mut engine, false, 40).unwrap();
    is_right(&engine, &state, "re-encrypted").unwrap();
    engine.close().unwrap();
    assert_eq!(slots(&file).intersection(&before).count(), 0, "slots are of the older key");
}

#[test]
fn f9_a_death_at_the_beginning_of_a_re_encryption_does_not_lose_its_rate() {
    const RATE: u64 = 12_345_678;
    let setup = EngineSetup::small(200);
    let (file, state) = with_a_past(&setup).unwrap();
    let (mut begun, mut not_begun) = (0, 0);
    for call in 0.. {
        let copy = SimBacking::from_image(file.image());
        let volume = open(&setup, &copy, 3).unwrap();
        let call = copy.calls().total() + call;
        copy.plan_fault(Some(FaultPlan { call, fault: Fault::Death, lasting: true }));
        let _ = begin_reencryption(&setup, &volume, RATE);
        let died = copy.is_dead();
        copy.plan_fault(None);
        drop(volume);
        let engine = Engine::open(&setup, &copy, 4).unwrap();
        is_right(&engine, &state, "begun").unwrap();
        match engine.0.reencryption() {
            Some(status) => {
                assert_eq!(status.rate, RATE, "at call {call}");
                begun += 1;
            }
            None => not_begun += 1,
        }
        if !died {
            break;
        }
    }
    assert!(begun > 3 && not_begun > 3, "{begun} times begun, {not_begun} times not");
}
