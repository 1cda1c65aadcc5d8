//! The life of an attached disk: mounted, served, detached.
//!
//! ```text
//!   signals --\                         /--> BlockDevice <-- FUSE threads
//!   control ---+--> queue --> one thread
//!   session --/                         \--> unmount, close, end
//! ```
//!
//! Everything but the disk's own reads and writes goes through one queue, so that no two changes meet. Those that ask the key service are
//! carried out beside it, since nothing else may wait for that; other changes wait their turn.

mod key_requests;
mod readiness;
mod signals;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, select, unbounded};
use serde_json::{Value, json};
use tracing::{debug, error, info, warn};

use self::key_requests::KeyRequests;
pub use self::readiness::{Readiness, Ready, await_ready};
pub use self::signals::Signals;
use crate::control::{Call, ControlError, Listeners, Request};
use crate::device::BlockDevice;
use crate::failure::{Failure, StartError};
use crate::fuse::{Closed, DiskFs, Openings, Threads};
use crate::mount::{self, MountError, Mounted, Obstacle, Point, table};
use crate::process::{give_back_memory, processors, resident_bytes};

/// The kernel reports the end of an opening, and that of the connection, some time after the one who caused it has gone on.
const KERNEL: Duration = Duration::from_secs(1);

/// How much later that may be on a host that is busy. So long is waited only for a disk that somebody has open who is not to be found: the
/// report is still on its way then, in all likelihood.
const BUSY_KERNEL: Duration = Duration::from_secs(5);

/// How often a signal that found the disk in use is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// A device as its serving process sees it: beside the disk's own requests there are operations on it, and an end.
pub trait Attachment: BlockDevice + Sized {
    /// Facts for `status`, beside those of the process.
    fn status(&self) -> Value;

    /// Carries out an operation that only this kind of device knows.
    ///
    /// # Errors
    /// If it has no such operation, or that fails.
    fn operate(&self, request: &Request) -> Result<Value, Failure> {
        Err(ControlError::Unsupported { operation: request.operation() }.into())
    }

    /// Called every few seconds.
    fn tick(&self) {}

    /// Nobody has asked for anything for a while: drops from memory what can be read again.
    fn rest(&self) {}

    /// What keeps others from its file until it goes.
    type Lock;

    /// Makes everything durable and erases what is secret. Fails if something could not be made durable.
    fn close(self) -> (Self::Lock, Result<(), Failure>);
}

/// What a disk is served with.
#[derive(Debug)]
pub struct Settings {
    /// The file, for messages.
    pub file: PathBuf,
    /// Its device and inode number.
    pub identity: (u64, u64),
    /// Where to mount.
    pub point: Point,
    /// Path of the control socket.
    pub control: Option<PathBuf>,
    /// The kernel keeps pages.
    pub cached: bool,
    /// No writes.
    pub read_only: bool,
    /// Other users may use the mount.
    pub allow_other: bool,
    /// How often the device may do what is not urgent.
    pub tick: Duration,
}

