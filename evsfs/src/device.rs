//! What the FUSE layer serves: a block device of a fixed size, in bytes.

mod raw;
mod volume;

use std::io;
use std::path::PathBuf;

pub use raw::RawDevice;
pub use volume::VolumeDevice;

use uuid::Uuid;

use crate::engine::VolumeError;

/// A device that takes any offset and length within its size, from many threads at once.
///
/// After `discard` and `write_zeroes` the range reads as zeros; `discard` also gives its space back where that is possible.
/// Nothing is durable before `flush` returns.
pub trait BlockDevice: Send + Sync + 'static {
    /// Size in bytes. It may grow while the device is served; it never shrinks.
    fn size(&self) -> u64;

    /// Bytes that the device takes on its host.
    fn allocated(&self) -> u64;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// If the range does not lie within the device, or its contents cannot be had.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError>;

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// If the range does not lie within the device, or it cannot be written.
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError>;

    /// Zeros the range and gives its space back.
    ///
    /// # Errors
    /// As [`BlockDevice::write`].
    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError>;

    /// Zeros the range.
    ///
    /// # Errors
    /// As [`BlockDevice::write`].
    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError>;

    /// Makes all writes that have returned durable.
    ///
    /// # Errors
    /// If that failed; then it never succeeds again for these writes.
    fn flush(&self) -> Result<(), DeviceError>;

    /// First offset from `offset` on that holds data; `None` if there is none.
    ///
    /// # Errors
    /// If the device cannot tell.
    fn next_data(&self, offset: u64) -> Result<Option<u64>, DeviceError>;

    /// First offset from `offset` on that lies in a hole; the end of the device counts as one.
    ///
    /// # Errors
    /// If the device cannot tell.
    fn next_hole(&self, offset: u64) -> Result<u64, DeviceError>;

    /// Its earlier states, if it keeps any.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }
}

/// Earlier states of a device. They never change; each may go at any time.
pub trait Snapshots: Sync {
    /// Bytes of one, if it is there.
    fn size_of(&self, id: Uuid) -> Option<u64>;

    /// Fills `buf` from `offset` of one.
    ///
    /// # Errors
    /// As [`BlockDevice::read`]; also if it is gone.
    fn read_from(&self, id: Uuid, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError>;

    /// As [`BlockDevice::next_data`] in one.
    ///
    /// # Errors
    /// As there.
    fn next_data_in(&self, id: Uuid, offset: u64) -> Result<Option<u64>, DeviceError>;

    /// As [`BlockDevice::next_hole`] in one.
    ///
    /// # Errors
    /// As there.
    fn next_hole_in(&self, id: Uuid, offset: u64) -> Result<u64, DeviceError>;
}

/// Why a request to a device failed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The range is not within the device.
    #[error("{length} bytes at {offset} are not within the disk of {size} bytes")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Bytes of the device.
        size: u64,
    },
    /// The device was attached for reading only.
    #[error("the disk was attached read-only")]
    ReadOnly,
    /// The host refused an operation on a raw file.
    #[error("{operation} of {file}: {source}", file = file.display())]
    Host {
        /// What was tried.
        operation: &'static str,
        /// The raw file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The volume engine refused or failed.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// Refuses a range that is not within `size` bytes.
pub(crate) fn check_range(offset: u64, length: u64, size: u64) -> Result<(), DeviceError> {
    if offset.checked_add(length).is_some_and(|end| end <= size) {
        return Ok(());
    }
    Err(DeviceError::OutOfRange { offset, length, size })
}
