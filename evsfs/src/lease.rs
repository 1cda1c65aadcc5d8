//! The right to write to a volume (F12), from the key service.
//!
//! The lock of the file (`lock.rs`) is what keeps two processes of one host apart, and ends with its process. Where it is local to the
//! host, or the file was copied, both would get theirs: so a writer of an encrypted volume also takes the volume's lease, and renews it
//! for as long as it writes. Who has the lock of the same file under the same kernel takes over at once, as the one before must be gone.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use kmsd::client::{self, TakenLease};
use kmsd::domain::lease::{Holder, Ticket};
use rustix::time::{ClockId, clock_gettime};
use tracing::{debug, info};
use uuid::Uuid;

use crate::anchors::AnchorStore;
use crate::engine::Anchor;
use crate::keys::{KeyError, KeyErrorKind, KeyService};
use crate::open::to_service;

/// Longest time between two renewals.
const RENEWED_EVERY: Duration = Duration::from_secs(10);

/// So many of them may go wrong before a lease ends.
const TRIES: u32 = 4;

/// How long an attach waits for a lease that will be free: the one before is likely to be of an earlier boot of this host, or kmsd's store was put back.
/// Somewhat longer than kmsd's default.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long after it was taken nobody asks whether it is held.
const CERTAIN: Duration = Duration::from_secs(1);

/// How often it looks.
const ROUND: Duration = Duration::from_secs(1);

/// A lease that is held. It is given up when this goes.
#[derive(Debug)]
pub struct Lease {
    service: KeyService,
    volume: Uuid,
    holder: Holder,
    ticket: Ticket,
    lasts: Duration,
    /// Since the host's boot, when it was asked for.
    taken: Duration,
}

impl Lease {
    /// Takes the lease of a volume whose file, of this device and inode number, is locked. Gives the volume's anchor with it, as it stood then: nobody
    /// else moves it from now on.
    ///
    /// # Errors
    /// If another holds it, or the service is away.
    pub fn take(
        service: &KeyService,
        volume: Uuid,
        file: (u64, u64),
    ) -> Result<(Self, Option<client::Anchor>), KeyError> {
        let (session, holder) = (Uuid::new_v4(), this_process(file));
        let (taken, TakenLease { ticket, lasts, anchor }) = outwait(|| {
            let asked = since_boot();
            service.take_lease(volume, session, &holder).map(|taken| (asked, taken))
        })?;
        Ok((Self { service: service.impatient(), volume, holder, ticket, lasts, taken }, anchor))
    }

    /// Makes sure that it is still held, if so much time has gone by since it was taken that this is not certain.
    ///
    /// # Errors
    /// If somebody else has it, or the service is away.
    pub fn confirm(&self) -> Result<(), KeyError> {
        let age = since_boot().saturating_sub(self.taken);
        if age < self.renewed_every().min(CERTAIN) { Ok(()) } else { self.renew() }
    }

    /// What the service asks for where the lease is needed.
    #[must_use]
    pub const fn ticket(&self) -> Ticket {
        self.ticket
    }
}

impl AnchorStore for Lease {
    fn advance(&self, anchor: &Anchor) -> Result<(), KeyError> {
        self.service.advance(self.volume, &to_service(anchor), Some(self.ticket))
    }

    /// After the lease has ended that works as long as nobody has taken it.
    fn renew(&self) -> Result<(), KeyError> {
        self.service.renew_lease(self.volume, self.ticket, &self.holder)
    }

    fn renewed_every(&self) -> Duration {
        (self.lasts / TRIES).min(RENEWED_EVERY)
    }

    fn lasts(&self) -> Duration {
        self.lasts
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // It ends by itself then, and on this host nobody has to wait for that.
        if let Err(error) = self.service.release_lease(self.volume, self.ticket) {
            info!(%error, "the volume's lease was not given up");
        }
    }
}

/// Time since the host's boot, in which it also slept.
#[must_use]
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// Tries again while the lease seems to be of an earlier boot of this host, or of one whom the service has forgotten. Who runs, as a clone of the host may,
/// renews it meanwhile, and keeps it.
fn outwait<T>(take: impl Fn() -> Result<T, KeyError>) -> Result<T, KeyError> {
    let started = Instant::now();
    loop {
        match take() {
            Err(error)
                if matches!(error.kind(), KeyErrorKind::HeldByEarlierBoot | KeyErrorKind::MayBeHeld)
                    && started.elapsed() < PATIENCE =>
            {
                debug!(%error, "waiting for the lease to end");
                thread::sleep(ROUND);
            }
            other => return other,
        }
    }
}

/// This process with the file that it has locked, as the service is told of it.
fn this_process((device, inode): (u64, u64)) -> Holder {
    Holder {
        host: line_of("/proc/sys/kernel/hostname").unwrap_or_else(|| "unnamed".to_owned()),
        // A kernel that does not tell its boot is nobody's successor.
        boot: line_of("/proc/sys/kernel/random/boot_id").unwrap_or_else(|| Uuid::new_v4().to_string()),
        machine: line_of("/etc/machine-id"),
        process: std::process::id(),
        device,
        inode,
    }
}

/// The line of a file that holds an id.
fn line_of(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let id = text.trim();
    (!id.is_empty() && id.len() <= 64 && id.chars().all(|c| c.is_ascii_graphic())).then(|| id.to_owned())
}
