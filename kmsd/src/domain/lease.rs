//! Who writes to a volume (F12): one at a time, wherever its file can be reached from.
//!
//! A file system's lock may be local to a host, and a copy of a file has a lock of its own; both have the volume's key. So a writer
//! holds a lease, renewed for as long as it writes. Whoever comes next is refused until the lease was given up or has ended, unless
//! it proves that the holder is gone: it has the lock of the same file under the same kernel, and that lock is one process's.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    anchor::{Advance, AnchorRecord, changed, permit},
    principal::Caller,
    refusal::Refusal,
    time::WallTime,
};

/// Longest host name that Linux knows (`HOST_NAME_MAX`), and longest id.
const MAX_NAME: usize = 64;

/// A writer: where it runs, and the file that it has locked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Name of its host, for people.
    pub host: String,
    /// The boot of the kernel that keeps its lock (`/proc/sys/kernel/random/boot_id`): one for all containers of a host, another for
    /// each host, also where one was cloned from another.
    pub boot: String,
    /// Its machine id, if it has one (machine-id(5)): the same after a reboot, and on what was cloned carelessly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Its process, as it is numbered there.
    pub process: u32,
    /// Device number of the file, as that kernel numbers it.
    pub device: u64,
    /// The file's inode number.
    pub inode: u64,
}

impl Holder {
    /// Whether another who has the lock of the file that it names could not have it if this one were still there.
    #[must_use]
    pub fn is_succeeded_by(&self, other: &Self) -> bool {
        (&self.boot, self.device, self.inode) == (&other.boot, other.device, other.inode)
    }

    /// Whether it may be gone with an earlier boot of the other's host. Or that one is a clone, and both run.
    fn may_be_of_an_earlier_boot(&self, other: &Self) -> bool {
        self.machine.is_some() && self.machine == other.machine && self.boot != other.boot
    }

    fn check(&self) -> Result<(), Refusal> {
        let is_sane =
            |text: &str| (1..=MAX_NAME).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic());
        let wrong =
            |name| Err(Refusal::ParameterInvalid { name, expected: "1 to 64 visible ASCII characters" });
        if !is_sane(&self.host) {
            return wrong("host");
        }
        if !self.machine.as_deref().is_none_or(is_sane) {
            return wrong("machine");
        }
        if is_sane(&self.boot) { Ok(()) } else { wrong("boot") }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on host {}", self.process, self.host)
    }
}

/// What a writer shows for its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Drawn at each attach.
    pub session: Uuid,
    /// As it was told when it took the lease.
    pub term: u64,
}

/// The last one that was taken of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Whose.
    pub ticket: Ticket,
    /// Who that is.
    pub holder: Holder,
    /// Given up, not only run out.
    pub released: bool,
}

/// What the service knows of the time when somebody comes for a lease.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// When the volume's lease ends by itself, if it has not.
    pub until: Option<WallTime>,
    /// Until when those may come back whom a store that was put back does not know, if there may be any.
    pub forgotten: Option<WallTime>,
    /// Milliseconds since 1970, by the clock that is furthest ahead: the least term of a new lease. Leases that a store has forgotten have earlier ones, and
    /// a clock that was ahead does no harm, as terms only have to grow.
    pub term: u64,
}

/// Takes the lease of a volume for a new session.
///
/// # Errors
/// If somebody else holds it or may hold it, or the volume is another caller's.
pub fn take(
    current: Option<&AnchorRecord>,
    caller: &Caller,
    volume: Uuid,
    (session, holder): (Uuid, &Holder),
    times: Times,
) -> Result<Advance, Refusal> {
    permit(current, caller, volume)?;
    holder.check()?;
    let last = current.and_then(|record| record.lease.as_deref());
    if let Some(held) = last.filter(|lease| !lease.released) {
        if held.ticket.session == session {
            return Ok(Advance::Unchanged);
        }
        // After a restore the one that is recorded need not be the last one, whose successor nobody knows.
        if let Some(until) = times.until
            && (times.forgotten.is_some() || !held.holder.is_succeeded_by(holder))
        {
            let by = Box::new(held.holder.clone());
            return Err(if held.holder.may_be_of_an_earlier_boot(holder) {
                Refusal::LeaseOfEarlierBoot { volume, holder: by, until }
            } else {
                Refusal::LeaseHeld { volume, holder: by, until }
            });
        }
    }
    if let Some(until) = times.forgotten {
        return Err(Refusal::LeasesForgotten { volume, until });
    }
    // That is how a renewal tells who came later.
    let term = last.map_or(0, |lease| lease.ticket.term.saturating_add(1)).max(times.term);
    let lease = Lease { ticket: Ticket { session, term }, holder: holder.clone(), released: false };
    Ok(Advance::Record(AnchorRecord { lease: Some(Box::new(lease)), ..changed(current, caller, volume) }))
}

