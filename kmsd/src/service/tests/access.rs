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
    service.create_alias(&uid(1), &key("a"), name("current")).await.unwrap();
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
            let refused = refusal(service.create_alias(&caller, &key("a"), name(taken)).await);
            assert!(matches!(refused, Refusal::AliasReserved { .. }), "{taken}: {refused}");
            let refused = refusal(service.rename_key(&caller, &key("a"), taken).await);
            assert!(matches!(refused, Refusal::AliasReserved { .. }), "{taken}: {refused}");
        }
        let default = key("evs/default");
        for refused in [
            refusal(service.rename_key(&caller, &default, "mine").await.map(drop)),
            refusal(service.create_alias(&caller, &default, name("mine")).await.map(drop)),
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
            let alias = name(&format!("n{number}"));
            tokio::spawn(async move { service.create_alias(&uid(1), &key("a"), alias).await.is_ok() })
        })
        .collect();
    let mut made = 0;
    for caller in callers {
        made += usize::from(caller.await.unwrap());
    }
    assert_eq!(made, MAX_ALIASES);
    let refused = refusal(service.create_alias(&uid(1), &key("a"), name("more")).await);
    assert!(matches!(refused, Refusal::TooManyAliases { limit: MAX_ALIASES, .. }));
    service.schedule_deletion(&uid(1), &key("a"), "7").await.unwrap();
    world.clock.pass(7 * DAY_MS);
    service.tick().await;
    world.check_consistent(&service);
    assert!(service.list_aliases(&admin(), None).await.unwrap().is_empty());
    service.create_key(&uid(1), NewKey::named("n0")).await.unwrap();
}

/// A name is the same one after a restart: with the prefix of aliases in it, or in the form of a URN, it would be another's. What an older version took of such names is taken
/// away at the start; the keys go by their ids, and a name that is somebody else's stays so.
#[tokio::test]
async fn names_that_read_as_other_ones() {
    use crate::domain::{alias::AliasRecord, id::InvalidAlias, registry::Change, time::WallTime};
    let (world, service) = world_with_key().await;
    let doubled = Refusal::AliasInvalid(InvalidAlias::Prefix);
    assert_eq!(refusal(service.create_key(&uid(2), NewKey::named("alias/alias/b")).await), doubled);
    assert_eq!(refusal(service.rename_key(&uid(1), &key("a"), "alias/alias/b").await), doubled);
    let urn = refusal(service.create_key(&uid(2), NewKey::named("kms:r:d:alias:a")).await);
    assert_eq!(urn, Refusal::AliasInvalid(InvalidAlias::Urn));
    let b = service.create_key(&uid(1), NewKey::named("b")).await.unwrap().key;
    // As an older version recorded them.
    let stored = |name: &str| Alias::stored(name).unwrap();
    let named = b.changed(|next| next.alias = stored("alias/a"));
    service.inner.writer.commit(Change::PutKey(named)).await.unwrap();
    let record = AliasRecord {
        alias: stored("kms:r:d:alias:a"),
        revision: 0,
        key: b.id,
        created_at: WallTime(1),
        updated_at: WallTime(1),
    };
    service.inner.writer.commit(Change::PutAlias(record)).await.unwrap();
    drop(service);
    for _ in 0..2 {
        let service = world.start().await;
        let names = service.list_aliases(&uid(1), None).await.unwrap();
        assert_eq!(names.iter().map(|named| named.alias.as_str()).collect::<Vec<_>>(), ["a"]);
        let a = service.describe_key(&uid(1), &key("a")).await.unwrap().key;
        assert_ne!(a.id, b.id);
        assert_eq!(datakey(&service, &uid(1), &b.id.to_string(), "x").await.unwrap().key, b.id);
        let records = service.audit_tail(&admin(), u64::MAX, 1000).await.unwrap();
        let cleared = records.iter().filter(|r| r.event.operation == "delete-alias").count();
        assert_eq!(cleared, 4, "intent and done of each, once");
    }
}

