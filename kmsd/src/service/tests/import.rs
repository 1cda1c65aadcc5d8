//! Material comes, goes, expires and comes back (K6).

use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey,
};

use super::{doubtful::DoubtfulWorld, *};
use crate::{
    domain::{
        KeyId, KeyRef, KeyState,
        import::{OaepHash, RsaBits},
        operation::StateFault,
        state::Origin,
        time::{DAY_MS, WallTime},
    },
    hsm::{HsmError, fake::Fault},
};

const SHA256: OaepHash = OaepHash::Sha256;

fn wrap(public_key: &[u8], material: &[u8], hash: OaepHash) -> Vec<u8> {
    let key = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(public_key).unwrap()).unwrap();
    let algorithm = match hash {
        OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
    };
    let mut out = vec![0; key.ciphertext_size()];
    key.encrypt(algorithm, material, &mut out, None).unwrap().to_vec()
}

async fn external(service: &Service) -> KeyRef {
    let view =
        service.create_key(&uid(1), NewKey { origin: Origin::External, ..NewKey::named("a") }).await.unwrap();
    assert_eq!(view.key.state, KeyState::PendingImport);
    KeyRef::Id(view.key.id)
}

async fn import_of(
    service: &Service,
    key: &KeyRef,
    material: &[u8],
    expires: Option<WallTime>,
) -> Result<KeyId, ServiceError> {
    let made = service.import_parameters(&uid(1), key, SHA256, RsaBits::Rsa2048).await?;
    let wrapped = wrap(&made.public_key, material, SHA256);
    service.import_material(&uid(1), key, &made.token, wrapped, expires).await
}

async fn state(service: &Service, key: &KeyRef) -> KeyState {
    service.describe_key(&uid(1), key).await.unwrap().key.state
}

/// K6: the whole way, and the same material again; also on a token that makes a key beside the material.
#[tokio::test]
async fn k6_only_the_same_material_is_imported_again() {
    for world in [World::new(), World::with_halves()] {
        only_the_same_material_is_imported_again(world).await;
    }
}

async fn only_the_same_material_is_imported_again(world: World) {
    let service = world.start().await;
    let key = external(&service).await;
    let fault = |refusal| match refusal {
        Refusal::State { fault, .. } => fault,
        other => panic!("{other}"),
    };
    assert_eq!(fault(refusal(datakey(&service, &uid(1), "a", "x").await)), StateFault::NoMaterial);
    assert_eq!(fault(refusal(service.enable_key(&uid(1), &key).await)), StateFault::NoMaterial);
    import_of(&service, &key, &[7; 32], None).await.unwrap();
    assert_eq!(state(&service, &key).await, KeyState::Enabled);
    let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
    let refused = service.import_parameters(&uid(1), &key, SHA256, RsaBits::Rsa2048).await;
    assert_eq!(fault(refusal(refused)), StateFault::NotPendingImport);

    service.delete_material(&uid(1), &key).await.unwrap();
    assert!(world.token.objects().is_empty());
    world.check_consistent(&service);
    assert_eq!(fault(refusal(open(&service, &uid(1), &new.wrapped, "x").await)), StateFault::NoMaterial);

    let refused = import_of(&service, &key, &[8; 32], None).await;
    assert!(matches!(refusal(refused), Refusal::OtherMaterial { .. }));
    assert!(world.token.objects().is_empty(), "what was refused does not stay");
    assert_eq!(state(&service, &key).await, KeyState::PendingImport);
    import_of(&service, &key, &[7; 32], None).await.unwrap();
    assert_eq!(*open(&service, &uid(1), &new.wrapped, "x").await.unwrap(), *new.plaintext);
    assert_eq!(world.token.pairs(), 0, "pairs go with their offers");
    world.check_consistent(&service);
}

