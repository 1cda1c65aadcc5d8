//! Data keys: made by the token's generator, wrapped by the token, bound to their context (K2).

use zeroize::Zeroizing;

use super::{Service, ServiceError, audit::Trail};
use crate::{
    domain::{
        Caller, EncryptionContext, KeyId, KeyRef, Operation, Permit, Refusal,
        envelope::{Envelope, Header, Mechanism, Purpose},
        key::Phase,
        policy,
        reconcile::ObjectId,
    },
    hsm::{HsmError, Sealed},
};

/// What a data key is made from.
#[derive(Clone, Debug)]
pub struct DatakeyRequest {
    /// The key that wraps it.
    pub key: KeyRef,
    /// What it is bound to.
    pub context: EncryptionContext,
    /// Its bytes.
    pub len: usize,
}

/// A new data key.
pub struct NewDatakey {
    /// The key that wraps it.
    pub key: KeyId,
    /// The data key itself.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// The wrapped form.
    pub wrapped: Vec<u8>,
}

/// Published range of a data key's length, in bytes.
pub(super) const DATAKEY_BYTES: std::ops::RangeInclusive<usize> = 1..=1024;

impl Service {
    /// Makes a data key. A default key that is named first is made first (K3).
    ///
    /// # Errors
    /// If a rule forbids it, or the token fails.
    pub async fn create_datakey(
        &self,
        caller: &Caller,
        request: DatakeyRequest,
        operation: Operation,
    ) -> Result<NewDatakey, ServiceError> {
        let mut trail = Trail::of(caller, operation, &request.key).context(&request.context);
        let made = self.make_datakey(&mut trail, caller, request, operation).await;
        self.record(trail, made).await
    }

    async fn make_datakey(
        &self,
        trail: &mut Trail,
        caller: &Caller,
        request: DatakeyRequest,
        operation: Operation,
    ) -> Result<NewDatakey, ServiceError> {
        request.context.check().map_err(Refusal::from)?;
        if !DATAKEY_BYTES.contains(&request.len) {
            return Err(Refusal::DatakeyLength.into());
        }
        let permit = self.authorise_or_make(caller, &request.key, operation, &request.context).await?;
        let target = Target::current(&permit)?;
        trail.key(target.object.key, Some(target.object.version));
        let header = target.header(self.inner.pool.mechanism(), Purpose::DataKey);
        let aad = header.authenticated(&request.context);
        let (plaintext, sealed) = self
            .inner
            .pool
            .call(move |session| {
                let mut plaintext = Zeroizing::new(vec![0; request.len]);
                session.random(&mut plaintext)?;
                let sealed = session.seal(target.object, &aad, &plaintext)?;
                Ok((plaintext, sealed))
            })
            .await
            .map_err(|error| target.explain(&permit, error))?;
        let wrapped = envelope(header, sealed)?;
        Ok(NewDatakey { key: permit.key().id, plaintext, wrapped })
    }

    /// Opens a wrapped data key. The wrapped form names its key; `expected` has the caller's word checked against it.
    ///
    /// # Errors
    /// If a rule forbids it, it does not open, or the token fails.
    pub async fn decrypt_datakey(
        &self,
        caller: &Caller,
        expected: Option<&KeyRef>,
        wrapped: &[u8],
        context: &EncryptionContext,
    ) -> Result<Zeroizing<Vec<u8>>, ServiceError> {
        let mut trail = Trail::new(caller, Operation::DecryptDatakey.name()).context(context);
        if let Some(expected) = expected {
            trail = trail.target(expected);
        }
        let opened = match Envelope::decode(wrapped, Purpose::DataKey) {
            Ok(envelope) => {
                self.open(&mut trail, caller, expected, envelope, context, Operation::DecryptDatakey).await
            }
            Err(fault) => Err(Refusal::from(fault).into()),
        };
        self.record(trail, opened).await
    }

