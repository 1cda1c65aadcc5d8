//! Second-level tables, read one at a time and only as far as the contents are walked.

use crate::images::{ImageError, ReadAt};

/// The largest table of a first level, or block table, that is held in memory; QEMU has the same bound for qcow2.
pub(crate) const MAX_TABLE: u64 = 32 << 20;
/// The largest disk, in bytes.
pub(crate) const MAX_SIZE: u64 = 64 << 40;

/// The table that was read last. Contents are walked in ascending order, so each table is read once; a file whose first
/// level names the same table again and again is noticed when more was read than the file holds.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    held: Option<(u64, Vec<u8>)>,
    read: u64,
}

impl Tables {
    /// The table with this number, of `length` bytes at `offset` of the file.
    ///
    /// # Errors
    /// [`ImageError::Damaged`] for a table that is not within the file, [`ImageError::Overlap`].
    pub(crate) fn load(
        &mut self,
        file: &dyn ReadAt,
        number: u64,
        offset: u64,
        length: u64,
    ) -> Result<&[u8], ImageError> {
        if self.held.as_ref().is_none_or(|(known, _)| *known != number) {
            self.held = Some((number, section(file, offset, length, "a second-level table")?));
            self.read = self.read.saturating_add(length);
            if self.read > file.len() {
                return Err(ImageError::Overlap);
            }
        }
        Ok(self.held.as_ref().map(|(_, table)| table.as_slice()).unwrap_or_default())
    }
}

/// A part of the file that must be whole.
///
/// # Errors
/// [`ImageError::TooLarge`] before anything is allocated, [`ImageError::Damaged`] when it is not within the file.
pub(crate) fn section(
    file: &dyn ReadAt,
    offset: u64,
    length: u64,
    what: &'static str,
) -> Result<Vec<u8>, ImageError> {
    if length > MAX_TABLE {
        return Err(ImageError::TooLarge { what, value: length, limit: MAX_TABLE });
    }
    if offset.checked_add(length).is_none_or(|end| end > file.len()) {
        return Err(ImageError::Outside { what });
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| ImageError::Outside { what })?];
    file.read_at(offset, &mut bytes)?;
    Ok(bytes)
}

/// Refuses a disk that is larger than any this product can hold.
///
/// # Errors
/// [`ImageError::TooLarge`].
pub(crate) fn bounded_size(size: u64) -> Result<u64, ImageError> {
    if size > MAX_SIZE {
        return Err(ImageError::TooLarge { what: "the disk", value: size, limit: MAX_SIZE });
    }
    Ok(size)
}

/// Refuses a unit of allocation that is no power of two between two bounds.
///
/// # Errors
/// [`ImageError::Damaged`].
pub(crate) fn unit(value: u64, least: u64, most: u64, what: &'static str) -> Result<u64, ImageError> {
    if value.is_power_of_two() && (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(ImageError::Damaged { what })
    }
}
