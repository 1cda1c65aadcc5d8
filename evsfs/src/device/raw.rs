//! A bare file as a device: no format, no encryption. The limit that any format over the same transport can reach.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::{BlockDevice, DeviceError, check_range};
use crate::failure::Failure;
use crate::serve::Attachment;

/// A raw file. Its size is the file's when it was attached.
#[derive(Debug)]
pub struct RawDevice {
    file: File,
    path: PathBuf,
    size: u64,
    read_only: bool,
    /// Whether a flush has failed: the host tells of lost pages only once, so none succeeds after it.
    failed: Mutex<bool>,
}

impl RawDevice {
    /// Serves an open file; `path` is for messages.
    ///
    /// # Errors
    /// If its size cannot be read.
    pub fn new(file: File, path: PathBuf, read_only: bool) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, path, size, read_only, failed: Mutex::default() })
    }

    fn host(&self, operation: &'static str, source: impl Into<io::Error>) -> DeviceError {
        DeviceError::Host { operation, file: self.path.clone(), source: source.into() }
    }

    fn check_write(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        if self.read_only {
            return Err(DeviceError::ReadOnly);
        }
        check_range(offset, length, self.size)
    }

    fn punch(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, flags, offset, length).map_err(|errno| self.host("discard", errno))
    }
}

impl BlockDevice for RawDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn allocated(&self) -> u64 {
        self.file.metadata().map_or(self.size, |metadata| metadata.blocks() * 512)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        check_range(offset, buf.len() as u64, self.size)?;
        self.file.read_exact_at(buf, offset).map_err(|error| self.host("read", error))
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.check_write(offset, data.len() as u64)?;
        self.file.write_all_at(data, offset).map_err(|error| self.host("write", error))
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.check_write(offset, length)?;
        self.punch(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.check_write(offset, length)?;
        match fallocate(&self.file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, offset, length) {
            // A hole is zeros, too; tmpfs has only those.
            Err(Errno::OPNOTSUPP) => self.punch(offset, length),
            other => other.map_err(|errno| self.host("zeroing", errno)),
        }
    }

    fn flush(&self) -> Result<(), DeviceError> {
        let mut failed = self.failed.lock();
        if *failed {
            let before = io::Error::other("an earlier flush failed: attach the file again");
            return Err(self.host("flush", before));
        }
        let synced = self.file.sync_data();
        *failed = synced.is_err();
        synced.map_err(|error| self.host("flush", error))
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>, DeviceError> {
        match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(found) => Ok((found < self.size).then_some(found)),
            Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(self.host("search for data", errno)),
        }
    }

    fn next_hole(&self, offset: u64) -> Result<u64, DeviceError> {
        match seek(&self.file, SeekFrom::Hole(offset)) {
            Ok(found) => Ok(found.min(self.size)),
            Err(Errno::NXIO) => Ok(self.size),
            Err(errno) => Err(self.host("search for a hole", errno)),
        }
    }
}

impl Attachment for RawDevice {
    fn status(&self) -> Value {
        json!({"format": "raw", "file": self.path})
    }

    type Lock = File;

    fn close(self) -> (File, Result<(), Failure>) {
        let flushed = if self.read_only { Ok(()) } else { self.flush().map_err(Into::into) };
        (self.file, flushed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f11_after_a_flush_that_failed_none_succeeds() {
        // A pipe cannot be made durable.
        let (_reader, pipe) = io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
        let mut device = RawDevice::new(pipe, "raw.img".into(), false).unwrap();
        device.flush().unwrap_err();
        device.file = tempfile::tempfile().unwrap();
        let message = device.flush().unwrap_err().to_string();
        assert!(message.contains("raw.img") && message.contains("earlier flush"), "{message}");
        let healthy = RawDevice::new(tempfile::tempfile().unwrap(), "raw.img".into(), false).unwrap();
        healthy.flush().unwrap();
    }
}
