//! Where random bytes come from: an argument of everything that needs them.

use sha2::{Digest, Sha256};
use std::sync::Mutex;

/// A source of random bytes.
pub trait Entropy: Send + Sync {
    /// Fills `out`.
    ///
    /// # Errors
    /// If the system has no randomness to give. Nothing may be sealed then.
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyUnavailable>;
}

/// The system's random number generator failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system's random number generator failed: nothing was encrypted; see getrandom(2)")]
pub struct EntropyUnavailable;

/// `getrandom(2)`.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyUnavailable> {
        getrandom::fill(out).map_err(|_| EntropyUnavailable)
    }
}

/// The same bytes for the same seed: for tests and simulations, which must be repeatable. Never for a real volume.
#[derive(Debug)]
pub struct SeededEntropy {
    seed: u64,
    drawn: Mutex<u64>,
}

impl SeededEntropy {
    /// Starts the sequence of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, drawn: Mutex::new(0) }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyUnavailable> {
        let mut drawn = self.drawn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for chunk in out.chunks_mut(32) {
            let block = Sha256::new()
                .chain_update(self.seed.to_le_bytes())
                .chain_update(drawn.to_le_bytes())
                .finalize();
            chunk.copy_from_slice(&block[..chunk.len()]);
            *drawn += 1;
        }
        Ok(())
    }
}
