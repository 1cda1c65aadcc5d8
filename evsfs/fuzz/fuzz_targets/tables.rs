//! See `evsfs::format::fuzz::tables`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| evsfs::format::fuzz::tables(data));
