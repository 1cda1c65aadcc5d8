//! HKDF-SHA-256 (RFC 5869) and HMAC-SHA-256 (RFC 2104).

use super::Dek;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// A derived key, wiped when dropped.
pub(super) type Key = Zeroizing<[u8; 32]>;

/// `HKDF(ikm = DEK, salt, info)`, 32 bytes.
pub(super) fn derive(dek: &Dek, salt: &[u8], info: &[&[u8]]) -> Key {
    let mut key = Zeroizing::new([0; 32]);
    hkdf(dek.expose(), salt, info, key.as_mut());
    key
}

/// HKDF-SHA-256 with the parts of `info` one after the other.
pub(super) fn hkdf(ikm: &[u8], salt: &[u8], info: &[&[u8]], okm: &mut [u8]) {
    Hkdf::<Sha256>::new(Some(salt), ikm).expand_multi_info(info, okm).expect("at most 8,160 bytes");
}

/// A key for HMAC-SHA-256, expanded once. Wiped when dropped; nothing prints it.
pub(super) struct MacKey(Hmac<Sha256>);

impl MacKey {
    pub(super) fn new(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }

    fn over(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac
    }

    /// The MAC of the parts, one after the other.
    pub(super) fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.over(parts).finalize().into_bytes().into()
    }

    /// Whether `mac` is the MAC of the parts; in constant time.
    pub(super) fn verify(&self, parts: &[&[u8]], mac: &[u8; 32]) -> bool {
        self.over(parts).verify_slice(mac).is_ok()
    }
}
