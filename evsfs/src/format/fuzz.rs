//! One plain function per parser, for fuzzers and for tests: hostile bytes in, no panic, and what is accepted is written back
//! byte for byte (there is one encoding of everything).

use super::layout::{BLOCK, HEADER_MAC, HEADER_NEXT_MAC, LOG_BODY, LOG_HEADER, TABLE_PAYLOAD};
use super::{
    Block, Entry, EpochDirectory, EpochPage, Header, HeaderCopies, LogPageHeader, LogRecord, MapPage,
    Superblock, TablePayload, UnverifiedHeader, VersionPage, decode_log_records, open_log_page,
};
use crate::crypto::{Backend, Chain, Dek, Suite, VolumeKeys};

/// A parser under test: takes any bytes and panics if the parser breaks its promises.
pub type Target = fn(&[u8]);

/// All of them, by the names of the fuzz targets.
pub const TARGETS: [(&str, Target); 5] = [
    ("header", header),
    ("superblock", superblock),
    ("log_page", log_page),
    ("map_page", map_page),
    ("tables", tables),
];

/// The bytes, cut or filled with zeros.
fn sized<const N: usize>(data: &[u8]) -> Box<[u8; N]> {
    let mut bytes = Box::new([0; N]);
    let len = data.len().min(N);
    bytes[..len].copy_from_slice(&data[..len]);
    bytes
}

/// The start of a file: both copies of the header; and one copy with a MAC that fits, as the owner of a key could write it.
///
/// # Panics
/// If a copy is accepted that would be written otherwise, or that passes for authentic.
pub fn header(data: &[u8]) {
    let mut block: Box<Block> = sized(data);
    if let Ok(claimed) = UnverifiedHeader::parse(block.as_ref()) {
        let keys = keys_for(claimed.claims());
        let next = claimed.claims().next.as_ref().map(|_| &keys);
        if let Some(next) = next {
            let mac = next.next_header_mac(&block[..HEADER_NEXT_MAC]);
            block[HEADER_NEXT_MAC..HEADER_MAC].copy_from_slice(&mac);
        }
        let mac = keys.header_mac(&block[..HEADER_MAC]);
        block[HEADER_MAC..].copy_from_slice(&mac);
        let again = UnverifiedHeader::parse(block.as_ref()).expect("the MACs are no part of it");
        let header = again.verify_with(&keys, next);
        assert_eq!(header.expect("its MACs fit").encode_with(&keys, next).expect("it was accepted"), block);
    }
    let Ok(copies) = HeaderCopies::parse(data) else { return };
    for copy in copies.candidates() {
        let claims = copy.claims();
        let keys = keys_for(claims);
        let next = claims.next.as_ref().map(|_| &keys);
        let written = claims.encode_with(&keys, next).expect("what was accepted can be written");
        let same = data.chunks(BLOCK).any(|block| block.starts_with(&written[..HEADER_NEXT_MAC]));
        assert!(same, "a header with two encodings was accepted");
        if claims.suite == Suite::Aes256Gcm {
            assert!(
                copy.verify_with(&keys, next).is_err(),
                "a header that was not made with this key passed"
            );
        }
    }
}

fn keys_for(header: &Header) -> VolumeKeys {
    match header.suite {
        Suite::Plain => VolumeKeys::plain(header.uuid, Backend::AesGcm),
        Suite::Aes256Gcm => VolumeKeys::new(Dek::new(&[0x5a; 32]), header.uuid, Backend::AesGcm),
    }
}

/// The opened payload of a superblock.
///
/// # Panics
/// If a payload is accepted that would be written otherwise.
pub fn superblock(data: &[u8]) {
    let payload: Box<TablePayload> = sized(data);
    if let Ok(superblock) = Superblock::decode(&payload) {
        assert_eq!(superblock.encode(), payload);
    }
}

/// A page of the ring; its body also as if it had been opened.
///
/// # Panics
/// If records are accepted that would be written otherwise, or a page passes for authentic.
pub fn log_page(data: &[u8]) {
    let mut page: Box<Block> = sized(data);
    let body: &[u8; LOG_BODY] = page[LOG_HEADER..LOG_HEADER + LOG_BODY].try_into().expect("within the page");
    let count = u16::from_le_bytes([page[6], page[7]]);
    if let Ok(records) = decode_log_records(count, body) {
        let mut again = [0; LOG_BODY];
        for (record, bytes) in records.iter().zip(again.as_chunks_mut().0) {
            *bytes = record.encode();
        }
        assert_eq!(&again, body);
    }
    for record in page.as_chunks::<{ LogRecord::LEN }>().0 {
        if let Ok(decoded) = LogRecord::decode(record) {
            assert_eq!(&decoded.encode(), record);
        }
    }
    let Ok(header) = LogPageHeader::decode(&page) else { return };
    assert_eq!(header.encode(), page[..LOG_HEADER]);
    let keys = VolumeKeys::new(Dek::new(&[0x5a; 32]), uuid::Uuid::nil(), Backend::AesGcm);
    let cipher = keys.epoch(&header.salt).log;
    assert!(open_log_page(&header, cipher.as_ref(), keys.uuid(), &Chain([0; 32]), &mut page).is_err());
}

/// An opened page of the map, as a leaf and as one above it, and each entry by itself.
///
/// # Panics
/// If a page is accepted that would be written otherwise.
pub fn map_page(data: &[u8]) {
    let bytes: Box<Block> = sized(data);
    for entry in bytes.as_chunks::<{ Entry::LEN }>().0 {
        if let Ok(decoded) = Entry::decode(entry) {
            assert_eq!(&decoded.encode(), entry);
        }
    }
    for leaf in [false, true] {
        if let Ok(page) = MapPage::decode(&bytes, leaf) {
            let mut again = [0; BLOCK];
            page.encode(&mut again);
            assert_eq!(again, *bytes);
        }
    }
}

/// The opened payload of an epoch directory, an epoch page or a version page.
///
/// # Panics
/// If a payload is accepted that would be written otherwise.
pub fn tables(data: &[u8]) {
    let payload: Box<TablePayload> = sized(data);
    if let Ok(directory) = EpochDirectory::decode(&payload) {
        assert_eq!(directory.encode(), payload);
    }
    if let Ok(page) = EpochPage::decode(&payload) {
        assert_eq!(page.encode(), payload);
    }
    if let Ok(page) = VersionPage::decode(&payload) {
        assert_eq!(page.encode(), payload);
    }
}

const _: () = assert!(TABLE_PAYLOAD <= BLOCK);
