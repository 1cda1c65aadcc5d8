//! `ecsctl key grant`

use std::collections::BTreeSet;

use clap::Args;
use kmsd::domain::{
    EncryptionContext, Operation, Principal,
    grant::{Constraints, GrantSpec},
};
use serde_json::{Value, json};

use crate::{
    app::App,
    commands::stdout,
    error::Error,
    model::{key::Grant, name::short},
    output::Show,
};

/// Let another principal use a key; without `--to`, list who may. A grant counts at once.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl key grant db-key                                  lists the grants
  ecsctl key grant db-key --to uid:1001 --allow create-datakey,decrypt-datakey,describe-key
  ecsctl key grant db-key --to key:5DPEGYBMKT6LRNABCIT6 --allow decrypt-data --context tenant=a")]
pub(crate) struct GrantKey {
    /// Its alias, its ID, or the beginning of its ID
    key: String,
    /// Who may: uid:NUMBER, cert:SHA256 of the public key info, or key:ACCESS-KEY-ID
    #[arg(long, value_name = "PRINCIPAL", requires = "allow")]
    to: Option<Principal>,
    /// What: create-datakey, create-datakey-without-plaintext, encrypt-datakey, decrypt-datakey, encrypt-data,
    /// decrypt-data, re-encrypt-from, re-encrypt-to, describe-key, create-grant, retire-grant
    #[arg(long, value_name = "OPERATION", value_delimiter = ',', requires = "to", value_parser = operation)]
    allow: Vec<Operation>,
    /// Only with an encryption context that has this
    #[arg(long, value_name = "NAME=VALUE", requires = "to", value_parser = pair)]
    context: Vec<(String, String)>,
    /// The context has to be exactly what `--context` says
    #[arg(long, requires = "context")]
    exact: bool,
    /// Who else may give the grant up
    #[arg(long, value_name = "PRINCIPAL", requires = "to")]
    retiring: Option<Principal>,
    /// What it is for; asking again with the same name makes no second grant
    #[arg(long, requires = "to")]
    name: Option<String>,
}

impl GrantKey {
    pub(super) fn run(self, app: &App) -> Result<(), Error> {
        let key = app.find_key(&self.key)?;
        let Some(grantee) = self.to else {
            return app.out.list(&app.keys.grants(&key.key_id)?).map_err(stdout);
        };
        let pairs = self.context.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let context = Some(pairs.collect::<EncryptionContext>()).filter(|context| !context.is_empty());
        let constraints = if self.exact {
            Constraints { equals: context, subset: None }
        } else {
            Constraints { equals: None, subset: context }
        };
        let sentence = format!("{grantee} may use key {} from now on", key.alias);
        let spec = GrantSpec {
            name: self.name,
            grantee,
            retiring: self.retiring,
            operations: self.allow.into_iter().collect::<BTreeSet<_>>(),
            constraints,
        };
        let id = app.keys.grant(&key.key_id, &spec)?;
        let made = app.keys.grants(&key.key_id)?.into_iter().find(|grant| grant.grant_id == id);
        match made {
            Some(grant) => app.out.done(&grant, &format!("{sentence} (grant {id})")).map_err(stdout),
            // Revoked by somebody else in this moment.
            None => app.out.lines(&[format!("{sentence} (grant {id})")]).map_err(stdout),
        }
    }
}

fn operation(text: &str) -> Result<Operation, String> {
    let known = Operation::from_name(text).filter(|operation| operation.rule().grantable);
    known.ok_or_else(|| "not an operation that can be granted".to_owned())
}

/// `NAME=VALUE`
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Show for Grant {
    fn json(&self) -> Value {
        json!({
            "grant_id": self.grant_id,
            "key_id": self.key_id,
            "grantee": self.grantee,
            "operations": self.operations,
            "context_equals": self.context_equals,
            "context_includes": self.context_includes,
            "retiring": self.retiring,
            "name": self.name,
            "issuer": self.issuer,
            "created_at": self.created_at,
        })
    }

    fn headings() -> &'static [&'static str] {
        &["grant", "grantee", "operations", "context", "name"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            short(&self.grant_id),
            self.grantee.clone(),
            self.operations.join(","),
            self.context(),
            self.name.clone().unwrap_or_default(),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Grant", self.grant_id.clone()),
            ("Key", self.key_id.clone()),
            ("Grantee", self.grantee.clone()),
            ("Operations", self.operations.join(", ")),
            ("Context", self.context()),
            ("Retiring", self.retiring.clone().unwrap_or_default()),
            ("Name", self.name.clone().unwrap_or_default()),
            ("Issuer", self.issuer.clone()),
            ("Created", self.created_at.clone()),
        ]
    }

    fn handle(&self) -> String {
        self.grant_id.clone()
    }
}
