//! Keeping a parent's open files out of programs that this one starts.
//!
//! Unsafe, since the system call takes bare descriptor numbers.
#![allow(unsafe_code)]

use std::io;

/// Marks every descriptor above standard error to be closed when another program is run.
///
/// # Errors
/// If the kernel cannot (before 5.11).
pub fn keep_from_children() -> io::Result<()> {
    // SAFETY: sets a flag on descriptors and closes none of them, so every owner of one in this process may go on using it.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
