//! Material from elsewhere: `get-parameters-for-import`, `import-key-material`, `delete-imported-key-material`.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use super::key;
use crate::{
    api::{
        answer::{self, Reply},
        dispatch::{base64, parse},
    },
    domain::{
        Caller, Refusal,
        import::{OaepHash, RsaBits},
        time::WallTime,
    },
    service::{Service, ServiceError},
    wire::{
        huawei::KeyRequest,
        import::{ImportRequest, ImportedReply, ParametersReply, ParametersRequest},
    },
};

/// Answers a verb, or gives it back.
pub(super) async fn answer(
    service: &Service,
    caller: &Caller,
    verb: &str,
    body: &[u8],
) -> Option<Result<Reply, ServiceError>> {
    Some(match verb {
        "get-parameters-for-import" => parameters(service, caller, body).await,
        "import-key-material" => import(service, caller, body).await,
        "delete-imported-key-material" => delete(service, caller, body).await,
        _ => return None,
    })
}

async fn parameters(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let request: ParametersRequest = parse(body)?;
    let expected = "RSAES_OAEP_SHA_1 or RSAES_OAEP_SHA_256";
    let hash = OaepHash::from_name(&request.wrapping_algorithm)
        .ok_or(Refusal::ParameterInvalid { name: "wrapping_algorithm", expected })?;
    let made = service.import_parameters(caller, &key(&request.key_id)?, hash, RsaBits::Rsa3072).await?;
    Ok(answer::ok(&ParametersReply {
        key_id: made.key.to_string(),
        import_token: BASE64.encode(made.token),
        expiration_time: made.expires.0 / 1000,
        public_key: BASE64.encode(made.public_key),
    }))
}

async fn import(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let request: ImportRequest = parse(body)?;
    let token = base64(&request.import_token, "import_token")?;
    let wrapped = base64(&request.encrypted_key_material, "encrypted_key_material")?;
    let expires = request
        .expiration_time
        .as_deref()
        .filter(|text| !text.trim().is_empty())
        .map(|text| text.trim().parse::<i64>().map(|seconds| WallTime(seconds.saturating_mul(1000))))
        .transpose()
        .map_err(|_| Refusal::ParameterInvalid { name: "expiration_time", expected: "seconds since 1970" })?;
    service.import_material(caller, &key(&request.key_id)?, &token, wrapped, expires).await?;
    Ok(answer::ok(&ImportedReply {}))
}

async fn delete(service: &Service, caller: &Caller, body: &[u8]) -> Result<Reply, ServiceError> {
    let request: KeyRequest = parse(body)?;
    service.delete_material(caller, &key(&request.key_id)?).await?;
    Ok(answer::ok(&ImportedReply {}))
}
