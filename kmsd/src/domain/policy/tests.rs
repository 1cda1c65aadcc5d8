//! The matrix of principal, operation, key state and context, in full, against a second statement of what has to come out (K3, K4, K7).

use super::*;
use crate::domain::{
    KeyId, KeyState,
    grant::{Constraints, Grant, GrantSpec},
    key::{KeyRecord, KeySpec},
    operation::RULES,
    registry::Change,
    time::WallTime,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Admin,
    Owner,
    Stranger,
    /// The policy allows it everything.
    ByPolicy,
    /// The policy allows it `kms:Encrypt`, `kms:Decrypt` and `kms:GenerateDataKey` for tenant a.
    ByPolicyForTenant,
    /// The policy allows it everything and denies it `kms:Decrypt`.
    ByPolicyButDenied,
    /// Grants of `create-datakey`, `decrypt-datakey` and `describe-key`, with different constraints.
    Grantee,
    GranteeEquals,
    GranteeSubset,
    /// A grant of `encrypt-data`, `create-grant` and `retire-grant`.
    Delegate,
    /// Named by a grant as who may retire it.
    Retiree,
    /// Holds a grant on another key.
    Neighbour,
}

const ROLES: [Role; 12] = [
    Role::Admin,
    Role::Owner,
    Role::Stranger,
    Role::ByPolicy,
    Role::ByPolicyForTenant,
    Role::ByPolicyButDenied,
    Role::Grantee,
    Role::GranteeEquals,
    Role::GranteeSubset,
    Role::Delegate,
    Role::Retiree,
    Role::Neighbour,
];

impl Role {
    fn uid(self) -> u32 {
        self as u32 + 1
    }

    fn caller(self) -> Caller {
        Caller { principal: Principal::Uid(self.uid()), is_admin: self == Self::Admin }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Allowed,
    /// As if there were no such key.
    Unknown,
    NotPermitted,
    DefaultKey,
    State,
    Destroyed,
}

fn answer(outcome: &Result<Permit, Refusal>) -> Answer {
    match outcome {
        Ok(_) => Answer::Allowed,
        Err(Refusal::NoSuchKey { .. }) => Answer::Unknown,
        Err(Refusal::NotPermitted { .. }) => Answer::NotPermitted,
        Err(Refusal::DefaultKey { .. }) => Answer::DefaultKey,
        Err(Refusal::State { .. }) => Answer::State,
        Err(Refusal::Destroyed { .. }) => Answer::Destroyed,
        Err(other) => panic!("{other}"),
    }
}

const USES: [&str; 8] = [
    "create-datakey",
    "create-datakey-without-plaintext",
    "encrypt-datakey",
    "decrypt-datakey",
    "encrypt-data",
    "decrypt-data",
    "re-encrypt-from",
    "re-encrypt-to",
];

const CONTEXTS: [&[(&str, &str)]; 4] =
    [&[], &[("tenant", "a")], &[("tenant", "a"), ("more", "x")], &[("tenant", "b")]];

/// The second statement: who may, by name.
fn may(role: Role, operation: &str, context: &[(&str, &str)]) -> bool {
    let granted = ["create-datakey", "decrypt-datakey"].contains(&operation);
    let describes = operation == "describe-key";
    match role {
        Role::Admin | Role::Owner | Role::ByPolicy => true,
        Role::Stranger | Role::Retiree | Role::Neighbour => false,
        Role::ByPolicyForTenant => {
            ["encrypt-data", "encrypt-datakey", "decrypt-data", "decrypt-datakey", "create-datakey"]
                .contains(&operation)
                && context.contains(&("tenant", "a"))
        }
        Role::ByPolicyButDenied => !["decrypt-data", "decrypt-datakey"].contains(&operation),
        Role::Grantee => granted || describes,
        Role::GranteeEquals => describes || (granted && context == [("tenant", "a")]),
        Role::GranteeSubset => describes || (granted && context.contains(&("tenant", "a"))),
        Role::Delegate => ["encrypt-data", "create-grant", "retire-grant"].contains(&operation),
    }
}

/// The second statement: in which states.
fn state_allows(operation: &str, state: KeyState) -> bool {
    let [enabled, disabled, deletion, import] = match operation {
        "describe-key" | "list-grants" | "revoke-grant" | "retire-grant" | "delete-alias"
        | "get-key-policy" | "put-key-policy" => [true, true, true, true],
        "enable-key" => [false, true, false, false],
        "disable-key" | "rotate-key" | "configure-rotation" | "create-grant" => [true, false, false, false],
        "schedule-key-deletion" | "update-key" | "tag-key" | "create-alias" => [true, true, false, true],
        "cancel-key-deletion" => [false, false, true, false],
        "import-key-material" => [false, false, false, true],
        "delete-imported-key-material" => [true, true, false, false],
        use_ if USES.contains(&use_) => [true, false, false, false],
        other => panic!("{other} is not in the second statement"),
    };
    match state {
        KeyState::Enabled => enabled,
        KeyState::Disabled => disabled,
        KeyState::PendingDeletion => deletion,
        KeyState::PendingImport => import,
    }
}

fn grant(number: u8, role: Role, operations: &[&str], constraints: Constraints) -> Grant {
    let named = |name: &&str| Operation::from_name(name).unwrap();
    Grant {
        id: GrantId::from_random([number; 32]),
        spec: GrantSpec {
            name: None,
            grantee: role.caller().principal,
            retiring: Some(Role::Retiree.caller().principal),
            operations: operations.iter().map(named).collect(),
            constraints,
        },
        issuer: Role::Owner.caller().principal,
        created_at: WallTime(0),
    }
}

fn key(number: u8, state: KeyState) -> KeyRecord {
    let spec = KeySpec::new(&format!("k{number}"), "", Role::Owner.caller().principal).unwrap();
    let key = KeyRecord::creating(spec, KeyId::from_bytes([number; 16]), WallTime(0)).confirmed();
    KeyRecord { state, revision: 0, ..key }
}

fn guarded(number: u8, state: KeyState) -> KeyRecord {
    let uid = Role::uid;
    let policy = format!(
        r#"{{"Statement": [
            {{"Effect": "Allow", "Principal": {{"AWS": ["uid:{}", "uid:{}"]}}, "Action": "kms:*"}},
            {{"Effect": "Deny", "Principal": {{"AWS": "uid:{}"}}, "Action": "kms:Decrypt"}},
            {{"Effect": "Allow", "Principal": {{"AWS": "uid:{}"}}, "Action": ["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey"],
              "Condition": {{"StringEquals": {{"kms:EncryptionContext:tenant": "a"}}}}}}]}}"#,
        uid(Role::ByPolicy),
        uid(Role::ByPolicyButDenied),
        uid(Role::ByPolicyButDenied),
        uid(Role::ByPolicyForTenant),
    );
    let tenant = || Some([("tenant", "a")].into_iter().collect());
    let some = ["create-datakey", "decrypt-datakey", "describe-key"];
    KeyRecord {
        policy: Some(KeyPolicy::parse(&policy).unwrap()),
        grants: vec![
            grant(1, Role::Grantee, &some, Constraints::default()),
            grant(2, Role::GranteeEquals, &some, Constraints { equals: tenant(), subset: None }),
            grant(3, Role::GranteeSubset, &some, Constraints { equals: None, subset: tenant() }),
            grant(
                4,
                Role::Delegate,
                &["encrypt-data", "create-grant", "retire-grant"],
                Constraints::default(),
            ),
        ],
        ..key(number, state)
    }
}