    pub(super) async fn open(
        &self,
        trail: &mut Trail,
        caller: &Caller,
        expected: Option<&KeyRef>,
        envelope: Envelope,
        context: &EncryptionContext,
        operation: Operation,
    ) -> Result<Zeroizing<Vec<u8>>, ServiceError> {
        context.check().map_err(Refusal::from)?;
        trail.key(envelope.header.key, Some(envelope.header.version));
        let (permit, target) = self.permit_to_open(caller, expected, &envelope.header, operation, context)?;
        let Envelope { header, iv, ciphertext } = envelope;
        let aad = header.authenticated(context);
        let opened = self
            .inner
            .pool
            .call(move |session| session.open(target.object, header.mechanism, &iv, &aad, &ciphertext))
            .await;
        opened.map_err(|error| target.explain(&permit, error))
    }

    /// Whether the caller may open what a version wrapped, and whether that version is there.
    pub(super) fn permit_to_open(
        &self,
        caller: &Caller,
        expected: Option<&KeyRef>,
        header: &Header,
        operation: Operation,
        context: &EncryptionContext,
    ) -> Result<(Permit, Target), Refusal> {
        let permit = {
            let registry = self.inner.writer.registry().read();
            if let Some(expected) = expected {
                // Asked about first, so that the answer tells nothing about a key that the caller may not know.
                let named = policy::authorise(&registry, caller, expected, operation, context)?;
                if named.key().id != header.key {
                    return Err(Refusal::OtherKey { key: named.key().name() });
                }
            }
            policy::authorise(&registry, caller, &KeyRef::Id(header.key), operation, context)?
        };
        let key = permit.key();
        match key.version(header.version).map(|v| v.phase) {
            Some(Phase::Live) => {}
            Some(Phase::Destroying | Phase::Destroyed) => {
                return Err(Refusal::VersionGone { key: key.name(), version: header.version });
            }
            Some(Phase::Creating) | None => return Err(Refusal::DoesNotOpen { key: key.name() }),
        }
        let target = Target { object: ObjectId { key: key.id, version: header.version } };
        Ok((permit, target))
    }

    /// Whether the caller may; where a default key is named that is not there yet, it is made first.
    pub(super) async fn authorise_or_make(
        &self,
        caller: &Caller,
        key: &KeyRef,
        operation: Operation,
        context: &EncryptionContext,
    ) -> Result<Permit, ServiceError> {
        if let KeyRef::Alias(alias) = key
            && alias.is_default_key()
        {
            self.ensure_default(alias).await?;
        }
        Ok(self.authorise(caller, key, operation, context)?)
    }
}

/// The object in the token that an operation is about.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) object: ObjectId,
}

impl Target {
    /// The newest version of the permitted key.
    pub(super) fn current(permit: &Permit) -> Result<Self, ServiceError> {
        let key = permit.key();
        // A key in service has a version in service; only a damaged record has none.
        let version = key.current().ok_or_else(|| Refusal::MaterialMissing {
            key: key.name(),
            version: crate::domain::KeyVersion::FIRST,
        })?;
        Ok(Self { object: ObjectId { key: key.id, version } })
    }

    pub(super) const fn header(self, mechanism: Mechanism, purpose: Purpose) -> Header {
        Header { mechanism, purpose, key: self.object.key, version: self.object.version }
    }

    /// Turns the token's answers about this object into refusals that name the key.
    pub(super) fn explain(self, permit: &Permit, error: HsmError) -> ServiceError {
        let key = permit.key().name();
        match error {
            HsmError::DoesNotOpen => Refusal::DoesNotOpen { key }.into(),
            HsmError::NoObject { .. } => {
                Refusal::MaterialMissing { key, version: self.object.version }.into()
            }
            other => other.into(),
        }
    }
}

pub(super) fn envelope(header: Header, sealed: Sealed) -> Result<Vec<u8>, ServiceError> {
    // The header was authenticated with the mechanism that was expected; the token must have used that one.
    if sealed.mechanism != header.mechanism {
        return Err(HsmError::Lacks { feature: "the mechanism that it was asked for" }.into());
    }
    Ok(Envelope { header, iv: sealed.iv, ciphertext: sealed.ciphertext }.encode())
}
