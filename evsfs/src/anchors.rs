//! Telling the key service how far a volume has come (F3), without ever waiting for it while the disk is in use (D3).

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use tracing::{info, warn};
use uuid::Uuid;

use crate::engine::Anchor;
use crate::keys::{KeyError, KeyErrorKind, KeyService};
use crate::open::to_service;

const STACK: usize = 256 * 1024;

/// Where anchors are kept.
pub trait AnchorStore: Send + 'static {
    /// Stores a newer anchor.
    ///
    /// # Errors
    /// If it has a newer one, or cannot be reached.
    fn advance(&self, anchor: &Anchor) -> Result<(), KeyError>;
}

/// The key service's store of one volume.
#[derive(Debug)]
pub struct VolumeAnchors {
    /// The service.
    pub service: KeyService,
    /// The volume.
    pub volume: Uuid,
}

impl AnchorStore for VolumeAnchors {
    fn advance(&self, anchor: &Anchor) -> Result<(), KeyError> {
        self.service.advance(self.volume, &to_service(anchor))
    }
}

/// What is known of the service's side.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The newest anchor that it is known to have.
    confirmed: Option<Anchor>,
    /// One that was sent and may or may not have arrived. No other is sent before that is known: the volume remembers this one,
    /// so that whatever the service has in the end is one that the volume passes through.
    offered: Option<Anchor>,
    /// It is on its way now.
    sending: bool,
}

/// A thread that tells one anchor at a time.
#[derive(Debug)]
pub struct AnchorKeeper {
    queue: Sender<Anchor>,
    known: Arc<Mutex<Known>>,
    thread: JoinHandle<()>,
}

impl AnchorKeeper {
    /// Starts it. `confirmed` is what the service had at the attach.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(store: impl AnchorStore, confirmed: Option<Anchor>) -> std::io::Result<Self> {
        let (queue, offers) = bounded(1);
        let known = Arc::new(Mutex::new(Known { confirmed, ..Known::default() }));
        let shared = Arc::clone(&known);
        let thread = thread::Builder::new()
            .name("anchors".into())
            .stack_size(STACK)
            .spawn(move || keep(&store, &offers, &shared))?;
        Ok(Self { queue, known, thread })
    }

    /// The newest anchor that is known to be stored.
    #[must_use]
    pub fn confirmed(&self) -> Option<Anchor> {
        self.known.lock().confirmed
    }

    /// Has the newest state stored unless it is already, without waiting for it. `offer` makes the volume remember its newest state
    /// as the one that is sent, and gives it back; it is not called while the fate of an earlier one is unknown.
    pub fn advance(&self, newest: Anchor, offer: impl FnOnce() -> Anchor) {
        let mut known = self.known.lock();
        if known.sending {
            return;
        }
        let anchor = match known.offered {
            Some(again) => again,
            None if known.confirmed == Some(newest) => return,
            None => offer(),
        };
        known.offered = Some(anchor);
        // There is room: nothing is on its way.
        known.sending = self.queue.try_send(anchor).is_ok();
    }

    /// Stores the state in which the volume was closed, and ends. The service's timeouts bound the wait. Tells whether it is
    /// stored.
    #[must_use]
    pub fn finish(self, last: Anchor) -> bool {
        let Self { queue, known, thread } = self;
        // The thread takes from the queue as long as there is a sender.
        let sent = known.lock().confirmed == Some(last) || queue.send(last).is_ok();
        drop(queue);
        sent && thread.join().is_ok() && known.lock().confirmed == Some(last)
    }
}

fn keep(store: &impl AnchorStore, offers: &Receiver<Anchor>, known: &Mutex<Known>) {
    let mut away = false;
    for anchor in offers {
        let result = store.advance(&anchor);
        let mut known = known.lock();
        known.sending = false;
        match result {
            Ok(()) => {
                known.confirmed = Some(anchor);
                known.offered = None;
                if away {
                    info!("the key service is back");
                }
                away = false;
            }
            // Said once for each absence; the disk works on, and the same anchor is tried again.
            Err(error) if error.kind() == KeyErrorKind::Unreachable => {
                if !away {
                    warn!(%error, "the key service is away: the volume's newest state is not anchored");
                }
                away = true;
            }
            Err(error) => {
                known.offered = None;
                warn!(%error, commit = anchor.commit, "the anchor was refused");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kmsd::client::ClientError;

    use super::*;
    use crate::crypto::Chain;

    fn anchor(commit: u64) -> Anchor {
        Anchor { commit, chain: Chain([7; 32]) }
    }

    struct Recorder {
        stored: Arc<Mutex<Vec<u64>>>,
        gate: Receiver<bool>,
    }

    impl AnchorStore for Recorder {
        fn advance(&self, anchor: &Anchor) -> Result<(), KeyError> {
            if self.gate.recv().expect("the test tells") {
                self.stored.lock().push(anchor.commit);
                return Ok(());
            }
            let source = std::io::ErrorKind::ConnectionRefused.into();
            let source = ClientError::Unreachable { socket: "/nowhere".into(), source };
            Err(KeyError::Service { volume: Uuid::nil(), source })
        }
    }

    fn keeper() -> (AnchorKeeper, Sender<bool>, Arc<Mutex<Vec<u64>>>) {
        let (open, gate) = bounded(10);
        let stored = Arc::default();
        let recorder = Recorder { stored: Arc::clone(&stored), gate };
        (AnchorKeeper::start(recorder, Some(anchor(1))).unwrap(), open, stored)
    }

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
        let (keeper, open, stored) = keeper();
        assert!(!offered(&keeper, 1), "the service has it");
        assert!(offered(&keeper, 2));
        // Nothing answers yet; however often it is asked, the caller goes on.
        for commit in 3..1000 {
            assert!(!offered(&keeper, commit));
        }
        assert_eq!(keeper.confirmed(), Some(anchor(1)));
        open.send(true).unwrap();
        open.send(true).unwrap();
        assert!(keeper.finish(anchor(1000)));
        assert_eq!(*stored.lock(), [2, 1000]);
    }

    #[test]
    fn f3_while_the_fate_of_an_anchor_is_unknown_no_other_is_sent() {
        let (keeper, open, stored) = keeper();
        assert!(offered(&keeper, 2));
        open.send(false).unwrap();
        // The service comes back: the one that was offered is sent again, although the volume has gone on.
        open.send(true).unwrap();
        while keeper.confirmed() != Some(anchor(2)) {
            assert!(!offered(&keeper, 7), "another was offered");
            thread::yield_now();
        }
        assert!(offered(&keeper, 7));
        // Once for the offer, once for the end, which may come before the first has been confirmed.
        open.send(true).unwrap();
        open.send(true).unwrap();
        assert!(keeper.finish(anchor(7)));
        assert!(stored.lock().starts_with(&[2, 7]), "{stored:?}");
    }

    #[test]
    fn a_service_that_is_gone_at_the_end_is_reported() {
        let (keeper, open, _) = keeper();
        open.send(false).unwrap();
        assert!(!keeper.finish(anchor(5)));
    }
}
