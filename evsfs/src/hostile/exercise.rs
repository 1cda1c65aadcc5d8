//! Everything that can be done with a volume, done to one that nobody may trust.

use std::sync::Arc;

use uuid::Uuid;

use super::keys_of;
use crate::backing::Backing;
use crate::backing::sim::{Image, SimBacking};
use crate::crypto::SeededEntropy;
use crate::engine::{BLOCK, OpenOptions, Volume};
use crate::format::HeaderCopies;

/// How far it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The header was refused.
    NoHeader,
    /// The volume was refused.
    NotOpened,
    /// It was opened, and something in it was refused.
    Refused,
    /// Everything was done as asked.
    Done,
}

/// Places that are looked at one after the other, at most.
const MOST: usize = 64;

pub(super) fn exercise(image: Image) -> Outcome {
    let backing = SimBacking::from_image(image);
    let Some(reader) = open(&backing, true) else { return Outcome::NoHeader };
    let Some(volume) = reader else { return Outcome::NotOpened };
    let mut whole = look(&volume);
    drop(volume);
    match open(&backing, false) {
        Some(Some(volume)) => whole &= change(volume),
        _ => whole = false,
    }
    // Whatever was written, it must be possible to look at it again.
    if let Some(Some(volume)) = open(&backing, true) {
        whole &= look(&volume);
    }
    if whole { Outcome::Done } else { Outcome::Refused }
}

fn open(backing: &SimBacking, read_only: bool) -> Option<Option<Volume>> {
    let mut start = vec![0; HeaderCopies::SPAN];
    backing.read_at(&mut start, 0).ok()?;
    let copies = HeaderCopies::parse(&start).ok()?;
    let keys = keys_of(*copies.candidates()[0].uuid());
    let header = copies.verify(&keys).ok()?;
    let options = OpenOptions { background: false, read_only, memory: 16 << 20, ..OpenOptions::default() };
    let entropy = Arc::new(SeededEntropy::new(0xf00d));
    Some(Volume::open(Arc::new(backing.clone()), header, keys, options, entropy).ok())
}

/// Reads some of everything. False if anything was refused.
fn look(volume: &Volume) -> bool {
    let mut whole = true;
    let size = volume.size();
    let mut buf = vec![0; 16 * 4096];
    let mut places = vec![0, size / 2, size.saturating_sub(5000), size - 1];
    let mut at = 0;
    while places.len() < MOST {
        match volume.next_data(at) {
            Ok(Some(data)) => {
                assert!(data >= at && data < size, "data at {data}, looked for from {at} of {size}");
                places.push(data);
                match volume.next_hole(data) {
                    Ok(hole) => {
                        assert!(hole > data && hole <= size, "a hole at {hole} behind data at {data}");
                        at = hole;
                    }
                    Err(_) => at = data + BLOCK,
                }
                if at >= size {
                    break;
                }
            }
            Ok(None) => break,
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    for place in places {
        let left = usize::try_from(size - place).unwrap_or(usize::MAX).min(buf.len());
        whole &= volume.read(place, &mut buf[..left]).is_ok();
    }
    for snapshot in volume.snapshots().iter().take(8) {
        let length = usize::try_from(snapshot.size).unwrap_or(usize::MAX).min(buf.len());
        whole &= volume.read_snapshot(snapshot.id, 0, &mut buf[..length]).is_ok();
    }
    whole & volume.check(&mut |_, _| {}).is_ok_and(|report| report.is_sound())
}

/// Writes, discards, grows, keeps and goes back. False if anything was refused.
fn change(volume: Volume) -> bool {
    let size = volume.size();
    let block = [0x5a; 4096];
    let mut whole = volume.write(0, &block[..4096.min(usize::try_from(size).unwrap_or(4096))]).is_ok();
    whole &= volume.write(size / 2, &block[..1]).is_ok();
    whole &= volume.discard(0, size.min(64 << 20)).is_ok();
    whole &= volume.flush().is_ok();
    let first = volume.snapshots().first().map(|snapshot| snapshot.id);
    whole &= volume.snapshot("kept", Uuid::from_u128(1), 0).is_ok();
    if let Some(first) = first {
        whole &= volume.rollback(first).is_ok();
        whole &= volume.delete_snapshot(first).is_ok();
    }
    whole &= volume.write(size - 1, &block[..1]).is_ok();
    whole &= volume.extend((size / BLOCK + 300) * BLOCK).is_ok();
    for _ in 0..3 {
        whole &= volume.checkpoint().is_ok();
    }
    whole & volume.close().is_ok()
}