/// K7: a Deny with a condition is not got round by a grant: who it names passes nothing on of what it may forbid, by whatever right.
#[tokio::test]
async fn k7_a_conditional_deny_is_not_passed_round() {
    let (_world, service) = world_with_key().await;
    let text = r#"{"Statement": [
        {"Effect": "Allow", "Principal": {"AWS": "uid:2"}, "Action": "kms:*"},
        {"Effect": "Deny", "Principal": {"AWS": ["uid:2", "uid:4"]}, "Action": "kms:Decrypt",
         "Condition": {"StringEquals": {"kms:EncryptionContext:c": "secret"}}}]}"#;
    service.set_key_policy(&uid(1), &key("a"), Some(text)).await.unwrap();
    let new = datakey(&service, &uid(1), "a", "secret").await.unwrap();
    assert!(matches!(
        refusal(open(&service, &uid(2), &new.wrapped, "secret").await),
        Refusal::NotPermitted { .. }
    ));
    // By the policy.
    let wide = grant(3, &[Operation::DecryptDatakey]);
    let refused = refusal(service.create_grant(&uid(2), &key("a"), wide.clone()).await);
    assert!(matches!(refused, Refusal::GrantTooWide { .. }), "{refused}");
    service.create_grant(&uid(2), &key("a"), grant(3, &[Operation::CreateDatakey])).await.unwrap();
    // By a grant.
    let passed = grant(4, &[Operation::DecryptDatakey, Operation::CreateGrant]);
    service.create_grant(&uid(1), &key("a"), passed).await.unwrap();
    let refused = refusal(service.create_grant(&uid(4), &key("a"), wide.clone()).await);
    assert!(matches!(refused, Refusal::GrantTooWide { .. }), "{refused}");
    assert!(matches!(
        refusal(open(&service, &uid(3), &new.wrapped, "secret").await),
        Refusal::NotPermitted { .. }
    ));
    // Whom it does not name passes on what it has.
    let passed = grant(5, &[Operation::DecryptDatakey, Operation::CreateGrant]);
    service.create_grant(&uid(1), &key("a"), passed).await.unwrap();
    service.create_grant(&uid(5), &key("a"), wide).await.unwrap();
    open(&service, &uid(3), &new.wrapped, "secret").await.unwrap();
}

/// K7: a policy that lets somebody pass on little does not hide a grant that lets it pass on more, nor do the two add up to what neither gives.
#[tokio::test]
async fn k7_a_policy_does_not_hide_a_wider_grant() {
    let (_world, service) = world_with_key().await;
    let text = r#"{"Statement": [
        {"Effect": "Allow", "Principal": {"AWS": "uid:2"}, "Action": ["kms:CreateGrant", "kms:Encrypt"]}]}"#;
    service.set_key_policy(&uid(1), &key("a"), Some(text)).await.unwrap();
    let given = grant(2, &[Operation::DecryptDatakey, Operation::CreateGrant]);
    service.create_grant(&uid(1), &key("a"), given).await.unwrap();
    service.create_grant(&uid(2), &key("a"), grant(3, &[Operation::DecryptDatakey])).await.unwrap();
    service.create_grant(&uid(2), &key("a"), grant(4, &[Operation::EncryptData])).await.unwrap();
    let both = grant(5, &[Operation::DecryptDatakey, Operation::EncryptData]);
    let refused = refusal(service.create_grant(&uid(2), &key("a"), both).await);
    assert!(matches!(refused, Refusal::GrantTooWide { .. }), "{refused}");
}

/// K7: nobody fills the memory with grants: there is a bound for the keys of each owner and for all; and a destroyed key's are gone.
#[tokio::test]
async fn k7_grants_are_bounded_and_go_with_their_key() {
    let (world, service) = world_with_key().await;
    for (name, owner) in [("b", 1), ("c", 2)] {
        service.create_key(&uid(owner), NewKey::named(name)).await.unwrap();
    }
    let give = async |caller: Caller, name: &str, grantee| {
        service.create_grant(&caller, &key(name), grant(grantee, &[Operation::CreateDatakey])).await.map(drop)
    };
    for n in 0..120 {
        give(uid(1), if n < 100 { "a" } else { "b" }, 1000 + n).await.unwrap();
    }
    assert_eq!(refusal(give(uid(1), "b", 9).await), Refusal::TooManyGrantsOfOne { limit: 120 });
    for n in 0..39 {
        give(uid(2), "c", 1000 + n).await.unwrap();
    }
    give(admin(), "b", 9).await.unwrap();
    for caller in [uid(2), admin()] {
        assert_eq!(refusal(give(caller, "c", 9).await), Refusal::TooManyGrantsInAll { limit: 160 });
    }
    let id = service.describe_key(&uid(1), &key("a")).await.unwrap().key.id;
    service.schedule_deletion(&uid(1), &key("a"), "7").await.unwrap();
    world.clock.pass(8 * DAY_MS);
    service.tick().await;
    let destroyed = service.record_of(id).unwrap();
    let len = serde_json::to_string(&*destroyed).unwrap().len();
    assert!(destroyed.phase == Phase::Destroyed && len < 1024, "{len}");
    give(uid(1), "b", 10).await.unwrap();
}

