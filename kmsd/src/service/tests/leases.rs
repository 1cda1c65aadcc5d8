//! Leases through the service (F12): one writer at a time, over restarts and races, without a wait for who has the file's lock.

use uuid::Uuid;

use super::*;
use crate::{
    domain::{
        anchor::Anchor,
        lease::{Holder, Ticket},
    },
    service::{Offer, Taken},
};

const VOLUME: Uuid = Uuid::from_bytes([7; 16]);
/// What the configuration of the tests says, in milliseconds.
const LASTS: i64 = 45_000;

fn holder(host: &str) -> Holder {
    let boot = format!("boot-of-{host}");
    Holder { host: host.into(), boot, machine: None, process: 42, device: 5, inode: 9 }
}

fn session(number: u8) -> Uuid {
    Uuid::from_bytes([number; 16])
}

async fn take(service: &Service, number: u8, host: &str) -> Result<Taken, ServiceError> {
    service.take_lease(&uid(1), VOLUME, session(number), holder(host)).await
}

async fn renew(service: &Service, ticket: Ticket, host: &str) -> Result<(), ServiceError> {
    service.renew_lease(&uid(1), VOLUME, ticket, holder(host)).await
}

fn anchor(generation: u64) -> Anchor {
    Anchor { generation, chain_mac: [1; 32] }
}

async fn advance(service: &Service, generation: u64, ticket: Option<Ticket>) -> Result<Anchor, ServiceError> {
    let offer = Offer { anchor: anchor(generation), ticket };
    service.advance_anchor(&uid(1), VOLUME, offer).await
}

/// Time goes by, with the service at work.
fn pass(world: &World, service: &Service, millis: i64) {
    for step in (0..millis).step_by(1000) {
        world.clock.pass(1000.min(millis - step));
        service.at_work();
    }
}

fn is_held<T: std::fmt::Debug>(result: Result<T, ServiceError>) -> bool {
    matches!(refusal(result), Refusal::LeaseHeld { .. })
}

fn is_lost<T: std::fmt::Debug>(result: Result<T, ServiceError>) -> bool {
    matches!(refusal(result), Refusal::LeaseLost { .. })
}

/// F12: as long as it is renewed a lease is one writer's; unrenewed it ends, and who had it finds out, whether the other is still there or not.
#[tokio::test]
async fn f12_a_lease_lasts_while_it_is_renewed_and_ends_by_itself() {
    let world = World::new();
    let service = world.start().await;
    let first = take(&service, 1, "a").await.unwrap();
    assert_eq!((first.seconds, first.anchor), (45, None));
    for _ in 0..20 {
        pass(&world, &service, LASTS - 1);
        assert!(is_held(take(&service, 2, "b").await));
        renew(&service, first.ticket, "a").await.unwrap();
    }
    advance(&service, 5, Some(first.ticket)).await.unwrap();
    assert!(is_held(advance(&service, 6, None).await), "who shows no lease moves nothing");
    // The wall clock is nobody's business.
    world.clock.leap(LASTS * 1000);
    assert!(is_held(take(&service, 2, "b").await));
    // Over, and nobody came: it goes on, for as long as before.
    pass(&world, &service, LASTS * 10);
    renew(&service, first.ticket, "a").await.unwrap();
    assert!(is_held(take(&service, 2, "b").await));
    pass(&world, &service, LASTS);
    let second = take(&service, 2, "b").await.unwrap();
    assert_eq!(second.anchor, Some(anchor(5)));
    assert!(is_lost(renew(&service, first.ticket, "a").await));
    assert!(is_lost(advance(&service, 6, Some(first.ticket)).await));
    let offer = Offer { anchor: anchor(1), ticket: Some(first.ticket) };
    assert!(is_lost(service.accept_rollback(&uid(1), VOLUME, offer, "").await));
    // What the first gives up is not the second's.
    service.release_lease(&uid(1), VOLUME, first.ticket).await.unwrap();
    assert!(is_held(take(&service, 3, "c").await));
    service.release_lease(&uid(1), VOLUME, second.ticket).await.unwrap();
    assert!(is_lost(renew(&service, first.ticket, "a").await), "the second has written");
    take(&service, 3, "c").await.unwrap();
}

