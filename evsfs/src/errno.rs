//! The one map from what goes wrong in a device to what the kernel is told.

use std::io;

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
        DeviceError::Host { source, .. } => of_host(source),
        DeviceError::Volume(error) => match error {
            VolumeError::DamagedBlock { .. }
            | VolumeError::DamagedPage { .. }
            | VolumeError::DamagedTable { .. }
            | VolumeError::Poisoned
            | VolumeError::Superseded { .. }
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
            | VolumeError::NotThin { .. }
            | VolumeError::SmallerThanBase { .. }
            | VolumeError::NameTooLong { .. } => Errno::EINVAL,
            VolumeError::NoSuchSnapshot { .. } => Errno::ENOENT,
            VolumeError::SnapshotExists { .. } => Errno::EEXIST,
            VolumeError::Reencrypting { .. }
            | VolumeError::Flattening { .. }
            | VolumeError::HeaderChanged { .. } => Errno::EBUSY,
        },
    }
}

/// What a host says to a bare file and a disk may say as well: that it is full, or has no such operation. The rest would mislead whoever uses
/// the disk: with ENOTCONN, for one, it is the mount below that is gone, and not this one.
fn of_host(source: &io::Error) -> Errno {
    match source.raw_os_error() {
        Some(number @ (libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::EOPNOTSUPP)) => {
            Errno::from_i32(number)
        }
        _ => Errno::EIO,
    }
}

/// Whether the failure is the host's or the file's, so that it belongs in the log, and not a caller's mistake.
#[must_use]
pub fn is_fault(error: &DeviceError) -> bool {
    match error {
        DeviceError::OutOfRange { .. } | DeviceError::ReadOnly => false,
        // That was said once, when it came to light; the reads go on.
        DeviceError::Volume(VolumeError::Superseded { .. }) => false,
        DeviceError::Host { .. } => true,
        DeviceError::Volume(_) => {
            errno(error) == Errno::EIO || matches!(error, DeviceError::Volume(VolumeError::NoSpace))
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::engine::Damage;

    #[test]
    fn f2_damage_is_an_io_error_and_belongs_in_the_log() {
        let damaged = VolumeError::DamagedBlock { volume: Uuid::nil(), block: 7, reason: Damage::Tag };
        let error = DeviceError::from(damaged);
        assert_eq!((errno(&error), is_fault(&error)), (Errno::EIO, true));
        let text = error.to_string();
        assert!(text.contains("block 7") && text.contains(&Uuid::nil().to_string()), "{text}");
    }

    #[test]
    fn f11_a_full_host_is_told_as_such_and_a_failed_one_as_an_io_error() {
        let full = DeviceError::from(VolumeError::NoSpace);
        assert_eq!((errno(&full), is_fault(&full)), (Errno::ENOSPC, true));
        for error in [VolumeError::Poisoned, VolumeError::Io(io::Error::from_raw_os_error(libc::EINTR))] {
            assert_eq!(errno(&error.into()), Errno::EIO, "never a number by which a caller would try again");
        }
    }

    #[test]
    fn f11_a_bare_files_host_is_full_or_has_failed() {
        let host = |number| {
            let source = io::Error::from_raw_os_error(number);
            errno(&DeviceError::Host { operation: "write", file: "raw.img".into(), source })
        };
        for number in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG, libc::EOPNOTSUPP] {
            assert_eq!(host(number), Errno::from_i32(number));
        }
        for number in [libc::ENOTCONN, libc::EINTR, libc::EAGAIN, libc::ESTALE, libc::EPERM] {
            assert_eq!(host(number), Errno::EIO);
        }
    }

    #[test]
    fn callers_mistakes_are_not_faults() {
        let beyond = DeviceError::OutOfRange { offset: 1, length: 1, size: 1 };
        assert_eq!((errno(&beyond), is_fault(&beyond)), (Errno::ENOSPC, false));
        assert_eq!((errno(&DeviceError::ReadOnly), is_fault(&DeviceError::ReadOnly)), (Errno::EROFS, false));
    }
}
