//! Telling the key service how far a volume has come (F3), and that it is still written to (F12), without ever waiting for it while the disk is in
//! use (D3).
//!
//! While the service is away the disk works on, however long that takes: nobody else gets the volume's lease meanwhile. When it is back, the
//! lease is renewed, unless somebody got it after all (the service was away from here alone): then this side stops.
//!
//! This process may have stood still for longer than a lease lasts, by a suspended host or a paused machine, and somebody may have got the lease meanwhile. So
//! time is that since boot, which goes on then, and the first flush after such a pause waits for one renewal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use parking_lot::Mutex;
use tracing::{info, warn};

use crate::engine::Anchor;
use crate::keys::{KeyError, KeyErrorKind};
use crate::lease::since_boot;

const STACK: usize = 256 * 1024;

/// How long a renewal and the telling of an anchor may take, with some time to spare: what is late by more was not run.
const LATE: Duration = Duration::from_secs(10);

/// Tells the time since the host's boot.
type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Where anchors are kept, and the right to move them.
pub trait AnchorStore: Send + 'static {
    /// Stores a newer anchor.
    ///
    /// # Errors
    /// If it has a newer one, the volume is somebody else's by now, or it cannot be reached.
    fn advance(&self, anchor: &Anchor) -> Result<(), KeyError>;

    /// Keeps the right to write to the volume.
    ///
    /// # Errors
    /// If the volume is somebody else's by now, or it cannot be reached.
    fn renew(&self) -> Result<(), KeyError>;

    /// How often that is to be done.
    fn renewed_every(&self) -> Duration;

    /// How long the right lasts without.
    fn lasts(&self) -> Duration;
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

/// A thread that tells one anchor at a time, and renews the lease.
#[derive(Debug)]
pub struct AnchorKeeper {
    /// Gone when it is to end.
    queue: Option<Sender<Anchor>>,
    /// Who waits for a renewal sends what goes when it is done.
    calls: Sender<Sender<()>>,
    known: Arc<Mutex<Known>>,
    watch: Watch,
    thread: Option<JoinHandle<()>>,
}

/// When the service was last asked, whatever came of it.
#[derive(Clone)]
struct Watch {
    clock: Clock,
    /// In milliseconds.
    tried: Arc<AtomicU64>,
    /// After so long without a try, this process stood still.
    most: Duration,
}

impl Watch {
    fn note(&self) {
        let now = (self.clock)().as_millis();
        self.tried.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Release);
    }

    fn stood_still(&self) -> bool {
        let tried = Duration::from_millis(self.tried.load(Ordering::Acquire));
        (self.clock)().saturating_sub(tried) > self.most
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("tried", &self.tried).field("most", &self.most).finish_non_exhaustive()
    }
}

impl AnchorKeeper {
    /// Starts it. `confirmed` is what the service had at the attach. `lost` is called once, and nothing is told or renewed after it, when the service says
    /// that the volume is somebody else's, or that its newest state is not this one's.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(
        store: impl AnchorStore,
        confirmed: Option<Anchor>,
        lost: impl FnOnce(&KeyError) + Send + 'static,
    ) -> std::io::Result<Self> {
        Self::start_by(Arc::new(since_boot), store, confirmed, lost)
    }

    fn start_by(
        clock: Clock,
        store: impl AnchorStore,
        confirmed: Option<Anchor>,
        lost: impl FnOnce(&KeyError) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, offers) = bounded(1);
        let (calls, called) = unbounded();
        // The service gives the lease away when nothing was heard for somewhat longer.
        let every = store.renewed_every();
        let most = store.lasts().saturating_sub(every).max(every + LATE);
        let watch = Watch { clock, tried: Arc::default(), most };
        watch.note();
        let seen = watch.clone();
        let known = Arc::new(Mutex::new(Known { confirmed, ..Known::default() }));
        let shared = Arc::clone(&known);
        let thread = thread::Builder::new()
            .name("anchors".into())
            .stack_size(STACK)
            .spawn(move || keep(&store, &offers, called, &shared, &seen, lost))?;
        Ok(Self { queue: Some(queue), calls, known, watch, thread: Some(thread) })
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
        known.sending = self.send(anchor);
    }

    /// To be called before anything is acknowledged as durable: when this process stood still for so long that somebody may have got the lease, it waits for
    /// one renewal, and for the consequences. While the service is away renewals are tried, so nobody waits here (D3).
    pub fn assure(&self) {
        if !self.watch.stood_still() {
            return;
        }
        let (done, ended) = bounded(0);
        if self.calls.send(done).is_ok() {
            // Nothing is ever sent: the other end goes.
            let _ = ended.recv();
        }
    }

    /// Stores the state in which the volume was closed, and ends. The service's timeouts bound the wait. Tells whether it is
    /// stored.
    #[must_use]
    pub fn finish(mut self, last: Anchor) -> bool {
        let is_known = self.known.lock().confirmed == Some(last);
        // The thread takes from the queue as long as there is a sender: what is before it goes out first.
        let sent = is_known || self.queue.as_ref().is_some_and(|queue| queue.send(last).is_ok());
        sent && self.end() && self.confirmed() == Some(last)
    }

    fn send(&self, anchor: Anchor) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.try_send(anchor).is_ok())
    }

    /// Ends the thread after what it does now, and the lease with it. Whether it had not panicked.
    fn end(&mut self) -> bool {
        self.queue = None;
        self.thread.take().is_none_or(|thread| thread.join().is_ok())
    }
}

