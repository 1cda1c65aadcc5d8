//! The process dies at every effect on store and token in turn; then it starts again.

use super::{doubtful::DoubtfulWorld, *};
use crate::domain::{key::SharedKey, time::DAY_MS};

/// More effects than any operation here has.
const EFFECTS: i64 = 12;

/// Runs `work` with a death at every effect, and `check` after each restart. Returns how many deaths there were.
async fn at_every_effect<W, C>(prepare: impl AsyncFn(&Service, &World), work: W, check: C) -> usize
where
    W: AsyncFn(&Service, &World) -> bool,
    C: AsyncFn(&Service, &World, bool),
{
    let mut deaths = 0;
    for last_takes_place in [false, true] {
        for index in 0..EFFECTS {
            let world = World::new();
            let service = world.start().await;
            prepare(&service, &world).await;
            let power = Power::until(index, last_takes_place);
            world.set_power(&power);
            let acknowledged = work(&service, &world).await;
            drop(service);
            world.set_power(&Power::default());
            deaths += usize::from(power.is_spent());
            let service = world.start().await;
            world.check_consistent(&service);
            check(&service, &world, acknowledged).await;
            // A second start finds nothing left to do.
            drop(service);
            let calls = world.token.log().len();
            let service = world.start().await;
            let idle = ["open session", "inventory", "pairs", "notes", "derive", "put note"];
            assert!(
                world.token.log()[calls..].iter().all(|call| idle.contains(call)),
                "{:?}",
                world.token.log()
            );
            world.check_consistent(&service);
        }
    }
    deaths
}

/// K4: an acknowledged key is there after a crash, a key that was not acknowledged is there wholly or not at all.
#[tokio::test]
async fn k4_a_crash_while_a_key_is_made() {
    let deaths = at_every_effect(
        async |_, _| {},
        async |service, _| service.create_key(&uid(1), NewKey::named("a")).await.is_ok(),
        async |service, _, acknowledged| {
            let there = !service.list_keys(&uid(1), None).await.unwrap().is_empty();
            assert!(there || !acknowledged, "an acknowledged key is lost");
            if there {
                let new = datakey(service, &uid(1), "a", "x").await.unwrap();
                open(service, &uid(1), &new.wrapped, "x").await.unwrap();
            } else {
                service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
            }
        },
    )
    .await;
    assert!(deaths >= 6, "{deaths}");
}

/// K3: exactly one default key, whatever moment the first attempt died in.
#[tokio::test]
async fn k3_a_crash_while_a_default_key_is_made() {
    at_every_effect(
        async |_, _| {},
        async |service, _| datakey(service, &uid(1), "evs/default", "x").await.is_ok(),
        async |service, world, _| {
            datakey(service, &uid(1), "evs/default", "x").await.unwrap();
            assert_eq!(world.token.objects().len(), 1);
        },
    )
    .await;
}

/// K4: a crash in a destruction leaves neither half a key nor an orphan.
#[tokio::test]
async fn k4_a_crash_while_a_key_is_destroyed() {
    let deaths = at_every_effect(
        async |service, world| {
            service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
            service.schedule_deletion(&uid(1), &"a".parse().unwrap(), "7").await.unwrap();
            world.clock.pass(7 * DAY_MS);
        },
        async |service, _| {
            service.tick().await;
            true
        },
        async |service, world, _| {
            service.tick().await;
            assert!(world.token.objects().is_empty());
            world.check_consistent(service);
        },
    )
    .await;
    assert!(deaths >= 6, "{deaths}");
}

/// K4: an acknowledged change of state survives.
#[tokio::test]
async fn k4_a_crash_while_a_state_changes() {
    at_every_effect(
        async |service, _| drop(service.create_key(&uid(1), NewKey::named("a")).await.unwrap()),
        async |service, _| service.disable_key(&uid(1), &"a".parse().unwrap()).await.is_ok(),
        async |service, _, acknowledged| {
            let usable = datakey(service, &uid(1), "a", "x").await.is_ok();
            assert!(!usable || !acknowledged, "an acknowledged disable is lost");
        },
    )
    .await;
}

/// K5: a crash amid a rotation leaves the key with the old version or the new one in service, what was wrapped opens, and no orphan.
#[tokio::test]
async fn k5_a_crash_while_a_key_is_rotated() {
    use crate::domain::envelope::{Envelope, Purpose};
    let wrapped = std::sync::Mutex::new(Vec::new());
    let deaths = at_every_effect(
        async |service, _| {
            service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
            *wrapped.lock().unwrap() = datakey(service, &uid(1), "a", "x").await.unwrap().wrapped;
        },
        async |service, _| service.rotate_key(&uid(1), &"a".parse().unwrap()).await.is_ok(),
        async |service, world, acknowledged| {
            let new = datakey(service, &uid(1), "a", "x").await.unwrap();
            let version = Envelope::decode(&new.wrapped, Purpose::DataKey).unwrap().header.version.number();
            assert!(version == 2 || (version == 1 && !acknowledged), "{version}");
            assert_eq!(world.token.objects().len(), usize::try_from(version).unwrap());
            let old = wrapped.lock().unwrap().clone();
            open(service, &uid(1), &old, "x").await.unwrap();
            service.rotate_key(&uid(1), &"a".parse().unwrap()).await.unwrap();
            world.check_consistent(service);
            open(service, &uid(1), &old, "x").await.unwrap();
            open(service, &uid(1), &new.wrapped, "x").await.unwrap();
        },
    )
    .await;
    assert!(deaths >= 6, "{deaths}");
}

