//! evsfs: one encrypted, authenticated, crash-consistent volume in one file, shown as a plain raw disk over FUSE.
//!
//! ```text
//!    evsfs mount FILE MOUNTPOINT                        kmsd (wraps and unwraps DEKs)
//!            |                                            ^
//!   cli, commands      parse, call, print                 | unwrap once; anchors later
//!            |                                            |
//!          serve ---- mount, process, control, lock ------+
//!            |        one process per volume, one DEK in it
//!          fuse       /dev/fuse <-> device: any offset, any length
//!            |
//!         engine      map, dirty entries, allocator, log, checkpoint, recovery, versions
//!         /    \
//!    format    crypto   pure: bytes, keys, nonces; no I/O, no clock, randomness is an argument
//!         \    /
//!         backing     about six methods: the file, or in tests a simulator that loses power
//! ```
//!
//! - [`format`] draws every byte of the file (docs/volume-format.md) and checks what it reads: the file is hostile input.
//! - [`crypto`] derives the keys, hands out each nonce once, and seals and opens blocks.
//! - [`engine`] is a block device inside one file; all its rules of order are at the write that they concern.
//! - [`backing`] is the only route to that file.
//! - [`fuse`], [`device`], [`errno`], [`mount`], [`process`] and [`control`] translate, and decide nothing.
//!
//! What the crate does **not** do:
//! - It knows no CMK, no token and no policy: kmsd has them. It asks for one DEK and keeps it until detach.
//! - It has no catalogue: which volume is whose disk, and whether it must be encrypted, `ecsctl` and kmsd know.
//! - It cannot tell the newest copy of a file from an old one by itself: the anchor in kmsd can (F3).
//! - It hides neither the size of the volume, nor how much of it is used, nor when and where the file changes.
//! - It serves one writer: no clustered access, no network protocol.
//! - It has no file system of its own: the disk is bytes.

pub mod anchors;
pub mod backing;
pub mod cli;
pub mod commands;
pub mod control;
pub mod crypto;
pub mod device;
pub mod engine;
pub mod errno;
pub mod failure;
pub mod flatten;
pub mod format;
pub mod fuse;
#[cfg(feature = "sim")]
pub mod hostile;
pub mod keys;
pub mod lease;
pub mod lock;
pub mod mount;
pub mod open;
pub mod operations;
pub mod process;
pub mod regular_file;
pub mod rekey;
pub mod serve;
pub mod size;
mod sync;
pub mod unlock;