/// K6: what is not 256 bits, or was wrapped for another offer, is refused, and leaves nothing.
#[tokio::test]
async fn k6_what_does_not_unwrap_is_refused() {
    let world = World::new();
    let service = world.start().await;
    let key = external(&service).await;
    for len in [0, 16, 24, 31, 33, 64] {
        let refused = import_of(&service, &key, &vec![7; len], None).await;
        assert!(matches!(refusal(refused), Refusal::MaterialInvalid { .. }), "{len}");
    }
    let old = service.import_parameters(&uid(1), &key, SHA256, RsaBits::Rsa2048).await.unwrap();
    let new = service.import_parameters(&uid(1), &key, SHA256, RsaBits::Rsa2048).await.unwrap();
    assert_eq!(world.token.pairs(), 1, "the old offer is closed");
    let good = wrap(&new.public_key, &[7; 32], SHA256);
    for (token, wrapped) in [
        (&new.token, wrap(&old.public_key, &[7; 32], SHA256)),
        (&new.token, wrap(&new.public_key, &[7; 32], OaepHash::Sha1)),
        (&new.token, vec![7; 256]),
        (&new.token, good[1..].to_vec()),
        (&new.token, vec![]),
    ] {
        let refused = service.import_material(&uid(1), &key, token, wrapped, None).await;
        assert!(matches!(refusal(refused), Refusal::MaterialInvalid { .. }));
    }
    for token in [&old.token, &vec![], &vec![0; 19]] {
        let refused = service.import_material(&uid(1), &key, token, good.clone(), None).await;
        assert!(matches!(refusal(refused), Refusal::ImportTokenInvalid { .. }));
    }
    let past = Some(WallTime(ManualClock::START - 1));
    let refused = service.import_material(&uid(1), &key, &new.token, good.clone(), past).await;
    assert!(matches!(refusal(refused), Refusal::ParameterInvalid { name: "expiration_time", .. }));
    assert!(world.token.objects().is_empty());
    service.import_material(&uid(1), &key, &new.token, good.clone(), None).await.unwrap();
    world.check_consistent(&service);
    // Once it was used, the token is good for nothing.
    service.delete_material(&uid(1), &key).await.unwrap();
    let refused = service.import_material(&uid(1), &key, &new.token, good, None).await;
    assert!(matches!(refusal(refused), Refusal::ImportTokenInvalid { .. }));
}

/// K6: an offer is open for a day.
#[tokio::test]
async fn k6_an_offer_expires() {
    let world = World::new();
    let service = world.start().await;
    let key = external(&service).await;
    let made = service.import_parameters(&uid(1), &key, SHA256, RsaBits::Rsa2048).await.unwrap();
    assert_eq!(made.expires.0, ManualClock::START + DAY_MS);
    world.clock.pass(DAY_MS);
    let wrapped = wrap(&made.public_key, &[7; 32], SHA256);
    let refused = service.import_material(&uid(1), &key, &made.token, wrapped.clone(), None).await;
    assert!(matches!(refusal(refused), Refusal::ImportTokenExpired { .. }));
    service.tick().await;
    assert_eq!(world.token.pairs(), 0);
    let refused = service.import_material(&uid(1), &key, &made.token, wrapped, None).await;
    assert!(matches!(refusal(refused), Refusal::ImportTokenInvalid { .. }));
}

/// K6: material expires on its day, also while the service is down, and not when the clock leaps.
#[tokio::test]
async fn k6_material_expires_on_its_day_and_not_by_a_leap() {
    let world = World::new();
    let service = world.start().await;
    let key = external(&service).await;
    let day = WallTime(ManualClock::START + 10 * DAY_MS);
    import_of(&service, &key, &[7; 32], Some(day)).await.unwrap();
    assert_eq!(service.describe_key(&uid(1), &key).await.unwrap().material_expires, Some(day));
    let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
    world.clock.leap(3650 * DAY_MS);
    service.tick().await;
    assert_eq!(state(&service, &key).await, KeyState::Enabled);
    world.clock.leap(-3650 * DAY_MS);
    world.clock.pass(10 * DAY_MS - 1);
    service.tick().await;
    assert_eq!(state(&service, &key).await, KeyState::Enabled);
    drop(service);
    world.clock.pass(1);
    let service = world.start().await;
    service.tick().await;
    assert_eq!(state(&service, &key).await, KeyState::PendingImport);
    assert!(world.token.objects().is_empty());
    import_of(&service, &key, &[7; 32], None).await.unwrap();
    assert_eq!(*open(&service, &uid(1), &new.wrapped, "x").await.unwrap(), *new.plaintext);
    world.check_consistent(&service);
}

