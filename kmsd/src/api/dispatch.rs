//! From a path to the adapter that answers it, for every way in.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hyper::{Method, Uri, body::Bytes};
use serde::de::DeserializeOwned;

use super::{
    answer::{self, Reply},
    control, huawei,
};
use crate::{
    domain::{Caller, Refusal},
    service::{Service, ServiceError},
};

/// Answers one request of a caller who is who it says, within a time that includes the token's.
pub(crate) async fn dispatch(
    service: &Service,
    caller: &Caller,
    method: &Method,
    target: &Uri,
    body: Bytes,
    within: Duration,
) -> Reply {
    let (path, query) = (target.path(), target.query().unwrap_or_default());
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let work = async {
        match segments.as_slice() {
            ["v1.0", _project, "kms", verb] if *method == Method::POST => {
                huawei::answer(service, caller, verb, &body).await
            }
            ["v1.0", _project, "kms", rest @ ..] => {
                huawei::tags::answer(service, caller, method, rest, query, &body).await
            }
            [""] if *method == Method::GET => Ok(huawei::versions::all()),
            ["v1.0"] | ["v1.0", ""] if *method == Method::GET => Ok(huawei::versions::one()),
            ["kmsd", "v1", rest @ ..] => control::answer(service, caller, method, rest, &body).await,
            _ => Err(Refusal::NoSuchVerb.into()),
        }
    };
    let answered = tokio::time::timeout(within, work).await;
    match answered.unwrap_or(Err(ServiceError::TimedOut { seconds: within.as_secs() })) {
        Ok(reply) => reply,
        Err(error) => {
            tracing::debug!(principal = %caller.principal, path, %error, "refused");
            answer::error(caller, &error)
        }
    }
}

/// Reads a parameter that is bytes in base64, and no secret.
pub(super) fn base64(text: &str, name: &'static str) -> Result<Vec<u8>, Refusal> {
    BASE64.decode(text).map_err(|_| Refusal::ParameterInvalid { name, expected: "base64" })
}

/// Reads a body as JSON. The parser's own message is not passed on: it could quote a secret.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ServiceError> {
    use serde_json::error::Category;
    serde_json::from_slice(body).map_err(|e| {
        let category = match e.classify() {
            Category::Io | Category::Eof => "it ends too early",
            Category::Syntax => "a mistake in the syntax",
            Category::Data => "a missing or wrong field",
        };
        Refusal::BodyInvalid { category, line: e.line(), column: e.column() }.into()
    })
}