/// A world in which process and token died after the token had begun a version and before the record confirmed it. The token has half of it.
async fn died_with_half_a_version<T>(
    prepare: impl AsyncFn(&Service) -> T,
    work: impl AsyncFn(&Service),
) -> (World, ObjectId, T) {
    // Which effect it is depends on which thread opens its session when.
    for index in (0..EFFECTS).cycle().take(1000) {
        let world = World::new();
        let service = world.start().await;
        let prepared = prepare(&service).await;
        world.set_power(&Power::until(index, false));
        work(&service).await;
        let unconfirmed = {
            let registry = service.inner.writer.registry().read();
            let of = |key: &SharedKey| Some(ObjectId { key: key.id, version: key.intended()? });
            registry.keys().find_map(of)
        };
        drop(service);
        world.set_power(&Power::default());
        if let Some(object) = unconfirmed.filter(|object| world.token.objects().contains_key(object)) {
            world.token.tear(object);
            return (world, object, prepared);
        }
    }
    panic!("no death left a version half made");
}

/// K4: nobody was told of half a key: it is given up, and the next start has nothing left to do.
#[tokio::test]
async fn k4_half_a_key_is_given_up_at_the_start() {
    let (world, _, ()) = died_with_half_a_version(
        async |_| {},
        async |service| drop(service.create_key(&uid(1), NewKey::named("a")).await),
    )
    .await;
    for _ in 0..2 {
        let service = world.start().await;
        world.check_consistent(&service);
        assert!(service.list_keys(&uid(1), None).await.unwrap().is_empty());
    }
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    datakey(&service, &uid(1), "a", "x").await.unwrap();
}

/// K5: the same for a version: the key stays, with what it wrapped before.
#[tokio::test]
async fn k5_half_a_version_is_given_up_at_the_start() {
    let (world, _, old) = died_with_half_a_version(
        async |service| {
            service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
            datakey(service, &uid(1), "a", "x").await.unwrap()
        },
        async |service| drop(service.rotate_key(&uid(1), &"a".parse().unwrap()).await),
    )
    .await;
    for _ in 0..2 {
        let service = world.start().await;
        world.check_consistent(&service);
        assert_eq!(world.token.objects().len(), 1);
    }
    let service = world.start().await;
    assert_eq!(*open(&service, &uid(1), &old.wrapped, "x").await.unwrap(), *old.plaintext);
    datakey(&service, &uid(1), "a", "x").await.unwrap();
    service.rotate_key(&uid(1), &"a".parse().unwrap()).await.unwrap();
    datakey(&service, &uid(1), "a", "x").await.unwrap();
    world.check_consistent(&service);
}

/// K4: a store that was put back does not know what has become of the key since: nothing of it is destroyed while it is served.
#[tokio::test]
async fn k4_half_a_key_of_a_restored_store_is_left_alone() {
    let (world, object, ()) = died_with_half_a_version(
        async |service| drop(service.create_key(&uid(1), NewKey::named("other")).await.unwrap()),
        async |service| drop(service.create_key(&uid(1), NewKey::named("a")).await),
    )
    .await;
    let older = world.store.copy();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("b")).await.unwrap();
    service.save_note().await.unwrap();
    drop(service);
    world.store.put_back(&older);
    world.token.tear(object);
    assert!(matches!(world.try_start().await.err(), Some(StartError::OlderStore { .. })));
    let service = world.start_with(true).await.unwrap();
    service.tick().await;
    assert!(world.token.objects().contains_key(&object));
}

/// K5: the same without a restart: the scheduler clears away what is left, and nothing that was wrapped is lost.
#[tokio::test]
async fn k5_a_rotation_that_failed_half_way_is_cleared_away_in_time() {
    for last_takes_place in [false, true] {
        for index in 0..EFFECTS {
            let world = World::new();
            let service = world.start().await;
            service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
            let old = datakey(&service, &uid(1), "a", "x").await.unwrap();
            let power = Power::until(index, last_takes_place);
            world.set_power(&power);
            let acknowledged = service.rotate_key(&uid(1), &"a".parse().unwrap()).await.is_ok();
            world.set_power(&Power::default());
            service.tick().await;
            world.check_consistent(&service);
            assert!(!acknowledged || world.token.objects().len() == 2);
            open(&service, &uid(1), &old.wrapped, "x").await.unwrap();
            datakey(&service, &uid(1), "a", "x").await.unwrap();
        }
    }
}

