use super::*;
use crate::domain::{Principal, anchor};

const VOLUME: Uuid = Uuid::from_bytes([7; 16]);
const UNTIL: Option<WallTime> = Some(WallTime(1_760_000_000_001));

fn times(until: Option<WallTime>) -> Times {
    Times { until, forgotten: None, term: 1_000 }
}

fn owner() -> Caller {
    Caller { principal: Principal::Uid(1), is_admin: false }
}

fn holder(host: &str, inode: u64) -> Holder {
    let (boot, machine) = (format!("boot-of-{host}"), Some(format!("machine-{host}")));
    Holder { host: host.into(), boot, machine, process: 42, device: 5, inode }
}

fn session(number: u8) -> Uuid {
    Uuid::from_bytes([number; 16])
}

fn taken(current: Option<&AnchorRecord>, number: u8, by: &Holder, until: Option<WallTime>) -> AnchorRecord {
    match take(current, &owner(), VOLUME, (session(number), by), times(until)).unwrap() {
        Advance::Record(record) => record,
        Advance::Unchanged => panic!("it has it already"),
    }
}

fn ticket(record: &AnchorRecord) -> Ticket {
    record.lease.as_ref().unwrap().ticket
}

/// F12: for as long as one holds the lease another host, or a copy of the file, is refused and told who has it and until when.
#[test]
fn f12_a_second_writer_is_refused_while_the_lease_lasts() {
    let first = taken(None, 1, &holder("a", 9), None);
    assert_eq!((first.revision, &first.anchor, ticket(&first).term), (0, &None, 1_000));
    for other in [holder("b", 9), holder("a", 10), Holder { device: 6, ..holder("a", 9) }] {
        let refused = take(Some(&first), &owner(), VOLUME, (session(2), &other), times(UNTIL)).unwrap_err();
        let text = refused.to_string();
        for fact in [&VOLUME.to_string(), "process 42", "host a", "2025-10-09T08:53:21Z"] {
            assert!(text.contains(fact), "{fact}: {text}");
        }
        assert!(matches!(refused, Refusal::LeaseHeld { .. }) && refused.hint().is_some());
        // It has ended, or was given up.
        assert_eq!(ticket(&taken(Some(&first), 2, &other, None)).term, 1_001);
        let Advance::Record(given_up) = release(Some(&first), &owner(), VOLUME, ticket(&first)).unwrap()
        else {
            panic!("it was given up")
        };
        taken(Some(&given_up), 2, &other, UNTIL);
    }
}

/// F12: who has the lock of the same file under the same kernel is the successor: the ordinary restart waits for nothing.
#[test]
fn f12_who_has_the_lock_of_the_same_file_takes_over_at_once() {
    let first = taken(None, 1, &holder("a", 9), None);
    let next = taken(Some(&first), 2, &Holder { process: 43, ..holder("a", 9) }, UNTIL);
    assert_eq!((next.revision, ticket(&next).session), (1, session(2)));
    assert!(ticket(&next).term > ticket(&first).term);
    // A renamed host is the same one; one whose name alone is the same is not.
    taken(Some(&first), 2, &Holder { host: "z".into(), ..holder("a", 9) }, UNTIL);
    // After a reboot nobody knows whether it is that or a clone of the host: it waits, and is told so.
    let namesake = Holder { boot: "another".into(), ..holder("a", 9) };
    let refused = take(Some(&first), &owner(), VOLUME, (session(2), &namesake), times(UNTIL)).unwrap_err();
    assert!(
        matches!(refused, Refusal::LeaseOfEarlierBoot { .. }) && refused.code() == "KMSD.0015",
        "{refused}"
    );
    let without = Holder { machine: None, ..namesake };
    let refused = take(Some(&first), &owner(), VOLUME, (session(2), &without), times(UNTIL)).unwrap_err();
    assert!(matches!(refused, Refusal::LeaseHeld { .. }), "{refused}");
}

/// F12: a renewal that comes late, after the lease was given up, brings nothing back.
#[test]
fn f12_what_was_given_up_is_not_renewed() {
    let first = taken(None, 1, &holder("a", 9), None);
    let mine = (ticket(&first), &holder("a", 9));
    let Ok(Advance::Record(gone)) = release(Some(&first), &owner(), VOLUME, mine.0) else { panic!() };
    for until in [UNTIL, None] {
        assert_eq!(renew(Some(&gone), &owner(), VOLUME, mine, until), Ok(Advance::Unchanged));
    }
    taken(Some(&gone), 2, &holder("b", 9), UNTIL);
}

/// F12: while holders may come back that a store does not know, nobody else gets a lease: not of a volume that it knows none of, nor who follows on the one
/// that it knows, which need not be the last.
#[test]
fn f12_nobody_gets_what_a_forgotten_holder_may_have() {
    let first = taken(None, 1, &holder("a", 9), None);
    let Ok(Advance::Record(gone)) = release(Some(&first), &owner(), VOLUME, ticket(&first)) else { panic!() };
    for (known, until) in [(None, None), (Some(&first), UNTIL), (Some(&gone), None)] {
        let times = Times { forgotten: UNTIL, ..times(until) };
        let refused = take(known, &owner(), VOLUME, (session(2), &holder("a", 9)), times).unwrap_err();
        let is_held = matches!(refused, Refusal::LeaseHeld { .. });
        assert!(is_held || matches!(refused, Refusal::LeasesForgotten { .. }), "{refused}");
        assert!(refused.to_string().contains("2025-10-09T08:53:21Z"), "{refused}");
    }
    let times = Times { forgotten: UNTIL, ..times(UNTIL) };
    let again = take(Some(&first), &owner(), VOLUME, (session(1), &holder("a", 9)), times);
    assert_eq!(again, Ok(Advance::Unchanged), "it is that one's");
}

