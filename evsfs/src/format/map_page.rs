//! 128 entries: a page of the map, or an upper page of the allocation tree.

use super::entry::{Entry, Kind};
use super::error::{FormatError, Structure};
use super::layout::{BLOCK, FANOUT};
use super::{Block, bytes::array};

/// A decoded page; in memory as large as in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapPage(Box<[Entry; FANOUT]>);

impl MapPage {
    /// A page without entries.
    #[must_use]
    pub fn empty() -> Self {
        Self(Box::new([Entry::ABSENT; FANOUT]))
    }

    /// Entry `index`.
    ///
    /// # Panics
    /// If `index` is not below 128.
    #[must_use]
    pub fn entry(&self, index: usize) -> Entry {
        self.0[index]
    }

    /// All entries.
    #[must_use]
    pub fn entries(&self) -> &[Entry; FANOUT] {
        &self.0
    }

    /// Puts an entry and gives back the one before.
    ///
    /// # Panics
    /// If `index` is not below 128.
    pub fn set(&mut self, index: usize, entry: Entry) -> Entry {
        std::mem::replace(&mut self.0[index], entry)
    }

    /// Whether no entry is there: the page then need not exist.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Entry::is_absent)
    }

    /// As in the file, before it is sealed.
    pub fn encode(&self, out: &mut Block) {
        for (entry, bytes) in self.0.iter().zip(out.as_chunks_mut().0) {
            *bytes = entry.encode();
        }
    }

    /// From opened bytes. A leaf (level 0 of the map) holds data and zero entries, a page above it pages only.
    ///
    /// # Errors
    /// If an entry is none, or not one for this level.
    pub fn decode(bytes: &Block, leaf: bool) -> Result<Self, FormatError> {
        let mut page = Self::empty();
        for (index, entry) in page.0.iter_mut().enumerate() {
            *entry = Entry::decode(&array(bytes, index * Entry::LEN))?;
            let fits = match entry.kind() {
                Kind::Absent => true,
                Kind::Data => leaf,
                // A whole subtree can be a hole that hides the base.
                Kind::Zero => true,
                Kind::Page => !leaf,
            };
            if !fits {
                return Err(FormatError::Contradiction { structure: Structure::MapPage, field: "kind" });
            }
        }
        Ok(page)
    }
}

const _: () = assert!(FANOUT * Entry::LEN == BLOCK);
const _: () = assert!(size_of::<Entry>() == Entry::LEN);
