//! Short text in a field of fixed size.

use super::error::{FormatError, Structure, bounded, zeros};
use std::fmt;

/// UTF-8 without control characters, of at most `N` bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize> {
    len: usize,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    /// Longest text in bytes.
    pub const MAX: usize = N;

    /// Takes text that fits: `None` if it is too long or holds control characters.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        if text.len() > N || text.chars().any(char::is_control) {
            return None;
        }
        let mut bytes = [0; N];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Some(Self { len: text.len(), bytes })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("checked when it was made")
    }

    /// All `N` bytes: the text, then zeros.
    pub(super) const fn padded(&self) -> &[u8; N] {
        &self.bytes
    }

    /// Takes text out of a field that is zero after it.
    pub(super) fn decode(
        structure: Structure,
        field: &'static str,
        len: u64,
        bytes: [u8; N],
    ) -> Result<Self, FormatError> {
        let len = bounded(structure, field, len, 0, N as u64)?;
        let len = usize::try_from(len).expect("at most N");
        zeros(structure, field, &bytes[len..])?;
        let text =
            std::str::from_utf8(&bytes[..len]).map_err(|_| FormatError::NotText { structure, field })?;
        Self::new(text).ok_or(FormatError::NotText { structure, field })
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
