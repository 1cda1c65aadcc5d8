//! The token: everything that is specific to an HSM stands behind [`Token`] and [`Session`].
//!
//! Calls block, and a session belongs to one thread at a time. [`Pool`] runs them on threads of its own, with a
//! bounded queue before them, and recovers a token that was lost.

mod error;
pub mod pkcs11;
mod pool;

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) mod fake;

use zeroize::Zeroizing;

pub use self::{
    error::{HsmError, Recovery},
    pool::{Pool, PoolSettings, TokenStatus},
};
use crate::domain::{
    envelope::Mechanism,
    import::{Arrival, CheckValue, OaepHash, PairId, RsaBits},
    reconcile::ObjectId,
};

/// What tells one token from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIdentity {
    /// Its label, without padding.
    pub label: String,
    /// Its serial number, without padding.
    pub serial: String,
}

impl std::fmt::Display for TokenIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} (serial {})", self.label, self.serial)
    }
}

/// A token that sessions can be opened on.
pub trait Token: Send + Sync + 'static {
    /// Which token it is.
    fn identity(&self) -> TokenIdentity;

    /// Opens a session that is logged in.
    ///
    /// # Errors
    /// If the token is not there, or is another one, or refuses the PIN.
    fn open(&self) -> Result<Box<dyn Session>, HsmError>;

    /// Gets a lost token back: drops every session and handle, initialises the module anew and logs in. Does nothing
    /// if that has been done since `seen` was current.
    ///
    /// # Errors
    /// If the token is still away.
    fn recover(&self, seen: u64) -> Result<(), HsmError>;

    /// How new content is sealed. Chosen from what the token reports, so it may change with a recovery.
    fn mechanism(&self) -> Mechanism;

    /// Counts the recoveries. A session that was opened under another count is dead.
    fn generation(&self) -> u64;
}

/// A logged-in session. `&mut`: one call at a time.
pub trait Session: Send {
    /// Makes an AES-256 key in the token that never leaves it and only encrypts and decrypts (K1).
    ///
    /// # Errors
    /// If the token cannot; [`HsmError::Occupied`] if it is known to have one.
    fn generate(&mut self, object: ObjectId) -> Result<(), HsmError>;

    /// Whether the token has it.
    ///
    /// # Errors
    /// If the token cannot say.
    fn exists(&mut self, object: ObjectId) -> Result<bool, HsmError>;

    /// Whether it is protected as what [`generate`](Self::generate) makes (K1), by what the token says of it.
    ///
    /// # Errors
    /// [`HsmError::NoObject`] if the token does not have the key.
    fn is_protected(&mut self, object: ObjectId) -> Result<bool, HsmError>;

    /// Destroys it, every copy. Destroying what is not there is no error.
    ///
    /// # Errors
    /// If the token cannot.
    fn destroy(&mut self, object: ObjectId) -> Result<(), HsmError>;

    /// Everything of this service's that the token has.
    ///
    /// # Errors
    /// If the token cannot say.
    fn inventory(&mut self) -> Result<Vec<ObjectId>, HsmError>;

    /// Encrypts and authenticates, by the token's [mechanism](Token::mechanism).
    ///
    /// # Errors
    /// [`HsmError::NoObject`] if the token does not have the key.
    fn seal(&mut self, object: ObjectId, aad: &[u8], plaintext: &[u8]) -> Result<Sealed, HsmError>;

