//! F11: every call fails once, or from then on, in every way; nothing acknowledged is lost and nothing false is said.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use evsfs::backing::sim::{Bound, Fault, FaultPlan, SimBacking};

use crate::engine::{Base, Engine, EngineSetup};
use crate::explore::{Depth, Explorer, Start};
use crate::naive::{Flaw, Naive, NaiveSetup};
use crate::oracle::State;
use crate::subject::Subject;
use crate::tamper::right_or_refused;
use crate::workload::{ALL_KINDS, BLOCK, COMMON, Kind, Op, PLAIN_KINDS, Sense, random};

pub(crate) const DEPTH: Depth = Depth {
    bound: Bound { exhaustive: 12, random: 4, torn: 1 },
    full_every: 32,
    again_every: 1024,
    again_bound: Bound { exhaustive: 16, random: 4, torn: 1 },
};

/// For many workloads: few states of each.
const THIN: Depth = Depth { bound: Bound { exhaustive: 2, random: 1, torn: 0 }, full_every: 64, ..DEPTH };

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

/// Workloads that have every kind of operation between them, of a volume with a snapshot, from which each begins.
const EACH_KIND: [&[Kind]; 3] = [
    &[
        Kind::Aligned,
        Kind::Snapshot,
        Kind::Overwrite,
        Kind::Checkpoint,
        Kind::Rollback,
        Kind::DeleteSnapshot,
        Kind::Flush,
    ],
    &[
        Kind::Extend,
        Kind::Wide,
        Kind::WideDiscard,
        Kind::Checkpoint,
        Kind::Rekey,
        Kind::Unaligned,
        Kind::Reopen,
    ],
    &[Kind::Reencrypt, Kind::Across, Kind::Kill, Kind::Reencrypt, Kind::Discard, Kind::Flush],
];

/// The operations of these kinds, each at its fixed place.
fn fixed(kinds: &[Kind], sense: &Sense) -> Vec<Op> {
    let mut sense = sense.clone();
    kinds
        .iter()
        .map(|kind| sense.fixed(*kind).unwrap_or_else(|| panic!("{kind:?} makes no sense here")))
        .collect()
}

/// So many small groups that a ring of 16 pages is compacted.
fn compacting() -> Vec<Op> {
    let write = |stamp| Op::Write { offset: stamp % 3 * BLOCK, len: BLOCK, stamp };
    (1..=14).flat_map(|stamp| [write(stamp), Op::Flush]).collect()
}

#[test]
fn f11_a_fault_at_any_call_loses_nothing_acknowledged() {
    let tally = Arc::default();
    let met = AtomicU64::new(0);
    // A flatten, with a write between its steps: blocks, proof, the end.
    let step = Op::Step { flatten: true, blocks: 1_000 };
    let write = Op::Write { offset: 2 * BLOCK + 9, len: BLOCK, stamp: 7 };
    let flatten = vec![step.clone(), write, step.clone(), step, Op::Flush];
    let run = |setup: &EngineSetup, depth: Depth, workloads: &dyn Fn(&Sense) -> Vec<Vec<Op>>| {
        let mut explorer = Explorer::<Engine>::new(setup, depth);
        explorer.tally = Arc::clone(&tally);
        let before = [Op::Write { offset: 0, len: 6 * BLOCK, stamp: 1 }, Op::Snapshot(0)];
        let start = explorer.start(&before).unwrap();
        for ops in workloads(&Sense::of(&start.state)) {
            met.fetch_add(fail_everywhere(&explorer, &start, &ops).unwrap(), Ordering::Relaxed);
        }
    };
    let small = EngineSetup { trash_budget: 1, ..EngineSetup::small(64) };
    run(&small, DEPTH, &|sense| {
        (0..crate::crash::scale()).map(|seed| random(COMMON, 8, 12, sense, seed)).collect()
    });
    run(&small, THIN, &|sense| EACH_KIND.iter().map(|kinds| fixed(kinds, sense)).collect());
    let tight = EngineSetup { ring_pages: 16, dirty_limit: 400, ..small.clone() };
    run(&tight, THIN, &|_| vec![compacting()]);
    run(&EngineSetup { base: Some(Base::new(20)), ..small }, THIN, &|_| vec![flatten.clone()]);
    let met = met.into_inner();
    println!("{met} faults, {tally}");
    assert!(met > 2_000);
    let named: Vec<Kind> = EACH_KIND.concat();
    for kind in ALL_KINDS.iter().filter(|kind| **kind != Kind::Flatten) {
        assert!(named.contains(kind), "no fault is tried amid {kind:?}");
    }
}

/// What the workload above is for.
#[test]
fn a_ring_of_16_pages_is_compacted_by_as_many_small_groups() {
    let setup = EngineSetup { ring_pages: 16, dirty_limit: 400, ..EngineSetup::small(64) };
    let file = SimBacking::new();
    Engine::create(&setup, &file, 1).unwrap();
    let mut engine = Engine::open(&setup, &file, 2).unwrap();
    compacting().iter().for_each(|op| engine.apply(op).unwrap());
    assert!(engine.0.stats().compactions > 0, "{:?}", engine.0.stats());
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
