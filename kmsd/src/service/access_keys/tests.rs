use super::*;
use crate::{
    domain::{Principal, reconcile::ObjectId},
    hsm::{Token, fake::FakeToken},
    service::tests::on_fakes,
    store::{Store, memory::MemoryStore},
};

fn parts() -> (FakeToken, MemoryStore) {
    let token = FakeToken::new();
    let store = MemoryStore::new(token.identity());
    (token, store)
}

fn user() -> Caller {
    Caller { principal: Principal::Uid(1000), is_admin: false }
}

#[tokio::test]
async fn a_secret_is_shown_once_and_opened_again_after_a_restart() {
    let (token, store) = parts();
    let first = on_fakes(&token, &store).await;
    let made = first.create_access_key(&Caller::SYSTEM, "ci", true).await.unwrap();
    let known = first.credential(&made.record.id).await.unwrap().unwrap();
    assert_eq!(known.secret.expose(), made.secret.expose());
    drop(first);

    let second = on_fakes(&token, &store).await;
    let known = second.credential(&made.record.id).await.unwrap().unwrap();
    assert_eq!(known.secret.expose(), made.secret.expose());
    assert!(known.is_admin);
    assert!(second.credential(&"AKUNKNOWN".parse().unwrap()).await.unwrap().is_none());
}

#[tokio::test]
async fn the_store_alone_does_not_give_secrets_away() {
    let (token, store) = parts();
    let made = on_fakes(&token, &store).await.create_access_key(&Caller::SYSTEM, "", false).await.unwrap();
    let stored = format!("{:?}", store.clone().load().unwrap().registry);
    assert!(stored.contains(made.record.id.as_str()));
    assert!(!stored.contains(made.secret.expose()) && !stored.contains(&hex::encode(made.secret.expose())));

    // With another token it does not open, and the error names the access key.
    let other = FakeToken::new();
    let elsewhere = on_fakes(&other, &store).await;
    let refused = elsewhere.credential(&made.record.id).await.err().unwrap();
    assert!(matches!(refused, ServiceError::Refused(Refusal::AccessKeyDamaged { .. })), "{refused}");
}

#[tokio::test]
async fn a_record_that_was_made_an_administrator_in_the_store_is_useless() {
    let (token, mut store) = parts();
    let made = on_fakes(&token, &store).await.create_access_key(&Caller::SYSTEM, "", false).await.unwrap();
    let forged = AccessKeyRecord { is_admin: true, ..made.record.clone() };
    store.commit(&[Change::ForgetAccessKey(forged.id.clone()), Change::PutAccessKey(forged)]).unwrap();
    let refused = on_fakes(&token, &store).await.credential(&made.record.id).await.err().unwrap();
    assert!(matches!(refused, ServiceError::Refused(Refusal::AccessKeyDamaged { .. })), "{refused}");
}

#[tokio::test]
async fn a_deleted_access_key_is_none_at_once() {
    let (token, store) = parts();
    let service = on_fakes(&token, &store).await;
    let made = service.create_access_key(&Caller::SYSTEM, "", false).await.unwrap();
    let id = &made.record.id;
    assert!(service.credential(id).await.unwrap().is_some());
    service.delete_access_key(&Caller::SYSTEM, id).await.unwrap();
    assert!(service.credential(id).await.unwrap().is_none());
    assert!(service.inner.open_secrets.secrets.lock().is_empty());
    let again = service.delete_access_key(&Caller::SYSTEM, id).await.unwrap_err();
    assert!(matches!(again, ServiceError::Refused(Refusal::NoSuchAccessKey { .. })));
}

#[tokio::test]
async fn only_administrators_make_see_and_delete_them() {
    let (token, store) = parts();
    let service = on_fakes(&token, &store).await;
    let made = service.create_access_key(&Caller::SYSTEM, "", false).await.unwrap();
    let errors = [
        service.create_access_key(&user(), "", false).await.err().unwrap(),
        service.list_access_keys(&user()).await.err().unwrap(),
        service.delete_access_key(&user(), &made.record.id).await.err().unwrap(),
    ];
    for error in errors {
        assert!(matches!(error, ServiceError::Refused(Refusal::NotAdministrator { .. })), "{error}");
    }
    assert_eq!(service.list_access_keys(&Caller::SYSTEM).await.unwrap(), [made.record]);
}

#[tokio::test]
async fn there_is_one_sealing_object_however_many_are_first_and_no_orphan_is_reported() {
    let (token, store) = parts();
    let service = on_fakes(&token, &store).await;
    let made: Vec<_> = (0..50)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { service.create_access_key(&Caller::SYSTEM, "", false).await.unwrap() })
        })
        .collect();
    for task in made {
        let made = task.await.unwrap();
        let known = service.credential(&made.record.id).await.unwrap().unwrap();
        assert_eq!(known.secret.expose(), made.secret.expose());
    }
    assert_eq!(token.objects().into_iter().collect::<Vec<_>>(), [(SEALING_OBJECT, 1)]);
    let registry = store.clone().load().unwrap().registry;
    let inventory: Vec<ObjectId> = token.objects().into_keys().collect();
    assert_eq!(crate::domain::reconcile::reconcile(&registry, &inventory.into_iter().collect()).orphans, []);
}

#[tokio::test]
async fn there_are_at_most_a_thousand() {
    let (token, mut store) = parts();
    let made = on_fakes(&token, &store).await.create_access_key(&Caller::SYSTEM, "", false).await.unwrap();
    let others = (1..=32_u8).flat_map(|high| (0..32).map(move |low| [high, low]));
    let others = others.take(MAX_ACCESS_KEYS - 2).map(|[high, low]| {
        let mut random = [0; AccessKeyId::LEN];
        (random[0], random[1]) = (high, low);
        Change::PutAccessKey(AccessKeyRecord { id: AccessKeyId::from_random(random), ..made.record.clone() })
    });
    store.commit(&others.collect::<Vec<_>>()).unwrap();
    let service = on_fakes(&token, &store).await;
    let last = service.create_access_key(&Caller::SYSTEM, "", false).await.unwrap();
    let refused = service.create_access_key(&Caller::SYSTEM, "", false).await.err().unwrap();
    assert!(
        matches!(refused, ServiceError::Refused(Refusal::TooManyAccessKeys { limit: MAX_ACCESS_KEYS })),
        "{refused}"
    );
    service.delete_access_key(&Caller::SYSTEM, &last.record.id).await.unwrap();
    service.create_access_key(&Caller::SYSTEM, "", false).await.unwrap();
}
