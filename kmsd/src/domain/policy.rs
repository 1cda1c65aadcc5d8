//! Who may do what with a key (K7), and whether its state allows it (K4). The answer is a proof.
//!
//! ```text
//!   administrator                      everything
//!   what the key's policy denies       nothing of that; but its owner always reads and sets the policy
//!   owner                              everything
//!   default key                        everybody uses and views it
//!   what the key's policy allows       that
//!   a grant                            what it lists, with contexts that fit it
//!   everybody else                     is not told that the key exists
//! ```

use super::{
    context::EncryptionContext,
    grant::GrantId,
    id::KeyRef,
    key::{Phase, SharedKey},
    key_policy::KeyPolicy,
    operation::Operation,
    principal::{Caller, Principal},
    refusal::Refusal,
    registry::Registry,
};

/// What a caller's right rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// An owner's or an administrator's; or everybody's, with a default key.
    Everything,
    /// The key's policy.
    Policy,
    /// A grant.
    Grant,
}

/// Proof that a caller may carry out an operation on a key, as the key stood when it was asked.
///
/// Only [`authorise`] and [`authorise_retirement`] make one.
#[derive(Clone, Debug)]
pub struct Permit {
    key: SharedKey,
    operation: Operation,
    basis: Basis,
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

    /// What the right rests on.
    #[must_use]
    pub const fn basis(&self) -> Basis {
        self.basis
    }
}

/// Decides. The context is that of the data; operations that take none are asked about with the empty one.
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
    context: &EncryptionContext,
) -> Result<Permit, Refusal> {
    let key = told_of(registry, caller, key)?;
    if key.is_default && !operation.rule().default_keys {
        return Err(Refusal::DefaultKey { key: key.name(), operation });
    }
    let basis = right(caller, key, operation, context);
    let basis = basis.ok_or_else(|| Refusal::NotPermitted { key: key.name(), operation })?;
    permit(key, operation, basis)
}

/// Decides on giving a grant up, which is the right of those whom the grant names.
///
/// # Errors
/// The refusal to give.
pub fn authorise_retirement(
    registry: &Registry,
    caller: &Caller,
    key: &KeyRef,
    id: GrantId,
) -> Result<Permit, Refusal> {
    let operation = Operation::RetireGrant;
    let key = told_of(registry, caller, key)?;
    if key.is_default {
        return Err(Refusal::DefaultKey { key: key.name(), operation });
    }
    let grant = key.grants.iter().find(|grant| grant.id == id);
    let grant = grant.ok_or_else(|| Refusal::NoSuchGrant { key: key.name(), id })?;
    let may = caller.is_admin || is_owner(caller, key) || grant.is_retirable_by(&caller.principal);
    if !may || is_denied(caller, key, operation, &EncryptionContext::default()) {
        return Err(Refusal::NotPermitted { key: key.name(), operation });
    }
    permit(key, operation, Basis::Grant)
}

fn told_of<'a>(registry: &'a Registry, caller: &Caller, key: &KeyRef) -> Result<&'a SharedKey, Refusal> {
    let unknown = || Refusal::NoSuchKey { key: key.to_string() };
    let key = registry.find(key).filter(|k| is_visible(caller, k)).ok_or_else(unknown)?;
    match key.phase {
        Phase::Live => Ok(key),
        Phase::Creating => Err(unknown()),
        Phase::Destroying | Phase::Destroyed => Err(Refusal::Destroyed { key: key.name() }),
    }
}

fn permit(key: &SharedKey, operation: Operation, basis: Basis) -> Result<Permit, Refusal> {
    operation.check(key.state).map_err(|fault| Refusal::State {
        key: key.name(),
        state: key.state,
        operation,
        fault,
    })?;
    Ok(Permit { key: SharedKey::clone(key), operation, basis })
}

/// Keys that a caller may describe, oldest first.
pub fn visible<'a>(registry: &'a Registry, caller: &'a Caller) -> impl Iterator<Item = &'a SharedKey> {
    let none = EncryptionContext::default();
    registry
        .keys()
        .filter(move |key| key.phase == Phase::Live)
        .filter(move |key| right(caller, key, Operation::DescribeKey, &none).is_some())
}

fn is_visible(caller: &Caller, key: &SharedKey) -> bool {
    let principal = &caller.principal;
    // Default keys belong to everyone whom the service lets in.
    caller.is_admin
        || key.is_default
        || is_owner(caller, key)
        || key.grants.iter().any(|grant| grant.concerns(principal))
        || key.policy.as_ref().is_some_and(|policy| policy.concerns(principal))
}

fn right(
    caller: &Caller,
    key: &SharedKey,
    operation: Operation,
    context: &EncryptionContext,
) -> Option<Basis> {
    let principal = &caller.principal;
    if caller.is_admin {
        return Some(Basis::Everything);
    }
    if is_denied(caller, key, operation, context) {
        return None;
    }
    if is_owner(caller, key) || (key.is_default && operation.rule().default_keys) {
        return Some(Basis::Everything);
    }
    if key.policy.as_ref().is_some_and(|policy| policy.allows(principal, operation, context)) {
        return Some(Basis::Policy);
    }
    key.grants.iter().any(|grant| grant.allows(principal, operation, context)).then_some(Basis::Grant)
}

fn is_denied(caller: &Caller, key: &SharedKey, operation: Operation, context: &EncryptionContext) -> bool {
    // Nobody locks the owner out of the policy itself.
    let is_policy = matches!(operation, Operation::ReadPolicy | Operation::WritePolicy);
    let is_exempt = caller.is_admin || (is_policy && is_owner(caller, key));
    let denies = |policy: &KeyPolicy| policy.denies(&caller.principal, operation, context);
    !is_exempt && key.policy.as_ref().is_some_and(denies)
}

fn is_owner(caller: &Caller, key: &SharedKey) -> bool {
    key.owner != Principal::System && key.owner == caller.principal
}

#[cfg(test)]
mod tests;
