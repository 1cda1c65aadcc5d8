//! Trees of files: written, compared, searched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::run;

/// Writes a tree with `files` files between nothing and 200 KiB, directories four deep, symbolic and hard links, and modes.
/// `canary` stands in every file, as often as it fits: to search for in what must be ciphertext.
pub fn write(root: &Path, files: u32, canary: &str) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for number in 0..files {
        let mut dir = root.to_owned();
        for _ in 0..random(4) {
            dir.push(format!("d{}", random(5)));
        }
        fs::create_dir_all(&dir).expect("a directory can be made");
        let length = usize::try_from(random(if number % 8 == 0 { 200_000 } else { 9_000 })).expect("small");
        let line = format!("{canary} file {number}\n");
        let content: Vec<u8> = line.bytes().cycle().take(length).collect();
        let file = dir.join(format!("f{number}"));
        fs::write(&file, content).expect("a file can be written");
        let mode = [0o644, 0o600, 0o755, 0o444][usize::try_from(random(4)).expect("small")];
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("a mode can be set");
        match number % 10 {
            3 => {
                symlink(format!("f{number}"), dir.join(format!("s{number}"))).expect("a symlink can be made");
            }
            7 => {
                fs::hard_link(&file, dir.join(format!("h{number}"))).expect("a hard link can be made");
            }
            _ => {}
        }
    }
}

/// Writes a tree to `DIR/files` and a raw disk of 48 MiB to `DIR/original.raw`: ext4 with that tree, most of it free. Returns the disk.
#[track_caller]
pub fn file_system(dir: &Path, canary: &str) -> PathBuf {
    let (source, image) = (dir.join("files"), dir.join("original.raw"));
    write(&source, 150, canary);
    fs::File::create(&image).and_then(|file| file.set_len(48 << 20)).expect("a sparse file can be made");
    run(Command::new("mkfs.ext4").args(["-q", "-d"]).args([&source, &image])).ok();
    image
}

/// Every entry below `root`: its path, and what it is (kind, mode, link target, number of links, content).
type Listing = BTreeMap<PathBuf, (u32, u64, Vec<u8>)>;

fn listing(root: &Path) -> Listing {
    let mut found = Listing::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        for entry in entries {
            let path = entry.expect("a directory can be read").path();
            let name = path.strip_prefix(root).expect("below the root").to_owned();
            if name == Path::new("lost+found") {
                continue;
            }
            let meta =
                fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let content = if meta.is_symlink() {
                fs::read_link(&path).expect("a link can be read").into_os_string().into_encoded_bytes()
            } else if meta.is_file() {
                fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            } else {
                pending.push(path);
                Vec::new()
            };
            let links = if meta.is_dir() { 0 } else { meta.nlink() };
            found.insert(name, (meta.mode(), links, content));
        }
    }
    found
}

/// Demands that two trees hold the same: names, kinds, modes, links, contents.
#[track_caller]
pub fn assert_same(left: &Path, right: &Path) {
    let (left_files, right_files) = (listing(left), listing(right));
    for (name, value) in &left_files {
        let other = right_files.get(name);
        assert!(other.is_some(), "{} is missing in {}", name.display(), right.display());
        assert!(
            other == Some(value),
            "{} differs between {} and {}",
            name.display(),
            left.display(),
            right.display()
        );
    }
    assert_eq!(left_files.len(), right_files.len(), "{} holds more than {}", right.display(), left.display());
    assert!(!left_files.is_empty(), "{} is empty: nothing was compared", left.display());
}

/// Does a file hold this text anywhere? By `grep`, which knows nothing of the project.
#[track_caller]
pub fn holds(file: &Path, text: &str) -> bool {
    let mut grep = Command::new("grep");
    let outcome =
        run(grep.env("LC_ALL", "C").args(["--quiet", "--text", "--fixed-strings", "-e", text]).arg(file));
    match outcome.code {
        0 => true,
        1 => false,
        _ => panic!("{outcome}"),
    }
}

/// Names, sizes and modification times of everything below `root`: to show that a refused command has changed nothing.
pub fn fingerprint(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            let times = if meta.is_file() { (meta.mtime(), meta.mtime_nsec()) } else { (0, 0) };
            found.push(format!(
                "{} {:o} {} {times:?}",
                path.display(),
                meta.mode(),
                if meta.is_file() { meta.len() } else { 0 }
            ));
            if meta.is_dir() {
                pending.push(path);
            }
        }
    }
    found.sort();
    found
}
