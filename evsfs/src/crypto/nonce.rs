//! Counters that are used once.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Seals under one epoch's keys at most (NIST SP 800-38D, section 8.3, allows 2^32): F1.
pub const SEALS_PER_EPOCH: u64 = 0xffff_ffff;

/// All counters of this epoch are used: begin another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the counters of this epoch are used up: a new epoch must begin")]
pub struct EpochExhausted;

/// The right to seal once under the keys of one epoch. Neither `Copy` nor `Clone`: sealing consumes it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a nonce that is not used is lost"]
pub struct SealNonce {
    epoch: EpochId,
    counter: u32,
}

/// Tells the epochs of this process apart, so that a nonce of one cannot be used with the keys of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EpochId(u64);

impl EpochId {
    /// From the salt, which is random.
    pub(super) const fn of(salt: &[u8; 16]) -> Self {
        let mut first = [0; 8];
        let mut at = 0;
        while at < 8 {
            first[at] = salt[at];
            at += 1;
        }
        Self(u64::from_le_bytes(first))
    }
}

impl SealNonce {
    /// What the pointer to the sealed block must record.
    #[must_use]
    pub const fn counter(&self) -> u32 {
        self.counter
    }

    pub(super) const fn epoch(&self) -> EpochId {
        self.epoch
    }
}

/// The counter of one epoch. It only ever goes up, and nobody else can make one for the same salt.
#[derive(Debug)]
pub struct NonceSequence {
    epoch: EpochId,
    next: AtomicU64,
    limit: u64,
}

impl NonceSequence {
    pub(super) fn new(epoch: EpochId, limit: u64) -> Self {
        Self { epoch, next: AtomicU64::new(0), limit: limit.min(SEALS_PER_EPOCH) }
    }

    /// The next nonce.
    ///
    /// # Errors
    /// If the epoch is exhausted.
    pub fn next(&self) -> Result<SealNonce, EpochExhausted> {
        self.take(1)?.next().ok_or(EpochExhausted)
    }

    /// `count` consecutive nonces, for one large write.
    ///
    /// # Errors
    /// If fewer are left; none is used up then.
    pub fn take(&self, count: u32) -> Result<NonceRun, EpochExhausted> {
        let count = u64::from(count);
        #[allow(deprecated)] // its new name, try_update, is younger than the oldest compiler that builds this
        let first = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                next.checked_add(count).filter(|after| *after <= self.limit)
            })
            .map_err(|_| EpochExhausted)?;
        Ok(NonceRun { epoch: self.epoch, counters: first..first + count })
    }

    /// Nonces used so far.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Nonces left.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.limit - self.used()
    }
}

/// A run of consecutive nonces.
#[derive(Debug)]
#[must_use = "nonces that are not used are lost"]
pub struct NonceRun {
    epoch: EpochId,
    counters: Range<u64>,
}

impl NonceRun {
    /// Parts with all but the first `count`, so that another thread can use them. `self` keeps at most `count`.
    pub fn split_off(&mut self, count: u32) -> Self {
        let middle = (self.counters.start + u64::from(count)).min(self.counters.end);
        let rest = middle..self.counters.end;
        self.counters.end = middle;
        Self { epoch: self.epoch, counters: rest }
    }
}

impl Iterator for NonceRun {
    type Item = SealNonce;

    fn next(&mut self) -> Option<SealNonce> {
        let counter = u32::try_from(self.counters.next()?).expect("the limit is below 2^32");
        Some(SealNonce { epoch: self.epoch, counter })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.counters.size_hint()
    }
}

impl ExactSizeIterator for NonceRun {}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(limit: u64) -> NonceSequence {
        NonceSequence::new(EpochId::of(&[7; 16]), limit)
    }

    #[test]
    fn f1_counters_start_at_zero_and_never_repeat() {
        let nonces = sequence(SEALS_PER_EPOCH);
        let mut seen: Vec<u32> = (0..3).map(|_| nonces.next().unwrap().counter()).collect();
        let mut run = nonces.take(5).unwrap();
        let rest = run.split_off(2);
        assert_eq!((run.len(), rest.len()), (2, 3));
        seen.extend(run.chain(rest).map(|nonce| nonce.counter()));
        assert_eq!(seen, (0..8).collect::<Vec<_>>());
        assert_eq!(nonces.used(), 8);
    }

    #[test]
    fn f1_counters_are_unique_across_threads() {
        let nonces = sequence(SEALS_PER_EPOCH);
        let mut all: Vec<u32> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let singles = (0..2_000).map(|_| nonces.next().unwrap().counter());
                        let mut mine: Vec<u32> = singles.collect();
                        mine.extend(nonces.take(500).unwrap().map(|nonce| nonce.counter()));
                        mine
                    })
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        all.sort_unstable();
        assert_eq!(all, (0..10_000).collect::<Vec<_>>());
    }

    #[test]
    fn f1_an_epoch_ends_before_2_to_the_32() {
        let nonces = sequence(u64::MAX);
        nonces.next.store(SEALS_PER_EPOCH - 2, Ordering::Relaxed);
        assert_eq!(nonces.take(3).unwrap_err(), EpochExhausted);
        assert_eq!(nonces.left(), 2, "a refused run uses nothing up");
        assert_eq!(nonces.next().unwrap().counter(), 0xffff_fffd);
        assert_eq!(nonces.next().unwrap().counter(), 0xffff_fffe);
        for _ in 0..3 {
            assert_eq!(nonces.next().unwrap_err(), EpochExhausted);
        }
        assert_eq!(nonces.used(), SEALS_PER_EPOCH);
    }
}
