//! What is written comes back.

use super::*;
use crate::crypto::TablePurpose;
use layout::{BLOCKS_MAX, SLOT_MAX};
use proptest::collection::vec;
use proptest::prelude::*;

fn tag() -> impl Strategy<Value = Tag> {
    any::<[u8; 16]>().prop_map(Tag)
}

fn chain() -> impl Strategy<Value = Chain> {
    any::<[u8; 32]>().prop_map(Chain)
}

fn anchor() -> impl Strategy<Value = Anchor> {
    (0..=COUNTER_MAX, chain()).prop_map(|(commit, chain)| Anchor { commit, chain })
}

fn data() -> impl Strategy<Value = Entry> {
    (16..=SLOT_MAX, 1..=u32::MAX, any::<u32>(), tag())
        .prop_map(|(slot, epoch, counter, tag)| Entry::data(slot, epoch, counter, tag))
}

fn page() -> impl Strategy<Value = Entry> {
    (3..=SLOT_MAX, 1..=u32::MAX, any::<u32>(), tag(), 0..=32_768_u16)
        .prop_map(|(slot, epoch, counter, tag, aux)| Entry::page(slot, epoch, counter, tag).with_aux(aux))
}

fn table() -> impl Strategy<Value = Entry> {
    (3..=SLOT_MAX, tag()).prop_map(|(slot, tag)| Entry::table(slot, tag))
}

fn record() -> impl Strategy<Value = LogRecord> {
    let write = (0..BLOCKS_MAX, 16..=SLOT_MAX, any::<u32>(), tag())
        .prop_map(|(lba, slot, counter, tag)| LogRecord::Write { lba, slot, counter, tag });
    let range = (0..BLOCKS_MAX).prop_flat_map(|lba| (Just(lba), 1..=BLOCKS_MAX - lba));
    prop_oneof![
        write,
        range.clone().prop_map(|(lba, count)| LogRecord::Unmap { lba, count }),
        range.prop_map(|(lba, count)| LogRecord::Zero { lba, count }),
    ]
}

fn text<const N: usize>() -> impl Strategy<Value = Text<N>> {
    "[ -~äß€🦀]{0,80}".prop_filter_map("too long", |text| Text::new(&text))
}

prop_compose! {
    fn any_superblock()(
        generation in 0..=COUNTER_MAX, state in anchor(), head in (0..16_384_u64, 0..=COUNTER_MAX), blocks in 1..=BLOCKS_MAX,
        root in prop_oneof![Just(Entry::ABSENT), Just(Entry::ZERO), page()],
        file_slots in 0..=SLOT_MAX, used in 0.0..1.0, next_epoch in 1..=EPOCHS_MAX + 1,
        epochs in prop_oneof![Just(Entry::ABSENT), table()], versions in vec(table(), 0..=VERSION_PAGES),
        confirmed in anchor(), offered in anchor(), more: u64, clean: bool,
        upper_allocation in vec(prop_oneof![Just(Entry::ABSENT), page()], 0..=UPPER_ALLOCATION_ENTRIES),
        task in proptest::option::of((any::<bool>(), any::<u64>(), any::<u64>()).prop_map(|(flatten, cursor, rate)| Task {
            kind: if flatten { TaskKind::Flatten } else { TaskKind::Reencrypt }, cursor, rate,
        })),
        base_copied: bool,
    ) -> Superblock {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let used_slots = (file_slots as f64 * used) as u64;
        Superblock {
            generation, state, log_head: LogHead { page: head.0, sequence: head.1 }, blocks, height: layout::map_height(blocks),
            root, file_slots, used_slots, next_epoch, epochs, versions, confirmed, offered, least_commit: state.commit.saturating_add(more).min(COUNTER_MAX), clean, upper_allocation, task, base_copied,
        }
    }
}

prop_compose! {
    fn any_version()(
        id: [u8; 16], trash: bool, name in text(), created: u64, blocks in 1..=BLOCKS_MAX, height in 1..=5_u8,
        root in prop_oneof![Just(Entry::ABSENT), page()], range_end in 0..=BLOCKS_MAX, within in 0..=u64::MAX, cursor in 0..=u64::MAX,
    ) -> VersionRecord {
        VersionRecord {
            id: Uuid::from_bytes(id), state: if trash { VersionState::Trash } else { VersionState::Snapshot }, name, created, blocks,
            height, root, range_start: within % (range_end + 1), range_end, cursor: cursor % (range_end + 1),
        }
    }
}

fn base_state() -> impl Strategy<Value = BaseState> {
    let proven = (any::<[u8; 32]>(), any::<bool>());
    prop_oneof![
        chain().prop_map(BaseState::Claimed),
        proven.prop_map(|(mac, encrypted)| BaseState::Proven { mac, encrypted }),
    ]
}

