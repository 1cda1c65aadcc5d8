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

/// A thread that tells one anchor at a time.
#[derive(Debug)]
pub struct AnchorKeeper {
    proposals: Sender<Anchor>,
    confirmed: Arc<Mutex<Option<Anchor>>>,
    thread: JoinHandle<()>,
}

impl AnchorKeeper {
    /// Starts it.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(store: impl AnchorStore) -> std::io::Result<Self> {
        let (proposals, queue) = bounded(1);
        let confirmed = Arc::new(Mutex::new(None));
        let known = Arc::clone(&confirmed);
        let thread = thread::Builder::new()
            .name("anchors".into())
            .stack_size(STACK)
            .spawn(move || keep(&store, &queue, &known))?;
        Ok(Self { proposals, confirmed, thread })
    }

    /// The newest anchor that is known to be stored.
    #[must_use]
    pub fn confirmed(&self) -> Option<Anchor> {
        *self.confirmed.lock()
    }

    /// Has an anchor stored, unless it is already, or another is on its way: then a later proposal will do.
    pub fn propose(&self, anchor: Anchor) {
        if self.confirmed() != Some(anchor) {
            // Full: one is on its way.
            let _ = self.proposals.try_send(anchor);
        }
    }

    /// Stores the last anchor and ends. The service's timeout bounds the wait. Tells whether it is stored.
    #[must_use]
    pub fn finish(self, last: Anchor) -> bool {
        let Self { proposals, confirmed, thread } = self;
        // The thread takes from the queue as long as there is a sender.
        let sent = *confirmed.lock() == Some(last) || proposals.send(last).is_ok();
        drop(proposals);
        sent && thread.join().is_ok() && *confirmed.lock() == Some(last)
    }
}

fn keep(store: &impl AnchorStore, queue: &Receiver<Anchor>, confirmed: &Mutex<Option<Anchor>>) {
    let mut away = false;
    for anchor in queue {
        match store.advance(&anchor) {
            Ok(()) => {
                *confirmed.lock() = Some(anchor);
                if away {
                    info!("the key service is back");
                }
                away = false;
            }
            // Said once for each absence; the disk works on.
            Err(error) if error.kind() == KeyErrorKind::Unreachable => {
                if !away {
                    warn!(%error, "the key service is away: the volume's newest state is not anchored");
                }
                away = true;
            }
            Err(error) => warn!(%error, commit = anchor.commit, "the anchor was refused"),
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

    #[test]
    fn d3_proposals_never_wait_for_the_service() {
        let (open, gate) = bounded(10);
        let stored = Arc::default();
        let keeper = AnchorKeeper::start(Recorder { stored: Arc::clone(&stored), gate }).unwrap();
        // Nothing answers yet; however many there are, the caller goes on.
        for commit in 1..1000 {
            keeper.propose(anchor(commit));
        }
        assert_eq!(keeper.confirmed(), None);
        for _ in 0..3 {
            open.send(true).unwrap();
        }
        assert!(keeper.finish(anchor(1000)));
        assert_eq!(stored.lock().last(), Some(&1000));
    }

    #[test]
    fn an_absent_service_is_tried_again_with_the_next_proposal() {
        let (open, gate) = bounded(10);
        let stored = Arc::default();
        let keeper = AnchorKeeper::start(Recorder { stored: Arc::clone(&stored), gate }).unwrap();
        open.send(false).unwrap();
        keeper.propose(anchor(1));
        open.send(true).unwrap();
        assert!(keeper.finish(anchor(2)));
        assert_eq!(*stored.lock(), [2]);
    }

    #[test]
    fn a_service_that_is_gone_at_the_end_is_reported() {
        let (open, gate) = bounded(10);
        let keeper = AnchorKeeper::start(Recorder { stored: Arc::default(), gate }).unwrap();
        open.send(false).unwrap();
        assert!(!keeper.finish(anchor(5)));
    }
}