enum Event {
    Signal(&'static str),
    Call(Call),
    /// A change that asked the key service is made, or has failed.
    Answered,
    Ended(io::Result<()>),
}

/// Mounts a device at a prepared point, tells `ready`, and serves until it is detached.
///
/// # Errors
/// If it cannot be mounted, or the end was not clean.
pub fn serve<D: Attachment>(
    device: D,
    settings: Settings,
    signals: &Signals,
    ready: Readiness,
) -> Result<(), Failure> {
    let device = Arc::new(device);
    let openings = Arc::new(Openings::default());
    let threads = Arc::new(Threads::new(processors()));
    let (device_id, inode) = settings.identity;
    let source = table::source(device_id, inode, uuid::Uuid::new_v4().as_u64_pair().0);
    let (events, queue) = unbounded();
    // From here on there is something to take down in order.
    signals.hand_over(events.clone());
    let listeners = Listeners::bind(&source, settings.control.as_deref())?;

    let fs = DiskFs::new(
        Arc::clone(&device),
        settings.file.display().to_string(),
        settings.cached,
        settings.read_only,
        Arc::clone(&openings),
        Arc::clone(&threads),
    );
    let options = mount::Options { allow_other: settings.allow_other, read_only: settings.read_only, source };
    let (mounted, session) = mount::mount(fs, &settings.point, &options)?;
    // The directory below is nobody's business from here on.
    drop(settings.point);
    let service = Service {
        device,
        mounted,
        openings,
        threads,
        listeners,
        queue,
        keys: KeyRequests::default(),
        tick: settings.tick,
        started: Instant::now(),
    };

    let started = start(&service.listeners, &events, session)
        .map_err(|source| StartError::System { operation: "start a thread", source })
        .and_then(|()| ready.tell(&service.ready()));
    if let Err(error) = started {
        service.give_up();
        return Err(error.into());
    }
    info!(file = %settings.file.display(), disk = %service.mounted.disk().display(), "attached");
    service.run()
}

fn start<D: BlockDevice>(
    listeners: &Listeners,
    events: &Sender<Event>,
    session: fuser::Session<DiskFs<D>>,
) -> io::Result<()> {
    run_session(thread::Builder::new().name("session".into()), events, || session.run())?;
    listeners.serve(events, Event::Call)
}

fn run_session(
    thread: thread::Builder,
    events: &Sender<Event>,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let end = SessionEnd { events: events.clone(), is_told: false };
    thread.spawn(move || end.tell(run())).map(drop)
}

/// The session's end is told in any case: its thread may panic, or never start.
struct SessionEnd {
    events: Sender<Event>,
    is_told: bool,
}

impl SessionEnd {
    fn tell(mut self, result: io::Result<()>) {
        self.is_told = true;
        // Nobody listens only when the process ends anyway.
        let _ = self.events.send(Event::Ended(result));
    }
}

impl Drop for SessionEnd {
    fn drop(&mut self) {
        if !self.is_told {
            let _ = self.events.send(Event::Ended(Err(io::Error::other("its thread does not run"))));
        }
    }
}

struct Service<D> {
    device: Arc<D>,
    mounted: Mounted,
    openings: Arc<Openings>,
    threads: Arc<Threads>,
    listeners: Listeners,
    queue: Receiver<Event>,
    keys: KeyRequests,
    tick: Duration,
    started: Instant,
}

impl<D: Attachment> Service<D> {
    fn ready(&self) -> Ready {
        Ready { pid: std::process::id(), path: self.mounted.disk(), size: self.device.size() }
    }

    fn run(mut self) -> Result<(), Failure> {
        let mut due = Instant::now() + self.tick;
        // A signal found the disk in use. At a shutdown nobody sends another one, so it counts until the disk comes off.
        let mut leaving = false;
        loop {
            match self.next(&mut due, if leaving { AGAIN.min(self.tick) } else { self.tick }) {
                None => {
                    self.device.tick();
                    if self.threads.are_idle() {
                        self.device.rest();
                        self.threads.drop_buffers();
                        give_back_memory();
                    }
                    if !self.openings.is_in_use() && (leaving || self.is_left()) {
                        match self.unmount() {
                            Ok(flushed) => {
                                info!(asked = leaving, "detaching what is no longer in use");
                                return self.end(None, flushed);
                            }
                            // Who keeps it was said when the signal came, and would take long to find out each time.
                            Err(_) => debug!("not detached yet"),
                        }
                    }
                }
                Some(Event::Ended(result)) => return self.ended(result),
                // Nobody waits for an answer.
                Some(Event::Signal(name)) => {
                    info!(signal = name, "detaching");
                    match self.unmount() {
                        Ok(flushed) => return self.end(None, flushed),
                        Err(obstacle) => {
                            error!(error = %obstacle.named(), "not detached before that has ended");
                            leaving = true;
                        }
                    }
                }
                Some(Event::Call(call)) if call.request == (Request::Detach {}) => match self.unmount() {
                    Ok(flushed) => return self.end(Some(&call), flushed),
                    Err(obstacle) => call.reply(Err(Failure::from(obstacle.named()).report())),
                },
                Some(Event::Call(call)) => self.take(call),
                Some(Event::Answered) => {
                    for call in self.keys.answered() {
                        self.take(call);
                    }
                }
            }
        }
    }

    /// Carries a request out, or has it wait for its turn.
    fn take(&mut self, call: Call) {
        if let Some(call) = self.keys.admit(call, &self.device) {
            call.reply(self.operate(&call.request).map_err(|error| error.report()));
        }
    }