prop_compose! {
    fn any_header()(
        image: bool, sequence: u64, created: u64, ring_pages in 8..=16_384_u64, cmk_version: u32,
        cmk_id in "[ -~]{1,64}", wrapped in vec(any::<u8>(), 1..=1_024), next in proptest::option::of((vec(any::<u8>(), 1..=1_024), 1..=31_752_u32, 1..=u64::MAX)),
        base in proptest::option::of((any::<[u8; 16]>(), any::<u64>(), base_state(), text())), copied: bool,
    ) -> Header {
        Header {
            suite: Suite::Aes256Gcm, kind: if image { VolumeKind::Image } else { VolumeKind::Disk }, sequence, uuid: VOLUME, created,
            ring_pages, cmk_id: Text::new(&cmk_id).unwrap(), cmk_version, wrapped_dek: WrappedDekField::new(wrapped).unwrap(),
            next: next.map(|(wrapped, epoch, generation)| NextKey {
                wrapped_dek: WrappedDekField::new(wrapped).unwrap(), switch: Switch { epoch, generation },
            }),
            base_copied: copied && base.is_none(),
            base: base.map(|(uuid, commit, state, path)| BaseReference { uuid: Uuid::from_bytes(uuid), commit, state, path }),
        }
    }
}

proptest! {
    #[test]
    fn entries(entry in prop_oneof![data(), page(), table(), Just(Entry::ABSENT), Just(Entry::ZERO)]) {
        prop_assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
    }

    #[test]
    fn log_records(record in record()) {
        prop_assert_eq!(LogRecord::decode(&record.encode()).unwrap(), record);
    }

    #[test]
    fn headers(header in any_header()) {
        let next = header.next.as_ref().map(|_| next_keys());
        let bytes = header.encode_with(&keys(), next.as_ref()).unwrap();
        let parsed = UnverifiedHeader::parse(bytes.as_ref()).unwrap();
        prop_assert_eq!(parsed.verify_with(&keys(), next.as_ref()).unwrap(), header);
    }

    #[test]
    fn superblocks(superblock in any_superblock()) {
        let page = keys().seal_table(TablePurpose::Superblock, &superblock.encode(), &SeededEntropy::new(3)).unwrap();
        prop_assert_eq!(Superblock::decode(&keys().open_superblock(&page).unwrap()).unwrap(), superblock);
    }

    #[test]
    fn map_pages(leaf: bool, entries in vec((0..128_usize, data(), page()), 0..130)) {
        let mut page = MapPage::empty();
        for (index, data, child) in entries {
            page.set(index, if leaf { data } else { child });
        }
        let mut bytes = [0; layout::BLOCK];
        page.encode(&mut bytes);
        prop_assert_eq!(MapPage::decode(&bytes, leaf).unwrap(), page);
    }

    #[test]
    fn tables(
        pages in vec(table(), 0..=EPOCH_DIRECTORY_PAGES),
        salts in vec(any::<[u8; 16]>(), 0..=EPOCH_PAGE_SALTS),
        records in vec(any_version(), 0..=VERSION_PAGE_RECORDS),
    ) {
        let directory = EpochDirectory { pages };
        prop_assert_eq!(EpochDirectory::decode(&directory.encode()).unwrap(), directory);
        let page = EpochPage { salts };
        prop_assert_eq!(EpochPage::decode(&page.encode()).unwrap(), page);
        let page = VersionPage { records };
        prop_assert_eq!(VersionPage::decode(&page.encode()).unwrap(), page);
    }

    #[test]
    fn log_pages(records in vec(record(), 0..=LOG_PAGE_RECORDS), last: bool, compaction: bool, before in chain(), sequence: u64) {
        let epoch = epoch();
        let count = u16::try_from(records.len()).unwrap();
        let header = LogPageHeader { last, compaction, sequence, count, ..log_header(&epoch) };
        let mut page = [0xff; layout::BLOCK];
        let nonce = epoch.nonces.next().unwrap();
        let tag = seal_log_page(&header, &records, epoch.keys.log.as_ref(), nonce, &VOLUME, &before, &mut page);
        let found = LogPageHeader::decode(&page).unwrap();
        prop_assert_eq!(found, header);
        let cipher = keys().epoch(&found.salt).log;
        prop_assert_eq!(open_log_page(&found, cipher.as_ref(), &VOLUME, &before, &mut page).unwrap(), (records, tag));
    }
}

#[test]
fn a_log_page_belongs_to_its_past_and_its_volume() {
    let (page, tag) = log_page();
    let header = LogPageHeader::decode(&page).unwrap();
    let cipher = keys().epoch(&header.salt).log;
    let open = |uuid: &Uuid, before: u8, page: &Block| {
        open_log_page(&header, cipher.as_ref(), uuid, &Chain([before; 32]), &mut page.clone())
    };
    assert_eq!(open(&VOLUME, 9, &page).unwrap(), (records().to_vec(), tag));
    assert!(open(&VOLUME, 8, &page).is_err(), "another past");
    assert!(open(&Uuid::nil(), 9, &page).is_err(), "another volume");
    for byte in 0..layout::BLOCK {
        let mut changed = page.clone();
        changed[byte] ^= 1;
        let opened = LogPageHeader::decode(&changed).is_ok_and(|header| {
            let cipher = keys().epoch(&header.salt).log;
            open_log_page(&header, cipher.as_ref(), &VOLUME, &Chain([9; 32]), &mut changed).is_ok()
        });
        assert!(!opened, "byte {byte}");
    }
}

#[test]
fn epochs_have_places() {
    assert_eq!([0, 1, 252, 253].map(epoch_place), [None, Some((0, 0)), Some((0, 251)), Some((1, 0))]);
    assert_eq!([126 * 252, 126 * 252 + 1, u32::MAX].map(epoch_place), [Some((125, 251)), None, None]);
}
