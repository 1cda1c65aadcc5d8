//! `evsfs create`: a new volume file, whole or not at all.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde_json::json;
use tracing::warn;
use uuid::Uuid;

use super::output::Output;
use crate::backing::{FileBacking, FileBackingError};
use crate::cli;
use crate::crypto::{Backend, Suite, SystemEntropy, VolumeKeys};
use crate::engine::{BaseImage, CreateParams, Volume};
use crate::failure::{Failure, FileError, StartError, UsageError};
use crate::format::{BaseReference, Header, Text, VolumeKind, WrappedDekField};
use crate::keys::{self, KeyService};
use crate::open::{self, Access, LockedFile};
use crate::process::Termination;

pub(super) fn run(arguments: &cli::Create, output: Output) -> Result<(), Failure> {
    let path = std::path::absolute(&arguments.file).map_err(|source| FileError::System {
        operation: "resolve",
        file: arguments.file.clone(),
        source,
    })?;
    if fs::symlink_metadata(&path).is_ok() {
        return Err(FileError::Exists { file: path }.into());
    }
    let uuid = arguments.uuid.unwrap_or_else(Uuid::new_v4);
    let service = KeyService::from_env();
    let base = arguments.base.as_deref().map(|base| read_base(base, &service)).transpose()?;
    // A flatten would write down what the base holds, and nobody would have recorded that it left encryption.
    if let (true, Some(path)) = (base.as_ref().is_some_and(|base| base.encrypted), &arguments.base)
        && arguments.plain
    {
        return Err(UsageError::PlainOverEncrypted { base: path.clone() }.into());
    }
    let size = match (arguments.size, &base) {
        (Some(size), Some(base)) if size.0 < base.size => {
            return Err(UsageError::SmallerThanBase { size: size.0, base: base.size }.into());
        }
        (Some(size), _) => size.0,
        (None, Some(base)) => base.size,
        (None, None) => return Err(UsageError::NoSize.into()),
    };
    let params = CreateParams { size };
    let (mut header, keys) = seal(arguments, uuid, &service)?;
    header.ring_pages = params.ring_pages();
    header.base = base.map(|base| base.reference);
    write(&path, &header, params, &keys)?;

    let key_id = Some(header.cmk_id.as_str()).filter(|id| !id.is_empty());
    let value = json!({"uuid": uuid, "size": size, "key_id": key_id, "file": path});
    output.result(&value, &format!("{} ({size} bytes, volume {uuid})", path.display()))
}

/// The header, and the keys that prove it.
fn seal(arguments: &cli::Create, uuid: Uuid, service: &KeyService) -> Result<(Header, VolumeKeys), Failure> {
    let kind = match arguments.kind {
        cli::Kind::Disk => VolumeKind::Disk,
        cli::Kind::Image => VolumeKind::Image,
    };
    let mut header = Header {
        suite: Suite::Plain,
        kind,
        sequence: 0,
        uuid,
        // A clock before 1970 is no reason to fail: the time is for people.
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        ring_pages: 0,
        cmk_id: Text::new("").expect("it fits"),
        cmk_version: 0,
        wrapped_dek: WrappedDekField::default(),
        next: None,
        base_copied: false,
        base: None,
    };
    let Some(key) = &arguments.key else {
        return Ok((header, VolumeKeys::plain(uuid, Backend::AwsLc)));
    };
    keys::keep_in_memory();
    let new = service.create(key, uuid, kind)?;
    header.suite = Suite::Aes256Gcm;
    header.cmk_id = Text::new(&new.key_id).expect("a key id has 36 characters");
    header.cmk_version = new.wrapped.key_version().unwrap_or(0);
    header.wrapped_dek =
        WrappedDekField::new(new.wrapped.as_bytes().to_vec()).expect("kmsd's are at most 512 bytes");
    Ok((header, VolumeKeys::new(new.dek, uuid, Backend::AwsLc)))
}

struct Base {
    reference: BaseReference,
    size: u64,
    encrypted: bool,
}

/// Opens the base once: its state is fixed in the new volume's header.
fn read_base(path: &Path, service: &KeyService) -> Result<Base, Failure> {
    let file = LockedFile::open(path, true)?;
    let volume = open::open(&file, service, &Access::reading())?.volume;
    let text = std::str::from_utf8(file.path.as_os_str().as_bytes()).ok().and_then(Text::new);
    let path =
        text.ok_or_else(|| UsageError::BasePath { path: file.path.clone(), most: Text::<1024>::MAX })?;
    let encrypted = volume.header().suite == Suite::Aes256Gcm;
    Ok(Base { reference: volume.identity().reference(path), size: volume.size(), encrypted })
}

/// Writes under another name in the same directory, and gives it its own when it is durable.
fn write(path: &Path, header: &Header, params: CreateParams, keys: &VolumeKeys) -> Result<(), Failure> {
    let system = |operation| move |source| FileError::System { operation, file: path.to_owned(), source };
    let unfinished = Unfinished::beside(path, header.uuid);
    unfinished
        .goes_with_the_process()
        .map_err(|source| StartError::System { operation: "watch for signals", source })?;
    let backing = FileBacking::create(&unfinished.path).map_err(|error| match error {
        FileBackingError::Io { source, .. } => Failure::from(system("create")(source)),
        other => other.into(),
    })?;
    Volume::create(&backing, header, &params, keys, &SystemEntropy)
        .map_err(|source| Failure::Create { file: path.to_owned(), source })?;
    place(&unfinished.path, path).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => FileError::Exists { file: path.to_owned() },
        _ => system("create")(source),
    })?;
    drop(unfinished);
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(system("make durable"))?;
    Ok(())
}

/// Never replaces a file that came to be in the meantime. Some file systems have no such rename (NFS), others no second names (FAT).
fn place(unfinished: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, unfinished, CWD, path, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(unfinished, path),
        renamed => Ok(renamed?),
    }
}

/// A file that goes when it is done with, one way or the other.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    /// Whoever undoes a creation that was cut short finds it by its volume; that it is asked for again is no obstacle.
    fn beside(path: &Path, volume: Uuid) -> Self {
        Self { path: path.with_file_name(format!(".evsfs-{volume}.{}.unfinished", Uuid::new_v4())) }
    }

    /// From now on a signal that ends the process takes the file along. Once it has its own name, there is none of this one. To be called before any
    /// thread starts.
    fn goes_with_the_process(&self) -> io::Result<()> {
        let signals = Termination::hold_what_is_not_ignored()?;
        let path = self.path.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            if let Err(error) = signals.end_after(|| remove(&path)) {
                warn!(%error, "a signal was not passed on");
            }
        })?;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => warn!(path = %path.display(), %error, "an unfinished file stays"),
    }
}
