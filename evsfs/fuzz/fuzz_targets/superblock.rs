//! See `evsfs::format::fuzz::superblock`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| evsfs::format::fuzz::superblock(data));
