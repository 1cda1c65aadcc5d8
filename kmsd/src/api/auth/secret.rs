//! Access keys' names and secrets.

use std::{fmt, str::FromStr};

use zeroize::{Zeroize, ZeroizeOnDrop};

/// The public half of an access key: 1 to 128 letters and digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AccessKeyId(String);

/// Not an access key id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an access key id has 1 to 128 letters and digits")]
pub(crate) struct InvalidAccessKeyId;

impl AccessKeyId {
    /// Characters of an id that this service makes: 100 bits.
    pub(crate) const LEN: usize = 20;
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

    /// Makes one from random bytes.
    pub(crate) fn from_random(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes.iter().map(|byte| char::from(Self::ALPHABET[usize::from(byte & 31)])).collect())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccessKeyId {
    type Err = InvalidAccessKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidAccessKeyId> {
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidAccessKeyId) }
    }
}

impl fmt::Display for AccessKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The secret half of an access key. Wiped when dropped, printed by nothing.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct AccessSecret(Box<str>);

impl AccessSecret {
    /// Takes the text of a secret.
    pub(crate) fn new(text: &str) -> Self {
        // One allocation of the final size: nothing is left behind by growing.
        Self(Box::from(text))
    }

    /// The text that signatures are keyed by.
    pub(crate) const fn expose(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_made_are_valid() {
        let id = AccessKeyId::from_random([0xff; AccessKeyId::LEN]);
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        for bad in ["", "AKID EXAMPLE", "AKIDEXAMPLE;X", "AKID\u{e4}", "A".repeat(129).as_str()] {
            assert_eq!(bad.parse::<AccessKeyId>(), Err(InvalidAccessKeyId), "{bad}");
        }
    }
}
