//! F13: AES-GCM does not commit to its key. Here is a wrapped key that opens under two CMKs, to two DEKs; the header tells them apart.

use super::*;
use ::aes_gcm::aead::AeadInOut;
use ::aes_gcm::aes::cipher::{BlockCipherEncrypt, KeyInit};
use ::aes_gcm::{Aes256Gcm, aes::Aes256};

/// An element of GF(2^128) as GCM writes it: the first bit is the coefficient of x^0 (NIST SP 800-38D, section 6.3).
#[derive(Clone, Copy)]
struct Element(u128);

impl std::ops::Add for Element {
    type Output = Self;
    #[allow(clippy::suspicious_arithmetic_impl)] // addition in a field of characteristic 2
    fn add(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }
}

impl std::ops::Mul for Element {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let (mut product, mut shifted) = (0, other.0);
        for bit in (0..128).rev() {
            if self.0 >> bit & 1 == 1 {
                product ^= shifted;
            }
            shifted = shifted >> 1 ^ if shifted & 1 == 1 { 0xe1 << 120 } else { 0 };
        }
        Self(product)
    }
}

impl Element {
    /// x^(2^128 - 2).
    fn inverse(self) -> Self {
        let mut power = self;
        for _ in 0..126 {
            power = power * power * self;
        }
        power * power
    }
}

fn encrypt(key: &[u8; 32], block: [u8; 16]) -> Element {
    let mut block = block.into();
    Aes256::new(key.into()).encrypt_block(&mut block);
    Element(u128::from_be_bytes(block.into()))
}

/// 48 bytes of ciphertext, and a tag that both keys accept: the last block is chosen so that the two tags meet.
fn collide(keys: [&[u8; 32]; 2], nonce: [u8; 12]) -> (Vec<u8>, [u8; 16]) {
    let mut first = [0; 16];
    first[..12].copy_from_slice(&nonce);
    first[15] = 1;
    let blocks = [Element(0x0123_4567_89ab_cdef << 64), Element(42)];
    let lengths = Element(48 * 8);
    // tag = E(first) + c0 h^4 + c1 h^3 + c2 h^2 + lengths h
    let parts = keys.map(|key| {
        let h = encrypt(key, [0; 16]);
        let square = h * h;
        let rest = encrypt(key, first) + blocks[0] * square * square + blocks[1] * square * h + lengths * h;
        (rest, square)
    });
    let last = (parts[0].0 + parts[1].0) * (parts[0].1 + parts[1].1).inverse();
    let tag = parts[0].0 + last * parts[0].1;
    let ciphertext = [blocks[0], blocks[1], last].iter().flat_map(|block| block.0.to_be_bytes()).collect();
    (ciphertext, tag.0.to_be_bytes())
}

#[test]
fn f13_a_wrapped_key_that_opens_under_two_keys_to_two_deks_is_refused_by_the_header() {
    let (cmks, nonce) = ([&[1; 32], &[2; 32]], [3; 12]);
    let (ciphertext, tag) = collide(cmks, nonce);
    let deks = cmks.map(|cmk| {
        let mut opened = ciphertext.clone();
        Aes256Gcm::new(cmk.into())
            .decrypt_inout_detached(&nonce.into(), b"", opened.as_mut_slice().into(), &tag.into())
            .expect("GCM accepts it under both keys: it does not commit");
        <[u8; 32]>::try_from(&opened[..32]).unwrap()
    });
    assert_ne!(deks[0], deks[1]);

    let [keys, other] = deks.map(|dek| VolumeKeys::new(Dek::new(&dek), VOLUME, Backend::AwsLc));
    let wrapped = [ciphertext.as_slice(), &tag].concat();
    let header = Header { wrapped_dek: WrappedDekField::new(wrapped).unwrap(), ..header() };
    let bytes = header.encode(&keys).unwrap();
    let unverified = UnverifiedHeader::parse(bytes.as_ref()).unwrap();
    assert_eq!(unverified.verify(&keys), Ok(header));
    assert_eq!(unverified.verify(&other), Err(HeaderError::NotAuthentic { volume: VOLUME }));
}

/// 256 DEKs, one header: all MACs differ.
#[test]
fn f13_headers_of_two_deks_never_share_a_mac() {
    let macs: std::collections::HashSet<_> = (0..=255)
        .map(|dek| {
            VolumeKeys::new(Dek::new(&[dek; 32]), VOLUME, Backend::AwsLc).header_mac(b"the same header")
        })
        .collect();
    assert_eq!(macs.len(), 256);
}
