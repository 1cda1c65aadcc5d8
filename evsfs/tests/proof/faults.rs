//! F11: every call fails once, or from then on, in every way; nothing acknowledged is lost and nothing false is said.

use evsfs::backing::sim::{Bound, Fault, FaultPlan};

use crate::engine::{Engine, EngineSetup};
use crate::explore::{Depth, Explorer, Start};
use crate::naive::{Flaw, Naive, NaiveSetup};
use crate::subject::Subject;
use crate::workload::{ALL_KINDS, BLOCK, Op, PLAIN_KINDS, Sense, random};

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
    let start = explorer.start(16 * BLOCK, &[Op::Write { offset: 0, len: 3 * BLOCK, stamp: 1 }])?;
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
    let setup = EngineSetup::small(64);
    let explorer = Explorer::<Engine>::new(&setup, DEPTH);
    let start = explorer.start(64 * BLOCK, &[Op::Write { offset: 0, len: 6 * BLOCK, stamp: 1 }]).unwrap();
    let mut met = 0;
    for seed in 0..3 * crate::crash::scale() {
        let ops = random(ALL_KINDS, 14, 12, &Sense::new(64 * BLOCK), seed);
        met += fail_everywhere(&explorer, &start, &ops).unwrap();
    }
    println!("{met} faults, {}", explorer.tally);
    assert!(met > 1_000);
}