/// K6, K4: a key waits for its deletion, its material expires; cancelled, it waits for its material.
#[tokio::test]
async fn k4_material_that_expires_before_the_deletion() {
    let world = World::with_halves();
    let service = world.start().await;
    let key = external(&service).await;
    import_of(&service, &key, &[7; 32], Some(WallTime(ManualClock::START + DAY_MS))).await.unwrap();
    service.schedule_deletion(&uid(1), &key, "7").await.unwrap();
    world.clock.pass(DAY_MS);
    service.tick().await;
    assert!(world.token.objects().is_empty());
    assert_eq!(state(&service, &key).await, KeyState::PendingDeletion);
    let view = service.cancel_deletion(&uid(1), &key).await.unwrap();
    assert_eq!(view.key.state, KeyState::PendingImport);
    // A key that still waits for its material is deleted like any other, its open offer with it.
    service.import_parameters(&uid(1), &key, SHA256, RsaBits::Rsa2048).await.unwrap();
    service.schedule_deletion(&uid(1), &key, "7").await.unwrap();
    world.clock.pass(7 * DAY_MS);
    assert_eq!(world.token.halves().len(), 1);
    service.tick().await;
    assert!(world.token.pairs() == 0 && world.token.halves().is_empty());
    assert!(service.list_keys(&uid(1), None).await.unwrap().is_empty());
    world.check_consistent(&service);
}

/// K6: material that the token made is not removed: it would be lost.
#[tokio::test]
async fn k6_only_imported_material_is_removed() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("b")).await.unwrap();
    let refused = service.delete_material(&uid(1), &"b".parse().unwrap()).await;
    assert!(matches!(refusal(refused), Refusal::NotExternal { .. }));
    assert_eq!(world.token.objects().len(), 1);
    let key = external(&service).await;
    let refused = service.import_parameters(&uid(2), &key, SHA256, RsaBits::Rsa2048).await;
    assert!(matches!(refusal(refused), Refusal::NoSuchKey { .. }));
}

/// K6: of many who import at once, one does.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn k6_of_many_imports_at_once_one_is_done() {
    let world = World::new();
    let service = world.start().await;
    let key = external(&service).await;
    let made = service.import_parameters(&uid(1), &key, SHA256, RsaBits::Rsa2048).await.unwrap();
    let wrapped = wrap(&made.public_key, &[7; 32], SHA256);
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let (service, key, made, wrapped) = (service.clone(), key.clone(), made.clone(), wrapped.clone());
            tokio::spawn(async move {
                service.import_material(&uid(1), &key, &made.token, wrapped, None).await.is_ok()
            })
        })
        .collect();
    let mut done = 0;
    for caller in callers {
        done += usize::from(caller.await.unwrap());
    }
    assert_eq!(done, 1);
    world.check_consistent(&service);
}

/// K6: each call to the token fails in turn, for good or by a loss; what is acknowledged holds, and nothing is left behind.
#[tokio::test]
async fn k6_each_call_of_an_import_fails_in_turn() {
    for fault in [Fault::lost(false), Fault::lost(true), Fault::failed(false), Fault::failed(true)] {
        for index in 0..10 {
            let world = World::with_halves();
            let service = world.start().await;
            let key = external(&service).await;
            world.token.fail_call(index, fault.clone());
            let imported = import_of(&service, &key, &[7; 32], None).await.is_ok();
            world.token.clear_faults();
            service.tick().await;
            world.check_consistent(&service);
            let expected = if imported { KeyState::Enabled } else { KeyState::PendingImport };
            assert_eq!(state(&service, &key).await, expected, "{fault:?} {index}");
            if !imported {
                import_of(&service, &key, &[7; 32], None).await.unwrap();
            }
            datakey(&service, &uid(1), "a", "x").await.unwrap();
            world.token.fail_call(0, fault.clone());
            let _ = service.delete_material(&uid(1), &key).await;
            world.token.clear_faults();
            service.tick().await;
            assert_eq!(state(&service, &key).await, KeyState::PendingImport);
            assert!(world.token.objects().is_empty());
            drop(service);
            let service = world.start().await;
            assert!(world.token.pairs() <= 1, "no more than that of an open offer");
            world.check_consistent(&service);
        }
    }
}

/// K6: material that came after the scheduler had put down what to clear away is not cleared away; nor is any while it comes or goes.
#[tokio::test]
async fn k6_material_that_came_meanwhile_is_not_cleared_away() {
    use crate::service::flight::{Flight, Work};
    let world = World::new();
    let service = world.start().await;
    let key = external(&service).await;
    import_of(&service, &key, &[7; 32], None).await.unwrap();
    let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
    quiet(&service).await;
    world.token.fail_call(0, Fault::failed(false));
    service.delete_material(&uid(1), &key).await.unwrap_err();
    world.token.clear_faults();
    let due = service.due();
    assert_eq!(due.len(), 1);
    let id = due[0].1.id;
    let flight = Flight::alone(&service, id, Work::Material).unwrap();
    service.attend(due[0].0, &due[0].1).await;
    assert_eq!(world.token.objects().len(), 1, "somebody is at work on it");
    let refused = refusal(service.delete_material(&uid(1), &key).await);
    assert!(matches!(refused, Refusal::ImportUnderWay { .. } | Refusal::State { .. }), "{refused}");
    drop(flight);
    import_of(&service, &key, &[7; 32], None).await.unwrap();
    service.attend(due[0].0, &due[0].1).await;
    world.check_consistent(&service);
    open(&service, &uid(1), &new.wrapped, "x").await.unwrap();
    let flight = Flight::alone(&service, id, Work::Material).unwrap();
    let refused = refusal(service.delete_material(&uid(1), &key).await);
    assert!(matches!(refused, Refusal::ImportUnderWay { .. }), "{refused}");
    drop(flight);
    service.delete_material(&uid(1), &key).await.unwrap();
    assert!(world.token.objects().is_empty());
}

