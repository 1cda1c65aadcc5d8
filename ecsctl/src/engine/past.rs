//! Going on with a volume file that is older than the key service knows: what that costs, and the catalogue afterwards (F3).

use serde_json::{Value, json};

use crate::{
    app::App,
    catalog::{disks, snapshots},
    engine::Claimed,
    error::Error,
    model::{disk::Disk, size},
    volumes::{Failure, Gap, ToolError},
};

/// What going on with an older file means, as far as the catalogue and the file tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    gap: Gap,
    /// Names of the snapshots that are not in the file.
    lost: Vec<String>,
    /// Names of those that are in it and were deleted since.
    returning: Vec<String>,
    /// The size that the disk has, and the one that it would have, bytes.
    sizes: (u64, u64),
    /// The key that the disk is under, and the one that it would be under.
    keys: (String, String),
    /// The image that it would need again.
    image: Option<String>,
}

impl Loss {
    /// How the file stands to what is known of the volume.
    pub(crate) fn standing(&self) -> String {
        let Gap { found, newest } = self.gap;
        if found < newest {
            return format!(
                "its file holds commit {found}, older than commit {newest} that the key service knows: an old copy was put back"
            );
        }
        format!(
            "its file holds commit {found}, which does not descend from commit {newest} that the key service knows: \
             another copy of it was written to"
        )
    }

    /// What would be other than it is, in words.
    pub(crate) fn consequences(&self) -> String {
        let since = if self.gap.found < self.gap.newest { self.gap.found } else { self.gap.newest };
        let mut parts = vec![format!("what was written after commit {since} would be lost")];
        for (names, what) in [(&self.lost, "would be lost"), (&self.returning, "would be there again")] {
            match names.as_slice() {
                [] => {}
                [one] => parts.push(format!("snapshot {one} {what}")),
                many => parts.push(format!("snapshots {} {what}", many.join(", "))),
            }
        }
        if self.sizes.0 != self.sizes.1 {
            let (now, then) = (size::human(self.sizes.0), size::human(self.sizes.1));
            parts.push(format!("its size would be {then}, not {now}"));
        }
        if self.keys.0 != self.keys.1 {
            parts.push(format!("its key would be {}, not {}", self.keys.1, self.keys.0));
        }
        if let Some(image) = &self.image {
            parts.push(format!("it would need image {image} again"));
        }
        parts.join("; ")
    }

    /// What a user is asked before it is accepted.
    pub(crate) fn question(&self, disk: &str) -> String {
        let Gap { found, newest } = self.gap;
        let consequences = self.consequences();
        format!(
            "Disk {disk} goes on from commit {found}, in place of commit {newest}: {consequences}. Go on?"
        )
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "found": self.gap.found,
            "newest": self.gap.newest,
            "snapshots_lost": self.lost,
            "snapshots_returning": self.returning,
            "size": self.sizes.1,
            "key": self.keys.1,
            "image": self.image,
        })
    }
}

impl App {
    /// What going on with a detached disk's file would cost; none if it is not older than the key service knows.
    ///
    /// # Errors
    /// When the file cannot be opened with the keys that it needs, those of its own past.
    pub(crate) fn loss(&self, disk: &Disk) -> Result<Option<Loss>, Error> {
        let place = self.installation.place(disk.id);
        let failed = |source| Error::Volume {
            kind: disk.kind,
            disk: disk.name.clone(),
            doing: "opened",
            source: Box::new(source),
        };
        let header = self.volumes.inspect(&place.file, false).map_err(failed)?;
        let image = match header.base {
            Some(base) => {
                let missing = || Error::BaseMissing { disk: disk.name.clone(), base };
                Some(disks::by_id(self.catalog.read(), base)?.ok_or_else(missing)?)
            }
            None => None,
        };
        let then = Disk { key_id: header.key_id.clone(), base: header.base, ..disk.clone() };
        self.require_key(&then, "attached")?;
        let past = self.volumes.past(&place, disk.encrypted).map_err(failed)?;
        let Some(gap) = past.gap else { return Ok(None) };
        let known = snapshots::all(self.catalog.read(), Some(disk.id))?;
        let key = |id: Option<&String>| match id {
            Some(id) => self.keys.describe(id).map_or_else(|_| id.clone(), |key| key.alias),
            None => String::new(),
        };
        Ok(Some(Loss {
            gap,
            lost: known
                .iter()
                .filter(|snapshot| past.snapshots.iter().all(|kept| kept.id != snapshot.id))
                .map(|snapshot| snapshot.name.clone())
                .collect(),
            returning: past
                .snapshots
                .iter()
                .filter(|kept| known.iter().all(|snapshot| snapshot.id != kept.id))
                .map(|kept| kept.name.clone())
                .collect(),
            sizes: (disk.size, past.size),
            keys: (key(disk.key_id.as_ref()), key(header.key_id.as_ref())),
            image: image.filter(|_| disk.base.is_none()).map(|image| image.name),
        }))
    }

