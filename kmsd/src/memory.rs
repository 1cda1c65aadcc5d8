//! Keeping secrets out of swap space.

use std::io;

use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{Resource, getrlimit},
    thread::{CapabilitySet, capabilities},
};

/// Locks all memory of this process from now on, as far as it is used: keys and plaintext in buffers are never swapped out, and under memory pressure no
/// request waits for swap. Only with the right to lock without bound: with a limit, later allocations would fail.
///
/// # Errors
/// If the process has not that right, or the kernel refuses.
pub fn lock() -> io::Result<()> {
    let may = capabilities(None)?.effective.contains(CapabilitySet::IPC_LOCK)
        || getrlimit(Resource::Memlock).current.is_none();
    if !may {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // On fault: only what is used is locked, not the whole of every thread's stack.
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use rustix::{process::setrlimit, thread::set_capabilities};

    use super::*;

    /// A limit that is above what the process has now would be met later, by an allocation that fails.
    #[test]
    fn nothing_is_locked_under_a_finite_limit() {
        let mut limit = getrlimit(Resource::Memlock);
        limit.current = Some(limit.maximum.unwrap_or(u64::MAX).min(256 << 20));
        setrlimit(Resource::Memlock, limit).unwrap();
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::IPC_LOCK);
        set_capabilities(None, sets).unwrap();
        assert_eq!(lock().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
        assert_eq!(locked.trim(), "0 kB");
    }
}
