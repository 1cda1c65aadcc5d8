//! Round trips.

use super::*;
use crate::crypto::{Backend, Chain, Dek, SeededEntropy, Suite, Tag, VolumeKeys};
use uuid::Uuid;

const VOLUME: Uuid = Uuid::from_bytes([0x11; 16]);

fn keys() -> VolumeKeys {
    VolumeKeys::new(Dek::new(&[0x22; 32]), VOLUME, Backend::AwsLc)
}

fn header() -> Header {
    Header {
        suite: Suite::Aes256Gcm,
        kind: VolumeKind::Disk,
        sequence: 3,
        uuid: VOLUME,
        created: 1_700_000_000,
        ring_pages: layout::RING_PAGES_MIN,
        cmk_id: Text::new("0f1e2d3c-key").unwrap(),
        cmk_version: 2,
        wrapped_dek: WrappedDekField::new(vec![0xab; 77]).unwrap(),
        next_wrapped_dek: WrappedDekField::default(),
        base: None,
    }
}

#[test]
fn a_header_comes_back() {
    let bytes = header().encode(&keys()).unwrap();
    assert_eq!(UnverifiedHeader::parse(bytes.as_ref()).unwrap().verify(&keys()).unwrap(), header());
}

#[test]
fn a_log_page_comes_back() {
    let epoch = keys().begin_epoch(&SeededEntropy::new(1)).unwrap();
    let records = [
        LogRecord::Write { lba: 7, slot: 99, counter: 3, tag: Tag([4; 16]) },
        LogRecord::Unmap { lba: 1 << 30, count: 5 },
        LogRecord::Zero { lba: 0, count: 1 },
    ];
    let head = LogPageHeader {
        last: true,
        compaction: false,
        count: 0,
        sequence: 12,
        group: 4,
        epoch: 1,
        counter: 0,
        record_epoch: 1,
        salt: epoch.salt,
        record_salt: epoch.salt,
    };
    let mut page = [0; layout::BLOCK];
    let before = Chain([9; 32]);
    let nonce = epoch.nonces.next().unwrap();
    let tag = seal_log_page(&head, &records, epoch.keys.log.as_ref(), nonce, &VOLUME, &before, &mut page);
    let found = LogPageHeader::decode(&page).unwrap();
    assert_eq!(found, LogPageHeader { count: 3, ..head });
    let cipher = keys().epoch(&found.salt).log;
    let mut opened = page;
    assert_eq!(
        open_log_page(&found, cipher.as_ref(), &VOLUME, &before, &mut opened).unwrap(),
        (records.to_vec(), tag)
    );
    assert!(
        open_log_page(&found, cipher.as_ref(), &VOLUME, &Chain([8; 32]), &mut page).is_err(),
        "another past"
    );
}

#[test]
fn a_superblock_comes_back() {
    let superblock = Superblock {
        generation: 5,
        state: Anchor { commit: 4, chain: Chain([1; 32]) },
        log_head: LogHead { page: 3, sequence: 1_027 },
        blocks: 1 << 20,
        height: 3,
        root: Entry::page(40, 1, 2, Tag([3; 16])),
        file_slots: 1 << 21,
        used_slots: 77,
        next_epoch: 2,
        epochs: Entry::table(41, Tag([4; 16])),
        versions: vec![Entry::table(42, Tag([5; 16]))],
        confirmed: Anchor { commit: 3, chain: Chain([2; 32]) },
        clean: true,
        upper_allocation: vec![Entry::page(7, 1, 9, Tag([6; 16])).with_aux(12)],
    };
    let page = keys()
        .seal_table(crate::crypto::TablePurpose::Superblock, &superblock.encode(), &SeededEntropy::new(3))
        .unwrap();
    assert_eq!(Superblock::decode(&keys().open_superblock(&page).unwrap()).unwrap(), superblock);
}
