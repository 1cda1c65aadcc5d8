//! Who is asking: peers on the socket, client certificates, signed requests.
//!
//! ```text
//!   Authorization: SDK-HMAC-SHA256 ...  -->  huawei::Claim  --\
//!   Authorization: AWS4-HMAC-SHA256 ... -->  aws::Claim     ---+--> secret by access key id --> verify --> Verified
//! ```
//!
//! A `Claim` is what a request says about itself; only `verify`, with the secret that belongs to the access key, turns it into a
//! [`Verified`]. Verification is pure: the clock is an argument, and looking secrets up is the caller's business.
//!
//! A request may be sent again within the tolerance of the clock: both schemes stamp whole seconds, so that two honest, equal
//! requests of one second have the same signature. TLS keeps requests from being recorded on the way.

mod aws;
mod clock;
mod huawei;
mod request;

use axum::http::header;
use jiff::Timestamp;

use crate::domain::access_key::{AccessKeyId, AccessSecret};
pub(crate) use request::{RequestParts, decode};

/// What a request says about who signed it. Not to be believed before [`Claim::verify`].
#[derive(Debug)]
pub(crate) enum Claim<'a> {
    /// By `SDK-HMAC-SHA256`.
    Huawei(huawei::Claim<'a>),
    /// By `AWS4-HMAC-SHA256`.
    Aws(aws::Claim<'a>),
}

/// Proof that the owner of an access key's secret signed exactly this request, lately.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Verified {
    access_key: AccessKeyId,
}

impl Verified {
    /// The access key.
    pub(crate) const fn access_key(&self) -> &AccessKeyId {
        &self.access_key
    }
}

impl<'a> Claim<'a> {
    /// Reads the `Authorization` header and what belongs to it.
    ///
    /// # Errors
    /// If there is none, or it has not the form of either scheme.
    pub(crate) fn parse(request: &RequestParts<'a>) -> Result<Self, SignatureError> {
        let mut values = request.headers.get_all(header::AUTHORIZATION).into_iter();
        let value = values.next().ok_or(SignatureError::Missing)?;
        if values.next().is_some() {
            return Err(SignatureError::HeaderRepeated { header: "Authorization" });
        }
        let value = value.to_str().map_err(|_| SignatureError::Malformed { part: "Authorization" })?;
        let (algorithm, rest) = value.split_once(' ').unwrap_or((value, ""));
        match algorithm {
            huawei::ALGORITHM => huawei::Claim::parse(rest, request).map(Self::Huawei),
            aws::ALGORITHM => aws::Claim::parse(rest, request).map(Self::Aws),
            _ => Err(SignatureError::UnknownAlgorithm),
        }
    }

    /// The access key whose secret is needed.
    pub(crate) const fn access_key(&self) -> &AccessKeyId {
        match self {
            Self::Huawei(claim) => claim.access_key(),
            Self::Aws(claim) => claim.access_key(),
        }
    }

    /// The region that the request is meant for, where the scheme says one.
    pub(crate) const fn region(&self) -> Option<&'a str> {
        match self {
            Self::Huawei(_) => None,
            Self::Aws(claim) => Some(claim.region()),
        }
    }

    /// Checks the signature with the secret of [`Claim::access_key`], at the time `now`.
    ///
    /// # Errors
    /// If another secret made it, the request was changed, or it is older or newer than the tolerance allows.
    pub(crate) fn verify(
        self,
        request: &RequestParts<'_>,
        secret: &AccessSecret,
        now: Timestamp,
    ) -> Result<Verified, SignatureError> {
        match self {
            Self::Huawei(claim) => claim.verify(request, secret, now),
            Self::Aws(claim) => claim.verify(request, secret, now),
        }
    }
}

/// Why a request is not taken as signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignatureError {
    #[error("the request is not signed: it has no Authorization header")]
    Missing,
    #[error(
        "the Authorization header names no algorithm that is known here: use SDK-HMAC-SHA256 or AWS4-HMAC-SHA256"
    )]
    UnknownAlgorithm,
    #[error("{part} does not have its prescribed form")]
    Malformed { part: &'static str },
    #[error("the header {header} is missing")]
    HeaderMissing { header: &'static str },
    #[error("the header {header} is there more than once")]
    HeaderRepeated { header: &'static str },
    #[error("the header {header} is listed as signed and is missing")]
    SignedHeaderMissing { header: String },
    #[error("the header {header} has to be signed and is not")]
    HeaderNotSigned { header: String },
    #[error("the credential scope does not fit: its {part} has to be {expected}")]
    Scope { part: &'static str, expected: &'static str },
    #[error("temporary credentials are not known here")]
    SessionToken,
    #[error("the body has to be signed")]
    UnsignedBody,
    #[error("signed at {signed_at}, more than 15 minutes before {now}: set the client's clock")]
    Expired { signed_at: Timestamp, now: Timestamp },
    #[error("signed at {signed_at}, more than 15 minutes after {now}: set the client's clock")]
    NotYetValid { signed_at: Timestamp, now: Timestamp },
    #[error("the signature does not fit the request: check the secret access key")]
    Mismatch,
}

#[cfg(test)]
mod tests;
