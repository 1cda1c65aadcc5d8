//! The one map from what goes wrong in a device to what the kernel is told.

use fuser::Errno;

use crate::device::DeviceError;
use crate::engine::VolumeError;

/// The error number for a failed request.
#[must_use]
pub fn errno(error: &DeviceError) -> Errno {
    match error {
        // What a block device says to a write behind its end.
        DeviceError::OutOfRange { .. } => Errno::ENOSPC,
        DeviceError::ReadOnly => Errno::EROFS,
        DeviceError::Host { source, .. } => source.raw_os_error().map_or(Errno::EIO, Errno::from_i32),
        DeviceError::Volume(error) => match error {
            VolumeError::DamagedBlock { .. }
            | VolumeError::DamagedPage { .. }
            | VolumeError::DamagedTable { .. }
            | VolumeError::Poisoned
            | VolumeError::Io(_)
            | VolumeError::EpochsExhausted
            | VolumeError::NoEntropy(_) => Errno::EIO,
            VolumeError::OutOfRange { .. } | VolumeError::NoSpace | VolumeError::TooManySnapshots { .. } => {
                Errno::ENOSPC
            }
            VolumeError::ReadOnly => Errno::EROFS,
            VolumeError::WouldShrink { .. }
            | VolumeError::BadSize { .. }
            | VolumeError::Header(_)
            | VolumeError::NameTooLong { .. } => Errno::EINVAL,
            VolumeError::NoSuchSnapshot { .. } => Errno::ENOENT,
            VolumeError::SnapshotExists { .. } => Errno::EEXIST,
        },
    }
}

/// Whether the failure is the host's or the file's, so that it belongs in the log, and not a caller's mistake.
#[must_use]
pub fn is_fault(error: &DeviceError) -> bool {
    match error {
        DeviceError::OutOfRange { .. } | DeviceError::ReadOnly => false,
        DeviceError::Host { .. } => true,
        DeviceError::Volume(_) => {
            errno(error) == Errno::EIO || matches!(error, DeviceError::Volume(VolumeError::NoSpace))
        }
    }
}
