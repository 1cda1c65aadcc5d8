//! Proofs of the volume engine: crashes, tampering, faults and long random histories, on a simulated file.
//!
//! ```text
//!   workload ──> subject (the engine, or a small store that is right or wrong on purpose) ──> simulated file
//!      │                                                                                          │ crash points, faults
//!      └──> history (what each operation promised) ──> oracle <── what a fresh open shows ────────┘
//! ```
//!
//! docs/testing.md says what is proved by which test, and how to run longer campaigns.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test that tells how much it tried

mod concurrent;
mod crash;
mod cut_off;
mod engine;
mod explore;
mod faults;
mod meddler;
mod model;
mod mutation;
mod naive;
mod narrow;
mod nonce;
mod oracle;
mod proof_of_the_proof;
mod protections;
mod subject;
mod tamper;
mod tasks;
mod workload;
