//! Holes: made, found, and given back to the host (F7).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::disk::{Disk, Kind, MIB, Numbers, each_kind, read, run};

each_kind! {
    f7_seek_data_and_seek_hole_tell_the_truth;
    f7_punched_ranges_read_as_zeros_and_take_no_space;
    f7_what_is_discarded_goes_back_to_the_host_while_the_disk_is_in_use;
    zeroing_a_range_zeros_it_to_the_byte;
    space_cannot_be_promised;
}

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

fn data(file: &File, from: u64) -> Result<u64, Errno> {
    seek(file, SeekFrom::Data(from))
}

fn hole(file: &File, from: u64) -> Result<u64, Errno> {
    seek(file, SeekFrom::Hole(from))
}

fn f7_seek_data_and_seek_hole_tell_the_truth(kind: Kind) {
    let disk = Disk::new(kind, 64 * MIB);
    let view = disk.open();
    assert_eq!(data(&view, 0), Err(Errno::NXIO));
    assert_eq!(hole(&view, 5000), Ok(5000));
    view.write_all_at(&[1; 8192], 16 * MIB).unwrap();
    view.write_all_at(&[1; 4096], 40 * MIB).unwrap();
    for _ in 0..2 {
        assert_eq!(data(&view, 0), Ok(16 * MIB));
        assert_eq!(data(&view, 16 * MIB + 100), Ok(16 * MIB + 100));
        assert_eq!(hole(&view, 16 * MIB), Ok(16 * MIB + 8192));
        assert_eq!(data(&view, 16 * MIB + 8192), Ok(40 * MIB));
        assert_eq!(hole(&view, 40 * MIB + 1), Ok(40 * MIB + 4096));
        assert_eq!(data(&view, 40 * MIB + 4096), Err(Errno::NXIO));
        assert_eq!(hole(&view, 64 * MIB - 1), Ok(64 * MIB - 1));
        assert_eq!(hole(&view, 64 * MIB), Err(Errno::NXIO));
        view.sync_all().unwrap();
    }
    fallocate(&view, PUNCH, 16 * MIB, 4096).unwrap();
    assert_eq!(data(&view, 0), Ok(16 * MIB + 4096));
}

fn f7_punched_ranges_read_as_zeros_and_take_no_space(kind: Kind) {
    let mut disk = Disk::new(kind, 64 * MIB);
    let empty = disk.taken();
    let view = disk.open();
    let written = Numbers(5).bytes(48 * MIB as usize);
    view.write_all_at(&written, 0).unwrap();
    view.sync_all().unwrap();
    let full = disk.taken();
    assert!(full >= empty + 48 * MIB, "{full}");
    // Edges within blocks stay as they were.
    fallocate(&view, PUNCH, MIB + 100, 40 * MIB).unwrap();
    let end = (41 * MIB + 100) as usize;
    assert!(read(&view, 0, MIB as usize + 100) == written[..MIB as usize + 100]);
    assert!(read(&view, MIB + 100, 40 * MIB as usize).iter().all(|byte| *byte == 0));
    assert!(read(&view, end as u64, 1000) == written[end..end + 1000]);
    view.sync_all().unwrap();
    drop(view);
    disk.detach();
    assert!(disk.taken() + 39 * MIB <= full, "{} of {full} stay taken", disk.taken());
    disk.attach();
    assert!(read(&disk.open(), MIB + 100, 40 * MIB as usize).iter().all(|byte| *byte == 0));
    assert!(read(&disk.open(), end as u64, 1000) == written[end..end + 1000]);
}

/// A few blocks and many, with the disk open and written to: nobody has to detach it for that.
fn f7_what_is_discarded_goes_back_to_the_host_while_the_disk_is_in_use(kind: Kind) {
    let disk = Disk::with(kind, 64 * MIB, &["--tick=100"]);
    let view = disk.open();
    view.write_all_at(&Numbers(5).bytes(32 * MIB as usize), 0).unwrap();
    view.sync_all().unwrap();
    for (offset, length) in [(MIB, MIB), (4 * MIB, 24 * MIB)] {
        let before = disk.taken();
        fallocate(&view, PUNCH, offset, length).unwrap();
        let asked = Instant::now();
        while disk.taken() + length * 15 / 16 > before {
            assert!(
                asked.elapsed() < Duration::from_secs(20),
                "{} of {before} are still taken",
                disk.taken()
            );
            std::thread::yield_now();
        }
        view.write_all_at(&[3; 4096], 60 * MIB).unwrap();
    }
    assert!(read(&view, 4 * MIB, 24 * MIB as usize).iter().all(|byte| *byte == 0));
}

fn zeroing_a_range_zeros_it_to_the_byte(kind: Kind) {
    let disk = Disk::new(kind, MIB);
    let view = disk.open();
    view.write_all_at(&[9; 65536], 0).unwrap();
    fallocate(&view, FallocateFlags::ZERO_RANGE, 5000, 20_000).unwrap();
    fallocate(&view, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, 40_000, 7).unwrap();
    let mut expected = vec![9u8; 65536];
    expected[5000..25_000].fill(0);
    expected[40_000..40_007].fill(0);
    assert!(read(&view, 0, 65536) == expected);
}

/// With a limit on the size of files (RLIMIT_FSIZE) the host is full; it does not end the process.
#[test]
fn f11_a_limit_on_file_sizes_is_a_full_host() {
    let mut disk = Disk::new(Kind::Plain, 64 * MIB);
    disk.open().write_all_at(&[1; 4096], 0).unwrap();
    disk.detach();
    let limit = std::fs::metadata(disk.file()).unwrap().len() + 4 * MIB;
    let mut arguments = vec![format!("--fsize={limit}").into(), env!("CARGO_BIN_EXE_evsfs").into()];
    arguments.extend(disk.mount_arguments());
    let output = run("prlimit", &arguments);
    let ready: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    disk.pid = u32::try_from(ready["pid"].as_u64().unwrap()).unwrap();
    let view = disk.open();
    let written = (1..32).try_for_each(|part| view.write_all_at(&[2; MIB as usize], part * MIB));
    let error = written.and_then(|()| view.sync_all()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    assert_eq!(read(&view, 0, 4096), [1; 4096]);
    drop(view);
    disk.detach();
    disk.attach();
    assert_eq!(read(&disk.open(), 0, 4096), [1; 4096]);
}

fn space_cannot_be_promised(kind: Kind) {
    let disk = Disk::new(kind, MIB);
    let view = disk.open();
    for flags in [FallocateFlags::empty(), FallocateFlags::KEEP_SIZE] {
        assert_eq!(fallocate(&view, flags, 0, MIB), Err(Errno::OPNOTSUPP));
    }
    assert!(fallocate(&view, PUNCH, MIB - 4096, 8192).is_err(), "beyond the end");
    assert_eq!(view.metadata().unwrap().len(), MIB);
}
