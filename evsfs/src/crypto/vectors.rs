//! Public test vectors: Wycheproof (whole sets), the GCM specification, RFC 4231, RFC 5869.

use super::aes_gcm::RustGcm;
use super::aws_lc::AwsLc;
use super::cipher::{Aead, Nonce, Tag};
use super::kdf::{MacKey, hkdf};
use super::plain::Gmac;
use hex::decode as unhex;

fn gcm(key: &[u8]) -> [Box<dyn Aead>; 2] {
    let key = key.try_into().unwrap();
    [Box::new(AwsLc::new(key)), Box::new(RustGcm::new(key))]
}

/// Seals (unless the vector is a forgery) and opens, in place and not, and says whether it opened.
fn opens(aead: &dyn Aead, nonce: &Nonce, aad: &[u8], plain: &[u8], sealed: &[u8], tag: &Tag) -> bool {
    let mut in_place = sealed.to_vec();
    let mut out = vec![0xee; sealed.len()];
    let opened = aead.open(nonce, aad, &mut in_place, tag).is_ok();
    assert_eq!(aead.open_into(nonce, aad, sealed, &mut out, tag).is_ok(), opened);
    assert_eq!(in_place, out);
    if !opened {
        assert!(out.iter().all(|byte| *byte == 0), "nothing unauthenticated is left in the buffer");
        return false;
    }
    assert_eq!(out, plain);
    let mut again = plain.to_vec();
    assert_eq!((aead.seal(nonce, aad, &mut again), again.as_slice()), (*tag, sealed));
    assert_eq!((aead.seal_into(nonce, aad, plain, &mut out), out.as_slice()), (*tag, sealed));
    true
}

#[test]
fn wycheproof_aes_256_gcm() {
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::AesGcm).unwrap();
    let (mut valid, mut forged) = (0, 0);
    // The format uses no other key, nonce or tag sizes.
    for group in set.test_groups.iter().filter(|g| (g.key_size, g.nonce_size, g.tag_size) == (256, 96, 128)) {
        for test in &group.tests {
            let (nonce, tag) =
                (test.nonce.as_ref().try_into().unwrap(), Tag(test.tag.as_ref().try_into().unwrap()));
            for aead in gcm(&test.key) {
                let opened = opens(aead.as_ref(), nonce, &test.aad, &test.pt, &test.ct, &tag);
                assert_eq!(opened, !test.result.must_fail(), "case {}: {}", test.tc_id, test.comment);
            }
            if test.result.must_fail() { forged += 1 } else { valid += 1 }
        }
    }
    assert_eq!((valid, forged), (39, 27), "valid and forged cases of the set");
}

#[test]
fn wycheproof_aes_256_gmac() {
    let set = wycheproof::mac_with_nonce::TestSet::load(wycheproof::mac_with_nonce::TestName::Gmac).unwrap();
    let mut cases = 0;
    for group in set.test_groups.iter().filter(|g| (g.key_size, g.nonce_size, g.tag_size) == (256, 96, 128)) {
        for test in &group.tests {
            let (nonce, tag) =
                (test.nonce.as_ref().try_into().unwrap(), Tag(test.tag.as_ref().try_into().unwrap()));
            let key = test.key.as_ref().try_into().unwrap();
            let macs: [Box<dyn Aead>; 2] =
                [Box::new(Gmac(AwsLc::new(key))), Box::new(Gmac(RustGcm::new(key)))];
            for mac in macs {
                // Wherever the message is cut into associated data and block.
                for cut in [0, test.msg.len() / 2, test.msg.len()] {
                    let (aad, block) = test.msg.split_at(cut);
                    let opened = opens(mac.as_ref(), nonce, aad, block, block, &tag);
                    assert_eq!(opened, !test.result.must_fail(), "case {}: {}", test.tc_id, test.comment);
                }
            }
            cases += 1;
        }
    }
    assert!(cases >= 50, "the set holds {cases} cases");
}

