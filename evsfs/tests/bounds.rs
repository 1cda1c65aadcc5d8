//! Parsers of hostile bytes take little memory, whatever lengths the bytes claim.
#![allow(unsafe_code)] // a counting allocator cannot be written without

use evsfs::format::fuzz::TARGETS;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

fn add(bytes: usize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    MOST.set(MOST.get().max(held));
}

// SAFETY: every call is passed on to the system's allocator as it came. The counters are `Cell`s of plain numbers, which need no
// allocation and no destructor, so that counting never comes back here.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.set(HELD.get().saturating_sub(layout.size()));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The most that is held at once while `run` runs.
fn peak(run: impl FnOnce()) -> usize {
    let before = HELD.get();
    MOST.set(before);
    run();
    MOST.get() - before
}

/// Bytes in which many lengths and counts are as large as they can be.
fn greedy() -> Vec<Vec<u8>> {
    let mut inputs: Vec<Vec<u8>> = [0x00, 0x01, 0x7f, 0x80, 0xff].map(|byte| vec![byte; 36_864]).into();
    let mut header = vec![0xff; 36_864];
    header[..12].copy_from_slice(b"EVSVOL1\0\x01\0\x01\x01");
    inputs.push(header);
    let mut log = vec![0xff; 4096];
    log[..8].copy_from_slice(b"EVLG\x01\0\x7d\0");
    inputs.push(log);
    inputs
}

#[test]
fn hostile_bytes_take_little_memory() {
    assert!(peak(|| drop(std::hint::black_box(vec![1_u8; 1 << 20]))) >= 1 << 20, "the allocator counts");
    for (name, target) in TARGETS {
        for input in greedy() {
            let most = peak(|| target(&input));
            // Both copies of a header, decoded and as they were, are the most: about 4 pages each.
            assert!(most <= 64 << 10, "{name}: {most} bytes for {} bytes of input", input.len());
        }
    }
}
