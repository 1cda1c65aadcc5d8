//! The one map from what goes wrong in a device to what the kernel is told.

use fuser::Errno;

use crate::device::DeviceError;

/// The error number for a failed request.
#[must_use]
pub fn errno(error: &DeviceError) -> Errno {
    match error {
        // What a block device says to a write behind its end.
        DeviceError::OutOfRange { .. } => Errno::ENOSPC,
        DeviceError::ReadOnly => Errno::EROFS,
        DeviceError::Host { source, .. } => source.raw_os_error().map_or(Errno::EIO, Errno::from_i32),
    }
}

/// Whether the failure is the host's or the file's, so that it belongs in the log, and not a caller's mistake.
#[must_use]
pub fn is_fault(error: &DeviceError) -> bool {
    match error {
        DeviceError::OutOfRange { .. } | DeviceError::ReadOnly => false,
        DeviceError::Host { .. } => true,
    }
}
