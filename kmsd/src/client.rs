//! The blocking client of the key service, for programs on the same host.
//!
//! ```no_run
//! use kmsd::{client::Client, domain::EncryptionContext};
//! # fn main() -> Result<(), kmsd::client::ClientError> {
//! let kms = Client::from_env();
//! let context = EncryptionContext::for_volume(&uuid::Uuid::new_v4(), "disk");
//! let new = kms.create_datakey("evs/default", &context)?;
//! let again = kms.decrypt_datakey(&new.wrapped, &context)?;
//! assert!(new.dek.expose() == again.expose());
//! # Ok(())
//! # }
//! ```
//!
//! A client opens its connection with the first request and keeps it. It may be shared between threads, whose
//! requests then go one after another. It does not survive a `fork`: make a new one in the child.

mod error;
mod grants;
mod import;
mod leases;
mod names;
mod rotation;
mod transport;
mod types;

#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;
use zeroize::Zeroizing;

use self::transport::{Replay, Reply, Transport};
pub use self::{
    error::{ClientError, ProtocolFault},
    grants::GrantInfo,
    import::ImportParameters,
    leases::TakenLease,
    rotation::Rotation,
    transport::Timeouts,
    types::{Anchor, KeyInfo, NewDek, NewKey, NewWrappedDek},
};
use crate::{
    Dek, WrappedDek,
    domain::{EncryptionContext, KeyId, KeyState, access_key::AccessKeyId, lease::Ticket},
    wire::{
        ErrorBody,
        control::{
            AcceptRollbackRequest, AccessKey, AccessKeyList, AdvanceRequest, AnchorBody, AnchorReply,
            AuditVerdict, CreateAccessKeyRequest, DeletedAccessKey, Health, NewAccessKey, ReleaseRequest,
        },
        huawei::{
            CreateDatakeyReply, CreateDatakeyRequest, CreateDatakeyWithoutPlaintextReply, CreateKeyReply,
            CreateKeyRequest, DecryptDatakeyReply, DecryptDatakeyRequest, DescribeKeyReply, KeyRequest,
            KeyStateReply, KeyStatusReply, ListKeysReply, ListKeysRequest, ReEncryptDatakeyReply,
            ReEncryptDatakeyRequest, ScheduleDeletionRequest,
        },
    },
};

const ACCESS_KEYS: &str = "/kmsd/v1/access-keys";

/// A connection to the key service.
pub struct Client {
    transport: Mutex<Transport>,
}

