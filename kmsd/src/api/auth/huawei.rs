//! `SDK-HMAC-SHA256`, the request signature of Huawei Cloud's and Open Telekom Cloud's SDKs.
//!
//! ```text
//! Authorization: SDK-HMAC-SHA256 Access=<id>, SignedHeaders=<a;b;c>, Signature=<hex>
//! signature = HMAC(secret, "SDK-HMAC-SHA256\n" date "\n" hex(SHA-256(canonical request)))
//! canonical request = method "\n" path/ "\n" query "\n" header lines "\n" signed headers "\n" hex(SHA-256(body))
//! ```
//!
//! Source: the signer of the public `huaweicloudsdkcore` package, and Huawei Cloud's API request signing guide.

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;

use super::{
    AccessKeyId, AccessSecret, SignatureError, Verified,
    clock::SigningTime,
    request::{Fields, RequestParts, SignedHeaders, decode, encode, sha256_hex},
};

pub(super) const ALGORITHM: &str = "SDK-HMAC-SHA256";
const DATE: &str = "x-sdk-date";
const CONTENT_HASH: &str = "x-sdk-content-sha256";
const AWS_TARGET: &str = "x-amz-target";

/// The header's parts.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    access_key: AccessKeyId,
    signed_headers: SignedHeaders<'a>,
    signature: [u8; 32],
    signed_at: SigningTime<'a>,
}

impl<'a> Claim<'a> {
    pub(super) fn parse(fields: &'a str, request: &RequestParts<'a>) -> Result<Self, SignatureError> {
        let Fields { who, signed_headers, signature } = Fields::parse(fields, "Access")?;
        let access_key = who.parse().map_err(|_| SignatureError::Malformed { part: "Access" })?;
        signed_headers.require("host")?;
        signed_headers.require(DATE)?;
        // It says which protocol the body is of, so it must not be put on by somebody else.
        if request.headers.contains_key(AWS_TARGET) {
            signed_headers.require(AWS_TARGET)?;
        }
        if request.headers.get(CONTENT_HASH).is_some_and(|value| value == "UNSIGNED-PAYLOAD") {
            return Err(SignatureError::UnsignedBody);
        }
        let signed_at = SigningTime::parse("X-Sdk-Date", request.header(DATE)?)?;
        Ok(Self { access_key, signed_headers, signature, signed_at })
    }

    pub(super) const fn access_key(&self) -> &AccessKeyId {
        &self.access_key
    }

    pub(super) fn verify(
        self,
        request: &RequestParts<'_>,
        secret: &AccessSecret,
        now: Timestamp,
    ) -> Result<Verified, SignatureError> {
        self.signed_at.check(now)?;
        let canonical = request.canonical(&canonical_path(request.path), &self.signed_headers, |value| {
            value.trim().to_owned()
        })?;
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
            .expect("HMAC takes keys of any length");
        mac.update(ALGORITHM.as_bytes());
        mac.update(b"\n");
        mac.update(self.signed_at.as_str().as_bytes());
        mac.update(b"\n");
        mac.update(sha256_hex(canonical.as_bytes()).as_bytes());
        // Compares in constant time.
        mac.verify_slice(&self.signature).map_err(|_| SignatureError::Mismatch)?;
        Ok(Verified { access_key: self.access_key })
    }
}

/// Each segment decoded and encoded again, with a slash at the end.
fn canonical_path(path: &str) -> String {
    let decoded = decode(path);
    let mut canonical = decoded.split(|&byte| byte == b'/').map(encode).collect::<Vec<_>>().join("/");
    if !canonical.ends_with('/') {
        canonical.push('/');
    }
    canonical
}

#[cfg(test)]
mod tests;
