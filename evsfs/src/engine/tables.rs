//! The tables that a superblock refers to: epochs and versions.

use super::core::Core;
use super::error::{Damage, VolumeError};
use super::pages::Work;
use super::store::Store;
use crate::crypto::{EpochSalt, TablePurpose};
use crate::format::{
    EPOCH_PAGE_SALTS, Entry, EpochDirectory, EpochPage, Superblock, VERSION_PAGE_RECORDS, VersionPage,
    VersionRecord,
};

/// Where the durable tables lie.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tables {
    /// The epoch directory, or absent.
    pub(super) directory: Entry,
    /// Its pages.
    pub(super) epoch_pages: Vec<Entry>,
    /// How many salts they hold.
    pub(super) salts: usize,
    /// The pages of the version table.
    pub(super) version_pages: Vec<Entry>,
    /// What they hold.
    pub(super) versions: Vec<VersionRecord>,
}

impl Tables {
    /// Reads the tables of a superblock.
    pub(super) fn read(
        store: &Store,
        superblock: &Superblock,
    ) -> Result<(Self, Vec<EpochSalt>), VolumeError> {
        let malformed = |entry: &Entry| VolumeError::DamagedTable {
            volume: store.uuid,
            slot: entry.slot(),
            reason: Damage::Malformed,
        };
        let mut tables = Self {
            directory: superblock.epochs,
            version_pages: superblock.versions.clone(),
            ..Self::default()
        };
        let mut salts = Vec::new();
        if !superblock.epochs.is_absent() {
            let payload =
                store.read_table(TablePurpose::EpochDirectory, &superblock.epochs, superblock.generation)?;
            let directory = EpochDirectory::decode(&payload).map_err(|_| malformed(&superblock.epochs))?;
            for entry in &directory.pages {
                let payload = store.read_table(TablePurpose::EpochPage, entry, superblock.generation)?;
                salts.extend(EpochPage::decode(&payload).map_err(|_| malformed(entry))?.salts);
            }
            tables.epoch_pages = directory.pages;
        }
        for entry in &superblock.versions {
            let payload = store.read_table(TablePurpose::Versions, entry, superblock.generation)?;
            tables.versions.extend(VersionPage::decode(&payload).map_err(|_| malformed(entry))?.records);
        }
        tables.salts = salts.len();
        Ok((tables, salts))
    }

    /// Every slot that they take.
    pub(super) fn slots(&self) -> impl Iterator<Item = u64> + '_ {
        let directory = (!self.directory.is_absent()).then_some(&self.directory);
        directory.into_iter().chain(&self.epoch_pages).chain(&self.version_pages).map(Entry::slot)
    }
}

impl Core {
    /// Writes what changed of the tables to new slots and frees the old ones: for the superblock after the one of `generation`.
    pub(super) fn write_tables(
        &self,
        old: &Tables,
        generation: u64,
        versions: &[VersionRecord],
        work: &mut Work,
    ) -> Result<Tables, VolumeError> {
        let mut new = old.clone();
        let salts = self.store.epochs.salts();
        let next = generation + 1;
        // All tables of a superblock are of its own keys.
        let moved = self.store.keys.now().differ(generation, next);
        if salts.len() != old.salts || moved {
            // Full pages stay; only the last one grows.
            let unchanged = if moved { 0 } else { old.salts / EPOCH_PAGE_SALTS };
            for entry in new.epoch_pages.drain(unchanged.min(old.epoch_pages.len())..) {
                work.free(entry.slot());
            }
            for part in salts.chunks(EPOCH_PAGE_SALTS).skip(new.epoch_pages.len()) {
                let payload = EpochPage { salts: part.to_vec() }.encode();
                new.epoch_pages.push(self.table(TablePurpose::EpochPage, &payload, next, work)?);
            }
            if !old.directory.is_absent() {
                work.free(old.directory.slot());
            }
            let payload = EpochDirectory { pages: new.epoch_pages.clone() }.encode();
            new.directory = self.table(TablePurpose::EpochDirectory, &payload, next, work)?;
            new.salts = salts.len();
        }
        if versions != old.versions || moved {
            for entry in new.version_pages.drain(..) {
                work.free(entry.slot());
            }
            for part in versions.chunks(VERSION_PAGE_RECORDS) {
                let payload = VersionPage { records: part.to_vec() }.encode();
                new.version_pages.push(self.table(TablePurpose::Versions, &payload, next, work)?);
            }
            new.versions = versions.to_vec();
        }
        Ok(new)
    }

    fn table(
        &self,
        purpose: TablePurpose,
        payload: &crate::format::TablePayload,
        generation: u64,
        work: &mut Work,
    ) -> Result<Entry, VolumeError> {
        let slot = work.take_low(self, true)?;
        self.store.write_table(purpose, payload, slot, generation)
    }
}
