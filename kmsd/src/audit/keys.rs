//! The keys that the files of a log begin with, exported so that a copy can be checked without the service and its token.
//!
//! Whoever has such a key can check every record of its file, and could as well write another history of that file: an export
//! is for the keeper of a copy, not for the host that the log is from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::domain::audit::ChainKey;

/// What the document says of itself.
const FORMAT: &str = "kmsd audit keys 1";

/// Keys by file.
#[derive(Serialize, Deserialize)]
pub struct ExportedKeys {
    /// [`FORMAT`].
    format: String,
    /// File numbers, and 64 hexadecimal digits each.
    files: BTreeMap<u64, String>,
}

/// A document that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysFault {
    /// Not JSON of this form.
    #[error("it does not hold exported audit keys (`ecsctl audit export-keys` writes them)")]
    Form,
    /// A file of the log has none in it.
    #[error(
        "it has no key for the log's file {file}: export the keys again, after the start of kmsd that began this file"
    )]
    Missing {
        /// The file's number.
        file: u64,
    },
}

impl ExportedKeys {
    /// Of keys that the token derived.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = (u64, Zeroizing<[u8; 32]>)>) -> Self {
        let files = keys.into_iter().map(|(file, key)| (file, hex::encode(*key))).collect();
        Self { format: FORMAT.to_owned(), files }
    }

    /// Reads the document.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(json: &[u8]) -> Result<Self, KeysFault> {
        let keys: Self = serde_json::from_slice(json).map_err(|_| KeysFault::Form)?;
        if keys.format == FORMAT { Ok(keys) } else { Err(KeysFault::Form) }
    }

    /// The document.
    #[must_use]
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        // Room for everything, so that no copy is left behind by growing.
        let mut json = Zeroizing::new(Vec::with_capacity(128 + self.files.len() * 128));
        serde_json::to_writer_pretty(&mut *json, self).expect("it serialises");
        json.push(b'\n');
        json
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The key that a file begins with.
    ///
    /// # Errors
    /// If it is not among them, or is none.
    pub fn key(&self, file: u64) -> Result<ChainKey, KeysFault> {
        let digits = self.files.get(&file).ok_or(KeysFault::Missing { file })?;
        let mut key = Zeroizing::new([0; 32]);
        hex::decode_to_slice(digits, &mut *key).map_err(|_| KeysFault::Form)?;
        Ok(ChainKey::new(*key))
    }
}

impl Drop for ExportedKeys {
    fn drop(&mut self) {
        self.files.values_mut().for_each(Zeroize::zeroize);
    }
}