/// F12: who has the lock of the same file on the same host takes over at once, every time: a restart after a kill waits for nothing.
#[tokio::test]
async fn f12_the_successor_on_the_host_does_not_wait() {
    let world = World::new();
    let service = world.start().await;
    let mut last = take(&service, 0, "a").await.unwrap();
    for number in 1..=50 {
        let next = take(&service, number, "a").await.unwrap();
        assert!(next.ticket.term > last.ticket.term);
        assert!(is_lost(renew(&service, last.ticket, "a").await));
        last = next;
    }
    assert!(is_held(take(&service, 99, "b").await));
    let copy = Holder { inode: 10, ..holder("a") };
    assert!(is_held(service.take_lease(&uid(1), VOLUME, session(99), copy).await), "a copy on the same host");
}

/// F12: kmsd's restart neither loses a lease nor grants a second one; nothing is heard of the holder meanwhile, however long kmsd was away.
#[tokio::test]
async fn f12_a_restart_gives_each_holder_the_time_to_come_back() {
    let world = World::new();
    let service = world.start().await;
    let first = take(&service, 1, "a").await.unwrap();
    drop(service);
    for away in [0, LASTS * 100] {
        // Whatever there was of leases in memory is gone.
        let service = world.start().await;
        drop(service);
        world.clock.pass(away);
        let service = world.start().await;
        assert!(is_held(take(&service, 2, "b").await), "away for {away}");
        pass(&world, &service, LASTS - 1);
        assert!(is_held(take(&service, 2, "b").await), "away for {away}");
        renew(&service, first.ticket, "a").await.unwrap();
        pass(&world, &service, LASTS - 1);
        assert!(is_held(take(&service, 2, "b").await), "away for {away}");
    }
    // One who does not come back loses it, and what was given up stays given up.
    let service = world.start().await;
    pass(&world, &service, LASTS);
    let second = take(&service, 2, "b").await.unwrap();
    service.release_lease(&uid(1), VOLUME, second.ticket).await.unwrap();
    drop(service);
    let service = world.start().await;
    assert!(is_lost(renew(&service, first.ticket, "a").await));
    take(&service, 3, "c").await.unwrap();
}

/// F12: a store that was put back on another host gives the holders that it does not know the time to come back, over a restart too; and whoever comes
/// later has the later term, though the trusted clock is that of the backup.
#[tokio::test]
async fn f12_after_a_restore_those_come_back_first_whom_the_store_forgot() {
    for comes_back in [true, false] {
        let world = World::new();
        let service = world.start().await;
        let older = world.store.copy();
        pass(&world, &service, 8 * 3_600_000);
        let first = take(&service, 1, "a").await.unwrap();
        service.save_note().await.unwrap();
        drop(service);
        world.store.put_back(&older);
        world.clock.reboot();
        let service = world.start_with(true).await.unwrap();
        let is_put_off = |result| matches!(refusal(result), Refusal::LeasesForgotten { .. });
        assert!(is_put_off(take(&service, 2, "b").await));
        // As an operator does who has it started by systemd then.
        pass(&world, &service, LASTS / 2);
        service.save_note().await.unwrap();
        drop(service);
        let service = world.start().await;
        pass(&world, &service, LASTS - 1);
        assert!(is_put_off(take(&service, 2, "b").await));
        if comes_back {
            renew(&service, first.ticket, "a").await.unwrap();
            assert!(is_held(take(&service, 2, "b").await));
            pass(&world, &service, LASTS);
        }
        pass(&world, &service, 1);
        take(&service, 2, "b").await.unwrap();
        assert!(is_lost(renew(&service, first.ticket, "a").await));
        assert!(is_lost(advance(&service, 5, Some(first.ticket)).await));
        // That was that.
        pass(&world, &service, LASTS);
        drop(service);
        world.start().await.take_lease(&uid(1), Uuid::max(), session(3), holder("c")).await.unwrap();
    }
}

