//! Sealing and opening, by GCM and without it.

use cryptoki::{
    error::Error as CkError,
    mechanism::{Mechanism as CkMechanism, aead::GcmParams},
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    fault::{classify, is_ambiguous, is_bad_ciphertext},
    objects::Part,
    session::Pkcs11Session,
};
use crate::{
    domain::{envelope::Mechanism, reconcile::ObjectId},
    hsm::{HsmError, Sealed, Session},
};

/// 96 bits, as NIST SP 800-38D, 8.2.2 has it for random IVs.
const GCM_IV: usize = 12;
/// SoftHSM takes tags of 0 and 32 bits too: never ask for less than all.
const TAG_BITS: u64 = 128;
/// Bytes of an AES block, and of a CBC IV.
const BLOCK: usize = 16;

impl Pkcs11Session {
    pub(super) fn seal_gcm(
        &mut self,
        object: ObjectId,
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Sealed, HsmError> {
        let mut iv = [0; GCM_IV];
        self.random(&mut iv)?;
        let ciphertext = self
            .with_key(object, Part::Cipher, |session, key| {
                let params = GcmParams::new(&mut iv, aad, TAG_BITS.into())?;
                session.encrypt(&CkMechanism::AesGcm(params), key, plaintext)
            })?
            .map_err(classify)?;
        if ciphertext.len() != plaintext.len() + Mechanism::AesGcm.tag_len() {
            return Err(HsmError::Lacks { feature: "AES-GCM with a tag of 128 bits behind the ciphertext" });
        }
        // `iv` is what the token used: some write their own choice back into it.
        Ok(Sealed { mechanism: Mechanism::AesGcm, iv: iv.to_vec(), ciphertext })
    }

    pub(super) fn open_gcm(
        &self,
        object: ObjectId,
        iv: &[u8],
        aad: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        if ciphertext.len() < Mechanism::AesGcm.tag_len() {
            // opencryptoki 3.23 says then that the plaintext has nearly 2^64 bytes.
            return Err(HsmError::DoesNotOpen);
        }
        let mut iv = iv.to_vec();
        let mut decrypt = || {
            self.with_key(object, Part::Cipher, |session, key| {
                let params = GcmParams::new(&mut iv, aad, TAG_BITS.into())?;
                session.decrypt(&CkMechanism::AesGcm(params), key, ciphertext).map(Zeroizing::new)
            })
        };
        let mut outcome = decrypt()?;
        if outcome.as_ref().is_err_and(|error| is_bad_ciphertext(error) && is_ambiguous(error)) {
            // The general code may also mean that the token is gone: it is, unless the session still answers. If it does, only a refusal that
            // repeats is about the ciphertext.
            self.with(|session| session.get_session_info().map_err(classify))?;
            outcome = decrypt()?;
        }
        outcome
            .map_err(|error| if is_bad_ciphertext(&error) { HsmError::DoesNotOpen } else { classify(error) })
    }

    /// Encrypt-then-MAC.
    pub(super) fn seal_cbc_hmac(
        &mut self,
        object: ObjectId,
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Sealed, HsmError> {
        let mut iv = [0; BLOCK];
        self.random(&mut iv)?;
        let padded = pad(plaintext);
        let mut ciphertext = self
            .with_key(object, Part::Cipher, |session, key| {
                session.encrypt(&CkMechanism::AesCbc(iv), key, &padded)
            })?
            .map_err(classify)?;
        if ciphertext.len() != padded.len() {
            return Err(HsmError::Lacks { feature: "AES-CBC without padding of its own" });
        }
        let mac = self.mac(object, aad, &iv, &ciphertext)?;
        ciphertext.extend_from_slice(&mac);
        Ok(Sealed { mechanism: Mechanism::AesCbcHmac, iv: iv.to_vec(), ciphertext })
    }

    /// Nothing is decrypted before all of it is known to be authentic, and every fault has the same answer.
    pub(super) fn open_cbc_hmac(
        &self,
        object: ObjectId,
        iv: &[u8],
        aad: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        let iv: [u8; BLOCK] = iv.try_into().map_err(|_| HsmError::DoesNotOpen)?;
        let split = ciphertext.len().checked_sub(Mechanism::AesCbcHmac.tag_len());
        let (body, tag) = ciphertext.split_at(split.ok_or(HsmError::DoesNotOpen)?);
        // A token with GCM has such a key only from a time when it had none: what names this mechanism otherwise was never sealed.
        let is_sealed_otherwise = !self.parts().contains(&Part::Mac);
        if is_sealed_otherwise && self.objects.single.read().contains(&object) {
            return Err(HsmError::DoesNotOpen);
        }
        let mac = match self.mac(object, aad, &iv, body) {
            Err(HsmError::NoObject { .. }) if is_sealed_otherwise => {
                self.objects.single.write().insert(object);
                return Err(HsmError::DoesNotOpen);
            }
            signed => signed?,
        };
        if !bool::from(mac.as_slice().ct_eq(tag)) {
            return Err(HsmError::DoesNotOpen);
        }
        let padded = self
            .with_key(object, Part::Cipher, |session, key| {
                session.decrypt(&CkMechanism::AesCbc(iv), key, body).map(Zeroizing::new)
            })?
            .map_err(classify)?;
        unpad(&padded).ok_or(HsmError::DoesNotOpen)
    }

    /// Computed in the token and compared here: some tokens compare MACs byte by byte, and stop at the first that differs.
    fn mac(&self, object: ObjectId, aad: &[u8], iv: &[u8], ciphertext: &[u8]) -> Result<Vec<u8>, HsmError> {
        let message = mac_message(aad, iv, ciphertext);
        let signed: Result<_, CkError> = self.with_key(object, Part::Mac, |session, key| {
            session.sign(&CkMechanism::Sha256Hmac, key, &message)
        })?;
        let mac = signed.map_err(classify)?;
        if mac.len() != Mechanism::AesCbcHmac.tag_len() {
            return Err(HsmError::Lacks { feature: "HMAC-SHA-256 of 32 bytes" });
        }
        Ok(mac)
    }
}

/// What the MAC is over: lengths first, so that no two different triples give the same bytes. The AAD begins with the mechanism's number, the key
/// and its version, and ends with the encryption context.
fn mac_message(aad: &[u8], iv: &[u8], ciphertext: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(24 + aad.len() + iv.len() + ciphertext.len());
    for part in [aad, iv, ciphertext] {
        message.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
    }
    for part in [aad, iv, ciphertext] {
        message.extend_from_slice(part);
    }
    message
}

/// RFC 5652, section 6.3.
fn pad(plaintext: &[u8]) -> Zeroizing<Vec<u8>> {
    let padding = BLOCK - plaintext.len() % BLOCK;
    let mut padded = Zeroizing::new(Vec::with_capacity(plaintext.len() + padding));
    padded.extend_from_slice(plaintext);
    padded.resize(plaintext.len() + padding, u8::try_from(padding).expect("at most 16"));
    padded
}

/// `None` if it is not padded so.
fn unpad(padded: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let padding = usize::from(*padded.last()?);
    let len = padded.len().checked_sub(padding).filter(|_| (1..=BLOCK).contains(&padding))?;
    let (plaintext, rest) = padded.split_at(len);
    rest.iter().all(|byte| usize::from(*byte) == padding).then(|| Zeroizing::new(plaintext.to_vec()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// K2: what is authenticated is for ever, like the envelope.
    #[test]
    fn k2_the_message_of_the_mac_is_golden() {
        let golden = "0000000000000003".to_owned()
            + "0000000000000002"
            + "0000000000000001"
            + "616164"
            + "6976"
            + "63";
        assert_eq!(hex::encode(mac_message(b"aad", b"iv", b"c")), golden);
        assert_ne!(mac_message(b"aa", b"div", b"c"), mac_message(b"aad", b"iv", b"c"));
    }

    proptest! {
        #[test]
        fn padding_is_taken_off_again(plaintext in proptest::collection::vec(any::<u8>(), 0..70)) {
            let padded = pad(&plaintext);
            prop_assert!(padded.len().is_multiple_of(BLOCK) && padded.len() > plaintext.len());
            let unpadded = unpad(&padded).unwrap();
            prop_assert_eq!(unpadded.as_slice(), plaintext.as_slice());
        }

        #[test]
        fn what_is_not_padded_is_refused(blocks in 0..3usize, bytes in proptest::collection::vec(0..18u8, 48)) {
            let padded = &bytes[..blocks * BLOCK];
            if let Some(plaintext) = unpad(padded) {
                let again = pad(&plaintext);
                prop_assert_eq!(again.as_slice(), padded);
            }
        }
    }
}