/// K6: the store is put back to before the first import, or into the midst of it, and the token has the material: the key takes that one only, and what was wrapped
/// since opens when it has come. Deleted, the key leaves nothing in the token.
#[tokio::test]
async fn k6_material_that_a_restored_store_does_not_know_is_recognised() {
    for (has_halves, is_arriving, is_deleted) in [
        (true, false, false),
        (true, true, false),
        (false, false, false),
        (false, true, false),
        (true, false, true),
    ] {
        let world = if has_halves { World::with_halves() } else { World::new() };
        let service = world.start().await;
        let key = external(&service).await;
        let mut older = world.store.copy();
        if is_arriving {
            let made = service.import_parameters(&uid(1), &key, SHA256, RsaBits::Rsa2048).await.unwrap();
            quiet(&service).await;
            world.token.fail_call(0, Fault::failed(true));
            world.token.fail_call(1, Fault::failed(false));
            let wrapped = wrap(&made.public_key, &[7; 32], SHA256);
            service.import_material(&uid(1), &key, &made.token, wrapped, None).await.unwrap_err();
            world.token.clear_faults();
            older = world.store.copy();
            service.tick().await;
        }
        import_of(&service, &key, &[7; 32], None).await.unwrap();
        let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
        service.save_note().await.unwrap();
        drop(service);

        world.store.put_back(&older);
        let service = world.start_with(true).await.unwrap();
        assert_eq!(world.token.objects().len(), 1, "what may be in use was destroyed");
        assert_eq!(state(&service, &key).await, KeyState::PendingImport);
        if is_deleted {
            service.schedule_deletion(&uid(1), &key, "7").await.unwrap();
            world.clock.pass(7 * DAY_MS);
            service.tick().await;
            assert!(world.token.objects().is_empty() && world.token.halves().is_empty());
            continue;
        }
        let refused = refusal(import_of(&service, &key, &[8; 32], None).await);
        assert!(matches!(refused, Refusal::OtherMaterial { .. }), "{refused}");
        import_of(&service, &key, &[7; 32], None).await.unwrap();
        open(&service, &uid(1), &new.wrapped, "x").await.unwrap();
        world.check_consistent(&service);
        let records = service.audit_tail(&admin(), u64::MAX, 1000).await.unwrap();
        let noted = records.iter().filter(|record| record.event.operation == "recognise-material").count();
        assert_eq!(noted, 2, "intent and done");
    }
}

/// K6: a restored store knows of an import under way and of an expiry that may both be of the past: neither destroys anything in the token that day.
#[tokio::test]
async fn k6_a_restored_store_destroys_no_material() {
    let world = World::new();
    let service = world.start().await;
    let day = WallTime(ManualClock::START + 2 * DAY_MS);
    let key = external(&service).await;
    import_of(&service, &key, &[7; 32], Some(day)).await.unwrap();
    let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
    let expiring = world.store.copy();
    service.delete_material(&uid(1), &key).await.unwrap();
    // Copied between the intent to import and its confirmation: the token dies amid it.
    let made = service.import_parameters(&uid(1), &key, SHA256, RsaBits::Rsa2048).await.unwrap();
    let wrapped = wrap(&made.public_key, &[7; 32], SHA256);
    quiet(&service).await;
    world.token.fail_call(0, Fault::failed(true));
    world.token.fail_call(1, Fault::failed(false));
    service.import_material(&uid(1), &key, &made.token, wrapped, None).await.unwrap_err();
    world.token.clear_faults();
    let arriving = world.store.copy();
    service.tick().await;
    import_of(&service, &key, &[7; 32], None).await.unwrap();
    service.save_note().await.unwrap();
    drop(service);
    let had = world.token.objects();
    assert_eq!(had.len(), 1);

    world.store.put_back(&arriving);
    let service = world.start_with(true).await.unwrap();
    service.tick().await;
    assert_eq!(world.token.objects(), had, "what may be in use was destroyed");
    assert_eq!(state(&service, &key).await, KeyState::PendingImport);
    import_of(&service, &key, &[7; 32], None).await.unwrap();
    open(&service, &uid(1), &new.wrapped, "x").await.unwrap();
    world.check_consistent(&service);
    service.save_note().await.unwrap();
    drop(service);

    world.store.put_back(&expiring);
    world.clock.pass(3 * DAY_MS);
    let service = world.start_with(true).await.unwrap();
    service.tick().await;
    assert_eq!(world.token.objects(), had, "an expiry of the past destroyed what may be in use");
    world.clock.pass(7 * DAY_MS);
    service.tick().await;
    assert!(world.token.objects().is_empty());
}

