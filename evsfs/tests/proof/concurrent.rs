//! F4 with many threads: writers, flushers, the committer and the checkpointer run at once, and the power fails at any moment.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use evsfs::backing::sim::{Bound, CrashPoint, Dice, SimBacking};
use evsfs::engine::Volume;

use crate::engine::{EngineSetup, open};
use crate::oracle::to_usize;
use crate::workload::{BLOCK, bytes_of};

const WRITERS: u64 = 3;
const BLOCKS_EACH: u64 = 40;

/// A write by the one thread that owns its blocks; times are ticks of one clock.
#[derive(Clone, Copy)]
struct Written {
    block: u64,
    stamp: u64,
    began: u64,
    ended: u64,
}

#[derive(Default)]
struct Log {
    written: Mutex<Vec<Written>>,
    /// When each successful flush began and ended.
    flushed: Mutex<Vec<(u64, u64)>>,
    clock: AtomicU64,
}

impl Log {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

fn write(volume: &Volume, log: &Log, writer: u64, seed: u64, stop: &AtomicBool) {
    let mut dice = Dice::new(seed ^ writer);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let block = writer * BLOCKS_EACH + dice.below(BLOCKS_EACH);
        let count = (1 + dice.below(4)).min((writer + 1) * BLOCKS_EACH - block);
        number += 1;
        let stamp = seed << 40 | (writer + 1) << 32 | number << 4;
        let data: Vec<u8> = (0..count).flat_map(|at| bytes_of(stamp + at, BLOCK)).collect();
        let began = log.tick();
        // Announced before it happens, so that a crash in its midst knows of it.
        let first = {
            let mut written = log.written.lock().unwrap();
            written.extend((0..count).map(|at| Written {
                block: block + at,
                stamp: stamp + at,
                began,
                ended: u64::MAX,
            }));
            written.len() - to_usize(count)
        };
        volume.write(block * BLOCK, &data).unwrap();
        let ended = log.tick();
        let mut written = log.written.lock().unwrap();
        for write in written[first..].iter_mut().filter(|write| write.stamp & !15 == stamp) {
            write.ended = ended;
        }
        drop(written);
        if dice.below(6) == 0 {
            let began = log.tick();
            volume.flush().unwrap();
            let ended = log.tick();
            log.flushed.lock().unwrap().push((began, ended));
        }
    }
}

/// A crash point and what is known at it.
struct Cut {
    point: CrashPoint,
    /// Ticks just before and just after it was taken.
    before: u64,
    after: u64,
}

fn check(setup: &EngineSetup, cut: &Cut, log: &Log, seed: u64) -> usize {
    let written: Vec<Written> =
        log.written.lock().unwrap().iter().copied().filter(|write| write.began <= cut.after).collect();
    let flushed = log.flushed.lock().unwrap();
    let durable =
        flushed.iter().filter(|flush| flush.1 <= cut.before).map(|flush| flush.0).max().unwrap_or(0);
    drop(flushed);
    let states = cut.point.states(&Bound { exhaustive: 64, random: 12, torn: 4 }, seed);
    for (number, survivors) in states.iter().enumerate() {
        let file = SimBacking::from_image(cut.point.image(survivors));
        let volume = open(setup, &file, seed + u64::try_from(number).unwrap()).unwrap();
        let mut newest = 0;
        let mut visible = Vec::new();
        for block in 0..WRITERS * BLOCKS_EACH {
            let mut bytes = vec![0; to_usize(BLOCK)];
            volume.read(block * BLOCK, &mut bytes).unwrap();
            let mine = written.iter().filter(|write| write.block == block);
            let found = mine.clone().rev().find(|write| {
                bytes[..8] == bytes_of(write.stamp, 8) && bytes == bytes_of(write.stamp, BLOCK)
            });
            assert!(found.is_some() || bytes.iter().all(|&b| b == 0), "block {block} was never so");
            newest = newest.max(found.map_or(0, |write| write.began));
            visible.push((block, found.map_or(0, |write| write.began)));
        }
        // A commit takes every write that was completed before it: whatever ended before the newest visible write began is
        // visible, and so is whatever ended before the last acknowledged flush began.
        for (block, began) in visible {
            let must = written
                .iter()
                .filter(|write| write.block == block && write.ended < newest.max(durable))
                .map(|write| write.began)
                .max()
                .unwrap_or(0);
            assert!(began >= must, "block {block} is of tick {began}, but that of {must} must be there");
        }
    }
    states.len()
}

fn race(setup: &EngineSetup, seed: u64, cuts: usize) -> usize {
    let file = SimBacking::new();
    crate::engine::create(setup, &file, seed).unwrap();
    let volume = Arc::new(open(setup, &file, seed + 1).unwrap());
    let log = Log::default();
    log.tick();
    let stop = AtomicBool::new(false);
    let mut taken = Vec::new();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (volume, log, stop) = (&volume, &log, &stop);
            scope.spawn(move || write(volume, log, writer, seed, stop));
        }
        let mut dice = Dice::new(seed);
        for _ in 0..cuts {
            let until = log.clock.load(Ordering::SeqCst) + 20 + dice.below(200);
            while log.clock.load(Ordering::SeqCst) < until {
                std::thread::yield_now();
            }
            if dice.below(3) == 0 {
                volume.checkpoint().unwrap();
            }
            let before = log.tick();
            let point = file.crash_point();
            taken.push(Cut { point, before, after: log.tick() });
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(volume);
    taken.iter().zip(0..).map(|(cut, number)| check(setup, cut, &log, seed * 1_000 + number)).sum()
}

#[test]
fn f4_a_crash_among_many_writers_shows_a_consistent_cut() {
    let mut states = 0;
    for seed in 1..=6 {
        let setup = EngineSetup { background: true, ..EngineSetup::small(WRITERS * BLOCKS_EACH) };
        states += race(&setup, seed, 12);
    }
    println!("{states} states of concurrent runs");
    assert!(states > 2_000);
}
