//! What every token must do that takes material from elsewhere (K6); run on the fake, on SoftHSM, on SoftHSM without GCM, and on opencryptoki.

use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey,
};

use super::{
    changes::files,
    object,
    place::{Provider, control, on, on_softhsm, settings, traced},
};
use crate::{
    domain::{
        envelope::Mechanism,
        import::{Arrival, OaepHash, PairId, RsaBits},
        reconcile::ObjectId,
    },
    hsm::{HsmError, Session, Token, fake::FakeToken, pkcs11::Pkcs11Token},
};

const SHA1: OaepHash = OaepHash::Sha1;

fn wrap(public_key: &[u8], material: &[u8], hash: OaepHash) -> Vec<u8> {
    let key = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(public_key).unwrap()).unwrap();
    let algorithm = match hash {
        OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
    };
    let mut out = vec![0; key.ciphertext_size()];
    key.encrypt(algorithm, material, &mut out, None).unwrap().to_vec()
}

/// With `has_halves`, the token makes a key of its own beside the material.
fn contract(token: &dyn Token, has_halves: bool) {
    for hash in [OaepHash::Sha1, OaepHash::Sha256] {
        pairs(token, hash);
    }
    let mut session = token.open().unwrap();
    let session: &mut dyn Session = session.as_mut();
    let key = object(1, 1);
    material(session, key);
    again(session, key, has_halves);
}

/// Pairs are made and dropped, for each hash that the token has.
fn pairs(token: &dyn Token, hash: OaepHash) {
    let mut session = token.open().unwrap();
    let (pair, other) = (PairId::new([1; 16]), PairId::new([2; 16]));
    assert_eq!(session.pairs().unwrap(), []);
    let first = match session.make_pair(pair, RsaBits::Rsa2048, hash) {
        Ok(first) => first,
        // A token says before anything is wrapped that it has not the hash, and keeps nothing.
        Err(error) => {
            assert!(hash == OaepHash::Sha256 && matches!(error, HsmError::OaepHash), "{error}");
            return assert_eq!(session.pairs().unwrap(), []);
        }
    };
    let public = session.make_pair(pair, RsaBits::Rsa2048, hash).unwrap();
    assert_ne!(first, public);
    session.make_pair(other, RsaBits::Rsa2048, hash).unwrap();
    assert_eq!(session.pairs().unwrap(), [pair, other], "a second try leaves one");
    session.drop_pair(other).unwrap();
    session.drop_pair(other).unwrap();
    assert_eq!(session.pairs().unwrap(), [pair]);
    let key = object(2, 1);
    session.derive(b"a", true).unwrap();
    session.import(key, pair, hash, &wrap(&public, &[7; 32], hash), Arrival::First).unwrap();
    assert_eq!(session.inventory().unwrap(), [key], "pairs are no master keys");
    session.destroy(key).unwrap();
    session.drop_pair(pair).unwrap();
    assert_eq!((session.pairs().unwrap().len(), session.inventory().unwrap().len()), (0, 0));
}

