//! What a disk is known to hold, whatever its size: in memory is only what is not zero.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::engine::{BLOCK, Damage, Volume, VolumeError};

/// Bytes of a part.
const PART: u64 = 1 << 20;
/// Of larger disks the digest is of what is not zero, and of where that stands.
const WHOLE_MOST: u64 = 96 << 20;
/// What a lost block has in place of contents.
const LOST: &[u8; 4] = b"LOST";

/// The bytes of a disk, with a mark where a block is lost: reading it is an error.
#[derive(Clone, Default)]
pub(super) struct Contents {
    size: u64,
    parts: BTreeMap<u64, Vec<u8>>,
    lost: BTreeSet<u64>,
}

impl Contents {
    /// Zeros.
    pub(super) fn new(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    /// What is new is zero.
    pub(super) fn grow(&mut self, size: u64) {
        self.size = size;
    }

    /// Takes bytes over; no block of them is lost any more.
    pub(super) fn put(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + u64::try_from(bytes.len()).unwrap();
        assert!(end <= self.size, "{end} of {}", self.size);
        self.lost.retain(|block| !(offset..end).contains(&(block * BLOCK)));
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let within = usize::try_from(at % PART).unwrap();
            let (now, later) = rest.split_at(rest.len().min(usize::try_from(PART).unwrap() - within));
            let part = self.parts.entry(at / PART).or_insert_with(|| vec![0; usize::try_from(PART).unwrap()]);
            part[within..within + now.len()].copy_from_slice(now);
            at += u64::try_from(now.len()).unwrap();
            rest = later;
        }
    }

    pub(super) fn zero(&mut self, offset: u64, length: u64) {
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let next = end.min((at / PART + 1) * PART);
            if self.parts.contains_key(&(at / PART)) {
                self.put(at, &vec![0; usize::try_from(next - at).unwrap()]);
            }
            at = next;
        }
        self.lost.retain(|block| !(offset..end).contains(&(block * BLOCK)));
    }

    /// These blocks cannot be read any more.
    pub(super) fn lose(&mut self, offset: u64, length: u64) {
        self.put(offset, &LOST.repeat(usize::try_from(length / 4).unwrap()));
        self.lost.extend(offset / BLOCK..(offset + length) / BLOCK);
    }

    /// How many blocks are lost.
    pub(super) fn lost(&self) -> u64 {
        u64::try_from(self.lost.len()).unwrap()
    }

    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let zeros = vec![0; usize::try_from(PART).unwrap()];
        let parts = self.size.div_ceil(PART);
        let numbers: Vec<u64> =
            if self.size <= WHOLE_MOST { (0..parts).collect() } else { self.parts.keys().copied().collect() };
        for number in numbers {
            let length = usize::try_from((self.size - number * PART).min(PART)).unwrap();
            let part = &self.parts.get(&number).unwrap_or(&zeros)[..length];
            if self.size > WHOLE_MOST {
                if *part == zeros[..length] {
                    continue;
                }
                hash.update(number.to_le_bytes());
            }
            hash.update(part);
        }
        hex::encode(hash.finalize())
    }

    /// Reads all of a disk.
    pub(super) fn of(size: u64, read: impl Fn(u64, &mut [u8]) -> Result<(), VolumeError>) -> Self {
        Self::of_some(size, |_| true, read)
    }

    /// Reads a disk, but for the parts of large ones that are holes by its own account.
    pub(super) fn of_data(volume: &Volume) -> Self {
        let is_data = |part: Range<u64>| {
            volume.size() <= WHOLE_MOST
                || volume.next_data(part.start).unwrap().is_some_and(|data| data < part.end)
        };
        Self::of_some(volume.size(), is_data, |at, buf| volume.read(at, buf))
    }

    fn of_some(
        size: u64,
        is_data: impl Fn(Range<u64>) -> bool,
        read: impl Fn(u64, &mut [u8]) -> Result<(), VolumeError>,
    ) -> Self {
        let mut contents = Self::new(size);
        let zeros = vec![0; usize::try_from(PART).unwrap()];
        let mut buffer = zeros.clone();
        for offset in (0..size).step_by(usize::try_from(PART).unwrap()) {
            let length = usize::try_from((size - offset).min(PART)).unwrap();
            if !is_data(offset..offset + PART) {
                continue;
            }
            let part = &mut buffer[..length];
            part.fill(0xee);
            if read(offset, part).is_err() {
                for (block, at) in
                    part.chunks_mut(usize::try_from(BLOCK).unwrap()).zip((offset..).step_by(4096))
                {
                    match read(at, block) {
                        Ok(()) => contents.put(at, block),
                        Err(VolumeError::DamagedBlock { reason: Damage::Lost, .. }) => {
                            contents.lose(at, BLOCK);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            } else if *part != zeros[..length] {
                contents.put(offset, part);
            }
        }
        contents
    }
}
