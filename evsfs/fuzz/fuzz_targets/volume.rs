//! A golden volume, changed by somebody who knows the format, and used: see `evsfs::hostile`. The first byte chooses the volume.
#![no_main]

use std::sync::OnceLock;

use evsfs::hostile::Victim;

const PACKED: [&[u8]; 4] = [
    include_bytes!("../../tests/golden/1/plain.evs.z"),
    include_bytes!("../../tests/golden/1/plain-log.evs.z"),
    include_bytes!("../../tests/golden/1/plain-snapshots.evs.z"),
    include_bytes!("../../tests/golden/1/plain-discarded.evs.z"),
];

static VICTIMS: OnceLock<Vec<Victim>> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let victims = VICTIMS.get_or_init(|| {
        let unpack = |packed: &[u8]| miniz_oxide::inflate::decompress_to_vec(packed).expect("a golden volume");
        PACKED.iter().map(|packed| Victim::new(&unpack(packed))).collect()
    });
    if let Some((which, recipe)) = data.split_first() {
        let _ = victims[usize::from(*which) % victims.len()].try_recipe(recipe);
    }
});
