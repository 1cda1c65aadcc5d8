//! What the scheduler does while others are at work on the same keys.

use super::{
    super::{
        flight::{Flight, Work},
        schedule::Due,
    },
    *,
};
use crate::{domain::KeyRef, hsm::fake::Fault};

fn key(alias: &str) -> KeyRef {
    alias.parse().unwrap()
}

/// A key whose rotation failed, and so did clearing its new version away: the token has it, the record intends it.
async fn half_rotated(world: &World, service: &Service) -> ObjectId {
    let view = service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    quiet(service).await;
    // After the look for a number that is free.
    world.token.fail_call(1, Fault::failed(true));
    world.token.fail_call(2, Fault::failed(false));
    service.rotate_key(&uid(1), &key("a")).await.unwrap_err();
    world.token.clear_faults();
    let version = service.record_of(view.key.id).unwrap().intended().unwrap();
    let object = ObjectId { key: view.key.id, version };
    assert!(world.token.objects().contains_key(&object));
    object
}

/// K5: while somebody has taken the rotation up, the scheduler neither destroys the version nor takes its intent back, though it had put that down as due.
#[tokio::test]
async fn k5_a_version_that_somebody_took_up_is_not_cleared_away() {
    let world = World::new();
    let service = world.start().await;
    let object = half_rotated(&world, &service).await;
    let due = service.due();
    assert!(matches!(due.as_slice(), [(Due::UndoingRotation, _)]));
    let flight = Flight::alone(&service, object.key, Work::Rotation).unwrap();
    service.attend(due[0].0, &due[0].1).await;
    assert!(world.token.objects().contains_key(&object));
    assert_eq!(service.record_of(object.key).unwrap().intended(), Some(object.version));
    drop(flight);
    service.rotate_key(&uid(1), &key("a")).await.unwrap();
    let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
    service.attend(due[0].0, &due[0].1).await;
    open(&service, &uid(1), &new.wrapped, "x").await.unwrap();
    world.check_consistent(&service);
    assert!(service.due().is_empty());
}

/// K5: what nobody takes up is cleared away.
#[tokio::test]
async fn k5_a_version_that_nobody_took_up_is_cleared_away() {
    let world = World::new();
    let service = world.start().await;
    let object = half_rotated(&world, &service).await;
    service.tick().await;
    assert!(!world.token.objects().contains_key(&object));
    world.check_consistent(&service);
}

/// K5: a rotation that is asked for while the scheduler clears the key up comes after it, and is not told that somebody rotates it.
#[tokio::test]
async fn k5_a_rotation_waits_for_the_scheduler() {
    let world = World::new();
    let service = world.start().await;
    let object = half_rotated(&world, &service).await;
    let clearing = Flight::alone(&service, object.key, Work::ClearingUp).unwrap();
    let asker = service.clone();
    let rotation = tokio::spawn(async move { asker.rotate_key(&uid(1), &key("a")).await });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(!rotation.is_finished());
    drop(clearing);
    rotation.await.unwrap().unwrap();
    world.check_consistent(&service);
}

/// What a caller is told who does not get a key, by what is done with it.
#[tokio::test]
async fn a_key_that_is_not_to_be_had_is_refused_with_what_is_true() {
    let world = World::new();
    let service = world.start().await;
    let view = service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    let (id, name) = (view.key.id, view.key.name());
    for (work, refused) in [
        (Work::Rotation, Refusal::RotationUnderWay { key: name.clone() }),
        (Work::Material, Refusal::ImportUnderWay { key: name.clone() }),
        (Work::Making, Refusal::Unfinished { key: name.clone() }),
        (Work::ClearingUp, Refusal::Unfinished { key: name.clone() }),
        (Work::LeftAlone, Refusal::HalfMade { key: name.clone() }),
    ] {
        let flight = Flight::alone(&service, id, work).unwrap();
        let waited = Flight::turn(&service, id, Work::Rotation, Duration::from_millis(1)).await;
        assert_eq!(waited.err().map(|other| other.refusal(name.clone())), Some(refused));
        drop(flight);
    }
    service.rotate_key(&uid(1), &key("a")).await.unwrap();
}

/// However much is due at once, a tick comes to its end in time, and the next ones do the rest.
#[tokio::test]
async fn k4_a_tick_ends_in_time() {
    let world = World::new();
    let service = world.start().await;
    for n in 0..40 {
        let name = format!("k{n}");
        service.create_key(&uid(1), NewKey::named(&name)).await.unwrap();
        service.schedule_deletion(&uid(1), &key(&name), "7").await.unwrap();
    }
    quiet(&service).await;
    world.clock.pass(8 * crate::domain::time::DAY_MS);
    world.token.set_delay(Duration::from_millis(10));
    service.tick_within(Duration::from_millis(100)).await;
    let left = world.token.objects().len();
    assert!((20..40).contains(&left), "{left}");
    world.token.set_delay(Duration::ZERO);
    service.tick().await;
    assert!(world.token.objects().is_empty());
    world.check_consistent(&service);
}

/// What the token refuses is tried again less and less often: each try of a destruction is two records.
#[tokio::test]
async fn k4_what_fails_is_tried_again_less_and_less_often() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    service.schedule_deletion(&uid(1), &key("a"), "7").await.unwrap();
    quiet(&service).await;
    world.clock.pass(7 * crate::domain::time::DAY_MS);
    let refused =
        crate::hsm::HsmError::Failed { function: "C_DestroyObject".into(), code: "ActionProhibited".into() };
    world.token.refuse("destroy", Some(refused));
    let tries = async || {
        let records = service.audit_tail(&admin(), u64::MAX, 10_000).await.unwrap();
        records.iter().filter(|r| r.event.operation == "destroy-key" && r.event.outcome.is_some()).count()
    };
    for _ in 0..60 {
        service.tick().await;
        world.clock.pass(1000);
    }
    let first = tries().await;
    assert!((4..=7).contains(&first), "{first}");
    for _ in 0..60 {
        service.tick().await;
        world.clock.pass(60_000);
    }
    let later = tries().await - first;
    assert!((6..=10).contains(&later), "{later}");
    world.token.refuse("destroy", None);
    world.clock.pass(600_000);
    service.tick().await;
    assert!(world.token.objects().is_empty());
    world.check_consistent(&service);
}
