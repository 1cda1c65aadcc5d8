//! Secret and opaque byte strings that cross the service's boundary.

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::domain::envelope::{Envelope, Purpose};

/// A data encryption key: 256 bits that are wiped when dropped and that nothing prints.
///
/// There is no `Debug`, `Display` or `Clone`: whoever needs the bytes says so with [`Dek::expose`].
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Dek(Box<[u8; Self::LEN]>);

impl Dek {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Takes the key material. The caller's copy stays the caller's to wipe.
    #[must_use]
    pub fn new(bytes: &[u8; Self::LEN]) -> Self {
        // On the heap, so that moving the value leaves no copies behind on the stack.
        Self(Box::new(*bytes))
    }

    /// The key material.
    #[must_use]
    pub const fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// A wrapped data key as the service handed it out: opaque, not secret, of bounded length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedDek(Vec<u8>);

/// A wrapped data key that is empty or longer than any that the service makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a wrapped data key has 1 to {max} bytes, this one has {len}: it was not made by this service", max = WrappedDek::MAX_LEN)]
pub struct WrappedDekLength {
    /// Bytes given.
    pub len: usize,
}

impl WrappedDek {
    /// No wrapped 256-bit key is longer, in bytes. Formats that store one can reserve this much.
    pub const MAX_LEN: usize = 512;

    /// Takes the bytes of a wrapped key.
    ///
    /// # Errors
    /// If the length is impossible.
    pub fn new(bytes: Vec<u8>) -> Result<Self, WrappedDekLength> {
        if bytes.is_empty() || bytes.len() > Self::MAX_LEN {
            return Err(WrappedDekLength { len: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// The bytes to store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The version of the master key that it names, to be shown. `None` if it has not the form that this service gives.
    #[must_use]
    pub fn key_version(&self) -> Option<u32> {
        Some(Envelope::decode(&self.0, Purpose::DataKey).ok()?.header.version.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_deks_have_a_bounded_length() {
        assert!(WrappedDek::new(vec![]).is_err());
        assert!(WrappedDek::new(vec![0; WrappedDek::MAX_LEN]).is_ok());
        assert_eq!(WrappedDek::new(vec![0; 513]), Err(WrappedDekLength { len: 513 }));
    }
}
