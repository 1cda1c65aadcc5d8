//! F11: every call fails once, or from then on, in every way; nothing acknowledged is lost and nothing false is said.

use std::sync::Arc;

use evsfs::backing::sim::{Bound, Fault, FaultPlan, SimBacking};

use crate::engine::{Base, Engine, EngineSetup};
use crate::explore::{Depth, Explorer, Start};
use crate::naive::{Flaw, Naive, NaiveSetup};
use crate::oracle::State;
use crate::subject::Subject;
use crate::tamper::right_or_refused;
use crate::workload::{BLOCK, COMMON, Op, PLAIN_KINDS, Sense, VERSIONS, random};

pub(crate) const DEPTH: Depth = Depth {
    bound: Bound { exhaustive: 12, random: 4, torn: 1 },
    full_every: 32,
    again_every: 1024,
    again_bound: Bound { exhaustive: 16, random: 4, torn: 1 },
};

/// Runs the workload once for each call that can fail and each way of failing; returns how many faults were met.
pub(crate) fn fail_everywhere<S: Subject>(
    explorer: &Explorer<'_, S>,
    start: &Start,
    ops: &[Op],
) -> Result<u64, String> {
    let mut met = 0;
    for fault in Fault::ALL {
        for lasting in [false, true] {
            for call in 0.. {
                let plan = FaultPlan { call, fault, lasting };
                match explorer.run_with(start, ops, Some(plan)) {
                    Ok((true, _)) => met += 1,
                    Ok((false, _)) => break,
                    Err(violation) => return Err(violation.to_string()),
                }
            }
        }
    }
    Ok(met)
}

fn naive(flaw: Flaw, seeds: u64) -> Result<u64, String> {
    let setup = NaiveSetup { blocks: 16, flaw };
    let explorer = Explorer::<Naive>::new(&setup, DEPTH);
    let start = explorer.start(&[Op::Write { offset: 0, len: 3 * BLOCK, stamp: 1 }])?;
    let mut met = 0;
    for seed in 0..seeds {
        let ops = random(PLAIN_KINDS, 10, 8, &Sense::new(16 * BLOCK), seed);
        met += fail_everywhere(&explorer, &start, &ops)?;
    }
    println!("{flaw:?}: {met} faults, {}", explorer.tally);
    Ok(met)
}

#[test]
fn a_store_that_gives_up_after_a_fault_passes_and_one_that_goes_on_is_found() {
    assert!(naive(Flaw::None, 2).unwrap() > 100);
    for flaw in [Flaw::RetriedSync, Flaw::TrustedCache] {
        // Not every history meets the flaw; one of these does.
        let found = naive(flaw, 16).expect_err("it passed");
        println!("{flaw:?}: {}", found.lines().next().unwrap());
    }
}

#[test]
fn f11_a_fault_at_any_call_loses_nothing_acknowledged() {
    let tally = Arc::default();
    let mut met = 0;
    // A flatten, with a write between its steps: blocks, proof, the end.
    let step = Op::Step { flatten: true, blocks: 1_000 };
    let write = Op::Write { offset: 2 * BLOCK + 9, len: BLOCK, stamp: 7 };
    let flatten = vec![step.clone(), write, step.clone(), step, Op::Flush];
    for (kinds, seeds, length, base) in
        [(COMMON, 2, 11, None), (VERSIONS, 1, 7, None), (&[][..], 1, 0, Some(Base::new(20)))]
    {
        let setup = EngineSetup { base, trash_budget: 1, ..EngineSetup::small(64) };
        let mut explorer = Explorer::<Engine>::new(&setup, DEPTH);
        explorer.tally = Arc::clone(&tally);
        let before = [Op::Write { offset: 0, len: 6 * BLOCK, stamp: 1 }, Op::Snapshot(0)];
        let start = explorer.start(&before).unwrap();
        for seed in 0..seeds * crate::crash::scale() {
            let ops = match length {
                0 => flatten.clone(),
                length => random(kinds, length, 12, &Sense::of(&start.state), seed),
            };
            met += fail_everywhere(&explorer, &start, &ops).unwrap();
        }
    }
    println!("{met} faults, {tally}");
    assert!(met > 1_000);
}