    /// The next event, or none when a tick is due: whatever comes, and however often, does not put it off.
    fn next(&self, due: &mut Instant, period: Duration) -> Option<Event> {
        let now = Instant::now();
        *due = (*due).min(now + period);
        let event = if now < *due {
            let answered = self.keys.running();
            select! {
                recv(self.queue) -> event => {
                    Some(event.expect("the thread that waits for signals holds a sender"))
                }
                recv(answered) -> _ => Some(Event::Answered),
                default(*due - now) => None,
            }
        } else {
            None
        };
        if event.is_none() {
            *due = Instant::now() + period;
        }
        event
    }

    fn operate(&self, request: &Request) -> Result<Value, Failure> {
        match request {
            Request::Status {} => Ok(self.status()),
            Request::Flush {} => {
                self.device.flush()?;
                Ok(json!({}))
            }
            Request::Extend { .. } => {
                let answer = self.device.operate(request)?;
                if let Err(error) = self.mounted.announce_size() {
                    // It sees the size by itself within a second.
                    warn!(%error, "the kernel was not told of the new size");
                }
                Ok(answer)
            }
            // Whoever has it open would see other contents under his hands.
            Request::Rollback { .. } => {
                let _closed = self.close_when_unused(|patience| self.openings.close_disk(patience))?;
                // Before it, so that a failure is one of a rollback that did not happen. Nobody can open it until then.
                self.mounted.forget_contents().map_err(|source| StartError::System {
                    operation: "make the kernel forget the old contents",
                    source,
                })?;
                self.device.operate(request)
            }
            other => self.device.operate(other),
        }
    }

