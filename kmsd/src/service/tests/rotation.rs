//! K5: new wraps use the newest version, every older one opens, by whatever way the newest came about.

use super::{doubtful::DoubtfulWorld, *};
use crate::{
    domain::{
        KeyRef, KeyState,
        envelope::{Envelope, Purpose},
        rotation::{Cause, MAX_ON_DEMAND},
        time::DAY_MS,
    },
    hsm::fake::Fault,
};

fn key(alias: &str) -> KeyRef {
    alias.parse().unwrap()
}

fn version(wrapped: &[u8]) -> u32 {
    Envelope::decode(wrapped, Purpose::DataKey).unwrap().header.version.number()
}

async fn causes(service: &Service) -> Vec<Cause> {
    let view = service.describe_key(&uid(1), &key("a")).await.unwrap();
    view.key.versions.iter().map(|v| v.cause).collect()
}

/// K5: after each rotation the newest version wraps, and all that was wrapped before still opens, also after a restart.
#[tokio::test]
async fn k5_the_newest_version_wraps_and_every_older_one_opens() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    let mut wrapped = Vec::new();
    for number in 1..=4 {
        let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
        assert_eq!(version(&new.wrapped), number);
        wrapped.push(new);
        service.rotate_key(&uid(1), &key("a")).await.unwrap();
    }
    world.check_consistent(&service);
    assert_eq!(world.token.objects().len(), 5);
    drop(service);
    let service = world.start().await;
    for new in &wrapped {
        assert_eq!(*open(&service, &uid(1), &new.wrapped, "x").await.unwrap(), *new.plaintext);
    }
    // Wrapped anew under the same key, a data key is under the newest version.
    let context = context("x");
    let source = crate::service::Source { wrapped: &wrapped[0].wrapped, expected: None, context: &context };
    let moved = service.re_encrypt(&uid(1), source, &key("a"), &context).await.unwrap();
    assert_eq!(version(&moved.wrapped), 5);
    assert_eq!(*open(&service, &uid(1), &moved.wrapped, "x").await.unwrap(), *wrapped[0].plaintext);
}

/// K4, K5: when the day comes every version is destroyed.
#[tokio::test]
async fn k4_every_version_is_destroyed() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    let old = datakey(&service, &uid(1), "a", "x").await.unwrap();
    for _ in 0..3 {
        service.rotate_key(&uid(1), &key("a")).await.unwrap();
    }
    assert_eq!(world.token.objects().len(), 4);
    service.schedule_deletion(&uid(1), &key("a"), "7").await.unwrap();
    world.clock.pass(7 * DAY_MS);
    service.tick().await;
    assert!(world.token.objects().is_empty());
    world.check_consistent(&service);
    assert!(matches!(refusal(open(&service, &uid(1), &old.wrapped, "x").await), Refusal::Destroyed { .. }));
}

/// K5: the scheduler rotates what is due, neither earlier nor twice; a disabled key when it is enabled again.
#[tokio::test]
async fn k5_rotation_by_interval() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    let view = service.enable_rotation(&uid(1), &key("a"), 30).await.unwrap();
    let due = view.next_rotation.unwrap().0 - crate::clock::manual::ManualClock::START;
    assert_eq!(due, 30 * DAY_MS);
    service.tick().await;
    world.clock.pass(30 * DAY_MS - 1);
    service.tick().await;
    assert_eq!(causes(&service).await, [Cause::Creation]);
    world.clock.pass(1);
    for _ in 0..3 {
        service.tick().await;
    }
    assert_eq!(causes(&service).await, [Cause::Creation, Cause::Interval]);

    service.disable_key(&uid(1), &key("a")).await.unwrap();
    world.clock.pass(100 * DAY_MS);
    service.tick().await;
    assert_eq!(causes(&service).await.len(), 2);
    service.enable_key(&uid(1), &key("a")).await.unwrap();
    for _ in 0..3 {
        service.tick().await;
    }
    assert_eq!(causes(&service).await.len(), 3);

    service.set_rotation_interval(&uid(1), &key("a"), 60).await.unwrap();
    world.clock.pass(59 * DAY_MS);
    service.tick().await;
    assert_eq!(causes(&service).await.len(), 3);
    service.disable_rotation(&uid(1), &key("a")).await.unwrap();
    world.clock.pass(2 * DAY_MS);
    service.tick().await;
    assert_eq!(causes(&service).await.len(), 3);
    world.check_consistent(&service);
}

