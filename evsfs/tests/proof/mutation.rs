//! Each protection is taken out in turn; the crash suite must notice every time.

use evsfs::backing::sim::{Bound, IgnoredSyncs, SimBacking, SyncSite};

use crate::engine::{Engine, EngineSetup};
use crate::explore::{Depth, Explorer, Start};
use crate::naive::{Flaw, Naive, NaiveSetup};
use crate::subject::Subject;
use crate::workload::{BLOCK, Op, PLAIN_KINDS, Sense, TINY_GROUPS, UNVERSIONED, VERSIONS, random};

/// All places in the source that ask for syncs when the workloads run.
pub(crate) fn sync_sites<S: Subject>(
    setup: &S::Setup,
    start: &Start,
    workloads: &[Vec<Op>],
) -> Result<Vec<SyncSite>, String> {
    let mut sites = Vec::new();
    for ops in workloads {
        let file = SimBacking::from_image(start.image.clone());
        let mut subject = S::open(setup, &file, 7)?;
        for (number, op) in ops.iter().enumerate() {
            match op {
                Op::Reopen | Op::Kill => {
                    if *op == Op::Reopen {
                        subject.close()?;
                    } else {
                        drop(subject);
                    }
                    subject = S::open(setup, &file, 8 + u64::try_from(number).unwrap())?;
                }
                op => subject.apply(op)?,
            }
        }
        sites.extend(file.sync_sites().into_iter().map(|(site, _)| site));
    }
    sites.sort_unstable();
    sites.dedup();
    Ok(sites)
}

/// Leaves out all syncs of one place; returns what the suite found.
pub(crate) fn without<S: Subject>(
    setup: &S::Setup,
    depth: Depth,
    start: &Start,
    workloads: &[Vec<Op>],
    site: SyncSite,
    deaths_every: usize,
) -> Option<String> {
    let mut explorer = Explorer::<S>::new(setup, depth);
    explorer.ignored = IgnoredSyncs::Site(site);
    explorer.deaths_every = deaths_every;
    explorer.run_all(start, workloads).err().map(|violation| violation.to_string())
}

/// Many workloads and few states of each: what is missing shows soon.
const DEPTH: Depth = Depth {
    bound: Bound { exhaustive: 64, random: 24, torn: 2 },
    full_every: 16,
    again_every: 16,
    again_bound: Bound { exhaustive: 32, random: 8, torn: 0 },
};

#[test]
fn each_sync_of_the_naive_store_is_missed() {
    let setup = NaiveSetup { blocks: 16, flaw: Flaw::None };
    let depth = Depth::default();
    let start = Explorer::<Naive>::new(&setup, depth).start(&[]).unwrap();
    let workloads: Vec<_> =
        (0..30).map(|seed| random(PLAIN_KINDS, 8, 8, &Sense::new(16 * BLOCK), seed)).collect();
    let sites = sync_sites::<Naive>(&setup, &start, &workloads).unwrap();
    assert_eq!(sites.len(), 2, "{sites:?}");
    for site in sites {
        let found = without::<Naive>(&setup, depth, &start, &workloads, site, 7);
        let found = found.unwrap_or_else(|| panic!("nobody misses the sync at {site:?}"));
        println!("{site:?}: {}", found.lines().next().unwrap());
    }
}

#[test]
fn f4_each_sync_of_the_engine_is_missed() {
    // Either of two syncs makes durable what a killed process left: that of the file's opening, and that before the first write.
    let small = EngineSetup { opens_with_sync: false, ..EngineSetup::small(64) };
    let sense = Sense::new(64 * BLOCK);
    let mut many: Vec<_> = (0..50).map(|seed| random(UNVERSIONED, 24, 12, &sense, seed)).collect();
    many.extend((0..10).map(|seed| random(VERSIONS, 16, 12, &sense, seed)));
    // Many tiny groups of few blocks: the log is compacted.
    let compacting = EngineSetup { ring_pages: 32, dirty_limit: 400, ..small.clone() };
    let tiny: Vec<_> = (0..12).map(|seed| random(TINY_GROUPS, 200, 12, &sense, seed)).collect();
    let mut unmissed = Vec::new();
    let mut places = std::collections::BTreeSet::new();
    for (setup, workloads, deaths_every) in [(small, many, 7), (compacting, tiny, 0)] {
        let before = [Op::Write { offset: 0, len: 6 * BLOCK, stamp: 1 }];
        let start = Explorer::<Engine>::new(&setup, DEPTH).start(&before).unwrap();
        for site in sync_sites::<Engine>(&setup, &start, &workloads).unwrap() {
            if !places.insert(site) {
                continue;
            }
            let found = without::<Engine>(&setup, DEPTH, &start, &workloads, site, deaths_every);
            let text = found.as_deref().and_then(|found| found.lines().next()).unwrap_or("NOBODY MISSES IT");
            println!("{}:{}: {text}", site.file, site.line);
            if found.is_none() {
                unmissed.push(site);
            }
        }
    }
    assert!(unmissed.is_empty(), "left out and not missed: {unmissed:?}");
    assert!(places.len() >= 6, "{places:?}");
}
