//! Key policies: what a key's owner lets others do, and forbids, in a document in the form that clouds have for it (K7).
//!
//! Understood: statements with `Effect`, `Principal`, `Action`, `Resource` `"*"`, and `Condition` `StringEquals` on
//! `kms:EncryptionContext:<name>`. All else is refused by name, not passed over: a condition that is not understood must not count as met.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    marker::PhantomData,
};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};

use super::{context::EncryptionContext, operation::Operation, principal::Principal};

/// Longest document, in bytes.
pub const MAX_POLICY: usize = 16 * 1024;
/// Most statements, principals and conditions in one document.
const MAX_ENTRIES: usize = 100;
/// What a context's condition is written with.
const CONTEXT: &str = "kms:EncryptionContext:";

/// Actions by their published names, and the operations that each of them means.
pub const ACTIONS: &[(&str, &[Operation])] = &[
    ("DescribeKey", &[Operation::DescribeKey]),
    ("GenerateDataKey", &[Operation::CreateDatakey]),
    ("GenerateDataKeyWithoutPlaintext", &[Operation::CreateDatakeyWithoutPlaintext]),
    ("Encrypt", &[Operation::EncryptData, Operation::EncryptDatakey]),
    ("Decrypt", &[Operation::DecryptData, Operation::DecryptDatakey]),
    ("ReEncryptFrom", &[Operation::ReEncryptFrom]),
    ("ReEncryptTo", &[Operation::ReEncryptTo]),
    ("EnableKey", &[Operation::EnableKey]),
    ("DisableKey", &[Operation::DisableKey]),
    ("ScheduleKeyDeletion", &[Operation::ScheduleDeletion]),
    ("CancelKeyDeletion", &[Operation::CancelDeletion]),
    ("UpdateKeyDescription", &[Operation::UpdateKey]),
    ("CreateAlias", &[Operation::CreateAlias]),
    ("UpdateAlias", &[Operation::CreateAlias, Operation::DeleteAlias]),
    ("DeleteAlias", &[Operation::DeleteAlias]),
    ("TagResource", &[Operation::TagKey]),
    ("UntagResource", &[Operation::TagKey]),
    ("ListResourceTags", &[Operation::DescribeKey]),
    ("EnableKeyRotation", &[Operation::ConfigureRotation]),
    ("DisableKeyRotation", &[Operation::ConfigureRotation]),
    ("GetKeyRotationStatus", &[Operation::DescribeKey]),
    ("ListKeyRotations", &[Operation::DescribeKey]),
    ("RotateKeyOnDemand", &[Operation::RotateKey]),
    ("CreateGrant", &[Operation::CreateGrant]),
    ("ListGrants", &[Operation::ListGrants]),
    ("RevokeGrant", &[Operation::RevokeGrant]),
    ("RetireGrant", &[Operation::RetireGrant]),
    ("GetParametersForImport", &[Operation::ImportMaterial]),
    ("ImportKeyMaterial", &[Operation::ImportMaterial]),
    ("DeleteImportedKeyMaterial", &[Operation::DeleteMaterial]),
    ("GetKeyPolicy", &[Operation::ReadPolicy]),
    ("ListKeyPolicies", &[Operation::ReadPolicy]),
    ("PutKeyPolicy", &[Operation::WritePolicy]),
];

/// A document that was understood, kept as it was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct KeyPolicy {
    text: String,
    statements: Vec<Statement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Statement {
    is_allow: bool,
    principals: Principals,
    operations: BTreeSet<Operation>,
    /// Each name has to have one of its values.
    conditions: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Principals {
    Everyone,
    These(BTreeSet<Principal>),
}

/// Why a document is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyFault {
    /// Not JSON, or not of the form.
    #[error("it is not a policy document: line {line}, column {column}")]
    Form {
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
    /// Too long, or too many parts.
    #[error(
        "it has more than {} bytes, or more than {} statements, principals and values of conditions",
        MAX_POLICY,
        MAX_ENTRIES
    )]
    Size,
    /// Another version of the language.
    #[error("its Version is not 2012-10-17")]
    Version,
    /// An action that this service does not know.
    #[error("there is no action {action:?} here")]
    Action {
        /// As given.
        action: String,
    },
    /// A principal that is none of this service's.
    #[error(
        "{principal:?} is no principal here: uid:<number>, cert:<SHA-256 of the public key info>, key:<access key id> or *"
    )]
    Principal {
        /// As given.
        principal: String,
    },
    /// A policy is about its own key.
    #[error("its Resource has to be \"*\": a policy is about its own key")]
    Resource,
    /// A condition that this service does not know.
    #[error(
        "the condition {condition:?} is not known here: only StringEquals on kms:EncryptionContext:<name>"
    )]
    Condition {
        /// As given.
        condition: String,
    },
    /// Which of the two counts is for nobody to guess.
    #[error("{name:?} is in one object of its conditions twice")]
    Repeated {
        /// The member.
        name: String,
    },
}

