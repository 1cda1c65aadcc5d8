//! K2, K3, K4 and K7 as a caller sees them.

use super::*;
use crate::domain::{DEFAULT_KEYS, KeyState, operation::StateFault, time::DAY_MS};

/// K2: a wrapped data key opens with the same key and context, and with nothing else.
#[tokio::test]
async fn k2_a_data_key_is_bound_to_key_and_context() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    service.create_key(&uid(1), NewKey::named("b")).await.unwrap();
    let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
    assert_eq!(new.plaintext.len(), 32);
    assert_eq!(*open(&service, &uid(1), &new.wrapped, "x").await.unwrap(), *new.plaintext);
    assert!(matches!(refusal(open(&service, &uid(1), &new.wrapped, "y").await), Refusal::DoesNotOpen { .. }));

    // Under another key: by the caller's word, and by a forged header.
    let other = "b".parse().unwrap();
    let result = service.decrypt_datakey(&uid(1), Some(&other), &new.wrapped, &context("x")).await;
    assert!(matches!(refusal(result), Refusal::OtherKey { .. }));
    let b = service.describe_key(&uid(1), &other).await.unwrap().key.id;
    let mut forged = new.wrapped.clone();
    forged[5..21].copy_from_slice(b.as_bytes());
    assert!(matches!(refusal(open(&service, &uid(1), &forged, "x").await), Refusal::DoesNotOpen { .. }));
}

/// K2: every changed byte of the wrapped form is refused.
#[tokio::test]
async fn k2_every_changed_byte_is_refused() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
    for at in 0..new.wrapped.len() {
        for bit in [1, 0x80] {
            let mut changed = new.wrapped.clone();
            changed[at] ^= bit;
            refusal(open(&service, &uid(1), &changed, "x").await);
        }
        refusal(open(&service, &uid(1), &new.wrapped[..at], "x").await);
    }
    let mut longer = new.wrapped.clone();
    longer.push(0);
    refusal(open(&service, &uid(1), &longer, "x").await);
}

/// K3: a hundred callers are first at once, and there is one default key.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn k3_a_hundred_first_callers_make_one_default_key() {
    let world = World::new();
    let service = world.start().await;
    for alias in DEFAULT_KEYS {
        let callers: Vec<_> = (0..100)
            .map(|n| {
                let service = service.clone();
                tokio::spawn(async move { datakey(&service, &uid(n), alias, "x").await.unwrap().key })
            })
            .collect();
        let mut ids = Vec::new();
        for caller in callers {
            ids.push(caller.await.unwrap());
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "{alias}");
    }
    assert_eq!(world.token.objects().len(), 2);
    world.check_consistent(&service);
}

/// K3: a default key is looked at and used by everyone, and managed by nobody.
#[tokio::test]
async fn k3_a_default_key_cannot_be_managed() {
    let world = World::new();
    let service = world.start().await;
    datakey(&service, &uid(1), "evs/default", "x").await.unwrap();
    let key = "alias/evs/default".parse().unwrap();
    assert!(service.describe_key(&uid(2), &key).await.unwrap().key.is_default);
    for caller in [uid(1), admin()] {
        for result in [
            service.disable_key(&caller, &key).await,
            service.enable_key(&caller, &key).await,
            service.schedule_deletion(&caller, &key, "7").await,
            service.cancel_deletion(&caller, &key).await,
        ] {
            assert!(matches!(refusal(result), Refusal::DefaultKey { .. }));
        }
    }
    for name in ["evs/default", "mine/default", "alias/x/default"] {
        let result = service.create_key(&admin(), NewKey::named(name)).await;
        assert!(matches!(refusal(result), Refusal::AliasReserved { .. }), "{name}");
    }
}

