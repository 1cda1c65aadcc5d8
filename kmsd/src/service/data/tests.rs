use super::*;
use crate::{
    domain::Principal,
    hsm::{Token, fake::FakeToken},
    service::{DatakeyRequest, NewKey, tests::on_fakes},
    store::memory::MemoryStore,
};

async fn service() -> Service {
    let token = FakeToken::new();
    let store = MemoryStore::new(token.identity());
    on_fakes(&token, &store).await
}

fn owner() -> Caller {
    Caller { principal: Principal::Uid(1000), is_admin: false }
}

fn context(value: &str) -> EncryptionContext {
    [("tenant", value)].into_iter().collect()
}

fn bytes(text: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.to_vec())
}

async fn key(service: &Service, alias: &str) -> KeyRef {
    KeyRef::Id(service.create_key(&owner(), NewKey::named(alias)).await.unwrap().key.id)
}

/// K2: it opens only with the same key and the same context.
#[tokio::test]
async fn k2_data_opens_only_with_its_key_and_context() {
    let service = service().await;
    let (a, b) = (key(&service, "a").await, key(&service, "b").await);
    let (id, sealed) = service.encrypt_data(&owner(), &a, bytes(b"hello"), &context("1")).await.unwrap();
    assert_eq!(KeyRef::Id(id), a);
    let opened = service.decrypt_data(&owner(), None, &sealed, &context("1")).await.unwrap();
    assert_eq!((KeyRef::Id(opened.0), &**opened.1), (a.clone(), &b"hello"[..]));
    let other_context = service.decrypt_data(&owner(), None, &sealed, &context("2")).await.unwrap_err();
    assert!(matches!(other_context, ServiceError::Refused(Refusal::DoesNotOpen { .. })));
    let other_key = service.decrypt_data(&owner(), Some(&b), &sealed, &context("1")).await.unwrap_err();
    assert!(matches!(other_key, ServiceError::Refused(Refusal::OtherKey { .. })));
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(service.decrypt_data(&owner(), None, &changed, &context("1")).await.is_err(), "byte {at}");
    }
}

/// K2: a wrapped data key is not data, nor the other way round.
#[tokio::test]
async fn k2_data_and_data_keys_are_not_mixed_up() {
    let service = service().await;
    let key = key(&service, "a").await;
    let none = EncryptionContext::default();
    let request = DatakeyRequest { key: key.clone(), context: none.clone(), len: 32 };
    let datakey = service.create_datakey(&owner(), request, Operation::CreateDatakey).await.unwrap();
    let (_, data) = service.encrypt_data(&owner(), &key, bytes(b"x"), &none).await.unwrap();
    assert!(service.decrypt_data(&owner(), None, &datakey.wrapped, &none).await.is_err());
    assert!(service.decrypt_datakey(&owner(), None, &data, &none).await.is_err());
    for (wrapped, plain) in [(&datakey.wrapped, &**datakey.plaintext), (&data, &b"x"[..])] {
        let (_, opened) = service.decrypt_any(&owner(), None, wrapped, &none).await.unwrap();
        assert_eq!(&**opened, plain);
    }
}

/// K5: wrapped anew under another key and context; the old form stays good, and the purpose is kept.
#[tokio::test]
async fn k5_re_encryption_moves_to_another_key_and_context() {
    let service = service().await;
    let (a, b) = (key(&service, "a").await, key(&service, "b").await);
    let (old, new) = (context("old"), context("new"));
    let (_, wrapped) = service.encrypt_datakey(&owner(), &a, bytes(&[7; 32]), &old).await.unwrap();
    let source = Source { wrapped: &wrapped, expected: None, context: &old };
    let moved = service.re_encrypt(&owner(), source, &b, &new).await.unwrap();
    assert_eq!((KeyRef::Id(moved.source), KeyRef::Id(moved.destination)), (a, b));
    let opened = service.decrypt_datakey(&owner(), None, &moved.wrapped, &new).await.unwrap();
    assert_eq!(**opened, [7; 32]);
    assert!(service.decrypt_datakey(&owner(), None, &moved.wrapped, &old).await.is_err());
    assert!(service.decrypt_datakey(&owner(), None, &wrapped, &old).await.is_ok());
}

/// K4: either key has to be in service. K7: and the caller's.
#[tokio::test]
async fn k4_k7_re_encryption_needs_both_keys() {
    let service = service().await;
    let (a, b) = (key(&service, "a").await, key(&service, "b").await);
    let none = EncryptionContext::default();
    let (_, wrapped) = service.encrypt_data(&owner(), &a, bytes(b"x"), &none).await.unwrap();
    let source = Source { wrapped: &wrapped, expected: None, context: &none };
    for (disabled, kept) in [(&a, &b), (&b, &a)] {
        service.disable_key(&owner(), disabled).await.unwrap();
        let refused = service.re_encrypt(&owner(), source, &b, &none).await.unwrap_err();
        assert!(matches!(refused, ServiceError::Refused(Refusal::State { .. })), "{kept}: {refused}");
        service.enable_key(&owner(), disabled).await.unwrap();
    }
    let stranger = Caller { principal: Principal::Uid(1), is_admin: false };
    let refused = service.re_encrypt(&stranger, source, &b, &none).await.unwrap_err();
    assert!(matches!(refused, ServiceError::Refused(Refusal::NoSuchKey { .. })));
    let refused = service.encrypt_data(&stranger, &a, bytes(b"x"), &none).await.unwrap_err();
    assert!(matches!(refused, ServiceError::Refused(Refusal::NoSuchKey { .. })));
}

#[tokio::test]
async fn lengths_are_bounded() {
    let service = service().await;
    let key = key(&service, "a").await;
    let none = EncryptionContext::default();
    for (len, fits) in [(0, false), (1, true), (4096, true), (4097, false)] {
        let sealed = service.encrypt_data(&owner(), &key, Zeroizing::new(vec![1; len]), &none).await;
        assert_eq!(sealed.is_ok(), fits, "{len}");
    }
    for (len, fits) in [(0, false), (1, true), (1024, true), (1025, false)] {
        assert_eq!(
            service.random(&owner(), len).await.map(|drawn| drawn.len()).ok(),
            fits.then_some(len),
            "{len}"
        );
    }
    assert_ne!(*service.random(&owner(), 32).await.unwrap(), *service.random(&owner(), 32).await.unwrap());
}
