//! The keys of a volume, and while it is re-encrypted to another DEK both sets of them.

use super::keys::VolumeKeys;
use std::sync::Arc;

/// Where the keys of the newer DEK begin. Everything says by its number which of the two sealed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch {
    /// The first epoch that is theirs.
    pub epoch: u32,
    /// The first generation of superblocks, and of the tables that these refer to, that is theirs.
    pub generation: u64,
}

/// See the module. Keys that it lets go of are wiped when their last user has done.
#[derive(Clone)]
pub struct Keyring {
    newest: Arc<VolumeKeys>,
    before: Option<(Arc<VolumeKeys>, Switch)>,
}

impl From<VolumeKeys> for Keyring {
    fn from(keys: VolumeKeys) -> Self {
        Self { newest: Arc::new(keys), before: None }
    }
}

impl Keyring {
    /// The keys of a volume that goes from one DEK to another.
    #[must_use]
    pub fn switched(self, next: VolumeKeys, switch: Switch) -> Self {
        Self { newest: Arc::new(next), before: Some((self.newest, switch)) }
    }

    /// Without the keys of the older DEK.
    #[must_use]
    pub fn finished(self) -> Self {
        Self { before: None, ..self }
    }

    /// What seals now.
    #[must_use]
    pub const fn newest(&self) -> &Arc<VolumeKeys> {
        &self.newest
    }

    /// The keys of the older DEK, while something may still be sealed with them.
    #[must_use]
    pub fn before(&self) -> Option<&Arc<VolumeKeys>> {
        self.before.as_ref().map(|(keys, _)| keys)
    }

    /// Where the newer ones begin, while there are two.
    #[must_use]
    pub fn switch(&self) -> Option<Switch> {
        self.before.as_ref().map(|(_, switch)| *switch)
    }

    /// The keys that `wrapped DEK` of the header opens to.
    #[must_use]
    pub fn oldest(&self) -> &Arc<VolumeKeys> {
        self.before().unwrap_or(&self.newest)
    }

    /// The keys of an epoch.
    #[must_use]
    pub fn of_epoch(&self, epoch: u32) -> &Arc<VolumeKeys> {
        match &self.before {
            Some((keys, switch)) if epoch < switch.epoch => keys,
            _ => &self.newest,
        }
    }

    /// The keys of a superblock and its tables.
    #[must_use]
    pub fn of_generation(&self, generation: u64) -> &Arc<VolumeKeys> {
        match &self.before {
            Some((keys, switch)) if generation < switch.generation => keys,
            _ => &self.newest,
        }
    }

    /// Whether superblocks of the two generations are of different keys.
    #[must_use]
    pub fn differ(&self, one: u64, other: u64) -> bool {
        !Arc::ptr_eq(self.of_generation(one), self.of_generation(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Backend, Dek};
    use uuid::Uuid;

    fn keys(byte: u8) -> VolumeKeys {
        VolumeKeys::new(Dek::new(&[byte; 32]), Uuid::nil(), Backend::AwsLc)
    }

    fn is(keys: &VolumeKeys, byte: u8) -> bool {
        keys.are_of(&Dek::new(&[byte; 32]))
    }

    #[test]
    fn numbers_say_whose_keys() {
        let ring = Keyring::from(keys(1));
        assert!(is(ring.of_epoch(1), 1) && is(ring.of_generation(0), 1) && ring.before().is_none());
        let ring = ring.switched(keys(2), Switch { epoch: 5, generation: 9 });
        assert!(is(ring.newest(), 2) && is(ring.oldest(), 1));
        assert!(is(ring.of_epoch(4), 1) && is(ring.of_epoch(5), 2));
        assert!(is(ring.of_generation(8), 1) && is(ring.of_generation(9), 2));
        assert!(ring.differ(8, 9) && !ring.differ(9, 10) && !ring.differ(7, 8));
        let ring = ring.finished();
        assert!(is(ring.of_epoch(4), 2) && is(ring.oldest(), 2) && !ring.differ(8, 9));
    }
}
