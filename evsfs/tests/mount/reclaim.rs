//! A serving process must not wait for itself: when memory is short the kernel writes back what lies on the disk, and that needs the process.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::disk::{Disk, Kind, MIB, each_kind, evsfs, refusal};

each_kind! {
    d10_no_thread_that_serves_waits_for_memory_that_it_has_to_write_back_itself;
    a_log_on_the_disk_that_it_is_of_is_refused;
}

/// The process's allocations start no writing to disks (`PF_MEMALLOC_NOIO`, include/linux/sched.h).
const NO_IO: u64 = 0x0008_0000;
const CAP_SYS_RESOURCE: u32 = 24;

/// Field 9 of `/proc/PID/task/TID/stat`, with the thread's name.
fn flags_of_threads(process: u32) -> Vec<(String, u64)> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let flags = |thread: &Path| {
        let line = fs::read_to_string(thread.join("stat")).unwrap();
        let (name, rest) = line.rsplit_once(") ").unwrap();
        (name.to_owned(), rest.split(' ').nth(6).unwrap().parse().unwrap())
    };
    threads.map(|thread| flags(&thread.unwrap().path())).collect()
}

fn may_be_io_flusher() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() >> CAP_SYS_RESOURCE & 1 == 1
}

fn d10_no_thread_that_serves_waits_for_memory_that_it_has_to_write_back_itself(kind: Kind) {
    let disk = Disk::new(kind, 4 * MIB);
    let view = disk.open();
    view.write_all_at(&[1; 1 << 20], 0).unwrap();
    view.sync_all().unwrap();
    let threads = flags_of_threads(disk.pid);
    assert!(threads.len() >= 4, "{threads:?}");
    let guarded = |(_, flags): &(String, u64)| flags & NO_IO != 0;
    let log = disk.log();
    let told =
        log.lines().any(|line| line.contains("may stall when memory is short") && line.contains("error="));
    if may_be_io_flusher() {
        assert!(threads.iter().all(guarded), "{threads:?}");
        assert!(!told, "{log}");
    } else {
        assert!(!threads.iter().any(guarded), "{threads:?}");
        assert!(told, "the log does not say what is missing: {log}");
    }
}

/// Behind the mount nobody could read it; and lines in the volume file would be damage.
fn a_log_on_the_disk_that_it_is_of_is_refused(kind: Kind) {
    let mut disk = Disk::new(kind, MIB);
    disk.detach();
    let (file, point) = (disk.file(), disk.point());
    let (link, linked) = (disk.dir().join("link"), disk.dir().join("linked"));
    fs::hard_link(&file, &link).unwrap();
    std::os::unix::fs::symlink(&point, &linked).unwrap();
    let before = fs::read(&file).unwrap();
    for log in [file.clone(), link, point.join("log"), linked.join("disk")] {
        let mut arguments: Vec<OsString> = disk.mount_arguments();
        let place = arguments.iter().position(|argument| argument == "--log").unwrap() + 1;
        arguments[place] = log.clone().into();
        let (code, error) = refusal(&evsfs(&arguments));
        assert_eq!((code, error["code"].as_str()), (2, Some("usage")), "{}: {error}", log.display());
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(log.to_str().unwrap()), "{message}");
    }
    assert!(fs::read(&file).unwrap() == before, "a log was written into the file");
    assert_eq!(fs::read_dir(&point).unwrap().count(), 0, "something is left behind");
    disk.attach();
}
