//! Keys, nonces and the block cipher: no I/O and no clock; randomness is an argument ([`Entropy`]).
//!
//! Everything that seals goes through [`BlockCipher`], with a [`SealNonce`] that only a [`NonceSequence`] makes, which in turn only
//! [`VolumeKeys::begin_epoch`] makes, together with a fresh salt. So no (key, nonce) pair can be used twice by mistake.

mod aes_gcm;
mod aws_lc;
mod cipher;
mod entropy;
mod kdf;
mod keyring;
mod keys;
mod nonce;
mod plain;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
#[cfg(feature = "sim")]
pub mod witness;

pub use cipher::{AuthenticationFailed, Backend, BlockCipher, Suite, Tag};
pub use entropy::{Entropy, EntropyUnavailable, SeededEntropy, SystemEntropy};
pub use keyring::{Keyring, Switch};
pub use keys::{BaseMac, Chain, EpochKeys, EpochSalt, FreshEpoch, HeaderMac, TablePurpose, VolumeKeys};
pub use kmsd::Dek;
pub use nonce::{EpochExhausted, NonceRun, NonceSequence, SEALS_PER_EPOCH, SealNonce};
