//! What can be wrong with bytes that claim to be part of a volume.

use std::fmt;

/// The parts of the file that have a codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Structure {
    Header,
    Entry,
    MapPage,
    LogPage,
    LogRecord,
    Superblock,
    EpochDirectory,
    EpochPage,
    VersionPage,
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Entry => "entry",
            Self::MapPage => "map page",
            Self::LogPage => "log page",
            Self::LogRecord => "log record",
            Self::Superblock => "superblock",
            Self::EpochDirectory => "epoch directory",
            Self::EpochPage => "epoch page",
            Self::VersionPage => "version page",
        })
    }
}

/// Bytes that no encoder of this version writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The file is not ours at all.
    #[error("not a volume (no magic)")]
    NotAVolume,
    /// Written by another version of the program.
    #[error("volume format version {found}, this program reads {supported}")]
    Version {
        /// What the header says.
        found: u16,
        /// [`super::layout::VERSION`].
        supported: u16,
    },
    /// The file ends before the structure does.
    #[error("truncated: {len} bytes, a {structure} has {expected}")]
    Truncated {
        /// What was expected.
        structure: Structure,
        /// Bytes that are there.
        len: usize,
        /// Bytes that it takes.
        expected: usize,
    },
    /// Not a page of this kind (no magic): for log pages that is the ordinary end of the log.
    #[error("not a {structure} (no magic)")]
    Magic {
        /// What was expected.
        structure: Structure,
    },
    /// A number that is out of its bounds.
    #[error("{structure}: {field} is {value}, allowed are {min} to {max}")]
    OutOfBounds {
        /// Where.
        structure: Structure,
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u64,
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// A reserved or unused byte is not zero.
    #[error("{structure}: unused bytes after {field} are not zero")]
    NotZero {
        /// Where.
        structure: Structure,
        /// The field before them.
        field: &'static str,
    },
    /// Text that is not valid UTF-8 or holds control characters.
    #[error("{structure}: {field} is not text")]
    NotText {
        /// Where.
        structure: Structure,
        /// Which field.
        field: &'static str,
    },
    /// Fields that contradict each other.
    #[error("{structure}: {field} contradicts the rest")]
    Contradiction {
        /// Where.
        structure: Structure,
        /// Which field.
        field: &'static str,
    },
}

/// Holds a value against its bounds.
pub(super) fn bounded(
    structure: Structure,
    field: &'static str,
    value: u64,
    min: u64,
    max: u64,
) -> Result<u64, FormatError> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(FormatError::OutOfBounds { structure, field, value, min, max })
}

/// Holds unused bytes against zero.
pub(super) fn zeros(structure: Structure, field: &'static str, bytes: &[u8]) -> Result<(), FormatError> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    Err(FormatError::NotZero { structure, field })
}
