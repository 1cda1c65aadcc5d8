//! A tamperer writes files and knows every header; a tenant has data keys of his own besides. Neither puts another base under an encrypted volume.

use super::*;
use crate::backing::Backing;
use crate::crypto::TablePurpose;
use crate::engine::{BaseImage, OpenError};
use crate::format::Superblock;
use crate::format::layout::{BLOCK_BYTES, SUPERBLOCK_SLOTS};

const IMAGE: u128 = 0x1a;
const DISK: u128 = 0xd15c;
/// What the image has, and what the forged ones have.
const GOOD: u8 = 7;
const EVIL: u8 = 0x66;

fn name(place: &Place) -> BaseReference {
    let image = place.open(&place.path("image"), &Access::reading()).unwrap();
    image.identity().reference(Text::new(place.path("image").to_str().unwrap()).unwrap())
}

/// As the first headers named it.
fn claimed(place: &Place) -> BaseReference {
    let image = place.open(&place.path("image"), &Access::reading()).unwrap();
    BaseReference { state: BaseState::Claimed(image.anchor().chain), ..name(place) }
}

/// An image, and an encrypted disk over it that has nothing of its own.
fn with_image(key: Option<u8>, named: fn(&Place) -> BaseReference) -> (Place, PathBuf) {
    let place = Place::new();
    let image = place.create("image", IMAGE, key, None);
    place.write(&image, GOOD);
    let disk = place.create("disk", DISK, Some(2), Some(named(&place)));
    assert_eq!(first_byte(&place.open(&disk, &Access::writing()).unwrap()), GOOD);
    (place, disk)
}

/// Puts another volume in the image's place: its number, a key of the forger's choice, his contents, and the state that the image had.
fn exchange(place: &Place, key: Option<u8>) {
    let image = place.path("image");
    let state = place.open(&image, &Access::reading()).unwrap().anchor();
    let forged = place.create("image", IMAGE, key, None);
    let mut free = Access::writing();
    free.accept_rollback = Some("to forge");
    let volume = place.open(&forged, &free).unwrap();
    let header = volume.header();
    volume.write(0, &[EVIL; 4096]).unwrap();
    volume.close().unwrap();

    let keys = Place::keys(&header);
    let file = FileBacking::open(&forged).unwrap();
    let read = |slot: u64| {
        let mut page = Box::new([0; 4096]);
        file.read_at(page.as_mut_slice(), slot * BLOCK_BYTES).unwrap();
        Superblock::decode(&*keys.open_superblock(&page).ok()?).ok()
    };
    let newest = SUPERBLOCK_SLOTS.into_iter().flatten().filter_map(read).max_by_key(|found| found.generation);
    let superblock = Superblock { state, least_commit: state.commit, ..newest.unwrap() };
    let page = keys.seal_table(TablePurpose::Superblock, &superblock.encode(), &SystemEntropy).unwrap();
    for slot in SUPERBLOCK_SLOTS[usize::try_from(superblock.generation % 2).unwrap()] {
        file.write_at(page.as_slice(), slot * BLOCK_BYTES).unwrap();
    }
    drop(file);
    let anchor = to_service(&state);
    place.book.lock().anchors.insert(
        header.uuid,
        json!({"generation": anchor.generation, "chain_mac": hex::encode(anchor.chain_mac)}),
    );
    let volume = place.open(&forged, &Access::reading()).unwrap();
    assert_eq!((volume.anchor(), first_byte(&volume)), (state, EVIL), "the forgery is what it claims to be");
}

fn refusal(place: &Place, disk: &Path) -> Failure {
    for access in [Access::reading(), Access::writing()] {
        assert!(place.open(disk, &access).is_err());
    }
    place.open(disk, &Access::reading()).err().unwrap()
}

#[test]
fn f8_a_plain_volume_does_not_pass_for_an_encrypted_base() {
    let (place, disk) = with_image(Some(1), name);
    exchange(&place, None);
    let refused = refusal(&place, &disk);
    assert!(
        matches!(&refused, Failure::Unlock { file, source: UnlockError::NotEncrypted { volume } }
            if *file == place.path("image") && volume.as_u128() == IMAGE),
        "{refused}"
    );
}

