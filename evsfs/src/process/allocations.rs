//! Where memory comes from, so that what was used in a burst of work goes back to the kernel when it is free (F6).
//!
//! All memory of a serving process is locked (docs/adr/0202), and of locked memory the C library gives nothing back but what lies at the end of its
//! heap: it asks the kernel to drop pages, which refuses that for locked ones. What is unmapped goes, locked or not. So large buffers are mappings of
//! their own, and what is about as large as a block, of which there are thousands in the cache of the map and among the bitmaps, comes from
//! [`Chunks`]. Only small things are left to the heap.
//!
//! Unsafe, since this hands out memory, and sets a parameter of the allocator that all threads use.
#![allow(unsafe_code)]

mod chunks;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::chunks::{Chunks, SLOT, SLOT_ALIGN};

/// Bytes from which on a buffer is memory of its own, of which only what is touched is resident, and which the kernel has back when it is freed.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 16 << 10;

/// What is at least so large, and fits, takes a slot of a chunk.
const BLOCKLIKE: usize = 3 << 10;

/// (One that takes no memory itself when it is waited for.)
static CHUNKS: Mutex<Chunks> = Mutex::new(Chunks::new());

fn chunks() -> MutexGuard<'static, Chunks> {
    // Nobody panics while he holds it.
    CHUNKS.lock().unwrap_or_else(PoisonError::into_inner)
}

const fn is_blocklike(size: usize, align: usize) -> bool {
    BLOCKLIKE <= size && size <= SLOT && align <= SLOT_ALIGN
}

/// The allocator of the program.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMemory;

// SAFETY: each request goes to one of two allocators, and back to the same one: which of them, size and alignment say, and they are the same both times.
// What `Chunks` hands out is large enough, aligned, and nobody else's until it comes back.
unsafe impl GlobalAlloc for ProcessMemory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_blocklike(layout.size(), layout.align()) {
            return chunks().take();
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if is_blocklike(layout.size(), layout.align()) {
            // SAFETY: `alloc` took it there, for the layout is the same.
            return unsafe { chunks().give(memory) };
        }
        // SAFETY: as the caller promises, and `alloc` took it there.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_blocklike(layout.size(), layout.align()) {
            let memory = chunks().take();
            if !memory.is_null() {
                // SAFETY: it was just taken, and a slot is at least so long.
                unsafe { memory.write_bytes(0, layout.size()) };
            }
            return memory;
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match (is_blocklike(layout.size(), layout.align()), is_blocklike(size, layout.align())) {
            (true, true) => memory,
            // SAFETY: as the caller promises, and it came from there and stays there.
            (false, false) => unsafe { System.realloc(memory, layout, size) },
            _ => {
                // SAFETY: the caller promises that size and alignment make a layout, and that the old memory is of the old one. The two are apart,
                // and only as much is copied as both have.
                unsafe {
                    let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                    if !new.is_null() {
                        new.copy_from_nonoverlapping(memory, layout.size().min(size));
                        self.dealloc(memory, layout);
                    }
                    new
                }
            }
        }
    }
}

/// Keeps glibc from moving its bound for large buffers upwards with each one that is freed: the serving threads' buffers of many megabytes, of which
/// requests use little, would then be cleared in a heap, and stay.
pub fn keep_large_buffers_apart() {
    // SAFETY: takes two integers and changes how later requests of memory are served, nothing that was handed out before.
    #[cfg(target_env = "gnu")]
    unsafe {
        // It can only refuse a parameter that it does not know.
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives what is free back to the kernel. For who has nothing to do: whoever needs memory next has to ask for it anew.
pub fn give_back_memory() {
    chunks().give_back();
    // SAFETY: takes a number, and touches nothing that is handed out.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
