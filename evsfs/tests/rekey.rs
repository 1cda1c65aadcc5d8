//! F9: the wrapped key in the header is exchanged, and power fails at any moment.
#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

use std::sync::Arc;

use evsfs::backing::Backing;
use evsfs::backing::sim::{Bound, SimBacking};
use evsfs::crypto::{Backend, Dek, SeededEntropy, Suite, VolumeKeys};
use evsfs::engine::{CreateParams, OpenOptions, Volume};
use evsfs::format::{Header, HeaderCopies, Text, VolumeKind, WrappedDekField};
use uuid::Uuid;

const VOLUME: Uuid = Uuid::from_u128(0xF9);

fn keys() -> VolumeKeys {
    VolumeKeys::new(Dek::new(&[3; 32]), VOLUME, Backend::AwsLc)
}

fn wrapped(byte: u8) -> WrappedDekField {
    WrappedDekField::new(vec![byte; 40]).unwrap()
}

fn create() -> SimBacking {
    let header = Header {
        suite: Suite::Aes256Gcm,
        kind: VolumeKind::Disk,
        sequence: 1,
        uuid: VOLUME,
        created: 0,
        ring_pages: 8,
        cmk_id: Text::new("key").unwrap(),
        cmk_version: 1,
        wrapped_dek: wrapped(1),
        next_wrapped_dek: WrappedDekField::default(),
        base: None,
    };
    let file = SimBacking::new();
    let size = 64 * 4096;
    Volume::create(&file, &header, &CreateParams { size }, &keys(), &SeededEntropy::new(0)).unwrap();
    file
}

/// Opens it; `seed` must differ from open to open.
fn open(file: &SimBacking, seed: u64) -> Volume {
    let mut start = vec![0; HeaderCopies::SPAN];
    file.read_at(&mut start, 0).unwrap();
    let header = HeaderCopies::parse(&start).unwrap().verify(&keys()).unwrap();
    let options = OpenOptions { background: false, ..OpenOptions::default() };
    Volume::open(Arc::new(file.clone()), header, keys(), options, Arc::new(SeededEntropy::new(seed))).unwrap()
}

fn holds(file: &SimBacking, wrapped: &WrappedDekField) -> bool {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    let wanted = wrapped.as_bytes();
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// However the change is cut short, one of the two opens; and the next attach that writes leaves nothing of the other in the file.
#[test]
fn f9_a_crash_leaves_one_wrapped_key_and_the_next_attach_overwrites_the_other() {
    let file = create();
    let volume = open(&file, 1);
    volume.write(0, &[7; 4096]).unwrap();
    volume.flush().unwrap();
    file.record_crash_points();
    volume.rewrite_header(&Header { wrapped_dek: wrapped(2), ..volume.header() }).unwrap();
    assert!(!holds(&file, &wrapped(1)) && holds(&file, &wrapped(2)));
    let mut seen = [0; 2];
    for point in file.take_crash_points() {
        for survivors in point.states(&Bound::default(), 1) {
            let left = SimBacking::from_image(point.image(&survivors));
            let volume = open(&left, 2);
            let chosen = volume.header().wrapped_dek;
            seen[usize::from(chosen == wrapped(2))] += 1;
            volume.close().unwrap();
            for byte in [1, 2] {
                assert_eq!(holds(&left, &wrapped(byte)), chosen == wrapped(byte));
            }
            let volume = open(&left, 3);
            assert_eq!(volume.header().wrapped_dek, chosen);
            let mut data = [0; 4096];
            volume.read(0, &mut data).unwrap();
            assert_eq!(data, [7; 4096]);
        }
    }
    assert!(seen[0] > 10 && seen[1] > 10, "{seen:?}");
}
