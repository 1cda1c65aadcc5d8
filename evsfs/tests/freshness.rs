//! What an old, cut off or half-known past must not do to a volume (F3, F4; docs/volume-format.md, "Recovery" and "Freshness").
#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

use std::sync::Arc;

use evsfs::backing::Backing;
use evsfs::backing::sim::{IgnoredSyncs, Image, SimBacking};
use evsfs::crypto::{Backend, Dek, SeededEntropy, Suite, VolumeKeys};
use evsfs::engine::{Anchor, CreateParams, OpenError, OpenOptions, Volume};
use evsfs::format::layout::{BLOCK, RING_START};
use evsfs::format::{Header, HeaderCopies, Text, VolumeKind, WrappedDekField};
use uuid::Uuid;

const VOLUME: Uuid = Uuid::from_u128(0xF3);
const BLOCKS: u64 = 64;
/// Few, so that the log is compacted soon.
const RING_PAGES: u64 = 64;

fn keys() -> VolumeKeys {
    VolumeKeys::new(Dek::new(&[3; 32]), VOLUME, Backend::AwsLc)
}

fn create() -> SimBacking {
    let header = Header {
        suite: Suite::Aes256Gcm,
        kind: VolumeKind::Disk,
        sequence: 1,
        uuid: VOLUME,
        created: 0,
        ring_pages: RING_PAGES,
        cmk_id: Text::new("key").unwrap(),
        cmk_version: 1,
        wrapped_dek: WrappedDekField::new(vec![1; 40]).unwrap(),
        next: None,
        base_copied: false,
        base: None,
    };
    let file = SimBacking::new();
    let size = BLOCKS * 4096;
    Volume::create(&file, &header, &CreateParams { size }, &keys(), &SeededEntropy::new(0)).unwrap();
    file
}

/// Opens it; `seed` must differ from open to open.
fn open_with(file: &SimBacking, seed: u64, options: OpenOptions) -> Result<Volume, OpenError> {
    let mut start = vec![0; HeaderCopies::SPAN];
    file.read_at(&mut start, 0).unwrap();
    let header = HeaderCopies::parse(&start).unwrap().verify(&keys()).unwrap();
    Volume::open(Arc::new(file.clone()), header, keys(), options, Arc::new(SeededEntropy::new(seed)))
}

fn try_open(file: &SimBacking, seed: u64, anchor: Option<Anchor>) -> Result<Volume, OpenError> {
    open_with(file, seed, OpenOptions { background: false, anchor, ..OpenOptions::default() })
}

fn open(file: &SimBacking, seed: u64) -> Volume {
    try_open(file, seed, None).unwrap()
}

fn write(volume: &Volume, block: u64, byte: u8) {
    volume.write(block * 4096, &[byte; BLOCK]).unwrap();
}

fn read(volume: &Volume, block: u64) -> u8 {
    let mut data = [0; BLOCK];
    volume.read(block * 4096, &mut data).unwrap();
    assert!(data.iter().all(|byte| *byte == data[0]));
    data[0]
}

/// A process is killed between writing a group and its barrier; the next one finds the group in the kernel's cache and goes on; then power
/// fails, and of all that is not durable only what the second one wrote survives. Its group must not stand on sand.
#[test]
fn f4_an_attach_after_a_killed_process_builds_on_what_is_durable() {
    let file = create();
    file.ignore_syncs(IgnoredSyncs::All);
    let killed = open(&file, 1);
    write(&killed, 0, 0xaa);
    killed.flush().unwrap();
    drop(killed);

    file.ignore_syncs(IgnoredSyncs::None);
    let volume = open(&file, 2);
    assert_eq!(read(&volume, 0), 0xaa, "the group is there, in the cache");
    let before = file.image();
    file.record_crash_points();
    write(&volume, 1, 0xbb);
    volume.flush().unwrap();
    // The moment before the barrier of the second group: everything that its process wrote arrives, nothing older does.
    let point = file
        .take_crash_points()
        .into_iter()
        .rfind(|point| point.open_items() > 0)
        .expect("the flush has a barrier");
    let durable = point.image(&point.none_survive());
    let all = point.image(&point.all_survive());
    let mut left = durable;
    for page in 0..all.pages() {
        if all.page(page).map(|cell| *cell.bytes()) != before.page(page).map(|cell| *cell.bytes()) {
            left.put(page, all.page(page));
        }
    }
    let recovered = open(&SimBacking::from_image(grown(left, &all)), 3);
    assert_eq!((read(&recovered, 0), read(&recovered, 1)), (0xaa, 0xbb));
}

/// The image with the length of the other.
fn grown(mut image: Image, like: &Image) -> Image {
    if image.len() < like.len() {
        image.write(like.len() - 1, &[0]);
    }
    image
}

/// A log compaction leaves a map that is older than the state that its superblock names. Without the compaction group that map must not pass
/// for this state.
#[test]
fn f3_a_log_that_was_cut_off_after_a_compaction_is_refused() {
    let file = create();
    let volume = open(&file, 1);
    let mut last = 0;
    while volume.stats().compactions == 0 {
        last += 1;
        write(&volume, 5, last);
        volume.flush().unwrap();
        assert!(last < 200, "a ring of {RING_PAGES} pages was never compacted");
    }
    let anchor = volume.anchor();
    drop(volume);

    let whole = SimBacking::from_image(file.image());
    assert_eq!(read(&try_open(&whole, 2, Some(anchor)).unwrap(), 5), last);
    // Which page holds the group is known to the superblock only: try each, and all.
    let mut refused = 0;
    for page in 0..RING_PAGES {
        let cut = SimBacking::from_image(file.image());
        cut.write_at(&[0; BLOCK], (RING_START + page) * 4096).unwrap();
        for known in [Some(anchor), None] {
            match try_open(&cut, 3, known) {
                Err(_) => refused += 1,
                Ok(volume) => {
                    assert!(read(&volume, 5) >= last - 1, "page {page}: a state long gone came back");
                }
            }
        }
    }
    assert!(refused >= 2, "{refused}");
}

