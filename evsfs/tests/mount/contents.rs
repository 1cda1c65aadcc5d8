//! What is read is what was written, at any offset and length, by any way of reading and writing (F10).

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::pipe::SpliceFlags;

use crate::disk::{Disk, Kind, MIB, Numbers, each_kind, read};

each_kind! {
    f10_any_offset_and_length_match_a_byte_vector;
    f10_direct_io_of_aligned_buffers;
    many_openers_write_and_read_their_own_parts_at_once;
    sendfile_splice_and_copy_file_range_copy;
    with_a_cache_sendfile_splice_and_copy_file_range_copy;
    reads_and_writes_at_the_end_are_cut_there;
}

fn f10_any_offset_and_length_match_a_byte_vector(kind: Kind) {
    const SIZE: u64 = 8 * MIB;
    let mut disk = Disk::new(kind, SIZE);
    let mut numbers = Numbers(0x5eed_0001);
    let mut expected = vec![0u8; SIZE as usize];
    for round in 0..3 {
        let view = disk.open();
        for _ in 0..250 {
            let length = 1 + match numbers.below(4) {
                0 => numbers.below(600),
                1 => numbers.below(9000),
                2 => numbers.below(200_000),
                _ => 4095,
            };
            let mut offset = numbers.below(SIZE - length);
            if numbers.below(3) == 0 {
                offset -= offset % 4096;
            }
            let range = offset as usize..(offset + length) as usize;
            if numbers.below(2) == 0 {
                let data = numbers.bytes(range.len());
                view.write_all_at(&data, offset).unwrap();
                expected[range].copy_from_slice(&data);
            } else {
                assert!(read(&view, offset, range.len()) == expected[range], "{length} bytes at {offset}");
            }
        }
        assert!(read(&view, 0, SIZE as usize) == expected, "round {round}, while attached");
        drop(view);
        disk.detach();
        disk.attach();
        assert!(read(&disk.open(), 0, SIZE as usize) == expected, "round {round}, attached again");
    }
}

fn f10_direct_io_of_aligned_buffers(kind: Kind) {
    let disk = Disk::new(kind, 16 * MIB);
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(disk.path())
        .expect("direct I/O is possible");
    let mut space = vec![0u8; 2 * MIB as usize + 4096];
    let start = space.as_ptr().align_offset(4096);
    let buf = &mut space[start..start + 2 * MIB as usize];
    let data = Numbers(7).bytes(buf.len());
    buf.copy_from_slice(&data);
    direct.write_all_at(buf, 3 * 4096).unwrap();
    direct.sync_all().unwrap();
    buf.fill(0);
    direct.read_exact_at(buf, 3 * 4096).unwrap();
    assert!(*buf == data[..]);
    assert!(read(&disk.open(), 3 * 4096, data.len()) == data, "seen through another descriptor");
}

fn many_openers_write_and_read_their_own_parts_at_once(kind: Kind) {
    const PART: u64 = MIB + 12_288 + 7;
    let disk = Disk::new(kind, 16 * MIB);
    thread::scope(|scope| {
        for part in 0..8u64 {
            let disk = &disk;
            scope.spawn(move || {
                let (mut numbers, view) = (Numbers(part + 1), disk.open());
                for _ in 0..6 {
                    let data = numbers.bytes(PART as usize);
                    for (index, chunk) in data.chunks(100_000).enumerate() {
                        view.write_all_at(chunk, part * PART + index as u64 * 100_000).unwrap();
                    }
                    assert!(read(&disk.open(), part * PART, data.len()) == data, "part {part}");
                }
            });
        }
    });
}

