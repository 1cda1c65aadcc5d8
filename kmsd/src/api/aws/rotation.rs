//! Rotation (K5).

use serde::{Deserialize, Serialize};

use super::{
    Call, Fault,
    keys::{OneKey, page, paginate, seconds},
};
use crate::{
    domain::{
        KeyState, Refusal,
        rotation::{Cause, DEFAULT_INTERVAL_DAYS},
    },
    service::{KeyView, ServiceError},
};

/// Published range of the period, narrower than the service's own.
const PERIOD: std::ops::RangeInclusive<u16> = 90..=2560;
/// Rotations on a page if the request does not say.
const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EnableKeyRotation {
    key_id: String,
    rotation_period_in_days: Option<u16>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RotationStatus {
    key_id: String,
    key_rotation_enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_period_in_days: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_rotation_date: Option<f64>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Rotated {
    key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListKeyRotations {
    key_id: String,
    include_key_material: Option<String>,
    limit: Option<usize>,
    marker: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedRotations {
    rotations: Vec<Rotation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Rotation {
    key_id: String,
    rotation_date: f64,
    rotation_type: &'static str,
    #[serde(skip)]
    version: u32,
}

/// Turning on what is on is no error in this protocol; a period that is given then takes the place of the old one.
pub(super) async fn enable(call: &Call<'_>, request: EnableKeyRotation) -> Result<(), Fault> {
    let key = call.key_id(&request.key_id)?;
    let days = request.rotation_period_in_days;
    if days.is_some_and(|days| !PERIOD.contains(&days)) {
        return Err(Fault::Validation { name: "RotationPeriodInDays", expected: "90 to 2560" });
    }
    let on = call.service.enable_rotation(call.caller, &key, days.unwrap_or(DEFAULT_INTERVAL_DAYS)).await;
    match (on, days) {
        (Ok(_), _) => Ok(()),
        (Err(ServiceError::Refused(Refusal::RotationEnabled { .. })), None) => Ok(()),
        (Err(ServiceError::Refused(Refusal::RotationEnabled { .. })), Some(days)) => {
            call.service.set_rotation_interval(call.caller, &key, days).await?;
            Ok(())
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// Nor is turning off what is off.
pub(super) async fn disable(call: &Call<'_>, request: &OneKey) -> Result<(), Fault> {
    let key = call.key_id(&request.key_id)?;
    match call.service.disable_rotation(call.caller, &key).await {
        Ok(_) | Err(ServiceError::Refused(Refusal::RotationNotEnabled { .. })) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// While a key waits for its deletion its rotation is published as off; it is as it was when that is cancelled.
pub(super) async fn status(call: &Call<'_>, request: &OneKey) -> Result<RotationStatus, Fault> {
    let KeyView { key, next_rotation, .. } =
        call.service.describe_key(call.caller, &call.key_id(&request.key_id)?).await?;
    let rotation = key.rotation.filter(|_| key.state != KeyState::PendingDeletion);
    Ok(RotationStatus {
        key_id: call.names.key(key.id),
        key_rotation_enabled: rotation.is_some(),
        rotation_period_in_days: rotation.map(|schedule| schedule.interval_days),
        next_rotation_date: next_rotation.filter(|_| rotation.is_some()).map(seconds),
    })
}

pub(super) async fn rotate(call: &Call<'_>, request: &OneKey) -> Result<Rotated, Fault> {
    let view = call.service.rotate_key(call.caller, &call.key_id(&request.key_id)?).await?;
    Ok(Rotated { key_id: call.names.key(view.key.id) })
}

/// Completed rotations, the latest first.
pub(super) async fn list(call: &Call<'_>, request: ListKeyRotations) -> Result<ListedRotations, Fault> {
    if request.include_key_material.is_some_and(|which| which != "ROTATIONS_ONLY") {
        return Err(Fault::Unsupported { what: "an IncludeKeyMaterial other than ROTATIONS_ONLY" });
    }
    let limit = page(request.limit, DEFAULT_PAGE, MAX_PAGE)?;
    let view = call.service.describe_key(call.caller, &call.key_id(&request.key_id)?).await?;
    let mut all: Vec<Rotation> = view
        .key
        .rotations()
        .map(|version| Rotation {
            key_id: call.names.key(view.key.id),
            rotation_date: seconds(version.created_at),
            rotation_type: match version.cause {
                Cause::Interval => "AUTOMATIC",
                Cause::Creation | Cause::Demand => "ON_DEMAND",
            },
            version: version.version.number(),
        })
        .collect();
    all.reverse();
    let marker = request.marker.as_deref();
    let (rotations, next_marker) = paginate(&all, marker, limit, |rotation| rotation.version.to_string())?;
    Ok(ListedRotations { rotations: rotations.to_vec(), truncated: next_marker.is_some(), next_marker })
}
