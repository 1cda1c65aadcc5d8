//! `kmsd restore`: everything is checked before anything is changed, and the store comes last: before it, a start says that there
//! is none; after it, everything is there. Run again after a crash, it goes on.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use super::{BackupError, Manifest, private_dir, sync_parent, with_suffix, write_new};
use crate::{
    audit,
    daemon::{Config, DaemonError, ListenConfig, init::check_home},
    store::sqlite::{self, side_file},
};

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The backup.
    pub manifest: Manifest,
    /// Where the store is that was there before.
    pub put_aside: Option<PathBuf>,
    /// Files that were kept, because the home has them already.
    pub kept: Vec<PathBuf>,
    /// Files of the log that were not put back: the home's log begins after them.
    pub left_out: Vec<PathBuf>,
}

/// Puts a backup into a home. Of the audit log nothing is ever taken away: where the home has more of it than the backup, that stays.
///
/// # Errors
/// If the backup is damaged or does not belong to this home, a store is there and `replace` is not said, or kmsd is serving. Nothing
/// is changed then.
pub fn restore(from: &Path, home: &Path, replace: bool) -> Result<Restored, DaemonError> {
    let manifest = Manifest::load(from)?;
    private_dir(home)?;
    check_home(home)?;
    let store = home.join(Config::STORE);
    let _lock = sqlite::lock(&store)?;
    if store.exists() {
        let present = sqlite::facts(&store)?;
        if present.token != manifest.token() {
            return Err(BackupError::OtherToken { backup: manifest.token(), present: present.token }.into());
        }
        if !replace {
            let (home, present, backup) = (home.to_owned(), present.epoch, manifest.commit);
            return Err(BackupError::StoreThere { home, present, backup }.into());
        }
    }
    let mut wanted = Vec::new();
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    let log = home.join(Config::AUDIT);
    let begins = if log.exists() { audit::archived_before(&log)? } else { None };
    let begins = begins.map(|number| audit::file_path(&log, number));
    for entry in manifest.files.iter().map(|entry| entry.path.as_path()) {
        if entry == Path::new(Config::STORE) {
            continue;
        }
        let (source, target) = (from.join(entry), home.join(entry));
        if entry.starts_with(Config::AUDIT) && begins.as_ref().is_some_and(|begins| target < *begins) {
            left_out.push(entry.to_owned());
        } else if !target.exists() {
            wanted.push(entry);
        } else if !entry.starts_with(Config::AUDIT) {
            kept.push(entry.to_owned());
        } else {
            match longer(&source, &target)? {
                Longer::Home => kept.push(entry.to_owned()),
                Longer::Backup => wanted.push(entry),
                Longer::Neither => return Err(BackupError::Histories { file: entry.to_owned() }.into()),
            }
        }
    }

    for directory in [Config::AUDIT, ListenConfig::TLS] {
        if wanted.iter().any(|entry| entry.starts_with(directory)) {
            private_dir(&home.join(directory))?;
        }
    }
    for entry in wanted {
        put(&from.join(entry), &home.join(entry))?;
    }
    let put_aside = put_aside(&store)?;
    put(&from.join(Config::STORE), &store)?;
    Ok(Restored { manifest, put_aside, kept, left_out })
}

/// Which of two files of the log goes on where the other ends.
enum Longer {
    Home,
    Backup,
    Neither,
}

fn longer(backup: &Path, home: &Path) -> Result<Longer, BackupError> {
    let open = |path: &Path| File::open(path).map_err(BackupError::io("read", path));
    let (mut a, mut b) = (open(backup)?, open(home)?);
    let (mut x, mut y) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let n = fill(&mut a, &mut x).map_err(BackupError::io("read", backup))?;
        let m = fill(&mut b, &mut y).map_err(BackupError::io("read", home))?;
        let same = n.min(m);
        if x[..same] != y[..same] {
            return Ok(Longer::Neither);
        }
        if n != m || n == 0 {
            return Ok(if m >= n { Longer::Home } else { Longer::Backup });
        }
    }
}

/// As many bytes as there are, up to the buffer's length.
fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..])? {
            0 => break,
            n => len += n,
        }
    }
    Ok(len)
}

/// Copies a file whole, then gives it its name.
fn put(from: &Path, to: &Path) -> Result<(), BackupError> {
    let partial = with_suffix(to, ".restoring");
    match fs::remove_file(&partial) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(BackupError::io("remove", &partial)(e));
        }
        _ => {}
    }
    write_new(File::open(from).map_err(BackupError::io("read", from))?, &partial)?;
    fs::rename(&partial, to).map_err(BackupError::io("rename", &partial))?;
    sync_parent(to)
}

/// Moves the store away together with its write-ahead log: under another store, SQLite could take that for its own. The log goes first: after a crash in
/// between, the next try finds the store and puts it beside its log.
fn put_aside(store: &Path) -> Result<Option<PathBuf>, BackupError> {
    let parts = ["-shm", "-wal", ""];
    if !parts.iter().any(|part| side_file(store, part).exists()) {
        return Ok(None);
    }
    let free = (1..).map(|n| with_suffix(store, &format!(".replaced-{n}")));
    let aside = free.into_iter().find(|path| !path.exists()).expect("a number is free");
    for part in parts {
        let (from, to) = (side_file(store, part), side_file(&aside, part));
        if from.exists() {
            fs::rename(&from, &to).map_err(BackupError::io("rename", &from))?;
        }
    }
    sync_parent(store)?;
    Ok(Some(aside))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wherever the moving dies, the next try leaves the store and its log under one name, and nothing beside the new store.
    #[test]
    fn a_store_is_put_aside_with_its_log() {
        for stuck in ["-shm", "-wal", ""] {
            let dir = tempfile::tempdir().unwrap();
            let store = dir.path().join("kmsd.db");
            for part in ["", "-wal", "-shm"] {
                fs::write(side_file(&store, part), part).unwrap();
            }
            // A rename onto a directory fails: as if the process died before it.
            let aside = dir.path().join("kmsd.db.replaced-1");
            let obstacle = side_file(&aside, stuck);
            if !stuck.is_empty() {
                fs::create_dir(&obstacle).unwrap();
                put_aside(&store).unwrap_err();
                fs::remove_dir(&obstacle).unwrap();
            }
            assert_eq!(put_aside(&store).unwrap(), Some(aside.clone()));
            for part in ["", "-wal", "-shm"] {
                assert_eq!(fs::read_to_string(side_file(&aside, part)).unwrap(), part);
                assert!(!side_file(&store, part).exists());
            }
        }
    }
}
