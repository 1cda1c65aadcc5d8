//! Faults that a simulated file can have.

use std::cell::Cell;
use std::io;
use std::panic::Location;

/// What goes wrong at a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The call fails with `EIO` and does nothing.
    Io,
    /// A write or a change of length fails with `ENOSPC` and does nothing.
    NoSpace,
    /// A write stores its first sectors only, then fails with `ENOSPC`.
    ShortWrite,
    /// The process dies: this call and all later ones fail and do nothing, until the plan is withdrawn. The machine goes on, so what was
    /// written stays in the cache, not durable.
    Death,
    /// A sync fails; what it should have made durable reads as written, but no later sync will make it durable.
    Sync,
}

impl Fault {
    /// All ways in which the file can fail.
    pub const ALL: [Self; 4] = [Self::Io, Self::NoSpace, Self::ShortWrite, Self::Sync];

    /// Whether this fault can befall such a call.
    pub(super) fn befalls(self, call: Call) -> bool {
        match self {
            Self::Io => call != Call::Sync,
            Self::NoSpace => matches!(call, Call::Write | Call::SetLen),
            Self::ShortWrite => call == Call::Write,
            Self::Sync => call == Call::Sync,
            Self::Death => true,
        }
    }

    pub(super) fn error(self) -> io::Error {
        let errno = match self {
            Self::Io | Self::Sync | Self::Death => libc::EIO,
            Self::NoSpace | Self::ShortWrite => libc::ENOSPC,
        };
        io::Error::from_raw_os_error(errno)
    }
}

/// The kinds of call that are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// `read_at`
    Read,
    /// `write_at`
    Write,
    /// `set_len`
    SetLen,
    /// `punch`
    Punch,
    /// `sync`
    Sync,
}

/// When a fault comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultPlan {
    /// Number of the first call that it may befall, counted from 0.
    pub call: u64,
    /// What happens.
    pub fault: Fault,
    /// Whether every later call that it can befall fails too.
    pub lasting: bool,
}

/// Where in the source a sync was asked for, so that a test can leave that one out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SyncSite {
    /// Source file.
    pub file: &'static str,
    /// Line.
    pub line: u32,
}

thread_local! {
    static ASKED_FROM: Cell<Option<&'static Location<'static>>> = const { Cell::new(None) };
}

impl SyncSite {
    /// Says from where the next sync on this thread is asked for. Callers need it whose call goes through a layer that hides the place.
    pub fn announce(location: &'static Location<'static>) {
        ASKED_FROM.set(Some(location));
    }

    /// The place announced, else the caller's.
    pub(super) fn of(caller: &'static Location<'static>) -> Self {
        let location = ASKED_FROM.take().unwrap_or(caller);
        Self { file: location.file(), line: location.line() }
    }
}

/// Which syncs do nothing, although they say that they succeeded.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum IgnoredSyncs {
    /// None: syncs work.
    #[default]
    None,
    /// Every sync.
    All,
    /// Those asked for at one place in the source.
    Site(SyncSite),
    /// One, by its number, counted from 0.
    Number(u64),
}