/// F12: a renewal after the lease has ended is granted if nobody took it, and never after somebody did, though that one is gone again.
#[test]
fn f12_a_renewal_tells_who_came_later() {
    let first = taken(None, 1, &holder("a", 9), None);
    let mine = (ticket(&first), &holder("a", 9));
    assert_eq!(renew(Some(&first), &owner(), VOLUME, mine, UNTIL), Ok(Advance::Unchanged));
    // It had ended: whoever is taking it now decides again.
    let Ok(Advance::Record(again)) = renew(Some(&first), &owner(), VOLUME, mine, None) else { panic!() };
    assert_eq!((again.revision, &again.lease), (1, &first.lease));
    let second = taken(Some(&first), 2, &holder("b", 9), None);
    let Ok(Advance::Record(gone)) = release(Some(&second), &owner(), VOLUME, ticket(&second)) else {
        panic!()
    };
    for (later, until) in [(&second, UNTIL), (&second, None), (&gone, None)] {
        let lost = renew(Some(later), &owner(), VOLUME, mine, until).unwrap_err();
        assert!(matches!(&lost, Refusal::LeaseLost { holder, .. } if holder.host == "b"), "{lost}");
        assert!(lost.to_string().contains("process 42 on host b"), "{lost}");
        assert_eq!(check_writer(Some(later), VOLUME, Some(ticket(&first)), until), Err(lost));
    }
    // What the loser gives up is not the other's.
    assert_eq!(release(Some(&second), &owner(), VOLUME, ticket(&first)), Ok(Advance::Unchanged));
}

/// F12: a store that was put back, or an anchor that was forgotten, does not make the holder a stranger.
#[test]
fn f12_what_the_store_has_forgotten_is_recorded_again() {
    let old = taken(None, 1, &holder("a", 9), None);
    let newer = taken(Some(&old), 2, &holder("b", 3), None);
    let mine = (ticket(&newer), &holder("b", 3));
    for put_back in [None, Some(&old)] {
        for until in [None, UNTIL] {
            let Ok(Advance::Record(record)) = renew(put_back, &owner(), VOLUME, mine, until) else {
                panic!()
            };
            assert_eq!(record.lease, newer.lease);
            assert_eq!(check_writer(put_back, VOLUME, Some(mine.0), until), Ok(()));
        }
    }
    // Two of one term, from before and after: the one that is there stays.
    let twin = taken(Some(&old), 3, &holder("c", 3), None);
    assert!(matches!(renew(Some(&twin), &owner(), VOLUME, mine, UNTIL), Err(Refusal::LeaseLost { .. })));
}

/// F12: who shows no lease moves no anchor while somebody holds one.
#[test]
fn f12_without_a_lease_the_anchor_stays() {
    let first = taken(None, 1, &holder("a", 9), None);
    assert!(matches!(check_writer(Some(&first), VOLUME, None, UNTIL), Err(Refusal::LeaseHeld { .. })));
    assert_eq!(check_writer(Some(&first), VOLUME, None, None), Ok(()));
    assert_eq!(check_writer(None, VOLUME, None, None), Ok(()));
}

/// K7: the volume is another caller's; and no text gets into records that would not be read as one.
#[test]
fn k7_leases_are_the_owner_s() {
    let first = taken(None, 1, &holder("a", 9), None);
    let stranger = Caller { principal: Principal::Uid(2), is_admin: false };
    let refused = Refusal::AnchorNotPermitted { volume: VOLUME };
    let by = holder("a", 9);
    let taking = take(Some(&first), &stranger, VOLUME, (session(2), &by), times(None));
    assert_eq!(taking, Err(refused.clone()));
    let mine = ticket(&first);
    assert_eq!(renew(Some(&first), &stranger, VOLUME, (mine, &by), UNTIL), Err(refused.clone()));
    assert_eq!(release(Some(&first), &stranger, VOLUME, mine), Err(refused));
    for host in ["", "a\nb", &"x".repeat(65)] {
        let by = Holder { host: host.to_owned(), ..holder("a", 9) };
        let taking = take(None, &owner(), VOLUME, (session(2), &by), times(None));
        assert!(matches!(taking, Err(Refusal::ParameterInvalid { name: "host", .. })), "{host:?}");
    }
}

/// A record of before leases reads as one without.
#[test]
fn records_of_before_have_no_lease() {
    let text = format!(
        r#"{{"volume":"{VOLUME}","revision":3,"owner":"uid:1","anchor":{{"generation":4,"chain_mac":"{}"}}}}"#,
        "07".repeat(32)
    );
    let record: AnchorRecord = serde_json::from_str(&text).unwrap();
    let anchor = anchor::Anchor { generation: 4, chain_mac: [7; 32] };
    assert_eq!((record.anchor, record.lease.as_ref()), (Some(anchor), None));
    assert_eq!(serde_json::to_string(&record).unwrap(), text);
}
