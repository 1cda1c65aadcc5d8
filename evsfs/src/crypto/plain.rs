//! The suite without encryption: the block stays in the clear, its tag is AES-GMAC over associated data and block.

use super::cipher::{Aead, AuthenticationFailed, Nonce, Tag};

/// GMAC by GCM with nothing to encrypt (NIST SP 800-38D, section 3).
pub(super) struct Gmac<A>(pub(super) A);

/// The longest associated data and the longest block or page together.
const LONGEST: usize = 256 + 4096;

impl<A: Aead> Gmac<A> {
    fn tag(&self, nonce: &Nonce, aad: &[u8], block: &[u8]) -> Tag {
        let mut message = [0; LONGEST];
        let len = aad.len() + block.len();
        assert!(len <= LONGEST, "blocks and pages have at most 4096 bytes");
        message[..aad.len()].copy_from_slice(aad);
        message[aad.len()..len].copy_from_slice(block);
        self.0.seal(nonce, &message[..len], &mut [])
    }
}

impl<A: Aead> Aead for Gmac<A> {
    fn seal(&self, nonce: &Nonce, aad: &[u8], block: &mut [u8]) -> Tag {
        self.tag(nonce, aad, block)
    }

    fn seal_into(&self, nonce: &Nonce, aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Tag {
        sealed.copy_from_slice(plain);
        self.tag(nonce, aad, sealed)
    }

    fn open(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        block: &mut [u8],
        tag: &Tag,
    ) -> Result<(), AuthenticationFailed> {
        if self.tag(nonce, aad, block) == *tag {
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
        if sealed.len() != plain.len() {
            plain.fill(0);
            return Err(AuthenticationFailed);
        }
        plain.copy_from_slice(sealed);
        self.open(nonce, aad, plain, tag)
    }
}