/// K6: the process dies at every effect; the key has its material, wholly and checked, or waits for it. What was wrapped before opens again.
#[tokio::test]
async fn k6_a_crash_while_material_comes_or_goes() {
    for before in [false, true] {
        let mut deaths = 0;
        for last_takes_place in [false, true] {
            for index in 0..26 {
                let world = World::with_halves();
                let service = world.start().await;
                let key = external(&service).await;
                let mut wrapped = None;
                if before {
                    import_of(&service, &key, &[7; 32], None).await.unwrap();
                    wrapped = Some(datakey(&service, &uid(1), "a", "x").await.unwrap());
                    service.delete_material(&uid(1), &key).await.unwrap();
                }
                let power = Power::until(index, last_takes_place);
                world.set_power(&power);
                let imported = import_of(&service, &key, &[7; 32], None).await.is_ok();
                let deleted = imported && service.delete_material(&uid(1), &key).await.is_ok();
                drop(service);
                world.set_power(&Power::default());
                deaths += usize::from(power.is_spent());
                let service = world.start().await;
                service.tick().await;
                world.check_consistent(&service);
                match state(&service, &key).await {
                    KeyState::Enabled => {
                        assert!(!deleted, "what was acknowledged to be deleted is there again");
                    }
                    KeyState::PendingImport => {
                        assert!(world.token.objects().is_empty());
                        import_of(&service, &key, &[7; 32], None).await.unwrap();
                    }
                    other => panic!("{other}"),
                }
                datakey(&service, &uid(1), "a", "x").await.unwrap();
                if let Some(old) = wrapped {
                    assert_eq!(*open(&service, &uid(1), &old.wrapped, "x").await.unwrap(), *old.plaintext);
                }
            }
        }
        assert!(deaths >= 20, "{deaths}");
    }
}

/// K6: the token has lost what it made beside the material. Another would open nothing of what was wrapped: none is made, and the error says what is missing.
#[tokio::test]
async fn k6_without_what_was_made_beside_it_material_is_not_taken_again() {
    let world = World::with_halves();
    let service = world.start().await;
    let key = external(&service).await;
    let id = import_of(&service, &key, &[7; 32], None).await.unwrap();
    service.delete_material(&uid(1), &key).await.unwrap();
    let object = ObjectId { key: id, version: crate::domain::import::VERSION };
    world.token.lose_half(object);
    let refused = import_of(&service, &key, &[7; 32], None).await;
    assert!(
        matches!(refused, Err(ServiceError::Hsm(HsmError::NoMacKey { object: found })) if found == object)
    );
    assert!(world.token.objects().is_empty() && world.token.halves().is_empty());
    assert_eq!(state(&service, &key).await, KeyState::PendingImport);
}

/// K6: material that may be in service, because nobody knows whether a commit took place, is not destroyed, nor is what stands beside it.
#[tokio::test]
async fn k6_material_whose_record_is_in_doubt_is_not_destroyed() {
    let world = DoubtfulWorld::new(FakeToken::with_halves());
    let service = world.start(true).await;
    let key = external(&service).await;
    let made = service.import_parameters(&uid(1), &key, SHA256, RsaBits::Rsa2048).await.unwrap();
    let wrapped = wrap(&made.public_key, &[7; 32], SHA256);
    // The intent, then the confirmation.
    world.doubt(1);
    service.import_material(&uid(1), &key, &made.token, wrapped, None).await.unwrap_err();
    quiet(&service).await;
    drop(service);
    let service = world.start(false).await;
    assert_eq!(state(&service, &key).await, KeyState::Enabled);
    let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
    assert_eq!(*open(&service, &uid(1), &new.wrapped, "x").await.unwrap(), *new.plaintext);
}

