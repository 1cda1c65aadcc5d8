//! Filling a volume from another volume or an image file, through the view: plaintext is in memory only (I3).

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use uuid::Uuid;

use crate::{
    app::App,
    catalog::disks,
    claim::Claim,
    config::private_dir,
    engine::{Claimed, Facts, steps::io_at},
    error::Error,
    images::{
        ImageError, Source, probe,
        raw::{OpenFile, Raw},
    },
    model::plan::Fill,
    output::progress::Progress,
    volumes::{Mounting, Place, ToolError},
};

/// How much is read and written at once.
const CHUNK: usize = 1 << 20;
/// The unit in which zeros are left out.
const GRAIN: usize = 64 << 10;

impl App {
    /// Copies what the new volume is filled with into its view and flushes it.
    pub(super) fn copy_into(
        &mut self,
        new: &Claimed,
        fill: &Fill,
        place: &Place,
        facts: &mut Facts,
    ) -> Result<(), Error> {
        let title = new.disk.name.clone();
        match fill {
            Fill::File { path, format } => {
                let failed = |source| Error::Image { path: path.clone(), source };
                let file = File::open(path).and_then(OpenFile::new).map_err(|e| failed(e.into()))?;
                let (_, mut source) = probe::open(file, *format).map_err(failed)?;
                let mut progress = Progress::new(self.out, "importing", &title, source.size());
                copy(&mut *source, &place.view, &mut progress)
                    .map_err(|trouble| trouble.told(path, &place.view))
            }
            Fill::Volume { id, verify, snapshot } => {
                let view = self.open_source(new, *id, *snapshot, facts)?;
                let told = |trouble: Trouble| trouble.told(&view, &place.view);
                let mut source = open_view(&view)?;
                let mut progress = Progress::new(self.out, "copying", &title, source.size());
                copy(&mut source, &place.view, &mut progress).map_err(told)?;
                if *verify {
                    let mut progress = Progress::new(self.out, "verifying", &title, source.size());
                    let mut written = open_view(&place.view)?;
                    verify_same(&mut source, &mut written, &mut progress).map_err(told)?;
                }
                Ok(())
            }
        }
    }

    /// The view of the volume that is copied from: the one it has, or one that is mounted for this only.
    fn open_source(
        &mut self,
        new: &Claimed,
        id: Uuid,
        snapshot: Option<Uuid>,
        facts: &mut Facts,
    ) -> Result<std::path::PathBuf, Error> {
        let kind = disks::by_id(self.catalog.read(), id)?.map_or(new.disk.kind, |disk| disk.kind);
        let source = self.claim_volume_id(kind, id, &id.to_string())?;
        let own = self.installation.place(id);
        let view = if self.volumes.serving(&own).is_some() {
            let holders = self.volumes.holders(&own);
            // A snapshot does not change, whoever has the disk open.
            if snapshot.is_none() && !holders.is_empty() {
                let source_error = Box::new(ToolError::Busy { holders, message: String::new() });
                return Err(Error::Volume { disk: source.disk.name, doing: "copied", source: source_error });
            }
            own.view
        } else {
            let place = self.source_place(new.disk.id, &own);
            io_at("make", &place.mountpoint, private_dir)?;
            self.volumes
                .mount(new.claim(), &place, Mounting { read_only: true, encrypted: source.disk.encrypted })
                .map_err(|error| Error::Volume {
                    disk: source.disk.name.clone(),
                    doing: "copied",
                    source: Box::new(error),
                })?;
            place.view
        };
        facts.source = Some(source);
        Ok(match snapshot {
            // As evsfs shows it, beside the disk.
            Some(id) => view.with_file_name(format!("snapshot-{id}")),
            None => view,
        })
    }

    /// Unmounts what was mounted to be copied from.
    pub(super) fn release_source(
        &mut self,
        new: Uuid,
        claim: &Claim,
        facts: &mut Facts,
    ) -> Result<(), Error> {
        let place = self.source_place(new, &self.installation.place(new));
        self.volumes.unmount(claim, &place).map_err(|error| Error::Volume {
            disk: new.to_string(),
            doing: "copied",
            source: Box::new(error),
        })?;
        for (path, dir) in [(&place.control, false), (&place.log, false), (&place.mountpoint, true)] {
            let removed = if dir { fs::remove_dir(path) } else { fs::remove_file(path) };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Io { doing: "remove", path: path.clone(), source: error });
                }
                _ => {}
            }
        }
        facts.source = None;
        Ok(())
    }

    /// Where a source is mounted that fills the volume `new`: named by the new volume, whose operation cleans it up.
    fn source_place(&self, new: Uuid, source: &Place) -> Place {
        let own = self.installation.place(new);
        let mountpoint = own.mountpoint.with_extension("source");
        Place {
            file: source.file.clone(),
            uuid: source.uuid,
            view: mountpoint.join("disk"),
            mountpoint,
            control: own.control.with_extension("source.sock"),
            log: own.log.with_extension("source.log"),
        }
    }
}