/// Renews a lease, also one that has ended, if nobody has taken it since. What the store has lost of it (it is older, or the anchor was forgotten)
/// is recorded again. One that was given up stays so: a renewal that was sent before that and comes late changes nothing.
///
/// # Errors
/// If somebody took it later, or the volume is another caller's.
pub fn renew(
    current: Option<&AnchorRecord>,
    caller: &Caller,
    volume: Uuid,
    (ticket, holder): (Ticket, &Holder),
    until: Option<WallTime>,
) -> Result<Advance, Refusal> {
    permit(current, caller, volume)?;
    holder.check()?;
    let last = current.and_then(|record| record.lease.as_deref());
    check_ticket(last, volume, ticket)?;
    let own = last.filter(|lease| lease.ticket == ticket);
    if own.is_some_and(|lease| lease.released || until.is_some()) {
        return Ok(Advance::Unchanged);
    }
    // Recorded, though nothing in it may change: whoever is taking it at this moment, because it has ended, has to decide again.
    let lease = Lease { ticket, holder: holder.clone(), released: false };
    Ok(Advance::Record(AnchorRecord { lease: Some(Box::new(lease)), ..changed(current, caller, volume) }))
}

/// Gives a lease up, if it is still that one's.
///
/// # Errors
/// If the volume is another caller's.
pub fn release(
    current: Option<&AnchorRecord>,
    caller: &Caller,
    volume: Uuid,
    ticket: Ticket,
) -> Result<Advance, Refusal> {
    permit(current, caller, volume)?;
    match current.and_then(|record| record.lease.as_deref()) {
        Some(lease) if lease.ticket == ticket && !lease.released => {
            let lease = Lease { released: true, ..lease.clone() };
            Ok(Advance::Record(AnchorRecord {
                lease: Some(Box::new(lease)),
                ..changed(current, caller, volume)
            }))
        }
        _ => Ok(Advance::Unchanged),
    }
}

/// Whether who shows this ticket, or none, may move the volume's anchor.
///
/// # Errors
/// If somebody else holds the lease or, with a ticket, took it later.
pub fn check_writer(
    current: Option<&AnchorRecord>,
    volume: Uuid,
    ticket: Option<Ticket>,
    until: Option<WallTime>,
) -> Result<(), Refusal> {
    let last = current.and_then(|record| record.lease.as_deref());
    match (ticket, last, until) {
        (Some(ticket), ..) => check_ticket(last, volume, ticket),
        (None, Some(lease), Some(until)) if !lease.released => {
            Err(Refusal::LeaseHeld { volume, holder: Box::new(lease.holder.clone()), until })
        }
        _ => Ok(()),
    }
}

/// A later term is a later holder, whether or not it is still there: it may have written.
fn check_ticket(last: Option<&Lease>, volume: Uuid, ticket: Ticket) -> Result<(), Refusal> {
    match last {
        Some(lease) if lease.ticket.session != ticket.session && lease.ticket.term >= ticket.term => {
            Err(Refusal::LeaseLost { volume, holder: Box::new(lease.holder.clone()) })
        }
        _ => Ok(()),
    }
}

/// A moment by the wall clock, to the second, not earlier.
pub(super) fn moment(time: WallTime) -> String {
    let seconds = time.0.div_euclid(1000).saturating_add(i64::from(time.0.rem_euclid(1000) > 0));
    Timestamp::from_second(seconds).map_or_else(|_| "the end of time".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests;
