//! One key, one trait, two implementations with the same bytes.

use super::nonce::{EpochId, SealNonce};
use super::{aes_gcm, aws_lc, plain};
use std::fmt;
use subtle::ConstantTimeEq;

/// A 128-bit authentication tag.
#[derive(Clone, Copy, Default, Eq)]
pub struct Tag(pub [u8; 16]);

impl Tag {
    /// Length in bytes.
    pub const LEN: usize = 16;
}

impl PartialEq for Tag {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The bytes are not what was sealed with this key, nonce and associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed")]
pub struct AuthenticationFailed;

/// What protects the contents of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// Contents in the clear, tags by AES-256-GMAC under a key of zeros: accidents are found, attackers are not stopped.
    Plain = 0,
    /// AES-256-GCM (NIST SP 800-38D) with 96-bit nonces and 128-bit tags.
    Aes256Gcm = 1,
}

/// Which implementation of AES-GCM computes. Both give the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Backend {
    /// `aws-lc-rs`: assembler.
    #[default]
    AwsLc,
    /// `aes-gcm`: pure Rust, for platforms without the other.
    AesGcm,
}

impl Backend {
    /// Every implementation.
    pub const ALL: [Self; 2] = [Self::AwsLc, Self::AesGcm];
}

/// Seals and opens blocks and pages under one key of one epoch.
pub trait BlockCipher: Send + Sync {
    /// Encrypts `block` where it lies; the counter of `nonce` and the tag are needed to open it again.
    ///
    /// # Panics
    /// If `nonce` belongs to another epoch: going on could use a (key, nonce) pair twice.
    fn seal(&self, nonce: SealNonce, aad: &[u8], block: &mut [u8]) -> Tag;

    /// The same from `plain` into `sealed`.
    ///
    /// # Panics
    /// As [`Self::seal`], and if the lengths differ.
    fn seal_into(&self, nonce: SealNonce, aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Tag;

    /// Decrypts `block` where it lies.
    ///
    /// # Errors
    /// If anything is not as it was sealed. `block` then holds zeros, never plaintext that was not authenticated.
    fn open(&self, counter: u32, aad: &[u8], block: &mut [u8], tag: &Tag)
    -> Result<(), AuthenticationFailed>;

    /// The same from `sealed` into `plain`, which must be of the same length.
    ///
    /// # Errors
    /// As [`Self::open`].
    fn open_into(
        &self,
        counter: u32,
        aad: &[u8],
        sealed: &[u8],
        plain: &mut [u8],
        tag: &Tag,
    ) -> Result<(), AuthenticationFailed>;
}

/// A 96-bit nonce.
pub(super) type Nonce = [u8; 12];

/// The bare AEAD: no epoch, any nonce. Only this module and the table pages (one page per key) use it.
pub(super) trait Aead: Send + Sync {
    fn seal(&self, nonce: &Nonce, aad: &[u8], block: &mut [u8]) -> Tag;
    fn seal_into(&self, nonce: &Nonce, aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Tag;
    fn open(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        block: &mut [u8],
        tag: &Tag,
    ) -> Result<(), AuthenticationFailed>;
    fn open_into(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        sealed: &[u8],
        plain: &mut [u8],
        tag: &Tag,
    ) -> Result<(), AuthenticationFailed>;
}

#[cfg(feature = "sim")]
impl Aead for Box<dyn Aead> {
    fn seal(&self, nonce: &Nonce, aad: &[u8], block: &mut [u8]) -> Tag {
        (**self).seal(nonce, aad, block)
    }