/// K7, F3: nobody fills the store with anchors or keeps another from one: there is a bound for each and for all, who has one gives it back, and an
/// administrator hands one over.
#[tokio::test]
async fn k7_anchors_are_bounded_given_back_and_handed_over() {
    use crate::domain::anchor::Anchor;
    let (world, service) = world_with_key().await;
    let volume = |number: u8| uuid::Uuid::from_bytes([number; 16]);
    let anchor = |generation| Anchor { generation, chain_mac: [7; 32] };
    let advance = async |caller: Caller, number, generation| {
        service.advance_anchor(&caller, volume(number), anchor(generation)).await.map(drop)
    };
    for number in 1..=3 {
        advance(uid(1), number, 1).await.unwrap();
    }
    assert_eq!(refusal(advance(uid(1), 4, 1).await), Refusal::TooManyAnchorsOfOne { limit: 3 });
    let accepted = service.accept_rollback(&uid(1), volume(4), anchor(1), "").await;
    assert_eq!(refusal(accepted), Refusal::TooManyAnchorsOfOne { limit: 3 });
    advance(uid(1), 3, 2).await.unwrap();
    for number in 10..=14 {
        advance(admin(), number, 1).await.unwrap();
    }
    assert_eq!(refusal(advance(admin(), 15, 1).await), Refusal::TooManyAnchors { limit: 8 });
    assert_eq!(refusal(advance(uid(2), 15, 1).await), Refusal::TooManyAnchors { limit: 8 });

    // Given back.
    let not_permitted = Refusal::AnchorNotPermitted { volume: volume(1) };
    assert_eq!(refusal(service.forget_anchor(&uid(2), volume(1)).await), not_permitted);
    service.forget_anchor(&uid(1), volume(1)).await.unwrap();
    let absent = Refusal::NoSuchAnchor { volume: volume(1) };
    assert_eq!(refusal(service.forget_anchor(&uid(1), volume(1)).await), absent);
    advance(uid(2), 1, 9).await.unwrap();
    service.forget_anchor(&admin(), volume(10)).await.unwrap();

    // Somebody was first with the anchor of a volume that is another's.
    assert_eq!(refusal(advance(uid(2), 2, 5).await), Refusal::AnchorNotPermitted { volume: volume(2) });
    let to = Principal::Uid(2);
    let refused = refusal(service.hand_anchor_over(&uid(1), volume(2), to.clone()).await);
    assert!(matches!(refused, Refusal::NotAdministrator { .. }));
    service.hand_anchor_over(&admin(), volume(2), to).await.unwrap();
    advance(uid(2), 2, 5).await.unwrap();
    assert_eq!(refusal(advance(uid(1), 2, 6).await), Refusal::AnchorNotPermitted { volume: volume(2) });
    let records = service.audit_tail(&admin(), u64::MAX, 1000).await.unwrap();
    for (operation, lines) in [("forget-anchor", 8), ("hand-anchor-over", 4)] {
        assert_eq!(records.iter().filter(|r| r.event.operation == operation).count(), lines, "{operation}");
    }
    drop(service);
    let service = world.start().await;
    assert_eq!(service.anchor(&uid(2), volume(2)).await.unwrap(), Some(anchor(5)));
    assert_eq!(service.anchor(&uid(1), volume(10)).await.unwrap(), None);
}

/// K8: a client that hangs up does not leave a change of an anchor without its line.
#[tokio::test]
async fn k8_an_anchor_that_moved_has_its_line_though_nobody_waits() {
    use crate::domain::anchor::Anchor;
    let (world, service) = world_with_key().await;
    let volume = uuid::Uuid::from_bytes([7; 16]);
    let offered = Anchor { generation: 1, chain_mac: [7; 32] };
    {
        // Asked once, so that it has begun, and given up.
        let caller = uid(9);
        let mut moving = Box::pin(service.advance_anchor(&caller, volume, offered));
        let waker = std::task::Waker::noop();
        assert!(moving.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
    }
    // Until nothing is left to do: then it stands in the log as well.
    let operations = async || -> Vec<String> {
        let records = service.audit_tail(&admin(), u64::MAX, 1000).await.unwrap();
        records.iter().map(|r| r.event.operation.clone()).collect()
    };
    while service.anchor(&uid(9), volume).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    let started = std::time::Instant::now();
    while !operations().await.iter().any(|operation| operation == "advance-anchor") {
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "it moved and left no line");
        tokio::task::yield_now().await;
    }
    drop(service);
    drop(world);
}
