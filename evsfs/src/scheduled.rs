//! The root of another crate, `evsfs-schedules`: the volume engine over locks that hand control to a scheduler (shuttle). It is no module
//! of `evsfs`, and lies here so that it names the engine's files as `evsfs` does.
//!
//! ```text
//!   engine, the same files ── crate::sync ──> schedules/sync.rs: shuttle's locks, atomics and thread-locals
//!                          ── crate::crypto, format, backing ──> evsfs, as it is
//! ```
//!
//! Each lock, each atomic of the protocol, and each half of a slot that is read or written is a point at which another thread may go
//! on. The tests run small workloads in many such orders. [`leaving_out`] takes a protection out of the engine: each must be noticed.

// The engine's own tests belong to `evsfs`: as a test of its own this crate is empty.
#![cfg(not(test))]

use evsfs::{backing, crypto, format};

pub mod engine;
#[path = "../schedules/memory.rs"]
mod memory;
#[path = "../schedules/sync.rs"]
mod sync;

pub use memory::{Call, Memory};
pub use sync::leaving_out;
