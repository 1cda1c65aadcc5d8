//! The suites themselves are tried: a store that is right passes, and each way of being wrong is found.

use crate::explore::{Depth, Explorer};
use crate::naive::{Flaw, Naive, NaiveSetup};
use crate::oracle::State;
use crate::workload::{ALL_KINDS, BLOCK, Op, PLAIN_KINDS, Sense, exhaustive, random};

const BLOCKS: u64 = 24;

fn explore(flaw: Flaw, length: usize) -> Result<usize, String> {
    let setup = NaiveSetup { blocks: BLOCKS, flaw };
    let explorer = Explorer::<Naive>::new(&setup, Depth::default());
    let before = [
        Op::Write { offset: 0, len: 3 * BLOCK, stamp: 1 },
        Op::Flush,
        Op::Write { offset: BLOCK, len: BLOCK, stamp: 2 },
    ];
    let start = explorer.start(&before)?;
    let sense = Sense::new(BLOCKS * BLOCK);
    let mut workloads = exhaustive(PLAIN_KINDS, length, &sense);
    workloads.extend((0..20).map(|seed| random(PLAIN_KINDS, 25, BLOCKS, &sense, seed)));
    explorer.run_all(&start, &workloads).map_err(|violation| violation.to_string())?;
    println!("{flaw:?}: {}", explorer.tally);
    Ok(explorer.tally.distinct())
}

#[test]
fn a_store_that_is_right_passes() {
    let distinct = explore(Flaw::None, 3).unwrap();
    assert!(distinct > 10_000, "{distinct} states");
}

#[test]
fn every_way_of_being_wrong_is_found() {
    for flaw in Flaw::WRONG {
        let found = explore(flaw, 2).expect_err(&format!("{flaw:?} passed"));
        println!("{flaw:?}: {}", found.lines().next().unwrap_or_default());
    }
}

#[test]
fn every_workload_makes_sense_to_the_oracle() {
    let sense = Sense::new(BLOCKS * BLOCK);
    let mut workloads = exhaustive(ALL_KINDS, 3, &sense);
    // A rollback or a deletion needs a snapshot; all else can come at any time.
    assert!(workloads.len() > (ALL_KINDS.len() - 2).pow(3));
    workloads.extend((0..50).map(|seed| random(ALL_KINDS, 60, BLOCKS, &sense, seed)));
    for ops in workloads {
        let mut state = State::new(BLOCKS * BLOCK);
        for op in &ops {
            assert!(State::touched(op).end <= state.now.blocks.len(), "{op:?}");
            let size = state.size();
            state.apply(op);
            assert!(state.size() >= size, "{op:?} shrinks");
            assert_eq!(op.is_divisible(), !State::touched(op).is_empty(), "{op:?}");
        }
    }
}