/// A promise of the format, not of a bare file (`--raw`): ext4 itself lets a read see a page of two writes.
#[test]
fn d10_overlapping_writes_of_a_block_are_never_mixed() {
    const BLOCKS: usize = 16;
    let disk = Disk::new(Kind::Plain, MIB);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (1..=2u8)
            .map(|value| {
                let view = disk.open();
                scope.spawn(move || {
                    for _ in 0..300 {
                        view.write_all_at(&[value; BLOCKS * 4096], 0).unwrap();
                    }
                })
            })
            .collect();
        let (view, done) = (disk.open(), &done);
        let reader = scope.spawn(move || {
            let mut rounds = 0;
            while !done.load(Ordering::Acquire) || rounds == 0 {
                for block in read(&view, 0, BLOCKS * 4096).chunks(4096) {
                    assert!(block.iter().all(|byte| *byte == block[0]), "a block of two writes");
                }
                rounds += 1;
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Release);
        reader.join().unwrap();
    });
}

fn sendfile_splice_and_copy_file_range_copy(kind: Kind) {
    copies(&Disk::new(kind, 16 * MIB));
}

fn with_a_cache_sendfile_splice_and_copy_file_range_copy(kind: Kind) {
    copies(&Disk::with(kind, 16 * MIB, &["--cached"]));
}

/// Out of the disk, into it, and within it.
fn copies(disk: &Disk) {
    let data = Numbers(3).bytes(3 * MIB as usize + 5);
    disk.open().write_all_at(&data, 0).unwrap();

    let target = File::create_new(disk.dir().join("sent")).unwrap();
    let mut offset = 0u64;
    while offset < data.len() as u64 {
        let left = data.len() - offset as usize;
        assert!(rustix::fs::sendfile(&target, disk.open(), Some(&mut offset), left).unwrap() > 0);
    }
    assert!(fs::read(disk.dir().join("sent")).unwrap() == data);

    let view = disk.open();
    let (mut from, mut to) = (1u64, 4 * MIB + 3);
    while from < 2 * MIB {
        let left = (2 * MIB - from) as usize;
        assert!(rustix::fs::copy_file_range(&view, Some(&mut from), &view, Some(&mut to), left).unwrap() > 0);
    }
    assert!(read(&view, 4 * MIB + 3, 2 * MIB as usize - 1) == data[1..2 * MIB as usize]);

    // At a place that is no multiple of anything, so the ends are parts of blocks.
    let into = 8 * MIB + 13;
    let source = File::open(disk.dir().join("sent")).unwrap();
    let mut target = disk.open();
    target.seek(SeekFrom::Start(into)).unwrap();
    let mut sent = 0u64;
    while sent < data.len() as u64 {
        let left = data.len() - sent as usize;
        assert!(rustix::fs::sendfile(&target, &source, Some(&mut sent), left).unwrap() > 0);
    }
    assert!(read(&disk.open(), into, data.len()) == data, "sent into the disk");

    let (reader, mut writer) = std::io::pipe().unwrap();
    let (into, data) = (12 * MIB + 4095, &data[..2 * MIB as usize]);
    thread::scope(|scope| {
        scope.spawn(move || writer.write_all(data).unwrap());
        let mut at = into;
        while at < into + data.len() as u64 {
            let left = (into + data.len() as u64 - at) as usize;
            let moved = rustix::pipe::splice(&reader, None, &view, Some(&mut at), left, SpliceFlags::empty());
            assert!(moved.unwrap() > 0);
        }
    });
    assert!(read(&disk.open(), into, data.len()) == *data, "spliced into the disk");
    assert!(read(&disk.open(), into - 5, 5) == [0; 5], "and nothing beside it");
}

fn reads_and_writes_at_the_end_are_cut_there(kind: Kind) {
    let disk = Disk::new(kind, MIB);
    let view = disk.open();
    assert_eq!(view.write_at(&[5; 8192], MIB - 4096).unwrap(), 4096);
    assert_eq!(view.write_at(&[5; 1], MIB).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    let mut buf = [0; 8192];
    assert_eq!(view.read_at(&mut buf, MIB - 100).unwrap(), 100);
    assert_eq!(view.read_at(&mut buf, MIB).unwrap(), 0);
    assert_eq!(view.read_at(&mut buf, 5 * MIB).unwrap(), 0);
    assert_eq!(view.metadata().unwrap().len(), MIB);
    assert_eq!(read(&view, MIB - 4096, 4096), [5; 4096]);
}
