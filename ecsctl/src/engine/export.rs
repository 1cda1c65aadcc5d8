//! Writing an image to a file of the user's, in the open.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use uuid::Uuid;

use crate::{
    app::App,
    engine::copy::{Origin, Trouble, open_view, walk},
    error::Error,
    images::{ExportFormat, Source, qcow2_writer::Writer},
    model::disk::Disk,
    output::progress::Progress,
    volumes::Place,
};

impl App {
    /// Writes what a mounted volume shows to `path`, which appears when it is whole and durable. Until then it has a name of this operation's, by its ID.
    pub(super) fn export_view(
        &self,
        volume: &Disk,
        place: &Place,
        (path, id): (&Path, Uuid),
        format: ExportFormat,
    ) -> Result<(), Error> {
        let partial = partial(path, id);
        let failed = |source| Error::Io { doing: "write to", path: path.to_owned(), source };
        // Nobody else reads it before its owner says so.
        let create = || File::options().write(true).create_new(true).mode(0o600).open(&partial);
        let file = create().map_err(failed)?;
        let mut source = open_view(&place.view)?;
        let mut progress = Progress::new(self.out, "exporting", &volume.name, source.size());
        let from = Origin::Volume { volume, file: place.file.clone() };
        let told = |trouble: Trouble| trouble.told(&from, path);
        match format {
            ExportFormat::Raw => {
                file.set_len(source.size()).map_err(failed)?;
                walk(&mut source, &mut progress, |_, offset, data| {
                    file.write_all_at(data, offset).map_err(Trouble::Target)
                })
                .map_err(told)?;
                file.sync_all().map_err(failed)?;
            }
            ExportFormat::Qcow2 => {
                let mut writer = Writer::new(file, source.size());
                walk(&mut source, &mut progress, |_, offset, data| {
                    writer.write(offset, data).map_err(Trouble::Target)
                })
                .map_err(told)?;
                writer.finish().map_err(failed)?;
            }
        }
        publish(&partial, path).map_err(failed)?;
        match path.parent() {
            Some(dir) => File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed),
            None => Ok(()),
        }
    }
}

/// Gives the file its name. One that came there in the meantime is not overwritten.
fn publish(partial: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, partial, CWD, path, RenameFlags::NOREPLACE) {
        // A file system that cannot promise that, such as NFS, has hard links, which others, such as vfat, lack (rename(2)).
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::hard_link(partial, path)?;
            fs::remove_file(partial)
        }
        other => Ok(other?),
    }
}

/// Removes what an export that was cut short left.
pub(super) fn drop_export(path: &Path, id: Uuid) -> Result<(), Error> {
    let partial = partial(path, id);
    match fs::remove_file(&partial) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { doing: "remove", path: partial, source })
        }
        _ => Ok(()),
    }
}

/// The user's name for the file is not part of it: the two together could be too long.
fn partial(path: &Path, id: Uuid) -> PathBuf {
    path.with_file_name(format!(".ecsctl-export-{id}.partial"))
}
