//! F4: after any crash the volume opens without repair and shows the state at some commit not older than the last promise.

use std::time::Instant;

use evsfs::backing::sim::{Bound, SimBacking};

use crate::engine::{Engine, EngineSetup};
use crate::explore::{Depth, Explorer, Start};
use crate::subject::Subject;
use crate::workload::{ALL_KINDS, BLOCK, Kind, Op, Sense, TINY_GROUPS, exhaustive, random};

/// Blocks of the volumes: the map has two levels.
const BLOCKS: u64 = 200;

/// `EVSFS_CRASH_SCALE` multiplies the number of random workloads and the states tried of each (default 1).
pub(crate) fn scale() -> u64 {
    std::env::var("EVSFS_CRASH_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1).max(1)
}

/// What a volume holds when the workloads begin.
fn before() -> Vec<Op> {
    vec![
        Op::Write { offset: 0, len: 10 * BLOCK, stamp: 1 << 40 },
        Op::Write { offset: 130 * BLOCK, len: 2 * BLOCK, stamp: 2 << 40 },
        Op::Checkpoint,
        Op::Write { offset: BLOCK, len: BLOCK, stamp: 3 << 40 },
    ]
}

/// The same volume in use: groups are in the log, a snapshot holds older blocks, something is dirty.
fn in_use(setup: &EngineSetup) -> Start {
    let explorer = Explorer::<Engine>::new(setup, Depth::default());
    let mut start = explorer.start(BLOCKS * BLOCK, &before()).unwrap();
    let file = SimBacking::from_image(start.image);
    let mut engine = Engine::open(setup, &file, 5).unwrap();
    for op in [
        Op::Write { offset: 2 * BLOCK, len: BLOCK, stamp: 4 << 40 },
        Op::Flush,
        Op::Discard { offset: 5 * BLOCK, len: BLOCK },
        Op::Write { offset: 3 * BLOCK, len: 2 * BLOCK, stamp: 5 << 40 },
        Op::Flush,
    ] {
        engine.apply(&op).unwrap();
        start.state.apply(&op);
    }
    drop(engine);
    start.image = file.image();
    start
}

fn depth() -> Depth {
    let scale = u32::try_from(scale()).unwrap();
    Depth {
        bound: Bound { exhaustive: 512, random: 96 * scale, torn: 16 * scale },
        full_every: 64,
        again_every: 192,
        again_bound: Bound { exhaustive: 32, random: 16, torn: 4 },
    }
}

/// Kinds as a guest uses them: many writes and flushes, the rest now and then.
const COMMON: &[Kind] = &[
    Kind::Aligned,
    Kind::Aligned,
    Kind::Aligned,
    Kind::Unaligned,
    Kind::Unaligned,
    Kind::Across,
    Kind::Wide,
    Kind::Overwrite,
    Kind::Discard,
    Kind::Discard,
    Kind::Flush,
    Kind::Flush,
    Kind::Flush,
    Kind::Checkpoint,
    Kind::Rekey,
    Kind::Reopen,
    Kind::Kill,
];

fn run_all(name: &str, explorer: &Explorer<'_, Engine>, start: &Start, workloads: &[Vec<Op>]) {
    let began = Instant::now();
    explorer.run_all(start, workloads).unwrap_or_else(|violation| panic!("{violation}"));
    println!("{name}: {} in {:?}", explorer.tally, began.elapsed());
}

#[test]
fn f4_every_short_workload() {
    let setup = EngineSetup::small(BLOCKS);
    let explorer = Explorer::<Engine>::new(&setup, depth());
    let start = in_use(&setup);
    let sense = Sense::new(BLOCKS * BLOCK);
    let workloads = exhaustive(ALL_KINDS, 3, &sense);
    run_all("every workload of three operations", &explorer, &start, &workloads);
}

#[test]
fn f4_long_random_workloads() {
    let sense = Sense::new(BLOCKS * BLOCK);
    // A log that wraps all the time, larger groups, a log that is seldom full, one that is compacted.
    for (kinds, dirty_limit, ring_pages, seeds) in
        [(COMMON, 12, 8, 36), (COMMON, 40, 8, 24), (COMMON, 100, 64, 16), (TINY_GROUPS, 400, 32, 16)]
    {
        let setup = EngineSetup { dirty_limit, ring_pages, ..EngineSetup::small(BLOCKS) };
        let explorer = Explorer::<Engine>::new(&setup, depth());
        let start = in_use(&setup);
        let workloads: Vec<_> =
            (0..seeds * scale()).map(|seed| random(kinds, 60, 24, &sense, seed * 7 + ring_pages)).collect();
        run_all("long random workloads", &explorer, &start, &workloads);
    }
}

#[test]
fn f4_a_crash_while_a_volume_is_created_leaves_none_or_a_whole_one() {
    let setup = EngineSetup::small(BLOCKS);
    let file = SimBacking::new();
    file.record_crash_points();
    Engine::create(&setup, &file, 1).unwrap();
    let mut opened = 0;
    let mut states = 0;
    for point in file.take_crash_points() {
        for survivors in point.states(&Bound::default(), 1) {
            states += 1;
            let file = SimBacking::from_image(point.image(&survivors));
            let Ok(engine) = Engine::open(&setup, &file, 2) else { continue };
            opened += 1;
            engine.check().unwrap();
            let mut bytes = vec![1; 4096];
            engine.read(7 * BLOCK, &mut bytes).unwrap();
            assert!(bytes.iter().all(|&b| b == 0) && engine.size() == BLOCKS * BLOCK);
        }
    }
    println!("{states} states, {opened} of them volumes");
    assert!(states > 200 && opened > 50);
}
