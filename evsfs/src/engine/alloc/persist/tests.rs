use super::super::Extent;
use super::super::tests::store;
use super::*;
use crate::engine::tests::Sparse;

/// A file of 64 TiB: slots are taken and freed in each group of its regions, in rounds of which some fail, and what is not in memory is read again.
#[test]
fn f6_of_the_allocation_tree_of_a_large_file_no_more_is_kept_than_fits() {
    const GROUPS: u64 = 4096;
    const KEEP: usize = 128;
    let store = store(Arc::new(Sparse::default()));
    let file = GROUPS * FAN * REGION_SLOTS;
    let extent = Extent { now: file, once: file };
    let slot = |group: u64, round: u64| {
        (group * FAN + (group * 7 + round) % FAN) * REGION_SLOTS + 100 + group % 1000
    };
    let alloc = Allocator::new(Vec::new(), extent, 0, 64, KEEP);
    let mut model = std::collections::BTreeSet::new();
    let mut upper = Vec::new();
    for round in 0..4 {
        let groups = (0..GROUPS).filter(|group| group % (round + 1) == 0);
        let taken: Vec<u64> = groups.map(|group| slot(group, round)).collect();
        let freed: Vec<u64> =
            model.iter().copied().filter(|slot| slot / REGION_SLOTS % 3 == round % 3).collect();
        alloc.recover(&store, &taken).unwrap();
        alloc.begin_cut(&store);
        let prepared = alloc.prepare(&store, &[], &freed, &[], &[]).unwrap();
        assert!(prepared.lower.len() <= KEEP / 8, "{} pages for later", prepared.lower.len());
        if round == 2 {
            drop(prepared);
            alloc.abandon_cut();
            alloc.free(&store, &taken);
            continue;
        }
        upper.clone_from(&prepared.upper);
        alloc.commit(&store, prepared, &freed);
        freed.iter().for_each(|slot| assert!(model.remove(slot)));
        model.extend(taken);
        assert!(alloc.pages() <= KEEP, "{} pages in memory", alloc.pages());
        assert_eq!(alloc.used(), u64::try_from(model.len()).unwrap());
    }
    assert!(model.len() > 3000, "{}", model.len());
    for alloc in [&alloc, &Allocator::new(upper, extent, 0, 64, KEEP)] {
        for slot in (0..GROUPS).flat_map(|group| (0..4).map(move |round| slot(group, round))) {
            let mut inner = alloc.inner.lock();
            let bits = &alloc.load(&mut inner, &store, slot / REGION_SLOTS).unwrap().bits;
            assert_eq!(bits.is_set(slot % REGION_SLOTS), model.contains(&slot), "slot {slot}");
        }
        assert!(alloc.pages() <= KEEP, "{} pages in memory", alloc.pages());
    }
    // What a search passes over because it is full is what is full.
    let mut inner = alloc.inner.lock();
    for group in 0..GROUPS {
        let most = inner.most_free[&group];
        let entries = alloc.group(&mut inner, &store, group).unwrap();
        assert_eq!(most, most_free(entries), "group {group}");
    }
}
