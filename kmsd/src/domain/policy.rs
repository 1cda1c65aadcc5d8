//! Who may do what with a key (K7), and whether its state allows it (K4). The answer is a proof.

use super::{
    id::{KeyId, KeyRef},
    key::{Phase, SharedKey},
    operation::Operation,
    principal::{Caller, Principal},
    refusal::Refusal,
    registry::Registry,
};

/// Proof that a caller may carry out an operation on a key, as the key stood when it was asked.
///
/// Only [`authorise`] makes one.
#[derive(Clone, Debug)]
pub struct Permit {
    key: SharedKey,
    operation: Operation,
}

impl Permit {
    /// The key.
    #[must_use]
    pub const fn key(&self) -> &SharedKey {
        &self.key
    }

    /// The operation.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        self.operation
    }
}

/// Decides.
///
/// The order is what keeps secrets: first whether the caller is told of the key at all, then whether it is a default
/// key, then the caller's rights, then the key's state.
///
/// # Errors
/// The refusal to give.
pub fn authorise(
    registry: &Registry,
    caller: &Caller,
    key: &KeyRef,
    operation: Operation,
) -> Result<Permit, Refusal> {
    let unknown = || Refusal::NoSuchKey { key: key.to_string() };
    let key = registry.find(key).filter(|k| is_visible(caller, k)).ok_or_else(unknown)?;
    match key.phase {
        Phase::Live => {}
        Phase::Creating => return Err(unknown()),
        Phase::Destroying | Phase::Destroyed => return Err(Refusal::Destroyed { key: key.name() }),
    }
    if key.is_default && !operation.rule().default_keys {
        return Err(Refusal::DefaultKey { key: key.name(), operation });
    }
    if !may(caller, key, operation) {
        return Err(Refusal::NotPermitted { key: key.name(), operation });
    }
    operation.check(key.state).map_err(|fault| Refusal::State {
        key: key.name(),
        state: key.state,
        operation,
        fault,
    })?;
    Ok(Permit { key: SharedKey::clone(key), operation })
}

/// Keys that a caller is told of, oldest first.
pub fn visible<'a>(registry: &'a Registry, caller: &'a Caller) -> impl Iterator<Item = &'a SharedKey> {
    registry.keys().filter(move |key| key.phase == Phase::Live && is_visible(caller, key))
}

/// The key that an envelope names, for messages to a caller who is told of it.
///
/// # Errors
/// If it is none, or not the caller's to know.
pub fn known(registry: &Registry, caller: &Caller, id: KeyId) -> Result<SharedKey, Refusal> {
    let key = registry.find(&KeyRef::Id(id)).filter(|key| is_visible(caller, key));
    key.cloned().ok_or_else(|| Refusal::NoSuchKey { key: id.to_string() })
}

fn is_visible(caller: &Caller, key: &SharedKey) -> bool {
    // Default keys belong to everyone whom the service lets in.
    caller.is_admin || key.is_default || is_owner(caller, key)
}

fn may(caller: &Caller, key: &SharedKey, operation: Operation) -> bool {
    caller.is_admin || is_owner(caller, key) || (key.is_default && operation.rule().default_keys)
}

fn is_owner(caller: &Caller, key: &SharedKey) -> bool {
    key.owner != Principal::System && key.owner == caller.principal
}
