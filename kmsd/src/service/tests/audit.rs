//! K8: everything is recorded, before it can matter; and older files are known as such.

use std::path::PathBuf;

use super::*;
use crate::{
    audit::Entry,
    domain::{
        audit::{ChainFault, Stage},
        time::DAY_MS,
    },
};

impl World {
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> =
            std::fs::read_dir(self.audit.path().join("audit")).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort_unstable();
        files
    }
}

fn seen(entry: &Entry) -> (String, String, Stage, String) {
    let event = &entry.event;
    (
        event.principal.to_string(),
        event.operation.clone(),
        event.stage,
        event.outcome.clone().unwrap_or_default(),
    )
}

/// K8: every operation, allowed or refused, is in the log; what changes something before and after.
#[tokio::test]
async fn k8_every_operation_is_recorded() {
    let world = World::new();
    let service = world.start().await;
    let key = "a".parse().unwrap();
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    refusal(service.create_key(&uid(1), NewKey::named("x/default")).await);
    let new = datakey(&service, &uid(1), "a", "secret-context").await.unwrap();
    refusal(open(&service, &uid(2), &new.wrapped, "secret-context").await);
    service.disable_key(&uid(1), &key).await.unwrap();
    refusal(datakey(&service, &uid(1), "a", "x").await);
    service.list_keys(&uid(3), None).await.unwrap();
    refusal(service.audit_tail(&uid(1), u64::MAX, 10).await);
    let records = service.audit_tail(&admin(), u64::MAX, 1000).await.unwrap();
    let seen: Vec<_> = records.iter().map(seen).collect();
    let expected = [
        ("system", "service-start", Stage::Done, "ok"),
        ("uid:1", "create-key", Stage::Intent, ""),
        ("uid:1", "create-key", Stage::Done, "ok"),
        ("uid:1", "create-key", Stage::Done, "KMS.1101"),
        ("uid:1", "create-datakey", Stage::Done, "ok"),
        ("uid:2", "decrypt-datakey", Stage::Done, "KMS.0207"),
        ("uid:1", "disable-key", Stage::Intent, ""),
        ("uid:1", "disable-key", Stage::Done, "ok"),
        ("uid:1", "create-datakey", Stage::Done, "KMS.0209"),
        ("uid:3", "list-keys", Stage::Done, "ok"),
        ("uid:1", "list-audit", Stage::Done, "KMS.0330"),
    ];
    let expected: Vec<_> =
        expected.map(|(p, o, s, c)| (p.to_owned(), o.to_owned(), s, c.to_owned())).into_iter().collect();
    assert_eq!(seen, expected);
    assert_eq!(records[4].event.key, Some(new.key));
    assert_eq!(service.audit_verify(&admin()).await.unwrap().fault, None);
    refusal(service.audit_verify(&uid(1)).await);
    // Reading and checking it is an operation like any other.
    let since = records.len();
    let records = service.audit_tail(&admin(), u64::MAX, 1000).await.unwrap();
    let expected = [
        ("uid:0", "list-audit", Stage::Done, "ok"),
        ("uid:0", "verify-audit", Stage::Done, "ok"),
        ("uid:1", "verify-audit", Stage::Done, "KMS.0330"),
    ];
    let expected = expected.map(|(p, o, s, c)| (p.to_owned(), o.to_owned(), s, c.to_owned()));
    assert_eq!(records[since..].iter().map(self::seen).collect::<Vec<_>>(), expected);

    // No secret is in it: neither the data key, in any form, nor a context's words.
    for file in world.files() {
        let text = std::fs::read_to_string(file).unwrap();
        for secret in [hex::encode(&*new.plaintext), "secret-context".to_owned()] {
            assert!(!text.contains(&secret));
        }
    }
}

/// I2: what leaves encryption is a record of its own, with the key, the volume and where it goes; who may not open the volume is refused,
/// and that is a record too.
#[tokio::test]
async fn i2_what_leaves_encryption_is_recorded_first() {
    let world = World::new();
    let service = world.start().await;
    let made = service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    let (key, volume) = ("a".parse().unwrap(), uuid::Uuid::from_u128(7));
    let ask = async |caller: Caller| {
        service.release_plaintext(&caller, &key, volume, &context("v"), "image one to image two").await
    };
    ask(uid(1)).await.unwrap();
    refusal(ask(uid(2)).await);
    service.disable_key(&uid(1), &key).await.unwrap();
    refusal(ask(uid(1)).await);
    let records = service.audit_tail(&admin(), u64::MAX, 1000).await.unwrap();
    let released: Vec<_> = records.iter().filter(|r| r.event.operation == "release-plaintext").collect();
    let seen: Vec<_> =
        released.iter().map(|record| seen(record)).map(|(who, _, _, outcome)| (who, outcome)).collect();
    let expected = [("uid:1", "ok"), ("uid:2", "KMS.0207"), ("uid:1", "KMS.0209")];
    assert_eq!(seen, expected.map(|(who, outcome)| (who.to_owned(), outcome.to_owned())));
    let event = &released[0].event;
    assert_eq!(event.key, Some(made.key.id));
    assert_eq!(event.target.as_deref(), Some(volume.to_string().as_str()));
    assert_eq!(event.note.as_deref(), Some("image one to image two"));
    assert!(event.context.is_some());
}

