//! Raw images, and open files in general.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::{OFlags, SeekFrom, seek};

use crate::images::{Extent, ImageError, ReadAt, Source};

/// An open file.
#[derive(Debug)]
pub(crate) struct OpenFile {
    file: File,
    length: u64,
}

impl OpenFile {
    /// Opens a file for reading. A pipe that nobody writes to is refused like any other, not waited for.
    ///
    /// # Errors
    /// As [`OpenFile::new`].
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
        Self::new(File::options().read(true).custom_flags(nonblocking).open(path)?)
    }

    /// Takes a regular file or a block device.
    ///
    /// # Errors
    /// Anything else, such as a pipe or a directory.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is neither a file nor a block device",
            ));
        }
        let length = seek(&file, SeekFrom::End(0))?;
        Ok(Self { file, length })
    }
}

impl ReadAt for OpenFile {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) => Ok(Some(data)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            // No such knowledge here: everything may be data.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOTSUP) => Ok(Some(offset)),
            Err(error) => Err(error.into()),
        }
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        match seek(&self.file, SeekFrom::Hole(offset)) {
            Ok(hole) => Ok(hole),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOTSUP) => Ok(self.length),
            Err(error) => Err(error.into()),
        }
    }
}

/// A raw image.
#[derive(Debug)]
pub(crate) struct Raw<R> {
    file: R,
}

impl<R: ReadAt> Raw<R> {
    /// Any bytes are a raw image.
    pub(crate) fn new(file: R) -> Self {
        Self { file }
    }
}

impl<R: ReadAt> Source for Raw<R> {
    fn size(&self) -> u64 {
        self.file.len()
    }

    fn extent(&mut self, offset: u64) -> Result<Extent, ImageError> {
        let end = self.file.len();
        let (zero, until) = match self.file.next_data(offset)? {
            None => (true, end),
            Some(data) if data > offset => (true, data.min(end)),
            Some(_) => (false, self.file.next_hole(offset)?.min(end)),
        };
        Ok(Extent { zero, length: until.saturating_sub(offset).max(1) })
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ImageError> {
        Ok(self.file.read_at(offset, into)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i3_a_pipe_that_nobody_writes_to_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let refused = OpenFile::open(&pipe).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{refused}");
        std::fs::write(dir.path().join("file"), "ab").unwrap();
        assert_eq!(OpenFile::open(&dir.path().join("file")).unwrap().len(), 2);
    }
}
