//! Grants and key policies (K7).

use jiff::Timestamp;

use super::{Client, ClientError, Replay, types::time};
use crate::{
    domain::{
        KeyId, Operation, Principal,
        grant::{Constraints, GrantId, GrantSpec},
    },
    wire::{
        grants::{
            CreateGrantReply, CreateGrantRequest, GrantDetails, GrantRequest, ListGrantsReply,
            ListGrantsRequest,
        },
        names::PolicyBody,
        rotation::Done,
    },
};

/// A grant as the service describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantInfo {
    /// Its id.
    pub id: GrantId,
    /// The key.
    pub key_id: KeyId,
    /// What it grants to whom.
    pub spec: GrantSpec,
    /// Who made it.
    pub issuer: Principal,
    /// When.
    pub created_at: Timestamp,
}

impl Client {
    /// Lets a principal use a key. Not sent again when the answer is lost.
    ///
    /// # Errors
    /// Also if the caller may not, or the key's state does not allow it.
    pub fn create_grant(&self, key: &str, spec: &GrantSpec) -> Result<GrantId, ClientError> {
        let request = CreateGrantRequest {
            key_id: key.to_owned(),
            grantee_principal: spec.grantee.to_string(),
            operations: spec.operations.iter().map(|operation| operation.name().to_owned()).collect(),
            name: spec.name.clone(),
            retiring_principal: spec.retiring.as_ref().map(ToString::to_string),
            constraints: spec.constraints.clone(),
            ..CreateGrantRequest::default()
        };
        let reply: CreateGrantReply = self.verb("create-grant", &request, Replay::Unsafe)?;
        reply.grant_id.parse().map_err(|_| self.wrong("grant_id"))
    }

    /// A key's grants, oldest first.
    ///
    /// # Errors
    /// Also unless the caller owns the key or is an administrator.
    pub fn list_grants(&self, key: &str) -> Result<Vec<GrantInfo>, ClientError> {
        // One page holds as many as a key may have.
        let request = ListGrantsRequest { key_id: key.to_owned(), ..ListGrantsRequest::default() };
        let reply: ListGrantsReply = self.verb("list-grants", &request, Replay::Safe)?;
        reply.grants.into_iter().map(|grant| info(grant).map_err(|field| self.wrong(field))).collect()
    }

    /// Takes a grant back, as the key's owner.
    ///
    /// # Errors
    /// Also if the key has no such grant.
    pub fn revoke_grant(&self, key: &str, id: &str) -> Result<(), ClientError> {
        let request = GrantRequest { key_id: key.to_owned(), grant_id: id.to_owned() };
        self.verb("revoke-grant", &request, Replay::Unsafe).map(|Done {}| ())
    }

    /// Gives a grant up, as one whom it names.
    ///
    /// # Errors
    /// Also if the key has no such grant.
    pub fn retire_grant(&self, key: &str, id: &str) -> Result<(), ClientError> {
        let request = GrantRequest { key_id: key.to_owned(), grant_id: id.to_owned() };
        self.verb("retire-grant", &request, Replay::Unsafe).map(|Done {}| ())
    }

    /// The text of a key's policy.
    ///
    /// # Errors
    /// Also if there is no such key.
    pub fn key_policy(&self, key: &KeyId) -> Result<String, ClientError> {
        self.call("GET", &policy_path(key), &[], Replay::Safe).map(|body: PolicyBody| body.policy)
    }

    /// Sets a key's policy, or removes it.
    ///
    /// # Errors
    /// Also if it is not understood in full.
    pub fn set_key_policy(&self, key: &KeyId, policy: Option<&str>) -> Result<(), ClientError> {
        let body = policy.map(|policy| PolicyBody { policy: policy.to_owned() });
        let bytes = body.map(|body| serde_json::to_vec(&body).expect("text serialises"));
        let method = if policy.is_some() { "PUT" } else { "DELETE" };
        let bytes = bytes.unwrap_or_default();
        self.call(method, &policy_path(key), &bytes, Replay::Safe).map(|Done {}| ())
    }
}

fn policy_path(key: &KeyId) -> String {
    format!("/kmsd/v1/keys/{key}/policy")
}

fn info(details: GrantDetails) -> Result<GrantInfo, &'static str> {
    let somebody = |text: &str, field| text.parse::<Principal>().map_err(|_| field);
    let retiring = Some(details.retiring_principal).filter(|text| !text.is_empty());
    let operation = |name: &String| Operation::from_name(name).ok_or("operations");
    let constraints: Constraints = details.constraints;
    Ok(GrantInfo {
        id: details.grant_id.parse().map_err(|_| "grant_id")?,
        key_id: details.key_id.parse().map_err(|_| "key_id")?,
        spec: GrantSpec {
            name: Some(details.name).filter(|name| !name.is_empty()),
            grantee: somebody(&details.grantee_principal, "grantee_principal")?,
            retiring: retiring.map(|text| somebody(&text, "retiring_principal")).transpose()?,
            operations: details.operations.iter().map(operation).collect::<Result<_, _>>()?,
            constraints,
        },
        issuer: somebody(&details.issuing_principal, "issuing_principal")?,
        created_at: time(&details.creation_date, "creation_date")?.ok_or("creation_date")?,
    })
}
