//! What every token must do that takes material from elsewhere (K6); run on the fake and on SoftHSM.

use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey,
};

use super::{
    object,
    place::{Provider, on, on_softhsm, settings},
};
use crate::{
    domain::import::{OaepHash, PairId, RsaBits},
    hsm::{HsmError, Session, Token, fake::FakeToken, pkcs11::Pkcs11Token},
};

fn wrap(public_key: &[u8], material: &[u8], hash: OaepHash) -> Vec<u8> {
    let key = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(public_key).unwrap()).unwrap();
    let algorithm = match hash {
        OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
    };
    let mut out = vec![0; key.ciphertext_size()];
    key.encrypt(algorithm, material, &mut out, None).unwrap().to_vec()
}

fn contract(token: &dyn Token) {
    const SHA1: OaepHash = OaepHash::Sha1;
    let mut session = token.open().unwrap();
    let session: &mut dyn Session = session.as_mut();
    session.derive(b"a", true).unwrap();
    let (pair, other, key) = (PairId::new([1; 16]), PairId::new([2; 16]), object(1, 1));
    assert_eq!(session.pairs().unwrap(), []);
    let first = session.make_pair(pair, RsaBits::Rsa2048, SHA1).unwrap();
    let public = session.make_pair(pair, RsaBits::Rsa2048, SHA1).unwrap();
    assert_ne!(first, public);
    session.make_pair(other, RsaBits::Rsa2048, SHA1).unwrap();
    assert_eq!(session.pairs().unwrap(), [pair, other], "a second try leaves one");
    session.drop_pair(other).unwrap();
    session.drop_pair(other).unwrap();
    assert_eq!(session.pairs().unwrap(), [pair]);
    // A token says before anything is wrapped that it has not the hash, and keeps nothing.
    if let Err(error) = session.make_pair(other, RsaBits::Rsa2048, OaepHash::Sha256) {
        assert!(matches!(error, HsmError::OaepHash), "{error}");
        assert_eq!(session.pairs().unwrap(), [pair]);
    }
    session.drop_pair(other).unwrap();

    let mut import = |material: &[u8]| {
        session.import(key, pair, SHA1, &wrap(&public, material, SHA1)).unwrap();
        let sealed = session.seal(key, b"aad", b"text").unwrap();
        let opened = session.open(key, sealed.mechanism, &sealed.iv, b"aad", &sealed.ciphertext);
        assert_eq!(opened.unwrap().as_slice(), b"text");
        (session.check_value(key).unwrap(), sealed)
    };
    let (check, sealed) = import(&[7; 32]);
    let (again, _) = import(&[7; 32]);
    assert!(check == again && check != import(&[8; 32]).0);
    import(&[7; 32]);
    assert_eq!(session.inventory().unwrap(), [key], "once, and pairs are no master keys");
    let opened = session.open(key, sealed.mechanism, &sealed.iv, b"aad", &sealed.ciphertext);
    assert_eq!(opened.unwrap().as_slice(), b"text", "the same material is the same key");

    let closed = |result: Result<(), HsmError>| matches!(result, Err(HsmError::DoesNotOpen));
    for len in [0, 1, 16, 24, 25, 31, 33, 40, 64] {
        let wrapped = wrap(&public, &vec![7; len], SHA1);
        assert!(closed(session.import(key, pair, SHA1, &wrapped)), "{len} bytes");
        assert!(!session.exists(key).unwrap(), "{len} bytes");
    }
    let good = wrap(&public, &[7; 32], SHA1);
    for wrapped in [&good[1..], &[], &[0; 256], &[0xFF; 256], &wrap(&first, &[7; 32], SHA1)[..]] {
        assert!(closed(session.import(key, pair, SHA1, wrapped)));
    }
    assert!(closed(session.import(key, pair, SHA1, &wrap(&public, &[7; 32], OaepHash::Sha256))));
    assert!(matches!(session.import(key, other, SHA1, &good), Err(HsmError::NoPair)));
    assert!(matches!(session.check_value(key), Err(HsmError::NoObject { .. })));
    session.import(key, pair, SHA1, &good).unwrap();
    assert!(session.check_value(key).unwrap() == check);
    session.drop_pair(pair).unwrap();
    assert!(matches!(session.import(key, pair, SHA1, &good), Err(HsmError::NoPair)));
}

#[test]
fn k6_the_fake_keeps_the_contract_of_imports() {
    contract(&FakeToken::new());
}

#[test]
fn k6_softhsm_keeps_the_contract_of_imports() {
    on_softhsm("imports::k6_softhsm_keeps_the_contract_of_imports", |dir| {
        contract(&Pkcs11Token::connect(settings(&dir)).unwrap());
    });
}

/// What authenticates without GCM is a second key, which would not come back with the material.
#[test]
fn k6_without_gcm_nothing_is_imported() {
    on(Provider::SoftHsmWithoutGcm, "imports::k6_without_gcm_nothing_is_imported", |dir| {
        let token = Pkcs11Token::connect(settings(&dir)).unwrap();
        let mut session = token.open().unwrap();
        let made = session.make_pair(PairId::new([1; 16]), RsaBits::Rsa2048, OaepHash::Sha1);
        assert!(matches!(made, Err(HsmError::Lacks { .. })));
        assert_eq!(session.pairs().unwrap(), []);
    });
}