    /// Says of a disk that could not be attached to a server what is the matter with its file, if it is older than the key service knows. Any
    /// other error stays as it is.
    pub(crate) fn explain_past(&self, disk: &Disk, server: &str, error: Error) -> Error {
        let is_past = matches!(&error, Error::Volume { source, .. }
            if matches!(&**source, ToolError::Failed { code, .. } if code == "rolled_back" || code == "forked"));
        if !is_past {
            return error;
        }
        match self.loss(disk) {
            Ok(Some(loss)) => Error::RolledBack {
                disk: disk.name.clone(),
                server: server.to_owned(),
                file: self.installation.place(disk.id).file,
                loss: Box::new(loss),
            },
            _ => error,
        }
    }

    /// Brings the catalogue to what the volume holds. Before an older file is accepted, nothing is noted of it.
    pub(super) fn note_past(&mut self, claimed: &mut Claimed) -> Result<(), Error> {
        let disk = &mut claimed.disk;
        let place = self.installation.place(disk.id);
        let (kind, name) = (disk.kind, disk.name.clone());
        let failed =
            |source| Error::Volume { kind, disk: name.clone(), doing: "looked at", source: Box::new(source) };
        let past = match self.volumes.past(&place, disk.encrypted) {
            Ok(past) if past.gap.is_none() => past,
            Ok(_) => return Ok(()),
            // Whether it was accepted is not known yet.
            Err(error @ ToolError::Failed { class: Failure::Unreachable, .. }) => return Err(failed(error)),
            // A file that cannot be used says so whenever it is opened; that must not keep the disk from being deleted.
            Err(error @ ToolError::Failed { .. }) => {
                self.warn(
                    format!(
                        "{kind} {name}: the catalogue could not be brought to what its file holds: {error}"
                    ),
                    format!("ecsctl {kind} show {name}"),
                );
                return Ok(());
            }
            Err(error) => return Err(failed(error)),
        };
        let header = self.volumes.inspect(&place.file, false).map_err(failed)?;
        if header.key_id != disk.key_id {
            disk.key_alias = header.key_id.as_ref().and_then(|key| Some(self.keys.describe(key).ok()?.alias));
            disk.key_id = header.key_id;
        }
        (disk.size, disk.base) = (past.size, header.base);
        let (disk, now) = (&*disk, &self.now);
        self.catalog.write(|tx| {
            disks::update(tx, disk)?;
            match disk.base {
                Some(base) => disks::set_base(tx, disk.id, base)?,
                None => disks::forget_base(tx, disk.id)?,
            }
            let known = snapshots::all(tx, Some(disk.id))?;
            for gone in known.iter().filter(|known| past.snapshots.iter().all(|kept| kept.id != known.id)) {
                snapshots::remove(tx, gone.id)?;
            }
            for kept in past.snapshots.iter().filter(|kept| known.iter().all(|known| known.id != kept.id)) {
                snapshots::bring_back(tx, kept.of_disk(disk.id, now))?;
            }
            Ok(())
        })
    }
}
