//! Error names, as the published model and the page of common errors have them.

use hyper::StatusCode;

use crate::{
    api::{answer, auth::SignatureError, net::BodyFault},
    domain::{Caller, Refusal, operation::StateFault},
    service::ServiceError,
};

/// Why a request is not answered with a result.
#[derive(Debug, thiserror::Error)]
pub(in crate::api) enum Fault {
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("the access key in the request is not known")]
    UnknownAccessKey,
    #[error(transparent)]
    Body(#[from] BodyFault),
    #[error("there is no such operation")]
    UnknownOperation,
    #[error("the request is not valid JSON of this operation (line {line}, column {column})")]
    Serialization { line: usize, column: usize },
    #[error("the parameter {name} is not valid: {expected}")]
    Validation { name: &'static str, expected: &'static str },
    #[error("{what} is not supported by this service")]
    Unsupported { what: &'static str },
    #[error("the key {key:?} does not exist, or you may not use it")]
    NoSuchKey { key: String },
    #[error("{arn:?} is not the ARN of a key or an alias")]
    InvalidArn { arn: String },
    #[error("the grant token is not one that this service gave")]
    InvalidGrantToken,
    #[error("the marker is not one that an earlier page gave")]
    InvalidMarker,
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Service(refusal.into())
    }
}

impl Fault {
    /// Status and published name. All that is the client's fault is 400 in this protocol.
    pub(super) fn classify(&self) -> (StatusCode, &'static str) {
        let name = match self {
            Self::Signature(error) => signature(error),
            Self::UnknownAccessKey => "UnrecognizedClientException",
            Self::Body(BodyFault::TooLong { .. }) => {
                return (StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLargeException");
            }
            Self::Body(BodyFault::TooSlow | BodyFault::Broken) | Self::Serialization { .. } => {
                "SerializationException"
            }
            Self::UnknownOperation => "UnknownOperationException",
            Self::Validation { .. } => "ValidationException",
            Self::Unsupported { .. } => "UnsupportedOperationException",
            Self::NoSuchKey { .. } => "NotFoundException",
            Self::InvalidArn { .. } => "InvalidArnException",
            Self::InvalidGrantToken => "InvalidGrantTokenException",
            Self::InvalidMarker => "InvalidMarkerException",
            Self::Service(ServiceError::Refused(refusal)) => match refusal {
                Refusal::MaterialMissing { .. } => {
                    return (StatusCode::INTERNAL_SERVER_ERROR, "KeyUnavailableException");
                }
                refusal => refused(refusal),
            },
            Self::Service(ServiceError::TimedOut { .. }) => {
                return (StatusCode::SERVICE_UNAVAILABLE, "DependencyTimeoutException");
            }
            Self::Service(error) if error.is_retryable() => {
                return (StatusCode::INTERNAL_SERVER_ERROR, "KeyUnavailableException");
            }
            Self::Service(_) => return (StatusCode::INTERNAL_SERVER_ERROR, "KMSInternalException"),
        };
        (StatusCode::BAD_REQUEST, name)
    }

    /// The text; of what the token and the store say only administrators learn the details.
    pub(super) fn message(&self, caller: Option<&Caller>) -> String {
        match (self, caller) {
            (Self::Service(error), Some(caller)) => answer::message(caller, error),
            (Self::Service(ServiceError::Refused(refusal)), None) => refusal.to_string(),
            (Self::Service(_), None) => "the key service cannot answer now".to_owned(),
            _ => self.to_string(),
        }
    }
}

const fn signature(error: &SignatureError) -> &'static str {
    match error {
        SignatureError::Missing => "MissingAuthenticationTokenException",
        SignatureError::SessionToken => "UnrecognizedClientException",
        SignatureError::UnknownAlgorithm
        | SignatureError::Malformed { .. }
        | SignatureError::HeaderMissing { .. }
        | SignatureError::HeaderRepeated { .. }
        | SignatureError::SignedHeaderMissing { .. } => "IncompleteSignatureException",
        SignatureError::HeaderNotSigned { .. }
        | SignatureError::Scope { .. }
        | SignatureError::UnsignedBody
        | SignatureError::Expired { .. }
        | SignatureError::NotYetValid { .. }
        | SignatureError::Mismatch => "InvalidSignatureException",
    }
}

