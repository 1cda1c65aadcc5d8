//! K7: grants, policies and names of keys, on fakes.

use std::collections::BTreeSet;

use super::*;
use crate::domain::{
    Alias, KeyRef,
    alias::MAX_ALIASES,
    grant::{Constraints, GrantSpec, MAX_GRANTS},
    time::DAY_MS,
};

fn key(alias: &str) -> KeyRef {
    alias.parse().unwrap()
}

fn name(alias: &str) -> Alias {
    alias.parse().unwrap()
}

fn grant(to: u32, operations: &[Operation]) -> GrantSpec {
    GrantSpec {
        name: None,
        grantee: Principal::Uid(to),
        retiring: None,
        operations: operations.iter().copied().collect(),
        constraints: Constraints::default(),
    }
}

async fn world_with_key() -> (World, Service) {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    (world, service)
}

/// K7: a grant counts at once, for what it lists and the context it is bound to, over a restart, until it is revoked.
#[tokio::test]
async fn k7_a_grant_counts_until_it_is_revoked() {
    let (world, service) = world_with_key().await;
    let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
    assert!(matches!(refusal(open(&service, &uid(2), &new.wrapped, "x").await), Refusal::NoSuchKey { .. }));
    let spec = GrantSpec {
        constraints: Constraints { equals: Some(context("x")), subset: None },
        ..grant(2, &[Operation::DecryptDatakey])
    };
    let (_, id) = service.create_grant(&uid(1), &key("a"), spec).await.unwrap();
    drop(service);
    let service = world.start().await;
    assert_eq!(*open(&service, &uid(2), &new.wrapped, "x").await.unwrap(), *new.plaintext);
    let other = datakey(&service, &uid(1), "a", "y").await.unwrap();
    let refused = refusal(open(&service, &uid(2), &other.wrapped, "y").await);
    assert!(matches!(refused, Refusal::NotPermitted { .. }), "{refused}");
    for refused in [
        refusal(datakey(&service, &uid(2), "a", "x").await),
        refusal(service.describe_key(&uid(2), &key("a")).await),
        refusal(service.disable_key(&uid(2), &key("a")).await),
        refusal(service.list_grants(&uid(2), &key("a")).await),
        refusal(service.revoke_grant(&uid(2), &key("a"), id).await),
        refusal(service.retire_grant(&uid(2), &key("a"), id).await),
    ] {
        assert!(matches!(refused, Refusal::NotPermitted { .. }), "{refused}");
    }
    assert!(service.list_keys(&uid(2), None).await.unwrap().is_empty());
    assert!(matches!(refusal(open(&service, &uid(3), &new.wrapped, "x").await), Refusal::NoSuchKey { .. }));

    service.revoke_grant(&uid(1), &key("a"), id).await.unwrap();
    assert!(matches!(refusal(open(&service, &uid(2), &new.wrapped, "x").await), Refusal::NoSuchKey { .. }));
    let again = refusal(service.revoke_grant(&uid(1), &key("a"), id).await);
    assert!(matches!(again, Refusal::NoSuchGrant { .. }));
}

/// K7: who holds a grant passes on no more than it gives, and not without `create-grant`.
#[tokio::test]
async fn k7_a_grant_is_passed_on_no_wider() {
    let (_world, service) = world_with_key().await;
    let both = [Operation::DecryptDatakey, Operation::CreateDatakey, Operation::CreateGrant];
    let tenant = Constraints { equals: None, subset: Some(context("x")) };
    let spec = GrantSpec { constraints: tenant.clone(), ..grant(2, &both) };
    service.create_grant(&uid(1), &key("a"), spec).await.unwrap();
    let narrow = GrantSpec { constraints: tenant.clone(), ..grant(3, &[Operation::DecryptDatakey]) };
    service.create_grant(&uid(2), &key("a"), narrow).await.unwrap();
    for wider in [
        grant(3, &[Operation::DecryptDatakey]),
        GrantSpec { constraints: tenant.clone(), ..grant(3, &[Operation::EncryptData]) },
        GrantSpec {
            constraints: Constraints { equals: Some(context("y")), subset: None },
            ..grant(3, &[Operation::DecryptDatakey])
        },
    ] {
        let refused = refusal(service.create_grant(&uid(2), &key("a"), wider).await);
        assert!(matches!(refused, Refusal::GrantTooWide { .. }), "{refused}");
    }
    let refused =
        refusal(service.create_grant(&uid(3), &key("a"), grant(4, &[Operation::DecryptDatakey])).await);
    assert!(matches!(refused, Refusal::NotPermitted { .. }));
    let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
    open(&service, &uid(3), &new.wrapped, "x").await.unwrap();
}

