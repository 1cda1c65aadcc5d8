//! AES-256-GCM by AWS-LC.

use super::cipher::{Aead, AuthenticationFailed, Nonce, Tag};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as AwsNonce, UnboundKey};

/// The expanded key; AWS-LC wipes it when it is freed.
pub(super) struct AwsLc(LessSafeKey);

impl AwsLc {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("an AES-256 key has 32 bytes");
        Self(LessSafeKey::new(key))
    }
}

fn aws(nonce: &Nonce) -> AwsNonce {
    AwsNonce::assume_unique_for_key(*nonce)
}

impl Aead for AwsLc {
    fn seal(&self, nonce: &Nonce, aad: &[u8], block: &mut [u8]) -> Tag {
        let tag = self
            .0
            .seal_in_place_separate_tag(aws(nonce), Aad::from(aad), block)
            .expect("AES-GCM seals anything below 64 GiB");
        Tag(tag.as_ref().try_into().expect("a GCM tag has 16 bytes"))
    }

    fn seal_into(&self, nonce: &Nonce, aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Tag {
        let mut tag = Tag::default();
        self.0
            .seal_out_of_place_scatter(aws(nonce), Aad::from(aad), plain, sealed, &[], &mut tag.0)
            .expect("plaintext and ciphertext have the same length, below 64 GiB");
        tag
    }

    fn open(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        block: &mut [u8],
        tag: &Tag,
    ) -> Result<(), AuthenticationFailed> {
        if self.0.open_in_place_separate_tag(aws(nonce), Aad::from(aad), &tag.0, block).is_ok() {
            return Ok(());
        }
        block.fill(0);
        Err(AuthenticationFailed)
    }

    fn open_into(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        sealed: &[u8],
        plain: &mut [u8],
        tag: &Tag,
    ) -> Result<(), AuthenticationFailed> {
        if self.0.open_separate_gather(aws(nonce), Aad::from(aad), sealed, &tag.0, plain).is_ok() {
            return Ok(());
        }
        plain.fill(0);
        Err(AuthenticationFailed)
    }
}