/// F12: who lost the volume is told so also while nothing can be recorded; what would change something is not done then.
#[tokio::test]
async fn f12_who_lost_hears_of_it_though_the_audit_log_is_full() {
    let world = World::new();
    let service = world.start().await;
    let first = take(&service, 1, "a").await.unwrap();
    pass(&world, &service, LASTS);
    let second = take(&service, 2, "b").await.unwrap();
    advance(&service, 5, Some(second.ticket)).await.unwrap();
    service.inner.audit.fill_disk_for_test(true);
    assert!(is_lost(renew(&service, first.ticket, "a").await));
    assert!(is_lost(advance(&service, 6, Some(first.ticket)).await));
    let behind = refusal(advance(&service, 4, Some(second.ticket)).await);
    assert!(matches!(behind, Refusal::AnchorBehind { .. }), "{behind}");
    assert!(is_held(take(&service, 3, "c").await));
    let stranger = service.renew_lease(&uid(2), VOLUME, second.ticket, holder("b")).await;
    assert!(matches!(refusal(stranger), Refusal::AnchorNotPermitted { .. }));
    // The writer is not disturbed, and keeps what it has.
    renew(&service, second.ticket, "b").await.unwrap();
    let unrecorded = service.release_lease(&uid(1), VOLUME, second.ticket).await;
    assert!(matches!(unrecorded, Err(ServiceError::Audit(_))), "{unrecorded:?}");
    service.inner.audit.fill_disk_for_test(false);
    assert!(is_held(take(&service, 3, "c").await));
}

/// F12, K8: a lease that could not be recorded was not taken: the holder goes on, though his had ended.
#[tokio::test]
async fn f12_a_lease_that_cannot_be_recorded_is_not_taken_from_its_holder() {
    let world = World::new();
    let service = world.start().await;
    let first = take(&service, 1, "a").await.unwrap();
    pass(&world, &service, LASTS);
    service.inner.audit.fill_disk_for_test(true);
    let unrecorded = take(&service, 2, "b").await;
    assert!(matches!(unrecorded, Err(ServiceError::Audit(_))), "{unrecorded:?}");
    service.inner.audit.fill_disk_for_test(false);
    renew(&service, first.ticket, "a").await.unwrap();
    assert!(is_held(take(&service, 2, "b").await));
}

/// F12: a process that was suspended or stopped heard of nobody meanwhile, so nobody's lease has ended by that, whoever comes first when it goes on.
#[tokio::test]
async fn f12_a_pause_of_kmsd_ends_no_lease() {
    let world = World::new();
    let service = world.start().await;
    let first = take(&service, 1, "a").await.unwrap();
    pass(&world, &service, 10_000);
    for is_seen_at_once in [true, false] {
        world.clock.pass(60_000);
        if is_seen_at_once {
            service.at_work();
        }
        assert!(is_held(take(&service, 2, "b").await));
        pass(&world, &service, LASTS - 1);
        assert!(is_held(take(&service, 2, "b").await));
        assert!(is_held(advance(&service, 1, None).await));
        renew(&service, first.ticket, "a").await.unwrap();
    }
    // At work all the time, it hears nothing: that one is gone.
    pass(&world, &service, LASTS);
    take(&service, 2, "b").await.unwrap();
}

/// F12: the anchor of a volume that is written to is not forgotten, nor its lease with it.
#[tokio::test]
async fn f12_nobody_s_lease_is_forgotten_while_it_lasts() {
    let world = World::new();
    let service = world.start().await;
    let first = take(&service, 1, "a").await.unwrap();
    for caller in [uid(1), admin()] {
        assert!(is_held(service.forget_anchor(&caller, VOLUME).await));
    }
    assert!(is_held(take(&service, 2, "b").await));
    service.release_lease(&uid(1), VOLUME, first.ticket).await.unwrap();
    service.forget_anchor(&uid(1), VOLUME).await.unwrap();
    take(&service, 2, "b").await.unwrap();
    pass(&world, &service, LASTS);
    service.forget_anchor(&uid(1), VOLUME).await.unwrap();
}

