//! Volumes of every released format, opened as the program opens them, and what today's code writes held against them.
//!
//! `tests/golden/N` has volumes of format N, deflated, and `contents.txt` with what they must read as. They stay for ever. With the same
//! randomness and the same operations, today's code must write the newest of them again byte for byte.
//!
//! A new format gets a new directory: `EVSFS_GOLDEN=write cargo nextest run -p evsfs golden` writes the one of [`VERSION`]. Where only the
//! places changed that a program chooses, the volumes of the one before stay in `tests/golden/N-what`.

mod build;
mod contents;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use self::build::{Built, VOLUMES, dek_of, open_again};
use self::contents::Contents;
use super::*;
use crate::engine::{BLOCK, Damage, Step};
use crate::format::layout::{REGION_SLOTS, VERSION, map_height};
use crate::format::{EpochDirectory, VolumeKind};
use crate::hostile::Victim;
use crate::keys::scripted::Scripted;

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A key service that opens a wrapped key of bytes `n` to a key of bytes `n`, and has the anchors of the golden volumes.
fn service(anchors: Vec<(Uuid, Anchor)>) -> Scripted {
    Scripted::new(move |path, body| {
        if path.ends_with("/decrypt-datakey") {
            let wrapped = hex::decode(body["cipher_text"].as_str().unwrap()).unwrap();
            let key = hex::encode(dek_of(&wrapped));
            return (200, json!({"data_key": key, "datakey_length": "32", "datakey_dgst": ""}));
        }
        assert!(path.contains("anchor"), "{path}");
        let (_, anchor) = anchors.iter().find(|(uuid, _)| path.contains(&uuid.to_string())).unwrap();
        let anchor = json!({"generation": anchor.commit, "chain_mac": hex::encode(anchor.chain.0)});
        if path.ends_with("/lease") {
            return (200, Scripted::lease(body, Some(&anchor)));
        }
        (200, json!({"anchor": anchor}))
    })
}

fn access(read_only: bool) -> Access {
    if read_only { Access::reading() } else { Access::writing() }
}

/// One line of `contents.txt`.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    name: String,
    commit: u64,
    chain: String,
    file: String,
    contents: String,
    snapshots: Vec<(Uuid, String)>,
}

impl Line {
    fn of(name: &str, built: &Built) -> Self {
        let snapshots = built.snapshots.iter().map(|(id, contents)| (*id, contents.digest())).collect();
        Self {
            name: name.to_owned(),
            commit: built.anchor.commit,
            chain: hex::encode(built.anchor.chain.0),
            file: digest(&built.file),
            contents: built.contents.digest(),
            snapshots,
        }
    }

    fn write(&self) -> String {
        let Self { name, commit, chain, file, contents, snapshots } = self;
        let snapshots: String = snapshots.iter().map(|(id, digest)| format!(" {id}={digest}")).collect();
        format!("{name} {commit} {chain} {file} {contents}{snapshots}\n")
    }

    fn read(line: &str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, commit, chain, file, contents, snapshots @ ..] = words.as_slice() else {
            panic!("not a line of contents: {line}")
        };
        let snapshot = |word: &&str| {
            let (id, digest) = word.split_once('=').expect("id=digest");
            (id.parse().expect("a uuid"), digest.to_owned())
        };
        Self {
            name: (*name).to_owned(),
            commit: commit.parse().expect("a number"),
            chain: (*chain).to_owned(),
            file: (*file).to_owned(),
            contents: (*contents).to_owned(),
            snapshots: snapshots.iter().map(snapshot).collect(),
        }
    }

    fn anchor(&self) -> Anchor {
        let chain = hex::decode(&self.chain).unwrap().try_into().expect("32 bytes");
        Anchor { commit: self.commit, chain: crate::crypto::Chain(chain) }
    }
}

/// The volumes of one format, put where a program finds them.
struct Release {
    dir: TempDir,
    lines: Vec<Line>,
    service: Scripted,
}

impl Release {
    fn unpack(from: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(from.join("contents.txt")).unwrap();
        let lines: Vec<Line> = text.lines().map(Line::read).collect();
        let mut anchors = Vec::new();
        for line in &lines {
            let packed = fs::read(from.join(&line.name).with_extension("evs.z")).unwrap();
            let file = miniz_oxide::inflate::decompress_to_vec(&packed).unwrap();
            assert_eq!(digest(&file), line.file, "{} was changed", line.name);
            let header = HeaderCopies::parse(&file).unwrap();
            anchors.push((*header.candidates()[0].uuid(), line.anchor()));
            write_sparse(&dir.path().join(&line.name).with_extension("evs"), &file);
        }
        Self { dir, lines, service: service(anchors) }
    }

