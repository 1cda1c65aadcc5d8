//! F1: over all branches of all crashes, and over copies of a file that go their own ways, no (key, nonce) pair is used twice.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use evsfs::backing::sim::{Bound, SimBacking};
use evsfs::crypto::witness::SealWitness;

use crate::engine::{Engine, EngineSetup, Randomness};
use crate::explore::{Depth, Explorer};
use crate::subject::Subject;
use crate::workload::{ALL_KINDS, BLOCK, Op, Sense, exhaustive, random};

const BLOCKS: u64 = 200;

/// Few states of each crash, since reading seals nothing; many of them are written to.
const DEPTH: Depth = Depth {
    bound: Bound { exhaustive: 16, random: 8, torn: 0 },
    full_every: 64,
    again_every: 8,
    again_bound: Bound { exhaustive: 4, random: 2, torn: 0 },
};

/// Pairs that must have been seen.
const PAIRS: usize = 100_000;

#[test]
fn f1_no_pair_repeats_over_all_branches_of_all_crashes() {
    let setup = EngineSetup::small(BLOCKS);
    let mut explorer = Explorer::<Engine>::new(&setup, DEPTH);
    explorer.opens = Some(AtomicU64::new(0));
    let witness = SealWitness::new();
    let sense = Sense::new(BLOCKS * BLOCK);
    let start = explorer.start(&[Op::Write { offset: 0, len: 3 * BLOCK, stamp: 1 }]).unwrap();
    let try_all = |workloads: &[Vec<Op>]| {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
                scope.spawn(|| {
                    let _present = witness.attend();
                    while let Some(ops) = workloads.get(next.fetch_add(1, Ordering::Relaxed)) {
                        explorer.run(&start, ops).unwrap_or_else(|violation| panic!("{violation}"));
                        assert_eq!(witness.repeats(), 0, "a pair was used twice, in {ops:?} or beside it");
                    }
                });
            }
        });
    };
    try_all(&exhaustive(ALL_KINDS, 2, &sense));
    // Every branch draws its own randomness, so how many pairs a workload makes differs a little.
    for seed in (0..300).step_by(30) {
        if witness.pairs() <= PAIRS {
            let workloads = (seed..seed + 30).map(|seed| random(ALL_KINDS, 30, 40, &sense, seed));
            try_all(&workloads.collect::<Vec<_>>());
        }
    }
    println!("{} pairs of {} keys; {}", witness.pairs(), witness.keys(), explorer.tally);
    assert!(witness.pairs() > PAIRS);
}

/// Two copies of one file, each opened and written to; gives how often a pair repeated.
fn two_copies(randomness: Randomness) -> u64 {
    let setup = EngineSetup { randomness, ..EngineSetup::small(BLOCKS) };
    let file = SimBacking::new();
    Engine::create(&setup, &file, 1).unwrap();
    let mut engine = Engine::open(&setup, &file, 2).unwrap();
    engine.apply(&Op::Write { offset: 0, len: 8 * BLOCK, stamp: 1 }).unwrap();
    engine.apply(&Op::Flush).unwrap();
    drop(engine);
    let witness = SealWitness::new();
    let _present = witness.attend();
    for seed in [3, 4] {
        let copy = SimBacking::from_image(file.image());
        let mut engine = Engine::open(&setup, &copy, seed).unwrap();
        for stamp in 0..6 {
            engine
                .apply(&Op::Write { offset: stamp * BLOCK, len: BLOCK, stamp: seed * 100 + stamp })
                .unwrap();
            engine.apply(&Op::Flush).unwrap();
        }
        engine.apply(&Op::Checkpoint).unwrap();
        engine.close().unwrap();
    }
    assert!(witness.pairs() > 20);
    witness.repeats()
}

#[test]
fn f1_copies_of_a_file_go_their_own_ways() {
    assert_eq!(two_copies(Randomness::Seeded), 0);
}

#[test]
fn f1_randomness_that_repeats_is_noticed() {
    assert!(two_copies(Randomness::AlwaysTheSame) > 0);
}
