//! What the scheduler does while others are at work on the same keys.

use super::{
    super::{lifecycle::Flight, schedule::Due},
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
    let flight = Flight::alone(&service, object.key).unwrap();
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
