//! What things cost: bytes written (F5) and memory (F6), counted.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::{BLOCK, Volume};
use super::{Rig, read};

const MIB: u64 = 1 << 20;

/// A permutation of the blocks that is as good as random, for a power of two of them.
pub(super) fn scattered(number: u64, blocks: u64) -> u64 {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % blocks
}

/// Bytes written to the file for each byte of the user.
fn amplification(rig: &Rig, user: u64, run: impl FnOnce(&Volume)) -> f64 {
    let volume = rig.open();
    let before = rig.memory.written.load(Ordering::Relaxed);
    run(&volume);
    volume.close().unwrap();
    let written = rig.memory.written.load(Ordering::Relaxed) - before;
    f64::from(u32::try_from(written / BLOCK).unwrap()) / f64::from(u32::try_from(user / BLOCK).unwrap())
}

#[test]
fn f5_sequential_writes_cost_at_most_5_percent_more() {
    let rig = Rig::new(256 * MIB, 1024);
    let cost = amplification(&rig, 128 * MIB, |volume| {
        for number in 0..128 {
            volume.write(number * MIB, &vec![1; 1 << 20]).unwrap();
        }
    });
    println!("sequential: {cost:.3}");
    assert!(cost <= 1.05, "{cost}");
}

#[test]
fn f5_a_small_write_with_flush_costs_at_most_2_4_blocks() {
    let rig = Rig::new(1 << 30, 1024);
    let count = 40_000;
    let cost = amplification(&rig, count * BLOCK, |volume| {
        for number in 0..count {
            volume.write(scattered(number, (1 << 30) / BLOCK) * BLOCK, &[1; 4096]).unwrap();
            volume.flush().unwrap();
        }
    });
    println!("4 KiB and flush: {cost:.3}");
    assert!(cost <= 2.4, "{cost}");
}

/// A hundredth of 100 GiB with a hundredth of the default dirty limit: the ratio of dirty entries to leaves is what counts.
#[test]
fn f5_scattered_writes_cost_at_most_1_35() {
    let mut rig = Rig::new(1 << 30, 1024);
    rig.options.dirty_limit = Some(7_340);
    let count = 44_000;
    let cost = amplification(&rig, count * BLOCK, |volume| {
        for number in 0..count {
            volume.write(scattered(number, (1 << 30) / BLOCK) * BLOCK, &[1; 4096]).unwrap();
        }
    });
    println!("scattered: {cost:.3}");
    assert!(cost <= 1.35, "{cost}");
}

#[test]
fn f6_memory_is_bounded_on_a_huge_volume_and_so_is_the_time_to_open_it() {
    let mut rig = Rig::new(32 << 40, 1024);
    rig.options.memory = 16 << 20;
    let volume = rig.open();
    for number in 0..60_000 {
        volume.write(scattered(number, (32 << 40) / BLOCK) * BLOCK, &[1; 4096]).unwrap();
        if number % 5_000 == 0 {
            let stats = volume.stats();
            let bytes = stats.dirty_entries * 64 + stats.cached_pages * 4224 + stats.loaded_regions * 4300;
            assert!(bytes < 16 << 20, "{bytes} bytes: {stats:?}");
        }
    }
    volume.flush().unwrap();
    drop(volume);
    let start = Instant::now();
    let volume = rig.open();
    assert!(start.elapsed() < Duration::from_secs(2), "after a crash: {:?}", start.elapsed());
    assert_eq!(read(&volume, scattered(59_999, (32 << 40) / BLOCK) * BLOCK, 4096), [1; 4096]);
    volume.close().unwrap();
    let opens = {
        let volume = rig.open();
        volume.stats().opens
    };
    assert!(opens < 20, "{opens} pages opened after a clean detach");
}
