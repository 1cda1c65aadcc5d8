//! Map pages and entries: what decodes encodes to the same bytes.
#![no_main]

use evsfs::format::{Entry, MapPage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut page = [0; 4096];
    let len = data.len().min(page.len());
    page[..len].copy_from_slice(&data[..len]);
    for leaf in [false, true] {
        if let Ok(decoded) = MapPage::decode(&page, leaf) {
            let mut again = [0xEE; 4096];
            decoded.encode(&mut again);
            assert_eq!(again, page);
        }
    }
    for bytes in page.as_chunks::<{ Entry::LEN }>().0 {
        if let Ok(entry) = Entry::decode(bytes) {
            assert_eq!(&entry.encode(), bytes);
        }
    }
});