fn registry(keys: impl IntoIterator<Item = KeyRecord>) -> Registry {
    let mut registry = Registry::default();
    let neighbours = grant(5, Role::Neighbour, &["describe-key", "decrypt-data"], Constraints::default());
    let other = KeyRecord { grants: vec![neighbours], ..key(200, KeyState::Enabled) };
    keys.into_iter().chain([other]).for_each(|key| registry.apply(Change::PutKey(key)));
    registry
}

/// K4, K7: every principal, operation, state and context.
#[test]
fn k7_the_matrix() {
    let mut tried = 0;
    let mut seen = Vec::new();
    for state in KeyState::ALL {
        let registry = registry([guarded(1, state)]);
        let named = KeyRef::Id(KeyId::from_bytes([1; 16]));
        for role in ROLES {
            for rule in &RULES {
                for pairs in CONTEXTS {
                    let context = pairs.iter().copied().collect();
                    let outcome = authorise(&registry, &role.caller(), &named, rule.operation, &context);
                    let expected = if matches!(role, Role::Stranger | Role::Neighbour) {
                        Answer::Unknown
                    } else if !may(role, rule.name, pairs) {
                        Answer::NotPermitted
                    } else if !state_allows(rule.name, state) {
                        Answer::State
                    } else {
                        Answer::Allowed
                    };
                    assert_eq!(
                        answer(&outcome),
                        expected,
                        "{role:?} {} on a key that is {state} with {pairs:?}",
                        rule.name
                    );
                    if !seen.contains(&(role, expected == Answer::Allowed)) {
                        seen.push((role, expected == Answer::Allowed));
                    }
                    tried += 1;
                }
            }
        }
    }
    assert_eq!(tried, 4 * ROLES.len() * RULES.len() * CONTEXTS.len());
    // Nobody's column is all of one kind but those of the three who have no right at all.
    assert_eq!(seen.len(), 2 * ROLES.len() - 3);
}

