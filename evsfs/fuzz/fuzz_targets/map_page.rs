//! See `evsfs::format::fuzz::map_page`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| evsfs::format::fuzz::map_page(data));