/// K5: what came due while the service was down is done after the start; a clock that leaps ahead rotates nothing.
#[tokio::test]
async fn k5_rotation_after_downtime_and_not_by_a_leap() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    service.enable_rotation(&uid(1), &key("a"), 30).await.unwrap();
    world.clock.leap(3650 * DAY_MS);
    service.tick().await;
    assert_eq!(causes(&service).await.len(), 1);
    world.clock.leap(-3650 * DAY_MS);
    drop(service);
    world.clock.pass(31 * DAY_MS);
    let service = world.start().await;
    service.tick().await;
    assert_eq!(causes(&service).await, [Cause::Creation, Cause::Interval]);
}

/// K5: of many who rotate at once each either made a version of its own or was told that another one was at it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn k5_many_rotate_at_once() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { service.rotate_key(&uid(1), &key("a")).await })
        })
        .collect();
    let mut made = 0;
    for caller in callers {
        match caller.await.unwrap() {
            Ok(_) => made += 1,
            Err(ServiceError::Refused(
                Refusal::RotationUnderWay { .. } | Refusal::TooManyRotations { .. },
            )) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!((1..=MAX_ON_DEMAND).contains(&made), "{made}");
    assert_eq!(causes(&service).await.len(), made + 1);
    world.check_consistent(&service);
}

/// K5: a change of the key's state in the midst of a rotation is kept, and so is the new version.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn k5_a_state_change_amid_a_rotation_is_kept() {
    for _ in 0..20 {
        let world = World::new();
        let service = world.start().await;
        service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
        let (rotating, disabling) = (service.clone(), service.clone());
        let rotated = tokio::spawn(async move { rotating.rotate_key(&uid(1), &key("a")).await.is_ok() });
        let disabled = tokio::spawn(async move { disabling.disable_key(&uid(1), &key("a")).await });
        disabled.await.unwrap().unwrap();
        let rotated = rotated.await.unwrap();
        let view = service.describe_key(&uid(1), &key("a")).await.unwrap();
        assert_eq!(view.key.state, KeyState::Disabled);
        assert_eq!(view.key.versions.len(), 1 + usize::from(rotated));
        world.check_consistent(&service);
    }
}

/// K5: a rotation that fails in the token, before or after it took effect there, leaves the key as it was.
#[tokio::test]
async fn k5_a_failed_rotation_leaves_the_key_as_it_was() {
    for done in [false, true] {
        let world = World::new();
        let service = world.start().await;
        service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
        let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
        quiet(&service).await;
        // After the look for a number that is free.
        world.token.fail_call(1, Fault::failed(done));
        service.rotate_key(&uid(1), &key("a")).await.unwrap_err();
        world.token.clear_faults();
        world.check_consistent(&service);
        assert_eq!(causes(&service).await, [Cause::Creation]);
        assert_eq!(*open(&service, &uid(1), &new.wrapped, "x").await.unwrap(), *new.plaintext);
        service.rotate_key(&uid(1), &key("a")).await.unwrap();
        assert_eq!(version(&datakey(&service, &uid(1), "a", "x").await.unwrap().wrapped), 2);
        world.check_consistent(&service);
    }
}

/// K5: a rotation that is due and fails is tried again later, not each second.
#[tokio::test]
async fn k5_a_failed_rotation_by_interval_is_tried_again_later() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    service.enable_rotation(&uid(1), &key("a"), 30).await.unwrap();
    world.clock.pass(30 * DAY_MS);
    quiet(&service).await;
    world.token.fail_call(1, Fault::failed(false));
    service.tick().await;
    world.token.clear_faults();
    for _ in 0..3 {
        service.tick().await;
    }
    assert_eq!(causes(&service).await.len(), 1);
    world.clock.pass(10 * 60 * 1000);
    service.tick().await;
    assert_eq!(causes(&service).await.len(), 2);
    world.check_consistent(&service);
}

/// K5: nothing is destroyed in the token on the word of a record that may not be what the store says.
#[tokio::test]
async fn k5_a_version_whose_record_is_in_doubt_is_not_destroyed() {
    // The intent, then the confirmation.
    for commit in [0, 1] {
        let world = DoubtfulWorld::new(FakeToken::new());
        let service = world.start(true).await;
        service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
        let old = datakey(&service, &uid(1), "a", "x").await.unwrap();
        world.doubt(commit);
        service.rotate_key(&uid(1), &key("a")).await.unwrap_err();
        // Nobody else holds the store open then.
        quiet(&service).await;
        drop(service);
        let service = world.start(false).await;
        let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
        assert_eq!(i64::from(version(&new.wrapped)), 1 + commit);
        assert_eq!(world.token.objects().len(), usize::try_from(1 + commit).unwrap());
        open(&service, &uid(1), &old.wrapped, "x").await.unwrap();
    }
}
