//! Objects are made and destroyed in one session while others search.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};

use super::{
    object,
    place::{Provider, control, on, on_softhsm, settings, traced},
};
use crate::{
    domain::import::{Arrival, OaepHash, PairId, RsaBits},
    hsm::{HsmError, Session, Token, pkcs11::Pkcs11Token},
};

/// `CKR_TEMPLATE_INCONSISTENT`.
const INCONSISTENT: u32 = 0xD1;

/// Keys that each of two makers makes, and keeps until the next one.
const ROUNDS: u32 = 60;

/// SoftHSM's files of objects, the token's own not among them.
pub(super) fn files(dir: &Path) -> usize {
    let token = std::fs::read_dir(dir.join("tokens")).unwrap().next().unwrap().unwrap().path();
    let names = std::fs::read_dir(token).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".object") && name != "token.object").count()
}

/// K1: SoftHSM loses attributes of an object that is being made while another session searches. No call fails, and nothing torn is left behind.
#[test]
fn k1_softhsm_makes_whole_keys_while_others_search() {
    on_softhsm("changes::k1_softhsm_makes_whole_keys_while_others_search", |dir| {
        let token = Pkcs11Token::connect(settings(&dir)).unwrap();
        let open = || token.open().unwrap();
        open().derive(b"a", true).unwrap();
        let at_work = AtomicU32::new(3);
        std::thread::scope(|scope| {
            for maker in 1..=2 {
                let at_work = &at_work;
                scope.spawn(move || {
                    let _done = Done(at_work);
                    let mut session = open();
                    for round in 1..=ROUNDS {
                        let made = object(maker, round);
                        session.generate(made).unwrap();
                        session.seal(made, b"aad", b"text").unwrap();
                        if round > 1 {
                            session.destroy(object(maker, round - 1)).unwrap();
                        }
                    }
                });
            }
            scope.spawn(|| {
                let _done = Done(&at_work);
                let mut session = open();
                (1..=ROUNDS).for_each(|note| session.put_note(&note.to_be_bytes()).unwrap());
            });
            scope.spawn(|| {
                let mut session = open();
                while at_work.load(Ordering::SeqCst) > 0 {
                    session.inventory().unwrap();
                    assert!(!session.exists(object(9, 1)).unwrap());
                }
            });
        });
        let mut session = open();
        assert_eq!(session.inventory().unwrap(), [object(1, ROUNDS), object(2, ROUNDS)]);
        assert_eq!(session.notes().unwrap(), [ROUNDS.to_be_bytes()]);
        drop(session);
        // The two keys, the one that guards the store, and the note.
        assert_eq!(files(&dir), 4);
    });
}

/// Counts a thread out, also when it panics: others wait for it.
struct Done<'a>(&'a AtomicU32);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn wrap(public: &[u8], material: &[u8]) -> Vec<u8> {
    let key = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(public).unwrap()).unwrap();
    let mut out = vec![0; key.ciphertext_size()];
    key.encrypt(&OAEP_SHA1_MGF1SHA1, material, &mut out, None).unwrap().to_vec()
}

/// A template that is called inconsistent is offered again, by every call that makes an object, and not without end.
#[test]
fn a_new_object_is_asked_for_again() {
    on(Provider::SoftHsmByProxy, "changes::a_new_object_is_asked_for_again", |dir| {
        let token = Pkcs11Token::connect(settings(&dir)).unwrap();
        let mut session = token.open().unwrap();
        let session: &mut dyn Session = session.as_mut();
        let pair = PairId::new([1; 16]);
        let public = session.make_pair(PairId::new([2; 16]), RsaBits::Rsa2048, OaepHash::Sha1).unwrap();
        let wrapped = wrap(&public, &[7; 32]);
        let mut number = 0;
        let mut generate = |session: &mut dyn Session| {
            number += 1;
            session.generate(object(1, number))
        };
        let mut import = |session: &mut dyn Session| {
            session.import(object(2, 1), PairId::new([2; 16]), OaepHash::Sha1, &wrapped, Arrival::First)
        };
        let mut make_pair =
            |session: &mut dyn Session| session.make_pair(pair, RsaBits::Rsa2048, OaepHash::Sha1).map(drop);
        let mut put_note = |session: &mut dyn Session| session.put_note(b"note");
        type Operation<'a> = &'a mut dyn FnMut(&mut dyn Session) -> Result<(), HsmError>;
        let operations: [(&[&str], Operation<'_>); 4] = [
            (&["C_GenerateKey"], &mut generate),
            (&["C_GenerateKey", "C_UnwrapKey"], &mut import),
            (&["C_GenerateKeyPair", "C_UnwrapKey"], &mut make_pair),
            (&["C_CreateObject"], &mut put_note),
        ];
        for (expected, operation) in operations {
            let mut made_by = BTreeSet::new();
            for index in 0.. {
                assert!(index < 100, "an operation has an end");
                // Of its own: after a search whose end fails, a session takes no other.
                let mut fresh = token.open().unwrap();
                control(&dir, &format!("trace\nfail {index} {INCONSISTENT:#x}\n"));
                let outcome = operation(fresh.as_mut());
                let calls = traced(&dir);
                let Some(struck) = calls.iter().find_map(|call| call.strip_suffix(" struck")) else { break };
                let makes = ["C_GenerateKey", "C_GenerateKeyPair", "C_CreateObject", "C_UnwrapKey"];
                if makes.contains(&struck) {
                    outcome.unwrap_or_else(|error| panic!("call {index}, {struck}: {error}"));
                    made_by.insert(struck.to_owned());
                }
            }
            assert!(made_by.iter().eq(expected), "{made_by:?}");
        }
        // This key is made only once: after the search that does not find it.
        control(&dir, "trace\n");
        assert!(matches!(session.derive(b"a", false), Err(HsmError::NoIntegrityKey)));
        let index = traced(&dir).len();
        control(&dir, &format!("trace\nfail {index} {INCONSISTENT:#x}\n"));
        session.derive(b"a", true).unwrap();
        assert_eq!(traced(&dir)[index], "C_GenerateKey struck");
        // The first call of a generation makes the key.
        let orders: String = (0..50).map(|index| format!("fail {index} {INCONSISTENT:#x}\n")).collect();
        control(&dir, &format!("trace\n{orders}"));
        let error = session.generate(object(3, 1)).unwrap_err();
        assert!(matches!(&error, HsmError::Failed { code, .. } if code == "TemplateInconsistent"), "{error}");
        assert_eq!(traced(&dir), ["C_GenerateKey struck"; 4]);
    });
}
