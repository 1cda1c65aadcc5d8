//! Bytes of the caller's: encrypted and decrypted directly, wrapped anew under another key, and random ones.

use zeroize::Zeroizing;

use super::{
    Service, ServiceError,
    datakeys::{Target, envelope},
};
use crate::domain::{
    Caller, EncryptionContext, KeyId, KeyRef, Operation, Refusal,
    envelope::{Envelope, EnvelopeFault, Mechanism, Purpose},
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
        if !DATA_BYTES.contains(&plaintext.len()) {
            return Err(Refusal::ParameterInvalid { name: "plaintext", expected: "1 to 4096 bytes" }.into());
        }
        self.wrap(caller, key, plaintext, context, Purpose::Data, Operation::EncryptData).await
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
        if !super::datakeys::DATAKEY_BYTES.contains(&plaintext.len()) {
            return Err(Refusal::DatakeyLength.into());
        }
        self.wrap(caller, key, plaintext, context, Purpose::DataKey, Operation::EncryptDatakey).await
    }

    async fn wrap(
        &self,
        caller: &Caller,
        key: &KeyRef,
        plaintext: Zeroizing<Vec<u8>>,
        context: &EncryptionContext,
        purpose: Purpose,
        operation: Operation,
    ) -> Result<(KeyId, Vec<u8>), ServiceError> {
        context.check().map_err(Refusal::from)?;
        let permit = self.authorise_or_make(caller, key, operation).await?;
        let target = Target::current(&permit)?;
        let header = target.header(Mechanism::AesGcm, purpose);
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
        let envelope = Envelope::decode(ciphertext, Purpose::Data).map_err(Refusal::from)?;
        let key = envelope.header.key;
        Ok((key, self.open(caller, expected, envelope, context, Operation::DecryptData).await?))
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
        let envelope = decode_any(wrapped)?;
        let operation = match envelope.header.purpose {
            Purpose::DataKey => Operation::DecryptDatakey,
            Purpose::Data | Purpose::AccessSecret => Operation::DecryptData,
        };
        let key = envelope.header.key;
        Ok((key, self.open(caller, expected, envelope, context, operation).await?))
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
        source.context.check().map_err(Refusal::from)?;
        context.check().map_err(Refusal::from)?;
        let Envelope { header, iv, ciphertext } = decode_any(source.wrapped)?;
        let (from, opens) =
            self.permit_to_open(caller, source.expected, &header, Operation::ReEncryptFrom)?;
        let to = self.authorise_or_make(caller, destination, Operation::ReEncryptTo).await?;
        let seals = Target::current(&to)?;
        let new_header = seals.header(Mechanism::AesGcm, header.purpose);
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
    pub async fn random(&self, len: usize) -> Result<Zeroizing<Vec<u8>>, ServiceError> {
        if !RANDOM_BYTES.contains(&len) {
            return Err(Refusal::ParameterInvalid { name: "length", expected: "1 to 1024 bytes" }.into());
        }
        let drawn = self.inner.pool.call(move |session| {
            let mut out = Zeroizing::new(vec![0; len]);
            session.random(&mut out)?;
            Ok(out)
        });
        Ok(drawn.await?)
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