impl KeyPolicy {
    /// Reads a document.
    ///
    /// # Errors
    /// If anything in it is not understood.
    pub fn parse(text: &str) -> Result<Self, PolicyFault> {
        Self::read(text, Repeated::Refused)
    }

    fn read(text: &str, repeated: Repeated) -> Result<Self, PolicyFault> {
        if text.len() > MAX_POLICY {
            return Err(PolicyFault::Size);
        }
        let document: Document = serde_json::from_str(text)
            .map_err(|error| PolicyFault::Form { line: error.line(), column: error.column() })?;
        if document.version.is_some_and(|version| version != "2012-10-17") {
            return Err(PolicyFault::Version);
        }
        let statements: Vec<Statement> = document
            .statement
            .into_iter()
            .map(|one| read_statement(one, repeated))
            .collect::<Result<_, _>>()?;
        let entries = |s: &Statement| match &s.principals {
            Principals::Everyone => 1 + s.conditions.values().map(BTreeSet::len).sum::<usize>(),
            Principals::These(these) => {
                1 + these.len() + s.conditions.values().map(BTreeSet::len).sum::<usize>()
            }
        };
        if statements.iter().map(entries).sum::<usize>() > MAX_ENTRIES {
            return Err(PolicyFault::Size);
        }
        Ok(Self { text: text.to_owned(), statements })
    }

    /// What stands in for a policy that was never given.
    #[must_use]
    pub fn of_owner(owner: &Principal) -> String {
        format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Sid":"Owner","Effect":"Allow","Principal":{{"AWS":"{owner}"}},"Action":"kms:*","Resource":"*"}}]}}"#
        )
    }

    /// The document as it was given.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a statement lets a principal do something with a context, and none forbids it.
    #[must_use]
    pub fn allows(&self, principal: &Principal, operation: Operation, context: &EncryptionContext) -> bool {
        self.says(true, principal, operation, context) && !self.denies(principal, operation, context)
    }

    /// Whether a statement forbids it.
    #[must_use]
    pub fn denies(&self, principal: &Principal, operation: Operation, context: &EncryptionContext) -> bool {
        self.says(false, principal, operation, context)
    }

    /// Whether a statement forbids it with any context at all.
    #[must_use]
    pub fn may_deny(&self, principal: &Principal, operation: Operation) -> bool {
        self.statements.iter().any(|statement| {
            !statement.is_allow
                && statement.operations.contains(&operation)
                && statement.principals.include(principal)
        })
    }

    /// Whether it lets a principal do anything at all, so that the key's existence is no secret to it.
    #[must_use]
    pub fn concerns(&self, principal: &Principal) -> bool {
        self.statements.iter().any(|statement| statement.is_allow && statement.principals.include(principal))
    }

    fn says(
        &self,
        is_allow: bool,
        principal: &Principal,
        operation: Operation,
        context: &EncryptionContext,
    ) -> bool {
        self.statements.iter().any(|statement| {
            statement.is_allow == is_allow
                && statement.operations.contains(&operation)
                && statement.principals.include(principal)
                && statement.is_met(context)
        })
    }
}

impl Principals {
    fn include(&self, principal: &Principal) -> bool {
        match self {
            Self::Everyone => true,
            Self::These(these) => these.contains(principal),
        }
    }
}

impl Statement {
    fn is_met(&self, context: &EncryptionContext) -> bool {
        self.conditions
            .iter()
            .all(|(name, values)| context.iter().any(|(n, value)| n == name && values.contains(value)))
    }
}

impl From<KeyPolicy> for String {
    fn from(policy: KeyPolicy) -> Self {
        policy.text
    }
}

impl TryFrom<String> for KeyPolicy {
    type Error = PolicyFault;

