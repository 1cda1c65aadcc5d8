//! The store's integrity key, and files that are put back.

use std::{fs, path::PathBuf};

use super::*;
use crate::{
    audit::{self, AuditError},
    domain::{
        KeyVersion,
        audit::ChainKey,
        integrity::IntegrityKey,
        state::KeyState,
        time::{DAY_MS, TrustedTime},
    },
    service::audit_purpose,
    store::Store,
};

impl World {
    fn epoch(&self) -> u64 {
        self.store.clone().load().unwrap().epoch
    }

    /// As `kmsd audit archive` does it.
    fn archive_log(&self) {
        let mut session = self.token.open().unwrap();
        let key_of = |number| Ok(ChainKey::new(*session.derive(&audit_purpose(number), false).unwrap()));
        let log = self.audit.path().join("audit");
        audit::archive::<AuditError>(&log, None, key_of, Arc::clone(&self.clock) as _).unwrap().unwrap();
    }
}

/// A store under a key that was replaced is not served, whatever commit it claims: whoever has the old key could have written it.
#[tokio::test]
async fn a_store_under_a_replaced_key_is_not_served_unasked() {
    let mut world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    assert_eq!(service.rekey_store().await.unwrap(), 2);
    let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
    drop(service);
    world.start().await;
    // Forged: newer than anything that the token was told of, but under the key before.
    world.store.rekey(1, IntegrityKey::new([0; 32])).unwrap();
    let refused = world.try_start().await.err();
    assert!(matches!(refused, Some(StartError::ReplacedKey { found: 1, newest: 2 })), "{refused:?}");
    let service = world.start_with(true).await.unwrap();
    open(&service, &uid(1), &new.wrapped, "x").await.unwrap();
    let records = service.audit_tail(&admin(), u64::MAX, 1000).await.unwrap();
    let rekeyed = records.iter().filter(|r| r.event.operation == "rekey-store").count();
    assert_eq!(rekeyed, 4, "intent and done, twice");
    drop(service);
    // It was given a key of its own at once, so that it needs no acceptance again.
    assert_eq!(world.store.key_number().unwrap(), 3);
    world.start().await;
}

/// K8: the log's newest start knows how far the store was, though the token was put back too and knows no better.
#[tokio::test]
async fn k8_an_older_store_is_known_by_the_log_though_the_token_is_older_too() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    service.save_note().await.unwrap();
    let (older, note) = (world.store.copy(), world.token.note());
    service.disable_key(&uid(1), &"a".parse().unwrap()).await.unwrap();
    drop(service);
    drop(world.start().await);
    // What the record of that start said goes on in the one that the log begins with after it was archived.
    world.archive_log();
    world.store.put_back(&older);
    world.token.set_note(note);
    let refused = world.try_start().await.err();
    assert!(matches!(refused, Some(StartError::OlderStore { .. })), "{refused:?}");
    let service = world.start_with(true).await.unwrap();
    assert_eq!(service.audit_verify(&admin()).await.unwrap().fault, None);
    drop(service);
    world.start().await;
}

/// K4: store and token are put back to before a key was destroyed. The audit log knows of it, also when it was archived
/// since: the key is destroyed again.
#[tokio::test]
async fn k4_what_was_destroyed_stays_so_though_store_and_token_are_put_back() {
    for archivings in 0..3 {
        destroyed_stays_destroyed(archivings).await;
    }
}

async fn destroyed_stays_destroyed(archivings: usize) {
    let world = World::new();
    let service = world.start().await;
    for name in ["a", "b"] {
        service.create_key(&uid(1), NewKey::named(name)).await.unwrap();
    }
    let older = world.store.copy();
    let before = world.token.objects();
    let left = world.destroy(service, "a").await;
    let (destroyed, _) = before.iter().find(|(object, _)| !left.contains_key(object)).unwrap();
    for _ in 0..archivings {
        world.archive_log();
    }
    world.store.put_back(&older);
    world.token.revive(*destroyed);
    let service = world.start_with(true).await.unwrap();
    assert_eq!(world.token.objects(), left);
    world.check_consistent(&service);
    assert!(matches!(
        refusal(datakey(&service, &uid(1), "a", "x").await),
        Refusal::NoSuchKey { .. } | Refusal::Destroyed { .. }
    ));
    datakey(&service, &uid(1), "b", "x").await.unwrap();
}

