//! The suite without encryption: the block stays in the clear, its tag is AES-GMAC over associated data and block.

use super::cipher::{Aead, AuthenticationFailed, Tag};

/// GMAC by GCM with nothing to encrypt (NIST SP 800-38D, section 3).
pub(super) struct Gmac<A>(pub(super) A);

/// The longest associated data and the longest block or page together.
const LONGEST: usize = 256 + 4096;

impl<A: Aead> Gmac<A> {
    fn tag(&self, counter: u64, aad: &[u8], block: &[u8]) -> Tag {
        let mut message = [0; LONGEST];
        let len = aad.len() + block.len();
        assert!(len <= LONGEST, "blocks and pages have at most 4096 bytes");
        message[..aad.len()].copy_from_slice(aad);
        message[aad.len()..len].copy_from_slice(block);
        self.0.seal(counter, &message[..len], &mut [])
    }
}

impl<A: Aead> Aead for Gmac<A> {
    fn seal(&self, counter: u64, aad: &[u8], block: &mut [u8]) -> Tag {
        self.tag(counter, aad, block)
    }

    fn seal_into(&self, counter: u64, aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Tag {
        sealed.copy_from_slice(plain);
        self.tag(counter, aad, sealed)
    }

    fn open(
        &self,
        counter: u64,
        aad: &[u8],
        block: &mut [u8],
        tag: &Tag,
    ) -> Result<(), AuthenticationFailed> {
        if self.tag(counter, aad, block) == *tag {
            return Ok(());
        }
        block.fill(0);
        Err(AuthenticationFailed)
    }

    fn open_into(
        &self,
        counter: u64,
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
        self.open(counter, aad, plain, tag)
    }
}
