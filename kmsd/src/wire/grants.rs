//! Bodies of the grant verbs. `constraints` is not in the publication.

use serde::{Deserialize, Serialize};

use super::huawei::maybe_text_or_number;
use crate::domain::grant::Constraints;

/// `create-grant`. A member that is not known is refused: a misspelt constraint would be none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateGrantRequest {
    /// Id, `alias/<name>`, URN or name.
    pub key_id: String,
    /// Who may: `uid:1000`, `cert:<digest>`, `key:<access key id>`, or an access key's id alone.
    pub grantee_principal: String,
    /// `user`, the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grantee_principal_type: Option<String>,
    /// What.
    pub operations: Vec<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who may give it up besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring_principal: Option<String>,
    /// With which encryption contexts.
    #[serde(default, skip_serializing_if = "Constraints::is_empty")]
    pub constraints: Constraints,
    /// As published, a number of the message's; not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
}

/// Answer of `create-grant`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateGrantReply {
    /// 64 hexadecimal digits.
    pub grant_id: String,
}

/// `list-grants` and, without a key, `list-retirable-grants`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListGrantsRequest {
    /// Id, `alias/<name>`, URN or name.
    pub key_id: String,
    /// Most grants in the answer, 1 to 100.
    #[serde(deserialize_with = "maybe_text_or_number", skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// `next_marker` of the page before.
    #[serde(deserialize_with = "maybe_text_or_number", skip_serializing_if = "Option::is_none")]
    pub marker: Option<String>,
}

/// Answer of both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListGrantsReply {
    /// Grants on this page, oldest first.
    pub grants: Vec<GrantDetails>,
    /// Where the next page begins; empty on the last one.
    pub next_marker: String,
    /// `true` if there are more.
    pub truncated: String,
    /// Grants in all.
    pub total: usize,
}

/// A grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantDetails {
    /// The key.
    pub key_id: String,
    /// 64 hexadecimal digits.
    pub grant_id: String,
    /// Who may.
    pub grantee_principal: String,
    /// `user`.
    pub grantee_principal_type: String,
    /// What.
    pub operations: Vec<String>,
    /// Who made it.
    pub issuing_principal: String,
    /// When, in milliseconds since 1970.
    pub creation_date: String,
    /// For people; empty if it has none.
    pub name: String,
    /// Who may give it up besides; empty if nobody is named.
    pub retiring_principal: String,
    /// With which encryption contexts.
    #[serde(default, skip_serializing_if = "Constraints::is_empty")]
    pub constraints: Constraints,
}

/// `revoke-grant` and `retire-grant`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRequest {
    /// Id, `alias/<name>`, URN or name.
    pub key_id: String,
    /// 64 hexadecimal digits.
    pub grant_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// K7: a constraint that is misspelt does not make a grant without one.
    #[test]
    fn k7_a_misspelt_constraint_is_refused() {
        let body = |more: &str| {
            let text = format!(r#"{{"key_id": "k", "grantee_principal": "uid:2", "operations": []{more}}}"#);
            serde_json::from_str::<CreateGrantRequest>(&text)
        };
        assert!(body("").is_ok() && body(r#", "sequence": "1", "name": "n""#).is_ok());
        let given = body(r#", "constraints": {"subset": {"a": "1"}}"#).unwrap();
        assert!(!given.constraints.is_empty());
        for more in [
            r#", "constraint": {"subset": {"a": "1"}}"#,
            r#", "constraints": {"subsets": {"a": "1"}}"#,
            r#", "constraints": {"encryption_context_subset": {"a": "1"}}"#,
        ] {
            assert!(body(more).is_err(), "{more}");
        }
    }
}