/// K5: the store is put back to before rotations that the token knows. Their versions come into service again, so what was wrapped since opens, the next
/// rotation makes one above them, and no object is there twice; when the key goes, all of them go.
#[tokio::test]
async fn k5_versions_that_the_store_does_not_know_are_taken_on() {
    let world = World::new();
    let service = world.start().await;
    let key = service.create_key(&uid(1), NewKey::named("a")).await.unwrap().key;
    service.save_note().await.unwrap();
    let older = world.store.copy();
    let mut wrapped = Vec::new();
    for _ in 0..2 {
        service.rotate_key(&uid(1), &"a".parse().unwrap()).await.unwrap();
        wrapped.push(datakey(&service, &uid(1), "a", "x").await.unwrap());
    }
    service.save_note().await.unwrap();
    drop(service);
    let had = world.token.objects();
    assert_eq!(had.len(), 3);
    world.store.put_back(&older);
    let service = world.start_with(true).await.unwrap();
    for new in &wrapped {
        assert_eq!(*open(&service, &uid(1), &new.wrapped, "x").await.unwrap(), *new.plaintext);
    }
    world.check_consistent(&service);
    let records = service.audit_tail(&admin(), u64::MAX, 1000).await.unwrap();
    let taken: Vec<_> = records.iter().filter(|r| r.event.operation == "take-on-versions").collect();
    assert_eq!(taken.iter().map(|r| r.event.key).collect::<Vec<_>>(), [Some(key.id); 2]);
    drop(service);
    let service = world.start().await;
    service.rotate_key(&uid(1), &"a".parse().unwrap()).await.unwrap();
    assert_eq!(world.token.objects().len(), 4);
    world.check_consistent(&service);
    for new in &wrapped {
        open(&service, &uid(1), &new.wrapped, "x").await.unwrap();
    }
    service.schedule_deletion(&uid(1), &"a".parse().unwrap(), "7").await.unwrap();
    world.clock.pass(7 * DAY_MS);
    service.tick().await;
    assert!(world.token.objects().is_empty());
}

/// K5, K1: a version that the token has and that is not whole, or not protected, is left alone: neither used nor destroyed nor made a second time.
#[tokio::test]
async fn k5_what_is_left_alone_keeps_its_number() {
    for is_torn in [true, false] {
        let world = World::new();
        let service = world.start().await;
        let key = service.create_key(&uid(1), NewKey::named("a")).await.unwrap().key;
        service.save_note().await.unwrap();
        let stray = ObjectId { key: key.id, version: KeyVersion::new(2).unwrap() };
        drop(service);
        world.token.revive(stray);
        if is_torn {
            world.token.tear(stray);
        } else {
            world.token.weaken(stray);
        }
        let before = world.token.objects()[&stray];
        let service = world.start().await;
        assert_eq!(service.record_of(key.id).unwrap().newest(), KeyVersion::FIRST);
        quiet(&service).await;
        // Two looks for a number that is free, and the rotation fails when it has made its version: undoing it touches that one only.
        world.token.fail_call(2, crate::hsm::fake::Fault::failed(true));
        service.rotate_key(&uid(1), &"a".parse().unwrap()).await.unwrap_err();
        world.token.clear_faults();
        assert_eq!(world.token.objects().len(), 2);
        service.rotate_key(&uid(1), &"a".parse().unwrap()).await.unwrap();
        assert_eq!(service.record_of(key.id).unwrap().newest(), KeyVersion::new(3).unwrap());
        let objects = world.token.objects();
        assert_eq!((objects[&stray], objects.len()), (before, 3));
        datakey(&service, &uid(1), "a", "x").await.unwrap();
    }
}

