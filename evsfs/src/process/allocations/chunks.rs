//! Memory for what is about as large as a block: chunks of 63 slots, each a mapping of its own, which goes when all of it is free.

use std::ptr::{self, NonNull};

/// Bytes of a chunk. It begins at a multiple of this, so that the chunk of a slot is known from its address.
const CHUNK: usize = 256 << 10;

/// Bytes of a slot: a page of the map with its count of owners, and more. With the chunk's own 64 bytes 63 of them are a chunk.
pub(super) const SLOT: usize = 4160;

/// Each slot begins at a multiple of this.
pub(super) const SLOT_ALIGN: usize = 64;

const SLOTS: usize = (CHUNK - SLOT_ALIGN) / SLOT;

/// One bit for each slot.
const ALL_FREE: u64 = (1 << SLOTS) - 1;

/// Free chunks that are kept for whoever comes next: a checkpoint takes and gives back a megabyte again and again.
const KEPT: usize = 4;

const _: () = assert!(size_of::<Chunk>() <= SLOT_ALIGN && SLOT.is_multiple_of(SLOT_ALIGN) && SLOTS == 63);

/// What a chunk begins with. All chunks with a free slot are in one list.
struct Chunk {
    free: u64,
    next: *mut Self,
    previous: *mut Self,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Chunks {
    first: *mut Chunk,
    /// Chunks of which every slot is free.
    empty: usize,
    mapped: usize,
}

// SAFETY: it owns its chunks, and what it hands out of them is tied to no thread.
unsafe impl Send for Chunks {}

impl Chunks {
    pub(super) const fn new() -> Self {
        Self { first: ptr::null_mut(), empty: 0, mapped: 0 }
    }

    /// A slot, whatever is in it; null if the system has no memory.
    pub(super) fn take(&mut self) -> *mut u8 {
        if self.first.is_null() {
            let Some(chunk) = map() else { return ptr::null_mut() };
            // SAFETY: the mapping is new, and long enough for what a chunk begins with.
            unsafe {
                chunk.write(Chunk { free: ALL_FREE, next: ptr::null_mut(), previous: ptr::null_mut() });
            };
            self.mapped += 1;
            self.empty += 1;
            self.link(chunk.as_ptr());
        }
        let chunk = self.first;
        // SAFETY: what is in the list is a chunk, which nobody else touches while this is borrowed; the slot lies within it.
        unsafe {
            if (*chunk).free == ALL_FREE {
                self.empty -= 1;
            }
            let slot = (*chunk).free.trailing_zeros() as usize;
            (*chunk).free &= (*chunk).free - 1;
            if (*chunk).free == 0 {
                self.unlink(chunk);
            }
            chunk.cast::<u8>().add(SLOT_ALIGN + slot * SLOT)
        }
    }

    /// Takes a slot back.
    ///
    /// # Safety
    /// It is one that [`Self::take`] gave, and that was not given back since.
    pub(super) unsafe fn give(&mut self, slot: *mut u8) {
        let within = slot.addr() % CHUNK;
        // SAFETY: a slot lies in a chunk, which begins at the multiple of its size before it.
        unsafe {
            let chunk = slot.sub(within).cast::<Chunk>();
            if (*chunk).free == 0 {
                self.link(chunk);
            }
            (*chunk).free |= 1 << ((within - SLOT_ALIGN) / SLOT);
            if (*chunk).free == ALL_FREE {
                self.empty += 1;
                if self.empty > KEPT {
                    self.unmap(chunk);
                }
            }
        }
    }

    /// Gives every chunk back to the kernel that is free.
    pub(super) fn give_back(&mut self) {
        let mut chunk = self.first;
        while !chunk.is_null() {
            // SAFETY: as above; the next one is read before this one goes.
            unsafe {
                let next = (*chunk).next;
                if (*chunk).free == ALL_FREE {
                    self.unmap(chunk);
                }
                chunk = next;
            }
        }
    }

    fn link(&mut self, chunk: *mut Chunk) {
        // SAFETY: the caller has a chunk that is not in the list; those in it are chunks.
        unsafe {
            (*chunk).previous = ptr::null_mut();
            (*chunk).next = self.first;
            if !self.first.is_null() {
                (*self.first).previous = chunk;
            }
        }
        self.first = chunk;
    }

