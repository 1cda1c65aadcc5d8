//! Why the service did not do it.

use crate::{audit::AuditError, domain::Refusal, hsm::HsmError, store::CommitError};

/// A refusal by rule, or a failure of what the service stands on.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A rule.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The token.
    #[error(transparent)]
    Hsm(#[from] HsmError),
    /// The store.
    #[error("the change could not be recorded: {0}")]
    Store(#[from] CommitError),
    /// The audit log. What was to be given out is not; what was to be done is not done, or its record says *intent* only.
    #[error("{0}")]
    Audit(#[from] AuditError),
    /// The system has no randomness.
    #[error("the system's random generator failed: {0}")]
    Random(#[from] getrandom::Error),
    /// A bug, or the runtime is going down.
    #[error("the operation was interrupted")]
    Interrupted,
    /// Not done in time. It may still be done.
    #[error("the operation took longer than {seconds} s")]
    TimedOut {
        /// The bound.
        seconds: u64,
    },
}

impl ServiceError {
    /// The published code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Hsm(error) if error.is_retryable() => "KMS.0104",
            Self::Hsm(_) | Self::Random(_) => "KMS.0101",
            Self::Store(_) | Self::Audit(_) => "KMS.0102",
            Self::Interrupted => "KMS.0103",
            Self::TimedOut { .. } => "KMS.0104",
        }
    }

    /// Whether the same request may work later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Random(_) => false,
            Self::Hsm(error) => error.is_retryable(),
            Self::Store(_) | Self::Audit(_) | Self::Interrupted | Self::TimedOut { .. } => true,
        }
    }
}
