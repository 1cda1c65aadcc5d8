//! Aliases: names that a key has besides its own. Each stands for one key, and can be made to stand for another.

use serde::{Deserialize, Serialize};

use super::{
    id::{Alias, KeyId},
    operation::Operation,
    policy::Permit,
    refusal::Refusal,
    time::WallTime,
};

/// Most aliases of a key, besides its own name.
pub const MAX_ALIASES: usize = 50;

/// What is stored of an alias.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasRecord {
    /// The name.
    pub alias: Alias,
    /// Counts the changes.
    pub revision: u64,
    /// The key that it stands for.
    pub key: KeyId,
    /// When it was made.
    pub created_at: WallTime,
    /// When it was made to stand for this key.
    pub updated_at: WallTime,
}

impl AliasRecord {
    /// A new alias of the permitted key.
    ///
    /// # Errors
    /// If the name is the system's (K3).
    pub fn new(permit: &Permit, alias: Alias, now: WallTime) -> Result<Self, Refusal> {
        debug_assert_eq!(permit.operation(), Operation::CreateAlias);
        if alias.is_reserved() {
            return Err(Refusal::AliasReserved { alias });
        }
        Ok(Self { alias, revision: 0, key: permit.key().id, created_at: now, updated_at: now })
    }

    /// The alias of another key, which the permit is for.
    #[must_use]
    pub fn of(&self, permit: &Permit, now: WallTime) -> Self {
        debug_assert_eq!(permit.operation(), Operation::CreateAlias);
        let (key, revision) = (permit.key().id, self.revision + 1);
        Self { key, revision, updated_at: now, ..self.clone() }
    }
}
