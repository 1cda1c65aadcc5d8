//! The epoch table: a directory of pages of salts.

use super::TablePayload;
use super::bytes::{array, put, put_u16, u16_at};
use super::entry::{Entry, Kind};
use super::error::{FormatError, Structure, bounded, zeros};
use super::layout::TABLE_PAYLOAD;
use crate::crypto::EpochSalt;

const COUNT: usize = 0;
const ITEMS: usize = COUNT + 16;

/// Epoch pages of a volume at most.
pub const EPOCH_DIRECTORY_PAGES: usize = (TABLE_PAYLOAD - ITEMS) / Entry::LEN;
/// Salts of an epoch page at most.
pub const EPOCH_PAGE_SALTS: usize = (TABLE_PAYLOAD - ITEMS) / 16;
/// Epochs of a volume at most: the number of the last one.
#[allow(clippy::cast_possible_truncation)] // 31,752; there is no conversion in a constant that would say so
pub const EPOCHS_MAX: u32 = (EPOCH_DIRECTORY_PAGES * EPOCH_PAGE_SALTS) as u32;

/// Epoch `epoch` (from 1) is salt `.1` of epoch page `.0`. `None` for 0 and for more than a volume can have.
#[must_use]
pub fn epoch_place(epoch: u32) -> Option<(usize, usize)> {
    let number = usize::try_from(epoch.checked_sub(1)?).ok()?;
    let place = (number / EPOCH_PAGE_SALTS, number % EPOCH_PAGE_SALTS);
    (place.0 < EPOCH_DIRECTORY_PAGES).then_some(place)
}

/// References to the epoch pages, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EpochDirectory {
    /// At most [`EPOCH_DIRECTORY_PAGES`].
    pub pages: Vec<Entry>,
}

impl EpochDirectory {
    /// The payload of a table page.
    ///
    /// # Panics
    /// If there are too many pages.
    #[must_use]
    pub fn encode(&self) -> Box<TablePayload> {
        assert!(
            self.pages.len() <= EPOCH_DIRECTORY_PAGES,
            "an epoch directory has at most {EPOCH_DIRECTORY_PAGES} pages"
        );
        let mut payload = Box::new([0; TABLE_PAYLOAD]);
        put_u16(payload.as_mut(), COUNT, u16::try_from(self.pages.len()).expect("at most 126"));
        put_entries(payload.as_mut(), ITEMS, &self.pages);
        payload
    }

    /// From an opened payload.
    ///
    /// # Errors
    /// If no encoder writes such bytes.
    pub fn decode(payload: &TablePayload) -> Result<Self, FormatError> {
        let structure = Structure::EpochDirectory;
        zeros(structure, "count", &payload[COUNT + 2..ITEMS])?;
        let count = count_at(structure, "count", payload, COUNT, EPOCH_DIRECTORY_PAGES)?;
        Ok(Self {
            pages: table_references(structure, "pages", payload, ITEMS, count, EPOCH_DIRECTORY_PAGES)?,
        })
    }
}

/// Salts of consecutive epochs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EpochPage {
    /// At most [`EPOCH_PAGE_SALTS`].
    pub salts: Vec<EpochSalt>,
}

impl EpochPage {
    /// The payload of a table page.
    ///
    /// # Panics
    /// If there are too many salts.
    #[must_use]
    pub fn encode(&self) -> Box<TablePayload> {
        assert!(self.salts.len() <= EPOCH_PAGE_SALTS, "an epoch page has at most {EPOCH_PAGE_SALTS} salts");
        let mut payload = Box::new([0; TABLE_PAYLOAD]);
        put_u16(payload.as_mut(), COUNT, u16::try_from(self.salts.len()).expect("at most 252"));
        put(payload.as_mut(), ITEMS, self.salts.as_flattened());
        payload
    }

    /// From an opened payload.
    ///
    /// # Errors
    /// If no encoder writes such bytes.
    pub fn decode(payload: &TablePayload) -> Result<Self, FormatError> {
        let structure = Structure::EpochPage;
        zeros(structure, "count", &payload[COUNT + 2..ITEMS])?;
        let count = count_at(structure, "count", payload, COUNT, EPOCH_PAGE_SALTS)?;
        zeros(structure, "salts", &payload[ITEMS + count * 16..])?;
        Ok(Self { salts: (0..count).map(|index| array(payload, ITEMS + index * 16)).collect() })
    }
}

/// A bounded 16-bit count.
pub(super) fn count_at(
    structure: Structure,
    field: &'static str,
    payload: &TablePayload,
    at: usize,
    max: usize,
) -> Result<usize, FormatError> {
    let count = u16_at(payload, at);
    bounded(structure, field, count.into(), 0, max as u64)?;
    Ok(count.into())
}

pub(super) fn put_entries(payload: &mut TablePayload, at: usize, entries: &[Entry]) {
    for (index, entry) in entries.iter().enumerate() {
        put(payload, at + index * Entry::LEN, &entry.encode());
    }
}

/// `count` entries of pages in a field with room for `max`; zeros after them.
pub(super) fn page_references(
    structure: Structure,
    field: &'static str,
    payload: &TablePayload,
    at: usize,
    count: usize,
    max: usize,
) -> Result<Vec<Entry>, FormatError> {
    zeros(structure, field, &payload[at + count * Entry::LEN..at + max * Entry::LEN])?;
    let mut entries = Vec::with_capacity(count);
    for index in 0..count {
        let entry = Entry::decode(&array(payload, at + index * Entry::LEN))?;
        if entry.kind() != Kind::Page && !entry.is_absent() {
            return Err(FormatError::Contradiction { structure, field });
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// The same for table pages, which all exist and have no epoch.
pub(super) fn table_references(
    structure: Structure,
    field: &'static str,
    payload: &TablePayload,
    at: usize,
    count: usize,
    max: usize,
) -> Result<Vec<Entry>, FormatError> {
    let entries = page_references(structure, field, payload, at, count, max)?;
    if entries.iter().any(|entry| entry.kind() != Kind::Page || entry.epoch() != 0) {
        return Err(FormatError::Contradiction { structure, field });
    }
    Ok(entries)
}