/// K1, K4: what was being made when the process died is not confirmed if it is weaker than what is made here.
#[tokio::test]
async fn k1_a_weak_object_is_not_confirmed() {
    let world = World::new();
    let service = world.start().await;
    quiet(&service).await;
    // Made, and neither confirmed nor cleared away.
    world.token.fail_call(0, crate::hsm::fake::Fault::failed(true));
    world.token.fail_call(1, crate::hsm::fake::Fault::failed(false));
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap_err();
    world.token.clear_faults();
    drop(service);
    let object = *world.token.objects().keys().next().unwrap();
    world.token.weaken(object);
    let service = world.start().await;
    assert!(service.list_keys(&uid(1), None).await.unwrap().is_empty());
    assert!(world.token.objects().is_empty());
}

/// K8: what a restored store took the place of is an older store from then on, though it was further: putting it back undoes nothing unseen.
#[tokio::test]
async fn k8_the_store_from_before_a_restore_is_an_older_one() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("b")).await.unwrap();
    let older = world.store.copy();
    for n in 0..7 {
        service.create_key(&uid(1), NewKey::named(&format!("k{n}"))).await.unwrap();
    }
    service.save_note().await.unwrap();
    let note = world.token.note();
    // The token is not told of everything.
    service.create_key(&uid(1), NewKey::named("late")).await.unwrap();
    drop(service);
    let given_up = world.store.copy();
    world.store.put_back(&older);
    let service = world.start_with(true).await.unwrap();
    service.disable_key(&uid(1), &"b".parse().unwrap()).await.unwrap();
    service.save_note().await.unwrap();
    drop(service);
    let accepted = world.store.copy();
    world.store.put_back(&given_up);
    let refused = world.try_start().await.err();
    assert!(matches!(refused, Some(StartError::OlderStore { .. })), "{refused:?}");
    // Though the token is put back too: the log knows.
    let newest = world.token.note();
    world.token.set_note(note);
    let refused = world.try_start().await.err();
    assert!(matches!(refused, Some(StartError::OlderStore { .. })), "{refused:?}");
    world.token.set_note(newest);
    world.store.put_back(&accepted);
    let service = world.start().await;
    let b = service.describe_key(&uid(1), &"b".parse().unwrap()).await.unwrap();
    assert_eq!(b.key.state, KeyState::Disabled);
}

/// K4, K8: a start that accepts a restored store and dies in its midst has accepted nothing: the next one is told of the loss again, and a deletion that the
/// older store knows is put off all the same.
#[tokio::test]
async fn k8_a_restore_that_is_cut_short_is_not_taken_for_accepted() {
    let mut cut_short = 0;
    for last_takes_place in [false, true] {
        for index in 0..24 {
            let world = World::new();
            let key = "a".parse().unwrap();
            world.put_back_a_cancelled_deletion().await;
            world.set_power(&Power::until(index, last_takes_place));
            let accepted = world.start_with(true).await;
            world.set_power(&Power::default());
            let died = accepted.is_err();
            drop(accepted);
            if died && world.epoch() < 1 << 32 {
                cut_short += 1;
                let refused = world.try_start().await.err();
                assert!(matches!(refused, Some(StartError::OlderStore { .. })), "{index}: {refused:?}");
            }
            let service = world.start_with(true).await.unwrap();
            service.tick().await;
            let due = service
                .record_of(service.describe_key(&uid(1), &key).await.unwrap().key.id)
                .unwrap()
                .deletion_due;
            assert!(due > Some(TrustedTime(service.trusted_now().0 + 6 * DAY_MS)), "{index}");
            assert_eq!(world.token.objects().len(), 1);
        }
    }
    assert!(cut_short >= 8, "{cut_short}");
}

