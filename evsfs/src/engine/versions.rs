//! Snapshots, rollback and extension: changes that a superblock alone records (docs/volume-format.md, "Versions").
//!
//! Each is a commit of its own: it takes a commit number and a step of the chain, so that the file as it was before it does not pass
//! for the file after it.

use uuid::Uuid;

use super::core::{Core, Root};
use super::error::VolumeError;
use super::map::Leaf;
use super::merge::Place;
use super::pages::Work;
use super::params::BaseImage;
use super::read::BATCH;
use super::report::SnapshotInfo;
use crate::format::layout::{BLOCK, BLOCK_BYTES, BLOCKS_MAX, map_capacity, map_entry, map_height};
use crate::format::{
    Entry, Kind, MapPage, Text, VERSION_PAGE_RECORDS, VERSION_PAGES, VersionRecord, VersionState,
};

/// Records of the version table.
const RECORDS_MOST: usize = VERSION_PAGES * VERSION_PAGE_RECORDS;
/// Snapshots at most; the other records are for trash, so that there is always room to delete and to roll back.
pub(super) const SNAPSHOTS_MOST: usize = RECORDS_MOST * 3 / 4;

fn info(record: &VersionRecord) -> SnapshotInfo {
    SnapshotInfo {
        id: record.id,
        name: record.name.as_str().to_owned(),
        size: record.blocks * BLOCK_BYTES,
        created: record.created,
    }
}

fn is_snapshot(record: &VersionRecord, id: Uuid) -> bool {
    record.state == VersionState::Snapshot && record.id == id
}

/// Makes trash of a record.
fn discard(record: &mut VersionRecord) {
    record.state = VersionState::Trash;
    record.range_start = 0;
    record.range_end = map_capacity(record.height);
    record.cursor = 0;
}

impl Core {
    pub(super) fn snapshots(&self) -> Vec<SnapshotInfo> {
        let versions = self.versions.read();
        versions.iter().filter(|version| version.state == VersionState::Snapshot).map(info).collect()
    }

    pub(super) fn find_snapshot(&self, id: Uuid) -> Option<VersionRecord> {
        self.versions.read().iter().find(|version| is_snapshot(version, id)).copied()
    }

    /// The same id and name again is no error: a caller that got no answer may ask once more.
    pub(super) fn snapshot(&self, name: &str, id: Uuid, created: u64) -> Result<SnapshotInfo, VolumeError> {
        let bad_name = VolumeError::NameTooLong { length: name.len(), most: Text::<64>::MAX };
        let name = Text::new(name).ok_or(bad_name)?;
        if let Some(have) = self.find_snapshot(id) {
            return if have.name == name { Ok(info(&have)) } else { Err(VolumeError::SnapshotExists { id }) };
        }
        let mut made = None;
        self.exclusive(&mut |plan, _| {
            let snapshots =
                plan.versions.iter().filter(|version| version.state == VersionState::Snapshot).count();
            if snapshots >= SNAPSHOTS_MOST || plan.versions.len() >= RECORDS_MOST {
                return Err(VolumeError::TooManySnapshots { most: SNAPSHOTS_MOST });
            }
            let record = VersionRecord {
                id,
                state: VersionState::Snapshot,
                name,
                created,
                blocks: plan.root.blocks,
                height: plan.root.height,
                root: plan.root.entry,
                range_start: 0,
                range_end: 0,
                cursor: 0,
            };
            plan.versions.push(record);
            plan.event = Some([b"snapshot", id.as_bytes().as_slice()].concat());
            made = Some(info(&record));
            Ok(())
        })?;
        made.ok_or(VolumeError::NoSuchSnapshot { id })
    }

    pub(super) fn delete_snapshot(&self, id: Uuid) -> Result<(), VolumeError> {
        self.exclusive(&mut |plan, _| {
            let found = plan.versions.iter_mut().find(|version| is_snapshot(version, id));
            discard(found.ok_or(VolumeError::NoSuchSnapshot { id })?);
            plan.event = Some([b"delete", id.as_bytes().as_slice()].concat());
            Ok(())
        })
    }

    /// The volume keeps its size; what lies beyond the snapshot's reads as never written.
    pub(super) fn rollback(&self, id: Uuid) -> Result<(), VolumeError> {
        let mut trash_id = [0; 16];
        self.store.entropy.fill(&mut trash_id)?;
        self.exclusive(&mut |plan, work| {
            let found = plan.versions.iter().find(|version| is_snapshot(version, id)).copied();
            let snapshot = found.ok_or(VolumeError::NoSuchSnapshot { id })?;
            if plan.versions.len() >= RECORDS_MOST {
                return Err(VolumeError::TooManySnapshots { most: SNAPSHOTS_MOST });
            }
            let old = plan.root;
            plan.root.entry = self.raise(snapshot.root, snapshot.height, old.height, work)?;
            if old.entry.kind() == Kind::Page {
                let mut trash = VersionRecord {
                    id: Uuid::from_bytes(trash_id),
                    name: Text::new("").expect("fits"),
                    blocks: old.blocks,
                    height: old.height,
                    root: old.entry,
                    ..snapshot
                };
                discard(&mut trash);
                plan.versions.push(trash);
            }
            plan.event = Some([b"rollback", id.as_bytes().as_slice()].concat());
            Ok(())
        })
    }