const fn refused(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NoSuchKey { .. }
        | Refusal::Destroyed { .. }
        | Refusal::NoSuchAccessKey { .. }
        | Refusal::NoSuchGrant { .. }
        | Refusal::NoSuchAlias { .. }
        | Refusal::NoSuchAnchor { .. } => "NotFoundException",
        Refusal::GrantIdInvalid(_) => "InvalidGrantIdException",
        Refusal::Policy(_) => "MalformedPolicyDocumentException",
        Refusal::AliasIsName { .. } => "KMSInvalidStateException",
        Refusal::State { fault, .. } => match fault {
            StateFault::Disabled => "DisabledException",
            StateFault::Imported => "UnsupportedOperationException",
            StateFault::PendingDeletion
            | StateFault::NoMaterial
            | StateFault::NotDisabled
            | StateFault::NotEnabled
            | StateFault::AlreadyPendingDeletion
            | StateFault::NotPendingDeletion
            | StateFault::NotPendingImport
            | StateFault::MaterialInUse => "KMSInvalidStateException",
        },
        Refusal::DefaultKey { .. }
        | Refusal::NotPermitted { .. }
        | Refusal::GrantTooWide { .. }
        | Refusal::NotAdministrator { .. }
        | Refusal::AnchorNotPermitted { .. } => "AccessDeniedException",
        Refusal::AliasTaken { .. } => "AlreadyExistsException",
        Refusal::AliasReserved { .. } | Refusal::AliasInvalid(_) => "InvalidAliasNameException",
        Refusal::Envelope(_) | Refusal::DoesNotOpen { .. } | Refusal::VersionGone { .. } => {
            "InvalidCiphertextException"
        }
        Refusal::OtherKey { .. } => "IncorrectKeyException",
        Refusal::ImportTokenInvalid { .. } => "InvalidImportTokenException",
        Refusal::ImportTokenExpired { .. } => "ExpiredImportTokenException",
        Refusal::MaterialInvalid { .. } => "InvalidCiphertextException",
        Refusal::OtherMaterial { .. } => "IncorrectKeyMaterialException",
        Refusal::ImportUnderWay { .. } => "KMSInvalidStateException",
        Refusal::NotExternal { .. } => "UnsupportedOperationException",
        Refusal::TagInvalid => "TagException",
        Refusal::TooManyTags { .. }
        | Refusal::TooManyKeys { .. }
        | Refusal::TooManyKeysOfOne { .. }
        | Refusal::TooManyAccessKeys { .. }
        | Refusal::TooManyGrants { .. }
        | Refusal::TooManyGrantsInAll { .. }
        | Refusal::TooManyGrantsOfOne { .. }
        | Refusal::TooManyAliases { .. }
        | Refusal::TooManyAnchors { .. }
        | Refusal::TooManyAnchorsOfOne { .. }
        | Refusal::TooManyRotations { .. } => "LimitExceededException",
        Refusal::RotationUnderWay { .. }
        | Refusal::Unfinished { .. }
        | Refusal::HalfMade { .. }
        | Refusal::LeaseHeld { .. }
        | Refusal::LeaseOfEarlierBoot { .. }
        | Refusal::LeasesForgotten { .. }
        | Refusal::LeaseLost { .. } => "ConflictException",
        Refusal::MaterialMissing { .. } | Refusal::AccessKeyDamaged { .. } => "KMSInternalException",
        Refusal::BodyInvalid { .. } | Refusal::BodyTooLong { .. } => "SerializationException",
        Refusal::NoSuchVerb => "UnknownOperationException",
        Refusal::DescriptionTooLong { .. }
        | Refusal::DeletionPeriod { .. }
        | Refusal::ContextTooLong(_)
        | Refusal::ParameterMissing { .. }
        | Refusal::ParameterInvalid { .. }
        | Refusal::DatakeyLength
        | Refusal::GrantEmpty
        | Refusal::GranteeInvalid
        | Refusal::RotationEnabled { .. }
        | Refusal::RotationNotEnabled { .. }
        | Refusal::RotationInterval { .. }
        | Refusal::AnchorBehind { .. } => "ValidationException",
    }
}
