//! Grants: a named principal may use a key for listed operations, until the grant is revoked or retired (K7).

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    context::EncryptionContext,
    key::KeyRecord,
    operation::Operation,
    policy::{Basis, Permit},
    principal::{Caller, Principal},
    refusal::Refusal,
    time::WallTime,
};

/// Most grants of a key.
pub const MAX_GRANTS: usize = 100;
/// Longest name of a grant, in characters.
const MAX_NAME: usize = 255;
/// Most pairs of a constraint, and most characters in it, as published.
const MAX_PAIRS: usize = 8;
const MAX_CONSTRAINT: usize = 384;

/// Names a grant: 32 random bytes, written as 64 hexadecimal digits. Not secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct GrantId([u8; 32]);

/// Not a grant's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a grant id has 64 hexadecimal digits")]
pub struct InvalidGrantId;

impl GrantId {
    /// From random bytes.
    #[must_use]
    pub const fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for GrantId {
    type Err = InvalidGrantId;

    fn from_str(text: &str) -> Result<Self, InvalidGrantId> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidGrantId)?;
        Ok(Self(bytes))
    }
}

impl From<GrantId> for String {
    fn from(id: GrantId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for GrantId {
    type Error = InvalidGrantId;

    fn try_from(text: String) -> Result<Self, InvalidGrantId> {
        text.parse()
    }
}

/// What the encryption context has to be for a grant to count. Only operations that take a context are constrained.
///
/// A member that is not known is refused: a misspelt constraint would be none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraints {
    /// Exactly this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<EncryptionContext>,
    /// At least this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<EncryptionContext>,
}

impl Constraints {
    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.equals.is_none() && self.subset.is_none()
    }

    /// Whether a context fits.
    #[must_use]
    pub fn admit(&self, context: &EncryptionContext) -> bool {
        self.equals.as_ref().is_none_or(|equals| equals == context)
            && self.subset.as_ref().is_none_or(|subset| context.includes(subset))
    }

    /// Whether all that fits these fits `other` as well.
    fn are_within(&self, other: &Self) -> bool {
        // What is known of every context that fits these.
        let exact = self.equals.as_ref();
        let at_least = exact.or(self.subset.as_ref());
        other.equals.as_ref().is_none_or(|equals| exact == Some(equals))
            && other
                .subset
                .as_ref()
                .is_none_or(|subset| at_least.is_some_and(|context| context.includes(subset)))
    }

    fn check(&self) -> Result<(), Refusal> {
        for context in [&self.equals, &self.subset].into_iter().flatten() {
            let len: usize =
                context.iter().map(|(name, value)| name.chars().count() + value.chars().count()).sum();
            if context.is_empty() || context.iter().count() > MAX_PAIRS || len > MAX_CONSTRAINT {
                return Err(Refusal::ParameterInvalid {
                    name: "constraints",
                    expected: "1 to 8 pairs of at most 384 characters together",
                });
            }
        }
        Ok(())
    }
}

/// What is granted, already checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantSpec {
    /// For people, and to make a repeated request one grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who may.
    pub grantee: Principal,
    /// Who may give it up besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring: Option<Principal>,
    /// What.
    pub operations: BTreeSet<Operation>,
    /// With which contexts.
    #[serde(default, skip_serializing_if = "Constraints::is_empty")]
    pub constraints: Constraints,
}

impl GrantSpec {
    /// Checks what a caller asks for.
    ///
    /// # Errors
    /// If an operation cannot be granted, there is none but `create-grant`, or a name or constraint is not one.
    pub fn checked(self) -> Result<Self, Refusal> {
        if let Some(name) = &self.name {
            let fits = (1..=MAX_NAME).contains(&name.len())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || ":/_-".contains(c));
            if !fits {
                return Err(Refusal::ParameterInvalid {
                    name: "name",
                    expected: "1 to 255 letters, digits, ':', '/', '_' and '-'",
                });
            }
        }
        if self.operations.iter().any(|operation| !operation.rule().grantable) {
            return Err(Refusal::ParameterInvalid {
                name: "operations",
                expected: "operations that can be granted",
            });
        }
        if self.operations.iter().all(|operation| *operation == Operation::CreateGrant) {
            return Err(Refusal::GrantEmpty);
        }
        if self.grantee == Principal::System || self.retiring == Some(Principal::System) {
            return Err(Refusal::GranteeInvalid);
        }
        self.constraints.check()?;
        Ok(self)
    }

    fn is_within(&self, parent: &Self) -> bool {
        self.operations.is_subset(&parent.operations) && self.constraints.are_within(&parent.constraints)
    }
}

