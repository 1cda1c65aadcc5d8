//! The key service as a volume needs it: a data key for a new volume, the data key of an existing one, and its anchor.
//!
//! The data key is bound to the volume's uuid and kind, so that no other volume's opens in its place.

mod pinned;
#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod tests;

use std::time::Duration;

use kmsd::client::{Anchor, Client, ClientError, TakenLease, Timeouts};
use kmsd::domain::EncryptionContext;
use kmsd::domain::lease::{Holder, Ticket};
use kmsd::{Dek, WrappedDek, WrappedDekLength};
use tracing::debug;
use uuid::Uuid;

use crate::format::{UnverifiedHeader, VolumeKind, WrappedDekField};

pub use pinned::pin;

/// Keeps all of this process out of swap space from now on, where it has the right to; else the data key alone is.
pub fn keep_in_memory() {
    if let Err(error) = kmsd::memory::lock() {
        debug!(%error, "only the data key is kept out of swap space");
    }
}

/// Why the key service gave no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It refused, or could not be asked.
    #[error("volume {volume}: {}", told(.source))]
    Service {
        /// The volume.
        volume: Uuid,
        /// What it said, with the key's name and state.
        source: ClientError,
    },
    /// What stands in the header can be no wrapped key.
    #[error("volume {volume}: its header holds no key that could be opened: {source}")]
    NotWrapped {
        /// The volume.
        volume: Uuid,
        /// What is wrong with it.
        source: WrappedDekLength,
    },
}

/// A refusal without code and remedy, which are reported beside it.
fn told(error: &ClientError) -> String {
    match error {
        ClientError::Refused { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

/// Kinds of [`KeyError`], for those who decide by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyErrorKind {
    /// The service or its token is away.
    Unreachable,
    /// The key is disabled.
    Disabled,
    /// The key waits for its deletion.
    PendingDeletion,
    /// The key has no material (yet, or any more).
    NoMaterial,
    /// There is no such key, or this user is not told of it.
    NotFound,
    /// This user may not do that.
    AccessDenied,
    /// The wrapped key is not of this key and this volume.
    WrongKey,
    /// Another writer holds the volume's lease.
    HeldElsewhere,
    /// The same, but it may have gone with an earlier boot of this host.
    HeldByEarlierBoot,
    /// One may hold it whom the service does not know, as its store was put back.
    MayBeHeld,
    /// Another writer took the volume since, or the service knows of a newer state, or of another one.
    Superseded,
    /// Anything else.
    Other,
}

impl KeyErrorKind {
    /// Whether it says of an attached volume that somebody else writes to it, or that the state that counts is not this one's.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::HeldElsewhere | Self::HeldByEarlierBoot | Self::Superseded)
    }
}

impl KeyError {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> KeyErrorKind {
        let Self::Service { source, .. } = self else { return KeyErrorKind::WrongKey };
        if source.is_unavailable() {
            return KeyErrorKind::Unreachable;
        }
        // The codes are published with the API that kmsd has.
        match source.code() {
            Some("KMS.0209") => KeyErrorKind::Disabled,
            Some("KMS.0210") => KeyErrorKind::PendingDeletion,
            Some("KMS.0308" | "KMS.0103") => KeyErrorKind::NoMaterial,
            Some("KMS.0207") => KeyErrorKind::NotFound,
            Some("KMS.0307" | "KMS.0330") => KeyErrorKind::AccessDenied,
            Some("KMS.2201") => KeyErrorKind::WrongKey,
            Some("KMSD.0013") => KeyErrorKind::HeldElsewhere,
            Some("KMSD.0015") => KeyErrorKind::HeldByEarlierBoot,
            Some("KMSD.0016") => KeyErrorKind::MayBeHeld,
            Some("KMSD.0001" | "KMSD.0014") => KeyErrorKind::Superseded,
            _ => KeyErrorKind::Other,
        }
    }

    /// The remedy that the service told.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            // What there is to say of that here, the client does not know: attached disks work on.
            Self::Service { source: ClientError::Unreachable { .. }, .. } | Self::NotWrapped { .. } => None,
            Self::Service { source, .. } => source.hint(),
        }
    }
}

/// A data key for a new volume.
pub struct NewKey {
    /// The key itself.
    pub dek: Dek,
    /// As the header keeps it.
    pub wrapped: WrappedDek,
    /// Id of the master key.
    pub key_id: String,
}

/// A data key that was wrapped anew.
#[derive(Debug)]
pub struct Rewrapped {
    /// As the header keeps it.
    pub wrapped: WrappedDek,
    /// Id of the master key.
    pub key_id: String,
}

/// The key service.
#[derive(Debug)]
pub struct KeyService {
    client: Client,
}

impl KeyService {
    /// At `$KMSD_SOCKET` or its default place. Nothing is asked yet.
    #[must_use]
    pub fn from_env() -> Self {
        Self { client: Client::from_env() }
    }

    /// The same service for what must not be waited for long.
    #[must_use]
    pub fn impatient(&self) -> Self {
        let timeouts = Timeouts { connect: Duration::from_secs(1), total: Duration::from_secs(3) };
        Self { client: Client::with_timeouts(self.client.socket(), timeouts) }
    }

    /// The same for a change of an open volume, which its user may want to detach meanwhile.
    #[must_use]
    pub fn for_changes() -> Self {
        let timeouts = Timeouts { connect: Duration::from_secs(2), total: Duration::from_secs(10) };
        Self { client: Client::with_timeouts(kmsd::paths::socket(), timeouts) }
    }