/// K8: the log was lost and an older one accepted. The lost one cannot take the place of what was written since: its end is not the one that the token knows,
/// and no file is written under a key that one of the lost files began with.
#[tokio::test]
async fn k8_a_lost_log_does_not_come_back_in_place_of_the_one_that_followed() {
    let world = World::new();
    let contents = |files: Vec<PathBuf>| -> Vec<(PathBuf, Vec<u8>)> {
        files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    };
    let put = |files: &[(PathBuf, Vec<u8>)]| {
        world.files().into_iter().for_each(|path| fs::remove_file(path).unwrap());
        files.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    };
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    service.save_note().await.unwrap();
    drop(service);
    let backup = contents(world.files());
    let service = world.start().await;
    for n in 0..20 {
        service.create_key(&uid(1), NewKey::named(&format!("k{n}"))).await.unwrap();
    }
    service.save_note().await.unwrap();
    drop(service);
    drop(world.start().await);
    let lost = contents(world.files());
    put(&backup);
    assert!(matches!(world.try_start().await.err(), Some(StartError::AuditCutOff { .. })));
    let service = world.start_with(true).await.unwrap();
    service.create_key(&uid(2), NewKey::named("evil")).await.unwrap();
    service.save_note().await.unwrap();
    assert_eq!(service.audit_verify(&admin()).await.unwrap().fault, None);
    service.save_note().await.unwrap();
    drop(service);
    let right = contents(world.files());
    for (path, _) in &right[backup.len()..] {
        assert!(lost.iter().all(|(other, _)| other != path), "{path:?}");
    }
    put(&lost);
    let refused = world.try_start().await.err();
    assert!(matches!(refused, Some(StartError::AuditReplaced { .. })), "{refused:?}");
    put(&right);
    drop(world.start().await);
}

/// K4: only the token is put back to before a key was destroyed, or shows it late. It is destroyed again, and that is recorded.
#[tokio::test]
async fn k4_what_was_destroyed_stays_so_though_the_token_is_put_back() {
    let world = World::new();
    let service = world.start().await;
    let key = service.create_key(&uid(1), NewKey::named("a")).await.unwrap().key;
    service.create_key(&uid(1), NewKey::named("b")).await.unwrap();
    let left = world.destroy(service, "a").await;
    world.token.revive(ObjectId { key: key.id, version: KeyVersion::FIRST });
    let service = world.start().await;
    assert_eq!(world.token.objects(), left);
    let records = service.audit_tail(&admin(), u64::MAX, 1000).await.unwrap();
    let destroyed =
        records.iter().filter(|r| r.event.operation == "destroy-key" && r.event.key == Some(key.id));
    assert_eq!(destroyed.count(), 4, "intent and done, twice");
    world.check_consistent(&service);
}

/// K4: the token has destroyed a key and the audit log cannot take that: it is not over before the log says so, or a restored store would not know.
#[tokio::test]
async fn k4_a_destruction_is_not_over_before_the_log_says_so() {
    let world = World::new();
    let service = world.start().await;
    let id = service.create_key(&uid(1), NewKey::named("a")).await.unwrap().key.id;
    let older = world.store.copy();
    service.schedule_deletion(&uid(1), &"a".parse().unwrap(), "7").await.unwrap();
    world.clock.pass(7 * DAY_MS);
    let full = service.clone();
    world.token.after("destroy", move || full.inner.audit.fill_disk_for_test(true));
    service.tick().await;
    assert!(world.token.objects().is_empty());
    assert_eq!(service.record_of(id).unwrap().phase, Phase::Destroying);
    service.inner.audit.fill_disk_for_test(false);
    world.clock.pass(DAY_MS);
    service.tick().await;
    assert_eq!(service.record_of(id).unwrap().phase, Phase::Destroyed);
    service.save_note().await.unwrap();
    drop(service);
    world.store.put_back(&older);
    world.token.revive(ObjectId { key: id, version: KeyVersion::FIRST });
    let service = world.start_with(true).await.unwrap();
    assert!(world.token.objects().is_empty());
    world.check_consistent(&service);
}

/// K4: the store was copied in the midst of a destruction that the log says is done.
#[tokio::test]
async fn k4_a_store_that_was_copied_amid_a_destruction_is_taken_on() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    service.schedule_deletion(&uid(1), &"a".parse().unwrap(), "7").await.unwrap();
    world.clock.pass(7 * DAY_MS);
    let copied = Arc::new(parking_lot::Mutex::new(None));
    let (store, into) = (world.store.clone(), Arc::clone(&copied));
    world.token.after("destroy", move || *into.lock() = Some(store.copy()));
    service.tick().await;
    service.save_note().await.unwrap();
    drop(service);
    world.store.put_back(&copied.lock().take().unwrap());
    let service = world.start_with(true).await.unwrap();
    assert!(world.token.objects().is_empty());
    world.check_consistent(&service);
}
