//! Requests of nobody: signed by no access key that there is, or with a signature that does not verify (K8).
//!
//! Anybody can send them in any number, and each line of the audit log is a sync: so they are counted, and a line says how many they were. The first
//! leaves its line at once, those after it one a minute.

use parking_lot::Mutex;

use super::{Service, audit::Trail};
use crate::domain::{Caller, time::TrustedTime};

/// Time between two lines, in milliseconds.
const BETWEEN_MS: i64 = 60_000;
/// What stands in the place of an outcome: the code that the published gateway answers them with.
const CODE: &str = "APIGW.0301";

/// Why nobody is behind a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// No signature, none in form, or one that does not verify.
    Signature,
    /// There is no such access key.
    AccessKey,
}

/// What is counted and not recorded yet.
#[derive(Default)]
pub(super) struct Strangers(Mutex<Tally>);

#[derive(Default)]
struct Tally {
    signatures: u64,
    access_keys: u64,
    /// Where the last one came from.
    from: String,
    /// When the last line was made.
    recorded: Option<TrustedTime>,
}

impl Tally {
    fn take(&mut self, now: TrustedTime) -> Option<String> {
        let (signatures, access_keys) = (self.signatures, self.access_keys);
        let all = signatures + access_keys;
        if all == 0 {
            return None;
        }
        (self.signatures, self.access_keys, self.recorded) = (0, 0, Some(now));
        let s = |n: u64| if n == 1 { "" } else { "s" };
        Some(format!(
            "{all} request{}: {signatures} signature{} that did not verify, {access_keys} access key{} that are not known; the last from {}",
            s(all),
            s(signatures),
            s(access_keys),
            self.from
        ))
    }

    fn is_due(&self, now: TrustedTime) -> bool {
        self.recorded.is_none_or(|last| now.0.saturating_sub(last.0) >= BETWEEN_MS)
    }
}

impl Service {
    /// Counts a request that is not let in, from an address, and records it if the last line is old enough.
    pub async fn record_stranger(&self, stranger: Stranger, from: &str) {
        let now = self.trusted_now();
        let line = {
            let mut tally = self.inner.strangers.0.lock();
            match stranger {
                Stranger::Signature => tally.signatures += 1,
                Stranger::AccessKey => tally.access_keys += 1,
            }
            from.clone_into(&mut tally.from);
            if tally.is_due(now) { tally.take(now) } else { None }
        };
        self.record_line(line).await;
    }

    /// Records what has been counted: at the end of a run.
    pub async fn record_strangers(&self) {
        let now = self.trusted_now();
        let line = self.inner.strangers.0.lock().take(now);
        self.record_line(line).await;
    }

    /// The same once a minute has gone by.
    pub(super) async fn record_due_strangers(&self) {
        let now = self.trusted_now();
        let line = {
            let mut tally = self.inner.strangers.0.lock();
            if tally.is_due(now) { tally.take(now) } else { None }
        };
        self.record_line(line).await;
    }

    async fn record_line(&self, line: Option<String>) {
        let Some(line) = line else { return };
        let trail = Trail::new(&Caller::SYSTEM, "not-admitted").note(line);
        if let Err(error) = self.record_as(trail, CODE).await {
            tracing::warn!(%error, "requests that were not let in cannot be recorded");
        }
    }
}
