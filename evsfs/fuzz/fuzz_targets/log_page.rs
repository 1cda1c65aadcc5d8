//! Log pages: the clear header, forged pages, and records; what decodes encodes to the same bytes.
#![no_main]

use evsfs::crypto::{Backend, VolumeKeys};
use evsfs::format::{LogPageHeader, LogRecord, open_log_page};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

fuzz_target!(|data: &[u8]| {
    let mut page = [0; 4096];
    let len = data.len().min(page.len());
    page[..len].copy_from_slice(&data[..len]);
    if let Ok(header) = LogPageHeader::decode(&page) {
        let keys = VolumeKeys::plain(Uuid::nil(), Backend::AwsLc);
        let cipher = keys.epoch(&header.salt).log;
        let _ = open_log_page(&header, &*cipher, &Uuid::nil(), &keys.genesis_chain(), &mut page.clone());
    }
    for record in page.as_chunks::<{ LogRecord::LEN }>().0 {
        if let Ok(decoded) = LogRecord::decode(record) {
            assert_eq!(&decoded.encode(), record);
        }
    }
});
