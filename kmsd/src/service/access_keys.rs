//! Access keys: made, shown once, and opened again when a request is signed with one.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::{Service, ServiceError, audit::Trail};
use crate::{
    domain::{
        Caller, Refusal,
        access_key::{
            self, AccessKeyId, AccessKeyRecord, AccessKeySpec, AccessSecret, MAX_ACCESS_KEYS, SEALING_OBJECT,
        },
        envelope::{Envelope, Purpose},
        registry::Change,
    },
    hsm::HsmError,
};

/// Secrets that were opened, by id. Wiped when the service ends or the access key is deleted.
#[derive(Default)]
pub(super) struct OpenSecrets {
    secrets: Mutex<HashMap<AccessKeyId, Arc<AccessSecret>>>,
    /// Lets one caller at a time make the sealing object.
    sealing_object: tokio::sync::Mutex<()>,
}

/// A new access key. The secret is shown this once.
pub struct NewAccessKey {
    /// What is stored.
    pub record: AccessKeyRecord,
    /// The secret.
    pub secret: AccessSecret,
}

/// What a signature by an access key is checked with, and what it is worth.
pub struct Credential {
    /// Whether requests signed with it may do everything.
    pub is_admin: bool,
    /// The secret.
    pub secret: Arc<AccessSecret>,
}

impl Service {
    /// Makes an access key.
    ///
    /// # Errors
    /// Unless the caller is an administrator; or if the token or the store fails.
    pub async fn create_access_key(
        &self,
        caller: &Caller,
        description: &str,
        is_admin: bool,
    ) -> Result<NewAccessKey, ServiceError> {
        let (service, caller, description) = (self.clone(), caller.clone(), description.to_owned());
        self.to_the_end(async move {
            let trail = Trail::new(&caller, "create-access-key");
            match AccessKeySpec::new(&caller, &description, is_admin) {
                Ok(spec) => {
                    service.intend(&trail).await?;
                    let made = service.make_access_key(spec).await;
                    let trail = match &made {
                        Ok(made) => trail.target(&made.record.id),
                        Err(_) => trail,
                    };
                    service.record(trail, made).await
                }
                Err(refusal) => service.record(trail, Err(refusal.into())).await,
            }
        })
        .await
    }

    async fn make_access_key(&self, spec: AccessKeySpec) -> Result<NewAccessKey, ServiceError> {
        // Held to the end, so that the first access keys do not get a sealing object each.
        let _turn = self.inner.open_secrets.sealing_object.lock().await;
        if self.inner.writer.registry().read().access_keys().count() >= MAX_ACCESS_KEYS {
            return Err(Refusal::TooManyAccessKeys { limit: MAX_ACCESS_KEYS }.into());
        }
        let is_first = self.inner.writer.registry().read().access_keys().next().is_none();
        let mut random = [0; AccessKeyId::LEN];
        getrandom::fill(&mut random)?;
        let id = AccessKeyId::from_random(random);
        let header = access_key::sealing_header(self.inner.pool.mechanism());
        let aad = header.authenticated(&spec.context(&id));
        let (secret, sealed) = self
            .inner
            .pool
            .call(move |session| {
                // Once there are records, the object that sealed them has to be there: another one would not open them.
                if is_first {
                    session.ensure(SEALING_OBJECT)?;
                }
                let mut random = Zeroizing::new([0; AccessSecret::LEN]);
                session.random(&mut *random)?;
                let secret = AccessSecret::from_random(&random);
                let sealed = session.seal(SEALING_OBJECT, &aad, secret.expose().as_bytes())?;
                Ok((secret, sealed))
            })
            .await?;
        let record = AccessKeyRecord {
            id,
            description: spec.description,
            is_admin: spec.is_admin,
            created_by: spec.created_by,
            created_at: self.observe_clock().wall(),
            sealed: super::datakeys::envelope(header, sealed)?,
        };
        self.inner.writer.commit(Change::PutAccessKey(record.clone())).await?;
        Ok(NewAccessKey { record, secret })
    }