/// K7: an acknowledged grant is there after a crash, and an acknowledged revocation stays.
#[tokio::test]
async fn k7_a_crash_while_a_grant_is_made_or_revoked() {
    use crate::domain::grant::{Constraints, GrantSpec};
    let spec = || GrantSpec {
        name: Some("g".into()),
        grantee: Principal::Uid(2),
        retiring: None,
        operations: [Operation::CreateDatakey].into(),
        constraints: Constraints::default(),
    };
    at_every_effect(
        async |service, _| drop(service.create_key(&uid(1), NewKey::named("a")).await.unwrap()),
        async |service, _| service.create_grant(&uid(1), &"a".parse().unwrap(), spec()).await.is_ok(),
        async |service, _, acknowledged| {
            let usable = datakey(service, &uid(2), "a", "x").await.is_ok();
            assert!(usable || !acknowledged, "an acknowledged grant is lost");
        },
    )
    .await;
    at_every_effect(
        async |service, _| {
            service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
            service.create_grant(&uid(1), &"a".parse().unwrap(), spec()).await.unwrap();
        },
        async |service, _| {
            let key = "a".parse().unwrap();
            let id = service.list_grants(&uid(1), &key).await.unwrap().key.grants[0].id;
            service.revoke_grant(&uid(1), &key, id).await.is_ok()
        },
        async |service, _, acknowledged| {
            let usable = datakey(service, &uid(2), "a", "x").await.is_ok();
            assert!(!usable || !acknowledged, "an acknowledged revocation is lost");
        },
    )
    .await;
}

/// A crash while an alias moves leaves it with the one key or the other.
#[tokio::test]
async fn a_crash_while_an_alias_moves() {
    at_every_effect(
        async |service, _| {
            for name in ["a", "b"] {
                service.create_key(&uid(1), NewKey::named(name)).await.unwrap();
            }
            service.create_alias(&uid(1), &"a".parse().unwrap(), "n".parse().unwrap()).await.unwrap();
        },
        async |service, _| {
            let (alias, target) = ("n".parse().unwrap(), "b".parse().unwrap());
            service.associate_alias(&uid(1), &alias, &target).await.is_ok()
        },
        async |service, _, acknowledged| {
            let named = service.describe_key(&uid(1), &"n".parse().unwrap()).await.unwrap();
            let stands_for = named.key.alias.as_str();
            assert!(stands_for == "b" || (stands_for == "a" && !acknowledged), "{stands_for}");
        },
    )
    .await;
}

/// F3: an acknowledged anchor survives.
#[tokio::test]
async fn f3_a_crash_while_an_anchor_moves() {
    use crate::domain::anchor::Anchor;
    let volume = uuid::Uuid::from_bytes([1; 16]);
    let anchor = |generation| Anchor { generation, chain_mac: [7; 32] };
    at_every_effect(
        async |service, _| {
            service.advance_anchor(&uid(1), volume, anchor(1)).await.unwrap();
        },
        async |service, _| service.advance_anchor(&uid(1), volume, anchor(2)).await.is_ok(),
        async |service, _, acknowledged| {
            let stands = service.anchor(&uid(1), volume).await.unwrap().unwrap().generation;
            assert!(stands == 2 || (stands == 1 && !acknowledged), "{stands}");
            let refused = refusal(service.advance_anchor(&uid(1), volume, anchor(0)).await);
            assert!(matches!(refused, Refusal::AnchorBehind { .. }));
        },
    )
    .await;
}

/// A failed attempt is cleared away without a restart, too.
#[tokio::test]
async fn what_failed_half_way_is_cleared_away_in_time() {
    for last_takes_place in [false, true] {
        for index in 0..EFFECTS {
            let world = World::new();
            let service = world.start().await;
            let power = Power::until(index, last_takes_place);
            world.set_power(&power);
            let acknowledged = service.create_key(&uid(1), NewKey::named("a")).await.is_ok();
            world.set_power(&Power::default());
            service.tick().await;
            world.check_consistent(&service);
            let there = !service.list_keys(&uid(1), None).await.unwrap().is_empty();
            assert!(there || !acknowledged);
        }
    }
}

/// K4: nothing is destroyed in the token on the word of a record that may not be what the store says.
#[tokio::test]
async fn k4_a_key_whose_record_is_in_doubt_is_not_destroyed() {
    // The intent, then the confirmation.
    for commit in [0, 1] {
        let world = DoubtfulWorld::new(FakeToken::new());
        let service = world.start(true).await;
        world.doubt(commit);
        service.create_key(&uid(1), NewKey::named("a")).await.unwrap_err();
        // Nobody else holds the store open then.
        quiet(&service).await;
        drop(service);
        let service = world.start(false).await;
        if commit == 0 {
            service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
        }
        assert_eq!(world.token.objects().len(), 1);
        let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
        open(&service, &uid(1), &new.wrapped, "x").await.unwrap();
    }
}