#[test]
fn f8_a_volume_of_another_key_does_not_pass_for_the_base() {
    let (place, disk) = with_image(Some(1), name);
    exchange(&place, Some(3));
    let refused = refusal(&place, &disk);
    assert!(
        matches!(&refused, Failure::Open { file, source } if *file == disk
            && matches!(**source, OpenError::BaseExchanged { base, .. } if base.as_u128() == IMAGE)),
        "{refused}"
    );
    assert!(refused.to_string().contains(&Uuid::from_u128(IMAGE).to_string()), "{refused}");
    assert_eq!(refused.report().code, "base_changed");
}

/// Who knows the zeros that a plain volume has for a key can have them wrapped: what differs is that the base was not encrypted.
#[test]
fn f8_an_encrypted_volume_does_not_pass_for_a_plain_base() {
    let (place, disk) = with_image(None, name);
    for key in [3, 0] {
        let kept = std::fs::read(place.path("image")).unwrap();
        exchange(&place, Some(key));
        let refused = refusal(&place, &disk).to_string();
        assert!(refused.contains("was exchanged"), "{refused}");
        std::fs::write(place.path("image"), kept).unwrap();
        place.book.lock().anchors.clear();
    }
    assert_eq!(first_byte(&place.open(&disk, &Access::reading()).unwrap()), GOOD);
}

/// Where nothing but the chain value is told, the key service knows whether the base is encrypted.
#[test]
fn f8_under_a_header_of_before_no_plain_volume_passes_for_a_base_that_has_an_anchor() {
    let (place, disk) = with_image(Some(1), claimed);
    exchange(&place, None);
    let refused = refusal(&place, &disk);
    assert!(
        matches!(&refused, Failure::Unlock { source: UnlockError::NotEncrypted { volume }, .. }
            if volume.as_u128() == IMAGE),
        "{refused}"
    );
    // A plain image is read as before.
    let (place, disk) = with_image(None, claimed);
    assert_eq!(first_byte(&place.open(&disk, &Access::reading()).unwrap()), GOOD);
}

/// What the log says while a volume is opened.
fn log_of(place: &Place, disk: &Path) -> String {
    let log = Arc::new(std::sync::Mutex::new(Vec::new()));
    let writer = Arc::clone(&log);
    let make = move || Shared(Arc::clone(&writer));
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(make).finish();
    tracing::subscriber::with_default(subscriber, || drop(place.open(disk, &Access::reading()).unwrap()));
    String::from_utf8(log.lock().unwrap().clone()).unwrap()
}

struct Shared(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Under a header of before, a volume of another key passes for the base. Nobody can prove the right one afterwards; but who attaches is told.
#[test]
fn f8_under_a_header_of_before_an_unproved_base_is_told_of_in_the_log() {
    let (place, disk) = with_image(Some(1), claimed);
    let log = log_of(&place, &disk);
    let told =
        log.lines().find(|line| line.contains("the base is not proved")).unwrap_or_else(|| panic!("{log}"));
    assert!(told.contains("WARN") && told.contains("evsfs flatten"), "{told}");
    assert!([DISK, IMAGE].iter().all(|id| told.contains(&Uuid::from_u128(*id).to_string())), "{told}");
    exchange(&place, Some(3));
    assert_eq!(first_byte(&place.open(&disk, &Access::reading()).unwrap()), EVIL);
    let (place, disk) = with_image(Some(1), name);
    assert!(!log_of(&place, &disk).contains("not proved"));
}

#[test]
fn f8_another_state_of_the_true_base_is_refused() {
    let (place, disk) = with_image(Some(1), name);
    place.write(&place.path("image"), 8);
    let refused = refusal(&place, &disk);
    assert!(
        matches!(&refused, Failure::Open { source, .. } if matches!(**source, OpenError::BaseChanged { .. })),
        "{refused}"
    );
}
