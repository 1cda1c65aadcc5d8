//! The AWS KMS JSON protocol (`X-Amz-Target: TrentService.<operation>`): parse, call, print.
//!
//! Shapes and error names are those of the published service model (2014-11-01). What this service does not do is refused, and
//! named, rather than passed over. Grant tokens are accepted and not needed: a grant counts as soon as it is made.

mod aliases;
mod error;
mod grants;
mod import;
mod keys;
mod names;
mod policies;
mod rotation;
mod secrets;
mod tags;

use std::time::Duration;

use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::{Serialize, de::DeserializeOwned};

pub(super) use error::Fault;
use names::Names;

use super::answer::{Reply, written};
use crate::{
    domain::{Caller, KeyRef},
    service::{Service, ServiceError},
};

/// The header that names the operation.
pub(super) const TARGET: &str = "x-amz-target";
/// Region in the names of keys when the request does not say one.
pub(super) const DEFAULT_REGION: &str = "local";

const CONTENT: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.1");

/// One request's surroundings.
struct Call<'a> {
    service: &'a Service,
    caller: &'a Caller,
    names: Names<'a>,
}

impl Call<'_> {
    /// A key by its id or ARN: operations on the key itself do not take aliases.
    fn key_id(&self, text: &str) -> Result<KeyRef, Fault> {
        match names::key_ref(text)? {
            id @ KeyRef::Id(_) => Ok(id),
            KeyRef::Alias(_) => Err(Fault::NoSuchKey { key: text.to_owned() }),
        }
    }
}

/// Answers one request of a caller who is who it says. `region` is the one that the client believes to talk to.
pub(super) async fn respond(
    service: &Service,
    caller: &Caller,
    region: &str,
    target: &str,
    body: &[u8],
    within: Duration,
) -> Reply {
    let work = answer(service, caller, region, target, body);
    let answered = tokio::time::timeout(within, work).await;
    let timed_out = || Err(ServiceError::TimedOut { seconds: within.as_secs() }.into());
    answered.unwrap_or_else(|_| timed_out()).unwrap_or_else(|fault| {
        tracing::debug!(principal = %caller.principal, target, error = %fault, "refused");
        refuse(Some(caller), &fault)
    })
}

async fn answer(
    service: &Service,
    caller: &Caller,
    region: &str,
    target: &str,
    body: &[u8],
) -> Result<Reply, Fault> {
    let operation = target.strip_prefix("TrentService.").ok_or(Fault::UnknownOperation)?;
    let call = Call { service, caller, names: Names::new(region) };
    match operation {
        "CreateKey" => print(&keys::create(&call, parse(body)?).await?),
        "DescribeKey" => print(&keys::describe(&call, &parse(body)?).await?),
        "ListKeys" => print(&keys::list(&call, &parse(body)?).await?),
        "EnableKey" => done(keys::enable(&call, &parse(body)?).await?),
        "DisableKey" => done(keys::disable(&call, &parse(body)?).await?),
        "ScheduleKeyDeletion" => print(&keys::schedule_deletion(&call, &parse(body)?).await?),
        "CancelKeyDeletion" => print(&keys::cancel_deletion(&call, &parse(body)?).await?),
        "CreateAlias" => done(aliases::create(&call, &parse(body)?).await?),
        "UpdateAlias" => done(aliases::update(&call, &parse(body)?).await?),
        "DeleteAlias" => done(aliases::delete(&call, &parse(body)?).await?),
        "ListAliases" => print(&aliases::list(&call, parse(body)?).await?),
        "CreateGrant" => print(&grants::create(&call, parse(body)?).await?),
        "ListGrants" => print(&grants::list(&call, parse(body)?).await?),
        "ListRetirableGrants" => print(&grants::list_retirable(&call, parse(body)?).await?),
        "RetireGrant" => done(grants::retire(&call, parse(body)?).await?),
        "RevokeGrant" => done(grants::revoke(&call, parse(body)?).await?),
        "GetKeyPolicy" => print(&policies::get(&call, &parse(body)?).await?),
        "PutKeyPolicy" => done(policies::put(&call, &parse(body)?).await?),
        "ListKeyPolicies" => print(&policies::list(&call, &parse(body)?).await?),
        "EnableKeyRotation" => done(rotation::enable(&call, parse(body)?).await?),
        "DisableKeyRotation" => done(rotation::disable(&call, &parse(body)?).await?),
        "GetKeyRotationStatus" => print(&rotation::status(&call, &parse(body)?).await?),
        "RotateKeyOnDemand" => print(&rotation::rotate(&call, &parse(body)?).await?),
        "ListKeyRotations" => print(&rotation::list(&call, parse(body)?).await?),
        "GetParametersForImport" => print(&import::parameters(&call, &parse(body)?).await?),
        "ImportKeyMaterial" => print(&import::import(&call, &parse(body)?).await?),
        "DeleteImportedKeyMaterial" => print(&import::delete(&call, &parse(body)?).await?),
        "UpdateKeyDescription" => done(tags::describe(&call, parse(body)?).await?),
        "TagResource" => done(tags::tag(&call, parse(body)?).await?),
        "UntagResource" => done(tags::untag(&call, parse(body)?).await?),
        "ListResourceTags" => print(&tags::list(&call, parse(body)?).await?),
        "GenerateDataKey" => print(&secrets::generate_data_key(&call, parse(body)?).await?),
        "GenerateDataKeyWithoutPlaintext" => {
            print(&secrets::generate_data_key_without_plaintext(&call, parse(body)?).await?)
        }
        "Encrypt" => print(&secrets::encrypt(&call, parse(body)?).await?),
        "ReEncrypt" => print(&secrets::re_encrypt(&call, parse(body)?).await?),
        "GenerateRandom" => print(&secrets::generate_random(&call, parse(body)?).await?),
        "Decrypt" => print(&secrets::decrypt(&call, parse(body)?).await?),
        _ => Err(Fault::UnknownOperation),
    }
}

/// An error in the published shape.
pub(super) fn refuse(caller: Option<&Caller>, fault: &Fault) -> Reply {
    let (status, kind) = fault.classify();
    let body = ErrorBody { kind, message: fault.message(caller) };
    reply(status, &body)
}

#[derive(Serialize)]
struct ErrorBody {
    #[serde(rename = "__type")]
    kind: &'static str,
    message: String,
}

/// Reads a body as JSON. The parser's own message is not passed on: it could quote a secret.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    // No body is the same as an empty object.
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|error| Fault::Serialization { line: error.line(), column: error.column() })
}

// A result, so that the operations above read alike.
#[allow(clippy::unnecessary_wraps)]
fn print(body: &impl Serialize) -> Result<Reply, Fault> {
    Ok(reply(StatusCode::OK, body))
}

/// Operations without a result answer with an empty body.
#[allow(clippy::unnecessary_wraps)]
fn done((): ()) -> Result<Reply, Fault> {
    let mut reply = Response::new(Full::default());
    reply.headers_mut().insert(CONTENT_TYPE, CONTENT);
    Ok(reply)
}

fn reply(status: StatusCode, body: &impl Serialize) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from_owner(written(body))));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, CONTENT);
    reply
}

#[cfg(test)]
mod tests;
