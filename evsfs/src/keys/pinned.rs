//! Keeping secrets out of swap space and core dumps.
//!
//! Unsafe, since the system calls take addresses.
#![allow(unsafe_code)]

use std::io;

use rustix::mm::{Advice, madvise, mlock};

/// Locks the pages that hold these bytes into memory, and leaves them out of core dumps, until the process ends. What else
/// lies in the pages is locked with them.
///
/// # Errors
/// If the limit on locked memory is used up.
pub fn pin(bytes: &[u8]) -> io::Result<()> {
    let page = rustix::param::page_size();
    let first = bytes.as_ptr().addr() / page * page;
    let length = bytes.as_ptr().addr() + bytes.len() - first;
    let start = bytes.as_ptr().with_addr(first).cast_mut().cast();
    // SAFETY: neither call reads, writes, moves or unmaps memory. Both take whole pages, which are mapped, as `bytes` lies in
    // them; the first one begins at `first`.
    unsafe {
        madvise(start, length.next_multiple_of(page), Advice::LinuxDontDump)?;
        mlock(start, length)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `VmFlags:` of the mapping that holds an address, from /proc/self/smaps.
    fn flags_at(address: usize) -> String {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut within = false;
        for line in smaps.lines() {
            if let Some(flags) = line.strip_prefix("VmFlags:") {
                if within {
                    return flags.to_owned();
                }
            } else if let Some((start, end)) = line.split(' ').next().and_then(|range| range.split_once('-'))
            {
                let number = |text| usize::from_str_radix(text, 16);
                if let (Ok(start), Ok(end)) = (number(start), number(end)) {
                    within = (start..end).contains(&address);
                }
            }
        }
        panic!("no mapping at {address:#x}");
    }

    #[test]
    fn pinned_pages_are_locked_and_left_out_of_dumps() {
        let key = kmsd::Dek::new(&[7; 32]);
        pin(key.expose()).unwrap();
        let flags = flags_at(key.expose().as_ptr().addr());
        assert!(flags.contains(" lo") && flags.contains(" dd"), "{flags}");
        assert_eq!(key.expose(), &[7; 32]);
    }

    #[test]
    fn bytes_across_two_pages_are_pinned_whole() {
        let memory = vec![1u8; 64 * 4096];
        let page = memory.as_ptr().align_offset(4096) + 4096;
        pin(&memory[page - 16..page + 16]).unwrap();
        for place in [page - 1, page] {
            let flags = flags_at(memory[place..].as_ptr().addr());
            assert!(flags.contains(" lo") && flags.contains(" dd"), "{flags}");
        }
    }
}
