//! Opening the file that a command names, without being held up by what may stand in its place.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::failure::FileError;

/// An open file.
#[derive(Debug)]
pub struct RegularFile {
    /// The file.
    pub file: File,
    /// Its device and inode number.
    pub identity: (u64, u64),
    /// Whose it is.
    pub owner: u32,
}

/// Opens a regular file that is not empty.
///
/// # Errors
/// If it is missing, empty or something else, or the host refuses.
pub fn open(path: &Path, write: bool) -> Result<RegularFile, FileError> {
    let system = |operation| move |source| FileError::System { operation, file: path.to_owned(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        // A pipe or a terminal must not hold the command up or become its own.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => FileError::Missing { file: path.to_owned() },
            io::ErrorKind::IsADirectory => FileError::NotRegular { file: path.to_owned() },
            _ => FileError::System { operation: "open", file: path.to_owned(), source },
        })?;
    let metadata = file.metadata().map_err(system("inspect"))?;
    if !metadata.is_file() {
        return Err(FileError::NotRegular { file: path.to_owned() });
    }
    if metadata.len() == 0 {
        return Err(FileError::Empty { file: path.to_owned() });
    }
    Ok(RegularFile { file, identity: (metadata.dev(), metadata.ino()), owner: metadata.uid() })
}
