//! Volume anchors through the service (F3): they move forward only, belong to who moved them first, and go back on an operator's word alone, which is recorded.

use uuid::Uuid;

use super::*;
use crate::domain::{anchor::Anchor, audit::Stage};

const VOLUME: Uuid = Uuid::from_bytes([7; 16]);

fn anchor(generation: u64, mac: u8) -> Anchor {
    Anchor { generation, chain_mac: [mac; 32] }
}

/// What the log says of an operation: stage, who, outcome, note.
async fn recorded(service: &Service, operation: &str) -> Vec<(Stage, Principal, String, String)> {
    let records = service.audit_tail(&admin(), u64::MAX, 1000).await.unwrap();
    let of_it = records.into_iter().map(|entry| entry.event).filter(|event| event.operation == operation);
    let text = Option::unwrap_or_default;
    of_it.map(|event| (event.stage, event.principal, text(event.outcome), text(event.note))).collect()
}

/// F3: only forward, also after a restart; a step that is made twice is one.
#[tokio::test]
async fn f3_an_anchor_moves_forward_only() {
    let world = World::new();
    let service = world.start().await;
    assert_eq!(service.anchor(&uid(1), VOLUME).await.unwrap(), None);
    for generation in [3, 3, 4, 9] {
        service.advance_anchor(&uid(1), VOLUME, anchor(generation, 1)).await.unwrap();
    }
    let only_forward = async |service: &Service| {
        for older in [anchor(8, 1), anchor(0, 0), anchor(9, 2)] {
            let refused = refusal(service.advance_anchor(&uid(1), VOLUME, older).await);
            assert!(matches!(refused, Refusal::AnchorBehind { newest: 9, .. }), "{refused}");
        }
        assert_eq!(service.anchor(&uid(1), VOLUME).await.unwrap(), Some(anchor(9, 1)));
    };
    only_forward(&service).await;
    drop(service);
    only_forward(&world.start().await).await;
}

/// F3: of many who advance at once, the anchor ends at the newest that was acknowledged, and no acknowledged step is taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn f3_many_who_advance_at_once_never_go_back() {
    let world = World::new();
    let service = world.start().await;
    let callers: Vec<_> = (1..=40)
        .map(|generation| {
            let service = service.clone();
            tokio::spawn(async move {
                let moved = loop {
                    let moved = service.advance_anchor(&uid(1), VOLUME, anchor(generation, 1)).await;
                    // Whom others overtook again and again is told to try again.
                    if !moved.as_ref().is_err_and(ServiceError::is_retryable) {
                        break moved;
                    }
                };
                let stands = service.anchor(&uid(1), VOLUME).await.unwrap().unwrap().generation;
                (moved.is_ok().then_some(generation), stands)
            })
        })
        .collect();
    let mut newest = 0;
    for caller in callers {
        let (moved, stands) = caller.await.unwrap();
        assert!(moved.is_none_or(|generation| stands >= generation), "{moved:?} {stands}");
        newest = newest.max(moved.unwrap_or(0));
    }
    assert_eq!(newest, 40, "nothing is newer than that");
    assert_eq!(service.anchor(&uid(1), VOLUME).await.unwrap(), Some(anchor(40, 1)));
}

/// F3, K8: going back is its owner's or an administrator's word. It is in the audit log before and after, with the generation and the reason, also when it is refused; and
/// what was given up is behind from then on no more.
#[tokio::test]
async fn f3_a_rollback_is_accepted_by_who_may_and_recorded() {
    let world = World::new();
    let service = world.start().await;
    service.advance_anchor(&uid(1), VOLUME, anchor(9, 1)).await.unwrap();
    let refused = service.accept_rollback(&uid(2), VOLUME, anchor(4, 4), "mine now").await;
    assert!(matches!(refusal(refused), Refusal::AnchorNotPermitted { volume: VOLUME }));
    assert!(matches!(refusal(service.anchor(&uid(2), VOLUME).await), Refusal::AnchorNotPermitted { .. }));
    assert_eq!(service.anchor(&uid(1), VOLUME).await.unwrap(), Some(anchor(9, 1)));

    service.accept_rollback(&uid(1), VOLUME, anchor(4, 4), "restored from tape").await.unwrap();
    assert_eq!(service.anchor(&uid(1), VOLUME).await.unwrap(), Some(anchor(4, 4)));
    service.advance_anchor(&uid(1), VOLUME, anchor(5, 5)).await.unwrap();
    // By an administrator; the owner stays.
    service.accept_rollback(&admin(), VOLUME, anchor(2, 2), "asked to").await.unwrap();
    service.advance_anchor(&uid(1), VOLUME, anchor(3, 3)).await.unwrap();
    assert!(refusal(service.advance_anchor(&uid(2), VOLUME, anchor(10, 1)).await).code() != "KMSD.0001");

    let log: Vec<_> = recorded(&service, "accept-rollback").await;
    let expected = |caller: &Caller, outcome: &str, note: &str| {
        [
            (Stage::Intent, caller.principal.clone(), String::new(), note.to_owned()),
            (Stage::Done, caller.principal.clone(), outcome.to_owned(), note.to_owned()),
        ]
    };
    let refused = Refusal::AnchorNotPermitted { volume: VOLUME }.code();
    let expected = [
        expected(&uid(2), refused, "generation 4: mine now"),
        expected(&uid(1), "ok", "generation 4: restored from tape"),
        expected(&admin(), "ok", "generation 2: asked to"),
    ];
    assert_eq!(log, expected.concat());
}

/// F3, K8: what cannot be recorded is not accepted.
#[tokio::test]
async fn f3_a_rollback_that_is_not_durable_is_not_acknowledged() {
    for index in 0..6 {
        let world = World::new();
        let service = world.start().await;
        service.advance_anchor(&uid(1), VOLUME, anchor(9, 1)).await.unwrap();
        let power = Power::until(index, false);
        world.set_power(&power);
        let acknowledged = service.accept_rollback(&uid(1), VOLUME, anchor(4, 4), "why").await.is_ok();
        drop(service);
        world.set_power(&Power::default());
        let service = world.start().await;
        let stands = service.anchor(&uid(1), VOLUME).await.unwrap().unwrap();
        assert!(stands == anchor(4, 4) || (!acknowledged && stands == anchor(9, 1)), "{index}: {stands:?}");
    }
}
