//! The C library's functions that are counted, each made as the system call that it is.
//!
//! All that is unsafe of this crate is here. The invariants:
//! - Each function has the type of the C library's, and passes its arguments on untouched: what the caller owes the kernel, it owes through this one just the same.
//! - Paths are only passed on, never looked at.
#![allow(unsafe_code)]
#![allow(clippy::missing_safety_doc)] // that of the C library

use libc::{AT_FDCWD, AT_REMOVEDIR, c_char, c_int, c_long, c_uint, off_t};

use crate::before;

/// Ends this process, and waits for that.
pub(crate) fn die() -> ! {
    // SAFETY: neither takes a pointer.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    loop {
        std::thread::park();
    }
}

/// A system call answers with a `c_long`, of which these say 0 or -1.
fn answer(done: c_long) -> c_int {
    if done == 0 { 0 } else { -1 }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    before("fsync");
    // SAFETY: no pointer.
    answer(unsafe { libc::syscall(libc::SYS_fsync, fd) })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    before("fdatasync");
    // SAFETY: no pointer.
    answer(unsafe { libc::syscall(libc::SYS_fdatasync, fd) })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn ftruncate(fd: c_int, len: off_t) -> c_int {
    before("ftruncate");
    // SAFETY: no pointer.
    answer(unsafe { libc::syscall(libc::SYS_ftruncate, fd, len) })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn ftruncate64(fd: c_int, len: off_t) -> c_int {
    // SAFETY: the same on systems of 64 bits, which these tests need.
    unsafe { ftruncate(fd, len) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn renameat2(
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    before("rename");
    // SAFETY: the caller's arguments as they are.
    answer(unsafe { libc::syscall(libc::SYS_renameat2, from_dir, from, to_dir, to, flags) })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn renameat(
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
) -> c_int {
    // SAFETY: the same with no flags.
    unsafe { renameat2(from_dir, from, to_dir, to, 0) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the same in the working directory.
    unsafe { renameat2(AT_FDCWD, from, AT_FDCWD, to, 0) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn unlinkat(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    before(if flags & AT_REMOVEDIR == 0 { "unlink" } else { "rmdir" });
    // SAFETY: the caller's arguments as they are.
    answer(unsafe { libc::syscall(libc::SYS_unlinkat, dir, path, flags) })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the same in the working directory.
    unsafe { unlinkat(AT_FDCWD, path, 0) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    // SAFETY: the same in the working directory.
    unsafe { unlinkat(AT_FDCWD, path, AT_REMOVEDIR) }
}

/// ISO C's: a file or a directory.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn remove(path: *const c_char) -> c_int {
    // SAFETY: the caller's path as it is.
    let done = unsafe { unlink(path) };
    if done != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EISDIR) {
        // SAFETY: as above.
        return unsafe { rmdir(path) };
    }
    done
}