/// Which side failed.
#[derive(Debug)]
pub(super) enum Trouble {
    Source(ImageError),
    Target(io::Error),
    Differs(u64),
}

impl Trouble {
    pub(super) fn told(self, source: &Path, target: &Path) -> Error {
        match self {
            Self::Source(error) => Error::Image { path: source.to_owned(), source: error },
            Self::Target(error) => Error::Io { doing: "write to", path: target.to_owned(), source: error },
            Self::Differs(offset) => Error::Unverified { path: target.to_owned(), offset },
        }
    }
}

/// Opens a view as a source.
pub(super) fn open_view(view: &Path) -> Result<Raw<OpenFile>, Error> {
    let file = File::open(view).and_then(OpenFile::new);
    file.map(Raw::new).map_err(|source| Error::Io { doing: "open", path: view.to_owned(), source })
}

/// Calls `each` with every stretch of the source that may hold data, in order.
pub(super) fn walk(
    source: &mut dyn Source,
    progress: &mut Progress,
    mut each: impl FnMut(&mut dyn Source, u64, &[u8]) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let size = source.size();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < size {
        let mut filled = 0;
        let start = at;
        // Small clusters are gathered into one chunk; zeros in between are part of it.
        let mut data = false;
        while filled < CHUNK && at < size {
            let extent = source.extent(at).map_err(Trouble::Source)?;
            if extent.zero && !data {
                if filled > 0 {
                    break;
                }
                at += extent.length;
                progress.reach(at);
                break;
            }
            let room = CHUNK - filled;
            let length = usize::try_from(extent.length).unwrap_or(usize::MAX).min(room);
            let part = &mut buffer[filled..filled + length];
            if extent.zero {
                part.fill(0);
            } else {
                source.read(at, part).map_err(Trouble::Source)?;
                data = true;
            }
            filled += length;
            at += u64::try_from(length).unwrap_or(u64::MAX);
        }
        if data {
            each(source, start, &buffer[..filled])?;
        }
        progress.reach(at);
    }
    progress.finish();
    Ok(())
}

/// Copies a source into a new, empty view: what is zero there already is left out.
fn copy(source: &mut dyn Source, view: &Path, progress: &mut Progress) -> Result<(), Trouble> {
    let target = OpenOptions::new().write(true).open(view).map_err(Trouble::Target)?;
    walk(source, progress, |_, offset, data| {
        let mut at = offset;
        for grain in data.chunk_by_size() {
            if grain.iter().any(|byte| *byte != 0) {
                target.write_all_at(grain, at).map_err(Trouble::Target)?;
            }
            at += u64::try_from(grain.len()).unwrap_or(u64::MAX);
        }
        Ok(())
    })?;
    target.sync_all().map_err(Trouble::Target)
}

/// Reads both sides again and compares them.
fn verify_same(
    source: &mut dyn Source,
    written: &mut dyn Source,
    progress: &mut Progress,
) -> Result<(), Trouble> {
    let mut other = vec![0; CHUNK];
    walk(source, progress, |_, offset, data| {
        let other = &mut other[..data.len()];
        written.read(offset, other).map_err(Trouble::Source)?;
        match data.iter().zip(other.iter()).position(|(a, b)| a != b) {
            None => Ok(()),
            Some(at) => Err(Trouble::Differs(offset + u64::try_from(at).unwrap_or(0))),
        }
    })
}

trait Grains {
    /// Runs of grains that are all zero, or not: a run of data becomes one write.
    fn chunk_by_size(&self) -> impl Iterator<Item = &[u8]>;
}

impl Grains for [u8] {
    fn chunk_by_size(&self) -> impl Iterator<Item = &[u8]> {
        let zero = |at: usize| self[at..self.len().min(at + GRAIN)].iter().all(|byte| *byte == 0);
        let mut at = 0;
        std::iter::from_fn(move || {
            if at >= self.len() {
                return None;
            }
            let (start, kind) = (at, zero(at));
            while at < self.len() && zero(at) == kind {
                at = self.len().min(at + GRAIN);
            }
            Some(&self[start..at])
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_cover_everything_once_and_only_zeros_are_left_out(
            grains in prop::collection::vec(any::<bool>(), 0..20), odd in 0..GRAIN
        ) {
            let mut data: Vec<u8> = grains.iter().flat_map(|d| vec![u8::from(*d); GRAIN]).collect();
            data.extend(vec![9; odd]);
            let runs: Vec<&[u8]> = data.chunk_by_size().collect();
            prop_assert_eq!(runs.concat(), data.clone());
            prop_assert!(runs.len() <= grains.len() + 1);
        }
    }
}
