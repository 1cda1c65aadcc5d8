//! Where the C library takes large buffers from.
//!
//! Unsafe, since it sets a parameter of the allocator that all threads use.
#![allow(unsafe_code)]

/// Bytes from which on a buffer is memory of its own, of which only what is touched is resident, and which the kernel has back when it is freed.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 256 << 10;

/// Keeps glibc from moving its bound for such buffers upwards with each one that is freed: the serving threads' buffers of many megabytes, of which requests
/// use little, would then be cleared in a heap, and stay.
pub fn keep_large_buffers_apart() {
    // SAFETY: takes two integers and changes how later requests of memory are served, nothing that was handed out before.
    #[cfg(target_env = "gnu")]
    unsafe {
        // It can only refuse a parameter that it does not know.
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}
