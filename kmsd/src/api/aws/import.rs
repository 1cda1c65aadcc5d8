//! Material from elsewhere.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

use super::{
    Call, Fault,
    keys::{OneKey, seconds},
};
use crate::{
    api::dispatch::base64,
    domain::{
        KeyState, Refusal,
        import::{OaepHash, RsaBits},
        time::WallTime,
    },
    service::ServiceError,
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetParameters {
    key_id: String,
    wrapping_algorithm: String,
    wrapping_key_spec: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ParametersReply {
    key_id: String,
    import_token: String,
    public_key: String,
    parameters_valid_to: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Import {
    key_id: String,
    import_token: String,
    encrypted_key_material: String,
    valid_to: Option<f64>,
    expiration_model: Option<String>,
    import_type: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ImportedReply {
    key_id: String,
}

pub(super) async fn parameters(call: &Call<'_>, request: &GetParameters) -> Result<ParametersReply, Fault> {
    let hash = OaepHash::from_name(&request.wrapping_algorithm).ok_or(Fault::Unsupported {
        what: "a WrappingAlgorithm other than RSAES_OAEP_SHA_1 and RSAES_OAEP_SHA_256",
    })?;
    let bits = match request.wrapping_key_spec.as_str() {
        "RSA_2048" => RsaBits::Rsa2048,
        "RSA_3072" => RsaBits::Rsa3072,
        "RSA_4096" => RsaBits::Rsa4096,
        _ => {
            return Err(Fault::Unsupported {
                what: "a WrappingKeySpec other than RSA_2048, RSA_3072 and RSA_4096",
            });
        }
    };
    let key = call.key_id(&request.key_id)?;
    let made = call.service.import_parameters(call.caller, &key, hash, bits).await?;
    Ok(ParametersReply {
        key_id: call.names.key(made.key),
        import_token: BASE64.encode(made.token),
        public_key: BASE64.encode(made.public_key),
        parameters_valid_to: seconds(made.expires),
    })
}

pub(super) async fn import(call: &Call<'_>, request: &Import) -> Result<ImportedReply, Fault> {
    if request
        .import_type
        .as_deref()
        .is_some_and(|kind| kind != "NEW_KEY_MATERIAL" && kind != "EXISTING_KEY_MATERIAL")
    {
        return Err(Fault::Unsupported { what: "this ImportType" });
    }
    let expires = match (request.expiration_model.as_deref(), request.valid_to) {
        (Some("KEY_MATERIAL_DOES_NOT_EXPIRE"), None) => None,
        (None | Some("KEY_MATERIAL_EXPIRES"), Some(at)) => Some(wall(at)?),
        _ => {
            let expected = "a time with KEY_MATERIAL_EXPIRES, none with KEY_MATERIAL_DOES_NOT_EXPIRE";
            return Err(Fault::Validation { name: "ValidTo", expected });
        }
    };
    let token = base64(&request.import_token, "ImportToken")?;
    let wrapped = base64(&request.encrypted_key_material, "EncryptedKeyMaterial")?;
    let key = call.key_id(&request.key_id)?;
    let id = call.service.import_material(call.caller, &key, &token, wrapped, expires).await?;
    Ok(ImportedReply { key_id: call.names.key(id) })
}

pub(super) async fn delete(call: &Call<'_>, request: &OneKey) -> Result<ImportedReply, Fault> {
    let key = call.key_id(&request.key_id)?;
    let id = match call.service.delete_material(call.caller, &key).await {
        // The publication: deleting what is not there has no effect.
        Err(ServiceError::Refused(Refusal::State { key, state: KeyState::PendingImport, .. })) => key.id,
        deleted => deleted?,
    };
    Ok(ImportedReply { key_id: call.names.key(id) })
}

/// Seconds since 1970, with their fraction.
fn wall(at: f64) -> Result<WallTime, Fault> {
    const FURTHEST: f64 = 253_402_300_800.0; // the year 10000
    if !(0.0..FURTHEST).contains(&at) {
        return Err(Fault::Validation { name: "ValidTo", expected: "seconds since 1970" });
    }
    // Milliseconds below that bound fit.
    #[allow(clippy::cast_possible_truncation)]
    Ok(WallTime((at * 1000.0) as i64))
}
