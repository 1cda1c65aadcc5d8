//! Disk images from outside: readers that give the plain contents, and nothing else.
//!
//! An image is hostile input. A reader gets one open file and no way to open another, so a backing file, data file or
//! extent path in it can lead nowhere; those that need one are refused. Tables are bounded before they are read, and
//! all clusters together may be twice as long as the file and one cluster more, and each compressed one is unpacked once, to a bounded
//! multiple of its length, so that the work is bounded by the length of the file.

pub(crate) mod clusters;
pub(crate) mod probe;
pub(crate) mod qcow2;
pub(crate) mod qcow2_writer;
pub(crate) mod raw;
pub(crate) mod streams;
pub(crate) mod table;
#[cfg(test)]
mod tests;
pub(crate) mod vdi;
pub(crate) mod vhd;
pub(crate) mod vhdx;
pub(crate) mod vmdk;

use std::io;

use thiserror::Error;

/// The formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ImageFormat {
    /// The plain contents, byte by byte.
    Raw,
    /// QEMU's format, version 2 or 3.
    Qcow2,
    /// VMware's, in one file: monolithicSparse or streamOptimized.
    Vmdk,
    /// Virtual PC's and Azure's, fixed or dynamic; QEMU calls it vpc.
    Vhd,
    /// Hyper-V's.
    Vhdx,
    /// VirtualBox's.
    Vdi,
}

impl ImageFormat {
    /// The word in options and messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
        }
    }
}

/// The formats that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ExportFormat {
    /// The plain contents, sparse.
    Raw,
    /// QEMU's format, version 3.
    Qcow2,
}

impl ExportFormat {
    /// The word in options and messages.
    pub(crate) fn as_str(self) -> &'static str {
        ImageFormat::from(self).as_str()
    }
}

impl From<ExportFormat> for ImageFormat {
    fn from(format: ExportFormat) -> Self {
        match format {
            ExportFormat::Raw => Self::Raw,
            ExportFormat::Qcow2 => Self::Qcow2,
        }
    }
}

/// The bytes of an image file: one open file, or memory in tests.
pub(crate) trait ReadAt {
    /// Length in bytes.
    fn len(&self) -> u64;
    /// Fills `into` from `offset`.
    ///
    /// # Errors
    /// Also `UnexpectedEof`.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
    /// The first byte at or after `offset` that may differ from zero, if the file system knows.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset))
    }
    /// The end of the data that begins at `offset`.
    fn next_hole(&self, _offset: u64) -> io::Result<u64> {
        Ok(self.len())
    }
}

/// A stretch of an image's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Whether it reads as zeros and need not be read at all.
    pub(crate) zero: bool,
    /// Bytes, at least one.
    pub(crate) length: u64,
}

/// The plain contents of an image, in one pass from the beginning to the end.
pub(crate) trait Source {
    /// Bytes that a guest sees.
    fn size(&self) -> u64;
    /// What lies at `offset`, which is below the size.
    ///
    /// # Errors
    /// [`ImageError`], for a file that contradicts itself.
    fn extent(&mut self, offset: u64) -> Result<Extent, ImageError>;
    /// Reads within one extent.
    ///
    /// # Errors
    /// [`ImageError`].
    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ImageError>;
}

/// Why an image cannot be read.
#[derive(Debug, Error)]
pub(crate) enum ImageError {
    /// The file system.
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
    /// It is something else than it was said to be.
    #[error("it is {}, not {}", found.map_or("in no known format", ImageFormat::as_str), declared.as_str())]
    OtherFormat {
        /// What it was said to be.
        declared: ImageFormat,
        /// What its first bytes say.
        found: Option<ImageFormat>,
    },
    /// It needs another file, which it will not get.
    #[error("it refers to another file ({what}), and no other file is ever opened for it")]
    OtherFile {
        /// Such as "backing file".
        what: &'static str,
    },
    /// It is encrypted by its own means.
    #[error("it is encrypted itself")]
    Encrypted,
    /// It uses what this reader does not know.
    #[error("it uses {what}, which is not supported")]
    Unsupported {
        /// The feature.
        what: &'static str,
    },
    /// A field contradicts the format.
    #[error("it is damaged: {what}")]
    Damaged {
        /// The field.
        what: &'static str,
    },
    /// A part of it is not there.
    #[error("it is damaged or cut short: {what} lies beyond its end")]
    Outside {
        /// The part.
        what: &'static str,
    },
    /// A table or size beyond what is sensible.
    #[error("{what} is larger than allowed ({value}, at most {limit})")]
    TooLarge {
        /// Which.
        what: &'static str,
        /// What the file says.
        value: u64,
        /// The bound.
        limit: u64,
    },
    /// Compression that no real disk has.
    #[error("it unpacks to more than {limit} bytes, far beyond what its compressed parts could hold")]
    Bomb {
        /// The bound, which follows from the length of the compressed parts.
        limit: u64,
    },
    /// Parts of the file are used more than once: a file that would grow without bound.
    #[error("parts of the file are used more than once")]
    Overlap,
}

/// The field of a table at `at`, read within its bounds.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], ImageError> {
    let field = at.checked_add(N).and_then(|end| bytes.get(at..end)).and_then(|field| field.try_into().ok());
    field.ok_or(ImageError::Damaged { what: "a table is shorter than it says" })
}

/// A big-endian field of 32 bits.
pub(crate) fn be32(bytes: &[u8], at: usize) -> Result<u32, ImageError> {
    field(bytes, at).map(u32::from_be_bytes)
}

/// A big-endian field of 64 bits.
pub(crate) fn be64(bytes: &[u8], at: usize) -> Result<u64, ImageError> {
    field(bytes, at).map(u64::from_be_bytes)
}

/// A little-endian field of 16 bits.
pub(crate) fn le16(bytes: &[u8], at: usize) -> Result<u16, ImageError> {
    field(bytes, at).map(u16::from_le_bytes)
}

/// A little-endian field of 32 bits.
pub(crate) fn le32(bytes: &[u8], at: usize) -> Result<u32, ImageError> {
    field(bytes, at).map(u32::from_le_bytes)
}

/// A little-endian field of 64 bits.
pub(crate) fn le64(bytes: &[u8], at: usize) -> Result<u64, ImageError> {
    field(bytes, at).map(u64::from_le_bytes)
}
