//! The one kind of pointer: where something lies, and how to open it.

use super::bytes::{array, put, put_u16, put_u32, put_u40, u16_at, u32_at, u40_at};
use super::error::{FormatError, Structure, bounded, zeros};
use super::layout::{REGION_SLOTS, RING_START, SLOT_MAX};
use crate::crypto::Tag;
use std::fmt;

const SLOT: usize = 0;
const KIND: usize = SLOT + 5;
const AUX: usize = KIND + 1;
const EPOCH: usize = AUX + 2;
const COUNTER: usize = EPOCH + 4;
const TAG: usize = COUNTER + 4;
const END: usize = TAG + Tag::LEN;

/// Offset, size and name, as in docs/volume-format.md.
#[cfg(test)]
pub(super) const FIELDS: &[super::tests::Field] = &[
    (SLOT, KIND - SLOT, "slot"),
    (KIND, AUX - KIND, "kind"),
    (AUX, EPOCH - AUX, "aux"),
    (EPOCH, COUNTER - EPOCH, "epoch"),
    (COUNTER, TAG - COUNTER, "counter"),
    (TAG, END - TAG, "tag"),
];

/// What an entry stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Nothing: zeros, or what the base holds.
    Absent = 0,
    /// A data block.
    Data = 1,
    /// A hole that hides the base.
    Zero = 2,
    /// A page: of a tree or a table.
    Page = 3,
}

/// A pointer of 32 bytes, in memory as in the file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Bits 0 to 39 the slot, 40 to 47 the kind, 48 to 63 aux: a slot is a `u64` for all users, and an entry stays at 32 bytes.
    place: u64,
    epoch: u32,
    counter: u32,
    tag: Tag,
}

impl Entry {
    /// Bytes of an entry.
    pub const LEN: usize = END;

    /// Nothing here: an authenticated zero.
    pub const ABSENT: Self = Self { place: 0, epoch: 0, counter: 0, tag: Tag([0; 16]) };

    /// A hole that hides the base.
    pub const ZERO: Self = Self { place: (Kind::Zero as u64) << 40, epoch: 0, counter: 0, tag: Tag([0; 16]) };

    fn new(kind: Kind, slot: u64, epoch: u32, counter: u32, tag: Tag) -> Self {
        assert!(slot <= SLOT_MAX, "slot {slot} has more than 40 bits");
        Self { place: slot | (kind as u64) << 40, epoch, counter, tag }
    }

    /// A data block in `slot`, sealed as `counter` of `epoch`.
    ///
    /// # Panics
    /// If `slot` has more than 40 bits.
    #[must_use]
    pub fn data(slot: u64, epoch: u32, counter: u32, tag: Tag) -> Self {
        Self::new(Kind::Data, slot, epoch, counter, tag)
    }

    /// A page of a tree.
    ///
    /// # Panics
    /// If `slot` has more than 40 bits.
    #[must_use]
    pub fn page(slot: u64, epoch: u32, counter: u32, tag: Tag) -> Self {
        Self::new(Kind::Page, slot, epoch, counter, tag)
    }

    /// A table page: it has a key of its own, so epoch and counter are 0.
    ///
    /// # Panics
    /// If `slot` has more than 40 bits.
    #[must_use]
    pub fn table(slot: u64, tag: Tag) -> Self {
        Self::new(Kind::Page, slot, 0, 0, tag)
    }

    /// The same with another [`Self::aux`].
    #[must_use]
    pub const fn with_aux(self, aux: u16) -> Self {
        Self { place: self.place & ((1 << 48) - 1) | (aux as u64) << 48, ..self }
    }

    /// What it stands for.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match (self.place >> 40) & 0xff {
            1 => Kind::Data,
            2 => Kind::Zero,
            3 => Kind::Page,
            _ => Kind::Absent,
        }
    }

    /// Whether there is nothing.
    #[must_use]
    pub const fn is_absent(&self) -> bool {
        self.place == 0
    }

    /// Whether it is a data block.
    #[must_use]
    pub const fn is_data(&self) -> bool {
        matches!(self.kind(), Kind::Data)
    }

    /// Where it lies.
    #[must_use]
    pub const fn slot(&self) -> u64 {
        self.place & SLOT_MAX
    }

    /// In the allocation tree: used slots of the region (of a bitmap), or children with free slots (of a page). In the map: marks of what is
    /// discarded at or below the page. Else 0.
    #[must_use]
    pub const fn aux(&self) -> u16 {
        (self.place >> 48) as u16
    }

    /// The epoch that it was sealed in.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Its nonce within the epoch.
    #[must_use]
    pub const fn counter(&self) -> u32 {
        self.counter
    }

    /// Its tag.
    #[must_use]
    pub const fn tag(&self) -> &Tag {
        &self.tag
    }

    /// As in the file.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        put_u40(&mut bytes, SLOT, self.slot());
        bytes[KIND] = self.kind() as u8;
        put_u16(&mut bytes, AUX, self.aux());
        put_u32(&mut bytes, EPOCH, self.epoch);
        put_u32(&mut bytes, COUNTER, self.counter);
        put(&mut bytes, TAG, &self.tag.0);
        bytes
    }

    /// From the file.
    ///
    /// # Errors
    /// If no encoder writes such bytes.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, FormatError> {
        let structure = Structure::Entry;
        let (slot, aux) = (u40_at(bytes, SLOT), u16_at(bytes, AUX));
        let (epoch, counter, tag) = (u32_at(bytes, EPOCH), u32_at(bytes, COUNTER), Tag(array(bytes, TAG)));
        let kind = match bytes[KIND] {
            0 => {
                zeros(structure, "kind absent", bytes)?;
                return Ok(Self::ABSENT);
            }
            2 => {
                zeros(structure, "slot", &bytes[..KIND])?;
                zeros(structure, "kind zero", &bytes[AUX..])?;
                return Ok(Self::ZERO);
            }
            1 => {
                bounded(structure, "slot of data", slot, RING_START, SLOT_MAX)?;
                bounded(structure, "aux of data", aux.into(), 0, 0)?;
                bounded(structure, "epoch of data", epoch.into(), 1, u32::MAX.into())?;
                Kind::Data
            }
            3 => {
                bounded(structure, "slot of a page", slot, 3, SLOT_MAX)?;
                bounded(structure, "aux", aux.into(), 0, REGION_SLOTS)?;
                if epoch == 0 {
                    bounded(structure, "counter of a table page", counter.into(), 0, 0)?;
                }
                Kind::Page
            }
            other => {
                bounded(structure, "kind", other.into(), 0, 3)?;
                return Err(FormatError::Contradiction { structure, field: "kind" });
            }
        };
        Ok(Self::new(kind, slot, epoch, counter, tag).with_aux(aux))
    }
}

impl Default for Entry {
    fn default() -> Self {
        Self::ABSENT
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            Kind::Absent => f.write_str("absent"),
            Kind::Zero => f.write_str("zero"),
            kind => write!(
                f,
                "{kind:?}(slot {}, epoch {}, counter {}, aux {}, tag {:?})",
                self.slot(),
                self.epoch,
                self.counter,
                self.aux(),
                self.tag
            ),
        }
    }
}