    fn open(&self, name: &str, read_only: bool) -> Volume {
        let file = LockedFile::open(&self.dir.path().join(name).with_extension("evs"), read_only).unwrap();
        let opened = open(&file, &self.service.service(), &access(read_only));
        opened.unwrap_or_else(|error| panic!("{name}: {error}")).volume
    }
}

/// Zeros are left out: some volumes are large and nearly empty.
fn write_sparse(path: &Path, bytes: &[u8]) {
    let file = fs::File::create_new(path).unwrap();
    file.set_len(u64::try_from(bytes.len()).unwrap()).unwrap();
    for (part, at) in bytes.chunks(1 << 16).zip((0..).step_by(1 << 16)) {
        if part.iter().any(|byte| *byte != 0) {
            file.write_all_at(part, at).unwrap();
        }
    }
}

/// The directories of all formats, the oldest first; of one format, that of today's code last.
fn releases() -> Vec<PathBuf> {
    let mut found: Vec<(u16, Reverse<String>)> = fs::read_dir(home())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| Some((name.split('-').next()?.parse().ok()?, Reverse(name))))
        .collect();
    found.sort();
    assert_eq!(
        found.last(),
        Some(&(VERSION, Reverse(VERSION.to_string()))),
        "no golden volumes of this format"
    );
    found.into_iter().map(|(_, Reverse(name))| home().join(name)).collect()
}

#[test]
fn golden_volumes_read_as_they_were_written_bit_for_bit() {
    for from in releases() {
        let release = Release::unpack(&from);
        // A format is there whole; of what changed within it, what the change was about.
        let least = if from.ends_with(VERSION.to_string()) { 8 } else { 1 };
        assert!(release.lines.len() >= least, "{from:?}");
        for line in &release.lines {
            let name = &line.name;
            let volume = release.open(name, true);
            let contents = Contents::of(volume.size(), |at, buf| volume.read(at, buf));
            assert_eq!(contents.digest(), line.contents, "{name}");
            let ids: Vec<Uuid> = volume.snapshots().iter().map(|snapshot| snapshot.id).collect();
            assert_eq!(ids, line.snapshots.iter().map(|(id, _)| *id).collect::<Vec<_>>(), "{name}");
            for (snapshot, (id, expected)) in volume.snapshots().iter().zip(&line.snapshots) {
                let contents = Contents::of(snapshot.size, |at, buf| volume.read_snapshot(*id, at, buf));
                assert_eq!(contents.digest(), *expected, "{name}, snapshot {}", snapshot.name);
            }
            let report = volume.check(&mut |_, _| {}).unwrap();
            assert_eq!(report.bad_count, contents.lost(), "{name}: {report:?}");
            assert!(report.bad.iter().all(|bad| bad.reason == Damage::Lost), "{name}: {report:?}");
            assert!(report.unaccounted_slots == 0 && report.shared_slots == 0, "{name}: {report:?}");
            // What a lost page referred to is in use for ever.
            assert_eq!(report.leaked_slots > 0, contents.lost() > 0, "{name}: {report:?}");
        }
    }
}

/// They are not only read: today's code goes on where the old one ended, with what ran in the background too.
#[test]
fn golden_volumes_can_be_written_on() {
    for from in releases() {
        let release = Release::unpack(&from);
        for line in release.lines.iter().filter(|line| !["base", "plain"].contains(&line.name.as_str())) {
            let volume = release.open(&line.name, false);
            let mut expected = Contents::of_data(&volume);
            let at = volume.size() - 10_000;
            expected.put(at, &[0xa7; 6000]);
            volume.write(at, &[0xa7; 6000]).unwrap();
            volume.flush().unwrap();
            while volume.task_step(50).unwrap() != Step::Finished {}
            volume.close().unwrap();
            let volume = release.open(&line.name, true);
            assert_eq!(Contents::of_data(&volume).digest(), expected.digest(), "{}", line.name);
            assert!(volume.reencryption().is_none() && volume.flatten().is_none(), "{}", line.name);
        }
    }
}