/// K4: the way through the states, and what each refuses.
#[tokio::test]
async fn k4_the_way_through_the_states() {
    let world = World::new();
    let service = world.start().await;
    let owner = uid(1);
    service.create_key(&owner, NewKey::named("a")).await.unwrap();
    let key = "a".parse().unwrap();
    let new = datakey(&service, &owner, "a", "x").await.unwrap();
    let fault = |refusal| match refusal {
        Refusal::State { fault, .. } => fault,
        other => panic!("{other}"),
    };
    assert_eq!(fault(refusal(service.enable_key(&owner, &key).await)), StateFault::NotDisabled);

    assert_eq!(service.disable_key(&owner, &key).await.unwrap().key.state, KeyState::Disabled);
    assert_eq!(fault(refusal(open(&service, &owner, &new.wrapped, "x").await)), StateFault::Disabled);
    assert_eq!(fault(refusal(service.disable_key(&owner, &key).await)), StateFault::NotEnabled);
    for days in ["6", "1097", "0", "-7", "x", "7.5", ""] {
        let refused = refusal(service.schedule_deletion(&owner, &key, days).await);
        assert!(matches!(refused, Refusal::DeletionPeriod { .. }), "{days}");
    }
    let view = service.schedule_deletion(&owner, &key, "7").await.unwrap();
    assert_eq!(view.key.state, KeyState::PendingDeletion);
    assert_eq!(view.deletion_date.unwrap().0, ManualClock::START + 7 * DAY_MS);
    assert_eq!(fault(refusal(open(&service, &owner, &new.wrapped, "x").await)), StateFault::PendingDeletion);

    assert_eq!(service.cancel_deletion(&owner, &key).await.unwrap().key.state, KeyState::Disabled);
    service.enable_key(&owner, &key).await.unwrap();
    assert_eq!(*open(&service, &owner, &new.wrapped, "x").await.unwrap(), *new.plaintext);
}

/// K4: when the day comes the key is gone, and its name is free.
#[tokio::test]
async fn k4_the_day_comes() {
    let world = World::new();
    let service = world.start().await;
    let owner = uid(1);
    service.create_key(&owner, NewKey::named("a")).await.unwrap();
    let new = datakey(&service, &owner, "a", "x").await.unwrap();
    service.schedule_deletion(&owner, &"a".parse().unwrap(), "7").await.unwrap();
    world.clock.pass(7 * DAY_MS - 1);
    service.tick().await;
    assert_eq!(world.token.objects().len(), 1);
    world.clock.pass(1);
    service.tick().await;
    assert!(world.token.objects().is_empty());
    world.check_consistent(&service);
    assert!(matches!(refusal(open(&service, &owner, &new.wrapped, "x").await), Refusal::Destroyed { .. }));
    assert!(service.list_keys(&owner, None).await.unwrap().is_empty());
    service.create_key(&owner, NewKey::named("a")).await.unwrap();
    assert!(matches!(refusal(open(&service, &owner, &new.wrapped, "x").await), Refusal::Destroyed { .. }));
}

/// K4: it comes also while the service is down, and not early when the clock leaps.
#[tokio::test]
async fn k4_the_day_comes_while_the_service_is_down_and_not_by_a_leap() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    service.schedule_deletion(&uid(1), &"a".parse().unwrap(), "7").await.unwrap();
    world.clock.leap(3650 * DAY_MS);
    service.tick().await;
    assert!(service.health().scheduler.clock_distrusted);
    drop(service);
    let service = world.start().await;
    service.tick().await;
    assert_eq!(world.token.objects().len(), 1);
    world.clock.leap(-3650 * DAY_MS);
    drop(service);
    world.clock.pass(8 * DAY_MS);
    let service = world.start().await;
    service.tick().await;
    assert!(world.token.objects().is_empty());
    world.check_consistent(&service);
}

/// K7: who does not own a key is not told of it, and cannot use it.
#[tokio::test]
async fn k7_a_key_of_another_user_does_not_exist() {
    let world = World::new();
    let service = world.start().await;
    let id = service.create_key(&uid(1), NewKey::named("a")).await.unwrap().key.id;
    let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
    let unknown = |key: &str| Refusal::NoSuchKey { key: key.to_owned() };
    for name in ["a".to_owned(), id.to_string()] {
        let key = name.parse().unwrap();
        assert_eq!(refusal(service.describe_key(&uid(2), &key).await), unknown(&name));
        assert_eq!(refusal(service.disable_key(&uid(2), &key).await), unknown(&name));
        assert_eq!(refusal(datakey(&service, &uid(2), &name, "x").await), unknown(&name));
    }
    assert_eq!(refusal(open(&service, &uid(2), &new.wrapped, "x").await), unknown(&id.to_string()));
    assert!(service.list_keys(&uid(2), None).await.unwrap().is_empty());
    // The same words as for a key that is not there.
    assert_eq!(refusal(service.describe_key(&uid(2), &"b".parse().unwrap()).await), unknown("b"));
    assert_eq!(service.list_keys(&admin(), None).await.unwrap().len(), 1);
    open(&service, &admin(), &new.wrapped, "x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn names_are_unique_also_when_many_ask_at_once() {
    let world = World::new();
    let service = world.start().await;
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { service.create_key(&uid(1), NewKey::named("a")).await.is_ok() })
        })
        .collect();
    let mut made = 0;
    for caller in callers {
        made += usize::from(caller.await.unwrap());
    }
    assert_eq!(made, 1);
    world.check_consistent(&service);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_change_a_state_at_once_one_does() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { service.disable_key(&uid(1), &"a".parse().unwrap()).await.is_ok() })
        })
        .collect();
    let mut done = 0;
    for caller in callers {
        done += usize::from(caller.await.unwrap());
    }
    assert_eq!(done, 1);
}

