//! Volumes whose data keys follow from their wrapped forms, and what is known of their contents.

use std::collections::HashSet;
use std::sync::Arc;

use evsfs::backing::Backing;
use evsfs::backing::sim::{Dice, SimBacking};
use evsfs::crypto::{Backend, Dek, Keyring, SeededEntropy, Suite, VolumeKeys};
use evsfs::engine::{CreateParams, OpenOptions, Step, Volume};
use evsfs::format::{Header, HeaderCopies, Text, VolumeKind, WrappedDekField};
use uuid::Uuid;

pub(crate) const VOLUME: Uuid = Uuid::from_u128(0xF9);
pub(crate) const BLOCK: usize = 4096;

/// The keys of data key number `dek`.
pub(crate) fn keys(dek: u8) -> VolumeKeys {
    VolumeKeys::new(Dek::new(&[dek; 32]), VOLUME, Backend::AwsLc)
}

/// Data key number `dek`, wrapped.
pub(crate) fn wrapped(dek: u8, wrapping: u8) -> WrappedDekField {
    WrappedDekField::new([vec![dek], vec![wrapping; 39]].concat()).unwrap()
}

pub(crate) fn create(blocks: u64, dek: u8) -> SimBacking {
    let header = Header {
        suite: Suite::Aes256Gcm,
        kind: VolumeKind::Disk,
        sequence: 1,
        uuid: VOLUME,
        created: 0,
        ring_pages: 8,
        cmk_id: Text::new("key").unwrap(),
        cmk_version: 1,
        wrapped_dek: wrapped(dek, 1),
        next: None,
        base_copied: false,
        base: None,
    };
    let file = SimBacking::new();
    let size = blocks * 4096;
    Volume::create(&file, &header, &CreateParams { size }, &keys(dek), &SeededEntropy::new(0)).unwrap();
    file
}

/// Proves the header as a mount does: with the data keys that its wrapped forms open to.
pub(crate) fn unlock(file: &SimBacking) -> Result<(Header, Keyring), String> {
    let mut start = vec![0; HeaderCopies::SPAN];
    file.read_at(&mut start, 0).map_err(|e| e.to_string())?;
    let copies = HeaderCopies::parse(&start).map_err(|e| e.to_string())?;
    let mut refused = String::new();
    for copy in copies.candidates() {
        let claims = copy.claims();
        let of = |field: &WrappedDekField| keys(field.as_bytes()[0]);
        let next = claims.next.as_ref().map(|next| (of(&next.wrapped_dek), next.switch));
        let first = of(&claims.wrapped_dek);
        match copy.verify_with(&first, next.as_ref().map(|(keys, _)| keys)) {
            Ok(header) => {
                let ring = Keyring::from(first);
                return Ok((
                    header,
                    match next {
                        Some((next, switch)) => ring.switched(next, switch),
                        None => ring,
                    },
                ));
            }
            Err(error) => refused = error.to_string(),
        }
    }
    Err(refused)
}

/// Opens it; `seed` must differ from open to open.
pub(crate) fn try_open(file: &SimBacking, seed: u64, options: OpenOptions) -> Result<Volume, String> {
    file.sync().map_err(|e| e.to_string())?;
    file.drop_clean_cache(seed);
    let (header, ring) = unlock(file)?;
    Volume::open(Arc::new(file.clone()), header, ring, options, Arc::new(SeededEntropy::new(seed)))
        .map_err(|e| e.to_string())
}

pub(crate) fn options() -> OpenOptions {
    OpenOptions { background: false, memory: 1 << 20, dirty_limit: Some(24), ..OpenOptions::default() }
}

pub(crate) fn open(file: &SimBacking, seed: u64) -> Volume {
    try_open(file, seed, options()).unwrap()
}

/// Whether a wrapped key stands anywhere in the file.
pub(crate) fn holds(file: &SimBacking, wrapped: &WrappedDekField) -> bool {
    let bytes = file.image().to_bytes();
    let wanted = wrapped.as_bytes();
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// The slots of a file that hold something, without the headers.
pub(crate) fn slots(file: &SimBacking) -> HashSet<[u8; BLOCK]> {
    let bytes = file.image().to_bytes();
    let slots = bytes.as_chunks::<BLOCK>().0.iter().enumerate();
    let full =
        |(place, slot): &(usize, &[u8; BLOCK])| ![0, 8].contains(place) && slot.iter().any(|byte| *byte != 0);
    slots.filter(full).map(|(_, slot)| *slot).collect()
}

pub(crate) fn begin(volume: &Volume, dek: u8) {
    volume.start_reencryption(keys(dek), wrapped(dek, 1), 0).unwrap();
}

/// Goes on to the end, `blocks` at a time; gives the steps that it took.
pub(crate) fn finish(volume: &Volume, blocks: u64) -> usize {
    for steps in 1..100_000 {
        if volume.task_step(blocks).unwrap() == Step::Finished {
            assert_eq!(volume.reencryption(), None);
            return steps;
        }
    }
    panic!("it never ends: {:?}", volume.reencryption());
}

/// What is known of a volume or snapshot: a byte for each block, which fills it; 0 for none.
pub(crate) type Known = Vec<u8>;

pub(crate) fn write(volume: &Volume, known: &mut Known, block: usize, count: usize, byte: u8) {
    let data = vec![byte; count * BLOCK];
    volume.write(u64::try_from(block * BLOCK).unwrap(), &data).unwrap();
    known[block..block + count].fill(byte);
}

pub(crate) fn discard(volume: &Volume, known: &mut Known, block: usize, count: usize) {
    volume.discard(u64::try_from(block * BLOCK).unwrap(), u64::try_from(count * BLOCK).unwrap()).unwrap();
    known[block..block + count].fill(0);
}

/// The byte that fills each block.
pub(crate) fn contents(volume: &Volume, snapshot: Option<Uuid>, blocks: usize) -> Result<Known, String> {
    let mut data = [0; BLOCK];
    (0..blocks)
        .map(|block| {
            let offset = u64::try_from(block * BLOCK).unwrap();
            match snapshot {
                None => volume.read(offset, &mut data),
                Some(id) => volume.read_snapshot(id, offset, &mut data),
            }
            .map_err(|e| e.to_string())?;
            assert!(data.iter().all(|byte| *byte == data[0]), "block {block} is of two writes");
            Ok(data[0])
        })
        .collect()
}

/// A volume with a past: snapshots that share some blocks and differ in others, and holes. Gives it closed, with what it and they hold.
pub(crate) fn with_past(blocks: usize, seed: u64) -> (SimBacking, Known, Vec<(Uuid, Known)>) {
    let file = create(u64::try_from(blocks).unwrap(), 1);
    let volume = open(&file, seed);
    let mut dice = Dice::new(seed);
    let mut known = vec![0; blocks];
    let mut snapshots = Vec::new();
    write(&volume, &mut known, 0, blocks.min(300), 1);
    for round in 2..6_u8 {
        for _ in 0..10 {
            let block = dice.index(blocks - 8);
            if dice.below(4) == 0 {
                discard(&volume, &mut known, block, 1 + dice.index(8));
            } else {
                write(&volume, &mut known, block, 1 + dice.index(8), round);
            }
        }
        let id = Uuid::from_u128(u128::from(round));
        volume.snapshot(&format!("s{round}"), id, 0).unwrap();
        snapshots.push((id, known.clone()));
    }
    // One goes again, so that something was freed.
    volume.delete_snapshot(snapshots.remove(1).0).unwrap();
    write(&volume, &mut known, 3, 2, 9);
    volume.close().unwrap();
    (file, known, snapshots)
}