/// K8: the chain goes on over restarts, and what is changed, removed or cut in between is found.
#[tokio::test]
async fn k8_the_chain_goes_on_over_restarts() {
    let world = World::new();
    for n in 0..3 {
        let service = world.start().await;
        service.create_key(&uid(1), NewKey::named(&format!("k{n}"))).await.unwrap();
        service.save_note().await.unwrap();
    }
    let verify = async || {
        let service = world.start().await;
        service.audit_verify(&admin()).await.unwrap()
    };
    let verdict = verify().await;
    assert_eq!((verdict.fault, verdict.records), (None, 10));

    let first = &world.files()[0];
    let whole = std::fs::read(first).unwrap();
    std::fs::write(first, String::from_utf8_lossy(&whole).replace("uid:1", "uid:2")).unwrap();
    assert_eq!(verify().await.fault, Some(ChainFault::Mac { seq: 2 }));
    std::fs::write(first, &whole[..whole.len() / 2]).unwrap();
    assert!(verify().await.fault.is_some());
    std::fs::remove_file(first).unwrap();
    assert!(matches!(verify().await.fault, Some(ChainFault::Sequence { seq: 1, .. })));
    std::fs::write(first, &whole).unwrap();
    assert_eq!(verify().await.fault, None);
}

/// K8: a log whose end was cut off is not gone on with, unless an operator says so; and that is in the log.
#[tokio::test]
async fn k8_a_log_without_its_end_is_not_gone_on_with() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    service.save_note().await.unwrap();
    drop(service);
    let last = world.files().pop().unwrap();
    let text = std::fs::read_to_string(&last).unwrap();
    let lines: Vec<_> = text.lines().collect();
    std::fs::write(&last, lines[..lines.len() - 1].join("\n") + "\n").unwrap();
    let refused = world.try_start().await.err();
    assert!(matches!(refused, Some(StartError::AuditCutOff { found: 2, newest: 3 })), "{refused:?}");
    let service = world.start_with(true).await.unwrap();
    let records = service.audit_tail(&admin(), u64::MAX, 1000).await.unwrap();
    let accepted = records.iter().find(|r| r.event.operation == "accept-restored").unwrap();
    assert!(accepted.event.note.as_ref().unwrap().contains("record 2"));
    drop(service);
    world.start().await;
}

/// K4: an older copy of the store is not served: it could know a deletion that was cancelled since, or not know that a key was
/// disabled. When an operator accepts it, nothing is destroyed by it for a week.
#[tokio::test]
async fn k4_an_older_store_is_not_served_unasked() {
    let world = World::new();
    let key = "a".parse().unwrap();
    world.put_back_a_cancelled_deletion().await;
    assert!(matches!(world.try_start().await.err(), Some(StartError::OlderStore { .. })));
    let service = world.start_with(true).await.unwrap();
    service.tick().await;
    assert_eq!(world.token.objects().len(), 1, "the cancelled deletion came back");
    world.clock.pass(7 * DAY_MS - 1);
    service.tick().await;
    assert_eq!(world.token.objects().len(), 1);
    service.cancel_deletion(&uid(1), &key).await.unwrap();
    drop(service);
    world.start().await;
}

/// K8: without a record nothing is done and nothing is given out.
#[tokio::test]
async fn k8_fail_closed() {
    let world = World::new();
    let service = world.start().await;
    service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
    let new = datakey(&service, &uid(1), "a", "x").await.unwrap();
    service.inner.audit.break_for_test();
    let failed = |error| matches!(error, Some(ServiceError::Audit(_)));
    assert!(failed(service.create_key(&uid(1), NewKey::named("b")).await.err()));
    assert!(failed(service.disable_key(&uid(1), &"a".parse().unwrap()).await.err()));
    assert!(failed(datakey(&service, &uid(1), "a", "x").await.err()));
    assert!(failed(open(&service, &uid(1), &new.wrapped, "x").await.err()));
    assert!(failed(service.list_keys(&uid(1), None).await.err()));
    drop(service);
    let service = world.start().await;
    assert_eq!(world.token.objects().len(), 1);
    open(&service, &uid(1), &new.wrapped, "x").await.unwrap();
}

/// K8: requests that nobody is behind leave lines too, and however many they are, no more than one a minute.
#[tokio::test]
async fn k8_who_is_not_let_in_is_recorded_within_bounds() {
    use crate::service::Stranger;
    let world = World::new();
    let service = world.start().await;
    let lines = async || -> Vec<String> {
        let records = service.audit_tail(&admin(), u64::MAX, 10_000).await.unwrap();
        let of = records.into_iter().filter(|r| r.event.operation == "not-admitted");
        of.map(|r| r.event.note.unwrap()).collect()
    };
    service.record_stranger(Stranger::Signature, "192.0.2.1:7").await;
    assert_eq!(lines().await.len(), 1, "the first is recorded at once");
    for _ in 0..1000 {
        service.record_stranger(Stranger::AccessKey, "192.0.2.2:7").await;
        service.record_stranger(Stranger::Signature, "192.0.2.3:7").await;
        service.tick().await;
    }
    assert_eq!(lines().await.len(), 1);
    world.clock.pass(60_000);
    service.tick().await;
    service.tick().await;
    let found = lines().await;
    assert_eq!(found.len(), 2);
    assert!(found[0].starts_with("1 request: 1 signature") && found[0].contains("192.0.2.1:7"), "{found:?}");
    for part in ["2000 requests", "1000 signatures", "1000 access keys", "192.0.2.3:7"] {
        assert!(found[1].contains(part), "{found:?}");
    }
    // What is counted and not yet recorded is recorded at the end.
    service.record_stranger(Stranger::AccessKey, "192.0.2.4:7").await;
    assert_eq!(lines().await.len(), 2);
    service.record_strangers().await;
    service.record_strangers().await;
    assert_eq!(lines().await.len(), 3);
}
