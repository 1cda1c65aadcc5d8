//! See `evsfs::format::fuzz::log_page`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| evsfs::format::fuzz::log_page(data));
