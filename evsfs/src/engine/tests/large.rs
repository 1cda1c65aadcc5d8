//! Files that reach into many regions.

use std::sync::Arc;

use super::super::{BLOCK, CheckReport, Volume};
use super::{Rig, Sparse};
use crate::backing::Backing;
use crate::format::layout::REGION_SLOTS;

const MIB: u64 = 1 << 20;

/// What a check says that has so much memory, and how many slots it opened.
fn check(rig: &mut Rig, file: &Arc<Sparse>, memory: u64) -> (CheckReport, u64) {
    rig.options.memory = memory;
    let volume = rig.try_open_on(Arc::clone(file) as _).unwrap();
    let before = volume.stats().opens;
    let report = volume.check(&mut |_, _| {}).unwrap();
    (report, volume.stats().opens - before)
}

#[test]
fn f6_a_check_that_walks_several_times_for_want_of_memory_says_the_same() {
    const REGIONS: u64 = 14;
    let mut rig = Rig::new(64 * MIB, 64);
    let file = Arc::new(Sparse::default());
    file.write_at(&rig.memory.bytes.read(), 0).unwrap();
    let open = |rig: &Rig| -> Volume { rig.try_open_on(Arc::clone(&file) as _).unwrap() };
    // Of a file that was made longer the end is used first.
    for number in 1..=REGIONS {
        file.set_len((number * 3 * REGION_SLOTS + 100) * BLOCK).unwrap();
        let volume = open(&rig);
        volume.write(number * MIB / 2, &vec![7; 1 << 20]).unwrap();
        if number % 5 == 0 {
            volume.snapshot("one", uuid::Uuid::from_u128(number.into()), 1).unwrap();
        }
        volume.close().unwrap();
    }
    let few = 64 << 10;
    let compare = |rig: &mut Rig| {
        let (once, opens) = check(rig, &file, 192 << 20);
        let (often, more) = check(rig, &file, few);
        assert_eq!(often, once);
        assert!(more > opens + 8, "{more} slots opened in several walks, {opens} in one");
        once
    };
    let report = compare(&mut rig);
    assert!(report.is_sound() && report.blocks > 1000, "{report:?}");

    rig.options.memory = 192 << 20;
    let volume = open(&rig);
    let core = volume.core();
    let lost = core.alloc.take(&core.store, 3).unwrap();
    assert_eq!(lost.runs.iter().map(|run| run.count).sum::<u64>(), 3);
    core.alloc.land(&lost);
    // (Of regions that nothing is taken from now.)
    let slots = [2, 6].map(|part| core.resolve_one(part * MIB / BLOCK).unwrap().slot());
    assert_ne!(slots[0] / REGION_SLOTS, slots[1] / REGION_SLOTS);
    core.alloc.free(&core.store, &slots);
    volume.write(0, &[1; 4096]).unwrap();
    volume.close().unwrap();
    let report = compare(&mut rig);
    assert_eq!((report.leaked_slots, report.unaccounted_slots), (3, 2), "{report:?}");

    file.damage(slots[1]);
    let snapshot = open(&rig).core().versions.read()[0].root.slot();
    file.damage(snapshot);
    let report = compare(&mut rig);
    assert_eq!(report.bad_count, 2, "{report:?}");
    assert!(report.leaked_slots > 3 && report.bad.iter().any(|bad| bad.page_level.is_some()), "{report:?}");
}
