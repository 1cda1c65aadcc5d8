//! evsfs: see the library for what it does.

use std::process::ExitCode;

use evsfs::process::ProcessMemory;

/// So that what is free goes back to the kernel although it is locked.
#[global_allocator]
static MEMORY: ProcessMemory = ProcessMemory;

fn main() -> ExitCode {
    evsfs::commands::run(std::env::args_os())
}