    /// Keeps others from opening what nobody has open. While nobody is found who has, the kernel's report of his end is still on its way.
    fn close_when_unused<'a>(
        &'a self,
        close: impl Fn(Duration) -> Option<Closed<'a>>,
    ) -> Result<Closed<'a>, MountError> {
        if let Some(closed) = close(KERNEL) {
            return Ok(closed);
        }
        match self.mounted.busy() {
            MountError::Busy { holders, .. } if holders.is_empty() => {
                close(BUSY_KERNEL).ok_or_else(|| self.mounted.busy())
            }
            busy => Err(busy),
        }
    }

    fn status(&self) -> Value {
        json!({
            "pid": std::process::id(),
            "path": self.mounted.disk(),
            "size": self.device.size(),
            "allocated": self.device.allocated(),
            "resident": resident_bytes().ok(),
            "uptime": self.started.elapsed().as_secs(),
            "volume": self.device.status(),
        })
    }

    /// Flushes and unmounts. The inner result is that of the flush: a disk that cannot be written must come off all the same.
    fn unmount(&self) -> Result<Result<(), Failure>, Obstacle> {
        // Most of it while the disk can still be opened.
        let first = self.device.flush();
        // The kernel refuses to unmount what is in use here. That it is in use in another mount namespace keeps it from nothing.
        let closed = self.close_when_unused(|patience| self.openings.close(patience))?;
        let flushed = first.and_then(|()| self.device.flush()).map_err(Failure::from);
        match mount::unmount(self.mounted.entry()) {
            // Somebody else was quicker.
            Ok(()) | Err(Obstacle::Failed(MountError::NotMounted { .. })) => {
                closed.for_good();
                Ok(flushed)
            }
            // Whoever asks who it is does so when it can be opened again.
            Err(obstacle) => Err(obstacle),
        }
    }

    /// Whether somebody has unmounted it here, while a copy of the mount in another namespace keeps the session.
    fn is_left(&self) -> bool {
        matches!(table::present(self.mounted.entry()), Ok(None))
    }

    /// The session ended without us: an unmount by other means, or the connection was cut.
    fn ended(self, result: io::Result<()>) -> Result<(), Failure> {
        match &result {
            Ok(()) => info!("unmounted from outside"),
            Err(error) => error!(%error, "the FUSE session broke"),
        }
        self.clear_dead_mounts();
        self.close(result.map_err(broken))
    }

    fn clear_dead_mounts(&self) {
        loop {
            match mount::clear(self.mounted.entry()) {
                // Perhaps there is a copy.
                Ok(()) => {}
                Err(MountError::NotMounted { .. }) => return,
                Err(error) => return warn!(%error, "a dead mount stays"),
            }
        }
    }

    /// Waits for the session, closes the device, and answers the one who asked for it.
    fn end(self, mut asked: Option<&Call>, flushed: Result<(), Failure>) -> Result<(), Failure> {
        self.threads.end();
        let session = self.await_session(&mut asked);
        let result = self.close(flushed.and(session));
        if let Some(call) = asked {
            call.reply(result.as_ref().map(|()| json!({})).map_err(|error| error.report()));
            call.await_delivery();
        }
        result
    }

    /// Waits until nothing is served any more. Nobody has the disk open by now and nobody can open it: where a copy of the mount in another
    /// namespace keeps the session alive, it is cut.
    fn await_session(&self, asked: &mut Option<&Call>) -> Result<(), Failure> {
        let mut patience = Some(Instant::now() + KERNEL);
        loop {
            let event = match patience {
                Some(deadline) => self.queue.recv_deadline(deadline),
                None => self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Ended(result)) if patience.is_some() => return result.map_err(broken),
                // How it ends that was cut says nothing.
                Ok(Event::Ended(_)) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Ok(Event::Call(call)) => call.reply(Err(Failure::from(ControlError::Detaching).report())),
                Ok(Event::Signal(_) | Event::Answered) => {}
                Err(RecvTimeoutError::Timeout) => {
                    patience = None;
                    self.cut(asked);
                }
            }
        }
    }

    fn cut(&self, asked: &mut Option<&Call>) {
        let entry = self.mounted.entry();
        let holders = mount::elsewhere::processes(entry);
        match mount::elsewhere::cut(entry) {
            Ok(()) => info!(still_mounted_by = %mount::holders::describe(&holders), "the connection is cut"),
            Err(source) => {
                let error = MountError::Elsewhere { point: entry.point.clone(), holders, source };
                error!(%error, "detached when those have ended");
                if let Some(call) = asked.take() {
                    call.reply(Err(Failure::from(error).report()));
                }
            }
        }
    }

    /// Closes the device once nobody serves from it any more. What went wrong before counts first.
    fn close(self, before: Result<(), Failure>) -> Result<(), Failure> {
        self.keys.end();
        let (lock, closed) = match Arc::into_inner(self.device) {
            Some(device) => {
                let (lock, closed) = device.close();
                (Some(lock), closed)
            }
            // A serving thread panicked and left its share behind.
            None => (None, Err(broken(io::Error::other("a serving thread did not end")))),
        };
        // Whoever finds the file free finds the socket's path free, too. Who asked for the end has his answer by a connection that he has.
        drop(self.listeners);
        drop(lock);
        let result = before.and(closed);
        match &result {
            Ok(()) => info!("detached"),
            Err(error) => error!(%error, "detached with an error"),
        }
        result
    }

    /// Takes back an attach that could not be finished.
    fn give_up(self) {
        let flushed = match self.unmount() {
            Ok(flushed) => flushed,
            Err(obstacle) => {
                return error!(error = %obstacle.named(), "the unfinished attach stays mounted until this process has ended");
            }
        };
        if let Err(error) = self.end(None, flushed) {
            error!(%error, "the unfinished attach was not taken back cleanly");
        }
    }
}

fn broken(source: io::Error) -> Failure {
    StartError::System { operation: "serve the mount", source }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever becomes of the session's thread, the queue hears of its end, once: else an attach that fails would wait for it for good, with key and lock.
    #[test]
    fn the_end_of_a_session_that_never_ran_is_told() {
        let (events, queue) = unbounded();
        let told = || {
            let event = queue.recv_timeout(Duration::from_secs(10)).unwrap();
            let Event::Ended(result) = event else { panic!("another event") };
            assert!(queue.is_empty());
            result
        };
        // More than there is room for.
        let thread = thread::Builder::new().stack_size(1 << 60);
        run_session(thread, &events, || Ok(())).unwrap_err();
        told().unwrap_err();
        run_session(thread::Builder::new(), &events, || panic!("on purpose")).unwrap();
        told().unwrap_err();
        run_session(thread::Builder::new(), &events, || Ok(())).unwrap();
        told().unwrap();
    }
}
