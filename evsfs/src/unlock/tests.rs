use serde_json::{Value, json};

use super::*;
use crate::crypto::Dek;
use crate::format::layout::{BLOCK, HEADER_SLOTS};
use crate::format::{Text, VolumeKind, WrappedDekField};
use crate::keys::scripted::Scripted;

const VOLUME: Uuid = Uuid::from_u128(0xabcd);
const OTHER: Uuid = Uuid::from_u128(0x9999);

fn keys(byte: u8) -> VolumeKeys {
    VolumeKeys::new(Dek::new(&[byte; 32]), VOLUME, Backend::AwsLc)
}

fn header(sequence: u64, wrapped: u8) -> Header {
    Header {
        suite: Suite::Aes256Gcm,
        kind: VolumeKind::Disk,
        sequence,
        uuid: VOLUME,
        created: 0,
        ring_pages: 1024,
        cmk_id: Text::new("key").unwrap(),
        cmk_version: 1,
        wrapped_dek: WrappedDekField::new(vec![wrapped; 4]).unwrap(),
        next: None,
        base_copied: false,
        base: None,
    }
}

/// The start of a file with these two copies.
fn copies(first: &[u8], second: &[u8]) -> HeaderCopies {
    let mut start = vec![0; HeaderCopies::SPAN];
    for (slot, copy) in HEADER_SLOTS.into_iter().zip([first, second]) {
        let at = usize::try_from(slot).unwrap() * BLOCK;
        start[at..at + BLOCK].copy_from_slice(copy);
    }
    HeaderCopies::parse(&start).unwrap()
}

/// Opens a wrapped key of bytes `n` to a key of bytes `n`; 0xee is refused as no key of this volume, 0xdd as disabled.
fn service() -> Scripted {
    Scripted::new(|path, body| {
        assert!(path.ends_with("/decrypt-datakey"), "{path}");
        assert_eq!(body["encryption_context"], json!({"evs:volume": VOLUME, "evs:kind": "disk"}));
        let refused = |code: &str| (400, json!({"error": {"error_code": code, "error_msg": "no"}}));
        match body["cipher_text"].as_str().unwrap() {
            "eeeeeeee" => refused("KMS.2201"),
            "dddddddd" => refused("KMS.0209"),
            digits => {
                let key: Value = digits[..2].repeat(32).into();
                (200, json!({"data_key": key, "datakey_length": "32", "datakey_dgst": ""}))
            }
        }
    })
}

fn try_unlock(copies: &HeaderCopies, expected: Expected) -> Result<Header, UnlockError> {
    unlock(copies, &service().service(), expected, Backend::AwsLc).map(|(header, _)| header)
}

#[test]
fn the_newest_proven_copy_counts() {
    let old = header(1, 0x11).encode(&keys(0x11)).unwrap();
    let new = header(2, 0x11).encode(&keys(0x11)).unwrap();
    for pair in [copies(&*old, &*new), copies(&*new, &*old)] {
        assert_eq!(try_unlock(&pair, Expected::default()).unwrap().sequence, 2);
    }
}

#[test]
fn f13_a_header_whose_key_opens_to_another_key_is_refused() {
    let honest = header(1, 0x11).encode(&keys(0x11)).unwrap();
    let mut forged = honest.clone();
    // The wrapped key of another volume in the place of its own, everything else as it was.
    let at = forged.windows(4).position(|window| window == [0x11; 4]).unwrap();
    forged[at..at + 4].fill(0x22);
    let error = try_unlock(&copies(&*forged, &*forged), Expected::default()).unwrap_err();
    assert!(matches!(error, UnlockError::Header(HeaderError::NotAuthentic { .. })), "{error}");
    // One good copy is enough.
    assert!(try_unlock(&copies(&*forged, &*honest), Expected::default()).is_ok());
}

