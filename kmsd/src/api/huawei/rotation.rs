//! `enable-key-rotation`, `disable-key-rotation`, `update-key-rotation-interval`, `get-key-rotation-status`, `rotate-on-demand` (K5).

use super::key;
use crate::{
    api::{
        answer::{self, Reply},
        dispatch::parse,
    },
    domain::{Caller, Refusal, rotation::DEFAULT_INTERVAL_DAYS},
    service::{KeyView, Service, ServiceError},
    wire::{
        huawei::KeyRequest,
        rotation::{Done, RotatedReply, RotationIntervalRequest, RotationStatusReply},
    },
};

/// Published range of the interval, narrower than the service's own.
const INTERVAL: std::ops::RangeInclusive<u16> = 30..=365;

/// Answers the verb if it is one of these.
pub(super) async fn answer(
    service: &Service,
    caller: &Caller,
    verb: &str,
    body: &[u8],
) -> Option<Result<Reply, ServiceError>> {
    Some(match verb {
        "enable-key-rotation" => enable(service, caller, body).await,
        "disable-key-rotation" => disable(service, caller, body).await,
        "update-key-rotation-interval" => set_interval(service, caller, body).await,
        "get-key-rotation-status" => status(service, caller, body).await,
        "rotate-on-demand" => rotate(service, caller, body).await,
        _ => return None,
    })
}

async fn enable(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let KeyRequest { key_id } = parse(body)?;
    service.enable_rotation(caller, &key(&key_id)?, DEFAULT_INTERVAL_DAYS).await?;
    Ok(answer::ok(&Done {}))
}

async fn disable(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let KeyRequest { key_id } = parse(body)?;
    service.disable_rotation(caller, &key(&key_id)?).await?;
    Ok(answer::ok(&Done {}))
}

async fn set_interval(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let RotationIntervalRequest { key_id, rotation_interval: days } = parse(body)?;
    let key = key(&key_id)?;
    if !INTERVAL.contains(&days) {
        return Err(Refusal::RotationInterval { days }.into());
    }
    service.set_rotation_interval(caller, &key, days).await?;
    Ok(answer::ok(&Done {}))
}

async fn status(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let KeyRequest { key_id } = parse(body)?;
    let KeyView { key, next_rotation, .. } = service.describe_key(caller, &key(&key_id)?).await?;
    let last = key.rotations().last().map(|version| version.created_at.0.to_string());
    Ok(answer::ok(&RotationStatusReply {
        key_rotation_enabled: key.rotation.is_some(),
        rotation_interval: key.rotation.map_or(DEFAULT_INTERVAL_DAYS, |schedule| schedule.interval_days),
        last_rotation_time: last.unwrap_or_default(),
        number_of_rotations: key.rotations().count(),
        next_rotation_time: next_rotation.map(|time| time.0.to_string()),
    }))
}

async fn rotate(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let KeyRequest { key_id } = parse(body)?;
    let view = service.rotate_key(caller, &key(&key_id)?).await?;
    Ok(answer::ok(&RotatedReply { key_id: view.key.id.to_string() }))
}
