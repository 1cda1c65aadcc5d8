//! What an operator's `--accept-rollback` changes, and what it does not.

use super::*;
use crate::engine::OpenError;

const DISK: u128 = 0xd15c;
const COMMAND: &str = "evsfs salvage --accept-rollback";

fn accepting(access: Access) -> Access {
    Access { accept_rollback: Some(COMMAND), ..access }
}

/// An encrypted disk, a copy of its file from before the last write, and its anchor.
fn with_old_copy() -> (Place, PathBuf, PathBuf) {
    let place = Place::new();
    let (disk, old) = (place.create("disk", DISK, Some(2), None), place.path("old"));
    place.write(&disk, 1);
    std::fs::copy(&disk, &old).unwrap();
    place.write(&disk, 2);
    place.book.lock().told.clear();
    (place, disk, old)
}

#[track_caller]
fn assert_refused(place: &Place, path: &Path) {
    let refused = place.open(path, &Access::reading()).err().expect("it is not what the key service knows");
    assert!(
        matches!(&refused, Failure::Open { source, .. }
            if matches!(**source, OpenError::RolledBack { .. } | OpenError::Forked { .. })),
        "{refused}"
    );
}

/// To look at an old copy, as `check`, `salvage` and a mount for reading do, leaves the newest file what it is, and is recorded.
#[test]
fn f3_whoever_looks_at_an_old_copy_leaves_the_anchor_where_it_is() {
    let (place, disk, old) = with_old_copy();
    assert_refused(&place, &old);
    let before = place.book.lock().anchors.clone();
    let volume = place.open(&old, &accepting(Access::reading())).unwrap();
    assert_eq!(first_byte(&volume), 1);
    let recorded = place.told("read-rollback");
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert_eq!(
        (&recorded[0]["reason"], &recorded[0]["generation"]),
        (&COMMAND.into(), &volume.anchor().commit.into())
    );
    drop(volume);
    assert_eq!(place.book.lock().anchors, before);
    assert_eq!(first_byte(&place.open(&disk, &Access::writing()).unwrap()), 2);
    assert_refused(&place, &old);
}

/// The process is killed right after it changed something that only a superblock records. The log begins behind that, so the superblock must
/// know what the key service has.
#[test]
fn f3_after_an_accepted_rollback_the_file_is_no_fork_whenever_the_process_dies() {
    let (place, disk, old) = with_old_copy();
    let volume = place.open(&old, &accepting(Access::writing())).unwrap();
    assert_eq!(first_byte(&volume), 1);
    let accepted = place.told("accept-rollback");
    assert_eq!((accepted.len(), &accepted[0]["reason"]), (1, &COMMAND.into()), "{accepted:?}");
    volume.snapshot("s", Uuid::from_u128(1), 0).unwrap();
    drop(volume);
    let volume = place.open(&old, &Access::writing()).expect("it descends from what was accepted");
    assert_eq!((first_byte(&volume), volume.snapshots().len()), (1, 1));
    drop(volume);
    place.write(&old, 3);
    assert_refused(&place, &disk);
}

/// Not even a background thread that has something to do writes before the key service has agreed.
#[test]
fn f3_a_rollback_that_the_key_service_does_not_accept_leaves_the_file_as_it_was() {
    let (place, _, old) = with_old_copy();
    // What a deleted snapshot held waits to be freed.
    let volume = place.open(&old, &accepting(Access::writing())).unwrap();
    volume.snapshot("s", Uuid::from_u128(1), 0).unwrap();
    volume.write(0, &[5; 4096]).unwrap();
    volume.flush().unwrap();
    volume.delete_snapshot(Uuid::from_u128(1)).unwrap();
    assert!(volume.stats().trash);
    drop(volume);
    let before = std::fs::read(&old).unwrap();

    let ahead = json!({"generation": 1000, "chain_mac": "00".repeat(32)});
    let other = place.path("other");
    std::fs::copy(&old, &other).unwrap();
    let refusing = Scripted::new(move |path, body| {
        if path.ends_with("/accept-rollback") {
            // It takes its time: as long as the threads of another one need for what these would do meanwhile.
            has_freed(&other);
            return (403, json!({"error": {"error_code": "KMS.0307", "error_msg": "not yours"}}));
        }
        let anchors = HashMap::from([(Uuid::from_u128(DISK), ahead.clone())]);
        (200, Book { anchors, ..Book::default() }.answer(path, body))
    });
    let file = LockedFile::open(&old, false).unwrap();
    let access = Access { background: true, ..accepting(Access::writing()) };
    let refused = open(&file, &refusing.service(), &access).err().expect("it was not accepted");
    assert!(refused.to_string().contains("not yours"), "{refused}");
    drop(file);
    assert!(std::fs::read(&old).unwrap() == before);
}

/// Opens a volume as a mount does, until what waits to be freed is.
fn has_freed(path: &Path) {
    let anchors = Arc::new(Mutex::new(Book::default()));
    let service = Scripted::new(move |path, body| (200, anchors.lock().answer(path, body)));
    let access = Access { background: true, ..Access::writing() };
    let volume = open(&LockedFile::open(path, false).unwrap(), &service.service(), &access).unwrap().volume;
    let begun = std::time::Instant::now();
    while volume.stats().trash {
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "nothing is freed");
        std::thread::yield_now();
    }
}

/// A file that is as new as its anchor is no rollback, whatever the operator says: nothing is accepted, and nothing moves.
#[test]
fn f3_what_is_fresh_needs_no_acceptance() {
    let (place, disk, _) = with_old_copy();
    let before = place.book.lock().anchors.clone();
    for access in [Access::reading(), Access::writing()] {
        assert_eq!(first_byte(&place.open(&disk, &accepting(access)).unwrap()), 2);
    }
    assert!(place.told("accept-rollback").is_empty() && place.told("read-rollback").is_empty());
    assert_eq!(place.book.lock().anchors, before);
}

/// F3: an operator gives up what he was shown, and not what came after: the newest file was written to between his look and his word.
#[test]
fn f3_what_was_not_shown_is_not_given_up() {
    let (place, disk, old) = with_old_copy();
    let service = place.service.service();
    let file = LockedFile::open(&old, true).unwrap();
    let volume = open_past(&file, &service, &Access::reading()).unwrap();
    let newest = || place.book.lock().anchors[&Uuid::from_u128(DISK)]["generation"].as_u64().unwrap();
    let shown = newest();
    place.write(&disk, 3);
    assert!(newest() > shown);
    let refused = accept_in_place_of(&file, &service, &volume, shown, COMMAND).unwrap_err();
    assert_eq!(refused.report().code, "anchor_moved", "{refused}");
    assert!(place.told("accept-rollback").is_empty());
    assert_eq!(first_byte(&place.open(&disk, &Access::writing()).unwrap()), 3);
    accept_in_place_of(&file, &service, &volume, newest(), COMMAND).unwrap();
    assert_eq!(place.told("accept-rollback").len(), 1);
    assert_refused(&place, &disk);
}
