//! Bytes of the caller's: `encrypt-data`, `decrypt-data`, `encrypt-datakey`, `re-encrypt`, `gen-random`.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{context, key, only};
use crate::{
    api::{
        answer::{self, Reply},
        dispatch::{base64, parse},
    },
    domain::{Caller, EncryptionContext, Refusal},
    service::{Service, ServiceError, Source},
    wire::huawei::{SecretHex, maybe_text_or_number},
};

const ALGORITHM: &str = "SYMMETRIC_DEFAULT";
/// Bits of `gen-random` if the request does not say.
const RANDOM_BITS: usize = 512;

#[derive(Deserialize)]
struct EncryptData {
    key_id: String,
    plain_text: SecretText,
    encryption_algorithm: Option<String>,
    #[serde(default)]
    encryption_context: EncryptionContext,
    additional_authenticated_data: Option<String>,
}

#[derive(Deserialize)]
struct DecryptData {
    key_id: Option<String>,
    cipher_text: String,
    encryption_algorithm: Option<String>,
    #[serde(default)]
    encryption_context: EncryptionContext,
    additional_authenticated_data: Option<String>,
}

#[derive(Serialize)]
struct DecryptedData {
    key_id: String,
    /// Only if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    plain_text: Option<SecretText>,
    plain_text_base64: SecretText,
}

#[derive(Deserialize)]
struct EncryptDatakey {
    key_id: String,
    /// The data key and its SHA-256, in hexadecimal digits.
    plain_text: SecretText,
    #[serde(default, deserialize_with = "maybe_text_or_number")]
    datakey_plain_length: Option<String>,
    #[serde(default)]
    encryption_context: EncryptionContext,
    additional_authenticated_data: Option<String>,
}

#[derive(Serialize)]
struct Encrypted {
    key_id: String,
    cipher_text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    datakey_length: Option<String>,
}

#[derive(Deserialize)]
struct ReEncrypt {
    source_key_id: Option<String>,
    /// What a data key is bound to, as when it was made.
    #[serde(default)]
    source_encryption_context: EncryptionContext,
    source_additional_authenticated_data: Option<String>,
    source_encryption_algorithm: Option<String>,
    destination_key_id: String,
    #[serde(default)]
    destination_encryption_context: EncryptionContext,
    destination_additional_authenticated_data: Option<String>,
    destination_encryption_algorithm: Option<String>,
    cipher_text: String,
}

#[derive(Serialize)]
struct ReEncryptedReply {
    key_id: String,
    source_key_id: String,
    source_encryption_algorithm: &'static str,
    destination_encryption_algorithm: &'static str,
    cipher_text: String,
}

#[derive(Deserialize)]
struct GenRandom {
    #[serde(default, deserialize_with = "maybe_text_or_number")]
    random_data_length: Option<String>,
}

#[derive(Serialize)]
struct RandomReply {
    random_data: SecretHex,
}

/// Secret text. Wiped when dropped.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
struct SecretText(String);

pub(super) async fn answer(
    service: &Service,
    caller: &Caller,
    verb: &str,
    body: &[u8],
) -> Result<Reply, ServiceError> {
    match verb {
        "encrypt-data" => encrypt_data(service, caller, parse(body)?).await,
        "decrypt-data" => decrypt_data(service, caller, parse(body)?).await,
        "encrypt-datakey" => encrypt_datakey(service, caller, parse(body)?).await,
        "re-encrypt" => re_encrypt(service, caller, parse(body)?).await,
        "gen-random" => gen_random(service, caller, &parse(body)?).await,
        _ => Err(Refusal::NoSuchVerb.into()),
    }
}

async fn encrypt_data(
    service: &Service,
    caller: &Caller,
    request: EncryptData,
) -> Result<Reply, ServiceError> {
    only(request.encryption_algorithm.as_deref(), ALGORITHM, "encryption_algorithm", ALGORITHM)?;
    let context = context(request.encryption_context, request.additional_authenticated_data)?;
    let plaintext = Zeroizing::new(request.plain_text.0.as_bytes().to_vec());
    let (key, sealed) = service.encrypt_data(caller, &key(&request.key_id)?, plaintext, &context).await?;
    Ok(answer::ok(&Encrypted {
        key_id: key.to_string(),
        cipher_text: BASE64.encode(sealed),
        datakey_length: None,
    }))
}