/// Until the token is at work on that call, which takes its time.
async fn until_called(world: &World, call: &str) {
    let started = std::time::Instant::now();
    while !world.token.log().contains(&call) {
        assert!(started.elapsed() < Duration::from_secs(20), "{call} is not called");
        tokio::task::yield_now().await;
    }
}

/// K6: while the token unwraps material, another import into the same key is turned away, and costs the first one nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k6_a_second_import_does_not_disturb_the_first() {
    let world = World::with_halves();
    let service = world.start().await;
    let key = external(&service).await;
    let made = service.import_parameters(&uid(1), &key, SHA256, RsaBits::Rsa2048).await.unwrap();
    world.token.set_delay(Duration::from_millis(50));
    let first = tokio::spawn({
        let (service, key, token) = (service.clone(), key.clone(), made.token.clone());
        let wrapped = wrap(&made.public_key, &[7; 32], SHA256);
        async move { service.import_material(&uid(1), &key, &token, wrapped, None).await }
    });
    until_called(&world, "import").await;
    let second = service.import_material(&uid(1), &key, &made.token, vec![7; 256], None).await;
    assert!(matches!(refusal(second), Refusal::ImportUnderWay { .. }));
    first.await.unwrap().unwrap();
    world.token.set_delay(Duration::ZERO);
    world.check_consistent(&service);
    datakey(&service, &uid(1), "a", "x").await.unwrap();
}

/// K6: material that is being imported or deleted is left alone by the scheduler, and whoever asked for it is told that it was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k6_the_scheduler_keeps_off_material_that_comes_or_goes() {
    let world = World::with_halves();
    let service = world.start().await;
    let key = external(&service).await;
    for call in ["import", "remove material"] {
        let made = match call {
            "import" => {
                Some(service.import_parameters(&uid(1), &key, SHA256, RsaBits::Rsa2048).await.unwrap())
            }
            _ => None,
        };
        world.token.set_delay(Duration::from_millis(30));
        let changing = tokio::spawn({
            let (service, key) = (service.clone(), key.clone());
            async move {
                match made {
                    Some(made) => {
                        let wrapped = wrap(&made.public_key, &[7; 32], SHA256);
                        service.import_material(&uid(1), &key, &made.token, wrapped, None).await
                    }
                    None => service.delete_material(&uid(1), &key).await,
                }
            }
        });
        until_called(&world, call).await;
        while !changing.is_finished() {
            service.tick().await;
        }
        changing.await.unwrap().unwrap();
        world.token.set_delay(Duration::ZERO);
        world.check_consistent(&service);
    }
}

/// K6: making RSA pairs takes the token long. Whoever asks for many takes no more than one session with that, so that data keys are opened meanwhile; and of one
/// key there is one offer at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k6_offers_do_not_hold_up_the_use_of_keys() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("used")).await.unwrap();
    let new = datakey(&service, &uid(1), "used", "x").await.unwrap();
    for n in 0..4 {
        let name = format!("x{n}");
        let external = NewKey { origin: Origin::External, ..NewKey::named(&name) };
        service.create_key(&uid(1), external).await.unwrap();
    }
    quiet(&service).await;
    world.token.slow("make pair", Duration::from_millis(500));
    let made = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut offers = tokio::task::JoinSet::new();
    for n in 0..12 {
        let (service, made) = (service.clone(), Arc::clone(&made));
        let key = format!("x{}", n % 4).parse().unwrap();
        offers.spawn(async move {
            let offer = service.import_parameters(&uid(1), &key, SHA256, RsaBits::Rsa2048).await;
            made.fetch_add(usize::from(offer.is_ok()), std::sync::atomic::Ordering::SeqCst);
            offer.map(drop)
        });
    }
    while world.token.slow_at_once() == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        open(&service, &uid(1), &new.wrapped, "x").await.unwrap();
    }
    // Four pairs take two seconds, one after the other; each of these would have waited for one.
    assert!(made.load(std::sync::atomic::Ordering::SeqCst) < 4);
    for offer in offers.join_all().await {
        assert!(
            matches!(offer, Ok(()) | Err(ServiceError::Refused(Refusal::ImportUnderWay { .. }))),
            "{offer:?}"
        );
    }
    assert!(made.load(std::sync::atomic::Ordering::SeqCst) >= 4);
    assert_eq!(world.token.slow_at_once(), 1);
}
