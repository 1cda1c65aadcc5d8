//! Opening, with files and a key service, where somebody put something else in the place of what was there.

mod bases;
mod rollback;

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::crypto::{Dek, SystemEntropy, VolumeKeys};
use crate::engine::CreateParams;
use crate::format::layout::{BLOCK_BYTES, HEADER_SLOTS};
use crate::format::{Text, VolumeKind, WrappedDekField};
use crate::keys::scripted::Scripted;

const SIZE: u64 = 1 << 20;

/// What the key service was told, and what it knows.
#[derive(Default)]
struct Book {
    anchors: HashMap<Uuid, Value>,
    /// The last word of each path that changes or records something, with the body.
    told: Vec<(String, Value)>,
    /// Leases are over as soon as they are taken, and another has the next.
    is_overtaken: bool,
    /// What the one did who had the lease before it is granted.
    before: Option<Box<dyn FnOnce() + Send>>,
}

/// A directory with volumes, and a key service that opens a wrapped key of bytes `n` to a key of bytes `n` and keeps anchors.
struct Place {
    dir: TempDir,
    book: Arc<Mutex<Book>>,
    service: Scripted,
}

impl Place {
    fn new() -> Self {
        let book = Arc::new(Mutex::new(Book::default()));
        let kept = Arc::clone(&book);
        let service = Scripted::new(move |path, body| {
            if path.ends_with("/lease/renew") {
                return (409, json!({"error": {"error_code": "KMSD.0014", "error_msg": "another has it"}}));
            }
            (200, kept.lock().answer(path, body))
        });
        Self { dir: tempfile::tempdir().unwrap(), book, service }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn keys(header: &Header) -> VolumeKeys {
        match header.wrapped_dek.as_bytes().first() {
            None => VolumeKeys::plain(header.uuid, Backend::AwsLc),
            Some(byte) => VolumeKeys::new(Dek::new(&[*byte; 32]), header.uuid, Backend::AwsLc),
        }
    }

    /// A volume of a data key of bytes `key`, or without encryption, in place of what may be there.
    fn create(&self, name: &str, number: u128, key: Option<u8>, base: Option<BaseReference>) -> PathBuf {
        let header = Header {
            suite: if key.is_some() { Suite::Aes256Gcm } else { Suite::Plain },
            kind: VolumeKind::Disk,
            sequence: 1,
            uuid: Uuid::from_u128(number),
            created: 0,
            ring_pages: 64,
            cmk_id: Text::new(key.map_or("", |_| "0d0466b0-e727-4d9c-b35d-f84bb474a37f")).unwrap(),
            cmk_version: 0,
            wrapped_dek: key
                .map_or_else(WrappedDekField::default, |key| WrappedDekField::new(vec![key; 60]).unwrap()),
            next: None,
            base,
            base_copied: false,
        };
        let path = self.path(name);
        let _ = std::fs::remove_file(&path);
        let backing = FileBacking::create(&path).unwrap();
        Volume::create(&backing, &header, &CreateParams { size: SIZE }, &Self::keys(&header), &SystemEntropy)
            .unwrap();
        path
    }

    fn open(&self, path: &Path, access: &Access) -> Result<Volume, Failure> {
        open(&LockedFile::open(path, access.read_only)?, &self.service.service(), access)
            .map(|opened| opened.volume)
    }

    /// Has the first block written all over with a byte, and detaches as a mount does: the key service is told of the state.
    fn write(&self, path: &Path, byte: u8) -> Anchor {
        let volume = self.open(path, &Access::writing()).unwrap();
        let header = volume.header();
        volume.write(0, &[byte; 4096]).unwrap();
        let anchor = volume.close().unwrap();
        if header.suite == Suite::Aes256Gcm {
            self.service.service().advance(header.uuid, &to_service(&anchor), None).unwrap();
        }
        anchor
    }

    fn told(&self, word: &str) -> Vec<Value> {
        let book = self.book.lock();
        book.told.iter().filter(|(told, _)| told == word).map(|(_, body)| body.clone()).collect()
    }
}

impl Book {
    fn answer(&mut self, path: &str, body: &Value) -> Value {
        if path.ends_with("/decrypt-datakey") {
            let digits = body["cipher_text"].as_str().unwrap();
            return json!({"data_key": digits[..2].repeat(32), "datakey_length": "32", "datakey_dgst": ""});
        }
        let (_, rest) = path.split_once("/anchors/").expect("an anchor");
        let (volume, word) = rest.split_once('/').unwrap_or((rest, ""));
        let volume: Uuid = volume.parse().unwrap();
        if body.is_null() {
            return json!({"anchor": self.anchors.get(&volume)});
        }
        if word == "lease" {
            if let Some(act) = self.before.take() {
                act();
            }
            let mut lease = Scripted::lease(body, self.anchors.get(&volume));
            if self.is_overtaken {
                lease["seconds"] = 0.into();
            }
            return lease;
        }
        let anchor = json!({"generation": body["generation"], "chain_mac": body["chain_mac"]});
        self.told.push((word.to_owned(), body.clone()));
        if word == "read-rollback" {
            return json!({});
        }
        self.anchors.insert(volume, anchor.clone());
        anchor
    }
}

fn first_byte(volume: &Volume) -> u8 {
    let mut block = [0; 4096];
    volume.read(0, &mut block).unwrap();
    assert!(block.iter().all(|byte| *byte == block[0]));
    block[0]
}

/// F12: an attach that took so long that another may have got the lease asks once more before it writes anything.
#[test]
fn f12_an_attach_that_took_too_long_does_not_begin_to_write() {
    let place = Place::new();
    let disk = place.create("disk", 1, Some(2), None);
    place.write(&disk, 1);
    let before = std::fs::read(&disk).unwrap();
    place.book.lock().is_overtaken = true;
    let refused = place.open(&disk, &Access { background: true, ..Access::writing() }).err().unwrap();
    assert_eq!(refused.report().code, "superseded", "{refused}");
    assert_eq!(std::fs::read(&disk).unwrap(), before);
    place.book.lock().is_overtaken = false;
    assert_eq!(first_byte(&place.open(&disk, &Access::writing()).unwrap()), 1);
}

/// F9, F12: whoever had the lease before may have changed the header since it was read: what counts is how it is found with the lease.
#[test]
fn f12_the_header_counts_as_it_is_when_the_lease_is_held() {
    let place = Place::new();
    let disk = place.create("disk", 1, Some(2), None);
    place.write(&disk, 1);
    let header = place.open(&disk, &Access::reading()).unwrap().header();
    // As `evsfs rekey` leaves it: the same data key, wrapped anew.
    let wrapped_dek = WrappedDekField::new(vec![2; 61]).unwrap();
    let rewrapped = Header { wrapped_dek, sequence: header.sequence + 2, ..header };
    let block = rewrapped.encode(&Place::keys(&rewrapped)).unwrap();
    let path = disk.clone();
    place.book.lock().before = Some(Box::new(move || {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        for slot in HEADER_SLOTS {
            file.write_all_at(&block[..], slot * BLOCK_BYTES).unwrap();
        }
    }));
    let volume = place.open(&disk, &Access::writing()).unwrap();
    assert_eq!(volume.header(), rewrapped);
    assert_eq!(first_byte(&volume), 1);
}
