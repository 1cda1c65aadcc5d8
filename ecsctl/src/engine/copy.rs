//! Filling a volume from another volume or an image file, through the view: plaintext is in memory only (I3).

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::{
    app::App,
    catalog::{disks, snapshots},
    config::private_dir,
    engine::{Claimed, Facts, steps::io_at},
    error::Error,
    images::{
        ImageError, Source, probe,
        raw::{OpenFile, Raw},
    },
    keys::Release,
    model::{
        Noun,
        disk::Disk,
        plan::{Fill, Operation},
    },
    output::progress::Progress,
    volumes::{Mounting, Place, ToolError},
};

/// How much is read and written at once.
const CHUNK: usize = 1 << 20;
/// The unit in which zeros are left out; a cluster of an exported qcow2.
const GRAIN: usize = 64 << 10;
const GRAIN_BYTES: u64 = GRAIN as u64;

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
                let file = OpenFile::open(path).map_err(|e| failed(e.into()))?;
                let (_, mut source) = probe::open(file, *format).map_err(failed)?;
                let mut progress = Progress::new(self.out, "importing", &title, source.size());
                copy(&mut *source, &place.view, &mut progress)
                    .map_err(|trouble| trouble.told(&Origin::File(path), &place.view))
            }
            Fill::Volume { id, snapshot, .. } => {
                let view = self.open_source(new, *id, *snapshot, facts)?;
                let mut source = open_view(&view)?;
                facts.view = Some(view.clone());
                let mut progress = Progress::new(self.out, "copying", &title, source.size());
                copy(&mut source, &place.view, &mut progress)
                    .map_err(|trouble| trouble.told(&self.origin(facts, &view), &place.view))
            }
        }
    }

    /// Reads both sides again and compares them.
    pub(super) fn verify_copy(
        &self,
        new: &Claimed,
        fill: &Fill,
        place: &Place,
        facts: &Facts,
    ) -> Result<(), Error> {
        let (Fill::Volume { verify: true, .. }, Some(view)) = (fill, &facts.view) else { return Ok(()) };
        let (mut source, mut written) = (open_view(view)?, open_view(&place.view)?);
        let mut progress = Progress::new(self.out, "verifying", &new.disk.name, source.size());
        verify_same(&mut source, &mut written, &mut progress)
            .map_err(|trouble| trouble.told(&self.origin(facts, view), &place.view))
    }

    /// What is copied, as its owner knows it.
    fn origin<'a>(&self, facts: &'a Facts, view: &'a Path) -> Origin<'a> {
        let volume = |source: &'a Claimed| Origin::Volume {
            volume: &source.disk,
            file: self.installation.place(source.disk.id).file,
        };
        facts.source.as_ref().map_or(Origin::File(view), volume)
    }

    /// The view of the volume that is copied from: one that is mounted for this only, or, of a volume in use, a snapshot
    /// of this moment. Its ID is that of the new volume, whose operation cleans it up.
    fn open_source(
        &mut self,
        new: &Claimed,
        id: Uuid,
        snapshot: Option<Uuid>,
        facts: &mut Facts,
    ) -> Result<PathBuf, Error> {
        let kind = disks::by_id(self.catalog.read(), id)?.map_or(new.disk.kind, |disk| disk.kind);
        let source = self.claim_volume_id(kind, id, &id.to_string())?;
        let source = &*facts.source.insert(source);
        if let Some(kept) = snapshot {
            // Somebody may have deleted it since it was found; from here on nobody does.
            snapshots::by_id(self.catalog.read(), kept)?;
        }
        let own = self.installation.place(id);
        let failed = |error| Error::Volume {
            kind: source.disk.kind,
            disk: source.disk.name.clone(),
            doing: "copied",
            source: Box::new(error),
        };
        if self.volumes.serving(&own).map_err(failed)?.is_none() {
            let place = self.source_place(new.disk.id, &own);
            io_at("make", &place.mountpoint, private_dir)?;
            self.volumes
                .mount(new.claim(), &place, Mounting { read_only: true, encrypted: source.disk.encrypted })
                .map_err(failed)?;
            return Ok(snapshot.map_or(place.view.clone(), |kept| snapshot_view(&place, kept)));
        }
        if let Some(kept) = snapshot {
            return Ok(snapshot_view(&own, kept));
        }
        let name = format!("copy to {}", new.disk.id);
        let taken = self.volumes.snapshot(&source.claim, &own.file, &name, new.disk.id);
        // One that was refused was not taken; one that failed may have been.
        facts.snapshot = Some(!taken.as_ref().is_err_and(ToolError::is_untouched));
        taken.map_err(failed)?;
        Ok(snapshot_view(&own, new.disk.id))
    }

    /// Unmounts what was mounted to be copied from, and deletes the snapshot that was taken for it.
    pub(super) fn release_source(
        &mut self,
        new: &Claimed,
        operation: &Operation,
        facts: &mut Facts,
    ) -> Result<(), Error> {
        let id = new.disk.id;
        let place = self.source_place(id, &self.installation.place(id));
        let failed = |disk: &Disk, error| Error::Volume {
            kind: disk.kind,
            disk: disk.name.clone(),
            doing: "copied",
            source: Box::<ToolError>::new(error),
        };
        self.volumes.unmount(&new.claim, &place).map_err(|error| failed(&new.disk, error))?;
        for (path, dir) in [(&place.control, false), (&place.log, false), (&place.mountpoint, true)] {
            let removed = if dir { fs::remove_dir(path) } else { fs::remove_file(path) };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Io { doing: "remove", path: path.clone(), source: error });
                }
                _ => {}
            }
        }
        let source = facts.source.take();
        let source = match (facts.snapshot, operation) {
            (Some(false), _) => None,
            (Some(true), _) if source.is_some() => source,
            // What was cut short may have taken one.
            (_, Operation::Create { fill: Some(Fill::Volume { id, snapshot: None, .. }), .. }) => {
                match disks::by_id(self.catalog.read(), *id)? {
                    Some(disk) if disk.kind == Noun::Disk => {
                        Some(self.claim_volume_id(disk.kind, disk.id, &disk.name)?)
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        if let Some(source) = source {
            let file = self.installation.place(source.disk.id).file;
            self.volumes
                .delete_snapshot(&source.claim, &file, id)
                .map_err(|error| failed(&source.disk, error))?;
            facts.snapshot = Some(false);
        }
        Ok(())
    }

    /// Has the key service record what is about to leave encryption, before a byte of it is written. When it cannot, nothing is.
    pub(super) fn release_plaintext(&self, written: &Disk, operation: &Operation) -> Result<(), Error> {
        let (source, to) = match operation {
            Operation::Create { fill: Some(Fill::Volume { id, .. }), .. } if !written.encrypted => {
                let source = disks::by_id(self.catalog.read(), *id)?;
                (source, format!("{} {}, {}", written.kind, written.name, written.id))
            }
            Operation::Export { path, .. } => (Some(written.clone()), path.display().to_string()),
            _ => return Ok(()),
        };
        let Some(source) = source.filter(|source| source.encrypted) else { return Ok(()) };
        let failed =
            |source| Error::Release { name: written.name.clone(), to: to.clone(), source: Box::new(source) };
        let key_id = source.key_id.as_deref().unwrap_or_default();
        let sentence = format!("{} {} to {to}", source.kind, source.name);
        let image = source.kind == Noun::Image;
        self.keys
            .release_plaintext(&Release { key_id, volume: source.id, image, to: &sentence })
            .map_err(failed)
    }

    /// Where a source is mounted that fills the volume `new`: named by the new volume, whose operation cleans it up.
    pub(super) fn source_place(&self, new: Uuid, source: &Place) -> Place {
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

/// Where evsfs shows a snapshot: beside the disk.
fn snapshot_view(place: &Place, snapshot: Uuid) -> PathBuf {
    place.mountpoint.join(format!("snapshot-{snapshot}"))
}

/// What is read from, as messages call it.
#[derive(Debug)]
pub(super) enum Origin<'a> {
    /// A file of the user's.
    File(&'a Path),
    /// A volume, seen through its view.
    Volume {
        /// Which.
        volume: &'a Disk,
        /// Its file.
        file: PathBuf,
    },
}

/// Which side failed.
#[derive(Debug)]
pub(super) enum Trouble {
    Source(ImageError),
    Target(io::Error),
    /// What was written cannot be read again.
    Written(ImageError),
    Differs(u64),
}

impl Trouble {
    pub(super) fn told(self, from: &Origin<'_>, target: &Path) -> Error {
        match (self, from) {
            (Self::Source(source), Origin::File(path)) => Error::Image { path: (*path).to_owned(), source },
            (Self::Source(ImageError::Io(source)), Origin::Volume { volume, file }) => {
                Error::Unreadable { kind: volume.kind, name: volume.name.clone(), file: file.clone(), source }
            }
            (Self::Source(source), Origin::Volume { file, .. }) => {
                Error::Image { path: file.clone(), source }
            }
            (Self::Target(source), _) => Error::Io { doing: "write to", path: target.to_owned(), source },
            (Self::Written(ImageError::Io(source)), _) => {
                Error::Io { doing: "read again", path: target.to_owned(), source }
            }
            (Self::Written(source), _) => Error::Image { path: target.to_owned(), source },
            (Self::Differs(offset), _) => Error::Unverified { path: target.to_owned(), offset },
        }
    }
}

/// Opens a view as a source.
pub(super) fn open_view(view: &Path) -> Result<Raw<OpenFile>, Error> {
    let file = File::open(view).and_then(OpenFile::new);
    file.map(Raw::new).map_err(|source| Error::Io { doing: "open", path: view.to_owned(), source })
}

/// Calls `each` with every stretch of the source that may hold data, in order. Each begins at a multiple of the grain.
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
            if extent.zero && filled == 0 {
                // Only whole grains are left out, so that each stretch begins at one.
                let end = at.saturating_add(extent.length).min(size);
                let end = if end == size { end } else { end - end % GRAIN_BYTES };
                if end > at {
                    at = end;
                    progress.reach(at);
                    break;
                }
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

/// Reads both sides again and compares them, also where the source has nothing: there the copy has nothing either, or zeros. What lies in the
/// copy is told by its map, so that holes are not read.
fn verify_same(
    source: &mut dyn Source,
    written: &mut dyn Source,
    progress: &mut Progress,
) -> Result<(), Trouble> {
    let mut other = vec![0; CHUNK];
    let mut compared = 0;
    walk(source, progress, |_, offset, data| {
        expect_zeros(written, compared, offset, &mut other)?;
        let other = &mut other[..data.len()];
        written.read(offset, other).map_err(Trouble::Written)?;
        compared = offset + u64::try_from(data.len()).unwrap_or(u64::MAX);
        match data.iter().zip(other.iter()).position(|(a, b)| a != b) {
            None => Ok(()),
            Some(at) => Err(Trouble::Differs(offset + u64::try_from(at).unwrap_or(0))),
        }
    })?;
    let end = written.size();
    expect_zeros(written, compared, end, &mut other)
}

/// Demands that all between `from` and `to` is zero.
fn expect_zeros(written: &mut dyn Source, from: u64, to: u64, buffer: &mut [u8]) -> Result<(), Trouble> {
    let mut at = from;
    while at < to {
        let extent = written.extent(at).map_err(Trouble::Written)?;
        let mut left = extent.length.min(to - at);
        if extent.zero {
            at += left;
            continue;
        }
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let part = &mut buffer[..length];
            written.read(at, part).map_err(Trouble::Written)?;
            if let Some(stray) = part.iter().position(|byte| *byte != 0) {
                return Err(Trouble::Differs(at + u64::try_from(stray).unwrap_or(0)));
            }
            let length = u64::try_from(length).unwrap_or(u64::MAX);
            (at, left) = (at + length, left - length);
        }
    }
    Ok(())
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

    /// Extents of 512 bytes to 200 KiB, every other one a hole.
    struct Patchy {
        ends: Vec<u64>,
        contents: Vec<u8>,
    }

    impl Patchy {
        fn new(lengths: &[u64]) -> Self {
            let (mut ends, mut contents) = (Vec::new(), Vec::new());
            for (n, sectors) in lengths.iter().enumerate() {
                let byte = if n % 2 == 0 { 0 } else { n.to_le_bytes()[0] | 1 };
                contents.resize(contents.len() + usize::try_from(sectors * 512).unwrap(), byte);
                ends.push(contents.len() as u64);
            }
            Self { ends, contents }
        }
    }

    impl Source for Patchy {
        fn size(&self) -> u64 {
            self.contents.len() as u64
        }

        fn extent(&mut self, offset: u64) -> Result<crate::images::Extent, ImageError> {
            let n = self.ends.partition_point(|end| *end <= offset);
            Ok(crate::images::Extent { zero: n % 2 == 0, length: self.ends[n] - offset })
        }

        fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ImageError> {
            let from = usize::try_from(offset).unwrap();
            into.copy_from_slice(&self.contents[from..from + into.len()]);
            Ok(())
        }
    }

    fn quiet(size: u64) -> Progress {
        let out = crate::output::Output { format: crate::output::Format::Json, quiet: true };
        Progress::new(out, "verifying", "it", size)
    }

    /// Nothing but a hole that nobody could read to its end.
    struct Hollow;

    impl Source for Hollow {
        fn size(&self) -> u64 {
            1 << 62
        }

        fn extent(&mut self, offset: u64) -> Result<crate::images::Extent, ImageError> {
            Ok(crate::images::Extent { zero: true, length: self.size() - offset })
        }

        fn read(&mut self, _: u64, _: &mut [u8]) -> Result<(), ImageError> {
            panic!("a hole is not read")
        }
    }

    #[test]
    fn d5_holes_are_compared_by_the_map() {
        assert!(verify_same(&mut Hollow, &mut Hollow, &mut quiet(1 << 62)).is_ok());
    }

    proptest! {
        #[test]
        fn d5_a_stray_byte_in_a_copy_is_found_wherever_the_source_has_nothing(
            lengths in prop::collection::vec(1..400_u64, 1..20), at in any::<prop::sample::Index>(), longer in 0..9000_usize
        ) {
            let mut source = Patchy::new(&lengths);
            let mut contents = source.contents.clone();
            contents.resize(contents.len() + longer, 0);
            // The copy's map says that all of it is data.
            let mut written = Patchy { ends: vec![0, contents.len() as u64], contents };
            prop_assert!(verify_same(&mut source, &mut written, &mut quiet(0)).is_ok());
            let at = at.index(written.contents.len());
            written.contents[at] ^= 1;
            let found = verify_same(&mut source, &mut written, &mut quiet(0));
            prop_assert!(matches!(found, Err(Trouble::Differs(offset)) if offset == at as u64), "{:?}", found);
        }

        #[test]
        fn i1_every_stretch_begins_at_a_grain_and_nothing_is_lost_between_them(
            lengths in prop::collection::vec(1..400_u64, 1..40)
        ) {
            let mut source = Patchy::new(&lengths);
            let expected = source.contents.clone();
            let mut progress = quiet(source.size());
            let mut seen = vec![0; expected.len()];
            let mut starts = Vec::new();
            walk(&mut source, &mut progress, |_, offset, data| {
                starts.push(offset);
                let from = usize::try_from(offset).unwrap();
                seen[from..from + data.len()].copy_from_slice(data);
                Ok(())
            })
            .unwrap();
            prop_assert!(starts.iter().all(|start| start % GRAIN_BYTES == 0), "{:?}", starts);
            prop_assert!(seen == expected);
        }

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