/// F12: of many hosts that come at once when a lease has ended, its old holder among them, one gets it, and nobody is told that it is his who is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn f12_of_many_who_come_at_once_one_gets_the_lease() {
    for _ in 0..20 {
        let world = World::new();
        let service = world.start().await;
        let old = take(&service, 0, "a").await.unwrap();
        pass(&world, &service, LASTS);
        let renewing = {
            let service = service.clone();
            tokio::spawn(async move { renew(&service, old.ticket, "a").await.is_ok() })
        };
        let takers: Vec<_> = (1..=8)
            .map(|number| {
                let service = service.clone();
                tokio::spawn(async move { take(&service, number, &format!("h{number}")).await.is_ok() })
            })
            .collect();
        let mut winners = usize::from(renewing.await.unwrap());
        for taker in takers {
            winners += usize::from(taker.await.unwrap());
        }
        assert_eq!(winners, 1);
    }
}

/// F12: an anchor does not move past a lease that is taken at the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn f12_no_anchor_moves_past_a_lease_that_is_taken_meanwhile() {
    for generation in 1..40 {
        let world = World::new();
        let service = world.start().await;
        let old = take(&service, 0, "a").await.unwrap();
        pass(&world, &service, LASTS);
        let advancing = {
            let service = service.clone();
            tokio::spawn(async move { advance(&service, generation, Some(old.ticket)).await.is_ok() })
        };
        let taken = take(&service, 1, "b").await.unwrap();
        let moved = advancing.await.unwrap();
        let stands = service.anchor(&uid(1), VOLUME).await.unwrap();
        assert_eq!(taken.anchor, stands, "who took it was told where the anchor stands");
        assert_eq!(moved, stands.is_some());
    }
}

/// F12, K8: who takes a lease, gives it up, or is refused stands in the audit log; a renewal that changes nothing does not fill it.
#[tokio::test]
async fn k8_leases_are_recorded_and_renewals_are_not() {
    let world = World::new();
    let service = world.start().await;
    let first = take(&service, 1, "a").await.unwrap();
    for _ in 0..100 {
        renew(&service, first.ticket, "a").await.unwrap();
    }
    take(&service, 2, "b").await.unwrap_err();
    pass(&world, &service, LASTS);
    let second = take(&service, 2, "b").await.unwrap();
    renew(&service, first.ticket, "a").await.unwrap_err();
    service.release_lease(&uid(1), VOLUME, second.ticket).await.unwrap();
    let records = service.audit_tail(&admin(), u64::MAX, 1000).await.unwrap();
    let of_leases =
        records.iter().map(|entry| &entry.event).filter(|event| event.operation.ends_with("-lease"));
    let told: Vec<_> = of_leases
        .map(|event| {
            // What changes something says so before.
            let outcome = event.outcome.as_deref().unwrap_or("intent");
            (event.operation.as_str(), outcome, event.note.clone())
        })
        .collect();
    let note = |host: &str| Some(format!("process 42 on host {host}"));
    let expected = [
        ("take-lease", "intent", note("a")),
        ("take-lease", "ok", note("a")),
        ("take-lease", "KMSD.0013", note("b")),
        ("take-lease", "intent", note("b")),
        ("take-lease", "ok", note("b")),
        ("renew-lease", "KMSD.0014", note("a")),
        ("release-lease", "intent", None),
        ("release-lease", "ok", None),
    ];
    assert_eq!(told, expected);
}

/// K7: a lease takes the place of an anchor, of which there are so many; what is remembered of sessions does not grow with the attaches.
#[tokio::test]
async fn k7_leases_are_bounded() {
    let world = World::new();
    let service = world.start().await;
    let take = async |number: u8| {
        let volume = Uuid::from_bytes([number; 16]);
        service.take_lease(&uid(1), volume, Uuid::new_v4(), holder("a")).await
    };
    for number in 1..=3 {
        take(number).await.unwrap();
    }
    assert_eq!(refusal(take(4).await), Refusal::TooManyAnchorsOfOne { limit: 3 });
    for _ in 0..300 {
        pass(&world, &service, LASTS);
        take(1).await.unwrap();
    }
    assert!(service.inner.heard.lock().sessions.len() < 80);
}
