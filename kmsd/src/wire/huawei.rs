//! Bodies of the public key API (`/v1.0/{project_id}/kms/<verb>`): names and types as published, numbers and
//! booleans as strings where the publication has them so.

use serde::{Deserialize, Deserializer, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::domain::EncryptionContext;

/// `create-key`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateKeyRequest {
    /// The key's name.
    pub key_alias: String,
    /// Up to 255 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_description: Option<String>,
    /// `kms` (default) or `external`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// `AES_256`, the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_spec: Option<String>,
    /// `ENCRYPT_DECRYPT`, the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_usage: Option<String>,
}

/// Answer of `create-key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateKeyReply {
    /// The new key.
    pub key_info: CreatedKey,
}

/// The inside of [`CreateKeyReply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedKey {
    /// Its id.
    pub key_id: String,
    /// The owner's domain.
    pub domain_id: String,
}

/// Any verb that needs only a key: `describe-key`, `enable-key`, `disable-key`, `cancel-key-deletion` ...
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRequest {
    /// Id, `alias/<name>`, URN or name.
    pub key_id: String,
}

/// `schedule-key-deletion`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleDeletionRequest {
    /// Id, `alias/<name>`, URN or name.
    pub key_id: String,
    /// 7 to 1096.
    #[serde(deserialize_with = "text_or_number")]
    pub pending_days: String,
}

/// Answer of `enable-key` and `disable-key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatusReply {
    /// The key.
    pub key_info: KeyStateReply,
}

/// Answer of `schedule-key-deletion` and `cancel-key-deletion`, and the inside of [`KeyStatusReply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStateReply {
    /// The key's id.
    pub key_id: String,
    /// The number of the state it is in now.
    pub key_state: String,
}

/// `list-keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListKeysRequest {
    /// Most keys in the answer, 1 to 1000.
    #[serde(default, deserialize_with = "maybe_text_or_number", skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// `next_marker` of the page before.
    #[serde(default, deserialize_with = "maybe_text_or_number", skip_serializing_if = "Option::is_none")]
    pub marker: Option<String>,
    /// Only keys in the state with this number.
    #[serde(default, deserialize_with = "maybe_text_or_number", skip_serializing_if = "Option::is_none")]
    pub key_state: Option<String>,
}

/// Answer of `list-keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListKeysReply {
    /// Ids on this page.
    pub keys: Vec<String>,
    /// The same keys in full.
    pub key_details: Vec<KeyDetails>,
    /// Where the next page begins; empty on the last one.
    pub next_marker: String,
    /// `true` if there are more.
    pub truncated: String,
    /// Keys in all.
    pub total: u64,
}

/// Answer of `describe-key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeKeyReply {
    /// The key.
    pub key_info: KeyDetails,
}

/// A key in full. Times are milliseconds since 1970 as text, empty if there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyDetails {
    /// Its id.
    pub key_id: String,
    /// The owner's domain.
    pub domain_id: String,
    /// Its name.
    pub key_alias: String,
    /// The region.
    pub realm: String,
    /// Free text.
    pub key_description: String,
    /// `AES_256`.
    pub key_spec: String,
    /// `ENCRYPT_DECRYPT`.
    pub key_usage: String,
    /// When it was made.
    pub creation_date: String,
    /// When it will be destroyed.
    pub scheduled_deletion_date: String,
    /// Number of its state.
    pub key_state: String,
    /// `1` for a default key.
    pub default_key_flag: String,
    /// `1`: a symmetric key.
    pub key_type: String,
    /// When imported material expires.
    pub expiration_time: String,
    /// `kms` or `external`.
    pub origin: String,
    /// `true` if it is rotated by interval.
    pub key_rotation_enabled: String,
    /// Newest version of the material, 0 if there is none (not in the publication).
    #[serde(default)]
    pub key_version: u32,
}

/// `create-datakey` and `create-datakey-without-plaintext`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateDatakeyRequest {
    /// Id, `alias/<name>`, URN or name; a default key is made when it is named first.
    pub key_id: String,
    /// What the data key is bound to.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    pub encryption_context: EncryptionContext,
    /// The younger dialect's form of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additional_authenticated_data: Option<String>,
    /// Bits, a multiple of 8 from 8 to 8192; 256 if absent.
    #[serde(default, deserialize_with = "maybe_text_or_number", skip_serializing_if = "Option::is_none")]
    pub datakey_length: Option<String>,
    /// `AES_256` or `AES_128`, instead of a length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_spec: Option<String>,
}

