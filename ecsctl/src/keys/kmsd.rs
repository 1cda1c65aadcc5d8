//! The real key service: kmsd, by its own client.

use std::path::Path;

use jiff::Timestamp;
use kmsd::{
    client::{Client, ClientError, KeyInfo},
    domain::{self, EncryptionContext, KeyId, grant::GrantSpec, import::OaepHash},
};
use uuid::Uuid;

use crate::{
    keys::{Health, KeyError, KeyService, NewKey, Release, material::Material},
    model::{
        key::{Grant, Key, KeyState},
        time,
    },
};

/// kmsd's code for a wrapping algorithm that the token lacks.
const INVALID_PARAMETER: &str = "KMS.0308";

/// kmsd at its socket.
#[derive(Debug)]
pub(crate) struct Kmsd {
    client: Client,
}

impl Kmsd {
    /// Nothing is sent before it is needed.
    pub(crate) fn new(socket: &Path) -> Self {
        Self { client: Client::new(socket) }
    }
}

impl KeyService for Kmsd {
    fn create(&self, new: &NewKey) -> Result<Key, KeyError> {
        let request = kmsd::client::NewKey {
            alias: new.alias.clone(),
            description: new.description.clone().unwrap_or_default(),
            origin: if new.is_external { domain::Origin::External } else { domain::Origin::Kms },
        };
        let key_id = self.client.create_key(&request).map_err(|error| told(&new.alias, error))?;
        self.describe(&key_id.to_string())
    }

    fn list(&self) -> Result<Vec<Key>, KeyError> {
        let keys = self.client.list_keys().map_err(|error| told("", error))?;
        Ok(keys.into_iter().map(key).collect())
    }

    fn describe(&self, key_id: &str) -> Result<Key, KeyError> {
        self.client.describe_key(key_id).map(key).map_err(|error| told(key_id, error))
    }

    fn health(&self) -> Result<Health, KeyError> {
        let health = self.client.health().map_err(|error| told("", error))?;
        let token = match &health.token.reason {
            Some(reason) => format!("{}: {reason}", health.token.label),
            None => format!("{} (serial {})", health.token.label, health.token.serial),
        };
        Ok(Health {
            well: health.status == "ok",
            version: health.version,
            token_present: health.token.available,
            token,
        })
    }

    fn enable(&self, key_id: &str) -> Result<(), KeyError> {
        self.client.enable_key(key_id).map(|_| ()).map_err(|error| told(key_id, error))
    }

    fn disable(&self, key_id: &str) -> Result<(), KeyError> {
        self.client.disable_key(key_id).map(|_| ()).map_err(|error| told(key_id, error))
    }

    fn rotate(&self, key_id: &str) -> Result<(), KeyError> {
        self.client.rotate_key(key_id).map_err(|error| told(key_id, error))
    }

    fn rotate_every(&self, key_id: &str, days: Option<u16>) -> Result<(), KeyError> {
        let done = match days {
            Some(days) => self.client.rotate_every(key_id, days),
            None => self.client.stop_rotation(key_id),
        };
        done.map_err(|error| told(key_id, error))
    }

    fn grant(&self, key_id: &str, spec: &GrantSpec) -> Result<String, KeyError> {
        let made = self.client.create_grant(key_id, spec);
        made.map(|id| id.to_string()).map_err(|error| told(key_id, error))
    }

    fn grants(&self, key_id: &str) -> Result<Vec<Grant>, KeyError> {
        let grants = self.client.list_grants(key_id).map_err(|error| told(key_id, error))?;
        Ok(grants
            .into_iter()
            .map(|info| Grant {
                issuer: info.issuer.to_string(),
                created_at: time::text(info.created_at),
                ..Grant::new(info.id.to_string(), info.key_id.to_string(), &info.spec)
            })
            .collect())
    }

    fn revoke(&self, key_id: &str, grant_id: &str) -> Result<(), KeyError> {
        self.client.revoke_grant(key_id, grant_id).map_err(|error| told(key_id, error))
    }

    fn aliases(&self, key_id: &str) -> Result<Vec<String>, KeyError> {
        let names = self.client.list_aliases(&id(key_id)?).map_err(|error| told(key_id, error))?;
        Ok(names.into_iter().map(|alias| alias.to_string()).collect())
    }

    fn add_alias(&self, key_id: &str, alias: &str) -> Result<(), KeyError> {
        self.client.create_alias(key_id, alias).map_err(|error| told(key_id, error))
    }