/// A grant on a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// What it grants.
    #[serde(flatten)]
    pub spec: GrantSpec,
    /// Who made it.
    pub issuer: Principal,
    /// When.
    pub created_at: WallTime,
}

impl Grant {
    /// Whether it lets a principal do something with a context.
    #[must_use]
    pub fn allows(&self, principal: &Principal, operation: Operation, context: &EncryptionContext) -> bool {
        self.spec.grantee == *principal
            && self.spec.operations.contains(&operation)
            && (!operation.takes_context() || self.spec.constraints.admit(context))
    }

    /// Whether a principal may give it up: who made it, who is named for that, and who holds it if it says so.
    #[must_use]
    pub fn is_retirable_by(&self, principal: &Principal) -> bool {
        let spec = &self.spec;
        self.issuer == *principal
            || spec.retiring.as_ref() == Some(principal)
            || (spec.grantee == *principal && spec.operations.contains(&Operation::RetireGrant))
    }

    /// Whether it tells a principal of the key.
    #[must_use]
    pub fn concerns(&self, principal: &Principal) -> bool {
        self.spec.grantee == *principal || self.is_retirable_by(principal)
    }

    /// Whether a repeated request for `spec` means this one: only a name says that it is a repetition.
    #[must_use]
    pub fn answers(&self, spec: &GrantSpec, issuer: &Principal) -> bool {
        spec.name.is_some() && self.spec == *spec && self.issuer == *issuer
    }
}

/// The next record with a grant. Who holds a grant passes on no more than that gives.
///
/// # Errors
/// If it would give more than the caller has, or there are too many grants.
pub fn granted(
    permit: &Permit,
    caller: &Caller,
    spec: &GrantSpec,
    id: GrantId,
    now: WallTime,
) -> Result<KeyRecord, Refusal> {
    debug_assert_eq!(permit.operation(), Operation::CreateGrant);
    let key = permit.key();
    let none = EncryptionContext::default();
    let policy = key.policy.as_ref();
    let may = |op| policy.is_some_and(|policy| policy.allows(&caller.principal, op, &none));
    // What one right does not give, another may.
    let by_policy = may(Operation::CreateGrant) && spec.operations.iter().all(|op| may(*op));
    let by_grant = key.grants.iter().any(|parent| {
        parent.allows(&caller.principal, Operation::CreateGrant, &none) && spec.is_within(&parent.spec)
    });
    let is_within = permit.basis() == Basis::Everything || by_policy || by_grant;
    // What is forbidden to a caller with some context would be the grantee's with any: the policy's Deny names the caller, not the grantee.
    let is_in_doubt = permit.basis() != Basis::Everything
        && policy
            .is_some_and(|policy| spec.operations.iter().any(|op| policy.may_deny(&caller.principal, *op)));
    if !is_within || is_in_doubt {
        return Err(Refusal::GrantTooWide { key: key.name() });
    }
    if key.grants.iter().any(|grant| grant.answers(spec, &caller.principal)) {
        return Ok(key.changed(|_| ()));
    }
    if key.grants.len() >= MAX_GRANTS {
        return Err(Refusal::TooManyGrants { key: key.name(), limit: MAX_GRANTS });
    }
    let grant = Grant { id, spec: spec.clone(), issuer: caller.principal.clone(), created_at: now };
    Ok(key.changed(|next| next.grants.push(grant)))
}