impl Drop for AnchorKeeper {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the thread does next.
enum Next {
    Tell(Anchor),
    /// Somebody may wait for it.
    Renew(Option<Sender<()>>),
    End,
}

fn keep(
    store: &impl AnchorStore,
    offers: &Receiver<Anchor>,
    called: Receiver<Sender<()>>,
    known: &Mutex<Known>,
    watch: &Watch,
    lost: impl FnOnce(&KeyError),
) {
    let every = store.renewed_every();
    let mut heard = Heard::default();
    let mut due = Instant::now() + every;
    let mut renewed = (watch.clock)();
    let (error, waiting) = loop {
        // Renewed when it is time, however many anchors there are to be told.
        let left = due.saturating_duration_since(Instant::now());
        let next = if left.is_zero() {
            Next::Renew(None)
        } else {
            select! {
                recv(called) -> waiting => Next::Renew(waiting.ok()),
                recv(offers) -> offer => offer.map_or(Next::End, Next::Tell),
                default(left) => Next::Renew(None),
            }
        };
        let (result, waiting) = match next {
            Next::Tell(anchor) => {
                let told = store.advance(&anchor);
                let mut known = known.lock();
                known.sending = false;
                match &told {
                    Ok(()) => (known.confirmed, known.offered) = (Some(anchor), None),
                    // It may have arrived all the same.
                    Err(error) if error.kind() == KeyErrorKind::Unreachable => {}
                    Err(_) => known.offered = None,
                }
                (told, None)
            }
            // It was renewed meanwhile.
            Next::Renew(Some(_)) if !watch.stood_still() => continue,
            Next::Renew(waiting) => {
                due = Instant::now() + every;
                let asked = (watch.clock)();
                let answer = store.renew();
                if answer.is_ok() {
                    renewed = asked;
                }
                (answer, waiting)
            }
            Next::End => return,
        };
        match result {
            Err(error) if error.kind().is_final() => break (error, waiting),
            // The anchor was given to another user. Before the next renewal the lease will have ended, and whoever takes it will not be told of here.
            Err(error)
                if error.kind() == KeyErrorKind::AccessDenied
                    && (watch.clock)().saturating_sub(renewed) + every >= store.lasts() =>
            {
                break (error, waiting);
            }
            other => heard.note(other.err()),
        }
        // Not before the answer, nor where the volume is lost: until then nobody acknowledges anything.
        watch.note();
    };
    lost(&error);
    // Whoever waits sees what became of it. Whoever comes later is kept waiting by nobody, and told nothing.
    drop(waiting);
    drop(called);
    for _ in offers {}
}

/// What was said of the service in the log: the disk works on, and the same is tried again, so once for each absence and kind of refusal.
#[derive(Default)]
struct Heard {
    away: bool,
    refused: Option<KeyErrorKind>,
}

impl Heard {
    fn note(&mut self, error: Option<KeyError>) {
        match error.map(|error| (error.kind(), error)) {
            Some((KeyErrorKind::Unreachable, error)) => {
                if !self.away {
                    warn!(%error, "the key service is away: the volume's newest state is not anchored");
                }
                self.away = true;
            }
            other => {
                if self.away {
                    info!("the key service is back");
                }
                self.away = false;
                let refused = other.as_ref().map(|(kind, _)| *kind);
                if let Some((_, error)) = other.filter(|_| self.refused != refused) {
                    warn!(%error, "the key service refused the volume's anchor or lease; it is tried again");
                }
                self.refused = refused;
            }
        }
    }
}

#[cfg(test)]
mod tests;