/// What the host fails to read while a volume is opened is not taken for something that is not there: either the volume does not open, and
/// does the next time, or it shows everything, and goes on to show it.
#[test]
fn f11_a_read_that_fails_once_while_a_volume_is_opened_loses_nothing() {
    let setup = EngineSetup::small(64);
    let file = SimBacking::new();
    Engine::create(&setup, &file, 1).unwrap();
    let mut state = Engine::empty(&setup);
    let apply = |engine: &mut Engine, state: &mut State, op: &Op| {
        engine.apply(op).unwrap();
        state.apply(op);
    };
    let write = |block: u64, stamp| Op::Write { offset: block * BLOCK, len: 2 * BLOCK, stamp };
    let mut engine = Engine::open(&setup, &file, 2).unwrap();
    for op in [write(0, 1), Op::Checkpoint, write(4, 2), Op::Flush, write(5, 3), Op::Flush] {
        apply(&mut engine, &mut state, &op);
    }
    drop(engine);
    let (mut refused, mut opened) = (0, 0);
    for call in 0.. {
        let copy = SimBacking::from_image(file.image());
        copy.plan_fault(Some(FaultPlan { call, fault: Fault::Io, lasting: false }));
        let first = Engine::open(&setup, &copy, 3);
        if copy.faults_met() == 0 {
            break;
        }
        let counted = if first.is_ok() { &mut opened } else { &mut refused };
        *counted += 1;
        let mut engine = first.or_else(|_| Engine::open(&setup, &copy, 4)).unwrap();
        let mut state = state.clone();
        assert_eq!(right_or_refused(&engine, &state, "opened"), Ok(0), "call {call}");
        for op in [write(8, 4), Op::Checkpoint] {
            apply(&mut engine, &mut state, &op);
        }
        engine.close().unwrap();
        let mut engine = Engine::open(&setup, &copy, 5).unwrap();
        for stamp in 0..100 {
            apply(&mut engine, &mut state, &write(20 + stamp % 30, 100 + stamp));
        }
        apply(&mut engine, &mut state, &Op::Flush);
        engine.check(true).unwrap_or_else(|found| panic!("call {call}: {found}"));
        assert_eq!(right_or_refused(&engine, &state, "opened again"), Ok(0), "call {call}");
    }
    println!("{refused} times refused, {opened} times opened all the same");
    assert!(refused >= 5 && opened >= 2);
}

/// A checkpoint that cannot read a page of the map gives nothing up: what was flushed is there when the volume is opened again.
#[test]
fn f11_a_call_that_fails_once_in_a_checkpoint_loses_nothing() {
    let setup = EngineSetup::small(200);
    let file = SimBacking::new();
    Engine::create(&setup, &file, 1).unwrap();
    let mut state = Engine::empty(&setup);
    let mut engine = Engine::open(&setup, &file, 2).unwrap();
    let write = |block: u64, stamp| Op::Write { offset: block * BLOCK, len: 2 * BLOCK, stamp };
    for op in [write(0, 1), write(150, 2), write(30, 3)] {
        engine.apply(&op).unwrap();
        state.apply(&op);
    }
    engine.close().unwrap();
    let (mut failed, mut done) = (0, 0);
    for call in 0.. {
        let copy = SimBacking::from_image(file.image());
        let mut engine = Engine::open(&setup, &copy, 3).unwrap();
        let mut state = state.clone();
        for op in [write(8, 4), Op::Discard { offset: 150 * BLOCK, len: BLOCK }, Op::Flush] {
            engine.apply(&op).unwrap();
            state.apply(&op);
        }
        let call = copy.calls().total() + call;
        copy.plan_fault(Some(FaultPlan { call, fault: Fault::Io, lasting: false }));
        let outcome = engine.apply(&Op::Checkpoint);
        if copy.faults_met() == 0 {
            break;
        }
        let counted = if outcome.is_ok() { &mut done } else { &mut failed };
        *counted += 1;
        for seed in [4, 5] {
            assert_eq!(right_or_refused(&engine, &state, "open"), Ok(0), "call {call}");
            drop(engine);
            engine = Engine::open(&setup, &copy, seed).unwrap();
            engine.check(true).unwrap_or_else(|found| panic!("call {call}: {found}"));
        }
    }
    println!("{failed} checkpoints failed, {done} did not");
    assert!(failed >= 5);
}
