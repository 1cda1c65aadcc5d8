//! What the serving threads read and write through, a megabyte each.
//!
//! Unsafe, since it gives memory back in which a request stood.
#![allow(unsafe_code)]

use rustix::mm::{Advice, madvise};
use rustix::param::page_size;

use super::MAX_REQUEST;

/// One request's worth of bytes that begins at a page.
#[derive(Debug)]
pub(super) struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl ReadBuffer {
    pub(super) fn new() -> Self {
        let page = page_size();
        // Zeroed memory of this size comes untouched from the kernel: only what is used becomes resident.
        let bytes = vec![0; MAX_REQUEST as usize + page];
        let start = bytes.as_ptr().align_offset(page);
        Self { bytes, start }
    }

    pub(super) fn slice(&mut self, length: usize) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + length]
    }
}

/// Gives the pages back in which the data of a request stood: the FUSE library keeps its buffer, of which only the next large request touches so much
/// again. Before Linux 5.18, which cannot take locked memory back, they stay.
///
/// # Safety
/// The memory is private and anonymous, and nobody reads these bytes any more before others are written there.
pub(super) unsafe fn give_back(data: &[u8]) {
    let page = page_size();
    let skipped = data.as_ptr().align_offset(page);
    let Some(whole) =
        data.len().checked_sub(skipped).map(|length| length / page * page).filter(|length| *length > 0)
    else {
        return;
    };
    let start = data.as_ptr().cast_mut().wrapping_add(skipped).cast();
    for advice in [Advice::LinuxDontneedLocked, Advice::LinuxDontNeed] {
        // SAFETY: as the caller promises; these pages lie within the data.
        if unsafe { madvise(start, whole, advice) }.is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_within_the_data_are_given_back() {
        let page = page_size();
        let mut buffer = ReadBuffer::new();
        buffer.slice(8 * page).fill(1);
        let (from, to) = (page - 1, 5 * page + 1);
        // SAFETY: the buffer is this test's, and what is read of it below is what the kernel put there.
        unsafe { give_back(&buffer.slice(8 * page)[from..to]) };
        let zeros: Vec<bool> =
            std::hint::black_box(buffer.slice(8 * page)).iter().map(|byte| *byte == 0).collect();
        let expected: Vec<bool> = (0..8 * page).map(|at| (page..5 * page).contains(&at)).collect();
        assert!(zeros == expected);
        // SAFETY: as above.
        unsafe { give_back(&buffer.slice(8 * page)[1..page]) };
        assert_eq!(buffer.slice(page), vec![1; page]);
    }
}
