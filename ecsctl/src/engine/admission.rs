//! Which operation the state of a volume allows: asked in the transaction that records it, so that it holds when it begins.

use rusqlite::Connection;

use crate::{
    catalog::{disks, servers, snapshots},
    error::Error,
    model::{
        Noun,
        disk::{Disk, DiskAction, DiskStatus},
        plan::Operation,
        server::ServerStatus,
    },
};

/// Refuses the operation, or puts the volume into the state that it has while it is carried out.
pub(super) fn admit(tx: &Connection, disk: &mut Disk, operation: &Operation) -> Result<(), Error> {
    match operation {
        Operation::Create { .. } => {}
        Operation::Export { .. } => demand(disk, DiskAction::Copy)?,
        Operation::Snapshot { name, .. } => {
            demand(disk, DiskAction::Change)?;
            snapshots::refuse_taken(tx, name)?;
        }
        Operation::DeleteSnapshot { id } | Operation::RollBack { id } => {
            demand(disk, DiskAction::Change)?;
            // Somebody may have deleted it since it was found.
            snapshots::by_id(tx, *id)?;
        }
        Operation::Rekey { .. } | Operation::Reencrypt { .. } | Operation::AcceptRollback => {
            demand(disk, DiskAction::Change)?;
        }
        Operation::Flatten { .. } => {
            demand(disk, DiskAction::Change)?;
            disks::begin_flattening(tx, disk.id)?;
        }
        Operation::Extend { size } => {
            demand(disk, DiskAction::Change)?;
            if *size <= disk.size {
                return Err(Error::Shrink { disk: disk.name.clone(), size: disk.size, asked: *size });
            }
        }
        Operation::Attach { server } => {
            refuse_attached(tx, disk)?;
            demand(disk, DiskAction::Attach)?;
            let target = servers::by_id(tx, *server)?.ok_or_else(|| Error::NotFound {
                noun: Noun::Server,
                given: server.to_string(),
                near: None,
            })?;
            if target.status == ServerStatus::Deleting {
                return Err(Error::ServerDeleting { server: target.name });
            }
            disk.status = DiskStatus::Attaching;
            disk.server_id = Some(*server);
        }
        Operation::Detach => {
            if disk.server_id.is_none() {
                return Err(Error::NotAttached { disk: disk.name.clone() });
            }
            demand(disk, DiskAction::Detach)?;
            disk.status = DiskStatus::Detaching;
        }
        Operation::Delete { .. } => {
            refuse_attached(tx, disk)?;
            demand(disk, DiskAction::Delete)?;
            refuse_dependants(tx, disk)?;
            disk.status = DiskStatus::Deleting;
        }
    }
    Ok(())
}

/// Refuses what only a detached disk allows.
pub(super) fn refuse_attached(connection: &Connection, disk: &Disk) -> Result<(), Error> {
    let Some(id) = disk.server_id else { return Ok(()) };
    let server = servers::by_id(connection, id)?.map_or_else(|| id.to_string(), |server| server.name);
    Err(Error::AlreadyAttached { disk: disk.name.clone(), server })
}

/// Refuses to delete what others need: an image with thin disks (I4), a disk with snapshots (D7).
pub(super) fn refuse_dependants(connection: &Connection, disk: &Disk) -> Result<(), Error> {
    let thin = disks::over(connection, disk.id)?;
    let snapshots = snapshots::all(connection, Some(disk.id))?;
    let mut dependants: Vec<String> = thin.iter().map(|name| format!("disk {name}")).collect();
    dependants.extend(snapshots.iter().map(|snapshot| format!("snapshot {}", snapshot.name)));
    if dependants.is_empty() {
        return Ok(());
    }
    Err(Error::HasDependants { kind: disk.kind, name: disk.name.clone(), dependants })
}

fn demand(disk: &Disk, action: DiskAction) -> Result<(), Error> {
    if disk.status.allows(action) {
        return Ok(());
    }
    Err(Error::DiskStatus {
        kind: disk.kind,
        disk: disk.name.clone(),
        status: disk.status,
        action,
        reason: disk.reason.clone(),
    })
}
