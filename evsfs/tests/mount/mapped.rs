//! Mapping the view into memory, in cached mode.
//!
//! Unsafe, since a mapping is memory that others can change.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Command, Stdio};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

use crate::disk::{Aligned, Disk, Kind, MIB, each_kind, read};

each_kind! {
    mapped_pages_and_descriptors_see_the_same;
    without_a_cache_nothing_is_mapped_for_sharing;
    f7_what_is_stored_through_a_mapping_is_in_no_hole;
    direct_io_and_a_mapping_see_each_others_writes;
    two_processes_share_one_mapping;
}

fn map(file: &File, length: usize) -> Result<*mut u8, Errno> {
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of this program.
    unsafe { mmap(std::ptr::null_mut(), length, protection, flags, file, 0) }.map(<*mut _>::cast)
}

fn mapped_pages_and_descriptors_see_the_same(kind: Kind) {
    const LENGTH: usize = 4 * MIB as usize;
    let mut disk = Disk::with(kind, 4 * MIB, &["--cached"]);
    let view = disk.open();
    view.write_all_at(b"written first", 10_000).unwrap();
    let memory = map(&view, LENGTH).expect("it can be mapped");
    {
        // SAFETY: the mapping has this length and lives until munmap below; the file is not changed through other means while
        // the slice is in use.
        let bytes = unsafe { std::slice::from_raw_parts_mut(memory, LENGTH) };
        assert_eq!(&bytes[10_000..10_013], b"written first");
        bytes[2_000_000..2_000_006].copy_from_slice(b"mapped");
    }
    assert_eq!(read(&view, 2_000_000, 6), b"mapped");
    // SAFETY: the mapping is whole; nothing refers to it after munmap.
    unsafe {
        msync(memory.cast(), LENGTH, MsyncFlags::SYNC).unwrap();
        munmap(memory.cast(), LENGTH).unwrap();
    }
    drop(view);
    disk.detach();
    disk.attach();
    assert_eq!(read(&disk.open(), 2_000_000, 6), b"mapped");
    assert_eq!(read(&disk.open(), 10_000, 13), b"written first");
}

fn without_a_cache_nothing_is_mapped_for_sharing(kind: Kind) {
    let disk = Disk::new(kind, MIB);
    assert_eq!(map(&disk.open(), 4096), Err(Errno::NODEV));
}

/// The kernel has it alone until it writes it back, and nobody can tell by asking the disk.
fn f7_what_is_stored_through_a_mapping_is_in_no_hole(kind: Kind) {
    const LENGTH: usize = 4 * MIB as usize;
    let disk = Disk::with(kind, 4 * MIB, &["--cached"]);
    let view = disk.open();
    let memory = map(&view, LENGTH).expect("it can be mapped");
    // SAFETY: the mapping has this length, and nothing else refers to it.
    unsafe { memory.add(2_000_000).write(7) };
    let mut at = 0;
    let found = loop {
        let Ok(data) = seek(&view, SeekFrom::Data(at)) else { break false };
        let hole = seek(&view, SeekFrom::Hole(data)).unwrap();
        if (data..hole).contains(&2_000_000) {
            break true;
        }
        at = hole;
    };
    // SAFETY: the mapping is whole; nothing refers to it after munmap.
    unsafe { munmap(memory.cast(), LENGTH).unwrap() };
    assert!(found, "a copy that leaves holes out would lose it");
    assert_eq!(seek(&view, SeekFrom::Data(4 * MIB)), Err(Errno::NXIO));
    assert_eq!(read(&view, 2_000_000, 1), [7]);
}

/// A mapping of a whole disk. Others change it as well, so its bytes are read and written one by one.
struct Shared {
    memory: *mut u8,
    length: usize,
}

impl Shared {
    fn of(file: &File, length: usize) -> Self {
        Self { memory: map(file, length).expect("it can be mapped"), length }
    }