    fn unlink(&mut self, chunk: *mut Chunk) {
        // SAFETY: the caller has a chunk that is in the list, and so are its neighbours.
        unsafe {
            let Chunk { next, previous, .. } = *chunk;
            if previous.is_null() {
                self.first = next;
            } else {
                (*previous).next = next;
            }
            if !next.is_null() {
                (*next).previous = previous;
            }
        }
    }

    /// Lets go of a chunk of which every slot is free, unless the kernel refuses: then it stays for the next one who takes a slot.
    fn unmap(&mut self, chunk: *mut Chunk) {
        self.unlink(chunk);
        // SAFETY: nobody has a slot of it, and nothing refers to it any more.
        if unsafe { libc::munmap(chunk.cast(), CHUNK) } == 0 {
            self.mapped -= 1;
            self.empty -= 1;
        } else {
            self.link(chunk);
        }
    }
}

/// Maps memory for a chunk.
fn map() -> Option<NonNull<Chunk>> {
    let page = rustix::param::page_size();
    let length = 2 * CHUNK - page;
    // SAFETY: asks for new memory, wherever the kernel likes.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return None;
    }
    let before = start.align_offset(CHUNK);
    let behind = length - CHUNK - before;
    // SAFETY: these are parts of the new mapping, in whole pages, which nobody has seen. Where the kernel refuses they stay, and take no memory.
    unsafe {
        let chunk = start.byte_add(before);
        if before > 0 {
            libc::munmap(start, before);
        }
        if behind > 0 {
            libc::munmap(chunk.byte_add(CHUNK), behind);
        }
        NonNull::new(chunk.cast())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn fill(slot: *mut u8, number: usize) {
        // SAFETY: the slot is this test's.
        unsafe { slot.cast::<[usize; SLOT / 8]>().write([number; SLOT / 8]) };
    }

    fn is_filled(slot: *mut u8, number: usize) -> bool {
        // SAFETY: the slot is this test's, and was filled.
        unsafe { slot.cast::<[usize; SLOT / 8]>().read() == [number; SLOT / 8] }
    }

    #[test]
    fn f6_slots_are_apart_and_free_chunks_go_back_to_the_kernel() {
        const COUNT: usize = 1000;
        let mut chunks = Chunks::new();
        let mut slots: Vec<*mut u8> = (0..COUNT).map(|_| chunks.take()).collect();
        for (number, slot) in slots.iter().enumerate() {
            assert!(slot.addr().is_multiple_of(SLOT_ALIGN));
            fill(*slot, number);
        }
        assert_eq!(chunks.mapped, COUNT.div_ceil(SLOTS));
        // Half of them go, from all chunks, and come back: nobody else's bytes change, and no more memory is taken.
        for turn in 1..10 {
            let away = |number: usize| (number * 7 + turn).is_multiple_of(3);
            for number in (0..COUNT).filter(|number| away(*number)) {
                assert!(is_filled(slots[number], number));
                // SAFETY: it was taken, and is taken anew below.
                unsafe { chunks.give(slots[number]) };
            }
            for number in (0..COUNT).rev().filter(|number| away(*number)) {
                slots[number] = chunks.take();
                fill(slots[number], number);
            }
            assert_eq!(chunks.mapped, COUNT.div_ceil(SLOTS));
            assert_eq!(slots.iter().collect::<HashSet<_>>().len(), COUNT);
        }
        assert!(slots.iter().enumerate().all(|(number, slot)| is_filled(*slot, number)));
        for number in 0..COUNT {
            // SAFETY: each was taken, and is not used from here on.
            unsafe { chunks.give(slots[number * 7 % COUNT]) };
        }
        assert_eq!((chunks.mapped, chunks.empty), (KEPT, KEPT));
        chunks.give_back();
        assert_eq!((chunks.mapped, chunks.empty, chunks.first), (0, 0, ptr::null_mut()));
        assert!(!chunks.take().is_null());
        assert_eq!(chunks.mapped, 1);
    }
}
