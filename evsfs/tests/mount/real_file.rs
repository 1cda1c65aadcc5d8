//! How the volume file is used on real file systems: allocated ahead, grown in large steps, made durable once for each flush (F5), and never
//! believed from a cache that may lie (F4).

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use evsfs::backing::{Backing, FileBacking};
use evsfs::engine::CreateParams;
use evsfs::format::layout::RING_START;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::disk::{Aligned, Disk, Kind, MIB, create_plain};
use crate::hosts::Host;
use crate::trace::Traced;

const BLOCK: u64 = 4096;

/// Its log never has to ask the host for space.
#[test]
fn f5_the_log_is_allocated_when_the_file_is_made_and_the_file_grows_in_large_steps() {
    const SIZE: u64 = 4 << 30;
    let log = CreateParams { size: SIZE }.ring_pages();
    for host in [Host::ext4(192 * MIB), Host::xfs(384 * MIB)] {
        let file = host.path().join("volume");
        create_plain(&file, SIZE);
        let metadata = || fs::metadata(&file).unwrap();
        let slots = metadata().len() / BLOCK;
        assert!(slots >= RING_START + log, "{slots} slots");
        assert!(metadata().blocks() * 512 >= metadata().len(), "there are holes in it");

        let disk = Disk::over(Kind::Plain, &file, &[]);
        let view = disk.open();
        let part = Aligned::new(7, 64 << 10);
        let mut lengths = vec![metadata().len()];
        for number in 0..64 * MIB / (64 << 10) {
            view.write_all_at(part.bytes(), number * (64 << 10)).unwrap();
            lengths.push(metadata().len());
        }
        lengths.dedup();
        assert!(lengths.len() > 2, "it grows: {lengths:?}");
        for step in lengths.windows(2) {
            assert!(step[1] >= step[0] + MIB, "from {} to {}", step[0], step[1]);
        }
    }
}

#[test]
fn f5_a_flush_is_one_fdatasync_of_the_file() {
    const FLUSHES: u64 = 60;
    let disk = Disk::new(Kind::Plain, 64 * MIB);
    let (view, block) = (disk.open(), Aligned::new(1, 4096));
    let write_and_flush = |number: u64| {
        view.write_all_at(block.bytes(), number * 7 % 1000 * BLOCK).unwrap();
        view.sync_all().unwrap();
    };
    // The first of an attach has more to do.
    (0..3).for_each(write_and_flush);
    let seen = disk.dir().join("seen");
    let traced = Traced::new(
        disk.pid,
        &[
            "-f",
            "-y",
            "-e",
            "trace=fsync,fdatasync,sync_file_range,msync,sync,syncfs",
            "-o",
            seen.to_str().unwrap(),
        ],
    );
    (3..3 + FLUSHES).for_each(write_and_flush);
    traced.finish();
    let seen = fs::read_to_string(seen).unwrap();
    let file = disk.file().canonicalize().unwrap();
    let calls: Vec<&str> =
        seen.lines().filter(|line| line.contains("sync") && !line.contains("resumed")).collect();
    assert!(
        calls.iter().all(|line| line.contains("fdatasync(") && line.contains(file.to_str().unwrap())),
        "other calls: {seen}"
    );
    assert_eq!(calls.len() as u64, FLUSHES, "{seen}");
}

/// Whether the kernel has the first page of a file in memory: reading it without waiting works only then.
fn is_cached(path: &Path) -> bool {
    let file = File::open(path).unwrap();
    let mut page = [0; 4096];
    match preadv2(&file, &mut [std::io::IoSliceMut::new(&mut page)], 0, ReadWriteFlags::NOWAIT) {
        Ok(read) => read == page.len(),
        Err(Errno::AGAIN) => false,
        Err(error) => panic!("{error}"),
    }
}

/// After a failed write-back the kernel calls pages clean that the disk does not have: whoever opens a volume to write to it asks the disk.
#[test]
fn f4_whoever_opens_a_file_to_write_to_it_forgets_what_the_kernel_has_of_it() {
    let host = Host::ext4(32 * MIB);
    let path = host.path().join("volume");
    let backing = FileBacking::create(&path).unwrap();
    backing.write_at(&[7; 8192], 0).unwrap();
    // As a process leaves it that is killed: in the cache, and not on the disk.
    drop(backing);
    assert!(is_cached(&path));
    drop(FileBacking::open_read_only(&path).unwrap());
    assert!(is_cached(&path), "who only reads leaves it alone");
    let backing = FileBacking::open(&path).unwrap();
    assert!(!is_cached(&path), "what a killed process left is believed");
    let mut found = [0; 8192];
    backing.read_at(&mut found, 0).unwrap();
    assert_eq!(found, [7; 8192], "it was made durable first");
    assert!(fs::metadata(&path).unwrap().blocks() > 0);
}
