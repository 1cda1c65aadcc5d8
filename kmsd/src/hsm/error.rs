//! What a token can answer instead of a result.

use std::{path::PathBuf, time::Duration};

use super::TokenIdentity;
use crate::domain::reconcile::ObjectId;

/// Why the token did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HsmError {
    /// The module cannot be loaded.
    #[error("the PKCS#11 module {path} cannot be loaded: {reason} (check [token] module in kmsd.toml, and that the package is installed)", path = path.display())]
    Module {
        /// Its path.
        path: PathBuf,
        /// The loader's reason.
        reason: String,
    },
    /// No slot has such a token.
    #[error("no token {wanted} in any slot of the module; it has: {found} (is it plugged in? check [token] in kmsd.toml and its environment, such as SOFTHSM2_CONF)", found = list(found))]
    TokenAbsent {
        /// What was looked for.
        wanted: String,
        /// What is there.
        found: Vec<TokenIdentity>,
    },
    /// The token has another serial number than the one that the store is bound to.
    #[error(
        "the token {found} is not the token {expected} that this store is bound to: plug in the right one"
    )]
    WrongToken {
        /// The store's.
        expected: TokenIdentity,
        /// What is there.
        found: TokenIdentity,
    },
    /// The PIN file cannot be used.
    #[error("the PIN file {path} cannot be used: {reason}", path = path.display())]
    PinFile {
        /// Its path.
        path: PathBuf,
        /// Why not, and what to do.
        reason: PinFault,
    },
    /// The token refused the PIN. It is not tried again until its file changes: tokens lock after a few tries.
    #[error("the token {token} refused the PIN from {path} ({code}): correct the file; it is not tried again before it changes, because tokens lock after a few wrong PINs", path = path.display())]
    PinRefused {
        /// The token.
        token: TokenIdentity,
        /// Where the PIN is from.
        path: PathBuf,
        /// The token's code.
        code: String,
    },
    /// The token has no such object.
    #[error("the token has no object {}/{}", object.key, object.version)]
    NoObject {
        /// The object.
        object: ObjectId,
    },
    /// A key is to be made where there is one.
    #[error("the token has an object {}/{} already: another is not made beside it", object.key, object.version)]
    Occupied {
        /// The object.
        object: ObjectId,
    },
    /// An object that kmsd did not make so.
    #[error(
        "the token's object {}/{} is not protected as a master key is (K1): it is not used", object.key, object.version
    )]
    Unprotected {
        /// The object.
        object: ObjectId,
    },
    /// The token does not have the key that guards store and audit log.
    #[error(
        "the token has no integrity key of kmsd: it was initialised anew, or it is another one. Restore the token from its backup"
    )]
    NoIntegrityKey,
    /// The token has not what it made beside material that was imported before.
    #[error(
        "the token has no longer the key that authenticates what {}/{} wrapped before its material was deleted: restore the token from its backup, or import into a new key",
        object.key,
        object.version
    )]
    NoMacKey {
        /// The object.
        object: ObjectId,
    },
    /// The token has no such RSA pair.
    #[error("the token has no RSA pair for that import")]
    NoPair,
    /// The token's RSA-OAEP does not take the hash.
    #[error("the token cannot unwrap with that hash")]
    OaepHash,
    /// A ciphertext is not authentic.
    #[error("the ciphertext does not open")]
    DoesNotOpen,
    /// The token cannot do what is needed.
    #[error("the token lacks {feature}")]
    Lacks {
        /// What.
        feature: &'static str,
    },
    /// The session, the login or the token itself is gone. Recovered from, then tried once more.
    #[error("the token was lost in {function} ({code})")]
    Lost {
        /// The PKCS#11 function.
        function: String,
        /// The code.
        code: String,
    },
    /// A general failure: the session or the token may be gone, or this one call is refused.
    #[error("the token failed in {function} ({code})")]
    Unclear {
        /// The PKCS#11 function.
        function: String,
        /// The code.
        code: String,
    },
    /// All sessions that the token allows are in use.
    #[error(
        "the token allows no more sessions: close other programs that use it, or lower [token] sessions in kmsd.toml"
    )]
    NoSession,
    /// Any other refusal of the token.
    #[error("the token refused {function} ({code})")]
    Failed {
        /// The PKCS#11 function.
        function: String,
        /// The code.
        code: String,
    },
    /// The token is away; it is looked for all the time.
    #[error("the token is away for {} s: {cause}", since.as_secs())]
    Away {
        /// For how long.
        since: Duration,
        /// Why.
        cause: Box<Self>,
    },
    /// Too many requests wait for the token.
    #[error("{waiting} requests wait for the token already")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// The pool has been shut down.
    #[error("the service is shutting down")]
    Stopped,
}

/// What is wrong with a PIN file.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PinFault {
    /// Cannot be read.
    #[error("{0} (kmsd's user must be able to read it)")]
    Unreadable(std::io::ErrorKind),
    /// Others may read it.
    #[error("its mode {mode:04o} lets others read it: chmod 600 it")]
    Exposed {
        /// The mode.
        mode: u32,
    },
    /// Nothing in it.
    #[error("it is empty: put the token's user PIN into it, on one line")]
    Empty,
    /// Too long, or not text.
    #[error("it does not hold a PIN: one line of at most 255 bytes of text")]
    Malformed,
}

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing: it is an answer.
    None,
    /// Get the token back, and try once more.
    Reinitialise,
    /// Wait: only the operator can change it.
    Operator,
}

impl HsmError {
    /// What to do about it.
    #[must_use]
    pub const fn recovery(&self) -> Recovery {
        match self {
            Self::Lost { .. } | Self::Unclear { .. } | Self::TokenAbsent { .. } => Recovery::Reinitialise,
            Self::Module { .. }
            | Self::WrongToken { .. }
            | Self::PinFile { .. }
            | Self::PinRefused { .. } => Recovery::Operator,
            Self::NoObject { .. }
            | Self::Occupied { .. }
            | Self::Unprotected { .. }
            | Self::NoIntegrityKey
            | Self::NoMacKey { .. }
            | Self::NoPair
            | Self::OaepHash
            | Self::DoesNotOpen
            | Self::Lacks { .. }
            | Self::NoSession
            | Self::Failed { .. }
            | Self::Away { .. }
            | Self::Busy { .. }
            | Self::Stopped => Recovery::None,
        }
    }

    /// Whether the same request may work later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Lost { .. }
                | Self::Unclear { .. }
                | Self::TokenAbsent { .. }
                | Self::NoSession
                | Self::Away { .. }
                | Self::Busy { .. }
                | Self::Stopped
        )
    }
}

fn list(tokens: &[TokenIdentity]) -> String {
    if tokens.is_empty() {
        return "none".to_owned();
    }
    tokens.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
