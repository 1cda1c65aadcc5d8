//! Samples of every structure, and the tests that need them.

mod committing;
mod document;
mod golden;
mod headers;
mod hostile;
mod round_trip;

use super::*;
use crate::crypto::{Backend, Chain, Dek, FreshEpoch, SeededEntropy, Suite, Switch, Tag, VolumeKeys};
use uuid::Uuid;

/// Offset and size in bytes, and name.
pub(super) type Field = (usize, usize, &'static str);

const VOLUME: Uuid = Uuid::from_bytes([0x11; 16]);

fn keys() -> VolumeKeys {
    VolumeKeys::new(Dek::new(&[0x22; 32]), VOLUME, Backend::AwsLc)
}

fn epoch() -> FreshEpoch {
    keys().begin_epoch(&SeededEntropy::new(1)).unwrap()
}

fn header() -> Header {
    Header {
        suite: Suite::Aes256Gcm,
        kind: VolumeKind::Disk,
        sequence: 3,
        uuid: VOLUME,
        created: 1_700_000_000,
        ring_pages: layout::RING_PAGES_MIN,
        cmk_id: Text::new("0d0466b0-e727-4d9c-b35d-f84bb474a37f").unwrap(),
        cmk_version: 2,
        wrapped_dek: WrappedDekField::new(vec![0xab; 77]).unwrap(),
        next: None,
        base_copied: false,
        base: Some(BaseReference {
            uuid: Uuid::from_bytes([0x33; 16]),
            commit: 44,
            state: BaseState::Claimed(Chain([0x55; 32])),
            path: Text::new("/var/lib/ecs/volumes/base.evs").unwrap(),
        }),
    }
}

/// Over a base whose state is proven.
fn thin_header(encrypted: bool) -> Header {
    let base = header()
        .base
        .map(|base| BaseReference { state: BaseState::Proven { mac: [0x66; 32], encrypted }, ..base });
    Header { base, ..header() }
}

fn plain_header() -> Header {
    Header {
        suite: Suite::Plain,
        cmk_id: Text::new("").unwrap(),
        wrapped_dek: WrappedDekField::default(),
        base: None,
        ..header()
    }
}

/// A re-encryption runs, to the DEK of [`next_keys`].
fn running_header() -> Header {
    let switch = Switch { epoch: 5, generation: 6 };
    let wrapped_dek = WrappedDekField::new(vec![0xcd; 78]).unwrap();
    Header { next: Some(NextKey { wrapped_dek, switch }), ..header() }
}

fn next_keys() -> VolumeKeys {
    VolumeKeys::new(Dek::new(&[0x44; 32]), VOLUME, Backend::AwsLc)
}

fn records() -> [LogRecord; 3] {
    [
        LogRecord::Write { lba: 7, slot: 99, counter: 3, tag: Tag([4; 16]) },
        LogRecord::Unmap { lba: 1 << 30, count: 5 },
        LogRecord::Zero { lba: 0, count: 1 },
    ]
}

fn log_header(epoch: &FreshEpoch) -> LogPageHeader {
    LogPageHeader {
        last: true,
        compaction: false,
        count: 3,
        sequence: 12,
        group: 4,
        epoch: 2,
        counter: 0,
        record_epoch: 1,
        salt: epoch.salt,
        record_salt: [0x77; 16],
    }
}

fn log_page() -> (Box<Block>, Tag) {
    let epoch = epoch();
    let mut page = Box::new([0; layout::BLOCK]);
    let nonce = epoch.nonces.next().unwrap();
    let cipher = epoch.keys.log.as_ref();
    let tag =
        seal_log_page(&log_header(&epoch), &records(), cipher, nonce, &VOLUME, &Chain([9; 32]), &mut page);
    (page, tag)
}

fn map_page(leaf: bool) -> MapPage {
    let mut page = MapPage::empty();
    let tag = Tag([8; 16]);
    page.set(0, if leaf { Entry::data(16, 1, 0, tag) } else { Entry::page(16, 1, 0, tag).with_aux(32_768) });
    page.set(64, Entry::ZERO);
    let last = if leaf { Entry::data } else { Entry::page };
    page.set(127, last(layout::SLOT_MAX, u32::MAX, u32::MAX, tag));
    page
}

fn superblock() -> Superblock {
    Superblock {
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
        offered: Anchor { commit: 4, chain: Chain([1; 32]) },
        least_commit: 6,
        clean: true,
        upper_allocation: vec![Entry::page(7, 1, 9, Tag([6; 16])).with_aux(12), Entry::ABSENT],
        task: None,
        base_copied: false,
    }
}

fn epoch_directory() -> EpochDirectory {
    EpochDirectory { pages: vec![Entry::table(50, Tag([1; 16])), Entry::table(51, Tag([2; 16]))] }
}

fn epoch_page() -> EpochPage {
    EpochPage { salts: (1..=EPOCH_PAGE_SALTS).map(|n| [u8::try_from(n).unwrap_or(255); 16]).collect() }
}

fn version_page() -> VersionPage {
    let snapshot = VersionRecord {
        id: Uuid::from_bytes([0x66; 16]),
        state: VersionState::Snapshot,
        name: Text::new("before upgrade").unwrap(),
        created: 1_700_000_001,
        blocks: 1 << 20,
        height: 3,
        root: Entry::page(60, 1, 2, Tag([3; 16])),
        range_start: 0,
        range_end: 0,
        cursor: 0,
    };
    let trash = VersionRecord {
        state: VersionState::Trash,
        name: Text::new("").unwrap(),
        root: Entry::ABSENT,
        range_start: 128,
        range_end: 4_096,
        cursor: 256,
        ..snapshot
    };
    VersionPage { records: vec![snapshot, trash] }
}
