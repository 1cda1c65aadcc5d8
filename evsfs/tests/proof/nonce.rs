//! F1: over all branches of all crashes, and over copies of a file that go their own ways, no (key, nonce) pair is used twice.

use std::sync::atomic::AtomicU64;

use evsfs::backing::sim::{Bound, SimBacking};
use evsfs::crypto::witness::SealWitness;

use crate::engine::{Engine, EngineSetup, Randomness};
use crate::explore::{Depth, Explorer};
use crate::subject::Subject;
use crate::workload::{ALL_KINDS, BLOCK, Op, Sense, exhaustive, random};

const BLOCKS: u64 = 200;

const DEPTH: Depth = Depth {
    bound: Bound { exhaustive: 16, random: 8, torn: 2 },
    full_every: 64,
    again_every: 16,
    again_bound: Bound { exhaustive: 4, random: 2, torn: 0 },
};

#[test]
fn f1_no_pair_repeats_over_all_branches_of_all_crashes() {
    let setup = EngineSetup::small(BLOCKS);
    let mut explorer = Explorer::<Engine>::new(&setup, DEPTH);
    explorer.opens = Some(AtomicU64::new(0));
    let witness = SealWitness::new();
    let present = witness.attend();
    let sense = Sense::new(BLOCKS * BLOCK);
    let mut workloads = exhaustive(ALL_KINDS, 2, &sense);
    workloads.extend((0..40).map(|seed| random(ALL_KINDS, 30, 40, &sense, seed)));
    let start = explorer.start(BLOCKS * BLOCK, &[Op::Write { offset: 0, len: 3 * BLOCK, stamp: 1 }]).unwrap();
    for ops in &workloads {
        explorer.run(&start, ops).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(witness.repeats(), 0, "a pair was used twice in {ops:?}");
    }
    drop(present);
    println!("{} pairs of {} keys; {}", witness.pairs(), witness.keys(), explorer.tally);
    assert!(witness.pairs() > 40_000);
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
