//! F11: every call fails once, or from then on, in every way; nothing acknowledged is lost and nothing false is said.

use evsfs::backing::sim::{Bound, Fault, FaultPlan};

use crate::explore::{Depth, Explorer, Start};
use crate::naive::{Flaw, Naive, NaiveSetup};
use crate::subject::Subject;
use crate::workload::{BLOCK, Op, PLAIN_KINDS, Sense, random};

pub(crate) const DEPTH: Depth = Depth {
    bound: Bound { exhaustive: 64, random: 16, torn: 4 },
    full_every: 16,
    again_every: 512,
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
                    Ok(true) => met += 1,
                    Ok(false) => break,
                    Err(violation) => return Err(violation.to_string()),
                }
            }
        }
    }
    Ok(met)
}

fn naive(flaw: Flaw) -> Result<u64, String> {
    let setup = NaiveSetup { blocks: 16, flaw };
    let explorer = Explorer::<Naive>::new(&setup, DEPTH);
    let start = explorer.start(16 * BLOCK, &[Op::Write { offset: 0, len: 3 * BLOCK, stamp: 1 }])?;
    let mut met = 0;
    for seed in 0..2 {
        let ops = random(PLAIN_KINDS, 10, 8, &Sense::new(16 * BLOCK), seed);
        met += fail_everywhere(&explorer, &start, &ops)?;
    }
    println!("{flaw:?}: {met} faults, {}", explorer.tally);
    Ok(met)
}

#[test]
fn a_store_that_gives_up_after_a_fault_passes_and_one_that_goes_on_is_found() {
    assert!(naive(Flaw::None).unwrap() > 100);
    for flaw in [Flaw::RetriedSync, Flaw::TrustedCache] {
        let found = naive(flaw).expect_err("it passed");
        println!("{flaw:?}: {}", found.lines().next().unwrap());
    }
}
