//! Bytes of the caller's: encrypted and decrypted directly, wrapped anew under another key, and random ones.

use zeroize::Zeroizing;

use super::{
    Service, ServiceError,
    audit::Trail,
    datakeys::{Target, envelope},
};
use crate::domain::{
    Caller, EncryptionContext, KeyId, KeyRef, Operation, Refusal,
    envelope::{Envelope, EnvelopeFault, Purpose},
};

/// Published bounds of what is encrypted directly, in bytes.
const DATA_BYTES: std::ops::RangeInclusive<usize> = 1..=4096;
/// Published bounds of random bytes.
const RANDOM_BYTES: std::ops::RangeInclusive<usize> = 1..=1024;

/// What was wrapped anew.
#[derive(Clone, Debug)]
pub struct ReEncrypted {
    /// The key that it was wrapped under.
    pub source: KeyId,
    /// The key that wraps it now.
    pub destination: KeyId,
    /// The new wrapped form.
    pub wrapped: Vec<u8>,
}

impl Service {
    /// Encrypts a few bytes under the newest version of a key.
    ///
    /// # Errors
    /// If a rule forbids it, or the token fails.
    pub async fn encrypt_data(
        &self,
        caller: &Caller,
        key: &KeyRef,
        plaintext: Zeroizing<Vec<u8>>,
        context: &EncryptionContext,
    ) -> Result<(KeyId, Vec<u8>), ServiceError> {
        let mut trail = Trail::of(caller, Operation::EncryptData, key).context(context);
        let wrapped = if DATA_BYTES.contains(&plaintext.len()) {
            self.wrap(&mut trail, caller, key, plaintext, context, Purpose::Data).await
        } else {
            Err(Refusal::ParameterInvalid { name: "plaintext", expected: "1 to 4096 bytes" }.into())
        };
        self.record(trail, wrapped).await
    }

    /// Wraps a data key of the caller's.
    ///
    /// # Errors
    /// If a rule forbids it, or the token fails.
    pub async fn encrypt_datakey(
        &self,
        caller: &Caller,
        key: &KeyRef,
        plaintext: Zeroizing<Vec<u8>>,
        context: &EncryptionContext,
    ) -> Result<(KeyId, Vec<u8>), ServiceError> {
        let mut trail = Trail::of(caller, Operation::EncryptDatakey, key).context(context);
        let wrapped = if super::datakeys::DATAKEY_BYTES.contains(&plaintext.len()) {
            self.wrap(&mut trail, caller, key, plaintext, context, Purpose::DataKey).await
        } else {
            Err(Refusal::DatakeyLength.into())
        };
        self.record(trail, wrapped).await
    }

    async fn wrap(
        &self,
        trail: &mut Trail,
        caller: &Caller,
        key: &KeyRef,
        plaintext: Zeroizing<Vec<u8>>,
        context: &EncryptionContext,
        purpose: Purpose,
    ) -> Result<(KeyId, Vec<u8>), ServiceError> {
        context.check().map_err(Refusal::from)?;
        let operation = match purpose {
            Purpose::DataKey => Operation::EncryptDatakey,
            Purpose::Data | Purpose::AccessSecret => Operation::EncryptData,
        };
        let permit = self.authorise_or_make(caller, key, operation, context).await?;
        let target = Target::current(&permit)?;
        trail.key(target.object.key, Some(target.object.version));
        let header = target.header(self.inner.pool.mechanism(), purpose);
        let aad = header.authenticated(context);
        let sealed = self.inner.pool.call(move |session| session.seal(target.object, &aad, &plaintext)).await;
        let wrapped = envelope(header, sealed.map_err(|error| target.explain(&permit, error))?)?;
        Ok((permit.key().id, wrapped))
    }

    /// Decrypts a few bytes.
    ///
    /// # Errors
    /// If a rule forbids it, it does not open, or the token fails.
    pub async fn decrypt_data(
        &self,
        caller: &Caller,
        expected: Option<&KeyRef>,
        ciphertext: &[u8],
        context: &EncryptionContext,
    ) -> Result<(KeyId, Zeroizing<Vec<u8>>), ServiceError> {
        let decoded = Envelope::decode(ciphertext, Purpose::Data).map_err(Refusal::from);
        self.open_recorded(caller, expected, decoded, context).await
    }

    /// Opens whatever this service wrapped for a client, a data key or data, and says with which key.
    ///
    /// # Errors
    /// If a rule forbids it, it does not open, or the token fails.
    pub async fn decrypt_any(
        &self,
        caller: &Caller,
        expected: Option<&KeyRef>,
        wrapped: &[u8],
        context: &EncryptionContext,
    ) -> Result<(KeyId, Zeroizing<Vec<u8>>), ServiceError> {
        self.open_recorded(caller, expected, decode_any(wrapped), context).await
    }

