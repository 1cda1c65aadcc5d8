//! Bodies of the public key API about material from elsewhere: names and types as published.

use serde::{Deserialize, Serialize};

use super::huawei::maybe_text_or_number;

/// `get-parameters-for-import`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParametersRequest {
    /// Id, `alias/<name>`, URN or name.
    pub key_id: String,
    /// `RSAES_OAEP_SHA_1` or `RSAES_OAEP_SHA_256`.
    pub wrapping_algorithm: String,
}

/// Answer of `get-parameters-for-import`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParametersReply {
    /// The key that the material is for.
    pub key_id: String,
    /// To be given back with the material, in base64.
    pub import_token: String,
    /// Until when both are good, in seconds since 1970.
    pub expiration_time: i64,
    /// What wraps the material: SubjectPublicKeyInfo in DER, in base64.
    pub public_key: String,
}

/// `import-key-material`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRequest {
    /// Id, `alias/<name>`, URN or name.
    pub key_id: String,
    /// From the parameters, in base64.
    pub import_token: String,
    /// The wrapped material, in base64.
    pub encrypted_key_material: String,
    /// When the material expires, in seconds since 1970; absent, never.
    #[serde(default, deserialize_with = "maybe_text_or_number", skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<String>,
}

/// Answer of `import-key-material` and `delete-imported-key-material`: there is nothing to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedReply {}
