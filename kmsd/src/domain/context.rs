//! The encryption context: what a ciphertext is bound to beside its key (K2).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Names and values that must be given again, exactly, to open what was wrapped under them. Not secret.
///
/// Order does not matter, case does. An empty context is the same as none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EncryptionContext(BTreeMap<String, String>);

/// A context beyond the published limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an encryption context has at most {max} characters in names and values together, this one has {len}", max = EncryptionContext::MAX_LEN)]
pub struct ContextTooLong {
    /// Bytes given.
    pub len: usize,
}

impl EncryptionContext {
    /// Most bytes in names and values together.
    pub const MAX_LEN: usize = 8192;

    /// Context of a volume's data key, as every program of the product uses it.
    #[must_use]
    pub fn for_volume(uuid: &uuid::Uuid, kind: &str) -> Self {
        [("evs:volume", uuid.to_string().as_str()), ("evs:kind", kind)].into_iter().collect()
    }

    /// Adds a pair; a name given twice keeps the later value.
    pub fn insert(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// The pairs, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there is nothing to bind to.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of another context's pairs are in this one.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        other.0.iter().all(|(name, value)| self.0.get(name) == Some(value))
    }

    /// Checks the published limit.
    ///
    /// # Errors
    /// If names and values are too long together.
    pub fn check(&self) -> Result<(), ContextTooLong> {
        let len = self.iter().map(|(name, value)| name.len() + value.len()).sum();
        if len > Self::MAX_LEN { Err(ContextTooLong { len }) } else { Ok(()) }
    }

    /// The one byte string that stands for this context in authenticated data: the number of pairs, then each
    /// name and value with its length, sorted by name. Lengths come first, so that no two contexts share bytes.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let number = |out: &mut Vec<u8>, n: usize| {
            // Bounded by `check`; more than 4 GiB of context cannot be held in a request either.
            out.extend_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes());
        };
        number(&mut out, self.0.len());
        for (name, value) in self.iter() {
            number(&mut out, name.len());
            out.extend_from_slice(name.as_bytes());
            number(&mut out, value.len());
            out.extend_from_slice(value.as_bytes());
        }
        out
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for EncryptionContext {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn order_does_not_matter_and_case_does() {
        let ab: EncryptionContext = [("a", "1"), ("b", "2")].into_iter().collect();
        let ba: EncryptionContext = [("b", "2"), ("a", "1")].into_iter().collect();
        let upper: EncryptionContext = [("A", "1"), ("b", "2")].into_iter().collect();
        assert_eq!(ab.canonical(), ba.canonical());
        assert_ne!(ab.canonical(), upper.canonical());
    }

    #[test]
    fn canonical_bytes_are_golden() {
        let context: EncryptionContext = [("b", "22"), ("a", "")].into_iter().collect();
        assert_eq!(hex::encode(context.canonical()), "000000020000000161000000000000000162000000023232");
    }

    #[test]
    fn the_limit_is_the_published_one() {
        let mut context = EncryptionContext::default();
        context.insert("n", &"v".repeat(8191));
        assert_eq!(context.check(), Ok(()));
        context.insert("n", &"v".repeat(8192));
        assert_eq!(context.check(), Err(ContextTooLong { len: 8193 }));
    }

    proptest! {
        /// K2: different contexts never have the same bytes.
        #[test]
        fn k2_canonical_form_is_injective(
            a in proptest::collection::btree_map("[ab]{0,3}", "[ab]{0,3}", 0..4),
            b in proptest::collection::btree_map("[ab]{0,3}", "[ab]{0,3}", 0..4),
        ) {
            let (a, b) = (EncryptionContext(a), EncryptionContext(b));
            prop_assert_eq!(a == b, a.canonical() == b.canonical());
        }
    }
}