    /// All access keys, oldest first.
    ///
    /// # Errors
    /// Unless the caller is an administrator.
    pub async fn list_access_keys(&self, caller: &Caller) -> Result<Vec<AccessKeyRecord>, ServiceError> {
        let permitted = access_key::permit(caller, "listing access keys");
        let found = permitted.map(|_| {
            let mut found: Vec<_> = self.inner.writer.registry().read().access_keys().cloned().collect();
            found.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
            found
        });
        self.record(Trail::new(caller, "list-access-keys"), found.map_err(Into::into)).await
    }

    /// Deletes an access key: no request signed with it is let in any more.
    ///
    /// # Errors
    /// Unless the caller is an administrator and there is such a key; or if the store fails.
    pub async fn delete_access_key(&self, caller: &Caller, id: &AccessKeyId) -> Result<(), ServiceError> {
        let (service, caller, id) = (self.clone(), caller.clone(), id.clone());
        self.to_the_end(async move {
            let trail = Trail::new(&caller, "delete-access-key").target(&id);
            let deleted = match access_key::permit(&caller, "deleting an access key") {
                Ok(_) => {
                    service.intend(&trail).await?;
                    service.forget_access_key(&id).await
                }
                Err(refusal) => Err(refusal.into()),
            };
            service.record(trail, deleted).await
        })
        .await
    }

    async fn forget_access_key(&self, id: &AccessKeyId) -> Result<(), ServiceError> {
        if self.inner.writer.registry().read().access_key(id).is_none() {
            return Err(Refusal::NoSuchAccessKey { id: id.clone() }.into());
        }
        self.inner.writer.commit(Change::ForgetAccessKey(id.clone())).await?;
        self.inner.open_secrets.secrets.lock().remove(id);
        Ok(())
    }

    /// What a signature by that access key is checked with; `None` if there is no such key.
    ///
    /// # Errors
    /// If the token cannot open the secret, or its record was tampered with.
    pub async fn credential(&self, id: &AccessKeyId) -> Result<Option<Credential>, ServiceError> {
        let Some(record) = self.inner.writer.registry().read().access_key(id).cloned() else {
            return Ok(None);
        };
        let known = self.inner.open_secrets.secrets.lock().get(id).cloned();
        let secret = match known {
            Some(secret) => secret,
            None => {
                let secret = Arc::new(self.open_secret(&record).await?);
                let mut secrets = self.inner.open_secrets.secrets.lock();
                // Not if the key was deleted meanwhile: nothing would wipe it then.
                if self.inner.writer.registry().read().access_key(id).is_some() {
                    secrets.insert(id.clone(), Arc::clone(&secret));
                }
                secret
            }
        };
        Ok(Some(Credential { is_admin: record.is_admin, secret }))
    }

    async fn open_secret(&self, record: &AccessKeyRecord) -> Result<AccessSecret, ServiceError> {
        let tampered = || ServiceError::from(Refusal::AccessKeyDamaged { id: record.id.clone() });
        let Envelope { header, iv, ciphertext } =
            Envelope::decode(&record.sealed, Purpose::AccessSecret).map_err(|_| tampered())?;
        if header != access_key::sealing_header(header.mechanism) {
            return Err(tampered());
        }
        let aad = header.authenticated(&record.context());
        let opened = self
            .inner
            .pool
            .call(move |session| session.open(SEALING_OBJECT, header.mechanism, &iv, &aad, &ciphertext))
            .await;
        let text = opened.map_err(|error| match error {
            HsmError::DoesNotOpen | HsmError::NoObject { .. } => tampered(),
            other => other.into(),
        })?;
        std::str::from_utf8(&text).map(AccessSecret::new).map_err(|_| tampered())
    }
}

#[cfg(test)]
mod tests;
