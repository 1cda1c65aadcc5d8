//! Each protection is taken out in turn; the crash suite must notice every time.

use evsfs::backing::sim::{IgnoredSyncs, SimBacking, SyncSite};

use crate::explore::{Depth, Explorer, Start};
use crate::naive::{Flaw, Naive, NaiveSetup};
use crate::subject::Subject;
use crate::workload::{BLOCK, Op, PLAIN_KINDS, Sense, random};

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
) -> Option<String> {
    let mut explorer = Explorer::<S>::new(setup, depth);
    explorer.ignored = IgnoredSyncs::Site(site);
    explorer.run_all(start, workloads).err().map(|violation| violation.to_string())
}

#[test]
fn each_sync_of_the_naive_store_is_missed() {
    let setup = NaiveSetup { blocks: 16, flaw: Flaw::None };
    let depth = Depth::default();
    let start = Explorer::<Naive>::new(&setup, depth).start(16 * BLOCK, &[]).unwrap();
    let workloads: Vec<_> =
        (0..30).map(|seed| random(PLAIN_KINDS, 8, 8, &Sense::new(16 * BLOCK), seed)).collect();
    let sites = sync_sites::<Naive>(&setup, &start, &workloads).unwrap();
    assert_eq!(sites.len(), 2, "{sites:?}");
    for site in sites {
        let found = without::<Naive>(&setup, depth, &start, &workloads, site);
        let found = found.unwrap_or_else(|| panic!("nobody misses the sync at {site:?}"));
        println!("{site:?}: {}", found.lines().next().unwrap());
    }
}
