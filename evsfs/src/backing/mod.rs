//! The only route from the engine to the volume file.
//!
//! A backing is a flat array of bytes with a barrier. It is small enough that tests can record, cut short, reorder and fail
//! every call of it. Its rule: whatever was written before a [`Backing::sync`] that returned `Ok` survives a loss of power;
//! anything else may survive wholly, in part, or not at all, in units of 512 bytes.

use std::io;
use std::sync::Arc;

mod file;
#[cfg(feature = "sim")]
pub mod sim;

pub use file::{FileBacking, FileBackingError};

/// A random-access file with a durability barrier. Calls may come from many threads at once.
pub trait Backing: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether nothing was ever written.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buf` from `offset`. Beyond the end: [`io::ErrorKind::UnexpectedEof`].
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `buf` at `offset`, growing the file if need be. On an error any part may have been written.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Sets the length in bytes; what is new reads as zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Gives the bytes `offset .. offset + len` back to the host; they read as zeros afterwards. A host that cannot do it leaves them as they
    /// are: then this is false.
    fn punch(&self, offset: u64, len: u64) -> io::Result<bool>;

    /// The barrier: everything written before is durable when this returns `Ok` (`fdatasync`). After an error nothing may be
    /// assumed about earlier writes, and a later success does not make up for it. Calls may run at once: what is lost is told to each of them
    /// that covers it.
    fn sync(&self) -> io::Result<()>;
}

impl<B: Backing + ?Sized> Backing for Arc<B> {
    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        (**self).write_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        (**self).set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        (**self).punch(offset, len)
    }
    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }
}
