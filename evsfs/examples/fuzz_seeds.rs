//! Writes what stands in the golden volumes as first inputs for the fuzzers: `cargo run -p evsfs --example fuzz_seeds -- evsfs/fuzz/corpus`.
// An example may stop where something is not as it should be.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use evsfs::format::HeaderCopies;
use evsfs::hostile::Victim;

fn main() {
    let to: PathBuf = std::env::args_os().nth(1).expect("give the directory of the corpora").into();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/1");
    for name in ["plain", "plain-log", "plain-snapshots", "plain-discarded"] {
        let packed = fs::read(golden.join(name).with_extension("evs.z")).unwrap();
        let victim = Victim::new(&miniz_oxide::inflate::decompress_to_vec(&packed).unwrap());
        for (number, (target, bytes)) in victim.structures().into_iter().enumerate() {
            fs::create_dir_all(to.join(target)).unwrap();
            fs::write(to.join(target).join(format!("{name}-{number}")), bytes).unwrap();
        }
    }
    // Headers stand in the clear in the others as well: encrypted, thin, amid a re-encryption.
    for entry in fs::read_dir(&golden).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "z") {
            let whole = miniz_oxide::inflate::decompress_to_vec(&fs::read(&path).unwrap()).unwrap();
            let name = path.file_stem().unwrap();
            fs::write(to.join("header").join(name), &whole[..HeaderCopies::SPAN]).unwrap();
        }
    }
}
