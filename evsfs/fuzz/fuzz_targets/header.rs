//! Headers: what decodes encodes to the same bytes, and no forgery passes for authentic.
#![no_main]

use evsfs::crypto::{Backend, Dek, VolumeKeys};
use evsfs::format::{HeaderCopies, UnverifiedHeader};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

fuzz_target!(|data: &[u8]| {
    let keys = VolumeKeys::new(Dek::new(&[7; 32]), Uuid::from_u128(1), Backend::AwsLc);
    if let Ok(copies) = HeaderCopies::parse(data) {
        assert!(copies.verify(&keys).is_err(), "a forged header passed");
    }
    // With a MAC that fits, as its owner could write it.
    let mut block = [0; 4096];
    let len = data.len().min(block.len() - 32);
    block[..len].copy_from_slice(&data[..len]);
    let Ok(claimed) = UnverifiedHeader::parse(&block) else { return };
    let keys = match claimed.suite() {
        evsfs::crypto::Suite::Plain => VolumeKeys::plain(*claimed.uuid(), Backend::AwsLc),
        evsfs::crypto::Suite::Aes256Gcm => VolumeKeys::new(Dek::new(&[7; 32]), *claimed.uuid(), Backend::AwsLc),
    };
    let next = claimed.claims().next.as_ref().map(|_| &keys);
    if let Some(next) = next {
        let mac = next.next_header_mac(&block[..4032]);
        block[4032..4064].copy_from_slice(&mac);
    }
    let mac = keys.header_mac(&block[..4064]);
    block[4064..].copy_from_slice(&mac);
    let header = UnverifiedHeader::parse(&block).unwrap().verify_with(&keys, next).unwrap();
    assert_eq!(header.encode_with(&keys, next).unwrap().as_slice(), block.as_slice());
});