/// What is taken, and what is not.
fn material(session: &mut dyn Session, key: ObjectId) {
    let (pair, other) = (PairId::new([1; 16]), PairId::new([2; 16]));
    let first = session.make_pair(pair, RsaBits::Rsa2048, SHA1).unwrap();
    let public = session.make_pair(pair, RsaBits::Rsa2048, SHA1).unwrap();
    let mut import = |material: &[u8]| {
        session.import(key, pair, SHA1, &wrap(&public, material, SHA1), Arrival::First).unwrap();
        seal_and_open(session, key);
        session.check_value(key).unwrap()
    };
    let check = import(&[7; 32]);
    assert!(check == import(&[7; 32]) && check != import(&[8; 32]));
    assert_eq!(session.inventory().unwrap(), [key], "once");

    let closed = |result: Result<(), HsmError>| matches!(result, Err(HsmError::DoesNotOpen));
    let mut import = |wrapped: &[u8]| session.import(key, pair, SHA1, wrapped, Arrival::First);
    for len in [0, 1, 16, 24, 25, 31, 33, 40, 64] {
        assert!(closed(import(&wrap(&public, &vec![7; len], SHA1))), "{len} bytes");
    }
    let good = wrap(&public, &[7; 32], SHA1);
    for wrapped in [&good[1..], &[], &[0; 256], &[0xFF; 256], &wrap(&first, &[7; 32], SHA1)[..]] {
        assert!(closed(import(wrapped)));
    }
    assert!(closed(import(&wrap(&public, &[7; 32], OaepHash::Sha256))));
    assert_eq!(
        session.inventory().unwrap(),
        [],
        "nothing is left of what was not taken, nor of what was there before"
    );
    assert!(!session.exists(key).unwrap());
    assert!(matches!(session.check_value(key), Err(HsmError::NoObject { .. })));
    let refused = session.import(key, other, SHA1, &good, Arrival::First);
    assert!(matches!(refused, Err(HsmError::NoPair)));
    session.import(key, pair, SHA1, &good, Arrival::First).unwrap();
    assert!(session.check_value(key).unwrap() == check);
    session.drop_pair(pair).unwrap();
    let refused = session.import(key, pair, SHA1, &good, Arrival::Again);
    assert!(matches!(refused, Err(HsmError::NoPair)));
    session.destroy(key).unwrap();
}

/// The same material is the same key: it opens what was wrapped before it went.
fn again(session: &mut dyn Session, key: ObjectId, has_halves: bool) {
    let pair = PairId::new([1; 16]);
    let public = session.make_pair(pair, RsaBits::Rsa2048, SHA1).unwrap();
    let [good, other] = [7, 8].map(|byte| wrap(&public, &[byte; 32], SHA1));
    session.import(key, pair, SHA1, &good, Arrival::First).unwrap();
    let check = session.check_value(key).unwrap();
    let sealed = session.seal(key, b"aad", b"text").unwrap();
    let open = |session: &mut dyn Session| {
        session.open(key, sealed.mechanism, &sealed.iv, b"aad", &sealed.ciphertext).map(|text| text.to_vec())
    };
    let bad = wrap(&public, &[7; 31], SHA1);
    for round in 0..3 {
        session.remove_material(key).unwrap();
        session.remove_material(key).unwrap();
        assert!(!session.exists(key).unwrap());
        assert!(matches!(session.seal(key, b"aad", b"text"), Err(HsmError::NoObject { .. })), "{round}");
        assert!(matches!(open(session), Err(HsmError::NoObject { .. })), "{round}");
        // What is not taken meanwhile costs nothing.
        let refused = session.import(key, pair, SHA1, &bad, Arrival::Again);
        assert!(matches!(refused, Err(HsmError::DoesNotOpen)));
        session.import(key, pair, SHA1, &other, Arrival::Again).unwrap();
        assert!(session.check_value(key).unwrap() != check);
        assert_ne!(open(session).ok().as_deref(), Some(&b"text"[..]), "by other material");
        session.import(key, pair, SHA1, &good, Arrival::Again).unwrap();
        assert!(session.check_value(key).unwrap() == check && session.exists(key).unwrap());
        assert_eq!(open(session).unwrap(), b"text", "{round}");
    }
    session.destroy(key).unwrap();
    assert_eq!(session.inventory().unwrap(), []);
    // What stood beside it went with the key, and no other is made in its place.
    let imported = session.import(key, pair, SHA1, &good, Arrival::Again);
    if has_halves {
        assert!(matches!(imported, Err(HsmError::NoMacKey { object }) if object == key));
        assert_eq!(session.inventory().unwrap(), []);
    } else {
        imported.unwrap();
    }
    session.destroy(key).unwrap();
    session.drop_pair(pair).unwrap();
}

fn seal_and_open(session: &mut dyn Session, key: ObjectId) {
    let sealed = session.seal(key, b"aad", b"text").unwrap();
    let opened = session.open(key, sealed.mechanism, &sealed.iv, b"aad", &sealed.ciphertext);
    assert_eq!(opened.unwrap().as_slice(), b"text");
}