    pub(super) fn extend(&self, size: u64) -> Result<(), VolumeError> {
        let blocks = size / BLOCK_BYTES;
        if !size.is_multiple_of(BLOCK_BYTES) || blocks > BLOCKS_MAX {
            return Err(VolumeError::BadSize { asked: size, most: BLOCKS_MAX * BLOCK_BYTES });
        }
        self.exclusive(&mut |plan, work| {
            if blocks < plan.root.blocks {
                return Err(VolumeError::WouldShrink { size: plan.root.blocks * BLOCK_BYTES, asked: size });
            }
            let height = map_height(blocks).max(plan.root.height);
            plan.root.entry = self.raise(plan.root.entry, plan.root.height, height, work)?;
            plan.root.height = height;
            plan.root.blocks = blocks;
            plan.event = Some([b"extend".as_slice(), &size.to_le_bytes()].concat());
            Ok(())
        })
    }

    /// Puts pages above a root until it has the height. Marks of dead subtrees stay visible from above.
    fn raise(&self, root: Entry, from: u8, to: u8, work: &mut Work) -> Result<Entry, VolumeError> {
        let mut entry = root;
        for level in from..to {
            if entry.is_absent() {
                break;
            }
            let mut page = MapPage::empty();
            page.set(0, entry);
            let marks = entry.aux();
            entry = work.put(self, Place { level, index: 0 }, &page, true)?;
            if marks != 0 {
                entry = entry.with_aux(super::map::DEAD_BELOW);
            }
        }
        Ok(entry)
    }

    /// Reads from a snapshot: any offset and length within its size.
    pub(super) fn read_snapshot(&self, id: Uuid, offset: u64, buf: &mut [u8]) -> Result<(), VolumeError> {
        let base = self.base_now();
        let mut snapshot = self.find_snapshot(id).ok_or(VolumeError::NoSuchSnapshot { id })?;
        let length = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let size = snapshot.blocks * BLOCK_BYTES;
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(VolumeError::OutOfRange { offset, length, size });
        }
        let touched = usize::try_from((offset + length).div_ceil(BLOCK_BYTES) - offset / BLOCK_BYTES);
        let mut whole = vec![0; touched.map_or(BATCH, |blocks| blocks.min(BATCH)) * BLOCK];
        let (mut offset, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let first = offset / BLOCK_BYTES;
            let within = usize::try_from(offset % BLOCK_BYTES).expect("below 4096");
            let blocks = (within + rest.len()).div_ceil(BLOCK).min(BATCH);
            let len = rest.len().min(blocks * BLOCK - within);
            let part = &mut whole[..blocks * BLOCK];
            let root = Root { entry: snapshot.root, height: snapshot.height, blocks: snapshot.blocks };
            if let Err(error) = self.read_version(id, &root, base.as_deref(), first, part) {
                // Its slots may have been freed in the meantime, because it was deleted or sealed anew.
                let now = self.find_snapshot(id).ok_or(VolumeError::NoSuchSnapshot { id })?;
                if now.root == snapshot.root {
                    return Err(error);
                }
                snapshot = now;
                continue;
            }
            rest[..len].copy_from_slice(&part[within..within + len]);
            offset += u64::try_from(len).expect("small");
            rest = &mut rest[len..];
        }
        Ok(())
    }

    /// Reads whole blocks, at most [`BATCH`], under a root whose slots nobody frees meanwhile.
    fn read_version(
        &self,
        snapshot: Uuid,
        root: &Root,
        base: Option<&dyn BaseImage>,
        first: u64,
        buf: &mut [u8],
    ) -> Result<(), VolumeError> {
        for (block, bytes) in (first..).zip(buf.as_chunks_mut::<BLOCK>().0) {
            let leaf = self
                .descend(root, block)
                .map_err(|(level, reason)| self.damaged_page(level, block, reason))?;
            let entry = match leaf {
                Leaf::Page(page) => page.entry(map_entry(block, 0)),
                Leaf::Hole(hole, _) => hole,
            };
            self.read_entry(block, &entry, base, bytes.as_mut_slice())?.map_err(|reason| {
                let error = VolumeError::DamagedBlock { volume: self.store.uuid, block, reason };
                if let Some(untold) = self.reported.take_in(Some(snapshot), block) {
                    tracing::error!(%error, %snapshot, slot = entry.slot(), untold, "damage found in a snapshot");
                }
                error
            })?;
        }
        Ok(())
    }
}
