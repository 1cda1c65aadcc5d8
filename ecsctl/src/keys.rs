//! The key service as this program needs it: a small trait, the adapter to kmsd, and a fake for unit tests.

#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod kmsd;
pub(crate) mod material;

use ::kmsd::domain::grant::GrantSpec;
use jiff::Timestamp;
use thiserror::Error;
use uuid::Uuid;

use self::material::Material;
use crate::model::key::{Grant, Key};

/// What `ecsctl key create` asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct NewKey {
    /// The alias; unique.
    pub(crate) alias: String,
    /// What the owner wants to remember of it.
    pub(crate) description: Option<String>,
    /// Whether its material comes from elsewhere.
    pub(crate) is_external: bool,
}

/// What is about to leave encryption.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Release<'a> {
    /// The CMK that it is under.
    pub(crate) key_id: &'a str,
    /// The volume that holds it.
    pub(crate) volume: Uuid,
    /// Whether that is an image.
    pub(crate) image: bool,
    /// From what to where, for the audit log.
    pub(crate) to: &'a str,
}

/// How kmsd is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    /// Its version.
    pub(crate) version: String,
    /// Whether its token answers.
    pub(crate) token_present: bool,
    /// Which token, or why it is away.
    pub(crate) token: String,
    /// Whether all of it is as it should be.
    pub(crate) well: bool,
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
    /// One key by its ID, or by any of its names.
    fn describe(&self, key_id: &str) -> Result<Key, KeyError>;
    /// Disabled to enabled.
    fn enable(&self, key_id: &str) -> Result<(), KeyError>;
    /// Enabled to disabled.
    fn disable(&self, key_id: &str) -> Result<(), KeyError>;
    /// Makes a newer version.
    fn rotate(&self, key_id: &str) -> Result<(), KeyError>;
    /// Has it rotated every so many days, or no longer.
    fn rotate_every(&self, key_id: &str, days: Option<u16>) -> Result<(), KeyError>;
    /// Lets a principal use it; gives the grant's ID.
    fn grant(&self, key_id: &str, spec: &GrantSpec) -> Result<String, KeyError>;
    /// Its grants, oldest first.
    fn grants(&self, key_id: &str) -> Result<Vec<Grant>, KeyError>;
    /// Takes a grant back.
    fn revoke(&self, key_id: &str, grant_id: &str) -> Result<(), KeyError>;
    /// Its names, its own among them, sorted.
    fn aliases(&self, key_id: &str) -> Result<Vec<String>, KeyError>;
    /// Gives it another name.
    fn add_alias(&self, key_id: &str, alias: &str) -> Result<(), KeyError>;
    /// Takes such a name away.
    fn remove_alias(&self, key_id: &str, alias: &str) -> Result<(), KeyError>;
    /// Changes its own name.
    fn rename(&self, key_id: &str, alias: &str) -> Result<(), KeyError>;
    /// Its tags, sorted by name.
    fn tags(&self, key_id: &str) -> Result<Vec<(String, String)>, KeyError>;
    /// Adds tags; one that is there gets the new value.
    fn add_tags(&self, key_id: &str, tags: &[(String, String)]) -> Result<(), KeyError>;
    /// Removes tags; one that is not there is no error.
    fn remove_tags(&self, key_id: &str, names: &[String]) -> Result<(), KeyError>;
    /// To pending deletion, destroyed after `days` days.
    fn schedule_deletion(&self, key_id: &str, days: u16) -> Result<(), KeyError>;
    /// Pending import to enabled: the material is wrapped for the token, which alone unwraps it.
    fn import(&self, key_id: &str, material: &Material, expires: Option<Timestamp>) -> Result<(), KeyError>;
    /// Pending deletion to disabled.
    fn cancel_deletion(&self, key_id: &str) -> Result<(), KeyError>;
    /// Has it recorded that what a volume holds is about to be written in the open.
    fn release_plaintext(&self, release: &Release<'_>) -> Result<(), KeyError>;
    /// Has the anchor of a volume that is gone forgotten, if there is one.
    fn forget_anchor(&self, volume: Uuid) -> Result<(), KeyError>;
    /// How the service is.
    fn health(&self) -> Result<Health, KeyError>;
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
        /// The key that it was about; empty when it was about none.
        key: String,
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
        /// What to do about it.
        hint: Option<String>,
    },
    /// The answer is not one that the API defines.
    #[error("{message}")]
    Protocol {
        /// What is wrong with it.
        message: String,
    },
}
