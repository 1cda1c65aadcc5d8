//! The wrapped form of a data key or of a few bytes: what the client stores (K2).
//!
//! ```text
//! offset  size  field
//!      0     2  magic "kW"
//!      2     1  version of this layout, 1
//!      3     1  mechanism: 1 = AES-256-GCM with a 128-bit tag, 2 = AES-256-CBC and HMAC-SHA-256; both in the token
//!      4     1  purpose: 1 = data key, 2 = data, 3 = secret of an access key
//!      5    16  key id
//!     21     4  key version, big-endian
//!     25     1  length of the IV
//!     26     n  IV
//!   26+n     m  ciphertext and tag, to the end
//! ```
//!
//! Bytes 0 to 25 are authenticated together with the encryption context, so that neither mechanism, purpose, key
//! nor version can be exchanged. The IV is authenticated by the mechanism.

use super::{
    context::EncryptionContext,
    id::{KeyId, KeyVersion},
};

const MAGIC: [u8; 2] = *b"kW";
const LAYOUT: u8 = 1;

const MAGIC_AT: usize = 0;
const LAYOUT_AT: usize = MAGIC_AT + MAGIC.len();
const MECHANISM_AT: usize = LAYOUT_AT + 1;
const PURPOSE_AT: usize = MECHANISM_AT + 1;
const KEY_AT: usize = PURPOSE_AT + 1;
const VERSION_AT: usize = KEY_AT + 16;
const IV_LEN_AT: usize = VERSION_AT + 4;
const IV_AT: usize = IV_LEN_AT + 1;

/// Bytes of the part before the IV's length: what is authenticated.
const HEADER_LEN: usize = IV_LEN_AT;

/// No IV of a known mechanism is longer.
const MAX_IV: usize = 32;

/// How the token protects the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mechanism {
    /// `CKM_AES_GCM`, 128-bit tag (NIST SP 800-38D).
    AesGcm = 1,
    /// For tokens without GCM: `CKM_AES_CBC` with padding (NIST SP 800-38A, RFC 5652 section 6.3), then `CKM_SHA256_HMAC` under a second key over all
    /// of it (encrypt-then-MAC, ISO/IEC 19772).
    AesCbcHmac = 2,
}

/// What is inside. A wrapped data key cannot be opened as data, nor the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// A data key.
    DataKey = 1,
    /// Bytes of the caller's.
    Data = 2,
    /// The secret of an access key. No client ever gets such an envelope, and none that a client sends is opened.
    AccessSecret = 3,
}

/// The part of the envelope that says how to open it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How it is protected.
    pub mechanism: Mechanism,
    /// What is inside.
    pub purpose: Purpose,
    /// The key.
    pub key: KeyId,
    /// Its version.
    pub version: KeyVersion,
}

/// An envelope whose form is right. Whether it is authentic only the token can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// How to open it.
    pub header: Header,
    /// The mechanism's IV.
    pub iv: Vec<u8>,
    /// Ciphertext and tag.
    pub ciphertext: Vec<u8>,
}

/// Why bytes are not an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeFault {
    /// Cut off.
    #[error("it is cut off at {len} bytes")]
    Short {
        /// Its bytes.
        len: usize,
    },
    /// Something else.
    #[error("it was not made by this service")]
    Magic,
    /// A later layout.
    #[error("its layout {version} is not known; it was made by a newer version")]
    Layout {
        /// As found.
        version: u8,
    },
    /// A later mechanism.
    #[error("its mechanism {number} is not known; it was made by a newer version")]
    Mechanism {
        /// As found.
        number: u8,
    },
    /// A data key where data was expected, or the other way round.
    #[error("it holds something of another kind")]
    Purpose,
    /// 0.
    #[error("it names no key version")]
    Version,
    /// Not the mechanism's.
    #[error("its IV of {len} bytes does not fit its mechanism")]
    Iv {
        /// As found.
        len: usize,
    },
}

impl Header {
    fn bytes(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[MAGIC_AT..LAYOUT_AT].copy_from_slice(&MAGIC);
        out[LAYOUT_AT] = LAYOUT;
        out[MECHANISM_AT] = self.mechanism as u8;
        out[PURPOSE_AT] = self.purpose as u8;
        out[KEY_AT..VERSION_AT].copy_from_slice(self.key.as_bytes());
        out[VERSION_AT..IV_LEN_AT].copy_from_slice(&self.version.number().to_be_bytes());
        out
    }

    /// What the token authenticates besides the content. Never empty.
    #[must_use]
    pub fn authenticated(&self, context: &EncryptionContext) -> Vec<u8> {
        let mut aad = self.bytes().to_vec();
        aad.extend_from_slice(&context.canonical());
        aad
    }
}

