//! The real key service: kmsd, by its own client.

use std::path::Path;

use kmsd::{
    client::{Client, ClientError, KeyInfo},
    domain,
};

use crate::{
    keys::{KeyError, KeyService, NewKey},
    model::key::{Key, KeyState},
};

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
            origin: domain::Origin::Kms,
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

    fn schedule_deletion(&self, key_id: &str, days: u16) -> Result<(), KeyError> {
        self.client.schedule_deletion(key_id, days).map(|_| ()).map_err(|error| told(key_id, error))
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
        deletion_date: info.deletion_date.map(second),
        created_at: Some(second(info.created_at)),
        description: Some(info.description).filter(|text| !text.is_empty()),
    }
}

fn second(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn told(key: &str, error: ClientError) -> KeyError {
    if error.is_not_found() {
        return KeyError::NotFound { key: key.to_owned() };
    }
    if error.is_unavailable() {
        return KeyError::Unavailable { message: error.to_string() };
    }
    match error {
        ClientError::Refused { code, message, hint, .. } => KeyError::Refused { code, message, hint },
        other => KeyError::Protocol { message: other.to_string() },
    }
}
