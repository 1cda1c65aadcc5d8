//! The data encryption key.

use zeroize::{Zeroize, ZeroizeOnDrop};

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
