//! Why the service did not do it.

use crate::{domain::Refusal, hsm::HsmError, store::CommitError};

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
    /// Whether the same request may work later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Random(_) => false,
            Self::Hsm(error) => error.is_retryable(),
            Self::Store(_) | Self::Interrupted | Self::TimedOut { .. } => true,
        }
    }
}