#[test]
fn a_copy_that_the_service_cannot_open_makes_way_for_the_other() {
    let broken = header(2, 0xee).encode(&keys(0xee)).unwrap();
    let good = header(1, 0x11).encode(&keys(0x11)).unwrap();
    assert_eq!(try_unlock(&copies(&*broken, &*good), Expected::default()).unwrap().sequence, 1);
}

#[test]
fn d2_a_disabled_key_is_not_got_round_by_the_other_copy() {
    let disabled = header(2, 0xdd).encode(&keys(0xdd)).unwrap();
    let old = header(1, 0x11).encode(&keys(0x11)).unwrap();
    let error = try_unlock(&copies(&*disabled, &*old), Expected::default()).unwrap_err();
    assert!(matches!(&error, UnlockError::Key(error) if error.kind() == KeyErrorKind::Disabled), "{error}");
}

/// A file of whose header the host fails to read one copy.
struct Unreadable {
    start: Vec<u8>,
    slot: u64,
}

impl Backing for Unreadable {
    fn len(&self) -> io::Result<u64> {
        Ok(self.start.len() as u64)
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bad = self.slot * BLOCK_BYTES;
        if offset < bad + BLOCK_BYTES && bad < offset + buf.len() as u64 {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let at = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.start[at..at + buf.len()]);
        Ok(())
    }
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn punch(&self, _: u64, _: u64) -> io::Result<bool> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_copy_that_cannot_be_read_makes_way_for_one_that_is_proved_and_is_told_of_otherwise() {
    let good = header(1, 0x11).encode(&keys(0x11)).unwrap();
    let mut junk = good.clone();
    junk[0] ^= 1;
    let with = |slot: u64, other: &[u8]| {
        let mut start = vec![0; HeaderCopies::SPAN];
        for copy in HEADER_SLOTS {
            let at = usize::try_from(copy).unwrap() * BLOCK;
            start[at..at + BLOCK].copy_from_slice(other);
        }
        Unreadable { start, slot }
    };
    for slot in HEADER_SLOTS {
        let copies = read_header(&with(slot, &*good)).unwrap();
        assert!(copies.has_unread() && copies.candidates().len() == 1);
        assert_eq!(try_unlock(&copies, Expected::default()).unwrap().sequence, 1);
        // What cannot be read may be the header: it is not said that there is none, or only a forged one.
        assert!(matches!(read_header(&with(slot, &*junk)), Err(UnlockError::Read(_))));
        let mut changed = good.clone();
        changed[16] ^= 0x40;
        let copies = read_header(&with(slot, &*changed)).unwrap();
        let error = try_unlock(&copies, Expected::default()).unwrap_err();
        assert!(matches!(error, UnlockError::OtherUnread { .. }), "{error}");
    }
    let whole = read_header(&with(1, &*good)).unwrap();
    assert!(!whole.has_unread() && whole.candidates().len() == 2);
}

#[test]
fn what_the_caller_knows_is_held_against_the_header() {
    let good = header(1, 0x11).encode(&keys(0x11)).unwrap();
    let pair = copies(&*good, &*good);
    let expected = |uuid, encrypted| Expected { uuid, encrypted };
    assert!(try_unlock(&pair, expected(Some(VOLUME), true)).is_ok());
    let error = try_unlock(&pair, expected(Some(OTHER), false)).unwrap_err();
    assert!(matches!(error, UnlockError::AnotherVolume { found: VOLUME, expected: OTHER }), "{error}");

    let plain_keys = VolumeKeys::plain(VOLUME, Backend::AwsLc);
    let mut plain = header(1, 0);
    (plain.suite, plain.cmk_id, plain.wrapped_dek) =
        (Suite::Plain, Text::new("").unwrap(), WrappedDekField::default());
    let plain = plain.encode(&plain_keys).unwrap();
    let pair = copies(&*plain, &*plain);
    assert!(try_unlock(&pair, expected(Some(VOLUME), false)).is_ok());
    let error = try_unlock(&pair, expected(Some(VOLUME), true)).unwrap_err();
    assert!(matches!(error, UnlockError::NotEncrypted { volume: VOLUME }), "a forged plain header: {error}");
}
