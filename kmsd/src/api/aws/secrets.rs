//! Data keys, and bytes encrypted directly.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize, Serializer};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Call, Fault, names::key_ref};
use crate::{
    domain::{EncryptionContext, Operation},
    service::{DatakeyRequest, NewDatakey, Source},
};

/// The one algorithm of symmetric keys.
const ALGORITHM: &str = "SYMMETRIC_DEFAULT";
/// Published bound of a ciphertext, in bytes.
const MAX_CIPHERTEXT: usize = 6144;
/// Published bound of what is encrypted directly, in bytes.
const MAX_PLAINTEXT: usize = 4096;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GenerateDataKey {
    key_id: String,
    #[serde(default)]
    encryption_context: EncryptionContext,
    number_of_bytes: Option<usize>,
    key_spec: Option<String>,
    recipient: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DataKeyReply {
    ciphertext_blob: Blob,
    plaintext: SecretBlob,
    key_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WrappedDataKeyReply {
    ciphertext_blob: Blob,
    key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Decrypt {
    ciphertext_blob: String,
    key_id: Option<String>,
    #[serde(default)]
    encryption_context: EncryptionContext,
    encryption_algorithm: Option<String>,
    recipient: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DecryptReply {
    key_id: String,
    plaintext: SecretBlob,
    encryption_algorithm: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Encrypt {
    key_id: String,
    plaintext: SecretText,
    #[serde(default)]
    encryption_context: EncryptionContext,
    encryption_algorithm: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EncryptReply {
    ciphertext_blob: Blob,
    key_id: String,
    encryption_algorithm: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReEncrypt {
    ciphertext_blob: String,
    source_key_id: Option<String>,
    #[serde(default)]
    source_encryption_context: EncryptionContext,
    source_encryption_algorithm: Option<String>,
    destination_key_id: String,
    #[serde(default)]
    destination_encryption_context: EncryptionContext,
    destination_encryption_algorithm: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReEncryptReply {
    ciphertext_blob: Blob,
    source_key_id: String,
    key_id: String,
    source_encryption_algorithm: &'static str,
    destination_encryption_algorithm: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GenerateRandom {
    number_of_bytes: Option<usize>,
    custom_key_store_id: Option<String>,
    recipient: Option<serde::de::IgnoredAny>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RandomReply {
    plaintext: SecretBlob,
}

/// Base64 of something secret. Wiped when dropped.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
struct SecretText(String);

/// Bytes as base64.
struct Blob(Vec<u8>);

/// Secret bytes as base64. Wiped when dropped.
struct SecretBlob(Zeroizing<Vec<u8>>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl Serialize for SecretBlob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(BASE64.encode(&*self.0)))
    }
}

pub(super) async fn generate_data_key(
    call: &Call<'_>,
    request: GenerateDataKey,
) -> Result<DataKeyReply, Fault> {
    let NewDatakey { key, plaintext, wrapped } = make(call, request, Operation::CreateDatakey).await?;
    Ok(DataKeyReply {
        ciphertext_blob: Blob(wrapped),
        plaintext: SecretBlob(plaintext),
        key_id: call.names.key(key),
    })
}

pub(super) async fn generate_data_key_without_plaintext(
    call: &Call<'_>,
    request: GenerateDataKey,
) -> Result<WrappedDataKeyReply, Fault> {
    let new = make(call, request, Operation::CreateDatakeyWithoutPlaintext).await?;
    Ok(WrappedDataKeyReply { ciphertext_blob: Blob(new.wrapped), key_id: call.names.key(new.key) })
}

async fn make(call: &Call<'_>, request: GenerateDataKey, operation: Operation) -> Result<NewDatakey, Fault> {
    unsupported(request.recipient.is_some(), request.dry_run)?;
    let len = match (request.key_spec.as_deref(), request.number_of_bytes) {
        (Some("AES_256"), None) => 32,
        (Some("AES_128"), None) => 16,
        (None, Some(len)) if (1..=1024).contains(&len) => len,
        (None, Some(_)) => return Err(Fault::Validation { name: "NumberOfBytes", expected: "1 to 1024" }),
        (Some(_), None) => return Err(Fault::Validation { name: "KeySpec", expected: "AES_256 or AES_128" }),
        (None, None) | (Some(_), Some(_)) => {
            return Err(Fault::Validation { name: "KeySpec", expected: "either KeySpec or NumberOfBytes" });
        }
    };
    let request = DatakeyRequest { key: key_ref(&request.key_id)?, context: request.encryption_context, len };
    Ok(call.service.create_datakey(call.caller, request, operation).await?)
}

pub(super) async fn decrypt(call: &Call<'_>, request: Decrypt) -> Result<DecryptReply, Fault> {
    unsupported(request.recipient.is_some(), request.dry_run)?;
    only_algorithm(request.encryption_algorithm.as_deref())?;
    let expected = request.key_id.as_deref().map(key_ref).transpose()?;
    let ciphertext = decode(&request.ciphertext_blob, "CiphertextBlob", MAX_CIPHERTEXT)?;
    let (key, plaintext) = call
        .service
        .decrypt_any(call.caller, expected.as_ref(), &ciphertext, &request.encryption_context)
        .await?;
    Ok(DecryptReply {
        key_id: call.names.key(key),
        plaintext: SecretBlob(plaintext),
        encryption_algorithm: ALGORITHM,
    })
}

pub(super) async fn encrypt(call: &Call<'_>, request: Encrypt) -> Result<EncryptReply, Fault> {
    unsupported(false, request.dry_run)?;
    only_algorithm(request.encryption_algorithm.as_deref())?;
    let plaintext = decode(&request.plaintext.0, "Plaintext", MAX_PLAINTEXT)?;
    let key = key_ref(&request.key_id)?;
    let (key, sealed) =
        call.service.encrypt_data(call.caller, &key, plaintext, &request.encryption_context).await?;
    Ok(EncryptReply {
        ciphertext_blob: Blob(sealed),
        key_id: call.names.key(key),
        encryption_algorithm: ALGORITHM,
    })
}

pub(super) async fn re_encrypt(call: &Call<'_>, request: ReEncrypt) -> Result<ReEncryptReply, Fault> {
    unsupported(false, request.dry_run)?;
    only_algorithm(request.source_encryption_algorithm.as_deref())?;
    only_algorithm(request.destination_encryption_algorithm.as_deref())?;
    let expected = request.source_key_id.as_deref().map(key_ref).transpose()?;
    let wrapped = decode(&request.ciphertext_blob, "CiphertextBlob", MAX_CIPHERTEXT)?;
    let source = Source {
        wrapped: &wrapped,
        expected: expected.as_ref(),
        context: &request.source_encryption_context,
    };
    let destination = key_ref(&request.destination_key_id)?;
    let context = &request.destination_encryption_context;
    let moved = call.service.re_encrypt(call.caller, source, &destination, context).await?;
    Ok(ReEncryptReply {
        ciphertext_blob: Blob(moved.wrapped),
        source_key_id: call.names.key(moved.source),
        key_id: call.names.key(moved.destination),
        source_encryption_algorithm: ALGORITHM,
        destination_encryption_algorithm: ALGORITHM,
    })
}

pub(super) async fn generate_random(call: &Call<'_>, request: GenerateRandom) -> Result<RandomReply, Fault> {
    unsupported(request.recipient.is_some(), false)?;
    if request.custom_key_store_id.is_some() {
        return Err(Fault::Unsupported { what: "a custom key store" });
    }
    let len = request.number_of_bytes.filter(|len| (1..=1024).contains(len));
    let len = len.ok_or(Fault::Validation { name: "NumberOfBytes", expected: "1 to 1024" })?;
    Ok(RandomReply { plaintext: SecretBlob(call.service.random(call.caller, len).await?) })
}

fn only_algorithm(given: Option<&str>) -> Result<(), Fault> {
    match given {
        None | Some(ALGORITHM) => Ok(()),
        Some(_) => Err(Fault::Validation { name: "EncryptionAlgorithm", expected: ALGORITHM }),
    }
}

const fn unsupported(recipient: bool, dry_run: bool) -> Result<(), Fault> {
    if recipient {
        return Err(Fault::Unsupported { what: "an attested Recipient" });
    }
    if dry_run {
        return Err(Fault::Unsupported { what: "DryRun" });
    }
    Ok(())
}

fn decode(text: &str, name: &'static str, max: usize) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let bytes = BASE64.decode(text).map(Zeroizing::new);
    let bytes = bytes.map_err(|_| Fault::Validation { name, expected: "base64" })?;
    if bytes.is_empty() || bytes.len() > max {
        return Err(Fault::Validation { name, expected: "1 byte to the published bound" });
    }
    Ok(bytes)
}
