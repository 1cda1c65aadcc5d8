//! Superblocks: what decodes encodes to the same bytes.
#![no_main]

use evsfs::format::Superblock;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut payload = [0; evsfs::format::layout::TABLE_PAYLOAD];
    let len = data.len().min(payload.len());
    payload[..len].copy_from_slice(&data[..len]);
    if let Ok(superblock) = Superblock::decode(&payload) {
        assert_eq!(superblock.encode().as_slice(), payload.as_slice());
    }
});