/// K3: default keys, for everybody alike.
#[test]
fn k3_the_matrix_of_default_keys() {
    let spec = KeySpec::default_key("evs/default".parse().unwrap());
    let default = KeyRecord::creating(spec, KeyId::from_bytes([1; 16]), WallTime(0)).confirmed();
    let registry = registry([KeyRecord { revision: 0, ..default }]);
    let named = "evs/default".parse().unwrap();
    for role in ROLES {
        for rule in &RULES {
            for pairs in CONTEXTS {
                let context = pairs.iter().copied().collect();
                let outcome = authorise(&registry, &role.caller(), &named, rule.operation, &context);
                let is_allowed = USES.contains(&rule.name)
                    || ["describe-key", "list-grants", "get-key-policy"].contains(&rule.name);
                let expected = if is_allowed { Answer::Allowed } else { Answer::DefaultKey };
                assert_eq!(answer(&outcome), expected, "{role:?} {}", rule.name);
            }
        }
    }
}

/// K4, K7: a key that is being made is nobody's yet; one that is gone says so, to those who knew it.
#[test]
fn k4_keys_before_and_after() {
    let making = KeyRecord { phase: Phase::Creating, ..guarded(1, KeyState::Enabled) };
    let going = KeyRecord { phase: Phase::Destroying, ..guarded(2, KeyState::PendingDeletion) };
    let gone = KeyRecord { phase: Phase::Destroyed, ..guarded(3, KeyState::PendingDeletion) };
    let registry = registry([making, going, gone]);
    for role in ROLES {
        let knows = !matches!(role, Role::Stranger | Role::Neighbour);
        for rule in &RULES {
            for (number, known) in [(1, Answer::Unknown), (2, Answer::Destroyed), (3, Answer::Destroyed)] {
                let named = KeyRef::Id(KeyId::from_bytes([number; 16]));
                let none = EncryptionContext::default();
                let outcome = authorise(&registry, &role.caller(), &named, rule.operation, &none);
                let expected = if knows { known } else { Answer::Unknown };
                assert_eq!(answer(&outcome), expected, "{role:?} {} {number}", rule.name);
            }
        }
    }
}

/// K7: lists show what the caller may describe, and nothing else.
#[test]
fn k7_lists_show_what_may_be_described() {
    for state in KeyState::ALL {
        let registry = registry([guarded(1, state)]);
        for role in ROLES {
            let shown = visible(&registry, &role.caller()).any(|key| key.id == KeyId::from_bytes([1; 16]));
            assert_eq!(shown, may(role, "describe-key", &[]), "{role:?}");
        }
    }
}

/// K7: a grant is given up by who made it, who is named for it, who holds it and may, and the key's owner; by nobody else.
#[test]
fn k7_who_may_retire() {
    let registry = registry([guarded(1, KeyState::Disabled)]);
    let named = KeyRef::Id(KeyId::from_bytes([1; 16]));
    for role in ROLES {
        for (number, holder) in [(1, Role::Grantee), (4, Role::Delegate)] {
            let id = GrantId::from_random([number; 32]);
            let outcome = authorise_retirement(&registry, &role.caller(), &named, id);
            let may = matches!(role, Role::Admin | Role::Owner | Role::Retiree)
                || (role == holder && holder == Role::Delegate);
            let expected = match role {
                Role::Stranger | Role::Neighbour => Answer::Unknown,
                _ if may => Answer::Allowed,
                _ => Answer::NotPermitted,
            };
            assert_eq!(answer(&outcome), expected, "{role:?} {number}");
        }
    }
    let absent =
        authorise_retirement(&registry, &Role::Retiree.caller(), &named, GrantId::from_random([9; 32]));
    assert!(matches!(absent, Err(Refusal::NoSuchGrant { .. })));
}

/// K7: what a policy denies binds the owner too, but for the policy itself; administrators it does not bind.
#[test]
fn k7_a_policy_binds_its_owner_and_locks_nobody_out() {
    let text = r#"{"Statement": {"Effect": "Deny", "Principal": "*", "Action": "kms:*"}}"#;
    let denied = KeyRecord { policy: Some(KeyPolicy::parse(text).unwrap()), ..guarded(1, KeyState::Enabled) };
    let registry = registry([denied]);
    let named = KeyRef::Id(KeyId::from_bytes([1; 16]));
    let none = EncryptionContext::default();
    for rule in RULES.iter().filter(|rule| state_allows(rule.name, KeyState::Enabled)) {
        let ask = |role: Role| answer(&authorise(&registry, &role.caller(), &named, rule.operation, &none));
        let is_policy = ["get-key-policy", "put-key-policy"].contains(&rule.name);
        let owner = if is_policy { Answer::Allowed } else { Answer::NotPermitted };
        assert_eq!(ask(Role::Owner), owner, "{}", rule.name);
        assert_eq!(ask(Role::Admin), Answer::Allowed, "{}", rule.name);
        assert_eq!(ask(Role::Grantee), Answer::NotPermitted, "{}", rule.name);
    }
}
