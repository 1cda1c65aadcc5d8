//! Re-key: the data key of an open volume wrapped anew, or another data key for all of it (F9, D8).
//!
//! The key service wraps it; its plaintext is in this process anyway, and what comes back must open to it before the old form is
//! overwritten: a volume is never left with a key that nobody can open.

use kmsd::WrappedDek;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::crypto::{Backend, Dek, Suite, VolumeKeys};
use crate::engine::{Volume, VolumeError};
use crate::failure::Failure;
use crate::format::{Header, NextKey, Text, VolumeKind, WrappedDekField};
use crate::keys::KeyService;
use crate::operations::progress;

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

/// Wraps the data key under the newest version of `key`, or of the master key that it has; while a re-encryption runs, both data keys. Takes the
/// same time for every size.
///
/// # Errors
/// If the volume is not encrypted, the key service refuses or is away, or the header cannot be written.
pub fn rewrap(volume: &Volume, service: &KeyService, key: Option<&str>) -> Result<Value, Failure> {
    // A re-encryption that ends in between changes the header, too.
    loop {
        match rewrap_once(volume, service, key) {
            Err(Failure::Volume(VolumeError::HeaderChanged { .. })) => {}
            other => return other,
        }
    }
}

fn rewrap_once(volume: &Volume, service: &KeyService, key: Option<&str>) -> Result<Value, Failure> {
    let header = volume.header();
    check(&header)?;
    if header.kind == VolumeKind::Image && key.is_some() {
        return Err(RekeyError::Image { volume: header.uuid }.into());
    }
    let key = key.unwrap_or(header.cmk_id.as_str());
    let next = match &header.next {
        None => None,
        Some(next) => {
            let (wrapped_dek, ..) =
                wrap(service, &header, &next.wrapped_dek, key, |dek| volume.has_next_key(dek))?;
            Some(NextKey { wrapped_dek, ..next.clone() })
        }
    };
    let (wrapped_dek, cmk_id, cmk_version) =
        wrap(service, &header, &header.wrapped_dek, key, |dek| volume.has_key(dek))?;
    let new = Header { cmk_id, cmk_version, wrapped_dek, next, ..header };
    volume.rewrite_header(&new)?;
    Ok(json!({"uuid": new.uuid, "key_id": new.cmk_id.as_str(), "key_version": cmk_version}))
}

/// Begins to re-encrypt the volume under a new data key, or lets a re-encryption that is under way go on, at `rate` bytes in a second (0: no
/// limit; none: as before). The new key is wrapped by the master key that the volume has, in its newest version, as the old one is then.
///
/// # Errors
/// As [`rewrap`]; also if the volume is an image.
pub fn reencrypt(volume: &Volume, service: &KeyService, rate: Option<u64>) -> Result<Value, Failure> {
    let header = volume.header();
    check(&header)?;
    if header.kind == VolumeKind::Image {
        return Err(RekeyError::Image { volume: header.uuid }.into());
    }
    if header.next.is_none() {
        rewrap(volume, service, None)?;
        let new = service.create(header.cmk_id.as_str(), header.uuid, header.kind)?;
        let opened = service.unwrap(&new.wrapped, header.uuid, header.kind)?;
        let keys = VolumeKeys::new(new.dek, header.uuid, Backend::AwsLc);
        if !keys.are_of(&opened) {
            return Err(RekeyError::WrappedAnother { volume: header.uuid }.into());
        }
        volume.start_reencryption(keys, field(&new.wrapped), rate.unwrap_or(0))?;
    } else {
        if let Some(rate) = rate {
            volume.set_task_rate(rate);
        }
        volume.resume_task()?;
    }
    Ok(describe(volume))
}

/// What is known of a running re-encryption, in the field `re_encryption`; null if there is none.
#[must_use]
pub fn describe(volume: &Volume) -> Value {
    let running = volume.reencryption().map(|status| progress(&status));
    json!({"uuid": volume.header().uuid, "re_encryption": running})
}

const fn check(header: &Header) -> Result<(), RekeyError> {
    match header.suite {
        Suite::Plain => Err(RekeyError::NotEncrypted { volume: header.uuid }),
        Suite::Aes256Gcm => Ok(()),
    }
}

fn wrap(
    service: &KeyService,
    header: &Header,
    old: &WrappedDekField,
    key: &str,
    is_right: impl Fn(&Dek) -> bool,
) -> Result<(WrappedDekField, Text<64>, u32), Failure> {
    let new = service.rewrap(old.as_bytes(), header.uuid, header.kind, key)?;
    let opened = service.unwrap(&new.wrapped, header.uuid, header.kind)?;
    if !is_right(&opened) {
        return Err(RekeyError::WrappedAnother { volume: header.uuid }.into());
    }
    let key_id = Text::new(&new.key_id).expect("a key id has 36 characters");
    Ok((field(&new.wrapped), key_id, new.wrapped.key_version().unwrap_or(0)))
}

fn field(wrapped: &WrappedDek) -> WrappedDekField {
    WrappedDekField::new(wrapped.as_bytes().to_vec()).expect("kmsd's are at most 512 bytes")
}
