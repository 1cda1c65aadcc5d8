//! The key service as this program needs it: a small trait, the adapter to kmsd, and a fake for unit tests.

#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod kmsd;

use thiserror::Error;

use crate::model::key::Key;

/// What `ecsctl key create` asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct NewKey {
    /// The alias; unique.
    pub(crate) alias: String,
    /// What the owner wants to remember of it.
    pub(crate) description: Option<String>,
}

/// Lifecycle of CMKs. Data keys are no business of this program: evsfs asks kmsd for them itself.
pub(crate) trait KeyService {
    /// Makes an enabled CMK in the token.
    ///
    /// # Errors
    /// [`KeyError`], as every method here.
    fn create(&self, new: &NewKey) -> Result<Key, KeyError>;
    /// Every key that the caller may know of, default keys included.
    fn list(&self) -> Result<Vec<Key>, KeyError>;
    /// One key by its ID.
    fn describe(&self, key_id: &str) -> Result<Key, KeyError>;
    /// Disabled to enabled.
    fn enable(&self, key_id: &str) -> Result<(), KeyError>;
    /// Enabled to disabled.
    fn disable(&self, key_id: &str) -> Result<(), KeyError>;
    /// Makes a newer version.
    fn rotate(&self, key_id: &str) -> Result<(), KeyError>;
    /// Has it rotated every so many days, or no longer.
    fn rotate_every(&self, key_id: &str, days: Option<u16>) -> Result<(), KeyError>;
    /// To pending deletion, destroyed after `days` days.
    fn schedule_deletion(&self, key_id: &str, days: u16) -> Result<(), KeyError>;
    /// Pending deletion to disabled.
    fn cancel_deletion(&self, key_id: &str) -> Result<(), KeyError>;
}

/// Why the key service did not do what it was asked.
#[derive(Debug, Error)]
pub(crate) enum KeyError {
    /// No such key, or none that the caller may know of.
    #[error("no key {key} that you may use")]
    NotFound {
        /// As it was asked for.
        key: String,
    },
    /// A rule or the key's state forbids it.
    #[error("{message} ({code})")]
    Refused {
        /// kmsd's code, such as `KMS.0209`.
        code: String,
        /// kmsd's words.
        message: String,
        /// What kmsd says to do about it.
        hint: Option<String>,
    },
    /// Nobody answers at the socket, or kmsd answers that its token is away. Trying again later may help.
    #[error("{message}")]
    Unavailable {
        /// What was tried, and what came of it.
        message: String,
    },
    /// The answer is not one that the API defines.
    #[error("{message}")]
    Protocol {
        /// What is wrong with it.
        message: String,
    },
}