    /// As it stands in a record: a version before this one took documents that repeat a condition, and read them so.
    fn try_from(text: String) -> Result<Self, PolicyFault> {
        Self::read(&text, Repeated::LastCounts)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Document {
    version: Option<String>,
    #[serde(rename = "Id")]
    _id: Option<String>,
    statement: OneOrMore<StatementDocument>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct StatementDocument {
    #[serde(rename = "Sid")]
    _sid: Option<String>,
    effect: Effect,
    principal: PrincipalDocument,
    action: OneOrMore<String>,
    resource: Option<OneOrMore<String>>,
    #[serde(default)]
    condition: Members<Members<OneOrMore<String>>>,
}

/// What becomes of a member that an object has twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeated {
    Refused,
    LastCounts,
}

/// An object's members as they stand there. A map would forget all but the last of a name, and with it a condition.
struct Members<T>(Vec<(String, T)>);

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
            type Value = Members<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<T>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object(PhantomData))
    }
}

impl<T> Members<T> {
    /// Each name once.
    fn unique(self, repeated: Repeated) -> Result<BTreeMap<String, T>, PolicyFault> {
        let mut unique = BTreeMap::new();
        for (name, value) in self.0 {
            if repeated == Repeated::Refused && unique.contains_key(&name) {
                return Err(PolicyFault::Repeated { name });
            }
            unique.insert(name, value);
        }
        Ok(unique)
    }
}