impl Client {
    /// A client of the service at `socket`. Nothing is opened yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self::with_timeouts(socket, Timeouts::default())
    }

    /// The same with other timeouts.
    #[must_use]
    pub fn with_timeouts(socket: impl Into<PathBuf>, timeouts: Timeouts) -> Self {
        Self { transport: Mutex::new(Transport::new(socket.into(), timeouts)) }
    }

    /// A client of the service at `$KMSD_SOCKET` or its default place.
    #[must_use]
    pub fn from_env() -> Self {
        Self::new(crate::paths::socket())
    }

    /// The socket's path, for messages.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.lock().socket().to_owned()
    }

    /// Makes a key. Not sent again when the answer is lost.
    ///
    /// # Errors
    /// As every request: see [`ClientError`].
    pub fn create_key(&self, key: &NewKey) -> Result<KeyId, ClientError> {
        let request = CreateKeyRequest {
            key_alias: key.alias.clone(),
            key_description: Some(key.description.clone()).filter(|d| !d.is_empty()),
            origin: Some(key.origin.as_str().to_owned()),
            ..CreateKeyRequest::default()
        };
        let reply: CreateKeyReply = self.verb("create-key", &request, Replay::Unsafe)?;
        self.key_id(&reply.key_info.key_id)
    }

    /// Describes a key, named by id, alias or URN.
    ///
    /// # Errors
    /// Also if there is no such key, or this caller is not told of it ([`ClientError::is_not_found`]).
    pub fn describe_key(&self, key: &str) -> Result<KeyInfo, ClientError> {
        let reply: DescribeKeyReply =
            self.verb("describe-key", &KeyRequest { key_id: key.to_owned() }, Replay::Safe)?;
        self.info(reply.key_info)
    }

    /// All keys that this caller may see, oldest first.
    ///
    /// # Errors
    /// As every request.
    pub fn list_keys(&self) -> Result<Vec<KeyInfo>, ClientError> {
        let mut keys = Vec::new();
        let mut marker = None;
        loop {
            let request = ListKeysRequest { limit: Some("1000".to_owned()), marker, key_state: None };
            let page: ListKeysReply = self.verb("list-keys", &request, Replay::Safe)?;
            for details in page.key_details {
                keys.push(self.info(details)?);
            }
            if page.truncated != "true" || page.next_marker.is_empty() {
                return Ok(keys);
            }
            marker = Some(page.next_marker);
        }
    }

    /// Makes a 256-bit data key under `key`, bound to `context`. A default key is made when it is named first.
    ///
    /// # Errors
    /// Also if the key's state does not allow it; the message names the key, its state and the remedy.
    pub fn create_datakey(&self, key: &str, context: &EncryptionContext) -> Result<NewDek, ClientError> {
        let reply: CreateDatakeyReply =
            self.verb("create-datakey", &datakey_request(key, context), Replay::Safe)?;
        Ok(NewDek {
            dek: self.dek(reply.plain_text.expose(), "plain_text")?,
            wrapped: self.wrapped(&reply.cipher_text)?,
            key_id: self.key_id(&reply.key_id)?,
        })
    }

    /// The same, but the data key itself stays in the service.
    ///
    /// # Errors
    /// As [`Client::create_datakey`].
    pub fn create_datakey_without_plaintext(
        &self,
        key: &str,
        context: &EncryptionContext,
    ) -> Result<NewWrappedDek, ClientError> {
        let request = datakey_request(key, context);
        let reply: CreateDatakeyWithoutPlaintextReply =
            self.verb("create-datakey-without-plaintext", &request, Replay::Safe)?;
        Ok(NewWrappedDek { wrapped: self.wrapped(&reply.cipher_text)?, key_id: self.key_id(&reply.key_id)? })
    }

    /// Opens a wrapped data key, with the context it was made with.
    ///
    /// # Errors
    /// Also if the key's state does not allow it, or if the wrapped form or the context is not the right one.
    pub fn decrypt_datakey(
        &self,
        wrapped: &WrappedDek,
        context: &EncryptionContext,
    ) -> Result<Dek, ClientError> {
        let request = DecryptDatakeyRequest {
            cipher_text: hex::encode(wrapped.as_bytes()),
            encryption_context: context.clone(),
            ..DecryptDatakeyRequest::default()
        };
        let reply: DecryptDatakeyReply = self.verb("decrypt-datakey", &request, Replay::Safe)?;
        self.dek(reply.data_key.expose(), "data_key")
    }

    /// Wraps a data key anew, under the newest version of `key`; its plaintext stays in the service. The context stays.
    ///
    /// # Errors
    /// Also if the state of either key does not allow it.
    pub fn re_encrypt_datakey(
        &self,
        wrapped: &WrappedDek,
        context: &EncryptionContext,
        key: &str,
    ) -> Result<NewWrappedDek, ClientError> {
        let request = ReEncryptDatakeyRequest {
            destination_key_id: key.to_owned(),
            source_encryption_context: context.clone(),
            destination_encryption_context: context.clone(),
            cipher_text: hex::encode(wrapped.as_bytes()),
        };
        let reply: ReEncryptDatakeyReply = self.verb("re-encrypt", &request, Replay::Safe)?;
        Ok(NewWrappedDek { wrapped: self.wrapped(&reply.cipher_text)?, key_id: self.key_id(&reply.key_id)? })
    }

    /// Enables a disabled key.
    ///
    /// # Errors
    /// Also if its state does not allow it.
    pub fn enable_key(&self, key: &str) -> Result<KeyState, ClientError> {
        self.switch("enable-key", key)
    }

    /// Disables an enabled key.
    ///
    /// # Errors
    /// Also if its state does not allow it.
    pub fn disable_key(&self, key: &str) -> Result<KeyState, ClientError> {
        self.switch("disable-key", key)
    }

    /// Has a key destroyed in `days` days, 7 to 1096.
    ///
    /// # Errors
    /// Also if its state does not allow it.
    pub fn schedule_deletion(&self, key: &str, days: u16) -> Result<KeyState, ClientError> {
        let request = ScheduleDeletionRequest { key_id: key.to_owned(), pending_days: days.to_string() };
        let reply = self.verb("schedule-key-deletion", &request, Replay::Unsafe)?;
        self.state(&reply)
    }

    /// Takes a key's deletion back; it comes back disabled.
    ///
    /// # Errors
    /// Also if its state does not allow it.
    pub fn cancel_deletion(&self, key: &str) -> Result<KeyState, ClientError> {
        let request = KeyRequest { key_id: key.to_owned() };
        let reply = self.verb("cancel-key-deletion", &request, Replay::Unsafe)?;
        self.state(&reply)
    }

    /// Makes an access key for a network client. The secret is shown this once.
    ///
    /// # Errors
    /// Unless the caller is an administrator.
    pub fn create_access_key(&self, description: &str, admin: bool) -> Result<NewAccessKey, ClientError> {
        let request = CreateAccessKeyRequest { description: description.to_owned(), admin };
        self.send(ACCESS_KEYS, &request, Replay::Unsafe)
    }

    /// All access keys, oldest first, without their secrets.
    ///
    /// # Errors
    /// Unless the caller is an administrator.
    pub fn list_access_keys(&self) -> Result<Vec<AccessKey>, ClientError> {
        self.call("GET", ACCESS_KEYS, &[], Replay::Safe).map(|list: AccessKeyList| list.access_keys)
    }

    /// Deletes an access key: requests signed with it are refused from now on.
    ///
    /// # Errors
    /// Unless the caller is an administrator and there is such a key.
    pub fn delete_access_key(&self, id: &AccessKeyId) -> Result<(), ClientError> {
        let path = format!("{ACCESS_KEYS}/{id}");
        self.call("DELETE", &path, &[], Replay::Unsafe).map(|_: DeletedAccessKey| ())
    }

    /// The latest records of the audit log before number `before`, oldest first, at most 1000 of them. Not checked.
    ///
    /// # Errors
    /// Unless the caller is an administrator.
    #[cfg(feature = "audit")]
    pub fn audit_list(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<crate::domain::audit::Record>, ClientError> {
        let request = crate::wire::control::AuditRequest { before, limit };
        let reply: crate::wire::control::AuditReply =
            self.send("/kmsd/v1/audit/list", &request, Replay::Safe)?;
        Ok(reply.records)
    }

    /// Has the service check its audit log, which takes the longer the longer it is.
    ///
    /// # Errors
    /// Unless the caller is an administrator. What is wrong with the log is in the verdict.
    pub fn audit_verify(&self) -> Result<AuditVerdict, ClientError> {
        self.call("POST", "/kmsd/v1/audit/verify", &[], Replay::Safe)
    }

    /// The keys that a copy of the audit log can be checked with.
    ///
    /// # Errors
    /// Unless the caller is an administrator.
    #[cfg(feature = "audit")]
    pub fn audit_keys(&self) -> Result<crate::audit::keys::ExportedKeys, ClientError> {
        self.call("POST", "/kmsd/v1/audit/keys", &[], Replay::Unsafe)
    }

    /// Has it recorded that what `volume` holds under `key` is about to be written in the open, `to` saying where. To be asked before the
    /// first byte is.
    ///
    /// # Errors
    /// Also if the key's state does not allow the volume to be opened, or the audit log cannot be written.
    pub fn release_plaintext(
        &self,
        key: &KeyId,
        volume: &Uuid,
        context: &EncryptionContext,
        to: &str,
    ) -> Result<(), ClientError> {
        let request =
            ReleaseRequest { volume: *volume, encryption_context: context.clone(), to: to.to_owned() };
        let path = format!("/kmsd/v1/keys/{key}/release-plaintext");
        self.send(&path, &request, Replay::Safe).map(|_: crate::wire::rotation::Done| ())
    }

    /// How the service is.
    ///
    /// # Errors
    /// As every request.
    pub fn health(&self) -> Result<Health, ClientError> {
        self.call("GET", "/kmsd/v1/health", &[], Replay::Safe)
    }

    /// The volume's anchor, if it has one.
    ///
    /// # Errors
    /// As every request.
    pub fn anchor(&self, volume: &Uuid) -> Result<Option<Anchor>, ClientError> {
        let reply: AnchorReply = self.call("GET", &anchor_path(volume), &[], Replay::Safe)?;
        reply.anchor.map(|body| self.anchor_of(&body)).transpose()
    }

    /// Moves the volume's anchor forward, and gives back where it stands. The same anchor twice is one step.
    ///
    /// # Errors
    /// Also if the service has a newer one: the file is older than the newest known state; or if another writer holds the volume's lease, or took it
    /// after `lease`.
    pub fn advance_anchor(
        &self,
        volume: &Uuid,
        anchor: &Anchor,
        lease: Option<Ticket>,
    ) -> Result<Anchor, ClientError> {
        let request = AdvanceRequest { anchor: anchor_body(anchor), lease };
        let reply: AnchorBody = self.send(&anchor_path(volume), &request, Replay::Safe)?;
        self.anchor_of(&reply)
    }

    /// Has it recorded that an older state of the volume is opened for reading on an operator's word. The anchor stays.
    ///
    /// # Errors
    /// As every request.
    pub fn read_rollback(&self, volume: &Uuid, state: &Anchor, reason: &str) -> Result<(), ClientError> {
        let request =
            AcceptRollbackRequest { anchor: anchor_body(state), reason: reason.to_owned(), lease: None };
        let path = format!("{}/read-rollback", anchor_path(volume));
        self.send(&path, &request, Replay::Safe).map(|_: crate::wire::rotation::Done| ())
    }

    /// Sets the volume's anchor back on an operator's word (`--accept-rollback`). Audited.
    ///
    /// # Errors
    /// As every request; and if another writer holds the volume's lease.
    pub fn accept_rollback(
        &self,
        volume: &Uuid,
        anchor: &Anchor,
        reason: &str,
        lease: Option<Ticket>,
    ) -> Result<(), ClientError> {
        let request = AcceptRollbackRequest { anchor: anchor_body(anchor), reason: reason.to_owned(), lease };
        let path = format!("{}/accept-rollback", anchor_path(volume));
        let _: AnchorBody = self.send(&path, &request, Replay::Safe)?;
        Ok(())
    }

    /// Has the volume's anchor forgotten: the volume is gone. Whether there was one.
    ///
    /// # Errors
    /// As every request.
    pub fn forget_anchor(&self, volume: &Uuid) -> Result<bool, ClientError> {
        match self.call::<crate::wire::rotation::Done>("DELETE", &anchor_path(volume), &[], Replay::Safe) {
            Ok(_) => Ok(true),
            Err(ClientError::Refused { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn switch(&self, verb: &str, key: &str) -> Result<KeyState, ClientError> {
        let request = KeyRequest { key_id: key.to_owned() };
        let reply: KeyStatusReply = self.verb(verb, &request, Replay::Unsafe)?;
        self.state(&reply.key_info)
    }

    fn verb<T: DeserializeOwned>(
        &self,
        verb: &str,
        request: &impl Serialize,
        replay: Replay,
    ) -> Result<T, ClientError> {
        self.send(&format!("/v1.0/default/kms/{verb}"), request, replay)
    }

    fn send<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
        replay: Replay,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(request).map(Zeroizing::new).expect("the request types serialise");
        self.call("POST", path, &body, replay)
    }

    /// A request whose answer has no body.
    fn silent(
        &self,
        method: &str,
        path: &str,
        request: &impl Serialize,
        replay: Replay,
    ) -> Result<(), ClientError> {
        let body = serde_json::to_vec(request).expect("the request types serialise");
        self.answered(method, path, &body, replay).map(|_| ())
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        replay: Replay,
    ) -> Result<T, ClientError> {
        let Reply { status, body } = self.answered(method, path, body, replay)?;
        serde_json::from_slice(&body).map_err(|e| self.lock().fault(not_json(status, &e)))
    }

    fn answered(&self, method: &str, path: &str, body: &[u8], replay: Replay) -> Result<Reply, ClientError> {
        let mut transport = self.lock();
        let Reply { status, body } = transport.exchange(method, path, body, replay)?;
        if (200..300).contains(&status) {
            return Ok(Reply { status, body });
        }
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) => Err(ClientError::Refused {
                status,
                code: error.error_code,
                message: error.error_msg,
                hint: error.error_hint,
            }),
            Err(e) => Err(transport.fault(not_json(status, &e))),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Transport> {
        // A panic during an exchange has taken the connection out already.
        self.transport.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wrong(&self, field: &'static str) -> ClientError {
        self.lock().fault(ProtocolFault::Field { field })
    }

    fn key_id(&self, text: &str) -> Result<KeyId, ClientError> {
        text.parse().map_err(|_| self.wrong("key_id"))
    }

    fn info(&self, details: crate::wire::huawei::KeyDetails) -> Result<KeyInfo, ClientError> {
        details.try_into().map_err(|field| self.wrong(field))
    }

    fn state(&self, reply: &KeyStateReply) -> Result<KeyState, ClientError> {
        let number = reply.key_state.parse().ok();
        number.and_then(KeyState::from_number).ok_or_else(|| self.wrong("key_state"))
    }

    fn dek(&self, bytes: &[u8], field: &'static str) -> Result<Dek, ClientError> {
        bytes.try_into().map(Dek::new).map_err(|_| self.wrong(field))
    }

    fn wrapped(&self, digits: &str) -> Result<WrappedDek, ClientError> {
        let bytes = hex::decode(digits).map_err(|_| self.wrong("cipher_text"))?;
        WrappedDek::new(bytes).map_err(|_| self.wrong("cipher_text"))
    }

    fn anchor_of(&self, body: &AnchorBody) -> Result<Anchor, ClientError> {
        let mut chain_mac = [0; 32];
        hex::decode_to_slice(&body.chain_mac, &mut chain_mac).map_err(|_| self.wrong("chain_mac"))?;
        Ok(Anchor { generation: body.generation, chain_mac })
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("socket", &Path::new(&self.socket())).finish_non_exhaustive()
    }
}

fn datakey_request(key: &str, context: &EncryptionContext) -> CreateDatakeyRequest {
    CreateDatakeyRequest {
        key_id: key.to_owned(),
        encryption_context: context.clone(),
        ..CreateDatakeyRequest::default()
    }
}

fn anchor_path(volume: &Uuid) -> String {
    format!("/kmsd/v1/anchors/{}", volume.hyphenated())
}

fn anchor_body(anchor: &Anchor) -> AnchorBody {
    AnchorBody { generation: anchor.generation, chain_mac: hex::encode(anchor.chain_mac) }
}

fn not_json(status: u16, error: &serde_json::Error) -> ProtocolFault {
    ProtocolFault::NotJson { status, category: error.classify(), line: error.line(), column: error.column() }
}
