//! Keys and their states.

use serde::{Deserialize, Serialize};

use super::{
    Call, Fault,
    names::{ACCOUNT, key_ref},
    tags::{Tag, pairs},
};
use crate::{
    domain::{KeyState, Refusal, operation::StateFault, state::Origin, time::WallTime},
    service::{KeyView, NewKey, ServiceError},
};

/// Days before a deletion if the request does not say.
const DEFAULT_WINDOW: u16 = 30;
/// Published range of those days, narrower than the service's own.
const WINDOW: std::ops::RangeInclusive<u16> = 7..=30;
/// Keys on a page if the request does not say.
const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateKey {
    #[serde(default)]
    description: String,
    key_usage: Option<String>,
    key_spec: Option<String>,
    customer_master_key_spec: Option<String>,
    origin: Option<String>,
    policy: Option<String>,
    custom_key_store_id: Option<String>,
    xks_key_id: Option<String>,
    #[serde(default)]
    multi_region: bool,
    #[serde(default)]
    tags: Vec<Tag>,
}

/// Any operation on one key.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OneKey {
    pub(super) key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListKeys {
    limit: Option<usize>,
    marker: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ScheduleKeyDeletion {
    key_id: String,
    pending_window_in_days: Option<u16>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct KeyReply {
    key_metadata: KeyMetadata,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct KeyMetadata {
    #[serde(rename = "AWSAccountId")]
    account: &'static str,
    key_id: String,
    arn: String,
    creation_date: f64,
    enabled: bool,
    description: String,
    key_usage: &'static str,
    key_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion_date: Option<f64>,
    origin: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_model: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_to: Option<f64>,
    key_manager: &'static str,
    customer_master_key_spec: &'static str,
    key_spec: &'static str,
    encryption_algorithms: [&'static str; 1],
    multi_region: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListKeysReply {
    keys: Vec<ListedKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
    truncated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListedKey {
    key_id: String,
    key_arn: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ScheduledReply {
    key_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion_date: Option<f64>,
    key_state: &'static str,
    pending_window_in_days: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CancelledReply {
    key_id: String,
}

pub(super) async fn create(call: &Call<'_>, request: CreateKey) -> Result<KeyReply, Fault> {
    let only = |given: Option<&str>, known: &str, what| match given {
        Some(given) if given != known => Err(Fault::Unsupported { what }),
        _ => Ok(()),
    };
    only(request.key_usage.as_deref(), "ENCRYPT_DECRYPT", "a KeyUsage other than ENCRYPT_DECRYPT")?;
    only(request.key_spec.as_deref(), "SYMMETRIC_DEFAULT", "a KeySpec other than SYMMETRIC_DEFAULT")?;
    only(
        request.customer_master_key_spec.as_deref(),
        "SYMMETRIC_DEFAULT",
        "a KeySpec other than SYMMETRIC_DEFAULT",
    )?;
    let origin = match request.origin.as_deref() {
        None | Some("AWS_KMS") => Origin::Kms,
        Some("EXTERNAL") => Origin::External,
        Some(_) => return Err(Fault::Unsupported { what: "an Origin other than AWS_KMS and EXTERNAL" }),
    };
    let unsupported = [
        (request.multi_region, "MultiRegion"),
        (request.custom_key_store_id.is_some() || request.xks_key_id.is_some(), "a custom key store"),
    ];
    if let Some((_, what)) = unsupported.into_iter().find(|(asked, _)| *asked) {
        return Err(Fault::Unsupported { what });
    }
    let tags = pairs(request.tags);
    let new = NewKey {
        alias: None,
        description: &request.description,
        origin,
        tags: &tags,
        policy: request.policy.as_deref(),
    };
    let view = call.service.create_key(call.caller, new).await?;
    Ok(KeyReply { key_metadata: metadata(call, &view) })
}

pub(super) async fn describe(call: &Call<'_>, request: &OneKey) -> Result<KeyReply, Fault> {
    let view = call.service.describe_key(call.caller, &key_ref(&request.key_id)?).await?;
    Ok(KeyReply { key_metadata: metadata(call, &view) })
}

pub(super) async fn list(call: &Call<'_>, request: &ListKeys) -> Result<ListKeysReply, Fault> {
    let limit = page(request.limit, DEFAULT_PAGE, MAX_PAGE)?;
    let all = call.service.list_keys(call.caller, None).await?;
    let (page, next_marker) =
        paginate(&all, request.marker.as_deref(), limit, |view| view.key.id.to_string())?;
    let keys = page
        .iter()
        .map(|view| ListedKey { key_id: view.key.id.to_string(), key_arn: call.names.key(view.key.id) })
        .collect();
    Ok(ListKeysReply { keys, truncated: next_marker.is_some(), next_marker })
}

/// Enabling an enabled key is no error in this protocol.
pub(super) async fn enable(call: &Call<'_>, request: &OneKey) -> Result<(), Fault> {
    let key = call.key_id(&request.key_id)?;
    unless(call.service.enable_key(call.caller, &key).await, StateFault::NotDisabled)
}

/// Nor is disabling a disabled one.
pub(super) async fn disable(call: &Call<'_>, request: &OneKey) -> Result<(), Fault> {
    let key = call.key_id(&request.key_id)?;
    unless(call.service.disable_key(call.caller, &key).await, StateFault::NotEnabled)
}

pub(super) async fn schedule_deletion(
    call: &Call<'_>,
    request: &ScheduleKeyDeletion,
) -> Result<ScheduledReply, Fault> {
    let days = request.pending_window_in_days.unwrap_or(DEFAULT_WINDOW);
    if !WINDOW.contains(&days) {
        return Err(Fault::Validation { name: "PendingWindowInDays", expected: "7 to 30" });
    }
    let key = call.key_id(&request.key_id)?;
    let view = call.service.schedule_deletion(call.caller, &key, &days.to_string()).await?;
    Ok(ScheduledReply {
        key_id: call.names.key(view.key.id),
        deletion_date: view.deletion_date.map(seconds),
        key_state: state(view.key.state),
        pending_window_in_days: days,
    })
}

pub(super) async fn cancel_deletion(call: &Call<'_>, request: &OneKey) -> Result<CancelledReply, Fault> {
    let key = call.key_id(&request.key_id)?;
    let view = call.service.cancel_deletion(call.caller, &key).await?;
    Ok(CancelledReply { key_id: call.names.key(view.key.id) })
}

/// What the state table refuses as needless counts as done.
fn unless(outcome: Result<KeyView, ServiceError>, needless: StateFault) -> Result<(), Fault> {
    match outcome {
        Ok(_) => Ok(()),
        Err(ServiceError::Refused(Refusal::State { fault, .. })) if fault == needless => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A page of at most `limit` items after the one that `marker` names, and the marker of the next.
pub(super) fn paginate<'a, T>(
    all: &'a [T],
    marker: Option<&str>,
    limit: usize,
    name: impl Fn(&T) -> String,
) -> Result<(&'a [T], Option<String>), Fault> {
    let start = match marker {
        None => 0,
        Some(marker) => all.iter().position(|item| name(item) == marker).ok_or(Fault::InvalidMarker)? + 1,
    };
    Ok(page_from(all, start, limit, name))
}

/// The same of a list that is sorted by name: the item that the marker names may be gone meanwhile, such as when each is deleted as it is listed.
pub(super) fn paginate_sorted<'a, T>(
    all: &'a [T],
    marker: Option<&str>,
    limit: usize,
    name: impl Fn(&T) -> String,
) -> (&'a [T], Option<String>) {
    let start = marker.map_or(0, |marker| all.partition_point(|item| name(item).as_str() <= marker));
    page_from(all, start, limit, name)
}

fn page_from<T>(
    all: &[T],
    start: usize,
    limit: usize,
    name: impl Fn(&T) -> String,
) -> (&[T], Option<String>) {
    let rest = &all[start..];
    let (page, more) = rest.split_at(limit.min(rest.len()));
    let next = if more.is_empty() { None } else { page.last().map(name) };
    (page, next)
}

/// The length of a page.
pub(super) fn page(limit: Option<usize>, default: usize, max: usize) -> Result<usize, Fault> {
    let limit = limit.unwrap_or(default);
    if (1..=max).contains(&limit) {
        return Ok(limit);
    }
    Err(Fault::Validation { name: "Limit", expected: "1 to 100, for ListKeys 1 to 1000" })
}

fn metadata(call: &Call<'_>, view: &KeyView) -> KeyMetadata {
    let key = &view.key;
    KeyMetadata {
        account: ACCOUNT,
        key_id: key.id.to_string(),
        arn: call.names.key(key.id),
        creation_date: seconds(key.created_at),
        enabled: key.state == KeyState::Enabled,
        description: key.description.clone(),
        key_usage: "ENCRYPT_DECRYPT",
        key_state: state(key.state),
        deletion_date: view.deletion_date.map(seconds),
        origin: match key.origin {
            Origin::Kms => "AWS_KMS",
            Origin::External => "EXTERNAL",
        },
        expiration_model: (key.origin == Origin::External && key.current().is_some()).then_some(
            if view.material_expires.is_some() {
                "KEY_MATERIAL_EXPIRES"
            } else {
                "KEY_MATERIAL_DOES_NOT_EXPIRE"
            },
        ),
        valid_to: view.material_expires.map(seconds),
        key_manager: if key.is_default { "AWS" } else { "CUSTOMER" },
        customer_master_key_spec: "SYMMETRIC_DEFAULT",
        key_spec: "SYMMETRIC_DEFAULT",
        encryption_algorithms: ["SYMMETRIC_DEFAULT"],
        multi_region: false,
    }
}

const fn state(state: KeyState) -> &'static str {
    match state {
        KeyState::Enabled => "Enabled",
        KeyState::Disabled => "Disabled",
        KeyState::PendingDeletion => "PendingDeletion",
        KeyState::PendingImport => "PendingImport",
    }
}

/// Seconds since 1970, with their fraction.
pub(super) fn seconds(time: WallTime) -> f64 {
    // Milliseconds of any year that matters are exact in a double.
    #[allow(clippy::cast_precision_loss)]
    let ms = time.0 as f64;
    ms / 1000.0
}
