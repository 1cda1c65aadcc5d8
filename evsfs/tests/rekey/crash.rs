//! Power fails, or the host, at any moment of a re-encryption.

use evsfs::backing::sim::{Bound, Fault, FaultPlan, IgnoredSyncs, SimBacking};
use evsfs::engine::{Step, Volume};
use uuid::Uuid;

use crate::volume::{
    Known, contents, finish, holds, keys, open, options, slots, try_open, with_past, wrapped,
};

const BLOCKS: usize = 140;

/// Where each write of the workload goes.
const WRITES: [u64; 6] = [0, 139, 7, 70, 130, 8];

/// A re-encryption in the smallest steps, with a write and a flush between them. `reached` is told how many writes are begun (odd) and flushed
/// (even): twice the number of those that are flushed, and one more while one is under way.
fn work(volume: &Volume, reached: &dyn Fn(u64)) -> Result<(), String> {
    volume.start_reencryption(keys(2), wrapped(2, 1), 0).map_err(|e| e.to_string())?;
    for round in 0.. {
        if let Some(block) = WRITES.get(round) {
            let at = u64::try_from(round).unwrap() * 2;
            reached(at + 1);
            let data = [100 + u8::try_from(round).unwrap(); 4096];
            volume.write(block * 4096, &data).and_then(|()| volume.flush()).map_err(|e| e.to_string())?;
            reached(at + 2);
        }
        match volume.task_step(1).map_err(|e| e.to_string())? {
            Step::Finished => return Ok(()),
            // The host stays full.
            Step::NoSpace if round > 60 => return Err("no space".to_owned()),
            Step::Went { .. } | Step::Freeing | Step::NoSpace => {}
        }
    }
    Ok(())
}

/// What the volume holds after so many writes.
fn after(known: &Known, writes: usize) -> Known {
    let mut known = known.clone();
    for (round, block) in WRITES.iter().take(writes).enumerate() {
        known[usize::try_from(*block).unwrap()] = 100 + u8::try_from(round).unwrap();
    }
    known
}

struct Past {
    file: SimBacking,
    known: Known,
    snapshots: Vec<(Uuid, Known)>,
}

fn past() -> Past {
    let (file, known, snapshots) = with_past(BLOCKS, 11);
    Past { file, known, snapshots }
}

impl Past {
    /// Whether a volume holds what it must after `mark`. The last write may be there or not.
    fn is_kept(&self, volume: &Volume, mark: u64) -> Result<(), String> {
        let found = contents(volume, None, BLOCKS)?;
        let flushed = usize::try_from(mark / 2).unwrap();
        let under_way = usize::try_from(mark % 2).unwrap();
        if found != after(&self.known, flushed) && found != after(&self.known, flushed + under_way) {
            return Err(format!("after {mark}: {found:?}"));
        }
        for (id, known) in &self.snapshots {
            if contents(volume, Some(*id), BLOCKS)? != *known {
                return Err(format!("after {mark}, snapshot {id}"));
            }
        }
        Ok(())
    }

    /// Whether what a crash left opens, holds what it must, and goes on to the end, with nothing of the old key left.
    fn recovers(&self, file: &SimBacking, mark: u64, seed: u64, to_the_end: bool) -> Result<(), String> {
        let volume = try_open(file, seed, options())?;
        self.is_kept(&volume, mark)?;
        if !to_the_end {
            return Ok(());
        }
        let begun = volume.reencryption().is_some() || volume.header().wrapped_dek == wrapped(2, 1);
        if volume.reencryption().is_some() {
            finish(&volume, 40);
        }
        self.is_kept(&volume, mark)?;
        let report = volume.check(&mut |_, _| {}).map_err(|e| e.to_string())?;
        if !report.is_sound() {
            return Err(format!("{report:?}"));
        }
        volume.close().map_err(|e| e.to_string())?;
        if holds(file, &wrapped(1, 1)) == begun {
            return Err("the wrapped keys are not those of one data key".to_owned());
        }
        if begun && slots(file).intersection(&slots(&self.file)).count() > 0 {
            return Err("slots of the old key are left".to_owned());
        }
        Ok(())
    }
}