    fn remove_alias(&self, key_id: &str, alias: &str) -> Result<(), KeyError> {
        self.client.delete_alias(key_id, alias).map_err(|error| told(key_id, error))
    }

    fn rename(&self, key_id: &str, alias: &str) -> Result<(), KeyError> {
        self.client.rename_key(key_id, alias).map_err(|error| told(key_id, error))
    }

    fn tags(&self, key_id: &str) -> Result<Vec<(String, String)>, KeyError> {
        self.client.list_tags(&id(key_id)?).map_err(|error| told(key_id, error))
    }

    fn add_tags(&self, key_id: &str, tags: &[(String, String)]) -> Result<(), KeyError> {
        self.client.add_tags(&id(key_id)?, tags).map_err(|error| told(key_id, error))
    }

    fn remove_tags(&self, key_id: &str, names: &[String]) -> Result<(), KeyError> {
        self.client.remove_tags(&id(key_id)?, names).map_err(|error| told(key_id, error))
    }

    fn schedule_deletion(&self, key_id: &str, days: u16) -> Result<(), KeyError> {
        self.client.schedule_deletion(key_id, days).map(|_| ()).map_err(|error| told(key_id, error))
    }

    fn release_plaintext(&self, release: &Release<'_>) -> Result<(), KeyError> {
        let context =
            EncryptionContext::for_volume(&release.volume, if release.image { "image" } else { "disk" });
        let recorded =
            self.client.release_plaintext(&id(release.key_id)?, &release.volume, &context, release.to);
        recorded.map_err(|error| told(release.key_id, error))
    }

    fn forget_anchor(&self, volume: Uuid) -> Result<(), KeyError> {
        self.client.forget_anchor(&volume).map(|_| ()).map_err(|error| told("", error))
    }

    fn import(&self, key_id: &str, material: &Material, expires: Option<Timestamp>) -> Result<(), KeyError> {
        let refused = |error| told(key_id, error);
        // The better hash first; tokens that lack it say so when they are asked for the parameters. SoftHSM is one of them.
        let (hash, parameters) = match self.client.import_parameters(key_id, OaepHash::Sha256) {
            Err(ClientError::Refused { code, .. }) if code == INVALID_PARAMETER => {
                (OaepHash::Sha1, self.client.import_parameters(key_id, OaepHash::Sha1).map_err(refused)?)
            }
            other => (OaepHash::Sha256, other.map_err(refused)?),
        };
        let wrapped = material.wrap(&parameters.public_key, hash)?;
        self.client.import_material(key_id, &parameters.token, &wrapped, expires).map_err(refused)
    }

    fn cancel_deletion(&self, key_id: &str) -> Result<(), KeyError> {
        self.client.cancel_deletion(key_id).map(|_| ()).map_err(|error| told(key_id, error))
    }
}

fn key(info: KeyInfo) -> Key {
    Key {
        key_id: info.key_id.to_string(),
        alias: info.alias,
        state: match info.state {
            domain::KeyState::Enabled => KeyState::Enabled,
            domain::KeyState::Disabled => KeyState::Disabled,
            domain::KeyState::PendingDeletion => KeyState::PendingDeletion,
            domain::KeyState::PendingImport => KeyState::PendingImport,
        },
        default: info.default,
        origin: info.origin.as_str().to_owned(),
        versions: u64::from(info.versions),
        rotation: info.rotation,
        deletion_date: info.deletion_date.map(time::text),
        created_at: Some(time::text(info.created_at)),
        description: Some(info.description).filter(|text| !text.is_empty()),
    }
}

fn id(key_id: &str) -> Result<KeyId, KeyError> {
    key_id.parse().map_err(|_| KeyError::NotFound { key: key_id.to_owned() })
}

/// A failure of a request about a key, in this program's words.
pub(crate) fn told(key: &str, error: ClientError) -> KeyError {
    if error.is_not_found() {
        return KeyError::NotFound { key: key.to_owned() };
    }
    if error.is_unavailable() {
        let hint = error.hint().map(str::to_owned);
        return KeyError::Unavailable { message: error.to_string(), hint };
    }
    match error {
        ClientError::Refused { code, message, hint, .. } => {
            KeyError::Refused { key: key.to_owned(), code, message, hint }
        }
        other => KeyError::Protocol { message: other.to_string() },
    }
}