    /// Checks and decrypts.
    ///
    /// # Errors
    /// [`HsmError::DoesNotOpen`] if anything does not fit.
    fn open(
        &mut self,
        object: ObjectId,
        mechanism: Mechanism,
        iv: &[u8],
        aad: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, HsmError>;

    /// Whether session and token are there: something small is asked of the device itself.
    ///
    /// # Errors
    /// If it does not answer.
    fn answers(&mut self) -> Result<(), HsmError>;

    /// Fills `out` from the token's generator.
    ///
    /// # Errors
    /// If the token cannot.
    fn random(&mut self, out: &mut [u8]) -> Result<(), HsmError>;

    /// Derives 32 bytes for a purpose, with a key of the token's own that only signs. `create` makes that key if the token
    /// does not have it.
    ///
    /// # Errors
    /// [`HsmError::NoIntegrityKey`] if the key is not there.
    fn derive(&mut self, purpose: &[u8], create: bool) -> Result<Zeroizing<[u8; 32]>, HsmError>;

    /// Makes an RSA pair that unwraps imported material and does nothing else, and gives its public half (SubjectPublicKeyInfo, DER).
    ///
    /// # Errors
    /// [`HsmError::OaepHash`] if the token cannot unwrap with that hash; [`HsmError::Lacks`] if it cannot do imports.
    fn make_pair(&mut self, pair: PairId, bits: RsaBits, hash: OaepHash) -> Result<Vec<u8>, HsmError>;

    /// Destroys it. Destroying what is not there is no error.
    ///
    /// # Errors
    /// If the token cannot.
    fn drop_pair(&mut self, pair: PairId) -> Result<(), HsmError>;

    /// All such pairs that the token has.
    ///
    /// # Errors
    /// If the token cannot say.
    fn pairs(&mut self) -> Result<Vec<PairId>, HsmError>;

    /// Unwraps material into the token, as a key that never leaves it and only encrypts and decrypts (K1, K6), in place of what there is of that
    /// object. What the token makes beside it (without GCM: the key that authenticates) is made at the [first](Arrival::First) arrival, and is the
    /// same at every later one.
    ///
    /// # Errors
    /// [`HsmError::DoesNotOpen`] if it does not unwrap, or not to 32 bytes; [`HsmError::NoPair`] if the pair is not there; [`HsmError::NoMacKey`] if
    /// what was made beside it at first is not.
    fn import(
        &mut self,
        object: ObjectId,
        pair: PairId,
        hash: OaepHash,
        wrapped: &[u8],
        arrival: Arrival,
    ) -> Result<(), HsmError>;

    /// Destroys the material of an imported object, every copy, and keeps what was made beside it. Removing what is not there is no error.
    ///
    /// # Errors
    /// If the token cannot.
    fn remove_material(&mut self, object: ObjectId) -> Result<(), HsmError>;

    /// Tells an object's material from other material, without telling anything of it.
    ///
    /// # Errors
    /// [`HsmError::NoObject`] if the token does not have the key.
    fn check_value(&mut self, object: ObjectId) -> Result<CheckValue, HsmError>;

    /// What was noted in the token last; after a crash in the midst of it, also what was noted before.
    ///
    /// # Errors
    /// If the token cannot say.
    fn notes(&mut self) -> Result<Vec<Vec<u8>>, HsmError>;

    /// Notes something in the token, in place of what was noted before.
    ///
    /// # Errors
    /// If the token cannot.
    fn put_note(&mut self, note: &[u8]) -> Result<(), HsmError>;
}

/// What [`Session::seal`] gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// How.
    pub mechanism: Mechanism,
    /// As the token used it; some tokens choose it themselves.
    pub iv: Vec<u8>,
    /// Ciphertext and tag.
    pub ciphertext: Vec<u8>,
}

impl dyn Session + '_ {
    /// Makes a key unless the token has it: safe to repeat when it is not known whether it was made.
    ///
    /// # Errors
    /// If the token cannot; [`HsmError::Unprotected`] if what it has is weaker than what it would make.
    pub fn ensure(&mut self, object: ObjectId) -> Result<(), HsmError> {
        if !self.exists(object)? {
            return self.generate(object);
        }
        if self.is_protected(object)? { Ok(()) } else { Err(HsmError::Unprotected { object }) }
    }

    /// Whether a key is protected and whole: a token that died while it made one may show it without its value.
    ///
    /// # Errors
    /// If the token is away, so that nothing is known.
    pub fn works(&mut self, object: ObjectId) -> Result<bool, HsmError> {
        let tried = match self.is_protected(object) {
            Ok(true) => self.seal(object, b"kmsd trial", b"trial").map(|_| true),
            other => other,
        };
        match tried {
            Err(HsmError::Failed { .. } | HsmError::Lacks { .. } | HsmError::NoObject { .. }) => Ok(false),
            other => other,
        }
    }
}
