//! The one thread that writes. Changes that wait together are committed together, so that many callers share one sync.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::RwLock;
use tokio::sync::oneshot;

use super::{Contents, Store, StoreError};
use crate::domain::{
    integrity::IntegrityKey,
    registry::{Change, Conflict, Registry},
    time::TrustedClock,
};

/// Most changes in one transaction.
const GROUP: usize = 256;
/// Changes that may wait.
const QUEUE: usize = 4096;
/// How often a decision is made anew when the record changes under it.
const ATTEMPTS: usize = 16;

/// Why a change is not recorded.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// It does not fit what is there.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The store failed; nothing is recorded.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// Too many changes wait to be recorded; this one is not.
    #[error("{waiting} changes wait to be recorded already: try again in a moment")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// The writer has stopped.
    #[error("the service is shutting down")]
    Stopped,
}

enum Request {
    Change(Box<Change>, oneshot::Sender<Result<(), CommitError>>),
    Clock(TrustedClock, oneshot::Sender<Result<(), CommitError>>),
    Raise(u64, oneshot::Sender<Result<(), CommitError>>),
    Rekey(u64, IntegrityKey, oneshot::Sender<Result<(), CommitError>>),
}

/// The writer's handle. The thread ends when it is dropped, after everything that waits is written.
pub struct Writer {
    requests: Option<Sender<Request>>,
    registry: Arc<RwLock<Registry>>,
    epoch: Arc<AtomicU64>,
    is_failing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. The contents are what the store holds.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn start(store: Box<dyn Store>, contents: Contents) -> std::io::Result<Self> {
        let registry = Arc::new(RwLock::new(contents.registry));
        let epoch = Arc::new(AtomicU64::new(contents.epoch));
        let (requests, queue) = bounded(QUEUE);
        let (shared, number) = (Arc::clone(&registry), Arc::clone(&epoch));
        let is_failing = Arc::new(AtomicBool::new(false));
        let failing = Arc::clone(&is_failing);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || run(store, &queue, &shared, &number, &failing))?;
        Ok(Self { requests: Some(requests), registry, epoch, is_failing, thread: Some(thread) })
    }

    /// Keys and anchors as they stand: what is durable, never more.
    #[must_use]
    pub fn registry(&self) -> &RwLock<Registry> {
        &self.registry
    }

    /// Number of the newest durable commit.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether the newest change could not be recorded.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    /// Records a change. When this returns, it is durable and seen by everyone.
    ///
    /// # Errors
    /// If it is not.
    pub async fn commit(&self, change: Change) -> Result<(), CommitError> {
        self.send(|reply| Request::Change(Box::new(change), reply)).await
    }

    /// For a change that is decided on a record as it stands, and decided again if it stood no longer.
    #[must_use]
    pub const fn attempts(&self) -> Attempts<'_> {
        Attempts { writer: self, left: ATTEMPTS }
    }

    /// Records where the trusted clock stands.
    ///
    /// # Errors
    /// If it is not durable.
    pub async fn put_clock(&self, clock: TrustedClock) -> Result<(), CommitError> {
        self.send(|reply| Request::Clock(clock, reply)).await
    }

    /// Goes on with commit numbers from that one on.
    ///
    /// # Errors
    /// If that is not durable.
    pub async fn raise(&self, epoch: u64) -> Result<(), CommitError> {
        self.send(|reply| Request::Raise(epoch, reply)).await
    }

    /// Makes every MAC of the store anew with another key.
    ///
    /// # Errors
    /// If that is not durable; then the old key goes on.
    pub async fn rekey(&self, number: u64, key: IntegrityKey) -> Result<(), CommitError> {
        self.send(|reply| Request::Rekey(number, key, reply)).await
    }

    async fn send(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<(), CommitError>>) -> Request,
    ) -> Result<(), CommitError> {
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(CommitError::Stopped)?;
        requests.try_send(request(reply)).map_err(|error| match error {
            TrySendError::Full(_) => CommitError::Busy { waiting: QUEUE },
            TrySendError::Disconnected(_) => CommitError::Stopped,
        })?;
        answer.await.map_err(|_| CommitError::Stopped)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// What is left of the attempts at one change.
pub struct Attempts<'a> {
    writer: &'a Writer,
    left: usize,
}

