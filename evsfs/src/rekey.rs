//! Re-key: the data key of an open volume wrapped anew (F9, D8).
//!
//! The key service wraps it; its plaintext is in this process anyway, and what comes back must open to it before the old form is
//! overwritten: a volume is never left with a key that nobody can open.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::crypto::Suite;
use crate::engine::Volume;
use crate::failure::Failure;
use crate::format::{Header, Text, VolumeKind, WrappedDekField};
use crate::keys::KeyService;

/// Why a volume is not given another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RekeyError {
    /// There is no data key.
    #[error("volume {volume} is not encrypted: it has no data key")]
    NotEncrypted {
        /// The volume.
        volume: Uuid,
    },
    /// The master key of an image never changes in place (I2).
    #[error("volume {volume} is an image: its key does not change")]
    Image {
        /// The volume.
        volume: Uuid,
    },
    /// What the key service gave back does not open to the volume's data key.
    #[error(
        "volume {volume}: the key service wrapped another key than that of the volume; nothing was changed"
    )]
    WrappedAnother {
        /// The volume.
        volume: Uuid,
    },
}

/// Wraps the data key under the newest version of `key`, or of the master key that it has. Takes the same time for every size.
///
/// # Errors
/// If the volume is not encrypted, the key service refuses or is away, or the header cannot be written.
pub fn rewrap(volume: &Volume, service: &KeyService, key: Option<&str>) -> Result<Value, Failure> {
    let header = volume.header();
    check(&header, key)?;
    let own = header.cmk_id.as_str();
    let key = key.unwrap_or(own);
    let (wrapped_dek, key_id, version) = wrap(volume, service, &header, &header.wrapped_dek, key)?;
    let new = Header { cmk_id: key_id, cmk_version: version, wrapped_dek, ..header };
    volume.rewrite_header(&new)?;
    Ok(json!({"uuid": new.uuid, "key_id": new.cmk_id.as_str(), "key_version": version}))
}

fn check(header: &Header, key: Option<&str>) -> Result<(), RekeyError> {
    let volume = header.uuid;
    match (header.suite, header.kind) {
        (Suite::Plain, _) => Err(RekeyError::NotEncrypted { volume }),
        (Suite::Aes256Gcm, VolumeKind::Image) if key.is_some() => Err(RekeyError::Image { volume }),
        (Suite::Aes256Gcm, _) => Ok(()),
    }
}

fn wrap(
    volume: &Volume,
    service: &KeyService,
    header: &Header,
    old: &WrappedDekField,
    key: &str,
) -> Result<(WrappedDekField, Text<64>, u32), Failure> {
    let new = service.rewrap(old.as_bytes(), header.uuid, header.kind, key)?;
    let opened = service.unwrap(&new.wrapped, header.uuid, header.kind)?;
    if !volume.has_key(&opened) {
        return Err(RekeyError::WrappedAnother { volume: header.uuid }.into());
    }
    let field = WrappedDekField::new(new.wrapped.as_bytes().to_vec()).expect("kmsd's are at most 512 bytes");
    let key_id = Text::new(&new.key_id).expect("a key id has 36 characters");
    Ok((field, key_id, new.wrapped.key_version().unwrap_or(0)))
}