/// K7: a repeated request with a name is one grant; the number of grants is bounded; retirable ones are told to who may retire them.
#[tokio::test]
async fn k7_grants_are_counted() {
    let (_world, service) = world_with_key().await;
    let named = GrantSpec {
        name: Some("backup".into()),
        retiring: Some(Principal::Uid(9)),
        ..grant(2, &[Operation::DescribeKey])
    };
    let (_, first) = service.create_grant(&uid(1), &key("a"), named.clone()).await.unwrap();
    let (_, second) = service.create_grant(&uid(1), &key("a"), named).await.unwrap();
    assert_eq!(first, second);
    for _ in 1..MAX_GRANTS {
        service.create_grant(&uid(1), &key("a"), grant(3, &[Operation::DescribeKey])).await.unwrap();
    }
    let refused =
        refusal(service.create_grant(&uid(1), &key("a"), grant(3, &[Operation::DescribeKey])).await);
    assert!(matches!(refused, Refusal::TooManyGrants { limit: MAX_GRANTS, .. }));
    let ids: BTreeSet<_> = {
        let view = service.list_grants(&uid(1), &key("a")).await.unwrap();
        view.key.grants.iter().map(|grant| grant.id).collect()
    };
    assert_eq!(ids.len(), MAX_GRANTS);

    let retirable = service.list_retirable_grants(&uid(9), None).await.unwrap();
    assert_eq!(retirable.iter().map(|(_, grant)| grant.id).collect::<Vec<_>>(), [first]);
    assert!(service.list_retirable_grants(&uid(2), None).await.unwrap().is_empty());
    let nine = Principal::Uid(9);
    let refused = refusal(service.list_retirable_grants(&uid(2), Some(&nine)).await);
    assert!(matches!(refused, Refusal::NotAdministrator { .. }));
    assert_eq!(service.list_retirable_grants(&admin(), Some(&nine)).await.unwrap(), retirable);
    service.retire_grant(&uid(9), &key("a"), first).await.unwrap();
    assert!(service.list_retirable_grants(&uid(9), None).await.unwrap().is_empty());
}

/// K7: a policy is kept over a restart, read back as it was given, and removed.
#[tokio::test]
async fn k7_a_policy_counts_until_it_is_removed() {
    let (world, service) = world_with_key().await;
    let text = r#"{"Statement": [{"Effect": "Allow", "Principal": {"AWS": "uid:2"}, "Action": "kms:GenerateDataKey"}]}"#;
    service.set_key_policy(&uid(1), &key("a"), Some(text)).await.unwrap();
    drop(service);
    let service = world.start().await;
    datakey(&service, &uid(2), "a", "x").await.unwrap();
    assert_eq!(service.key_policy(&uid(1), &key("a")).await.unwrap(), text);
    assert!(matches!(refusal(service.key_policy(&uid(2), &key("a")).await), Refusal::NotPermitted { .. }));
    let bad = refusal(service.set_key_policy(&uid(1), &key("a"), Some("{}")).await);
    assert!(matches!(bad, Refusal::Policy(_)));
    assert_eq!(service.key_policy(&uid(1), &key("a")).await.unwrap(), text, "a refused one changes nothing");
    service.set_key_policy(&uid(1), &key("a"), None).await.unwrap();
    assert!(matches!(refusal(datakey(&service, &uid(2), "a", "x").await), Refusal::NoSuchKey { .. }));
    assert!(service.key_policy(&uid(1), &key("a")).await.unwrap().contains("uid:1"));
}