impl Attempts<'_> {
    /// Whether none was made yet.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.left == ATTEMPTS
    }

    /// Records the decision. `false`: somebody else was quicker, so look at the record and decide again.
    ///
    /// # Errors
    /// If it is not recorded for another reason, or others were quicker every time.
    pub async fn commit(&mut self, change: Change) -> Result<bool, CommitError> {
        match self.writer.commit(change).await {
            Err(CommitError::Conflict(Conflict::Stale)) if self.left > 1 => {
                self.left -= 1;
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }
}

fn run(
    mut store: Box<dyn Store>,
    queue: &Receiver<Request>,
    registry: &RwLock<Registry>,
    epoch: &AtomicU64,
    is_failing: &AtomicBool,
) {
    let mut waiting: Option<Request> = None;
    while let Some(first) = waiting.take().or_else(|| queue.recv().ok()) {
        let (change, reply) = match first {
            Request::Clock(clock, reply) => {
                let done = store.put_clock(&clock).map_err(|e| CommitError::Store(Arc::new(e)));
                is_failing.store(done.is_err(), Ordering::Relaxed);
                let _ = reply.send(done.map(|number| epoch.store(number, Ordering::Release)));
                continue;
            }
            Request::Raise(number, reply) => {
                let done = store.raise(number).map_err(|e| CommitError::Store(Arc::new(e)));
                is_failing.store(done.is_err(), Ordering::Relaxed);
                let _ = reply.send(done.map(|number| epoch.store(number, Ordering::Release)));
                continue;
            }
            Request::Rekey(number, key, reply) => {
                let done = store.rekey(number, key).map_err(|e| CommitError::Store(Arc::new(e)));
                is_failing.store(done.is_err(), Ordering::Relaxed);
                let _ = reply.send(done.map(|number| epoch.store(number, Ordering::Release)));
                continue;
            }
            Request::Change(change, reply) => (*change, reply),
        };
        let mut changes = Vec::new();
        let mut replies = Vec::new();
        admit(registry, change, reply, &mut changes, &mut replies);
        // Take along what waits, up to the first change that must see the effect of one in this group.
        while changes.len() < GROUP {
            match queue.try_recv() {
                Ok(Request::Change(change, reply)) if !changes.iter().any(|c| change.touches(c)) => {
                    admit(registry, *change, reply, &mut changes, &mut replies);
                }
                Ok(other) => {
                    waiting = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        if changes.is_empty() {
            continue;
        }
        let committed = store.commit(&changes);
        is_failing.store(committed.is_err(), Ordering::Relaxed);
        match committed {
            Ok(number) => {
                epoch.store(number, Ordering::Release);
                // Durable first, then seen, then answered: no caller learns of a change that a crash could undo.
                let mut registry = registry.write();
                changes.into_iter().for_each(|change| registry.apply(change));
                drop(registry);
                replies.into_iter().for_each(|reply| drop(reply.send(Ok(()))));
            }
            Err(error) => {
                tracing::error!(%error, "the store cannot record changes");
                // Whether a failed commit is on disk only the store can say.
                match store.load() {
                    Ok(contents) => {
                        epoch.store(contents.epoch, Ordering::Release);
                        *registry.write() = contents.registry;
                    }
                    Err(error) => tracing::error!(%error, "the store cannot be read either"),
                }
                let error = Arc::new(error);
                replies
                    .into_iter()
                    .for_each(|reply| drop(reply.send(Err(CommitError::Store(Arc::clone(&error))))));
            }
        }
    }
}

fn admit(
    registry: &RwLock<Registry>,
    change: Change,
    reply: oneshot::Sender<Result<(), CommitError>>,
    changes: &mut Vec<Change>,
    replies: &mut Vec<oneshot::Sender<Result<(), CommitError>>>,
) {
    match registry.read().admits(&change) {
        Ok(()) => {
            changes.push(change);
            replies.push(reply);
        }
        Err(conflict) => drop(reply.send(Err(conflict.into()))),
    }
}
