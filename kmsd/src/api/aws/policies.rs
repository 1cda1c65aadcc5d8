//! Key policies (K7): one document for each key, named `default`.

use serde::{Deserialize, Serialize};

use super::{Call, Fault, keys::OneKey};

const NAME: &str = "default";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetKeyPolicy {
    key_id: String,
    policy_name: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Policy {
    policy: String,
    policy_name: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PutKeyPolicy {
    key_id: String,
    policy_name: Option<String>,
    policy: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PolicyNames {
    policy_names: [&'static str; 1],
    truncated: bool,
}

pub(super) async fn get(call: &Call<'_>, request: &GetKeyPolicy) -> Result<Policy, Fault> {
    only_default(request.policy_name.as_deref())?;
    let policy = call.service.key_policy(call.caller, &call.key_id(&request.key_id)?).await?;
    Ok(Policy { policy, policy_name: NAME })
}

/// Nobody is locked out by a policy here, so `BypassPolicyLockoutSafetyCheck` has nothing to bypass.
pub(super) async fn put(call: &Call<'_>, request: &PutKeyPolicy) -> Result<(), Fault> {
    only_default(request.policy_name.as_deref())?;
    let key = call.key_id(&request.key_id)?;
    call.service.set_key_policy(call.caller, &key, Some(&request.policy)).await?;
    Ok(())
}

pub(super) async fn list(call: &Call<'_>, request: &OneKey) -> Result<PolicyNames, Fault> {
    call.service.key_policy(call.caller, &call.key_id(&request.key_id)?).await?;
    Ok(PolicyNames { policy_names: [NAME], truncated: false })
}

fn only_default(name: Option<&str>) -> Result<(), Fault> {
    match name {
        None | Some(NAME) => Ok(()),
        Some(_) => Err(Fault::Validation { name: "PolicyName", expected: "default, the only one" }),
    }
}
