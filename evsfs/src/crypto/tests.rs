//! The two implementations against each other, and the rules of nonces and keys.

use super::*;
use crate::format::layout::BLOCK;
use proptest::prelude::*;
use uuid::Uuid;

const VOLUME: Uuid = Uuid::from_bytes([0x11; 16]);

fn keys(suite: Suite, backend: Backend) -> VolumeKeys {
    match suite {
        Suite::Aes256Gcm => VolumeKeys::new(Dek::new(&[0x22; 32]), VOLUME, backend),
        Suite::Plain => VolumeKeys::plain(VOLUME, backend),
    }
}

/// Epochs of the same salt for each backend, so that they can be compared.
fn epochs(suite: Suite) -> [FreshEpoch; 2] {
    Backend::ALL.map(|backend| keys(suite, backend).begin_epoch(&SeededEntropy::new(5)).unwrap())
}

fn agree(suite: Suite, aad: &[u8], plain: &[u8]) {
    let mut sealed = Vec::new();
    for epoch in epochs(suite) {
        let mut in_place = plain.to_vec();
        let tag = epoch.keys.data.seal(epoch.nonces.next().unwrap(), aad, &mut in_place);
        let again = keys(suite, Backend::AwsLc).begin_epoch(&SeededEntropy::new(5)).unwrap();
        let mut out = vec![0xee; plain.len()];
        let tag_out = again.keys.data.seal_into(again.nonces.next().unwrap(), aad, plain, &mut out);
        assert_eq!((&in_place, tag), (&out, tag_out));
        assert_eq!(in_place == plain, suite == Suite::Plain || plain.is_empty());
        sealed.push((in_place, tag));
    }
    assert_eq!(sealed[0], sealed[1], "the two implementations give the same bytes");
    let (ciphertext, tag) = &sealed[0];
    for epoch in epochs(suite) {
        let mut block = ciphertext.clone();
        epoch.keys.data.open(0, aad, &mut block, tag).unwrap();
        assert_eq!(block, plain);
        let mut out = vec![0xee; plain.len()];
        epoch.keys.data.open_into(0, aad, ciphertext, &mut out, tag).unwrap();
        assert_eq!(out, plain);
    }
}

#[test]
fn both_backends_give_the_same_bytes_at_every_size() {
    let plain: Vec<u8> = (0..BLOCK).map(|at| u8::try_from(at % 251).unwrap()).collect();
    for suite in [Suite::Aes256Gcm, Suite::Plain] {
        for len in (0..=130).chain([255, 256, 257, 511, 512, 1_000, 4_000, 4_048, 4_095, BLOCK]) {
            agree(suite, b"aad", &plain[..len]);
        }
    }
}

proptest! {
    #[test]
    fn both_backends_give_the_same_bytes(
        aad in proptest::collection::vec(any::<u8>(), 1..140),
        plain in proptest::collection::vec(any::<u8>(), 0..=BLOCK),
    ) {
        agree(Suite::Aes256Gcm, &aad, &plain);
        agree(Suite::Plain, &aad, &plain);
    }
}
