//! The epochs of the volume: salts that are known, keys derived from them, and the one epoch that this attach seals under.
//!
//! An attach never continues an epoch of another attach, for it cannot know how far that one's counter went (F1): it begins its
//! own with the first seal. No write of its own is needed before the first use: the log page that names the first block of an
//! epoch carries the salt, and so does the epoch table of every superblock.

use std::sync::Arc;

use super::dirty::BlockMap;
use super::error::VolumeError;
use super::store::Keys;
use crate::crypto::{Entropy, EpochKeys, EpochSalt, NonceRun, NonceSequence};
use crate::format::epoch_place;
use crate::sync::{Mutex, RwLock};

/// Epochs whose keys are kept ready.
const KEYS_KEPT: usize = 256;

/// The epoch that seals now.
pub(super) struct Current {
    pub(super) id: u32,
    pub(super) salt: EpochSalt,
    pub(super) keys: Arc<EpochKeys>,
    nonces: NonceSequence,
}

/// See the module.
pub(super) struct Epochs {
    keys: Arc<Keys>,
    entropy: Arc<dyn Entropy>,
    /// Salt of epoch *n* at *n* - 1; zeros for a number that was skipped because nothing durable was sealed under it.
    salts: RwLock<Vec<EpochSalt>>,
    ready: RwLock<BlockMap<Arc<EpochKeys>>>,
    current: RwLock<Option<Arc<Current>>>,
    beginning: Mutex<()>,
    seals: u64,
}

impl Epochs {
    pub(super) fn new(keys: Arc<Keys>, entropy: Arc<dyn Entropy>, salts: Vec<EpochSalt>, seals: u64) -> Self {
        Self {
            keys,
            entropy,
            salts: RwLock::new(salts),
            ready: RwLock::default(),
            current: RwLock::default(),
            beginning: Mutex::default(),
            // A write takes up to 256 nonces at once: an epoch must have more.
            seals: seals.max(1024),
        }
    }

    /// The keys that open what was sealed in `epoch`. `None` if no such epoch is known.
    pub(super) fn keys(&self, epoch: u32) -> Option<Arc<EpochKeys>> {
        if let Some(keys) = self.ready.read().get(&u64::from(epoch)) {
            return Some(Arc::clone(keys));
        }
        let place = usize::try_from(epoch.checked_sub(1)?).ok()?;
        let salt = *self.salts.read().get(place)?;
        if salt == EpochSalt::default() {
            return None;
        }
        let keys = Arc::new(self.keys.now().of_epoch(epoch).epoch(&salt));
        let mut ready = self.ready.write();
        // Any of them: who reads all over more epochs than are kept finds as many of them as can be.
        if ready.len() >= KEYS_KEPT
            && let Some(other) = ready.keys().next().copied()
        {
            ready.remove(&other);
        }
        ready.insert(u64::from(epoch), Arc::clone(&keys));
        Some(keys)
    }

    /// Records an epoch that the log names. False if that number has another salt already.
    pub(super) fn learn(&self, epoch: u32, salt: &EpochSalt) -> bool {
        let Some(place) = epoch.checked_sub(1).and_then(|place| usize::try_from(place).ok()) else {
            return false;
        };
        if epoch_place(epoch).is_none() {
            return false;
        }
        let mut salts = self.salts.write();
        if salts.len() <= place {
            salts.resize(place + 1, EpochSalt::default());
        }
        if salts[place] == EpochSalt::default() {
            salts[place] = *salt;
        }
        salts[place] == *salt
    }

    /// Skips numbers, so that the next epoch is at least `next`.
    pub(super) fn skip_to(&self, next: u32) {
        let mut salts = self.salts.write();
        let len = usize::try_from(next.saturating_sub(1)).unwrap_or(usize::MAX);
        if salts.len() < len {
            salts.resize(len, EpochSalt::default());
        }
    }

    /// All salts, for the epoch table.
    pub(super) fn salts(&self) -> Vec<EpochSalt> {
        self.salts.read().clone()
    }

    /// The salt of an epoch.
    pub(super) fn salt(&self, epoch: u32) -> Option<EpochSalt> {
        let place = usize::try_from(epoch.checked_sub(1)?).ok()?;
        self.salts.read().get(place).copied()
    }

