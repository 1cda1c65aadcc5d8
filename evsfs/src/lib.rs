//! evsfs

pub mod backing;
pub mod cli;
pub mod commands;
pub mod control;
pub mod crypto;
pub mod device;
pub mod engine;
pub mod errno;
pub mod failure;
pub mod format;
pub mod fuse;
pub mod keys;
pub mod lock;
pub mod mount;
pub mod process;
pub mod serve;
pub mod size;
pub mod unlock;
