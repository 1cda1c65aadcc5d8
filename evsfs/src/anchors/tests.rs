use kmsd::client::ClientError;
use uuid::Uuid;

use super::*;
use crate::crypto::Chain;

fn anchor(commit: u64) -> Anchor {
    Anchor { commit, chain: Chain([7; 32]) }
}

/// What the service answers next.
enum Answer {
    Yes,
    Away,
    Refused(&'static str),
}

/// A service that answers when the test says so, and what it was asked.
struct Recorder {
    stored: Arc<Mutex<Vec<u64>>>,
    renewals: Sender<()>,
    gate: Receiver<Answer>,
    every: Duration,
    lasts: Duration,
}

impl Recorder {
    fn answer(&self) -> Result<(), KeyError> {
        let source = match self.gate.recv().expect("the test tells") {
            Answer::Yes => return Ok(()),
            Answer::Away => {
                let source = std::io::ErrorKind::ConnectionRefused.into();
                ClientError::Unreachable { socket: "/nowhere".into(), source }
            }
            Answer::Refused(code) => {
                let (code, message) = (code.to_owned(), "no".to_owned());
                ClientError::Refused { status: 409, code, message, hint: None }
            }
        };
        Err(KeyError::Service { volume: Uuid::nil(), source })
    }
}

impl AnchorStore for Recorder {
    fn advance(&self, anchor: &Anchor) -> Result<(), KeyError> {
        self.answer()?;
        self.stored.lock().push(anchor.commit);
        Ok(())
    }

    fn renew(&self) -> Result<(), KeyError> {
        self.renewals.send(()).expect("the test listens");
        self.answer()
    }

    fn renewed_every(&self) -> Duration {
        self.every
    }

