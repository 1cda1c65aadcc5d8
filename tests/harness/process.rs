//! Facts about processes, from /proc and pidfds.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// Waits until a process has ended (a zombie has). Returns false when it still runs after that time.
pub fn wait_for_exit(pid: u32, patience: Duration) -> bool {
    let fd = match pidfd_open(id(pid), PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return true,
        Err(error) => panic!("pidfd_open({pid}): {error}"),
    };
    let timeout = Timespec::try_from(patience).expect("a time that tests wait fits");
    loop {
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// Is there such a process, and not as a zombie?
pub fn is_running(pid: u32) -> bool {
    wait_for_exit(pid, Duration::ZERO).then_some(()).is_none()
}

/// Sends a signal; a process that is gone already is not an error.
pub fn send(pid: u32, signal: Signal) {
    match kill_process(id(pid), signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("kill({pid}): {error}"),
    }
}

/// Kills with SIGKILL and waits for the end.
///
/// # Panics
/// If it does not end.
pub fn kill_hard(pid: u32) {
    send(pid, Signal::KILL);
    assert!(wait_for_exit(pid, Duration::from_secs(20)), "process {pid} survived SIGKILL");
}

/// The processes with this text in their command line, this one excepted.
pub fn with_argument(text: &Path) -> Vec<u32> {
    let text = text.to_str().expect("test paths are UTF-8");
    let this = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&pid| pid != this)
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text)
        })
        .collect()
}

/// What a process, its children and everything that serves an installation is doing at this moment, for the report of a command that
/// does not end: arguments, state, the system call and the kernel's stack of each thread, as far as the kernel tells.
pub fn where_it_waits(pid: u32) -> String {
    let numbers = |dir: &str| -> Vec<u32> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    };
    // The name alone: reading the arguments of a process can itself wait for what it waits for.
    let parent = |pid: u32| status_field(pid, "PPid")?.parse::<u32>().ok();
    let descends = |mut other: u32| {
        while other != pid {
            match parent(other) {
                Some(next) if next > 1 => other = next,
                _ => return false,
            }
        }
        true
    };
    let ours = |other: &u32| {
        let name = status_field(*other, "Name").unwrap_or_default();
        descends(*other) || ["kmsd", "evsfs", "ecsctl"].contains(&&*name) || name.starts_with("qemu")
    };
    let mut report = String::new();
    for process in numbers("/proc").into_iter().filter(ours) {
        for thread in numbers(&format!("/proc/{process}/task")) {
            let of = |file: &str| {
                fs::read_to_string(format!("/proc/{process}/task/{thread}/{file}")).unwrap_or_default()
            };
            let (name, stat, wchan, call, stack) =
                (of("comm"), of("stat"), of("wchan"), of("syscall"), of("stack"));
            let state = stat.rsplit_once(") ").map_or("?", |(_, rest)| rest.get(..1).unwrap_or("?"));
            let stack: Vec<&str> = stack.lines().filter_map(|line| line.split(' ').nth(1)).take(12).collect();
            report += &format!(
                "{process}/{thread} {} {state} wchan {wchan} syscall {} stack {}\n",
                name.trim(),
                call.trim(),
                stack.join(" < ")
            );
        }
    }
    report
}

/// A field of /proc/PID/status, for instance `VmRSS`.
pub fn status_field(pid: u32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|rest| rest.trim().to_owned()))
}

/// The soft and hard limit on core files, from /proc/PID/limits.
pub fn core_limits(pid: u32) -> Option<(String, String)> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size"))?;
    let mut words = line.split_whitespace().map(str::to_owned);
    Some((words.next()?, words.next()?))
}

/// Mount points under a directory, newest first, with their file system types.
pub fn mounts_under(dir: &Path) -> Vec<(String, String)> {
    // Any user can put any bytes into it.
    let table = String::from_utf8_lossy(&fs::read("/proc/self/mountinfo").expect("/proc")).into_owned();
    let prefix = format!("{}/", dir.display());
    let mut found: Vec<_> = table
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = left.split(' ').nth(4)?.replace("\\040", " ");
            point
                .starts_with(&prefix)
                .then(|| (point, right.split(' ').next().unwrap_or_default().to_owned()))
        })
        .collect();
    found.reverse();
    found
}

/// Loop devices whose backing file lies under a directory.
pub fn loops_under(dir: &Path) -> Vec<String> {
    let prefix = format!("{}/", dir.display());
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| {
            fs::read(entry.path().join("loop/backing_file"))
                .is_ok_and(|file| file.starts_with(prefix.as_bytes()))
        })
        .map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy()))
        .collect()
}

fn id(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id")
}

/// Does this text or key stand anywhere in the memory of a process? Needs root. None when the process is gone.
pub fn memory_holds(pid: u32, needle: &[u8]) -> Option<bool> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let memory = fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let spans = maps.lines().filter_map(|line| {
        let (span, rest) = line.split_once(' ')?;
        let (start, end) = span.split_once('-')?;
        rest.starts_with('r').then_some((hex(start)?, hex(end)?))
    });
    let mut page = vec![0; 1 << 20];
    for (start, end) in spans {
        let mut at = start;
        while at < end {
            let length = usize::try_from(end - at).map_or(page.len(), |left| left.min(page.len()));
            // Guard pages and device memory cannot be read; the key is not there.
            let Ok(read) = memory.read_at(&mut page[..length], at) else { break };
            if page[..read].windows(needle.len()).any(|window| window == needle) {
                return Some(true);
            }
            let overlap = if read == length && at + (length as u64) < end { needle.len() - 1 } else { 0 };
            at += (read - overlap.min(read.saturating_sub(1))) as u64;
            if read == 0 {
                break;
            }
        }
    }
    Some(false)
}