impl Envelope {
    /// The bytes to hand out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(IV_AT + self.iv.len() + self.ciphertext.len());
        out.extend_from_slice(&self.header.bytes());
        out.push(u8::try_from(self.iv.len()).expect("IVs have at most 32 bytes"));
        out.extend_from_slice(&self.iv);
        out.extend_from_slice(&self.ciphertext);
        out
    }

    /// Reads bytes from a client.
    ///
    /// # Errors
    /// Unless they have the form of an envelope of that purpose.
    pub fn decode(bytes: &[u8], purpose: Purpose) -> Result<Self, EnvelopeFault> {
        if bytes.len() < MAGIC.len() || bytes[..MAGIC.len()] != MAGIC {
            return Err(EnvelopeFault::Magic);
        }
        let short = EnvelopeFault::Short { len: bytes.len() };
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(short)?;
        if header[LAYOUT_AT] != LAYOUT {
            return Err(EnvelopeFault::Layout { version: header[LAYOUT_AT] });
        }
        let number = header[MECHANISM_AT];
        let mechanism = Mechanism::from_number(number).ok_or(EnvelopeFault::Mechanism { number })?;
        if header[PURPOSE_AT] != purpose as u8 {
            return Err(EnvelopeFault::Purpose);
        }
        let key: [u8; 16] = header[KEY_AT..VERSION_AT].try_into().expect("16 bytes");
        let version: [u8; 4] = header[VERSION_AT..IV_LEN_AT].try_into().expect("4 bytes");
        let version = KeyVersion::new(u32::from_be_bytes(version)).ok_or(EnvelopeFault::Version)?;

        let (&iv_len, rest) = rest.split_first().ok_or(short)?;
        let iv_len = usize::from(iv_len);
        if iv_len == 0 || iv_len > MAX_IV {
            return Err(EnvelopeFault::Iv { len: iv_len });
        }
        let (iv, ciphertext) = rest.split_at_checked(iv_len).ok_or(short)?;
        if ciphertext.len() < mechanism.tag_len() {
            return Err(short);
        }
        Ok(Self {
            header: Header { mechanism, purpose, key: KeyId::from_bytes(key), version },
            iv: iv.to_vec(),
            ciphertext: ciphertext.to_vec(),
        })
    }
}

impl Mechanism {
    /// The mechanism with a number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::AesGcm),
            2 => Some(Self::AesCbcHmac),
            _ => None,
        }
    }

    /// Bytes of what authenticates the content, at its end.
    #[must_use]
    pub const fn tag_len(self) -> usize {
        match self {
            Self::AesGcm => 16,
            Self::AesCbcHmac => 32,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Envelope {
        Envelope {
            header: Header {
                mechanism: Mechanism::AesGcm,
                purpose: Purpose::DataKey,
                key: "0d0466b0-e727-4d9c-b35d-f84bb474a37f".parse().unwrap(),
                version: KeyVersion::new(7).unwrap(),
            },
            iv: (0..12).collect(),
            ciphertext: vec![0xCC; 48],
        }
    }

    fn sample_without_gcm() -> Envelope {
        let header = Header { mechanism: Mechanism::AesCbcHmac, ..sample().header };
        Envelope { header, iv: (0..16).collect(), ciphertext: vec![0xCC; 48 + 32] }
    }

    /// K2: the serialised form is for ever; a change needs a new layout number.
    #[test]
    fn k2_golden_bytes() {
        let golden = "6b57".to_owned()
            + "01"
            + "01"
            + "01"
            + "0d0466b0e7274d9cb35df84bb474a37f"
            + "00000007"
            + "0c"
            + "000102030405060708090a0b"
            + &"cc".repeat(48);
        assert_eq!(hex::encode(sample().encode()), golden);
        assert_eq!(Envelope::decode(&hex::decode(golden).unwrap(), Purpose::DataKey), Ok(sample()));
    }

    /// K2: key, version, mechanism, purpose and context are all authenticated.
    #[test]
    fn k2_authenticated_bytes_are_golden() {
        let aad = sample().header.authenticated(&[("a", "b")].into_iter().collect());
        let golden = "6b57010101".to_owned()
            + "0d0466b0e7274d9cb35df84bb474a37f"
            + "00000007"
            + "00000001"
            + "0000000161"
            + "0000000162";
        assert_eq!(hex::encode(aad), golden);
    }

    /// K2: the same for tokens without GCM.
    #[test]
    fn k2_golden_bytes_without_gcm() {
        let golden = "6b57010201".to_owned()
            + "0d0466b0e7274d9cb35df84bb474a37f"
            + "00000007"
            + "10"
            + "000102030405060708090a0b0c0d0e0f"
            + &"cc".repeat(80);
        assert_eq!(hex::encode(sample_without_gcm().encode()), golden);
        let bytes = hex::decode(golden).unwrap();
        assert_eq!(Envelope::decode(&bytes, Purpose::DataKey), Ok(sample_without_gcm()));
        // It cannot be shorter than what authenticates it.
        assert!(Envelope::decode(&bytes[..IV_AT + 16 + 31], Purpose::DataKey).is_err());
    }

    #[test]
    fn a_wrapped_data_key_fits_the_reserved_length() {
        for sample in [sample(), sample_without_gcm()] {
            assert!(sample.encode().len() <= crate::WrappedDek::MAX_LEN);
        }
    }

    #[test]
    fn every_cut_and_every_wrong_header_byte_is_refused_or_seen() {
        let bytes = sample().encode();
        for len in 0..IV_AT + 12 + 16 {
            assert!(Envelope::decode(&bytes[..len], Purpose::DataKey).is_err(), "{len}");
        }
        assert_eq!(Envelope::decode(&bytes, Purpose::Data), Err(EnvelopeFault::Purpose));
        for at in 0..IV_AT {
            let mut changed = bytes.clone();
            changed[at] ^= 0x80;
            if let Ok(envelope) = Envelope::decode(&changed, Purpose::DataKey) {
                assert_ne!(envelope.header, sample().header, "byte {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics_and_inverts_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let mut bytes = bytes;
            for purpose in [Purpose::DataKey, Purpose::Data] {
                if let Ok(envelope) = Envelope::decode(&bytes, purpose) {
                    prop_assert_eq!(envelope.encode(), bytes.clone());
                }
            }
            // The same with a start that gets past the first checks.
            let start = sample().encode();
            let n = bytes.len().min(5);
            bytes.splice(..n, start[..5].iter().copied());
            if let Ok(envelope) = Envelope::decode(&bytes, Purpose::DataKey) {
                prop_assert_eq!(envelope.encode(), bytes);
            }
        }
    }
}