/// Answer of `create-datakey`.
#[derive(Serialize, Deserialize)]
pub struct CreateDatakeyReply {
    /// The key that wraps it.
    pub key_id: String,
    /// The data key itself.
    pub plain_text: SecretHex,
    /// The data key, wrapped, in hexadecimal digits.
    pub cipher_text: String,
}

/// Answer of `create-datakey-without-plaintext`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateDatakeyWithoutPlaintextReply {
    /// The key that wraps it.
    pub key_id: String,
    /// The data key, wrapped, in hexadecimal digits.
    pub cipher_text: String,
}

/// `re-encrypt` of a data key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReEncryptDatakeyRequest {
    /// The key to wrap it with: id, `alias/<name>`, URN or name.
    pub destination_key_id: String,
    /// What the data key is bound to.
    pub source_encryption_context: EncryptionContext,
    /// What it is to be bound to.
    pub destination_encryption_context: EncryptionContext,
    /// The wrapped data key, in hexadecimal digits.
    pub cipher_text: String,
}

/// Answer of `re-encrypt`, as far as a data key needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReEncryptDatakeyReply {
    /// The key that wraps it now.
    pub key_id: String,
    /// The data key, wrapped, in hexadecimal digits.
    pub cipher_text: String,
}

/// `decrypt-datakey`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecryptDatakeyRequest {
    /// The key that wraps it, if the caller wants that checked; the wrapped form names it anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The wrapped data key, in hexadecimal digits.
    pub cipher_text: String,
    /// What the data key is bound to.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    pub encryption_context: EncryptionContext,
    /// The younger dialect's form of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additional_authenticated_data: Option<String>,
    /// Bytes of the data key, if the caller wants that checked.
    #[serde(default, deserialize_with = "maybe_text_or_number", skip_serializing_if = "Option::is_none")]
    pub datakey_cipher_length: Option<String>,
}

/// Answer of `decrypt-datakey`.
#[derive(Serialize, Deserialize)]
pub struct DecryptDatakeyReply {
    /// The data key.
    pub data_key: SecretHex,
    /// Its bytes, as a decimal number.
    pub datakey_length: String,
    /// SHA-256 of it, in hexadecimal digits.
    pub datakey_dgst: String,
}

/// Secret bytes as hexadecimal digits. Wiped when dropped, never printed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretHex(Vec<u8>);

impl SecretHex {
    /// Takes the bytes.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for SecretHex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits = zeroize::Zeroizing::new(hex::encode(&self.0));
        serializer.serialize_str(&digits)
    }
}

impl<'de> Deserialize<'de> for SecretHex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl serde::de::Visitor<'_> for Digits {
            type Value = SecretHex;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("hexadecimal digits")
            }

            fn visit_str<E: serde::de::Error>(self, digits: &str) -> Result<SecretHex, E> {
                // The decoder's error would quote a digit of the secret.
                hex::decode(digits).map(SecretHex).map_err(|_| E::custom("not hexadecimal digits"))
            }
        }
        deserializer.deserialize_str(Digits)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Text(String),
    Number(u64),
}

impl From<TextOrNumber> for String {
    fn from(value: TextOrNumber) -> Self {
        match value {
            TextOrNumber::Text(text) => text,
            TextOrNumber::Number(number) => number.to_string(),
        }
    }
}

fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    TextOrNumber::deserialize(deserializer).map(Into::into)
}

pub(crate) fn maybe_text_or_number<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(Option::<TextOrNumber>::deserialize(deserializer)?.map(Into::into))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_come_as_text_or_as_numbers() {
        for json in [r#"{"key_id":"k","pending_days":"7"}"#, r#"{"key_id":"k","pending_days":7}"#] {
            assert_eq!(serde_json::from_str::<ScheduleDeletionRequest>(json).unwrap().pending_days, "7");
        }
        assert_eq!(serde_json::from_str::<ListKeysRequest>(r#"{"limit":null}"#).unwrap().limit, None);
    }

    #[test]
    fn secrets_are_not_quoted_in_errors() {
        let error = serde_json::from_str::<SecretHex>(r#""00q1""#).err().unwrap().to_string();
        assert!(!error.contains('q'), "{error}");
    }
}
