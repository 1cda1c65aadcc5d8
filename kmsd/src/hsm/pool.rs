//! Sessions on threads of their own, a bounded queue before them, and the way back after the token was lost.

mod presence;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, tick};
use tokio::sync::{Semaphore, oneshot};

use self::presence::Presence;
use super::{HsmError, Recovery, Session, Token, TokenIdentity};
use crate::domain::envelope::Mechanism;

/// Bounds of a pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolSettings {
    /// Sessions, and threads.
    pub sessions: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// How often a token that is away is looked for.
    pub probe_every: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self { sessions: 4, queue: 1024, probe_every: Duration::from_secs(1) }
    }
}

/// How the token is.
#[derive(Clone, Debug)]
pub enum TokenStatus {
    /// It answers.
    Present,
    /// It does not.
    Away {
        /// Since when.
        since: Instant,
        /// Why.
        cause: Box<HsmError>,
    },
}

/// How many tries of one call the recoveries of other threads may cut short.
const OVERTAKEN: usize = 8;

/// A call, with its own way of answering.
type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// The pool. Cheap to clone; the threads end when the last clone is gone.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    token: Arc<dyn Token>,
    presence: Arc<Presence>,
    jobs: Option<Arc<Sender<Job>>>,
    stop_probe: Option<Sender<()>>,
    /// Held for as long as surplus workers may wait.
    stop_waiting: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    settings: PoolSettings,
    /// Lets one call at a time change objects.
    changes: Semaphore,
    /// Calls that wait for that.
    changing: AtomicUsize,
}

/// A call that waits for its turn to change objects, or has it.
struct Changing<'a>(&'a AtomicUsize);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Pool {
    /// Starts the threads. Sessions are opened when they are needed first.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn start(token: Arc<dyn Token>, settings: PoolSettings) -> std::io::Result<Self> {
        let presence = Arc::new(Presence::new(Arc::clone(&token)));
        let (jobs, queue) = bounded::<Job>(settings.queue);
        let mut threads = Vec::new();
        let jobs = Arc::new(jobs);
        let held = Arc::new(AtomicUsize::new(0));
        let (stop_waiting, stopped_waiting) = bounded::<()>(0);
        for number in 0..settings.sessions.max(1) {
            let (queue, stopped) = (queue.clone(), stopped_waiting.clone());
            let mut worker = Worker {
                token: Arc::clone(&token),
                presence: Arc::clone(&presence),
                held: Arc::clone(&held),
                jobs: Arc::downgrade(&jobs),
                session: None,
            };
            threads.push(std::thread::Builder::new().name(format!("hsm-{number}")).spawn(move || {
                for job in &queue {
                    if worker.serve(job) == Served::Surplus {
                        // A session may become free. Until then the other workers have one each.
                        match stopped.recv_timeout(settings.probe_every) {
                            Err(RecvTimeoutError::Timeout) => {}
                            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                        }
                    }
                }
            })?);
        }
        let (stop_probe, stopped) = bounded::<()>(0);
        let prober = Prober { token: Arc::clone(&token), presence: Arc::clone(&presence) };
        threads.push(
            std::thread::Builder::new()
                .name("hsm-probe".to_owned())
                .spawn(move || prober.run(&stopped, settings.probe_every))?,
        );
        let inner = Inner {
            token,
            presence,
            jobs: Some(jobs),
            stop_probe: Some(stop_probe),
            stop_waiting: Some(stop_waiting),
            threads,
            settings,
            changes: Semaphore::new(1),
            changing: AtomicUsize::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Which token it is.
    #[must_use]
    pub fn identity(&self) -> TokenIdentity {
        self.inner.token.identity()
    }

    /// How new content is sealed.
    #[must_use]
    pub fn mechanism(&self) -> Mechanism {
        self.inner.token.mechanism()
    }

    /// How the token is.
    #[must_use]
    pub fn status(&self) -> TokenStatus {
        self.inner.presence.status()
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.inner.jobs.as_ref().map_or(0, |jobs| jobs.len())
    }

    /// Runs `operation` on a session. It may run more than once, if the token is lost meanwhile; so it must be one that
    /// can be repeated.
    ///
    /// # Errors
    /// At once if the token is away or the queue is full; else what the token answers.
    pub async fn call<T, F>(&self, mut operation: F) -> Result<T, HsmError>
    where
        T: Send + 'static,
        F: FnMut(&mut dyn Session) -> Result<T, HsmError> + Send + 'static,
    {
        if let Some(refusal) = self.inner.presence.refusal() {
            return Err(refusal);
        }
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |worker| {
            // Nobody waits for the answer any more: the request timed out.
            if !reply.is_closed() {
                let _ = reply.send(worker.run(&mut operation));
            }
        });
        let jobs = self.inner.jobs.as_ref().ok_or(HsmError::Stopped)?;
        jobs.try_send(job).map_err(|e| match e {
            TrySendError::Full(_) => HsmError::Busy { waiting: self.inner.settings.queue },
            TrySendError::Disconnected(_) => HsmError::Stopped,
        })?;
        answer.await.map_err(|_| HsmError::Stopped)?
    }