    fn load(&self, at: usize, length: usize) -> Vec<u8> {
        assert!(at + length <= self.length);
        // SAFETY: within the mapping, which lives as long as this value.
        (at..at + length).map(|at| unsafe { self.memory.add(at).read_volatile() }).collect()
    }

    fn store(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.length);
        for (at, byte) in (at..).zip(bytes) {
            // SAFETY: as above.
            unsafe { self.memory.add(at).write_volatile(*byte) };
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is whole; nothing refers to it afterwards.
        unsafe { munmap(self.memory.cast(), self.length).unwrap() };
    }
}

/// The kernel writes back what a direct read would miss, and drops what a direct write makes stale.
fn direct_io_and_a_mapping_see_each_others_writes(kind: Kind) {
    const LENGTH: usize = 4 * MIB as usize;
    let mut disk = Disk::with(kind, 4 * MIB, &["--cached"]);
    let view = disk.open();
    let direct =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(disk.path()).unwrap();
    let mapping = Shared::of(&view, LENGTH);
    let mut buffer = Aligned::new(0, 64 << 10);
    for round in 1..=20u8 {
        let at = usize::from(round) * 100_000 / 4096 * 4096;
        mapping.store(at + 5000, &[round; 300]);
        direct.read_exact_at(buffer.bytes_mut(), at as u64).unwrap();
        assert_eq!(buffer.bytes()[5000..5300], [round; 300], "a direct read after a store");
        buffer.bytes_mut().fill(round + 100);
        direct.write_all_at(buffer.bytes(), at as u64).unwrap();
        assert!(
            mapping.load(at, 64 << 10).iter().all(|byte| *byte == round + 100),
            "a load after a direct write"
        );
        assert!(read(&view, at as u64, 64 << 10).iter().all(|byte| *byte == round + 100));
        mapping.store(at, &[round]);
    }
    drop(mapping);
    drop((view, direct));
    disk.detach();
    disk.attach();
    for round in 1..=20u8 {
        let at = u64::from(round) * 100_000 / 4096 * 4096;
        assert_eq!(read(&disk.open(), at, 2), [round, round + 100]);
    }
}

/// The other process maps it by itself, answers what it finds, and ends without a msync.
fn two_processes_share_one_mapping(kind: Kind) {
    const LENGTH: usize = 4 * MIB as usize;
    const OTHER: &str = "
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(fd, 4 << 20, mmap.MAP_SHARED)
for line in sys.stdin:
    at = int(line)
    m[at + 4096:at + 4101] = bytes(reversed(m[at:at + 5]))
    print('done', flush=True)
";
    let mut disk = Disk::with(kind, 4 * MIB, &["--cached"]);
    let view = disk.open();
    let mapping = Shared::of(&view, LENGTH);
    let mut other = Command::new("python3")
        .args(["-c", OTHER])
        .arg(disk.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut ask, answers) = (other.stdin.take().unwrap(), BufReader::new(other.stdout.take().unwrap()));
    let mut answers = answers.lines();
    for round in 0..20u8 {
        let at = usize::from(round) * 150_000 + 11;
        mapping.store(at, &[round, 1, 2, 3, 4]);
        writeln!(ask, "{at}").unwrap();
        assert_eq!(answers.next().unwrap().unwrap(), "done");
        assert_eq!(mapping.load(at + 4096, 5), [4, 3, 2, 1, round]);
    }
    drop(ask);
    assert!(other.wait().unwrap().success());
    assert_eq!(read(&view, 11 + 4096, 5), [4, 3, 2, 1, 0], "by a descriptor");
    drop(mapping);
    drop(view);
    disk.detach();
    disk.attach();
    for round in 0..20u8 {
        let at = u64::from(round) * 150_000 + 11;
        assert_eq!(read(&disk.open(), at, 5), [round, 1, 2, 3, 4]);
        assert_eq!(read(&disk.open(), at + 4096, 5), [4, 3, 2, 1, round]);
    }
}
