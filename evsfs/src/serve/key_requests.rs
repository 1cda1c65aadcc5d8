//! Requests that ask the key service. It may be away or slow, and must not hold up whoever wants to detach the disk or know how it is (D3):
//! each is carried out on a thread of its own, one at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, bounded, never};

use super::Attachment;
use crate::control::{Call, ControlError, Request};
use crate::failure::{Failure, StartError};

const STACK: usize = 512 * 1024;

/// The one that is being carried out, and the changes that wait for it.
#[derive(Debug, Default)]
pub(super) struct KeyRequests {
    running: Option<Running>,
    waiting: VecDeque<Call>,
}

#[derive(Debug)]
struct Running {
    thread: JoinHandle<()>,
    /// Nothing is ever sent: the other end goes with the thread.
    ended: Receiver<()>,
}

impl KeyRequests {
    /// Takes a request that asks the key service, or must wait for one that does; gives any other back, to be carried out at once.
    pub(super) fn admit<D: Attachment>(&mut self, call: Call, device: &Arc<D>) -> Option<Call> {
        match call.request {
            Request::Status {} | Request::Flush {} | Request::Snapshots {} | Request::Detach {} => Some(call),
            _ if self.running.is_some() => {
                self.waiting.push_back(call);
                None
            }
            Request::Rekey { .. } | Request::Reencrypt { .. } => {
                self.start(call, Arc::clone(device));
                None
            }
            _ => Some(call),
        }
    }

    fn start<D: Attachment>(&mut self, call: Call, device: Arc<D>) {
        let (until_then, ended) = bounded(0);
        let call = Arc::new(call);
        let carried_out = Arc::clone(&call);
        let started = thread::Builder::new().name("key-request".into()).stack_size(STACK).spawn(move || {
            let result = device.operate(&carried_out.request);
            drop(device);
            carried_out.reply(result.map_err(|error| error.report()));
            drop(until_then);
        });
        match started {
            Ok(thread) => self.running = Some(Running { thread, ended }),
            Err(source) => {
                let error = StartError::System { operation: "start a thread", source };
                call.reply(Err(Failure::from(error).report()));
            }
        }
    }

    /// Breaks when the one that is being carried out is done; never, if there is none.
    pub(super) fn running(&self) -> Receiver<()> {
        self.running.as_ref().map_or_else(never, |running| running.ended.clone())
    }

    /// It is done: those that waited come next, in their order.
    pub(super) fn answered(&mut self) -> VecDeque<Call> {
        if let Some(running) = self.running.take() {
            join(running.thread);
        }
        std::mem::take(&mut self.waiting)
    }

    /// Waits for the one that is being carried out, which the timeouts of the key service bound, and turns the others away.
    pub(super) fn end(self) {
        for call in self.waiting {
            call.reply(Err(Failure::from(ControlError::Detaching).report()));
        }
        if let Some(running) = self.running {
            join(running.thread);
        }
    }
}

/// One that panicked has said so on standard error; the caller has got no answer.
fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a request to the key service broke off");
    }
}
