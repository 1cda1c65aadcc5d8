//! Brings volumes whose files lie in the installation back into the catalogue, by what their headers say.
//!
//! A header knows everything but names: those are made from the ID. The size is proven with the key, so a volume whose key cannot be
//! used stays out until it can. A volume that the catalogue has is not touched, so this can run again at any time.

use uuid::Uuid;

use crate::{
    app::App,
    catalog::{disks, snapshots},
    doctor::files,
    error::Error,
    model::{
        Noun,
        disk::{Disk, DiskStatus, Role},
        name::recovered,
        time,
    },
    volumes::{Inspected, ToolError},
};

/// How one file fared.
#[derive(Debug)]
pub(crate) enum Rebuilt {
    /// It is in the catalogue now.
    Returned(Box<Disk>),
    /// It stays out.
    Left {
        /// The volume.
        id: Uuid,
        /// Why.
        reason: Error,
    },
}

/// Brings back what can be brought back: images first, because thin disks need them.
///
/// # Errors
/// Those of the catalogue; a volume that cannot be read is [`Rebuilt::Left`].
pub(crate) fn rebuild(app: &mut App) -> Result<Vec<Rebuilt>, Error> {
    let mut results = Vec::new();
    let mut waiting = Vec::new();
    for id in files(app)? {
        if disks::by_id(app.catalog.read(), id)?.is_some() {
            continue;
        }
        let claim = app.claim(Noun::Disk, id, &id.to_string())?;
        match app.volumes.inspect(&app.installation.place(id).file, true) {
            Ok(volume) if volume.uuid == id => waiting.push((claim, volume)),
            Ok(volume) => results.push(Rebuilt::Left {
                id,
                reason: Error::Misplaced { file: app.installation.place(id).file, found: volume.uuid },
            }),
            Err(source) => results.push(Rebuilt::Left { id, reason: unreadable(id, source) }),
        }
    }
    waiting.sort_by_key(|(_, volume)| volume.base.is_some());
    for (_claim, volume) in waiting {
        let id = volume.uuid;
        match insert(app, &volume) {
            Ok(disk) => results.push(Rebuilt::Returned(Box::new(disk))),
            Err(reason @ (Error::Exists { .. } | Error::BaseMissing { .. })) => {
                results.push(Rebuilt::Left { id, reason });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(results)
}

fn unreadable(id: Uuid, source: ToolError) -> Error {
    Error::Volume { kind: Noun::Disk, disk: id.to_string(), doing: "read", source: Box::new(source) }
}

fn insert(app: &mut App, volume: &Inspected) -> Result<Disk, Error> {
    let key_alias = volume.key_id.as_deref().and_then(|key| Some(app.keys.describe(key).ok()?.alias));
    let disk = Disk {
        id: volume.uuid,
        kind: if volume.image { Noun::Image } else { Noun::Disk },
        role: Role::Data,
        made_with: None,
        base: volume.base,
        source: None,
        name: recovered(volume.uuid),
        status: DiskStatus::Available,
        size: volume.size.unwrap_or_default(),
        encrypted: volume.encrypted,
        key_id: volume.key_id.clone(),
        key_alias,
        server_id: None,
        serving: None,
        reason: None,
        created_at: time::of_seconds(volume.created).unwrap_or_else(|| app.now.clone()),
    };
    app.catalog.write(|tx| {
        if let Some(base) = disk.base
            && disks::by_id(tx, base)?.is_none()
        {
            return Err(Error::BaseMissing { disk: disk.name.clone(), base });
        }
        disks::insert(tx, &disk)?;
        for kept in &volume.snapshots {
            snapshots::bring_back(tx, kept.of_disk(disk.id, &app.now))?;
        }
        Ok(())
    })?;
    Ok(disk)
}