#[test]
fn wycheproof_hkdf_and_hmac_sha_256() {
    let set = wycheproof::hkdf::TestSet::load(wycheproof::hkdf::TestName::HkdfSha256).unwrap();
    let mut cases = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests).filter(|test| !test.result.must_fail())
    {
        let mut okm = vec![0; test.size];
        hkdf(&test.ikm, &test.salt, &[&test.info], &mut okm);
        assert_eq!(okm, test.okm.as_ref(), "case {}", test.tc_id);
        cases += 1;
    }
    assert!(cases >= 50, "{cases} cases of HKDF");
    let set = wycheproof::mac::TestSet::load(wycheproof::mac::TestName::HmacSha256).unwrap();
    for group in set.test_groups.iter().filter(|group| group.tag_size == 256) {
        for test in &group.tests {
            let tag = test.tag.as_ref().try_into().unwrap();
            let verified = MacKey::new(&test.key).verify(&[&test.msg], tag);
            assert_eq!(verified, !test.result.must_fail(), "case {}", test.tc_id);
            cases += 1;
        }
    }
    assert!(cases >= 130, "{cases} cases in all");
}

/// McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 13 to 16 (256-bit keys, 96-bit nonces).
#[test]
fn gcm_specification() {
    const KEY: &str = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
    const PLAIN: &str = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                         1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
    const SEALED: &str = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                          8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad";
    let zeros = "00".repeat(32);
    let cases = [
        (zeros.as_str(), "00".repeat(12), "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
        (
            zeros.as_str(),
            "00".repeat(12),
            "",
            &zeros[..32],
            "cea7403d4d606b6e074ec5d3baf39d18",
            "d0d1c8a799996bf0265b98b5d48ab919",
        ),
        (KEY, "cafebabefacedbaddecaf888".into(), "", PLAIN, SEALED, "b094dac5d93471bdec1a502270e3cc6c"),
        (
            KEY,
            "cafebabefacedbaddecaf888".into(),
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            &PLAIN[..120],
            &SEALED[..120],
            "76fc6ece0f4e1768cddf8853bb2d551b",
        ),
    ];
    for (key, nonce, aad, plain, sealed, tag) in cases {
        let [aad, plain, sealed] = [aad, plain, sealed].map(|text| unhex(text).unwrap());
        let nonce = unhex(nonce).unwrap().try_into().unwrap();
        let tag = Tag(unhex(tag).unwrap().try_into().unwrap());
        for aead in gcm(&unhex(key).unwrap()) {
            assert!(opens(aead.as_ref(), &nonce, &aad, &plain, &sealed, &tag));
        }
    }
}

/// RFC 5869, appendix A.1 to A.3.
#[test]
fn rfc_5869_hkdf_sha_256() {
    let counted = |from: u8, to: u8| (from..=to).collect::<Vec<_>>();
    let cases = [
        (
            vec![0x0b; 22],
            counted(0, 12),
            counted(0xf0, 0xf9),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            counted(0, 0x4f),
            counted(0x60, 0xaf),
            counted(0xb0, 0xff),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09\
             da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            vec![0x0b; 22],
            vec![],
            vec![],
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ];
    for (ikm, salt, info, okm) in cases {
        let expected = unhex(okm).unwrap();
        let mut okm = vec![0; expected.len()];
        hkdf(&ikm, &salt, &[&info[..info.len() / 2], &info[info.len() / 2..]], &mut okm);
        assert_eq!(okm, expected);
    }
}

/// RFC 4231, sections 4.2 to 4.4, 4.7 and 4.8 (keys shorter than, and longer than, a block).
#[test]
fn rfc_4231_hmac_sha_256() {
    let cases: [(Vec<u8>, &[u8], &str); 5] = [
        (vec![0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (
            b"Jefe".to_vec(),
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (vec![0xaa; 20], &[0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        (
            vec![0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
        (
            vec![0xaa; 131],
            b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be \
              hashed before being used by the HMAC algorithm.",
            "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
        ),
    ];
    for (key, message, expected) in cases {
        let expected = unhex(expected).unwrap().try_into().unwrap();
        let key = MacKey::new(&key);
        let (first, second) = message.split_at(message.len() / 3);
        assert_eq!(key.mac(&[first, second]), expected);
        assert!(key.verify(&[message], &expected));
        assert!(!key.verify(&[first], &expected));
    }
}
