//! A host that takes seconds for what others do in microseconds: only those who asked it for something wait.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::disk::{Disk, Kind, MIB};

/// More than there are processors on many a machine, and fewer than may serve at once.
const WRITERS: u64 = 5;

/// The calls of a process each begin late, for as long as this lives.
struct Delayed(Child);

impl Delayed {
    /// Every call of `calls` by the process that serves `disk` begins after so many microseconds.
    fn new(disk: &Disk, calls: &str, microseconds: u64) -> Self {
        let mut child = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:delay_enter={microseconds}"), "-p", &disk.pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace can be run");
        let mut lines = BufReader::new(child.stderr.as_mut().expect("piped")).lines();
        let attached = lines.next().expect("strace says that it is there").unwrap();
        assert!(attached.contains("attached"), "{attached}");
        Self(child)
    }
}

impl Drop for Delayed {
    fn drop(&mut self) {
        // strace lets go of the process when it dies.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Longer than any machine takes to get as far as the read. When that has its answer, they go on at once.
const HELD_UP: u64 = 20_000_000;

/// Begins so many requests that hang in the host because it delays `calls`, and once they do, a read that does not need it. Each of them is one call
/// of `call` here. Gives how many had ended by then.
fn ended_before_a_read(
    disk: &Disk,
    calls: &str,
    (requests, call): (u64, libc::c_long),
    begin: impl Fn(u64) + Sync,
) -> usize {
    let delayed = Delayed::new(disk, calls, HELD_UP);
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
        while waiting_in(call) < requests {
            assert_eq!(ended.load(Ordering::SeqCst), 0, "they were not held up");
            thread::yield_now();
        }
        // Nothing was ever written there, so the host has nothing to say.
        reader.read_exact_at(&mut buffer, 32 * MIB).unwrap();
        let ended = ended.load(Ordering::SeqCst);
        drop(delayed);
        ended
    })
}

/// Threads of this process that sleep in a call: of one that does not sleep, `syscall` says `running` (proc_pid_syscall(5)).
fn waiting_in(call: libc::c_long) -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let is_in = |thread: std::io::Result<std::fs::DirEntry>| {
        let thread = thread.unwrap().path();
        match std::fs::read_to_string(thread.join("syscall")) {
            Ok(state) => u64::from(state.split(' ').next() == Some(&call.to_string())),
            Err(error) => {
                assert!(!thread.exists(), "{}: {error}", thread.display());
                0
            }
        }
    };
    threads.map(is_in).sum()
}

#[test]
fn d10_readers_go_on_while_writers_hang_in_the_host() {
    let disk = Disk::new(Kind::Plain, 64 * MIB);
    let files: Vec<_> = (0..WRITERS).map(|_| disk.open()).collect();
    let ended = ended_before_a_read(&disk, "pwrite64", (WRITERS, libc::SYS_pwrite64), |number| {
        files[number as usize].write_all_at(&[7; 4096], number * MIB).unwrap();
    });
    assert_eq!(ended, 0, "a read of another block waited for a write");
}

#[test]
fn d10_readers_go_on_while_a_flush_hangs_in_the_host() {
    let disk = Disk::new(Kind::Plain, 64 * MIB);
    let file = disk.open();
    file.write_all_at(&[7; 4096], 0).unwrap();
    // The kernel has one flush of a file under way at a time.
    let ended = ended_before_a_read(&disk, "fdatasync", (1, libc::SYS_fdatasync), |_| {
        file.sync_data().unwrap();
    });
    assert_eq!(ended, 0, "a read waited for a flush");
}