/// The next record without a grant.
///
/// # Errors
/// If the key has none of that id.
pub fn ungranted(permit: &Permit, id: GrantId) -> Result<KeyRecord, Refusal> {
    debug_assert!(matches!(permit.operation(), Operation::RevokeGrant | Operation::RetireGrant));
    let key = permit.key();
    if key.grants.iter().all(|grant| grant.id != id) {
        return Err(Refusal::NoSuchGrant { key: key.name(), id });
    }
    Ok(key.changed(|next| next.grants.retain(|grant| grant.id != id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
        pairs.iter().copied().collect()
    }

    fn equals(pairs: &[(&str, &str)]) -> Constraints {
        Constraints { equals: Some(context(pairs)), subset: None }
    }

    fn subset(pairs: &[(&str, &str)]) -> Constraints {
        Constraints { equals: None, subset: Some(context(pairs)) }
    }

    fn spec(operations: &[Operation], constraints: Constraints) -> GrantSpec {
        GrantSpec {
            name: None,
            grantee: Principal::Uid(2),
            retiring: None,
            operations: operations.iter().copied().collect(),
            constraints,
        }
    }

    #[test]
    fn k7_constraints_on_the_context() {
        let (a, ab, b) = (&[("a", "1")][..], &[("a", "1"), ("b", "2")][..], &[("b", "2")][..]);
        for (constraints, given, fits) in [
            (Constraints::default(), &[][..], true),
            (equals(a), a, true),
            (equals(a), ab, false),
            (equals(a), &[], false),
            (equals(a), &[("a", "2")], false),
            (subset(a), a, true),
            (subset(a), ab, true),
            (subset(a), b, false),
            (subset(a), &[], false),
            (subset(a), &[("A", "1")], false),
            (Constraints { equals: Some(context(ab)), subset: Some(context(a)) }, ab, true),
            (Constraints { equals: Some(context(b)), subset: Some(context(a)) }, b, false),
        ] {
            assert_eq!(constraints.admit(&context(given)), fits, "{constraints:?} {given:?}");
        }
    }

    /// K7: what is within constraints fits them: tried with every context over two names.
    #[test]
    fn k7_narrower_constraints_admit_nothing_more() {
        let contexts: Vec<EncryptionContext> = [None, Some("1"), Some("2")]
            .into_iter()
            .flat_map(|a| [None, Some("1")].into_iter().map(move |b| (a, b)))
            .map(|(a, b)| a.map(|a| ("a", a)).into_iter().chain(b.map(|b| ("b", b))).collect())
            .collect();
        let choices: Vec<Option<EncryptionContext>> = std::iter::once(None)
            .chain(contexts.iter().filter(|c| !c.is_empty()).cloned().map(Some))
            .collect();
        let all: Vec<Constraints> = choices
            .iter()
            .flat_map(|equals| {
                choices.iter().map(|subset| Constraints { equals: equals.clone(), subset: subset.clone() })
            })
            .collect();
        let mut within = 0;
        for child in &all {
            for parent in all.iter().filter(|parent| child.are_within(parent)) {
                within += 1;
                for context in contexts.iter().filter(|context| child.admit(context)) {
                    assert!(parent.admit(context), "{child:?} {parent:?} {context:?}");
                }
            }
        }
        assert!(within > all.len());
    }

    #[test]
    fn k7_only_what_can_be_granted() {
        use Operation as O;
        assert!(spec(&[O::CreateDatakey, O::CreateGrant], subset(&[("a", "1")])).checked().is_ok());
        for operations in [&[][..], &[O::CreateGrant]] {
            assert_eq!(spec(operations, Constraints::default()).checked(), Err(Refusal::GrantEmpty));
        }
        for operation in [O::DisableKey, O::ScheduleDeletion, O::RevokeGrant, O::WritePolicy] {
            let refused = spec(&[O::CreateDatakey, operation], Constraints::default()).checked();
            assert!(matches!(refused, Err(Refusal::ParameterInvalid { name: "operations", .. })));
        }
        let nobody =
            GrantSpec { grantee: Principal::System, ..spec(&[O::DescribeKey], Constraints::default()) };
        assert_eq!(nobody.checked(), Err(Refusal::GranteeInvalid));
        let long = "x".repeat(384);
        let many: Vec<(String, &str)> = (0..9).map(|n| (n.to_string(), "")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        for (constraints, fits) in [
            (subset(&[]), false),
            (subset(&[("a", &long)]), false),
            (subset(&[("a", &long[1..])]), true),
            (equals(&many), false),
            (equals(&many[1..]), true),
        ] {
            assert_eq!(spec(&[O::DescribeKey], constraints).checked().is_ok(), fits);
        }
    }

    /// The stored form is for ever.
    #[test]
    fn a_grant_is_stored_so() {
        let grant = Grant {
            id: GrantId::from_random([0xab; 32]),
            spec: GrantSpec {
                name: Some("n".into()),
                retiring: Some(Principal::AccessKey("AK".into())),
                ..spec(&[Operation::DecryptDatakey, Operation::DescribeKey], subset(&[("a", "1")]))
            },
            issuer: Principal::Uid(1),
            created_at: WallTime(5),
        };
        let json = format!(
            r#"{{"id":"{}","name":"n","grantee":"uid:2","retiring":"key:AK","operations":["describe-key","decrypt-datakey"],"constraints":{{"subset":{{"a":"1"}}}},"issuer":"uid:1","created_at":5}}"#,
            "ab".repeat(32)
        );
        assert_eq!(serde_json::to_string(&grant).unwrap(), json);
        assert_eq!(serde_json::from_str::<Grant>(&json).unwrap(), grant);
    }
}
