//! Epoch and version tables: what decodes encodes to the same bytes.
#![no_main]

use evsfs::format::{EpochDirectory, EpochPage, VersionPage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut payload = [0; evsfs::format::layout::TABLE_PAYLOAD];
    let len = data.len().min(payload.len());
    payload[..len].copy_from_slice(&data[..len]);
    if let Ok(directory) = EpochDirectory::decode(&payload) {
        assert_eq!(directory.encode().as_slice(), payload.as_slice());
    }
    if let Ok(page) = EpochPage::decode(&payload) {
        assert_eq!(page.encode().as_slice(), payload.as_slice());
    }
    if let Ok(page) = VersionPage::decode(&payload) {
        assert_eq!(page.encode().as_slice(), payload.as_slice());
    }
});