    fn lasts(&self) -> Duration {
        self.lasts
    }
}

struct Rig {
    keeper: AnchorKeeper,
    answers: Sender<Answer>,
    stored: Arc<Mutex<Vec<u64>>>,
    renewals: Receiver<()>,
    lost: Receiver<String>,
}

fn rig(every: Duration) -> Rig {
    rig_with(every, NEVER)
}

fn rig_with(every: Duration, lasts: Duration) -> Rig {
    rig_by(Arc::new(since_boot), every, lasts)
}

fn rig_by(clock: Clock, every: Duration, lasts: Duration) -> Rig {
    let (answers, gate) = bounded(10);
    let (renewed, renewals) = bounded(10);
    let (told, lost) = bounded(10);
    let stored = Arc::default();
    let recorder = Recorder { stored: Arc::clone(&stored), renewals: renewed, gate, every, lasts };
    let lost_by = move |error: &KeyError| told.send(error.to_string()).expect("the test listens");
    let keeper = AnchorKeeper::start_by(clock, recorder, Some(anchor(1)), lost_by).unwrap();
    Rig { keeper, answers, stored, renewals, lost }
}

/// Nothing is renewed within the test.
const NEVER: Duration = Duration::from_secs(3600);

fn offered(keeper: &AnchorKeeper, commit: u64) -> bool {
    let mut asked = false;
    keeper.advance(anchor(commit), || {
        asked = true;
        anchor(commit)
    });
    asked
}

#[test]
fn d3_nobody_waits_for_the_service() {
    let Rig { keeper, answers, stored, .. } = rig(NEVER);
    assert!(!offered(&keeper, 1), "the service has it");
    assert!(offered(&keeper, 2));
    // Nothing answers yet; however often it is asked, the caller goes on.
    for commit in 3..1000 {
        assert!(!offered(&keeper, commit));
    }
    assert_eq!(keeper.confirmed(), Some(anchor(1)));
    answers.send(Answer::Yes).unwrap();
    answers.send(Answer::Yes).unwrap();
    assert!(keeper.finish(anchor(1000)));
    assert_eq!(*stored.lock(), [2, 1000]);
}

#[test]
fn f3_while_the_fate_of_an_anchor_is_unknown_no_other_is_sent() {
    let Rig { keeper, answers, stored, .. } = rig(NEVER);
    assert!(offered(&keeper, 2));
    answers.send(Answer::Away).unwrap();
    // The service comes back: the one that was offered is sent again, although the volume has gone on.
    answers.send(Answer::Yes).unwrap();
    while keeper.confirmed() != Some(anchor(2)) {
        assert!(!offered(&keeper, 7), "another was offered");
        thread::yield_now();
    }
    assert!(offered(&keeper, 7));
    // Once for the offer, once for the end, which may come before the first has been confirmed.
    answers.send(Answer::Yes).unwrap();
    answers.send(Answer::Yes).unwrap();
    assert!(keeper.finish(anchor(7)));
    assert!(stored.lock().starts_with(&[2, 7]), "{stored:?}");
}

#[test]
fn a_service_that_is_gone_at_the_end_is_reported() {
    let Rig { keeper, answers, .. } = rig(NEVER);
    answers.send(Answer::Away).unwrap();
    assert!(!keeper.finish(anchor(5)));
}

/// F12, D3: the lease is renewed again and again, also after any number of times that the service was away or refused for another reason, and
/// nothing of that stops the disk.
#[test]
fn f12_the_lease_is_renewed_however_long_the_service_was_away() {
    let Rig { keeper, answers, stored, renewals, lost } = rig(Duration::from_millis(1));
    for round in 0..40 {
        renewals.recv().unwrap();
        answers.send(if round % 4 == 0 { Answer::Refused("KMS.0307") } else { Answer::Away }).unwrap();
    }
    renewals.recv().unwrap();
    for _ in 0..3 {
        answers.send(Answer::Yes).unwrap();
    }
    let rest = thread::spawn(move || renewals.iter().count());
    assert!(offered(&keeper, 2));
    // As many answers as are asked for, until it has ended.
    let feeding = thread::spawn(move || while answers.send(Answer::Yes).is_ok() {});
    assert!(keeper.finish(anchor(3)));
    assert!(lost.try_recv().is_err(), "nobody took it");
    assert!(stored.lock().ends_with(&[3]));
    feeding.join().unwrap();
    rest.join().unwrap();
}

/// F12, F3: whoever is told that the volume is another's, or another history counts, hears it once, and tells and renews nothing any more.
#[test]
fn f12_who_lost_the_volume_is_told_once_and_says_nothing_more() {
    for code in ["KMSD.0001", "KMSD.0013", "KMSD.0014", "KMSD.0015"] {
        // By an anchor.
        let Rig { keeper, answers, stored, lost, .. } = rig(NEVER);
        assert!(offered(&keeper, 2));
        answers.send(Answer::Refused(code)).unwrap();
        assert!(lost.recv().unwrap().contains("no"), "{code}");
        for commit in 3..100 {
            offered(&keeper, commit);
        }
        assert!(!keeper.finish(anchor(100)), "{code}");
        assert!(lost.recv().is_err(), "{code}: told twice");
        assert_eq!(*stored.lock(), [] as [u64; 0], "{code}");
        // By a renewal.
        let Rig { keeper, answers, renewals, lost, .. } = rig(Duration::from_millis(1));
        renewals.recv().unwrap();
        answers.send(Answer::Refused(code)).unwrap();
        lost.recv().unwrap();
        assert!(renewals.recv_timeout(Duration::from_millis(50)).is_err(), "{code}: renewed again");
        drop(keeper);
    }
}

/// F12: who may not renew any more, because the volume was given to another user, stops when the lease has ended: he is not told who takes it. Before
/// that, and while the service is only away, he goes on.
#[test]
fn f12_who_may_not_renew_any_more_stops_when_the_lease_has_ended() {
    let Rig { keeper, answers, renewals, lost, .. } = rig_with(Duration::from_millis(1), Duration::ZERO);
    for answer in [Answer::Away, Answer::Refused("KMSD.0012"), Answer::Away] {
        renewals.recv().unwrap();
        answers.send(answer).unwrap();
    }
    renewals.recv().unwrap();
    assert!(lost.try_recv().is_err(), "the service was away, or full");
    answers.send(Answer::Refused("KMS.0307")).unwrap();
    lost.recv().unwrap();
    drop(keeper);
}

/// F12: that one stops before the lease has ended, not at the first refusal after that: by then another may have it.
#[test]
fn f12_who_may_not_renew_any_more_stops_before_another_gets_the_lease() {
    let every = Duration::from_millis(50);
    let Rig { keeper, answers, renewals, lost, .. } = rig_with(every, every * 4);
    let refusing = thread::spawn(move || while answers.send(Answer::Refused("KMS.0307")).is_ok() {});
    lost.recv().unwrap();
    // The fourth would have come when it was over.
    assert!(renewals.try_iter().count() <= 3);
    drop(keeper);
    refusing.join().unwrap();
}

/// F12, D3: after a pause of this process, in which another may have got the lease, nobody who wants something to be durable goes on before the service was
/// asked, and found out; once, also if it is away.
#[test]
fn f12_after_a_pause_nothing_is_acknowledged_before_the_lease_was_renewed() {
    let (every, lasts) = (Duration::from_secs(600), Duration::from_secs(2700));
    for (answer, is_lost) in
        [(Answer::Yes, false), (Answer::Away, false), (Answer::Refused("KMSD.0014"), true)]
    {
        let now = Arc::new(Mutex::new(Duration::from_secs(1_000_000)));
        let clock = Arc::clone(&now);
        let Rig { keeper, answers, renewals, lost, .. } =
            rig_by(Arc::new(move || *clock.lock()), every, lasts);
        let keeper = Arc::new(keeper);
        keeper.assure();
        assert!(renewals.try_recv().is_err(), "it was renewed just now");
        *now.lock() += lasts;
        let flushes: Vec<_> = (0..4)
            .map(|_| {
                let keeper = Arc::clone(&keeper);
                thread::spawn(move || keeper.assure())
            })
            .collect();
        renewals.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(flushes.iter().all(|flush| !flush.is_finished()), "it is not known yet");
        answers.send(answer).unwrap();
        for flush in flushes {
            flush.join().unwrap();
        }
        assert_eq!(lost.try_recv().is_ok(), is_lost);
        keeper.assure();
        assert!(renewals.try_recv().is_err(), "it was asked once");
        *now.lock() += lasts;
        if is_lost {
            // There is nothing to wait for any more.
            keeper.assure();
        }
    }
}
