//! Whether secrets stand anywhere in this process' memory, for tests.

use std::{fs, os::unix::fs::FileExt};

/// Bytes that are looked for, in a form that the search does not find.
pub(crate) struct Masked(Vec<u8>);

const MASK: u8 = 0xA5;

impl Masked {
    /// What somebody else has shown.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|byte| byte ^ MASK).collect())
    }

    pub(crate) fn random(len: usize) -> Self {
        let mut bytes = vec![0; len];
        getrandom::fill(&mut bytes).unwrap();
        // It is what is looked for masked once more.
        Self(bytes)
    }

    /// The bytes themselves.
    pub(crate) fn shown(&self) -> Vec<u8> {
        self.0.iter().map(|byte| byte ^ MASK).collect()
    }

    fn is_at(&self, window: &[u8]) -> bool {
        window.len() >= self.0.len() && self.0.iter().zip(window).all(|(masked, byte)| masked ^ MASK == *byte)
    }
}

/// Heap, stacks and what else was mapped for writing.
pub(crate) fn is_in_memory(masked: &Masked) -> bool {
    let memory = fs::File::open("/proc/self/mem").unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let spans: Vec<(u64, u64)> = maps
        .lines()
        .filter(|line| line.split(' ').nth(1) == Some("rw-p"))
        .map(|line| line.split(' ').next().unwrap().split_once('-').unwrap())
        .map(|(start, end)| (hex(start), hex(end)))
        .collect();
    let first = masked.0[0] ^ MASK;
    // Wiped, so that the next search does not find it.
    let mut page = zeroize::Zeroizing::new(vec![0; 1 << 20]);
    for (start, end) in spans {
        let mut at = start;
        while at < end {
            let len = usize::try_from(end - at).map_or(page.len(), |left| left.min(page.len()));
            let Ok(read) = memory.read_at(&mut page[..len], at) else { break };
            let places = page[..read].iter().enumerate().filter(|(_, byte)| **byte == first);
            // What this search has read lies in memory too.
            let own = page.as_ptr() as u64..page.as_ptr() as u64 + page.len() as u64;
            for (place, _) in places {
                if !own.contains(&(at + place as u64)) && masked.is_at(&page[place..read]) {
                    return true;
                }
            }
            if read < masked.0.len() {
                break;
            }
            at += if read == len && at + (len as u64) < end {
                (read - masked.0.len() + 1) as u64
            } else {
                read as u64
            };
        }
    }
    false
}
