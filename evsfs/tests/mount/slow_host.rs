//! A host that takes seconds for what others do in microseconds: only those who asked it for something wait.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::disk::{Disk, Kind, MIB};
use crate::trace::Traced;

/// More than may serve at once on any machine.
const WRITERS: u64 = 5;

/// Every call of `calls` by the process that serves `disk` begins after so many microseconds.
pub(crate) fn delayed(disk: &Disk, calls: &str, microseconds: u64) -> Traced {
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:delay_enter={microseconds}"));
    Traced::new(disk.pid, &["-f", "-o", "/dev/null", "-e", &trace, "-e", &inject])
}

/// Begins so many requests that hang in the host, and once they do, a read that does not need it. Gives how many had ended by then.
fn ended_before_a_read(disk: &Disk, requests: u64, begin: impl Fn(u64) + Sync) -> usize {
    let ended = AtomicUsize::new(0);
    let reader = disk.open();
    let mut buffer = vec![1; 4096];
    thread::scope(|scope| {
        for number in 0..requests {
            let (begin, ended) = (&begin, &ended);
            scope.spawn(move || {
                begin(number);
                ended.fetch_add(1, Ordering::SeqCst);
            });
        }
        // All of them wait for their answers: their threads sleep in the kernel.
        while waiting() < requests {
            assert_eq!(ended.load(Ordering::SeqCst), 0, "they were not held up");
            thread::yield_now();
        }
        // Nothing was ever written there, so the host has nothing to say.
        reader.read_exact_at(&mut buffer, 32 * MIB).unwrap();
        ended.load(Ordering::SeqCst)
    })
}

/// Threads of this process that wait in a FUSE request.
fn waiting() -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let in_fuse = |thread: std::io::Result<std::fs::DirEntry>| {
        let stack = std::fs::read_to_string(thread.unwrap().path().join("stack")).unwrap_or_default();
        u64::from(stack.contains("request_wait_answer"))
    };
    threads.map(in_fuse).sum()
}

#[test]
fn d10_readers_go_on_while_writers_hang_in_the_host() {
    let disk = Disk::new(Kind::Plain, 64 * MIB);
    let files: Vec<_> = (0..WRITERS).map(|_| disk.open()).collect();
    let delayed = delayed(&disk, "pwrite64", 3_000_000);
    let ended = ended_before_a_read(&disk, WRITERS, |number| {
        files[number as usize].write_all_at(&[7; 4096], number * MIB).unwrap();
    });
    drop(delayed);
    assert_eq!(ended, 0, "a read of another block waited for a write");
}

#[test]
fn d10_readers_go_on_while_a_flush_hangs_in_the_host() {
    let disk = Disk::new(Kind::Plain, 64 * MIB);
    let file = disk.open();
    file.write_all_at(&[7; 4096], 0).unwrap();
    let delayed = delayed(&disk, "fdatasync", 3_000_000);
    // The kernel has one flush of a file under way at a time.
    let ended = ended_before_a_read(&disk, 1, |_| file.sync_data().unwrap());
    drop(delayed);
    assert_eq!(ended, 0, "a read waited for a flush");
}