    /// As [`call`](Self::call), for what makes or destroys objects. That takes the token long, and it does one at a time anyhow: so it takes no more than one worker, and
    /// whoever uses a key does not wait for those who make one.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn change<T, F>(&self, operation: F) -> Result<T, HsmError>
    where
        T: Send + 'static,
        F: FnMut(&mut dyn Session) -> Result<T, HsmError> + Send + 'static,
    {
        let waiting = self.inner.changing.fetch_add(1, Ordering::SeqCst);
        let _counted = Changing(&self.inner.changing);
        if waiting >= self.inner.settings.queue {
            return Err(HsmError::Busy { waiting });
        }
        if let Some(refusal) = self.inner.presence.refusal() {
            return Err(refusal);
        }
        let _turn = self.inner.changes.acquire().await.map_err(|_| HsmError::Stopped)?;
        self.call(operation).await
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs = None;
        self.stop_probe = None;
        self.stop_waiting = None;
        for thread in self.threads.drain(..) {
            // A worker's panic has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// One thread's part.
struct Worker {
    token: Arc<dyn Token>,
    presence: Arc<Presence>,
    /// Sessions that the workers have open.
    held: Arc<AtomicUsize>,
    /// To give a job back. Weak, so that the pool's end is seen.
    jobs: Weak<Sender<Job>>,
    session: Option<Held>,
}

/// A session, and the generation of the token that it belongs to.
struct Held {
    generation: u64,
    session: Box<dyn Session>,
    count: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What came of a job.
#[derive(PartialEq, Eq)]
enum Served {
    /// It was answered.
    Done,
    /// The token has no session for this worker; another one has the job.
    Surplus,
}

impl Worker {
    /// Answers a job, or leaves it to a worker that has a session, when the token allows fewer than there are workers.
    fn serve(&mut self, job: Job) -> Served {
        if matches!(self.session(), Err(HsmError::NoSession)) && self.held.load(Ordering::SeqCst) > 0 {
            // If the pool ends in this moment, the job is dropped, which its caller is told.
            if let Some(jobs) = self.jobs.upgrade() {
                match jobs.try_send(job) {
                    Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                    Err(TrySendError::Full(job)) => job(self),
                }
            }
            return Served::Surplus;
        }
        job(self);
        Served::Done
    }

    /// The session, opened when it is needed first, or anew.
    fn session(&mut self) -> Result<&mut dyn Session, HsmError> {
        let generation = self.token.generation();
        if self.session.as_ref().is_none_or(|held| held.generation != generation) {
            self.session = None;
            let session = self.token.open()?;
            self.held.fetch_add(1, Ordering::SeqCst);
            self.session = Some(Held { generation, session, count: Arc::clone(&self.held) });
        }
        let held = self.session.as_mut().expect("it has just been opened");
        Ok(held.session.as_mut())
    }

    fn run<T>(
        &mut self,
        operation: &mut impl FnMut(&mut dyn Session) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        let mut seen = self.token.generation();
        let mut is_second_try = false;
        for _ in 0..OVERTAKEN {
            let error = match self.attempt(operation) {
                Err(error) if error.recovery() != Recovery::None => error,
                other => return other,
            };
            if self.token.generation() == seen
                && let Some(refusal) = self.refusal(&error, is_second_try)
            {
                return Err(refusal);
            }
            self.session = None;
            let recovered = match error.recovery() {
                // Another thread's recovery has cut this try short: that is no loss of its own.
                _ if self.token.generation() != seen => Ok(()),
                // Once more, and no further: a token that is lost again is away.
                Recovery::Reinitialise if !is_second_try => {
                    tracing::warn!(%error, "the token was lost, recovering");
                    is_second_try = true;
                    self.token.recover(seen)
                }
                _ => Err(error),
            };
            match recovered {
                Ok(()) => self.presence.came_back(seen),
                Err(cause) => {
                    if let Some(refusal) = self.presence.went_away(seen, cause) {
                        return Err(refusal);
                    }
                }
            }
            seen = self.token.generation();
        }
        Err(HsmError::Lost {
            function: "each try".to_owned(),
            code: "the token was lost and found again by others meanwhile".to_owned(),
        })
    }

    /// What a general failure is if the token is there all the same: its answer to this one call. It is there if it has just been recovered, or if it has
    /// failed so after a recovery before, and the session answers. Else a token that is full, say, would be taken for gone whenever somebody makes a key.
    fn refusal(&mut self, error: &HsmError, is_recovered: bool) -> Option<HsmError> {
        let HsmError::Unclear { function, code } = error else { return None };
        let failure = (function.clone(), code.clone());
        if !is_recovered && !self.presence.is_known(&failure) {
            return None;
        }
        self.session().ok()?.answers().ok()?;
        if is_recovered {
            self.presence.remember(failure);
        }
        Some(HsmError::Failed { function: function.clone(), code: code.clone() })
    }

    fn attempt<T>(
        &mut self,
        operation: &mut impl FnMut(&mut dyn Session) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        operation(self.session()?)
    }
}

/// Looks for a token that is away.
struct Prober {
    token: Arc<dyn Token>,
    presence: Arc<Presence>,
}

impl Prober {
    fn run(&self, stopped: &Receiver<()>, every: Duration) {
        let ticks = tick(every);
        loop {
            crossbeam_channel::select! {
                recv(stopped) -> _ => return,
                recv(ticks) -> _ => self.probe(),
            }
        }
    }

    fn probe(&self) {
        if self.presence.refusal().is_none() {
            return;
        }
        let seen = self.token.generation();
        match self.token.recover(seen) {
            Ok(()) => self.presence.came_back(seen),
            Err(cause) => {
                self.presence.went_away(seen, cause);
            }
        }
    }
}
