//! Who asks: taken from the connection, never from the request's body.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::access_key::AccessKeyId;

/// An identity that the transport has proved. Written `uid:1000`, `cert:<sha-256>`, `key:<access key id>`, `system`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Principal {
    /// The service itself: owner of default keys.
    System,
    /// A local user, from the socket's peer credentials.
    Uid(u32),
    /// A client certificate, by the SHA-256 of its public key info.
    Certificate([u8; 32]),
    /// An access key that signed the request, by its id.
    AccessKey(String),
}

/// Not a principal's written form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a principal is written uid:<number>, cert:<64 hexadecimal digits> or key:<access key id>")]
pub struct InvalidPrincipal;

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Uid(uid) => write!(f, "uid:{uid}"),
            Self::Certificate(digest) => write!(f, "cert:{}", hex::encode(digest)),
            Self::AccessKey(id) => write!(f, "key:{id}"),
        }
    }
}

impl Principal {
    /// Somebody whom a request names: the written form, or an access key's id alone, or an ARN that ends in it. Nobody can
    /// name the service itself.
    ///
    /// # Errors
    /// Unless it is one of these.
    pub fn named(text: &str) -> Result<Self, InvalidPrincipal> {
        let name = match text.strip_prefix("arn:") {
            Some(arn) => arn.split_once(":user/").ok_or(InvalidPrincipal)?.1,
            None => text,
        };
        match name.parse() {
            Ok(Self::System) => Err(InvalidPrincipal),
            Ok(principal) => Ok(principal),
            Err(_) => {
                let id: AccessKeyId = name.parse().map_err(|_| InvalidPrincipal)?;
                Ok(Self::AccessKey(id.to_string()))
            }
        }
    }
}

impl FromStr for Principal {
    type Err = InvalidPrincipal;

    fn from_str(text: &str) -> Result<Self, InvalidPrincipal> {
        if text == "system" {
            return Ok(Self::System);
        }
        match text.split_once(':').ok_or(InvalidPrincipal)? {
            ("uid", uid) => uid.parse().map(Self::Uid).map_err(|_| InvalidPrincipal),
            ("cert", digits) => {
                let mut digest = [0; 32];
                hex::decode_to_slice(digits, &mut digest).map_err(|_| InvalidPrincipal)?;
                Ok(Self::Certificate(digest))
            }
            ("key", id) if !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric()) => {
                Ok(Self::AccessKey(id.to_owned()))
            }
            _ => Err(InvalidPrincipal),
        }
    }
}

impl From<Principal> for String {
    fn from(principal: Principal) -> Self {
        principal.to_string()
    }
}

impl TryFrom<String> for Principal {
    type Error = InvalidPrincipal;

    fn try_from(text: String) -> Result<Self, InvalidPrincipal> {
        text.parse()
    }
}

/// A principal with what the configuration says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who.
    pub principal: Principal,
    /// Whether it may do everything.
    pub is_admin: bool,
}

impl Caller {
    /// The service itself, for what it does unasked.
    pub const SYSTEM: Self = Self { principal: Principal::System, is_admin: true };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_have_one_written_form() {
        for text in ["system", "uid:0", "uid:1000", "key:AK1", &format!("cert:{}", "ab".repeat(32))] {
            assert_eq!(text.parse::<Principal>().unwrap().to_string(), text);
        }
        for (text, written) in [
            ("uid:5", "uid:5"),
            ("key:AK1", "key:AK1"),
            ("AK1", "key:AK1"),
            ("arn:aws:iam::000000000000:user/AK1", "key:AK1"),
            ("arn:aws:iam::1:user/uid:5", "uid:5"),
        ] {
            assert_eq!(Principal::named(text).unwrap().to_string(), written);
        }
        for text in ["system", "", "a b", "arn:aws:iam::1:role/x", "arn:aws:iam::1:user/system"] {
            assert_eq!(Principal::named(text), Err(InvalidPrincipal), "{text}");
        }
        for text in ["", "root", "uid:", "uid:-1", "cert:ab", "key:", "key:a b"] {
            assert_eq!(text.parse::<Principal>(), Err(InvalidPrincipal), "{text}");
        }
    }
}
