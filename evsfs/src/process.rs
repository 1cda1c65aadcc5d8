//! Hygiene of the serving process: nothing of it in core dumps, no debugger of the same user, no inherited files,
//! no deadlock when the kernel writes back through it; and the signals that end it.

mod allocations;
mod descriptors;

use std::io;

use nix::sys::signal::{SigSet, Signal, raise};
use rustix::process::{DumpableBehavior, Resource, Rlimit};

pub use allocations::{ProcessMemory, give_back_memory, keep_large_buffers_apart};
pub use descriptors::keep_from_children;

/// Turns off core dumps and inspection by other processes of the same user.
///
/// # Errors
/// If the kernel refuses: then no key may enter this process.
pub fn seal_memory() -> io::Result<()> {
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Makes a write beyond the limit on file sizes (`RLIMIT_FSIZE`) fail with EFBIG, which is told like a full host, instead of ending the process.
/// To be called before any thread starts: threads inherit it.
///
/// # Errors
/// If the kernel refuses.
pub fn outlive_file_size_limit() -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    signals.thread_block().map_err(Into::into)
}

/// Tells the kernel that memory reclaim may wait for this process, so that its own allocations must not wait for reclaim
/// (`PR_SET_IO_FLUSHER`): a file system on a loop device on the disk could deadlock otherwise. Needs `CAP_SYS_RESOURCE`.
///
/// # Errors
/// If the kernel refuses; ordinary users go without.
pub fn become_io_flusher() -> io::Result<()> {
    rustix::process::configure_io_flusher_behavior(true).map_err(Into::into)
}

/// Leaves the terminal and its process group.
///
/// # Errors
/// If this process leads a group already.
pub fn leave_session() -> io::Result<()> {
    rustix::process::setsid().map(drop).map_err(Into::into)
}

/// Gives the main thread, and so the process, the name of the program.
///
/// # Errors
/// If the kernel refuses.
pub fn take_name() -> io::Result<()> {
    rustix::thread::set_name(c"evsfs").map_err(Into::into)
}

/// The signals that ask for an end, held back for [`Termination::wait`]. Make it before any thread starts: threads inherit it.
#[derive(Debug)]
pub struct Termination {
    signals: SigSet,
}

impl Termination {
    /// Holds the signals back.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn hold() -> io::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTERM);
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGHUP);
        signals.thread_block()?;
        Ok(Self { signals })
    }

    /// The same of those of them that this process was not started to ignore (by `nohup`, or in the background of a script).
    ///
    /// # Errors
    /// If the kernel refuses, or /proc cannot be read.
    pub fn hold_what_is_not_ignored() -> io::Result<Self> {
        let ignored = ignored_signals()?;
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            if ignored >> (signal as u32 - 1) & 1 == 0 {
                signals.add(signal);
            }
        }
        signals.thread_block()?;
        Ok(Self { signals })
    }

    /// Waits for the next one, does what has to come before the end, and ends the process by that signal, as if it had never been held back.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn end_after(&self, last: impl FnOnce()) -> io::Result<()> {
        let signal = self.signals.wait()?;
        last();
        self.signals.thread_unblock()?;
        Ok(raise(signal)?)
    }

    /// Waits for the next one and gives its name.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn wait(&self) -> io::Result<&'static str> {
        Ok(self.signals.wait()?.as_str())
    }
}

/// A bit for each signal that this process ignores, signal 1 first.
fn ignored_signals() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Number of processors that this process may use.
#[must_use]
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Memory of this process that is resident, in bytes.
///
/// # Errors
/// If /proc cannot be read.
pub fn resident_bytes() -> io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: Option<u64> = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let pages = pages.ok_or(io::ErrorKind::InvalidData)?;
    Ok(pages * rustix::param::page_size() as u64)
}