    /// A data key for a new volume under a master key, named by id or alias.
    ///
    /// # Errors
    /// If the service refuses or is away.
    pub fn create(&self, key: &str, volume: Uuid, kind: VolumeKind) -> Result<NewKey, KeyError> {
        let context = EncryptionContext::for_volume(&volume, kind.as_str());
        let new = self
            .client
            .create_datakey(key, &context)
            .map_err(|source| KeyError::Service { volume, source })?;
        pin_dek(&new.dek);
        Ok(NewKey { dek: new.dek, wrapped: new.wrapped, key_id: new.key_id.to_string() })
    }

    /// The data key that a header claims to hold. Nothing proves yet that it is the volume's.
    ///
    /// # Errors
    /// If the service refuses or is away.
    pub fn open(&self, header: &UnverifiedHeader) -> Result<Dek, KeyError> {
        self.open_field(header, header.wrapped_dek())
    }

    /// The data key that a header claims a re-encryption goes to.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_next(&self, header: &UnverifiedHeader) -> Result<Dek, KeyError> {
        let none = WrappedDekField::default();
        self.open_field(header, header.claims().next.as_ref().map_or(&none, |next| &next.wrapped_dek))
    }

    fn open_field(&self, header: &UnverifiedHeader, field: &WrappedDekField) -> Result<Dek, KeyError> {
        let volume = *header.uuid();
        let wrapped = WrappedDek::new(field.as_bytes().to_vec())
            .map_err(|source| KeyError::NotWrapped { volume, source })?;
        self.unwrap(&wrapped, volume, header.kind())
    }

    /// The same for a wrapped key that is not in a header yet.
    ///
    /// # Errors
    /// If the service refuses or is away.
    pub fn unwrap(&self, wrapped: &WrappedDek, volume: Uuid, kind: VolumeKind) -> Result<Dek, KeyError> {
        let context = EncryptionContext::for_volume(&volume, kind.as_str());
        let opened = self.client.decrypt_datakey(wrapped, &context);
        let dek = opened.map_err(|source| KeyError::Service { volume, source })?;
        pin_dek(&dek);
        Ok(dek)
    }

    /// Has a wrapped data key wrapped anew, under the newest version of a master key. The data key stays in the service.
    ///
    /// # Errors
    /// If the service refuses, for either master key, or is away.
    pub fn rewrap(
        &self,
        wrapped: &[u8],
        volume: Uuid,
        kind: VolumeKind,
        key: &str,
    ) -> Result<Rewrapped, KeyError> {
        let old =
            WrappedDek::new(wrapped.to_vec()).map_err(|source| KeyError::NotWrapped { volume, source })?;
        let context = EncryptionContext::for_volume(&volume, kind.as_str());
        let new = self
            .client
            .re_encrypt_datakey(&old, &context, key)
            .map_err(|source| KeyError::Service { volume, source })?;
        Ok(Rewrapped { wrapped: new.wrapped, key_id: new.key_id.to_string() })
    }

    /// The newest state of the volume that the service was told of.
    ///
    /// # Errors
    /// If the service is away.
    pub fn anchor(&self, volume: Uuid) -> Result<Option<Anchor>, KeyError> {
        self.client.anchor(&volume).map_err(|source| KeyError::Service { volume, source })
    }

    /// Takes the volume's lease for an attach of that number (F12).
    ///
    /// # Errors
    /// If another writer holds it, or the service is away.
    pub fn take_lease(&self, volume: Uuid, session: Uuid, holder: &Holder) -> Result<TakenLease, KeyError> {
        let taken = self.client.take_lease(&volume, session, holder);
        taken.map_err(|source| KeyError::Service { volume, source })
    }

    /// Renews it.
    ///
    /// # Errors
    /// If another writer has taken it since, or the service is away.
    pub fn renew_lease(&self, volume: Uuid, lease: Ticket, holder: &Holder) -> Result<(), KeyError> {
        let renewed = self.client.renew_lease(&volume, lease, holder);
        renewed.map_err(|source| KeyError::Service { volume, source })
    }

    /// Gives it up.
    ///
    /// # Errors
    /// If the service is away.
    pub fn release_lease(&self, volume: Uuid, lease: Ticket) -> Result<(), KeyError> {
        let released = self.client.release_lease(&volume, lease);
        released.map_err(|source| KeyError::Service { volume, source })
    }

    /// Tells the service of a newer one, as the holder of that lease.
    ///
    /// # Errors
    /// If it knows of a newer one still, another writer has the volume, or it is away.
    pub fn advance(&self, volume: Uuid, anchor: &Anchor, lease: Option<Ticket>) -> Result<(), KeyError> {
        let told = self.client.advance_anchor(&volume, anchor, lease);
        told.map(drop).map_err(|source| KeyError::Service { volume, source })
    }

    /// Tells it that an operator accepts an older one, by which command: the anchor goes there. Audited there.
    ///
    /// # Errors
    /// If it refuses or is away.
    pub fn accept_rollback(
        &self,
        volume: Uuid,
        anchor: &Anchor,
        command: &str,
        lease: Option<Ticket>,
    ) -> Result<(), KeyError> {
        let told = self.client.accept_rollback(&volume, anchor, command, lease);
        told.map_err(|source| KeyError::Service { volume, source })
    }

    /// Tells it that an operator looks at an older one, by which command: the anchor stays. Audited there.
    ///
    /// # Errors
    /// If it refuses or is away.
    pub fn read_rollback(&self, volume: Uuid, state: &Anchor, command: &str) -> Result<(), KeyError> {
        let told = self.client.read_rollback(&volume, state, command);
        told.map_err(|source| KeyError::Service { volume, source })
    }
}

/// The limit on locked memory of an ordinary user may be used up; core dumps and swap of this page are then the host's matter.
fn pin_dek(dek: &Dek) {
    if let Err(error) = pin(dek.expose()) {
        debug!(%error, "the data key's page could not be locked");
    }
}
