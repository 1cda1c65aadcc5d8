//! A file system that is really full (F11): writers hear of it, nothing that was acknowledged is lost, and what is discarded makes room again.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use crate::disk::{Aligned, Disk, Kind, MIB, each_kind, make, read};
use crate::hosts::Host;

each_kind! {
    f11_on_a_full_tmpfs_a_discard_makes_room_for_writes;
    f11_on_a_full_ext4_a_discard_makes_room_for_writes;
}

const SIZE: u64 = 64 * MIB;
const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

fn f11_on_a_full_tmpfs_a_discard_makes_room_for_writes(kind: Kind) {
    a_discard_makes_room(kind, &Host::tmpfs(20 * MIB));
}

fn f11_on_a_full_ext4_a_discard_makes_room_for_writes(kind: Kind) {
    a_discard_makes_room(kind, &Host::ext4(24 * MIB));
}

/// Writes parts of this length, each of its own byte, until the host has no more space. Gives how many were acknowledged.
fn fill(view: &File, from: u64, length: u64) -> u64 {
    for part in from.. {
        let data = Aligned::new(byte(part), length as usize);
        if let Err(error) = view.write_all_at(data.bytes(), part * length) {
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
            return part;
        }
    }
    unreachable!("the host is smaller than the disk")
}

fn byte(part: u64) -> u8 {
    (part % 251) as u8 + 1
}

fn a_discard_makes_room(kind: Kind, host: &Host) {
    const PART: u64 = 64 << 10;
    let file = host.path().join("volume");
    make(kind, &file, SIZE);
    let mut disk = Disk::over(kind, &file, &[]);
    let view = disk.open();
    let written = fill(&view, 0, PART);
    assert!(written * PART >= 10 * MIB, "{written} parts");
    // The space that is left is not enough for a part; it is used up as well.
    fill(&view, written * PART / 4096, 4096);
    view.sync_all().expect("what was acknowledged needs no more space");

    fallocate(&view, PUNCH, 0, 4 * MIB).expect("a discard is carried out on a full host");
    let again: Vec<u64> = (0..24).collect();
    for part in &again {
        let data = Aligned::new(byte(part + 100), PART as usize);
        view.write_all_at(data.bytes(), part * PART)
            .unwrap_or_else(|e| panic!("{part}: {e}\n{}", disk.log()));
    }
    view.sync_all().unwrap();
    drop(view);
    disk.detach();

    disk.attach();
    let view = disk.open();
    for part in 0..written {
        let expected = match part {
            _ if again.contains(&part) => byte(part + 100),
            _ if part * PART < 4 * MIB => 0,
            _ => byte(part),
        };
        assert!(
            read(&view, part * PART, PART as usize).iter().all(|found| *found == expected),
            "part {part}"
        );
    }
}