/// A key is found by each of its names, and a name goes on to another key whole.
#[tokio::test]
async fn aliases_stand_for_keys_and_move() {
    let (world, service) = world_with_key().await;
    let b = service.create_key(&uid(1), NewKey::named("b")).await.unwrap().key.id;
    service.create_alias(&uid(1), &key("a"), "current").await.unwrap();
    let new = datakey(&service, &uid(1), "current", "x").await.unwrap();
    let moved = service.associate_alias(&uid(1), &name("current"), &key("b")).await.unwrap();
    assert_eq!(moved.key, b);
    drop(service);
    let service = world.start().await;
    assert_eq!(datakey(&service, &uid(1), "alias/current", "x").await.unwrap().key, b);
    open(&service, &uid(1), &new.wrapped, "x").await.unwrap();
    let names = async |service: &Service, of: Option<&str>| -> Vec<String> {
        let of = of.map(key);
        let names = service.list_aliases(&uid(1), of.as_ref()).await.unwrap();
        names.into_iter().map(|named| named.alias.to_string()).collect()
    };
    assert_eq!(names(&service, Some("b")).await, ["b", "current"]);
    assert_eq!(names(&service, None).await, ["a", "b", "current"]);
    assert!(service.list_aliases(&uid(2), None).await.unwrap().is_empty());

    // Another user neither takes it away, nor moves it, nor learns of it.
    service.create_key(&uid(2), NewKey::named("c")).await.unwrap();
    for refused in [
        refusal(service.delete_alias(&uid(2), &name("current")).await),
        refusal(service.associate_alias(&uid(2), &name("current"), &key("c")).await),
    ] {
        assert_eq!(refused, Refusal::NoSuchAlias { alias: name("current") });
    }
    let refused = refusal(service.associate_alias(&uid(1), &name("current"), &key("c")).await);
    assert!(matches!(refused, Refusal::NoSuchKey { .. }));

    // A key's own name does not move; taken away, it leaves one that nobody would choose.
    let refused = refusal(service.associate_alias(&uid(1), &name("a"), &key("b")).await);
    assert!(matches!(refused, Refusal::AliasIsName { .. }));
    service.rename_key(&uid(1), &key("a"), "renamed").await.unwrap();
    assert!(matches!(refusal(service.describe_key(&uid(1), &key("a")).await), Refusal::NoSuchKey { .. }));
    assert!(matches!(
        refusal(service.rename_key(&uid(1), &key("b"), "renamed").await),
        Refusal::AliasTaken { .. }
    ));
    service.delete_alias(&uid(1), &name("renamed")).await.unwrap();
    service.delete_alias(&uid(1), &name("current")).await.unwrap();
    assert_eq!(names(&service, None).await, ["b"]);
    assert_eq!(service.list_keys(&uid(1), None).await.unwrap().len(), 2);
}

/// K3: nobody takes a name that is the system's, nor names a default key.
#[tokio::test]
async fn k3_names_of_default_keys_are_the_systems() {
    let (_world, service) = world_with_key().await;
    datakey(&service, &uid(1), "evs/default", "x").await.unwrap();
    for caller in [uid(1), admin()] {
        for taken in ["mine/default", "ims/default", "evs/default", "alias/x/default"] {
            let refused = refusal(service.create_alias(&caller, &key("a"), taken).await);
            assert!(matches!(refused, Refusal::AliasReserved { .. }), "{taken}: {refused}");
            let refused = refusal(service.rename_key(&caller, &key("a"), taken).await);
            assert!(matches!(refused, Refusal::AliasReserved { .. }), "{taken}: {refused}");
        }
        let default = key("evs/default");
        for refused in [
            refusal(service.rename_key(&caller, &default, "mine").await.map(drop)),
            refusal(service.create_alias(&caller, &default, "mine").await.map(drop)),
            refusal(service.delete_alias(&caller, &name("evs/default")).await),
            refusal(service.associate_alias(&caller, &name("evs/default"), &key("a")).await.map(drop)),
            refusal(service.set_key_policy(&caller, &default, None).await.map(drop)),
            refusal(
                service.create_grant(&caller, &default, grant(2, &[Operation::DescribeKey])).await.map(drop),
            ),
        ] {
            assert!(matches!(refused, Refusal::DefaultKey { .. }), "{refused}");
        }
    }
}

/// Names of a destroyed key are free; the number of aliases is bounded, also when many are made at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn aliases_are_bounded_and_go_with_their_key() {
    let (world, service) = world_with_key().await;
    let callers: Vec<_> = (0..MAX_ALIASES + 10)
        .map(|number| {
            let service = service.clone();
            let alias = format!("n{number}");
            tokio::spawn(async move { service.create_alias(&uid(1), &key("a"), &alias).await.is_ok() })
        })
        .collect();
    let mut made = 0;
    for caller in callers {
        made += usize::from(caller.await.unwrap());
    }
    assert_eq!(made, MAX_ALIASES);
    let refused = refusal(service.create_alias(&uid(1), &key("a"), "more").await);
    assert!(matches!(refused, Refusal::TooManyAliases { limit: MAX_ALIASES, .. }));
    service.schedule_deletion(&uid(1), &key("a"), "7").await.unwrap();
    world.clock.pass(7 * DAY_MS);
    service.tick().await;
    world.check_consistent(&service);
    assert!(service.list_aliases(&admin(), None).await.unwrap().is_empty());
    service.create_key(&uid(1), NewKey::named("n0")).await.unwrap();
}
