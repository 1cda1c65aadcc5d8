//! Material from elsewhere (K6).

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;

use super::{Client, ClientError, transport::Replay};
use crate::{
    domain::import::OaepHash,
    wire::{
        huawei::KeyRequest,
        import::{ImportRequest, ImportedReply, ParametersReply, ParametersRequest},
    },
};

/// What material is wrapped with for its import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportParameters {
    /// To be given back with the material.
    pub token: Vec<u8>,
    /// An RSA public key, as SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
}

impl Client {
    /// Has an RSA pair made in the token, whose public half wraps the material for `key`. Earlier parameters for it are good no more.
    ///
    /// # Errors
    /// Also if the key does not wait for material, or the token cannot unwrap with that hash.
    pub fn import_parameters(&self, key: &str, hash: OaepHash) -> Result<ImportParameters, ClientError> {
        let request =
            ParametersRequest { key_id: key.to_owned(), wrapping_algorithm: hash.name().to_owned() };
        let reply: ParametersReply = self.verb("get-parameters-for-import", &request, Replay::Safe)?;
        Ok(ImportParameters {
            token: BASE64.decode(&reply.import_token).map_err(|_| self.wrong("import_token"))?,
            public_key: BASE64.decode(&reply.public_key).map_err(|_| self.wrong("public_key"))?,
        })
    }

    /// Has the token unwrap material for `key`, which is in service then. Not sent again when the answer is lost.
    ///
    /// # Errors
    /// Also if the token of the parameters is good no more, the material does not unwrap, or it is other material than before.
    pub fn import_material(
        &self,
        key: &str,
        token: &[u8],
        wrapped: &[u8],
        expires: Option<Timestamp>,
    ) -> Result<(), ClientError> {
        let request = ImportRequest {
            key_id: key.to_owned(),
            import_token: BASE64.encode(token),
            encrypted_key_material: BASE64.encode(wrapped),
            expiration_time: expires.map(|time| time.as_second().to_string()),
        };
        self.verb("import-key-material", &request, Replay::Unsafe).map(|_: ImportedReply| ())
    }

    /// Destroys imported material. The key waits for the same material again.
    ///
    /// # Errors
    /// Also if its material was made in the token.
    pub fn delete_material(&self, key: &str) -> Result<(), ClientError> {
        let request = KeyRequest { key_id: key.to_owned() };
        self.verb("delete-imported-key-material", &request, Replay::Unsafe).map(|_: ImportedReply| ())
    }
}