async fn decrypt_data(
    service: &Service,
    caller: &Caller,
    request: DecryptData,
) -> Result<Reply, ServiceError> {
    only(request.encryption_algorithm.as_deref(), ALGORITHM, "encryption_algorithm", ALGORITHM)?;
    let expected = request.key_id.as_deref().map(key).transpose()?;
    let context = context(request.encryption_context, request.additional_authenticated_data)?;
    let sealed = base64(&request.cipher_text, "cipher_text")?;
    let (key, plaintext) = service.decrypt_data(caller, expected.as_ref(), &sealed, &context).await?;
    Ok(answer::ok(&DecryptedData {
        key_id: key.to_string(),
        plain_text: std::str::from_utf8(&plaintext).ok().map(|text| SecretText(text.to_owned())),
        plain_text_base64: SecretText(BASE64.encode(&*plaintext)),
    }))
}

async fn encrypt_datakey(
    service: &Service,
    caller: &Caller,
    request: EncryptDatakey,
) -> Result<Reply, ServiceError> {
    const EXPECTED: Refusal = Refusal::ParameterInvalid {
        name: "plain_text",
        expected: "the data key and its SHA-256, in hexadecimal digits",
    };
    let context = context(request.encryption_context, request.additional_authenticated_data)?;
    let bytes = hex::decode(&request.plain_text.0).map(Zeroizing::new).map_err(|_| EXPECTED)?;
    let (datakey, digest) = bytes.split_last_chunk::<32>().ok_or(EXPECTED)?;
    if !bool::from(Sha256::digest(datakey).as_slice().ct_eq(digest)) {
        return Err(EXPECTED.into());
    }
    if let Some(length) = request.datakey_plain_length
        && length.trim().parse() != Ok(datakey.len())
    {
        return Err(Refusal::ParameterInvalid {
            name: "datakey_plain_length",
            expected: "the number of bytes of the data key",
        }
        .into());
    }
    let length = datakey.len().to_string();
    let datakey = Zeroizing::new(datakey.to_vec());
    let (key, wrapped) = service.encrypt_datakey(caller, &key(&request.key_id)?, datakey, &context).await?;
    Ok(answer::ok(&Encrypted {
        key_id: key.to_string(),
        cipher_text: hex::encode(wrapped),
        datakey_length: Some(length),
    }))
}

/// Takes what `encrypt-data` gives (base64) and what the data key verbs give (hexadecimal digits), and answers in kind.
async fn re_encrypt(service: &Service, caller: &Caller, request: ReEncrypt) -> Result<Reply, ServiceError> {
    for algorithm in [&request.source_encryption_algorithm, &request.destination_encryption_algorithm] {
        only(algorithm.as_deref(), ALGORITHM, "encryption_algorithm", ALGORITHM)?;
    }
    let in_hex = hex::decode(&request.cipher_text);
    let is_hex = in_hex.is_ok();
    let wrapped =
        in_hex.or_else(|_| BASE64.decode(&request.cipher_text)).map_err(|_| Refusal::ParameterInvalid {
            name: "cipher_text",
            expected: "base64, or hexadecimal digits of a data key",
        })?;
    let old = context(request.source_encryption_context, request.source_additional_authenticated_data)?;
    let new =
        context(request.destination_encryption_context, request.destination_additional_authenticated_data)?;
    let expected = request.source_key_id.as_deref().map(key).transpose()?;
    let source = Source { wrapped: &wrapped, expected: expected.as_ref(), context: &old };
    let moved = service.re_encrypt(caller, source, &key(&request.destination_key_id)?, &new).await?;
    Ok(answer::ok(&ReEncryptedReply {
        key_id: moved.destination.to_string(),
        source_key_id: moved.source.to_string(),
        source_encryption_algorithm: ALGORITHM,
        destination_encryption_algorithm: ALGORITHM,
        cipher_text: if is_hex { hex::encode(&moved.wrapped) } else { BASE64.encode(&moved.wrapped) },
    }))
}

async fn gen_random(service: &Service, caller: &Caller, request: &GenRandom) -> Result<Reply, ServiceError> {
    let bits = match request.random_data_length.as_deref() {
        None => Some(RANDOM_BITS),
        Some(text) => text.trim().parse().ok().filter(|bits: &usize| bits.is_multiple_of(8)),
    };
    let bits = bits.ok_or(Refusal::ParameterInvalid {
        name: "random_data_length",
        expected: "8 to 8192 bits, a multiple of 8",
    })?;
    let mut drawn = service.random(caller, bits / 8).await?;
    Ok(answer::ok(&RandomReply { random_data: SecretHex::new(std::mem::take(&mut *drawn)) }))
}
