//! Flatten: an open thin volume takes over what it reads from its base, until it needs it no more.

use serde_json::{Value, json};

use crate::engine::{Volume, VolumeError};
use crate::operations::progress;

/// Begins to copy what the volume reads from its base, or lets that go on, at `rate` bytes in a second (0: no limit; none: as before). One
/// that was flattened stays as it is.
///
/// # Errors
/// If the volume never was thin, or a re-encryption is running.
pub fn flatten(volume: &Volume, rate: Option<u64>) -> Result<Value, VolumeError> {
    if !volume.header().base_copied {
        volume.start_flatten(rate)?;
    }
    Ok(describe(volume))
}

/// What is known of a running flatten, in the field `flatten`, null if there is none; and the base that is still needed.
#[must_use]
pub fn describe(volume: &Volume) -> Value {
    let header = volume.header();
    let running = volume.flatten().map(|status| progress(&status));
    json!({"uuid": header.uuid, "flatten": running, "base": header.base.map(|base| base.uuid)})
}
