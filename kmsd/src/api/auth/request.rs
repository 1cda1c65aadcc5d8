//! A request as signatures see it, and the pieces that the signature schemes put together in their own way.

use axum::http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

use super::SignatureError;

/// What a signature covers: the request as it came, before anything in it was believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestParts<'a> {
    /// The method, in capitals.
    pub(crate) method: &'a str,
    /// The path as sent, escapes and all.
    pub(crate) path: &'a str,
    /// The query as sent, without the question mark.
    pub(crate) query: &'a str,
    /// All headers.
    pub(crate) headers: &'a HeaderMap,
    /// The whole body.
    pub(crate) body: &'a [u8],
}

impl<'a> RequestParts<'a> {
    /// The only value of a header, which has to be there exactly once and be text.
    pub(super) fn header(&self, name: &'static str) -> Result<&'a str, SignatureError> {
        let mut values = self.headers.get_all(name).into_iter();
        let first = values.next().ok_or(SignatureError::HeaderMissing { header: name })?;
        if values.next().is_some() {
            return Err(SignatureError::HeaderRepeated { header: name });
        }
        std::str::from_utf8(first.as_bytes()).map_err(|_| SignatureError::Malformed { part: name })
    }

    /// What both schemes hash: the request in its one canonical form. The path comes in the scheme's own form, `trim` is its rule for
    /// white space in headers. Always over the body that came, whatever a header says of it: an unsigned body never verifies.
    pub(super) fn canonical(
        &self,
        path: &str,
        signed: &SignedHeaders<'_>,
        trim: impl Fn(&str) -> String,
    ) -> Result<String, SignatureError> {
        Ok(format!(
            "{}\n{path}\n{}\n{}\n{}\n{}",
            self.method,
            self.canonical_query(),
            self.canonical_headers(signed, trim)?,
            signed.as_str(),
            self.body_hash(),
        ))
    }

    /// Hexadecimal SHA-256 of the body.
    fn body_hash(&self) -> String {
        sha256_hex(self.body)
    }

    /// `name:value` lines of the signed headers, in the order in which they were signed. `trim` is the scheme's rule for white space.
    fn canonical_headers(
        &self,
        signed: &SignedHeaders<'_>,
        trim: impl Fn(&str) -> String,
    ) -> Result<String, SignatureError> {
        let mut lines = String::new();
        for name in signed.names() {
            let mut values = Vec::new();
            for value in self.headers.get_all(name) {
                let text = std::str::from_utf8(value.as_bytes())
                    .map_err(|_| SignatureError::Malformed { part: "a signed header" })?;
                values.push(trim(text));
            }
            if values.is_empty() {
                return Err(SignatureError::SignedHeaderMissing { header: name.to_owned() });
            }
            lines.push_str(name);
            lines.push(':');
            lines.push_str(&values.join(","));
            lines.push('\n');
        }
        Ok(lines)
    }

    /// The query with its pairs decoded, sorted and encoded in the one canonical way.
    fn canonical_query(&self) -> String {
        let mut pairs: Vec<(String, String)> = self
            .query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (encode(&decode(key)), encode(&decode(value)))
            })
            .collect();
        pairs.sort();
        let pairs: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join("&")
    }
}

/// What both schemes have in their `Authorization` header, behind the algorithm: `<who>=..., SignedHeaders=..., Signature=...`, each once and in any order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    /// The value of the field that names the access key.
    pub(super) who: &'a str,
    pub(super) signed_headers: SignedHeaders<'a>,
    pub(super) signature: [u8; 32],
}

impl<'a> Fields<'a> {
    /// `who` is the scheme's name of the field that names the access key.
    pub(super) fn parse(fields: &'a str, who: &'static str) -> Result<Self, SignatureError> {
        const BAD: SignatureError = SignatureError::Malformed { part: "Authorization" };
        let (mut credential, mut signed, mut signature) = (None, None, None);
        for field in fields.split(',') {
            let (name, value) = field.trim().split_once('=').ok_or(BAD)?;
            let slot = match name {
                "SignedHeaders" => &mut signed,
                "Signature" => &mut signature,
                _ if name == who => &mut credential,
                _ => return Err(BAD),
            };
            if slot.replace(value).is_some() {
                return Err(BAD);
            }
        }
        let (who, signed, text) = (credential.ok_or(BAD)?, signed.ok_or(BAD)?, signature.ok_or(BAD)?);
        let mut signature = [0; 32];
        hex::decode_to_slice(text, &mut signature)
            .map_err(|_| SignatureError::Malformed { part: "Signature" })?;
        Ok(Self { who, signed_headers: SignedHeaders::parse(signed)?, signature })
    }
}

/// The `SignedHeaders` list: header names in lower case, sorted, separated by semicolons.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignedHeaders<'a>(&'a str);

impl<'a> SignedHeaders<'a> {
    /// Most headers that a signature may cover.
    const MAX: usize = 64;

    pub(super) fn parse(list: &'a str) -> Result<Self, SignatureError> {
        const BAD: SignatureError = SignatureError::Malformed { part: "SignedHeaders" };
        let names: Vec<&str> = list.split(';').collect();
        let valid = names.iter().all(|name| {
            name.parse::<HeaderName>().is_ok() && !name.bytes().any(|byte| byte.is_ascii_uppercase())
        });
        // Strictly ascending: a name given twice would be a second reading of the same bytes.
        if !valid || names.len() > Self::MAX || !names.is_sorted_by(|a, b| a < b) {
            return Err(BAD);
        }
        Ok(Self(list))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.0.split(';')
    }

    pub(super) const fn as_str(&self) -> &'a str {
        self.0
    }

    /// Demands that a header is covered.
    pub(super) fn require(&self, header: &str) -> Result<(), SignatureError> {
        if self.names().any(|name| name == header) {
            return Ok(());
        }
        Err(SignatureError::HeaderNotSigned { header: header.to_owned() })
    }
}

/// Percent-encodes all but RFC 3986's unreserved characters.
pub(super) fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    out
}

/// Undoes percent-encoding; what is not an escape stays as it is.
pub(crate) fn decode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if let (b'%', [high, low, tail @ ..]) = (first, after)
            && let (Some(high), Some(low)) = (nibble(*high), nibble(*low))
        {
            out.push(high << 4 | low);
            rest = tail;
        } else {
            out.push(*first);
            rest = after;
        }
    }
    out
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone_and_made_in_one_way() {
        assert_eq!(encode("a b/ü~".as_bytes()), "a%20b%2F%C3%BC~");
        assert_eq!(decode("a%20b%2f%C3%bc~"), "a b/ü~".as_bytes());
        assert_eq!(decode("%"), b"%");
        assert_eq!(decode("%4"), b"%4");
        assert_eq!(decode("%+1%zz"), b"%+1%zz");
    }

    #[test]
    fn signed_headers_are_sorted_lower_case_and_given_once() {
        assert!(SignedHeaders::parse("host;x-sdk-date").is_ok());
        for bad in ["", ";", "Host;x-sdk-date", "host;host", "x-sdk-date;host", "host;", "ho st"] {
            assert_eq!(
                SignedHeaders::parse(bad).err(),
                Some(SignatureError::Malformed { part: "SignedHeaders" }),
                "{bad}"
            );
        }
    }
}