/// kmsd stores an anchor, but its answer never comes: a checkpoint is published meanwhile, and the process dies. An honest file must open.
#[test]
fn f3_an_anchor_that_was_under_way_when_the_process_died_is_no_fork() {
    let file = create();
    let volume = open(&file, 1);
    let known = volume.anchor();
    volume.confirm_anchor(known);
    write(&volume, 1, 1);
    volume.flush().unwrap();
    let stored = volume.offer_anchor();
    assert_ne!(stored, known);
    for round in 2..5 {
        // All that is known meanwhile.
        volume.confirm_anchor(known);
        write(&volume, 1, round);
        volume.flush().unwrap();
        volume.checkpoint().unwrap();
        assert_eq!(volume.offer_anchor(), stored, "no other is sent while the fate of this one is unknown");
    }
    drop(volume);
    let volume =
        try_open(&file, 2, Some(stored)).expect("a file that is newer than its anchor opens by itself");
    assert_eq!(read(&volume, 1), 4);

    volume.confirm_anchor(stored);
    let next = volume.offer_anchor();
    assert!(next.commit > stored.commit, "the next one is of now");
    // The old file is older than that.
    drop(volume);
    let old = file.image();
    let volume = open(&file, 3);
    write(&volume, 1, 9);
    volume.flush().unwrap();
    let newest = volume.anchor();
    drop(volume);
    assert!(matches!(
        try_open(&SimBacking::from_image(old), 4, Some(newest)),
        Err(OpenError::RolledBack { .. })
    ));
    assert!(try_open(&file, 4, Some(newest)).is_ok());
}

/// What a killed process left in the kernel's cache must not become an anchor before it is durable: else power fails, and an honest file is older
/// than its anchor.
#[test]
fn f3_what_is_not_durable_is_not_offered() {
    // Killed before the barrier of a group, and before that of the last superblock.
    for detached in [false, true] {
        let file = create();
        file.ignore_syncs(IgnoredSyncs::All);
        let killed = open(&file, 1);
        write(&killed, 0, 0xaa);
        killed.flush().unwrap();
        if detached {
            killed.close().unwrap();
        } else {
            drop(killed);
        }

        file.ignore_syncs(IgnoredSyncs::None);
        let volume = open(&file, 2);
        let sent = if detached { volume.close().unwrap() } else { volume.offer_anchor() };
        let point = file.crash_point();
        let lost = SimBacking::from_image(point.image(&point.none_survive()));
        assert_eq!(read(&try_open(&lost, 3, Some(sent)).unwrap(), 0), 0xaa);
    }
}

/// An offer whose fate was unknown when the disk was detached is settled by what the key service has at the next attach: the anchor moves on.
#[test]
fn f3_an_offer_of_an_earlier_attach_does_not_hold_the_anchor_back() {
    let file = create();
    let volume = open(&file, 1);
    write(&volume, 1, 1);
    volume.flush().unwrap();
    let unanswered = volume.offer_anchor();
    write(&volume, 1, 2);
    let last = volume.close().unwrap();
    for (seed, stored) in [(2, unanswered), (3, last)] {
        let file = SimBacking::from_image(file.image());
        let volume = try_open(&file, seed, Some(stored)).unwrap();
        write(&volume, 1, 3);
        volume.flush().unwrap();
        assert!(volume.offer_anchor().commit > last.commit);
    }
}

/// After an accepted rollback the anchor moves on from the state that was accepted.
#[test]
fn f3_an_accepted_rollback_is_where_the_anchor_goes_on() {
    let file = create();
    let volume = open(&file, 1);
    write(&volume, 1, 1);
    volume.flush().unwrap();
    volume.confirm_anchor(volume.anchor());
    volume.close().unwrap();
    let old = SimBacking::from_image(file.image());
    let volume = open(&file, 2);
    write(&volume, 1, 2);
    let newest = volume.close().unwrap();

    assert!(matches!(try_open(&old, 3, Some(newest)), Err(OpenError::RolledBack { .. })));
    let accepting = OpenOptions {
        background: false,
        anchor: Some(newest),
        accept_rollback: true,
        ..OpenOptions::default()
    };
    let volume = open_with(&old, 3, accepting).unwrap();
    let accepted = volume.anchor();
    volume.confirm_anchor(accepted);
    write(&volume, 1, 3);
    volume.flush().unwrap();
    assert!(volume.offer_anchor().commit > accepted.commit);
    volume.close().unwrap();
    assert!(try_open(&old, 4, Some(accepted)).is_ok());
    assert!(try_open(&old, 4, Some(newest)).is_err(), "the past that was given up is another one");
}

#[test]
fn an_attach_that_writes_nothing_leaves_the_file_as_it_was() {
    let file = create();
    let volume = open(&file, 1);
    write(&volume, 1, 1);
    volume.flush().unwrap();
    let _ = volume.offer_anchor();
    let stored = volume.close().unwrap();
    let before = file.calls().changes();
    for seed in 2..5 {
        let volume = try_open(&file, seed, Some(stored)).unwrap();
        volume.confirm_anchor(stored);
        assert_eq!(volume.offer_anchor(), stored);
        assert_eq!(volume.close().unwrap(), stored);
    }
    assert_eq!(file.calls().changes(), before, "nothing but barriers");
}
