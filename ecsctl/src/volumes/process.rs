//! Telling a process from a later one with the same number: thin over /proc.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::model::disk::Serving;

/// The identity of a live process: its number, with its start time and the boot it belongs to.
pub(crate) fn identify(pid: u32) -> Option<Serving> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    if has_ended(&stat) { None } else { identity(pid, start_ticks(&stat)?) }
}

fn identity(pid: u32, started: u64) -> Option<Serving> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(Serving { pid, started: format!("{started}@{}", boot.trim()) })
}

/// Waits until a process has ended, for `patience` at most. True when it has; also a child that was not waited for.
pub(crate) fn wait_for_end(pid: u32, patience: Duration) -> bool {
    handle(pid).is_none_or(|process| ends_within(&process, patience))
}

/// The same for a process that may be gone, its number another's by now.
pub(crate) fn wait_until_gone(serving: &Serving, patience: Duration) -> bool {
    handle_of(serving).is_none_or(|process| ends_within(&process, patience))
}

/// Kills a process, if it is there still.
pub(crate) fn kill(serving: &Serving) {
    if let Some(process) = handle_of(serving) {
        // Nothing is left to be done when it ended just now.
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

fn handle(pid: u32) -> Option<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// The handle is taken first: what is compared after it can only be the process that it means. One whose first thread has ended is
/// there for as long as another of its threads is, with all the files that it has open.
fn handle_of(serving: &Serving) -> Option<OwnedFd> {
    let process = handle(serving.pid)?;
    let stat = fs::read_to_string(format!("/proc/{}/stat", serving.pid)).ok()?;
    let same = identity(serving.pid, start_ticks(&stat)?)?;
    (same == *serving).then_some(process)
}

fn ends_within(process: &OwnedFd, patience: Duration) -> bool {
    // What no clock reaches has no end.
    let end = Instant::now().checked_add(patience);
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(process, PollFlags::IN)], timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return ready.is_ok_and(|ready| ready > 0),
        }
    }
}

/// Field 3 of `/proc/<pid>/stat` (proc(5)): whether the first thread is a zombie.
fn has_ended(stat: &str) -> bool {
    matches!(after_name(stat).and_then(|mut fields| fields.next()), None | Some("Z" | "X"))
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)).
fn start_ticks(stat: &str) -> Option<u64> {
    after_name(stat)?.nth(19)?.parse().ok()
}

/// The fields from the third on. The program's name before them may hold spaces and brackets.
fn after_name(stat: &str) -> Option<std::str::SplitAsciiWhitespace<'_>> {
    Some(stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_itself_and_no_other() {
        let me = identify(std::process::id()).unwrap();
        assert_eq!(identify(me.pid), Some(me));
        assert_eq!(identify(u32::MAX), None);
    }

    #[test]
    fn the_end_of_a_process_is_waited_for_and_a_later_one_is_left_alone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let serving = identify(child.id()).unwrap();
        assert!(!wait_until_gone(&serving, Duration::from_millis(10)));
        let other = Serving { started: "0@before".to_owned(), pid: serving.pid };
        kill(&other);
        assert!(wait_until_gone(&other, Duration::ZERO), "that one is gone");
        assert!(!wait_for_end(child.id(), Duration::from_millis(10)), "this one was not killed for it");
        kill(&serving);
        assert!(wait_for_end(child.id(), Duration::MAX), "however long one is ready to wait");
        assert!(wait_until_gone(&serving, Duration::from_secs(u64::MAX)));
        child.wait().unwrap();
    }

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(start_ticks(&format!("7 (a) b) {tail}")), Some(4711));
        let zombie = format!("7 (a) {}", tail.replace('S', "Z"));
        assert_eq!((start_ticks(&zombie), has_ended(&zombie)), (Some(4711), true));
        assert!(!has_ended(&format!("7 (a) b) {tail}")));
        assert_eq!(start_ticks("7"), None);
    }
}
