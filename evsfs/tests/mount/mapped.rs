//! Mapping the view into memory, in cached mode.
//!
//! Unsafe, since a mapping is memory that others can change.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

use crate::disk::{Disk, Kind, MIB, each_kind, read};

each_kind! {
    mapped_pages_and_descriptors_see_the_same;
    without_a_cache_nothing_is_mapped_for_sharing;
    f7_what_is_stored_through_a_mapping_is_in_no_hole;
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