/// Runs the workload, and crashes everywhere; gives the states that were tried. One state in `each` goes on to the end.
fn explore(past: &Past, ignored: IgnoredSyncs, bound: &Bound, each: u64) -> Result<usize, String> {
    let file = SimBacking::from_image(past.file.image());
    let volume = open(&file, 1);
    file.ignore_syncs(ignored);
    file.record_crash_points();
    work(&volume, &|mark| file.mark(mark)).unwrap();
    volume.close().unwrap();
    let points = file.take_crash_points();
    let mut tried = 0;
    // What is missing at the end shows soon.
    for (number, point) in (1..).zip(&points).collect::<Vec<_>>().into_iter().rev() {
        for (state, survivors) in (1..).zip(point.states(bound, number)) {
            let left = SimBacking::from_image(point.image(&survivors));
            tried += 1;
            let to_the_end = (number * 31 + state).is_multiple_of(each);
            past.recovers(&left, point.mark(), number * 1_000 + state, to_the_end)
                .map_err(|e| format!("call {}, state {state}: {e}", point.call()))?;
        }
    }
    Ok(tried)
}

#[test]
fn f9_a_crash_at_any_moment_leaves_a_volume_that_opens_and_goes_on() {
    let bound = Bound { exhaustive: 24, random: 8, torn: 4 };
    let tried = explore(&past(), IgnoredSyncs::None, &bound, 8).unwrap_or_else(|broken| panic!("{broken}"));
    println!("{tried} states of a re-encryption that was cut short");
    assert!(tried > 3_000, "{tried}");
}

/// The proof of the proof: without its barriers the same exploration finds a violation.
#[test]
fn f9_without_barriers_the_crashes_are_noticed() {
    let bound = Bound { exhaustive: 24, random: 8, torn: 4 };
    let found = explore(&past(), IgnoredSyncs::All, &bound, 8).expect_err("nobody missed them");
    println!("{found}");
}

/// What was wiped is durable before the header forgets the older key: else power could fail, and its data would be back.
#[test]
fn f9_without_the_barrier_between_wiping_and_the_header_the_old_data_comes_back() {
    let past = past();
    let file = SimBacking::from_image(past.file.image());
    work(&open(&file, 1), &|_| {}).unwrap();
    let sites = file.sync_sites().into_iter().map(|(site, _)| site);
    let sites: Vec<_> = sites.filter(|site| site.file.ends_with("reencrypt.rs")).collect();
    assert_eq!(sites.len(), 1, "{sites:?}");
    let bound = Bound { exhaustive: 24, random: 8, torn: 0 };
    let found = explore(&past, IgnoredSyncs::Site(sites[0]), &bound, 1).expect_err("nobody missed it");
    assert!(found.contains("slots of the old key are left"), "{found}");
}

/// F11: the host fails at any call, once or from then on. The next attach has what was flushed, and goes on.
#[test]
fn f11_a_fault_at_any_call_of_a_re_encryption_loses_nothing() {
    let past = past();
    let mut met = 0;
    for fault in Fault::ALL.into_iter().chain([Fault::Death]) {
        for (lasting, every) in [(false, 5), (true, 7)] {
            for call in (0..).step_by(every) {
                let file = SimBacking::from_image(past.file.image());
                let volume = open(&file, 1);
                let start = file.calls().total();
                file.plan_fault(Some(FaultPlan { call: start + call, fault, lasting }));
                let mark = std::cell::Cell::new(0);
                let done = work(&volume, &|at| mark.set(at));
                if file.faults_met() == 0 {
                    assert_eq!(done, Ok(()));
                    break;
                }
                met += 1;
                file.plan_fault(None);
                // Whoever has it open reads what there is.
                past.is_kept(&volume, mark.get()).unwrap_or_else(|e| panic!("{fault:?} at call {call}: {e}"));
                drop(volume);
                past.recovers(&file, mark.get(), call + 2, true)
                    .unwrap_or_else(|e| panic!("after {fault:?} at call {call}: {e}"));
            }
        }
    }
    println!("{met} faults");
    assert!(met > 300, "{met}");
}
