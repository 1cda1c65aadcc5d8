//! F9: re-key and re-encryption, on a simulated file.
//!
//! ```text
//!   volume.rs     volumes whose data keys follow from their wrapped forms, and what is known of their contents
//!   header.rs     the wrapped key is exchanged
//!   whole.rs      re-encryption from beginning to end: snapshots, sharing, concurrency, rates, damage
//!   crash.rs      power fails, or the host, at any moment of it
//!   forged.rs     headers and files of different moments put together
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test that tells how much it tried

mod crash;
mod forged;
mod header;
mod volume;
mod whole;
