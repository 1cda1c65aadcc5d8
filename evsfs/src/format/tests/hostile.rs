//! Parsers meet bytes that nobody's encoder wrote: the fuzz targets over a corpus and seeded mutations of it, and over noise.

use super::*;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};

/// Valid inputs of each target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    match target {
        "header" => {
            let plain = VolumeKeys::plain(VOLUME, Backend::AwsLc);
            let running = running_header().encode_with(&keys(), Some(&next_keys()));
            [header().encode(&keys()), plain_header().encode(&plain), running]
                .into_iter()
                .map(|copy| {
                    let mut start = vec![0; HeaderCopies::SPAN];
                    let copy = copy.unwrap();
                    start[..layout::BLOCK].copy_from_slice(copy.as_ref());
                    start[8 * layout::BLOCK..].copy_from_slice(copy.as_ref());
                    start
                })
                .collect()
        }
        "superblock" => vec![superblock().encode().to_vec()],
        "log_page" => {
            let epoch = epoch();
            let mut open = log_header(&epoch).encode().to_vec();
            open.extend(records().iter().flat_map(LogRecord::encode));
            open.resize(layout::BLOCK, 0);
            vec![log_page().0.to_vec(), open]
        }
        "map_page" => [false, true]
            .map(|leaf| {
                let mut bytes = [0; layout::BLOCK];
                map_page(leaf).encode(&mut bytes);
                bytes.to_vec()
            })
            .to_vec(),
        "tables" => [epoch_directory().encode(), epoch_page().encode(), version_page().encode()]
            .map(|p| p.to_vec())
            .to_vec(),
        other => panic!("no corpus for {other}"),
    }
}

fn mutate(bytes: &mut Vec<u8>, rng: &mut TestRng) {
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..bytes.len().max(1));
        match rng.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => bytes.resize(bytes.len() + at % 64, 0xff),
            2 => {
                let end = bytes.len().min(at + rng.random_range(1..40));
                bytes[at.min(end)..end].fill([0, 0xff, 0x80][at % 3]);
            }
            _ if bytes.is_empty() => bytes.push(1),
            3 => bytes[at] = rng.random(),
            4 => bytes[at] ^= 1 << rng.random_range(0..8),
            _ => bytes[at] = bytes[at].wrapping_add(1),
        }
        if bytes.is_empty() {
            return;
        }
    }
}

/// What stands in the golden volumes, and mutations of it.
#[test]
fn fuzz_targets_over_the_structures_of_golden_volumes() {
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[8; 32]);
    for volume in crate::open::golden::plain_volumes() {
        let structures = crate::hostile::Victim::new(&volume).structures();
        for (name, target) in fuzz::TARGETS {
            let of_it: Vec<&Vec<u8>> =
                structures.iter().filter(|(of, _)| *of == name).map(|(_, bytes)| bytes).collect();
            for seed in &of_it {
                target(seed);
                for _ in 0..3_000 / of_it.len() {
                    let mut bytes = (*seed).clone();
                    mutate(&mut bytes, &mut rng);
                    target(&bytes);
                }
            }
        }
    }
}

#[test]
fn fuzz_targets_over_corpus_and_mutations() {
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    for (name, target) in fuzz::TARGETS {
        for seed in corpus(name) {
            target(&seed);
            // Every prefix length of note, then mutations of head, tail and everything.
            for len in (0..seed.len()).step_by(97) {
                target(&seed[..len]);
            }
            for _ in 0..4_000 {
                let mut bytes = seed.clone();
                mutate(&mut bytes, &mut rng);
                target(&bytes);
            }
            // The first bytes hold most of the fields: all values of each.
            for at in 0..seed.len().min(160) {
                for value in 0..=255 {
                    let mut bytes = seed.clone();
                    bytes[at] = value;
                    target(&bytes);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn fuzz_targets_over_noise(bytes in proptest::collection::vec(any::<u8>(), 0..9_000)) {
        for (_, target) in fuzz::TARGETS {
            target(&bytes);
        }
    }
}
