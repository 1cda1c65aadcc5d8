//! How results and errors are printed: the one place where a refusal becomes a status.

use http_body_util::Full;
use hyper::{Response, StatusCode, body::Bytes, header};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    audit::AuditError,
    domain::{Caller, Refusal},
    hsm::HsmError,
    service::ServiceError,
    store::CommitError,
    wire::{ErrorBody, ErrorDetail},
};

/// A whole reply.
pub(crate) type Reply = Response<Full<Bytes>>;

/// A result as JSON.
pub(crate) fn ok(body: &impl Serialize) -> Reply {
    json(StatusCode::OK, body)
}

/// A document that was made elsewhere and is secret: wiped once it is sent.
pub(crate) fn secret(document: Zeroizing<Vec<u8>>) -> Reply {
    whole(StatusCode::OK, document)
}

/// What Prometheus reads.
pub(crate) fn metrics(text: String) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(text)));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    reply
}

/// An error in the published shape.
pub(crate) fn error(caller: &Caller, error: &ServiceError) -> Reply {
    let detail = ErrorDetail {
        error_code: error.code().to_owned(),
        error_msg: message(caller, error),
        error_hint: hint(error).map(str::to_owned),
    };
    json(status(error), &ErrorBody { error: detail })
}

/// An error that no rule of the service's is behind.
pub(crate) fn refused_with(status: StatusCode, code: &str, message: String) -> Reply {
    let detail = ErrorDetail { error_code: code.to_owned(), error_msg: message, error_hint: None };
    json(status, &ErrorBody { error: detail })
}

fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    whole(status, written(body))
}

/// A document as it is sent. It may hold a data key: it is wiped once it is sent. No reply with a secret is longer than this, so the buffer does not
/// grow and leave copies behind; and the connection sends it from here, without one of its own.
pub(super) fn written(document: &impl Serialize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    serde_json::to_writer(&mut *bytes, document).expect("the reply types serialise");
    bytes
}

fn whole(status: StatusCode, bytes: Zeroizing<Vec<u8>>) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from_owner(bytes)));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    reply
}

/// The status of an error.
pub(crate) const fn status(error: &ServiceError) -> StatusCode {
    match error {
        ServiceError::Refused(refusal) => refused(refusal),
        ServiceError::Hsm(error) if error.is_retryable() => StatusCode::SERVICE_UNAVAILABLE,
        ServiceError::Hsm(_) | ServiceError::Random(_) => StatusCode::INTERNAL_SERVER_ERROR,
        ServiceError::Store(_) | ServiceError::Audit(_) | ServiceError::Interrupted => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ServiceError::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
    }
}

const fn refused(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::NoSuchKey { .. }
        | Refusal::NoSuchAccessKey { .. }
        | Refusal::NoSuchAlias { .. }
        | Refusal::NoSuchAnchor { .. }
        | Refusal::Destroyed { .. }
        | Refusal::NoSuchVerb => StatusCode::NOT_FOUND,
        Refusal::NotPermitted { .. }
        | Refusal::NotAdministrator { .. }
        | Refusal::GrantTooWide { .. }
        | Refusal::AnchorNotPermitted { .. } => StatusCode::FORBIDDEN,
        Refusal::AnchorBehind { .. }
        | Refusal::LeaseHeld { .. }
        | Refusal::LeaseLost { .. }
        | Refusal::LeaseOfEarlierBoot { .. }
        | Refusal::LeasesForgotten { .. }
        | Refusal::RotationUnderWay { .. }
        | Refusal::Unfinished { .. }
        | Refusal::HalfMade { .. } => StatusCode::CONFLICT,
        Refusal::MaterialMissing { .. } | Refusal::AccessKeyDamaged { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        // The publication answers state errors, like all others, with 400.
        Refusal::State { .. }
        | Refusal::DefaultKey { .. }
        | Refusal::AliasTaken { .. }
        | Refusal::AliasReserved { .. }
        | Refusal::AliasInvalid(_)
        | Refusal::DescriptionTooLong { .. }
        | Refusal::DeletionPeriod { .. }
        | Refusal::ContextTooLong(_)
        | Refusal::Envelope(_)
        | Refusal::DoesNotOpen { .. }
        | Refusal::OtherKey { .. }
        | Refusal::VersionGone { .. }
        | Refusal::ParameterMissing { .. }
        | Refusal::ParameterInvalid { .. }
        | Refusal::DatakeyLength
        | Refusal::NoSuchGrant { .. }
        | Refusal::GrantIdInvalid(_)
        | Refusal::GrantEmpty
        | Refusal::GranteeInvalid
        | Refusal::TooManyGrants { .. }
        | Refusal::TooManyGrantsInAll { .. }
        | Refusal::TooManyGrantsOfOne { .. }
        | Refusal::Policy(_)
        | Refusal::AliasIsName { .. }
        | Refusal::TooManyAliases { .. }
        | Refusal::RotationEnabled { .. }
        | Refusal::RotationNotEnabled { .. }
        | Refusal::RotationInterval { .. }
        | Refusal::TooManyRotations { .. }
        | Refusal::TagInvalid
        | Refusal::ImportTokenInvalid { .. }
        | Refusal::ImportTokenExpired { .. }
        | Refusal::MaterialInvalid { .. }
        | Refusal::OtherMaterial { .. }
        | Refusal::ImportUnderWay { .. }
        | Refusal::NotExternal { .. }
        | Refusal::TooManyTags { .. }
        | Refusal::TooManyKeys { .. }
        | Refusal::TooManyKeysOfOne { .. }
        | Refusal::TooManyAccessKeys { .. }
        | Refusal::TooManyAnchors { .. }
        | Refusal::TooManyAnchorsOfOne { .. }
        | Refusal::BodyInvalid { .. }
        | Refusal::BodyTooLong { .. } => StatusCode::BAD_REQUEST,
    }
}

/// The text. What the token and the store say in detail is for administrators: it names paths.
pub(super) fn message(caller: &Caller, error: &ServiceError) -> String {
    match error {
        ServiceError::Hsm(HsmError::Busy { .. })
        | ServiceError::Store(CommitError::Busy { .. })
        | ServiceError::Audit(AuditError::Busy { .. }) => error.to_string(),
        ServiceError::Hsm(_) if !caller.is_admin => "the key service's token is not available".to_owned(),
        ServiceError::Store(_) | ServiceError::Audit(_) if !caller.is_admin => {
            "the key service cannot record changes".to_owned()
        }
        _ => error.to_string(),
    }
}

fn hint(error: &ServiceError) -> Option<&'static str> {
    match error {
        ServiceError::Refused(refusal) => refusal.hint(),
        ServiceError::Hsm(HsmError::Busy { .. })
        | ServiceError::Store(CommitError::Busy { .. })
        | ServiceError::Audit(AuditError::Busy { .. }) => Some("try again in a moment"),
        ServiceError::Hsm(error) if error.is_retryable() => {
            Some("look at the token and at kmsd's log; service resumes by itself when the token is back")
        }
        ServiceError::Hsm(_) => Some("look at kmsd's log"),
        ServiceError::Store(_) | ServiceError::Audit(_) => {
            Some("look at kmsd's log, and whether the disk of its home is full")
        }
        ServiceError::Interrupted | ServiceError::TimedOut { .. } => {
            Some("look whether it was done before you try again")
        }
        ServiceError::Random(_) => None,
    }
}