#[test]
fn k6_the_fake_keeps_the_contract_of_imports() {
    contract(&FakeToken::new(), false);
    contract(&FakeToken::with_halves(), true);
}

#[test]
fn k6_softhsm_keeps_the_contract_of_imports() {
    on_softhsm("imports::k6_softhsm_keeps_the_contract_of_imports", |dir| {
        contract(&Pkcs11Token::connect(settings(&dir)).unwrap(), false);
    });
}

#[test]
fn k6_softhsm_without_gcm_keeps_the_contract_of_imports() {
    let test = "imports::k6_softhsm_without_gcm_keeps_the_contract_of_imports";
    on(Provider::SoftHsmWithoutGcm, test, |dir| {
        let token = Pkcs11Token::connect(settings(&dir)).unwrap();
        assert_eq!(token.mechanism(), Mechanism::AesCbcHmac);
        contract(&token, true);
    });
}

/// It makes what it unwraps readable, so that only a copy can stay.
#[test]
fn k6_opencryptoki_keeps_the_contract_of_imports() {
    on(Provider::OpenCryptoki, "imports::k6_opencryptoki_keeps_the_contract_of_imports", |dir| {
        let token = Pkcs11Token::connect(settings(&dir)).unwrap();
        contract(&token, token.mechanism() == Mechanism::AesCbcHmac);
    });
}

/// The device goes at each call of an import in turn, before the call or after it took effect: once more, as the pool does it, and the key is whole, each half of it is there
/// once, and what was wrapped before opens.
#[test]
fn k6_each_call_of_an_import_is_lost_in_turn() {
    const WITHOUT_GCM: &str = "hide 0x1087\n";
    const DEVICE_ERROR: u32 = 0x30;
    on(Provider::SoftHsmWithoutGcm, "imports::k6_each_call_of_an_import_is_lost_in_turn", |dir| {
        let token = Pkcs11Token::connect(settings(&dir)).unwrap();
        let (key, pair) = (object(1, 1), PairId::new([1; 16]));
        let mut session = token.open().unwrap();
        session.derive(b"a", true).unwrap();
        let public = session.make_pair(pair, RsaBits::Rsa2048, SHA1).unwrap();
        let wrapped = wrap(&public, &[7; 32], SHA1);
        for (arrival, order) in [(Arrival::First, "fail"), (Arrival::Again, "fail-after")] {
            let mut struck = 0;
            loop {
                session.destroy(key).unwrap();
                let mut before = None;
                if arrival == Arrival::Again {
                    session.import(key, pair, SHA1, &wrapped, Arrival::First).unwrap();
                    before = Some(session.seal(key, b"aad", b"text").unwrap());
                    session.remove_material(key).unwrap();
                }
                control(&dir, &format!("{WITHOUT_GCM}trace\n{order} {struck} {DEVICE_ERROR:#x}\n"));
                let outcome = session.import(key, pair, SHA1, &wrapped, arrival);
                let has_struck = traced(&dir).iter().any(|call| call.ends_with(" struck"));
                control(&dir, WITHOUT_GCM);
                let what = format!("{arrival:?}, {order} {struck}");
                assert!(
                    outcome.is_ok() || matches!(outcome, Err(HsmError::Lost { .. })),
                    "{what}: {outcome:?}"
                );
                drop(session);
                token.recover(token.generation()).unwrap();
                session = token.open().unwrap();
                session.import(key, pair, SHA1, &wrapped, arrival).unwrap();
                seal_and_open(session.as_mut(), key);
                if let Some(sealed) = before {
                    let opened = session.open(key, sealed.mechanism, &sealed.iv, b"aad", &sealed.ciphertext);
                    assert_eq!(opened.unwrap().as_slice(), b"text", "{what}");
                }
                // The two halves, the pair, and the integrity key.
                assert_eq!(files(&dir), 4, "{what}");
                if !has_struck {
                    break;
                }
                struck += 1;
            }
            assert!(struck > 20, "{struck}");
        }
    });
}
