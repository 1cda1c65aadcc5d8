//! `AWS4-HMAC-SHA256`: Signature Version 4 in its header form.
//!
//! ```text
//! Authorization: AWS4-HMAC-SHA256 Credential=<id>/<day>/<region>/kms/aws4_request, SignedHeaders=<a;b;c>, Signature=<hex>
//! key = HMAC(HMAC(HMAC(HMAC("AWS4" secret, day), region), service), "aws4_request")
//! signature = HMAC(key, "AWS4-HMAC-SHA256\n" date "\n" scope "\n" hex(SHA-256(canonical request)))
//! ```
//!
//! Source: AWS General Reference, "Signing AWS API requests", and its test suite.

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{
    AccessKeyId, AccessSecret, SignatureError, Verified,
    clock::SigningTime,
    request::{Fields, RequestParts, SignedHeaders, encode, sha256_hex},
};

pub(super) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const DATE: &str = "x-amz-date";
/// Headers with this prefix change what a request means, so that each of them has to be signed.
const SIGNIFICANT: &str = "x-amz-";

/// The header's parts.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    access_key: AccessKeyId,
    scope: Scope<'a>,
    signed_headers: SignedHeaders<'a>,
    signature: [u8; 32],
    signed_at: SigningTime<'a>,
}

#[derive(Debug)]
struct Scope<'a> {
    /// All of it: `day/region/service/aws4_request`.
    text: &'a str,
    day: &'a str,
    region: &'a str,
    service: &'a str,
}

const TERMINATOR: &str = "aws4_request";

impl<'a> Scope<'a> {
    fn parse(text: &'a str) -> Result<Self, SignatureError> {
        const BAD: SignatureError = SignatureError::Malformed { part: "Credential" };
        let mut parts = text.split('/');
        let mut part = || parts.next().filter(|part| !part.is_empty()).ok_or(BAD);
        let (day, region, service, terminator) = (part()?, part()?, part()?, part()?);
        if parts.next().is_some() {
            return Err(BAD);
        }
        if terminator != TERMINATOR {
            return Err(SignatureError::Scope { part: "end", expected: TERMINATOR });
        }
        Ok(Self { text, day, region, service })
    }
}

impl<'a> Claim<'a> {
    /// Takes requests for this service only.
    pub(super) fn parse(fields: &'a str, request: &RequestParts<'a>) -> Result<Self, SignatureError> {
        let claim = Self::parse_any_service(fields, request)?;
        if claim.scope.service != "kms" {
            return Err(SignatureError::Scope { part: "service", expected: "kms" });
        }
        Ok(claim)
    }

    fn parse_any_service(fields: &'a str, request: &RequestParts<'a>) -> Result<Self, SignatureError> {
        let Fields { who, signed_headers, signature } = Fields::parse(fields, "Credential")?;
        const BAD_CREDENTIAL: SignatureError = SignatureError::Malformed { part: "Credential" };
        let (access_key, scope) = who.split_once('/').ok_or(BAD_CREDENTIAL)?;
        let access_key = access_key.parse().map_err(|_| BAD_CREDENTIAL)?;
        let scope = Scope::parse(scope)?;
        let signed_at = SigningTime::parse("X-Amz-Date", request.header(DATE)?)?;
        if scope.day != signed_at.day() {
            return Err(SignatureError::Scope { part: "date", expected: "the day of X-Amz-Date" });
        }
        signed_headers.require("host")?;
        for name in request.headers.keys().map(axum::http::HeaderName::as_str) {
            match name {
                "x-amz-security-token" => return Err(SignatureError::SessionToken),
                _ if name.starts_with(SIGNIFICANT) => signed_headers.require(name)?,
                _ => {}
            }
        }
        Ok(Self { access_key, scope, signed_headers, signature, signed_at })
    }

    pub(super) const fn access_key(&self) -> &AccessKeyId {
        &self.access_key
    }

    pub(super) const fn region(&self) -> &'a str {
        self.scope.region
    }

    pub(super) fn verify(
        self,
        request: &RequestParts<'_>,
        secret: &AccessSecret,
        now: Timestamp,
    ) -> Result<Verified, SignatureError> {
        self.signed_at.check(now)?;
        let canonical =
            request.canonical(&canonical_path(request.path), &self.signed_headers, single_spaced)?;
        let key = self.signing_key(secret);
        let mut mac = keyed(&*key);
        for part in [ALGORITHM, "\n", self.signed_at.as_str(), "\n", self.scope.text, "\n"] {
            mac.update(part.as_bytes());
        }
        mac.update(sha256_hex(canonical.as_bytes()).as_bytes());
        // Compares in constant time.
        mac.verify_slice(&self.signature).map_err(|_| SignatureError::Mismatch)?;
        Ok(Verified { access_key: self.access_key })
    }

    fn signing_key(&self, secret: &AccessSecret) -> Zeroizing<[u8; 32]> {
        let mut seed = Zeroizing::new(Vec::with_capacity(4 + secret.expose().len()));
        seed.extend_from_slice(b"AWS4");
        seed.extend_from_slice(secret.expose().as_bytes());
        let mut key = chain(&seed, self.scope.day);
        for part in [self.scope.region, self.scope.service, TERMINATOR] {
            key = chain(&*key, part);
        }
        key
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn chain(key: &[u8], message: &str) -> Zeroizing<[u8; 32]> {
    let mut mac = keyed(key);
    mac.update(message.as_bytes());
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// Without white space at the ends, and with single spaces inside.
fn single_spaced(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// Dot segments and double slashes resolved, then each segment of what was sent encoded (once more).
fn canonical_path(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut canonical = String::from("/");
    canonical
        .push_str(&segments.iter().map(|segment| encode(segment.as_bytes())).collect::<Vec<_>>().join("/"));
    if canonical.len() > 1 && path.ends_with('/') {
        canonical.push('/');
    }
    canonical
}

#[cfg(test)]
mod tests;
