//! Signals that ask for an end.

use std::io;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::Sender;
use parking_lot::Mutex;
use tracing::warn;

use super::Event;
use crate::failure::Exit;
use crate::process::Termination;

/// A thread that waits for them. As long as there is no disk, there is nothing to take down, and they end the process, whatever it waits for.
pub struct Signals {
    taker: Arc<Mutex<Option<Sender<Event>>>>,
}

impl Signals {
    /// Starts to wait.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn watch(termination: Termination) -> io::Result<Self> {
        let taker: Arc<Mutex<Option<Sender<Event>>>> = Arc::default();
        let shared = Arc::clone(&taker);
        thread::Builder::new().name("signals".into()).spawn(move || {
            while let Ok(name) = termination.wait() {
                let taker = shared.lock();
                let Some(taker) = &*taker else {
                    warn!(signal = name, "ended before the disk was attached");
                    std::process::exit(Exit::Failed as i32);
                };
                if taker.send(Event::Signal(name)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { taker })
    }

    /// Lets them be events from now on.
    pub(super) fn hand_over(&self, events: Sender<Event>) {
        *self.taker.lock() = Some(events);
    }
}
