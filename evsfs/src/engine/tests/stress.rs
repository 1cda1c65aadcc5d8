//! Many threads at once on few blocks and few slots, so that slots are freed and used again all the time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::super::{BLOCK, Volume};
use super::Rig;

const BLOCKS: u64 = 600;
const VERSIONS: u64 = 250;

/// A block that says which it is and which version, all over.
fn fill(block: u64, version: u64) -> Vec<u8> {
    [block, version].iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>().repeat(256)
}

/// The version that a block holds; panics if it is a mixture, or another block.
fn version_of(block: u64, bytes: &[u8]) -> u64 {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let version = number(8);
    if version == 0 {
        assert!(bytes.iter().all(|byte| *byte == 0), "block {block} is neither written nor a hole");
        return 0;
    }
    assert!(*bytes == fill(block, version), "block {block} is a mixture");
    version
}

fn write_all(volume: &Volume, part: u64, flushed: &AtomicU64) {
    for version in 1..=VERSIONS {
        let mut block = part;
        while block < BLOCKS {
            match (block + version) % 5 {
                // Two halves, each changed in place.
                0 => {
                    let bytes = fill(block, version);
                    volume.write(block * BLOCK, &bytes).unwrap();
                    volume.write(block * BLOCK + 100, &bytes[100..200]).unwrap();
                }
                _ => volume.write(block * BLOCK, &fill(block, version)).unwrap(),
            }
            block += 2;
        }
        if version % 7 == 0 {
            volume.flush().unwrap();
            flushed.fetch_max(version, Ordering::Relaxed);
        }
    }
}

fn read_all(volume: &Volume, stop: &AtomicBool) {
    let mut seen = vec![0; usize::try_from(BLOCKS).unwrap()];
    let mut bytes = vec![0; 16 * 4096];
    let mut round = 0u64;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let first = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (BLOCKS - 16);
        volume.read(first * BLOCK, &mut bytes).unwrap();
        for (block, bytes) in (first..).zip(bytes.chunks(4096)) {
            let version = version_of(block, bytes);
            let seen = &mut seen[usize::try_from(block).unwrap()];
            assert!(version >= *seen, "block {block} went back from version {seen} to {version}");
            *seen = version;
        }
    }
}

/// Trap 1 of the design: a slot is freed and used again between look-up and read. Without the second look-up this fails at once.
#[test]
fn f2_readers_never_see_a_slot_in_the_midst_of_reuse() {
    let mut rig = Rig::new(BLOCKS * BLOCK, 64);
    rig.options.background = true;
    rig.options.dirty_limit = Some(256);
    let volume = rig.open();
    let (stop, flushed) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| read_all(&volume, &stop))).collect();
        let writers: Vec<_> = (0..2)
            .map(|part| {
                scope.spawn({
                    let (volume, flushed) = (&volume, &flushed);
                    move || write_all(volume, part, flushed)
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    let stats = volume.stats();
    assert!(stats.checkpoints > 50, "{stats:?}");
    assert_eq!(stats.double_frees, 0);
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
    drop(volume);
    let volume = rig.open();
    for block in 0..BLOCKS {
        let mut bytes = vec![0; 4096];
        volume.read(block * BLOCK, &mut bytes).unwrap();
        assert!(version_of(block, &bytes) >= flushed.load(Ordering::Relaxed) / 7 * 7 - 7);
    }
}
