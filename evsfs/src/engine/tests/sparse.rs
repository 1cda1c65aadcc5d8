//! A file in memory of any length, of which only what was written takes memory.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::super::BLOCK;
use crate::backing::Backing;

type Slot = [u8; 4096];

/// See the module.
#[derive(Default)]
pub(in crate::engine) struct Sparse {
    len: AtomicU64,
    slots: RwLock<HashMap<u64, Box<Slot>>>,
}

impl Sparse {
    fn numbers(offset: u64, len: u64) -> std::ops::Range<u64> {
        assert!(offset.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK), "not of whole slots");
        offset / BLOCK..(offset + len) / BLOCK
    }

    /// Changes what is in a slot.
    pub(in crate::engine) fn damage(&self, slot: u64) {
        self.slots.write().get_mut(&slot).expect("it was written")[77] ^= 4;
    }
}

impl Backing for Sparse {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len.load(Ordering::Relaxed))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let numbers = Self::numbers(offset, u64::try_from(buf.len()).unwrap());
        if numbers.end * BLOCK > self.len()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let slots = self.slots.read();
        for (number, part) in numbers.zip(buf.as_chunks_mut::<4096>().0) {
            *part = slots.get(&number).map_or([0; 4096], |slot| **slot);
        }
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let numbers = Self::numbers(offset, u64::try_from(buf.len()).unwrap());
        self.len.fetch_max(numbers.end * BLOCK, Ordering::Relaxed);
        self.slots.write().extend(numbers.zip(buf.as_chunks().0.iter().map(|part| Box::new(*part))));
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.len.store(len, Ordering::Relaxed);
        self.slots.write().retain(|number, _| *number < len / BLOCK);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        let numbers = Self::numbers(offset, len);
        self.slots.write().retain(|number, _| !numbers.contains(number));
        Ok(true)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
