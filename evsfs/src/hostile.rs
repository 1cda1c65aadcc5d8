//! A whole volume made by somebody who knows the format: for fuzzers and for tests, never in the program.
//!
//! Anybody can make a volume without encryption, tags and all. So a file that verifies proves nothing, and the engine must take whatever stands in
//! it: it opens the volume or says why not, and never panics, loops or fills the memory. [`Victim::try_recipe`] takes a sound volume,
//! changes what a recipe says in headers, superblock, tables, pages and log, seals everything again from the leaves to the root, and uses
//! the result in every way.

mod exercise;
mod forge;

use crate::backing::sim::Image;
use crate::crypto::{Backend, Suite, VolumeKeys};
use crate::format::HeaderCopies;

pub use exercise::Outcome;

/// A sound plain volume.
pub struct Victim {
    image: Image,
}

/// Bytes of a recipe for one change.
pub const CHANGE: usize = 10;

/// Where a change goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Header,
    Superblock,
    /// Epoch directory, epoch pages, version pages.
    Table,
    MapPage,
    AllocationPage,
    LogHeader,
    LogRecord,
    /// Any byte of the file, with nothing sealed again.
    Raw,
}

/// One change: which structure of a kind, where in it, how many bytes, and which.
#[derive(Debug, Clone, Copy)]
struct Change {
    place: Place,
    index: usize,
    offset: usize,
    value: [u8; 8],
    width: usize,
}

impl Change {
    fn read(bytes: &[u8; CHANGE]) -> Self {
        const PLACES: [Place; 8] = [
            Place::Header,
            Place::Superblock,
            Place::Table,
            Place::MapPage,
            Place::AllocationPage,
            Place::LogHeader,
            Place::LogRecord,
            Place::Raw,
        ];
        let low = u32::from_le_bytes([bytes[6], bytes[7], bytes[8], bytes[9]]);
        // Small numbers, and those just below the greatest.
        let number = if bytes[1] & 0x10 == 0 { u64::from(low) } else { u64::MAX - u64::from(low) };
        Self {
            place: PLACES[usize::from(bytes[0] & 7)],
            index: usize::from(bytes[2]),
            offset: usize::from(u16::from_le_bytes([bytes[4], bytes[5]])),
            value: number.to_le_bytes(),
            width: [1, 2, 4, 8][usize::from(bytes[1] & 3)],
        }
    }

    /// Puts the value where the change says; what is beyond the end is left out.
    fn apply(&self, bytes: &mut [u8]) {
        let at = self.offset % bytes.len().max(1);
        for (byte, value) in bytes[at..].iter_mut().zip(&self.value[..self.width]) {
            *byte = *value;
        }
    }
}

impl Victim {
    /// Takes the bytes of a volume.
    ///
    /// # Panics
    /// If it is no plain volume.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let copies = HeaderCopies::parse(bytes).expect("a volume");
        assert_eq!(
            copies.candidates()[0].suite(),
            Suite::Plain,
            "only a plain volume can be sealed by anybody"
        );
        Self { image: Image::from_bytes(bytes) }
    }

    /// Its structures as the parsers get them, each with the name of its fuzz target: what fuzzing begins with.
    #[must_use]
    pub fn structures(&self) -> Vec<(&'static str, Vec<u8>)> {
        forge::structures(&self.image)
    }

    /// Changes the volume as the recipe says ([`CHANGE`] bytes for each change, at most eight of them) and uses it.
    ///
    /// # Panics
    /// If the engine does.
    #[must_use]
    pub fn try_recipe(&self, recipe: &[u8]) -> Outcome {
        let changes: Vec<Change> = recipe.as_chunks().0.iter().take(8).map(Change::read).collect();
        let image = forge::forge(&self.image, &changes);
        exercise::exercise(image)
    }
}

fn keys_of(uuid: uuid::Uuid) -> VolumeKeys {
    VolumeKeys::plain(uuid, Backend::AwsLc)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use proptest::test_runner::{RngAlgorithm, TestRng};

    use super::*;

    fn victims() -> Vec<Victim> {
        crate::open::golden::plain_volumes().iter().map(|bytes| Victim::new(bytes)).collect()
    }

    #[test]
    fn a_volume_that_nobody_changed_is_sound() {
        for victim in victims() {
            assert_eq!(victim.try_recipe(&[]), Outcome::Done);
        }
    }

    /// F2: whatever a forger writes, the engine neither panics nor hangs.
    #[test]
    fn f2_forged_volumes_are_used_or_refused() {
        let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]);
        let victims = victims();
        let mut outcomes = std::collections::BTreeMap::new();
        for turn in 0..RECIPES {
            let mut recipe = [0; 3 * CHANGE];
            let length = (1 + turn % 3) * CHANGE;
            recipe[..length].fill_with(|| rng.random());
            // Most fields lie in the first half kilobyte, and most numbers that matter are small, or nearly the greatest.
            for change in recipe.as_chunks_mut::<CHANGE>().0 {
                if change[1] & 0x20 != 0 {
                    change[5] &= 1;
                }
                if change[1] & 0x40 != 0 {
                    change[7..].fill(0);
                }
            }
            let start = Instant::now();
            let outcome = victims[turn % victims.len()].try_recipe(&recipe[..length]);
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}: {recipe:02x?}", start.elapsed());
            *outcomes.entry(outcome).or_insert(0) += 1;
        }
        println!("{outcomes:?}");
        assert_eq!(outcomes.len(), 4, "every outcome should be met: {outcomes:?}");
    }

    /// Forged volumes that are tried.
    const RECIPES: usize = 10_000;
}