#[tokio::test]
async fn keys_are_bounded_and_default_keys_are_not_counted_out() {
    let world = World::new();
    let service = world.start().await;
    // Not counted, though it is there first.
    datakey(&service, &uid(1), "evs/default", "x").await.unwrap();
    for n in 0..100 {
        let caller = uid(if n < 60 { 1 } else { 2 });
        service.create_key(&caller, NewKey::named(&format!("k{n}"))).await.unwrap();
        if n == 59 {
            let refused = refusal(service.create_key(&caller, NewKey::named("more")).await);
            assert_eq!(refused, Refusal::TooManyKeysOfOne { limit: 60 });
            assert_eq!(service.key_quota(&caller), (60, 60));
        }
    }
    assert_eq!((service.key_quota(&uid(2)), service.key_quota(&admin())), ((40, 60), (100, 100)));
    for caller in [uid(2), admin()] {
        let refused = refusal(service.create_key(&caller, NewKey::named("more")).await);
        assert_eq!(refused, Refusal::TooManyKeys { limit: 100 });
    }
    datakey(&service, &uid(1), "ims/default", "x").await.unwrap();
    // Whoever has one destroyed may make another.
    let key = "k0".parse().unwrap();
    service.schedule_deletion(&uid(1), &key, "7").await.unwrap();
    assert!(service.create_key(&uid(1), NewKey::named("more")).await.is_err(), "it is not destroyed yet");
    world.clock.pass(8 * crate::domain::time::DAY_MS);
    service.tick().await;
    service.create_key(&uid(1), NewKey::named("more")).await.unwrap();
}

/// However many ask at once, there are no more keys than may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_are_bounded_when_many_are_made_at_once() {
    let world = World::new();
    let service = world.start().await;
    let callers: Vec<_> = (0..120)
        .map(|n| {
            let service = service.clone();
            tokio::spawn(
                async move { service.create_key(&uid(1), NewKey::named(&format!("k{n}"))).await.is_ok() },
            )
        })
        .collect();
    let mut made = 0;
    for caller in callers {
        made += usize::from(caller.await.unwrap());
    }
    assert_eq!((made, service.key_quota(&uid(1))), (60, (60, 60)));
    world.check_consistent(&service);
}

/// K3: the first attempt made the object and could neither confirm nor undo it, since the disk was full: the next makes no second one beside it.
#[tokio::test]
async fn k3_a_default_key_that_could_not_be_confirmed_is_made_once() {
    let world = World::new();
    let service = world.start().await;
    world.store.refuse([false, true, true]);
    assert!(datakey(&service, &uid(1), "evs/default", "x").await.is_err());
    let objects = world.token.objects();
    assert_eq!(objects.len(), 1, "made, and not cleared away");
    datakey(&service, &uid(1), "evs/default", "x").await.unwrap();
    assert_eq!(world.token.objects(), objects);
    assert!(objects.values().all(|copies| *copies == 1));
    world.check_consistent(&service);
}

/// K7, K8: a stranger to a key causes no commit; and a date that cannot be recorded leaves a record of that.
#[tokio::test]
async fn k8_a_clock_that_cannot_be_recorded_is_part_of_the_operation() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    let key = "a".parse().unwrap();
    let commit = service.inner.writer.epoch();
    refusal(service.schedule_deletion(&uid(2), &key, "7").await);
    refusal(service.enable_rotation(&uid(2), &key, 90).await);
    assert_eq!(service.inner.writer.epoch(), commit);
    for _ in 0..2 {
        world.store.refuse([true]);
        service.schedule_deletion(&uid(1), &key, "7").await.unwrap_err();
        world.store.refuse([true]);
        service.enable_rotation(&uid(1), &key, 90).await.unwrap_err();
    }
    let records = service.audit_tail(&admin(), u64::MAX, 1000).await.unwrap();
    let failed = records.iter().filter(|r| r.event.outcome.as_deref() == Some("KMS.0102")).count();
    assert_eq!(failed, 4, "{records:?}");
    assert_eq!(service.inner.writer.epoch(), commit);
    // The clock is there before the date.
    world.clock.pass(5000);
    service.schedule_deletion(&uid(1), &key, "7").await.unwrap();
    assert_eq!(service.inner.writer.epoch(), commit + 2);
}