/// Of what a later version could fail to read, nothing is missing.
#[test]
fn golden_volumes_have_every_variant_of_the_format() {
    let release = Release::unpack(&home().join(VERSION.to_string()));
    let mut missing = BTreeSet::from([
        "plain",
        "encrypted",
        "a disk",
        "an image",
        "a snapshot",
        "trash",
        "a log that was not emptied",
        "lost blocks",
        "a base that only claims to be the right one",
        "an encrypted base",
        "a base that is not encrypted",
        "a flatten",
        "after a flatten",
        "a re-encryption",
        "after a re-encryption",
        "a second epoch page",
        "a second region",
        "two levels of the map",
        "three levels",
        "four levels",
    ]);
    for line in &release.lines {
        let volume = release.open(&line.name, true);
        let (header, stats) = (volume.header(), volume.stats());
        let height = map_height(volume.size() / BLOCK);
        let base = header.base.map(|base| base.state);
        let proven = |is: bool| matches!(base, Some(BaseState::Proven { encrypted, .. }) if encrypted == is);
        let lost = || volume.check(&mut |_, _| {}).unwrap().bad.iter().any(|bad| bad.reason == Damage::Lost);
        let epoch_pages = || {
            let bytes = fs::read(release.dir.path().join(&line.name).with_extension("evs")).unwrap();
            let structures = Victim::new(&bytes).structures();
            let (_, directory) =
                structures.iter().find(|(target, _)| *target == "tables").expect("a directory");
            EpochDirectory::decode(directory.as_slice().try_into().unwrap()).unwrap().pages.len()
        };
        for (variant, is) in [
            ("plain", header.suite == Suite::Plain),
            ("encrypted", header.suite == Suite::Aes256Gcm),
            ("a disk", header.kind == VolumeKind::Disk),
            ("an image", header.kind == VolumeKind::Image),
            ("a snapshot", !volume.snapshots().is_empty()),
            ("trash", stats.trash),
            ("a log that was not emptied", stats.dirty_entries > 0),
            ("lost blocks", line.name == "lost" && lost()),
            ("a base that only claims to be the right one", matches!(base, Some(BaseState::Claimed(_)))),
            ("an encrypted base", proven(true)),
            ("a base that is not encrypted", proven(false)),
            ("a flatten", volume.flatten().is_some()),
            ("after a flatten", header.base_copied),
            ("a re-encryption", header.next.is_some()),
            ("after a re-encryption", header.wrapped_dek.as_bytes().first() == Some(&build::NEXT)),
            ("a second epoch page", line.name == "many-epochs" && epoch_pages() == 2),
            ("a second region", stats.file_slots > REGION_SLOTS),
            ("two levels of the map", height == 2),
            ("three levels", height == 3),
            ("four levels", height == 4),
        ] {
            if is {
                missing.remove(variant);
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn golden_volumes_are_what_this_code_writes() {
    let dir = tempfile::tempdir().unwrap();
    let to = home().join(VERSION.to_string());
    let write = std::env::var("EVSFS_GOLDEN").is_ok_and(|value| value == "write");
    let mut lines = String::new();
    for (name, make) in VOLUMES {
        let built = make(&dir.path().join(name).with_extension("evs"));
        if write {
            fs::create_dir_all(&to).unwrap();
            let packed = miniz_oxide::deflate::compress_to_vec(&built.file, 9);
            fs::write(to.join(name).with_extension("evs.z"), packed).unwrap();
        }
        lines.push_str(&Line::of(name, &built).write());
    }
    if write {
        fs::write(to.join("contents.txt"), &lines).unwrap();
    }
    let golden = fs::read_to_string(to.join("contents.txt")).unwrap();
    for (today, golden) in lines.lines().zip(golden.lines()) {
        assert_eq!(
            Line::read(today),
            Line::read(golden),
            "format changed: version bump. The bytes that this code writes are not those of format {VERSION}. If the meaning of \
             the bytes changed, raise the version and write golden volumes of the new one; the old ones stay and must open. If only \
             the choice of places changed, keep them under another name and write those of this version anew"
        );
    }
    assert_eq!(lines.lines().count(), golden.lines().count());
}

/// Every golden volume of today, whole and opened without a key service: for those who damage them.
pub(crate) fn plain_volumes() -> Vec<Vec<u8>> {
    let from = home().join(VERSION.to_string());
    let text = fs::read_to_string(from.join("contents.txt")).unwrap();
    let lines = text.lines().map(Line::read).filter(|line| line.name.starts_with("plain"));
    lines
        .map(|line| {
            let packed = fs::read(from.join(&line.name).with_extension("evs.z")).unwrap();
            miniz_oxide::inflate::decompress_to_vec(&packed).unwrap()
        })
        .collect()
}

/// An image that was changed after a thin disk was made of it is not read through.
#[test]
fn i4_a_golden_thin_disk_refuses_another_state_of_its_base() {
    let release = Release::unpack(releases().last().unwrap());
    let base = release.dir.path().join("base.evs");
    open_again(&base, |volume| volume.write(0, &[1; 4096]).unwrap());
    let file = LockedFile::open(&release.dir.path().join("thin.evs"), true).unwrap();
    let refused = open(&file, &release.service.service(), &access(true)).err().expect("another state");
    assert!(refused.to_string().contains("base"), "{refused}");
    assert_eq!(BLOCK, 4096);
}
