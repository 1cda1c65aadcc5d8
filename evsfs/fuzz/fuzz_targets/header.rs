//! See `evsfs::format::fuzz::header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| evsfs::format::fuzz::header(data));
