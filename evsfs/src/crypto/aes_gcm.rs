//! AES-256-GCM in pure Rust.

use super::cipher::{Aead, AuthenticationFailed, Nonce, Tag};
use ::aes_gcm::aead::AeadInOut;
use ::aes_gcm::aead::inout::InOutBuf;
use ::aes_gcm::{Aes256Gcm, KeyInit};

/// The expanded key; it is wiped on drop (feature `zeroize`).
pub(super) struct RustGcm(Box<Aes256Gcm>);

impl RustGcm {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(Box::new(Aes256Gcm::new(key.into())))
    }

    fn seal_buffer(&self, nonce: &Nonce, aad: &[u8], buffer: InOutBuf<'_, '_, u8>) -> Tag {
        let tag = self
            .0
            .encrypt_inout_detached(&(*nonce).into(), aad, buffer)
            .expect("AES-GCM seals anything below 64 GiB");
        Tag(tag.into())
    }

    fn open_buffer(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        buffer: InOutBuf<'_, '_, u8>,
        tag: &Tag,
    ) -> Result<(), AuthenticationFailed> {
        self.0
            .decrypt_inout_detached(&(*nonce).into(), aad, buffer, &tag.0.into())
            .map_err(|_| AuthenticationFailed)
    }
}

impl Aead for RustGcm {
    fn seal(&self, nonce: &Nonce, aad: &[u8], block: &mut [u8]) -> Tag {
        self.seal_buffer(nonce, aad, block.into())
    }

    fn seal_into(&self, nonce: &Nonce, aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Tag {
        let buffer = InOutBuf::new(plain, sealed).expect("plaintext and ciphertext have the same length");
        self.seal_buffer(nonce, aad, buffer)
    }

    fn open(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        block: &mut [u8],
        tag: &Tag,
    ) -> Result<(), AuthenticationFailed> {
        self.open_buffer(nonce, aad, block.into(), tag).inspect_err(|_| block.fill(0))
    }

    fn open_into(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        sealed: &[u8],
        plain: &mut [u8],
        tag: &Tag,
    ) -> Result<(), AuthenticationFailed> {
        InOutBuf::new(sealed, plain)
            .map_err(|_| AuthenticationFailed)
            .and_then(|buffer| self.open_buffer(nonce, aad, buffer, tag))
            .inspect_err(|_| plain.fill(0))
    }
}