    /// How many numbers are taken.
    pub(super) fn len(&self) -> usize {
        self.salts.read().len()
    }

    /// The right to seal `count` times, at most 1,024. Begins an epoch if there is none yet or its counter nears the limit.
    pub(super) fn take(&self, count: u32) -> Result<(Arc<Current>, NonceRun), VolumeError> {
        loop {
            let current = self.current.read().clone();
            if let Some(current) = current
                && let Ok(run) = current.nonces.take(count)
            {
                return Ok((current, run));
            }
            self.begin(count)?;
        }
    }

    /// Ends the epoch that seals now: the next seal begins one, with the keys that are the newest then. Nobody seals meanwhile.
    pub(super) fn end_current(&self) {
        *self.current.write() = None;
    }

    /// Drops the keys of the epochs before this one.
    pub(super) fn forget_before(&self, epoch: u32) {
        self.ready.write().retain(|id, _| *id >= u64::from(epoch));
    }

    fn begin(&self, count: u32) -> Result<(), VolumeError> {
        let _one = self.beginning.lock();
        if self.current.read().as_ref().is_some_and(|current| current.nonces.left() >= u64::from(count)) {
            return Ok(());
        }
        let ring = self.keys.now();
        let fresh = ring.newest().begin_epoch_of(&*self.entropy, self.seals)?;
        let mut salts = self.salts.write();
        let id = u32::try_from(salts.len() + 1).ok().filter(|id| epoch_place(*id).is_some());
        let id = id.ok_or(VolumeError::EpochsExhausted)?;
        assert!(
            Arc::ptr_eq(ring.of_epoch(id), ring.newest()),
            "an epoch of the older DEK cannot begin any more"
        );
        salts.push(fresh.salt);
        let keys = Arc::new(fresh.keys);
        self.ready.write().insert(u64::from(id), Arc::clone(&keys));
        *self.current.write() = Some(Arc::new(Current { id, salt: fresh.salt, keys, nonces: fresh.nonces }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::crypto::{Backend, Dek, SeededEntropy, VolumeKeys};

    fn epochs(seals: u64) -> Epochs {
        let keys = VolumeKeys::new(Dek::new(&[1; 32]), Uuid::from_u128(7), Backend::AwsLc);
        Epochs::new(Arc::new(Keys::new(keys.into())), Arc::new(SeededEntropy::new(1)), vec![[9; 16]], seals)
    }

    #[test]
    fn f1_a_new_epoch_begins_before_the_counter_ends() {
        let epochs = epochs(1024);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..20 {
            let (current, run) = epochs.take(200).unwrap();
            assert!(current.id >= 2, "the epoch of another attach is never continued");
            for nonce in run {
                assert!(seen.insert((current.salt, nonce.counter())));
            }
        }
        assert_eq!(epochs.len(), 5);
        assert_eq!(epochs.salt(1), Some([9; 16]));
        assert!(epochs.keys(5).is_some() && epochs.keys(6).is_none() && epochs.keys(0).is_none());
    }

    #[test]
    fn of_more_epochs_than_are_kept_ready_one_goes_at_a_time() {
        let epochs = epochs(1024);
        for id in 1..=300 {
            assert!(epochs.learn(id, &[u8::try_from(id % 251).unwrap() + 1; 16]) == (id != 1));
            assert!(epochs.keys(id).is_some());
        }
        assert_eq!(epochs.ready.read().len(), KEYS_KEPT);
    }

    #[test]
    fn a_number_never_changes_its_salt() {
        let epochs = epochs(1024);
        assert!(epochs.learn(1, &[9; 16]) && !epochs.learn(1, &[8; 16]) && !epochs.learn(0, &[8; 16]));
        assert!(epochs.learn(4, &[4; 16]));
        assert!(epochs.keys(3).is_none(), "skipped");
        assert!(epochs.learn(3, &[3; 16]) && epochs.keys(3).is_some());
        epochs.skip_to(10);
        assert_eq!(epochs.take(1).unwrap().0.id, 10);
    }
}
