//! A file in memory, in whose calls other threads may go on, and whose calls can be held up.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use shuttle::sync::{Condvar, Mutex as ScheduledMutex};
use shuttle::thread::{self, ThreadId};

use crate::backing::Backing;

/// Half a slot: what lies in a slot may be old in one half and new in the other while it is written.
const HALF: usize = 2048;

/// Which calls of a thread are held up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `read_at`
    Read,
    /// `write_at`
    Write,
    /// `sync`
    Sync,
}

#[derive(Default)]
struct HoldUp {
    of: Option<(ThreadId, Call)>,
    reached: bool,
    over: bool,
}

/// See the module.
pub struct Memory {
    bytes: Mutex<Vec<u8>>,
    /// The host has no more than the file takes at the beginning: slots must be used again.
    full: bool,
    steps: AtomicU64,
    held: ScheduledMutex<HoldUp>,
    changed: Condvar,
    holding: AtomicBool,
    failing: AtomicBool,
}

impl Memory {
    /// A file with these contents. It cannot grow if the host is `full`.
    #[must_use]
    pub fn new(bytes: Vec<u8>, full: bool) -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::new(bytes),
            full,
            steps: AtomicU64::new(0),
            held: ScheduledMutex::new(HoldUp::default()),
            changed: Condvar::new(),
            holding: AtomicBool::new(false),
            failing: AtomicBool::new(false),
        })
    }

    /// What the file holds now.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().clone()
    }

    /// Holds up the calling thread's next call of this kind, until [`Self::let_go`].
    ///
    /// # Panics
    /// Never: the scheduler's locks are not poisoned.
    pub fn hold_up(&self, call: Call) {
        self.held.lock().expect("not poisoned").of = Some((thread::current().id(), call));
        self.holding.store(true, Ordering::SeqCst);
    }

    /// Waits until the thread that is to be held up is.
    ///
    /// # Panics
    /// Never: the scheduler's locks are not poisoned.
    pub fn wait_until_held_up(&self) {
        let mut held = self.held.lock().expect("not poisoned");
        while !held.reached {
            held = self.changed.wait(held).expect("not poisoned");
        }
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// Never: the scheduler's locks are not poisoned.
    pub fn let_go(&self) {
        self.held.lock().expect("not poisoned").over = true;
        self.changed.notify_all();
    }

    /// The next sync fails, and no other: the host tells of lost pages only once.
    pub fn fail_next_sync(&self) {
        self.failing.store(true, Ordering::SeqCst);
    }

    /// Another thread may go on here; the one that is held up waits here.
    fn step(&self, call: Call) {
        self.steps.fetch_add(1, Ordering::SeqCst);
        if !self.holding.load(Ordering::SeqCst) {
            return;
        }
        let mut held = self.held.lock().expect("not poisoned");
        if held.of == Some((thread::current().id(), call)) && !held.reached {
            held.reached = true;
            self.changed.notify_all();
            while !held.over {
                held = self.changed.wait(held).expect("not poisoned");
            }
        }
    }
}

impl Backing for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(u64::try_from(self.bytes.lock().len()).expect("small"))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut at = usize::try_from(offset).expect("small");
        for half in buf.chunks_mut(HALF) {
            self.step(Call::Read);
            let bytes = self.bytes.lock();
            half.copy_from_slice(bytes.get(at..at + half.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
            at += half.len();
        }
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut at = usize::try_from(offset).expect("small");
        if self.full && at + buf.len() > self.bytes.lock().len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        for half in buf.chunks(HALF) {
            self.step(Call::Write);
            let mut bytes = self.bytes.lock();
            let end = (at + half.len()).max(bytes.len());
            bytes.resize(end, 0);
            bytes[at..at + half.len()].copy_from_slice(half);
            at += half.len();
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (len, mut bytes) = (usize::try_from(len).expect("small"), self.bytes.lock());
        if self.full && len > bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        bytes.resize(len, 0);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        let (at, len) = (usize::try_from(offset).expect("small"), usize::try_from(len).expect("small"));
        self.bytes.lock()[at..at + len].fill(0);
        Ok(true)
    }

    fn sync(&self) -> io::Result<()> {
        let fails = self.failing.swap(false, Ordering::SeqCst);
        // Others may ask, and be told that all is well, before this one takes note.
        self.step(Call::Sync);
        if fails { Err(io::Error::other("pages were lost")) } else { Ok(()) }
    }
}
