//! What one change of the map looks like in the log.

use super::bytes::{array, put, put_u32, put_u40, u32_at, u40_at};
use super::error::{FormatError, Structure, bounded, zeros};
use super::layout::{BLOCKS_MAX, RING_START, SLOT_MAX};
use crate::crypto::Tag;

const OP: usize = 0;
const LBA: usize = OP + 1;
const SLOT: usize = LBA + 5;
const UNUSED: usize = SLOT + 5;
const COUNTER: usize = UNUSED + 1;
const TAG: usize = COUNTER + 4;
const END: usize = TAG + Tag::LEN;

/// Offset, size and name, as in docs/volume-format.md.
#[cfg(test)]
pub(super) const FIELDS: &[super::tests::Field] = &[
    (OP, LBA - OP, "operation"),
    (LBA, SLOT - LBA, "block"),
    (SLOT, UNUSED - SLOT, "slot or count"),
    (UNUSED, COUNTER - UNUSED, "zero"),
    (COUNTER, TAG - COUNTER, "counter"),
    (TAG, END - TAG, "tag"),
];

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogRecord {
    /// Block `lba` is now in `slot`, sealed as `counter` of the page's record epoch.
    Write {
        /// Block of the volume.
        lba: u64,
        /// Where its ciphertext lies.
        slot: u64,
        /// Its nonce.
        counter: u32,
        /// Its tag.
        tag: Tag,
    },
    /// `count` blocks from `lba` are absent: zeros, or what the base holds.
    Unmap {
        /// First block.
        lba: u64,
        /// Number of blocks.
        count: u64,
    },
    /// `count` blocks from `lba` are zero, whatever the base holds.
    Zero {
        /// First block.
        lba: u64,
        /// Number of blocks.
        count: u64,
    },
}

impl LogRecord {
    /// Bytes of a record.
    pub const LEN: usize = END;

    /// As in the file, before it is sealed.
    ///
    /// # Panics
    /// If a number has more than 40 bits.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (op, lba, second) = match *self {
            Self::Write { lba, slot, counter, tag } => {
                put_u32(&mut bytes, COUNTER, counter);
                put(&mut bytes, TAG, &tag.0);
                (1, lba, slot)
            }
            Self::Unmap { lba, count } => (2, lba, count),
            Self::Zero { lba, count } => (3, lba, count),
        };
        bytes[OP] = op;
        put_u40(&mut bytes, LBA, lba);
        put_u40(&mut bytes, SLOT, second);
        bytes
    }

    /// From opened bytes.
    ///
    /// # Errors
    /// If no encoder writes such bytes.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, FormatError> {
        let structure = Structure::LogRecord;
        let op = bounded(structure, "operation", bytes[OP].into(), 1, 3)?;
        let lba = bounded(structure, "block", u40_at(bytes, LBA), 0, BLOCKS_MAX - 1)?;
        let second = u40_at(bytes, SLOT);
        zeros(structure, "slot", &bytes[UNUSED..COUNTER])?;
        if op == 1 {
            let slot = bounded(structure, "slot", second, RING_START, SLOT_MAX)?;
            return Ok(Self::Write {
                lba,
                slot,
                counter: u32_at(bytes, COUNTER),
                tag: Tag(array(bytes, TAG)),
            });
        }
        zeros(structure, "block count", &bytes[COUNTER..])?;
        let count = bounded(structure, "block count", second, 1, BLOCKS_MAX - lba)?;
        Ok(if op == 2 { Self::Unmap { lba, count } } else { Self::Zero { lba, count } })
    }
}
