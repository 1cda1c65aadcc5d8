//! What can be done with an open volume beside reading and writing it, attached or not.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::control::{ControlError, Request};
use crate::engine::{SnapshotInfo, TaskStatus, Volume};
use crate::failure::Failure;
use crate::keys::KeyService;
use crate::{flatten, rekey};

/// Carries out a request that needs nothing but the volume.
///
/// # Errors
/// If the volume refuses, or the request is none for a volume.
pub fn operate(volume: &Volume, request: &Request) -> Result<Value, Failure> {
    match request {
        Request::Snapshot { name, id } => {
            let id = id.unwrap_or_else(Uuid::new_v4);
            // A clock before 1970 is no reason to fail: the time is for people.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
            Ok(describe(&volume.snapshot(name, id, now)?))
        }
        Request::Snapshots {} => {
            let all: Vec<Value> = volume.snapshots().iter().map(describe).collect();
            Ok(json!({"snapshots": all}))
        }
        Request::SnapshotDelete { id } => {
            volume.delete_snapshot(*id)?;
            Ok(json!({"id": id}))
        }
        Request::Rollback { id } => {
            volume.rollback(*id)?;
            Ok(json!({"id": id}))
        }
        Request::Extend { size } => {
            volume.extend(*size)?;
            Ok(json!({"size": volume.size()}))
        }
        Request::Rekey { key } => rekey::rewrap(volume, &KeyService::for_changes(), key.as_deref()),
        Request::Reencrypt { rate } => rekey::reencrypt(volume, &KeyService::for_changes(), *rate),
        Request::Flatten { rate } => Ok(flatten::flatten(volume, *rate)?),
        Request::Status {} | Request::Flush {} | Request::Detach {} => {
            Err(ControlError::Unsupported { operation: request.operation() }.into())
        }
    }
}

/// How far a re-encryption or a flatten is.
#[must_use]
pub fn progress(status: &TaskStatus) -> Value {
    let (position, size) = (u128::from(status.position), u128::from(status.size));
    json!({
        "phase": status.phase,
        "position": status.position,
        "size": status.size,
        "percent": (position * 100).checked_div(size).unwrap_or(100),
        "bytes_sealed": status.sealed,
        "rate": status.rate,
        "stopped": status.stopped,
    })
}

fn describe(snapshot: &SnapshotInfo) -> Value {
    json!({"id": snapshot.id, "name": snapshot.name, "size": snapshot.size, "created": snapshot.created})
}
