//! A fixed number of bytes as hexadecimal digits, for `#[serde(with)]`.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

pub(super) fn serialize<const N: usize, S: Serializer>(
    bytes: &[u8; N],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(bytes))
}

pub(super) fn deserialize<'de, const N: usize, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<[u8; N], D::Error> {
    let digits = String::deserialize(deserializer)?;
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).map_err(D::Error::custom)?;
    Ok(bytes)
}
