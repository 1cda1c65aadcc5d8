//! Sees every (key, nonce) pair that is sealed with, so that tests can prove that none is used twice (F1).
//!
//! A witness attends on the thread that derives the keys; it then sees all that is sealed with them, on any thread.

use super::Tag;
use super::cipher::{Aead, AuthenticationFailed, Backend, Nonce, Suite, bare_cipher_unseen};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

thread_local! {
    static PRESENT: RefCell<Option<Arc<SealWitness>>> = const { RefCell::new(None) };
}

/// A key, without the key: the first half of its SHA-256.
type Fingerprint = [u8; 16];

/// Remembers what was sealed.
#[derive(Default)]
pub struct SealWitness(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    pairs: HashSet<(Fingerprint, Nonce)>,
    keys: HashSet<Fingerprint>,
    repeats: u64,
}

/// While it lives, keys derived on this thread are watched.
#[must_use = "the witness goes when this is dropped"]
pub struct Attendance(());

impl SealWitness {
    /// A witness that has seen nothing.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Watches the keys that this thread derives from now on.
    pub fn attend(self: &Arc<Self>) -> Attendance {
        PRESENT.set(Some(Arc::clone(self)));
        Attendance(())
    }

    /// Different pairs seen.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.0.lock().pairs.len()
    }

    /// Different keys that were sealed with.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.0.lock().keys.len()
    }

    /// How often a pair was used that had been used before. Must be 0.
    #[must_use]
    pub fn repeats(&self) -> u64 {
        self.0.lock().repeats
    }

    fn saw(&self, key: Fingerprint, nonce: &Nonce) {
        let mut seen = self.0.lock();
        seen.keys.insert(key);
        if !seen.pairs.insert((key, *nonce)) {
            seen.repeats += 1;
        }
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        PRESENT.set(None);
    }
}

struct Watched {
    key: Fingerprint,
    witness: Arc<SealWitness>,
    aead: Box<dyn Aead>,
}

/// The cipher under the eyes of the witness who is present, if there is one and the suite keeps anything secret.
pub(super) fn watched(suite: Suite, backend: Backend, key: &[u8; 32]) -> Option<Box<dyn Aead>> {
    let witness = PRESENT.with_borrow(Option::clone)?;
    if suite == Suite::Plain {
        return None;
    }
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(&Sha256::digest(key)[..16]);
    Some(Box::new(Watched { key: fingerprint, witness, aead: bare_cipher_unseen(suite, backend, key) }))
}

impl Aead for Watched {
    fn seal(&self, nonce: &Nonce, aad: &[u8], block: &mut [u8]) -> Tag {
        self.witness.saw(self.key, nonce);
        self.aead.seal(nonce, aad, block)
    }

    fn seal_into(&self, nonce: &Nonce, aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Tag {
        self.witness.saw(self.key, nonce);
        self.aead.seal_into(nonce, aad, plain, sealed)
    }

    fn open(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        block: &mut [u8],
        tag: &Tag,
    ) -> Result<(), AuthenticationFailed> {
        self.aead.open(nonce, aad, block, tag)
    }

    fn open_into(
        &self,
        nonce: &Nonce,
        aad: &[u8],
        sealed: &[u8],
        plain: &mut [u8],
        tag: &Tag,
    ) -> Result<(), AuthenticationFailed> {
        self.aead.open_into(nonce, aad, sealed, plain, tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{SeededEntropy, TablePurpose, VolumeKeys};
    use kmsd::Dek;
    use uuid::Uuid;

    fn keys() -> VolumeKeys {
        VolumeKeys::new(Dek::new(&[7; 32]), Uuid::from_u128(1), Backend::AwsLc)
    }

    #[test]
    fn f1_fresh_salts_repeat_nothing_and_a_repeated_salt_is_seen() {
        let witness = SealWitness::new();
        let present = witness.attend();
        let seal = |seed| {
            let entropy = SeededEntropy::new(seed);
            let epoch = keys().begin_epoch(&entropy).unwrap();
            epoch.keys.data.seal(epoch.nonces.next().unwrap(), b"aad", &mut [0; 4096]);
            epoch.keys.log.seal(epoch.nonces.next().unwrap(), b"aad", &mut [0; 4096]);
            keys().seal_table(TablePurpose::Superblock, &[0; 4048], &entropy).unwrap();
        };
        seal(1);
        seal(2);
        assert_eq!((witness.pairs(), witness.keys(), witness.repeats()), (6, 6, 0));
        seal(1);
        assert_eq!((witness.pairs(), witness.repeats()), (6, 3));
        drop(present);
        seal(1);
        assert_eq!(witness.repeats(), 3, "nobody watches any more");
    }
}
