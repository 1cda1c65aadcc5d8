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
            let thin = thin_header(true).encode(&keys());
            [header().encode(&keys()), plain_header().encode(&plain), running, thin]
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

/// Where all values of each byte are tried.
fn fields(target: &str, seed: &[u8]) -> std::ops::Range<usize> {
    let place = |wanted: &str| {
        let field =
            super::super::header::FIELDS.iter().find(|(_, _, name)| *name == wanted).expect("a field");
        (field.0, field.0 + field.1)
    };
    let is_proved =
        |copies: HeaderCopies| copies.candidates()[0].claims().base.is_some_and(|base| base.is_proved());
    if target == "header" && HeaderCopies::parse(seed).is_ok_and(is_proved) {
        return place("base present").0..place("base path length").1;
    }
    0..seed.len().min(160)
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
            // The first bytes hold most of the fields, of a thin volume's header those of its base: all values of each.
            for at in fields(name, &seed) {
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

/// What a program of the fuzzer is but for its name.
fn program(name: &str) -> String {
    format!(
        "//! See `evsfs::format::fuzz::{name}`.\n#![no_main]\n\nlibfuzzer_sys::fuzz_target!(|data: &[u8]| evsfs::format::fuzz::{name}(data));\n"
    )
}

/// The fuzzer's programs are these functions, and a whole volume; the script runs each of them.
#[test]
fn the_fuzzer_has_a_program_for_each_target() {
    let fuzz = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    let programs: Vec<&str> = manifest
        .split("[[bin]]")
        .skip(1)
        .map(|program| {
            let field = |name: &str| {
                let line = program.lines().find_map(|line| line.strip_prefix(name)).expect("its field");
                line.trim_start_matches(" = ").trim_matches('"')
            };
            assert_eq!(field("path"), format!("fuzz_targets/{}.rs", field("name")));
            field("name")
        })
        .collect();
    let mut wanted: Vec<&str> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
    wanted.push("volume");
    let sorted = |names: &[&str]| {
        let mut names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(sorted(&programs), sorted(&wanted));
    let listed = std::process::Command::new(fuzz.join("run.sh")).arg("list").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), programs);
    for (name, _) in fuzz::TARGETS {
        let written =
            std::fs::read_to_string(fuzz.join("fuzz_targets").join(name).with_extension("rs")).unwrap();
        assert_eq!(written, program(name));
    }
    assert_eq!(
        std::fs::read_dir(fuzz.join("fuzz_targets")).unwrap().count(),
        wanted.len(),
        "a program without an entry"
    );
}