    async fn open_recorded(
        &self,
        caller: &Caller,
        expected: Option<&KeyRef>,
        decoded: Result<Envelope, Refusal>,
        context: &EncryptionContext,
    ) -> Result<(KeyId, Zeroizing<Vec<u8>>), ServiceError> {
        let operation = match &decoded {
            Ok(Envelope { header, .. }) if header.purpose == Purpose::DataKey => Operation::DecryptDatakey,
            _ => Operation::DecryptData,
        };
        let mut trail = Trail::new(caller, operation.name()).context(context);
        if let Some(expected) = expected {
            trail = trail.target(expected);
        }
        let opened = match decoded {
            Ok(envelope) => {
                let key = envelope.header.key;
                let opened = self.open(&mut trail, caller, expected, envelope, context, operation).await;
                opened.map(|plaintext| (key, plaintext))
            }
            Err(refusal) => Err(refusal.into()),
        };
        self.record(trail, opened).await
    }

    /// Wraps anew what this service wrapped, a data key or data, under the newest version of a key. Its plaintext never leaves the
    /// service (K5).
    ///
    /// # Errors
    /// If a rule forbids it for either key, it does not open, or the token fails.
    pub async fn re_encrypt(
        &self,
        caller: &Caller,
        source: Source<'_>,
        destination: &KeyRef,
        context: &EncryptionContext,
    ) -> Result<ReEncrypted, ServiceError> {
        let mut trail = Trail::of(caller, Operation::ReEncryptTo, destination).context(context);
        let wrapped = self.wrap_anew(&mut trail, caller, source, destination, context).await;
        self.record(trail, wrapped).await
    }

    async fn wrap_anew(
        &self,
        trail: &mut Trail,
        caller: &Caller,
        source: Source<'_>,
        destination: &KeyRef,
        context: &EncryptionContext,
    ) -> Result<ReEncrypted, ServiceError> {
        source.context.check().map_err(Refusal::from)?;
        context.check().map_err(Refusal::from)?;
        let Envelope { header, iv, ciphertext } = decode_any(source.wrapped)?;
        trail.add_note(format!("from {}/{}", header.key, header.version));
        let (from, opens) =
            self.permit_to_open(caller, source.expected, &header, Operation::ReEncryptFrom, source.context)?;
        let to = self.authorise_or_make(caller, destination, Operation::ReEncryptTo, context).await?;
        let seals = Target::current(&to)?;
        trail.key(seals.object.key, Some(seals.object.version));
        let new_header = seals.header(self.inner.pool.mechanism(), header.purpose);
        let (old_aad, new_aad) = (header.authenticated(source.context), new_header.authenticated(context));
        let opened = self
            .inner
            .pool
            .call(move |session| session.open(opens.object, header.mechanism, &iv, &old_aad, &ciphertext))
            .await
            .map_err(|error| opens.explain(&from, error))?;
        let sealed = self
            .inner
            .pool
            .call(move |session| session.seal(seals.object, &new_aad, &opened))
            .await
            .map_err(|error| seals.explain(&to, error))?;
        let wrapped = envelope(new_header, sealed)?;
        Ok(ReEncrypted { source: header.key, destination: to.key().id, wrapped })
    }

    /// Random bytes from the token.
    ///
    /// # Errors
    /// If the length is out of bounds, or the token fails.
    pub async fn random(&self, caller: &Caller, len: usize) -> Result<Zeroizing<Vec<u8>>, ServiceError> {
        let trail = Trail::new(caller, "gen-random");
        if !RANDOM_BYTES.contains(&len) {
            let refusal = Refusal::ParameterInvalid { name: "length", expected: "1 to 1024 bytes" };
            return self.record(trail, Err(refusal.into())).await;
        }
        let drawn = self.inner.pool.call(move |session| {
            let mut out = Zeroizing::new(vec![0; len]);
            session.random(&mut out)?;
            Ok(out)
        });
        let drawn = drawn.await.map_err(Into::into);
        self.record(trail, drawn).await
    }
}

/// What [`Service::re_encrypt`] begins with.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The wrapped form.
    pub wrapped: &'a [u8],
    /// The key that wraps it, if the caller wants that checked.
    pub expected: Option<&'a KeyRef>,
    /// What it is bound to.
    pub context: &'a EncryptionContext,
}

/// An envelope that a client may have: of a data key or of data.
fn decode_any(wrapped: &[u8]) -> Result<Envelope, Refusal> {
    match Envelope::decode(wrapped, Purpose::DataKey) {
        Err(EnvelopeFault::Purpose) => Ok(Envelope::decode(wrapped, Purpose::Data)?),
        decoded => Ok(decoded?),
    }
}

#[cfg(test)]
mod tests;