#[derive(Deserialize, PartialEq)]
enum Effect {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PrincipalDocument {
    Everyone(String),
    These(AwsPrincipals),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AwsPrincipals {
    #[serde(rename = "AWS")]
    these: OneOrMore<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> IntoIterator for OneOrMore<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        match self {
            Self::One(one) => vec![one].into_iter(),
            Self::More(more) => more.into_iter(),
        }
    }
}

fn read_statement(document: StatementDocument, repeated: Repeated) -> Result<Statement, PolicyFault> {
    let is_allow = document.effect == Effect::Allow;
    let names = match document.principal {
        PrincipalDocument::Everyone(text) => vec![text],
        PrincipalDocument::These(AwsPrincipals { these }) => these.into_iter().collect(),
    };
    let principals = read_principals(names, is_allow)?;
    let mut operations = BTreeSet::new();
    for action in document.action {
        operations.extend(read_action(&action)?);
    }
    if let Some(resource) = document.resource
        && resource.into_iter().any(|resource| resource != "*")
    {
        return Err(PolicyFault::Resource);
    }
    let mut conditions = BTreeMap::new();
    for (operator, keys) in document.condition.unique(repeated)? {
        for (key, values) in keys.unique(repeated)? {
            let name =
                key.strip_prefix(CONTEXT).filter(|name| !name.is_empty() && operator == "StringEquals");
            let Some(name) = name else {
                return Err(PolicyFault::Condition { condition: format!("{operator} {key}") });
            };
            conditions.insert(name.to_owned(), values.into_iter().collect());
        }
    }
    Ok(Statement { is_allow, principals, operations, conditions })
}

fn read_principals(names: Vec<String>, is_allow: bool) -> Result<Principals, PolicyFault> {
    let mut these = BTreeSet::new();
    for principal in names {
        if principal == "*" {
            return Ok(Principals::Everyone);
        }
        // The account itself: administrators, who may do everything anyhow.
        if is_allow && principal.starts_with("arn:") && principal.ends_with(":root") {
            continue;
        }
        these.insert(Principal::named(&principal).map_err(|_| PolicyFault::Principal { principal })?);
    }
    Ok(Principals::These(these))
}

/// `kms:<name>`, where `*` stands for anything.
fn read_action(action: &str) -> Result<BTreeSet<Operation>, PolicyFault> {
    let unknown = || PolicyFault::Action { action: action.to_owned() };
    let pattern = if action == "*" { action } else { action.strip_prefix("kms:").ok_or_else(unknown)? };
    let mut matching = ACTIONS.iter().filter(|(name, _)| matches(pattern, name)).peekable();
    if matching.peek().is_none() {
        return Err(unknown());
    }
    Ok(matching.flat_map(|(_, operations)| operations.iter().copied()).collect())
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut tail) = name.strip_prefix(start) else { return false };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    // Each part at its first place leaves most for those that follow.
    for part in middle.split('*') {
        let Some(at) = tail.find(part) else { return false };
        tail = &tail[at + part.len()..];
    }
    tail.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(more: &str) -> String {
        format!(r#"{{"Version":"2012-10-17","Statement":[{{{more}}}]}}"#)
    }

    fn uid(uid: u32) -> Principal {
        Principal::Uid(uid)
    }

    #[test]
    fn k7_a_policy_allows_and_denies() {
        let text = r#"{"Version": "2012-10-17", "Id": "x", "Statement": [
            {"Sid": "use", "Effect": "Allow", "Principal": {"AWS": ["uid:2", "key:AK1", "arn:aws:iam::1:root"]},
             "Action": ["kms:Encrypt", "kms:Generate*"], "Resource": "*",
             "Condition": {"StringEquals": {"kms:EncryptionContext:tenant": ["a", "b"], "kms:EncryptionContext:v": "1"}}},
            {"Effect": "Allow", "Principal": "*", "Action": "kms:DescribeKey"},
            {"Effect": "Deny", "Principal": {"AWS": "AK1"}, "Action": "*", "Resource": ["*"]}]}"#;
        let policy = KeyPolicy::parse(text).unwrap();
        let fits: EncryptionContext = [("tenant", "b"), ("v", "1"), ("more", "x")].into_iter().collect();
        let misses: EncryptionContext = [("tenant", "c"), ("v", "1")].into_iter().collect();
        let partly: EncryptionContext = [("tenant", "a")].into_iter().collect();
        let none = EncryptionContext::default();
        for operation in [Operation::EncryptData, Operation::EncryptDatakey, Operation::CreateDatakey] {
            assert!(policy.allows(&uid(2), operation, &fits));
            for context in [&misses, &partly, &none] {
                assert!(!policy.allows(&uid(2), operation, context));
            }
            assert!(!policy.allows(&uid(3), operation, &fits));
        }
        assert!(!policy.allows(&uid(2), Operation::DecryptData, &fits));
        assert!(policy.allows(&uid(3), Operation::DescribeKey, &none));
        let denied = Principal::AccessKey("AK1".into());
        assert!(policy.denies(&denied, Operation::DescribeKey, &none));
        assert!(!policy.allows(&denied, Operation::EncryptData, &fits));
        assert_eq!(policy.text(), text);
        let stored = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<KeyPolicy>(&stored).unwrap(), policy);
    }

    /// K7: what is not understood is refused; it never counts as met.
    #[test]
    fn k7_what_is_not_understood_is_refused() {
        let good = r#""Effect":"Allow","Principal":"*","Action":"kms:Encrypt""#;
        assert!(KeyPolicy::parse(&statement(good)).is_ok());
        for (more, expected) in [
            (format!(r#"{good},"NotAction":"x""#), "form"),
            (format!(r#"{good},"Resource":"arn:aws:kms:r:1:key/x""#), "resource"),
            (format!(r#"{good},"Condition":{{"StringEquals":{{"aws:SourceIp":"1"}}}}"#), "condition"),
            (
                format!(r#"{good},"Condition":{{"StringLike":{{"kms:EncryptionContext:a":"1"}}}}"#),
                "condition",
            ),
            (
                format!(r#"{good},"Condition":{{"StringEquals":{{"kms:EncryptionContext:":"1"}}}}"#),
                "condition",
            ),
            (
                format!(
                    r#"{good},"Condition":{{"StringEquals":{{"kms:EncryptionContext:a":"1"}},"StringEquals":{{"kms:EncryptionContext:b":"1"}}}}"#
                ),
                "repeated",
            ),
            (
                format!(
                    r#"{good},"Condition":{{"StringEquals":{{"kms:EncryptionContext:a":"1","kms:EncryptionContext:a":"2"}}}}"#
                ),
                "repeated",
            ),
            (format!(r#"{good},"Condition":{{}},"Condition":{{}}"#), "form"),
            (format!(r#"{good},"Condition":[]"#), "form"),
            (r#""Effect":"Allow","Principal":"*","Action":"kms:Sign""#.into(), "action"),
            (r#""Effect":"Allow","Principal":"*","Action":"s3:*""#.into(), "action"),
            (r#""Effect":"Allow","Principal":{"AWS":"system"},"Action":"kms:*""#.into(), "principal"),
            (r#""Effect":"Allow","Principal":{"Service":"x"},"Action":"kms:*""#.into(), "form"),
            (
                r#""Effect":"Deny","Principal":{"AWS":"arn:aws:iam::1:root"},"Action":"kms:*""#.into(),
                "principal",
            ),
            (r#""Effect":"Maybe","Principal":"*","Action":"kms:*""#.into(), "form"),
        ] {
            let fault = KeyPolicy::parse(&statement(&more)).unwrap_err();
            let kind = match fault {
                PolicyFault::Form { .. } => "form",
                PolicyFault::Resource => "resource",
                PolicyFault::Condition { .. } => "condition",
                PolicyFault::Repeated { .. } => "repeated",
                PolicyFault::Action { .. } => "action",
                PolicyFault::Principal { .. } => "principal",
                PolicyFault::Size | PolicyFault::Version => "other",
            };
            assert_eq!(kind, expected, "{more}");
        }
        for text in ["", "{}", "[]", r#"{"Statement": 1}"#, "{\"Statement\": []} x"] {
            assert!(matches!(KeyPolicy::parse(text), Err(PolicyFault::Form { .. })), "{text}");
        }
        let old = r#"{"Version":"2008-10-17","Statement":[]}"#;
        assert_eq!(KeyPolicy::parse(old), Err(PolicyFault::Version));
        assert_eq!(KeyPolicy::parse(&" ".repeat(MAX_POLICY + 1)), Err(PolicyFault::Size));
        let one = format!("{{{good}}}");
        let many = vec![one.as_str(); MAX_ENTRIES + 1].join(",");
        assert_eq!(KeyPolicy::parse(&format!(r#"{{"Statement":[{many}]}}"#)), Err(PolicyFault::Size));
    }

    /// What an older version took is read from its record as that version read it.
    #[test]
    fn a_repeated_condition_in_a_record_is_read_as_before() {
        let text = statement(
            r#""Effect":"Allow","Principal":"*","Action":"kms:Encrypt","Condition":{"StringEquals":{"kms:EncryptionContext:a":"1","kms:EncryptionContext:a":"2"}}"#,
        );
        assert!(KeyPolicy::parse(&text).is_err());
        let stored: KeyPolicy = serde_json::from_str(&serde_json::to_string(&text).unwrap()).unwrap();
        for (value, fits) in [("1", false), ("2", true)] {
            let context = [("a", value)].into_iter().collect();
            assert_eq!(stored.allows(&uid(2), Operation::EncryptData, &context), fits);
        }
        assert_eq!(stored.text(), text);
    }

    /// K7: a Deny counts as one that may hit, whatever its conditions.
    #[test]
    fn k7_a_conditional_deny_may_deny() {
        let text = statement(
            r#""Effect":"Deny","Principal":{"AWS":"uid:2"},"Action":"kms:Decrypt","Condition":{"StringEquals":{"kms:EncryptionContext:a":"1"}}"#,
        );
        let policy = KeyPolicy::parse(&text).unwrap();
        let none = EncryptionContext::default();
        assert!(!policy.denies(&uid(2), Operation::DecryptData, &none));
        assert!(policy.may_deny(&uid(2), Operation::DecryptData));
        assert!(!policy.may_deny(&uid(3), Operation::DecryptData));
        assert!(!policy.may_deny(&uid(2), Operation::EncryptData));
    }

    #[test]
    fn every_operation_has_an_action_and_patterns_match() {
        let named: BTreeSet<Operation> =
            ACTIONS.iter().flat_map(|(_, operations)| operations.iter().copied()).collect();
        let all: BTreeSet<Operation> =
            crate::domain::operation::RULES.iter().map(|rule| rule.operation).collect();
        assert_eq!(named, all);
        assert_eq!(read_action("kms:*").unwrap(), all);
        for (pattern, name, fits) in [
            ("*", "Encrypt", true),
            ("En*", "Encrypt", true),
            ("*crypt", "Encrypt", true),
            ("*c*t", "Decrypt", true),
            ("En*x", "Encrypt", false),
            ("encrypt", "Encrypt", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern}");
        }
        let default = KeyPolicy::parse(&KeyPolicy::of_owner(&Principal::Uid(5))).unwrap();
        assert!(all.iter().all(|op| default.allows(&uid(5), *op, &EncryptionContext::default())));
    }
}
