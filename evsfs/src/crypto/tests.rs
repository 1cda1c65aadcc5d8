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

#[test]
#[should_panic(expected = "a nonce of another epoch")]
fn f1_a_nonce_seals_only_in_its_own_epoch() {
    let keys = keys(Suite::Aes256Gcm, Backend::AwsLc);
    let [old, new] = [1, 2].map(|seed| keys.begin_epoch(&SeededEntropy::new(seed)).unwrap());
    old.keys.data.seal(new.nonces.next().unwrap(), b"aad", &mut [0; 16]);
}

/// F1: each attach draws its own salt, and each purpose has its own key: equal counters meet different keys.
#[test]
fn f1_equal_counters_meet_different_keys() {
    let entropy = SystemEntropy;
    let keys = keys(Suite::Aes256Gcm, Backend::AwsLc);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..50 {
        let epoch = keys.begin_epoch(&entropy).unwrap();
        for _ in 0..2 {
            for cipher in [&epoch.keys.data, &epoch.keys.map, &epoch.keys.log] {
                let mut block = [0; 32];
                cipher.seal(epoch.nonces.next().unwrap(), b"aad", &mut block);
                assert!(seen.insert(block), "a key stream came twice");
            }
        }
    }
}

#[test]
fn f1_no_entropy_no_seal() {
    struct Broken;
    impl Entropy for Broken {
        fn fill(&self, _: &mut [u8]) -> Result<(), EntropyUnavailable> {
            Err(EntropyUnavailable)
        }
    }
    let keys = keys(Suite::Aes256Gcm, Backend::AwsLc);
    assert!(keys.begin_epoch(&Broken).is_err());
    assert!(keys.seal_table(TablePurpose::Superblock, &[0; 4048], &Broken).is_err());
}

#[test]
fn f2_what_was_changed_does_not_open_and_leaves_zeros() {
    for suite in [Suite::Aes256Gcm, Suite::Plain] {
        for backend in Backend::ALL {
            let epoch = keys(suite, backend).begin_epoch(&SeededEntropy::new(1)).unwrap();
            let aad = b"evsD and so on".to_vec();
            let mut sealed = [7; 48];
            let tag = epoch.keys.data.seal(epoch.nonces.next().unwrap(), &aad, &mut sealed);
            let refused = |counter: u32, aad: &[u8], sealed: &[u8], tag: &Tag| {
                let mut block = sealed.to_vec();
                epoch.keys.data.open(counter, aad, &mut block, tag).is_err()
                    && block.iter().all(|byte| *byte == 0)
            };
            assert!(!refused(0, &aad, &sealed, &tag));
            assert!(refused(1, &aad, &sealed, &tag), "another counter");
            assert!(refused(0, &aad[1..], &sealed, &tag), "other associated data");
            for bit in 0..48 * 8 {
                let mut changed = sealed;
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(refused(0, &aad, &changed, &tag), "bit {bit} of the block");
            }
            for bit in 0..128 {
                let mut changed = tag;
                changed.0[bit / 8] ^= 1 << (bit % 8);
                assert!(refused(0, &aad, &sealed, &changed), "bit {bit} of the tag");
            }
        }
    }
}

#[test]
fn f2_a_table_page_opens_only_as_itself() {
    let entropy = SeededEntropy::new(9);
    for suite in [Suite::Aes256Gcm, Suite::Plain] {
        let keys = keys(suite, Backend::AwsLc);
        let old = keys.seal_table(TablePurpose::EpochPage, &[1; 4048], &entropy).unwrap();
        let new = keys.seal_table(TablePurpose::EpochPage, &[2; 4048], &entropy).unwrap();
        let tag = VolumeKeys::table_tag(&new);
        assert_eq!(keys.open_table(TablePurpose::EpochPage, &new, &tag).unwrap()[0], 2);
        assert!(keys.open_table(TablePurpose::EpochPage, &old, &tag).is_err(), "an older page put back");
        assert!(keys.open_table(TablePurpose::Versions, &new, &tag).is_err(), "another purpose");
        assert!(keys.open_superblock(&new).is_err(), "another purpose");
        for byte in 0..BLOCK {
            let mut changed = new.clone();
            changed[byte] ^= 0x10;
            assert!(keys.open_table(TablePurpose::EpochPage, &changed, &tag).is_err(), "byte {byte}");
        }
    }
    let here = keys(Suite::Aes256Gcm, Backend::AwsLc);
    let there = VolumeKeys::new(Dek::new(&[0x22; 32]), Uuid::from_bytes([0x12; 16]), Backend::AwsLc);
    let page = here.seal_table(TablePurpose::Superblock, &[1; 4048], &entropy).unwrap();
    assert!(here.open_superblock(&page).is_ok());
    assert!(there.open_superblock(&page).is_err(), "the same DEK, another volume");
}

/// F3: the chain tells every past from every other, and steps from events.
#[test]
fn f3_the_chain_names_its_past() {
    let keys = keys(Suite::Aes256Gcm, Backend::AwsLc);
    let start = keys.genesis_chain();
    let (a, b) = (Tag([1; 16]), Tag([2; 16]));
    let values = [
        start,
        keys.chain_step(&start, &a),
        keys.chain_step(&start, &b),
        keys.chain_step(&keys.chain_step(&start, &a), &b),
        keys.chain_step(&keys.chain_step(&start, &b), &a),
        keys.chain_event(&start, &a.0),
        keys.chain_event(&start, b"x"),
        VolumeKeys::new(Dek::new(&[0x23; 32]), VOLUME, Backend::AwsLc).genesis_chain(),
    ];
    for (index, value) in values.iter().enumerate() {
        assert!(!values[..index].contains(value), "{index}");
    }
}

/// Compiles only while none of the types has the trait: with it, two implementations of `Lacks` would fit.
macro_rules! lacks {
    ($forbidden:path: $($secret:ty),+) => {$(
        const _: fn() = || {
            trait Lacks<A> {
                fn holds() {}
            }
            impl<T: ?Sized> Lacks<()> for T {}
            struct Forbidden;
            impl<T: ?Sized + $forbidden> Lacks<Forbidden> for T {}
            let _ = <$secret as Lacks<_>>::holds;
        };
    )+};
}

lacks!(std::fmt::Debug: Dek, VolumeKeys, EpochKeys, FreshEpoch, super::kdf::MacKey, super::aws_lc::AwsLc, super::aes_gcm::RustGcm);
lacks!(Clone: Dek, VolumeKeys, EpochKeys, FreshEpoch, SealNonce, NonceRun, NonceSequence);