    fn seal_into(&self, nonce: &Nonce, aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Tag {
        (**self).seal_into(nonce, aad, plain, sealed)
    }

    fn open(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        block: &mut [u8],
        tag: &Tag,
    ) -> Result<(), AuthenticationFailed> {
        (**self).open(nonce, aad, block, tag)
    }

    fn open_into(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        sealed: &[u8],
        plain: &mut [u8],
        tag: &Tag,
    ) -> Result<(), AuthenticationFailed> {
        (**self).open_into(nonce, aad, sealed, plain, tag)
    }
}

/// The 96-bit nonce of a counter: zeros, then the counter, big-endian.
pub(super) fn nonce_bytes(counter: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[8..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

/// An AEAD bound to its epoch.
struct EpochCipher<A> {
    epoch: EpochId,
    aead: A,
}

impl<A> EpochCipher<A> {
    fn check(&self, nonce: &SealNonce) {
        assert!(nonce.epoch() == self.epoch, "a nonce of another epoch: sealing with it could reuse it");
    }
}

impl<A: Aead> BlockCipher for EpochCipher<A> {
    fn seal(&self, nonce: SealNonce, aad: &[u8], block: &mut [u8]) -> Tag {
        self.check(&nonce);
        self.aead.seal(&nonce_bytes(nonce.counter()), aad, block)
    }

    fn seal_into(&self, nonce: SealNonce, aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Tag {
        self.check(&nonce);
        self.aead.seal_into(&nonce_bytes(nonce.counter()), aad, plain, sealed)
    }

    fn open(
        &self,
        counter: u32,
        aad: &[u8],
        block: &mut [u8],
        tag: &Tag,
    ) -> Result<(), AuthenticationFailed> {
        self.aead.open(&nonce_bytes(counter), aad, block, tag)
    }

    fn open_into(
        &self,
        counter: u32,
        aad: &[u8],
        sealed: &[u8],
        plain: &mut [u8],
        tag: &Tag,
    ) -> Result<(), AuthenticationFailed> {
        self.aead.open_into(&nonce_bytes(counter), aad, sealed, plain, tag)
    }
}

pub(super) fn epoch_cipher(
    suite: Suite,
    backend: Backend,
    key: &[u8; 32],
    epoch: EpochId,
) -> Box<dyn BlockCipher> {
    #[cfg(feature = "sim")]
    if let Some(aead) = super::witness::watched(suite, backend, key) {
        return Box::new(EpochCipher { epoch, aead });
    }
    match (suite, backend) {
        (Suite::Aes256Gcm, Backend::AwsLc) => Box::new(EpochCipher { epoch, aead: aws_lc::AwsLc::new(key) }),
        (Suite::Aes256Gcm, Backend::AesGcm) => {
            Box::new(EpochCipher { epoch, aead: aes_gcm::RustGcm::new(key) })
        }
        (Suite::Plain, Backend::AwsLc) => {
            Box::new(EpochCipher { epoch, aead: plain::Gmac(aws_lc::AwsLc::new(key)) })
        }
        (Suite::Plain, Backend::AesGcm) => {
            Box::new(EpochCipher { epoch, aead: plain::Gmac(aes_gcm::RustGcm::new(key)) })
        }
    }
}

pub(super) fn bare_cipher(suite: Suite, backend: Backend, key: &[u8; 32]) -> Box<dyn Aead> {
    #[cfg(feature = "sim")]
    if let Some(aead) = super::witness::watched(suite, backend, key) {
        return aead;
    }
    bare_cipher_unseen(suite, backend, key)
}

pub(super) fn bare_cipher_unseen(suite: Suite, backend: Backend, key: &[u8; 32]) -> Box<dyn Aead> {
    match (suite, backend) {
        (Suite::Aes256Gcm, Backend::AwsLc) => Box::new(aws_lc::AwsLc::new(key)),
        (Suite::Aes256Gcm, Backend::AesGcm) => Box::new(aes_gcm::RustGcm::new(key)),
        (Suite::Plain, Backend::AwsLc) => Box::new(plain::Gmac(aws_lc::AwsLc::new(key))),
        (Suite::Plain, Backend::AesGcm) => Box::new(plain::Gmac(aes_gcm::RustGcm::new(key))),
    }
}
