//! Files of snapshots: `snapshot-ID` beside the disk, to be read. They are not listed; who knows the id opens them.

use std::ffi::OsStr;

use fuser::{FileAttr, FileType, INodeNo};
use parking_lot::Mutex;
use uuid::Uuid;

use super::DISK_INODE;
use super::attributes::Attributes;
use crate::device::Snapshots;

/// What the names begin with.
pub const SNAPSHOT_PREFIX: &str = "snapshot-";

/// Which inode stands for which snapshot: one for each that was asked for.
#[derive(Default)]
pub(super) struct SnapshotFiles(Mutex<Vec<Uuid>>);

impl SnapshotFiles {
    /// The snapshot that a name means.
    pub(super) fn named(name: &OsStr) -> Option<Uuid> {
        let id = name.to_str()?.strip_prefix(SNAPSHOT_PREFIX)?;
        // One name for each: as it is printed.
        id.parse().ok().filter(|parsed: &Uuid| parsed.to_string() == id)
    }

    /// Its inode.
    pub(super) fn inode(&self, id: Uuid) -> INodeNo {
        let mut known = self.0.lock();
        let place = known.iter().position(|have| *have == id).unwrap_or_else(|| {
            known.push(id);
            known.len() - 1
        });
        INodeNo(DISK_INODE.0 + 1 + u64::try_from(place).expect("there are at most a few hundred"))
    }

    /// The snapshot of an inode.
    pub(super) fn of(&self, inode: INodeNo) -> Option<Uuid> {
        let place = usize::try_from(inode.0.checked_sub(DISK_INODE.0 + 1)?).ok()?;
        self.0.lock().get(place).copied()
    }

    /// What `stat` shows of it, while it is there.
    pub(super) fn attr(
        &self,
        id: Uuid,
        snapshots: Option<&dyn Snapshots>,
        attributes: &Attributes,
    ) -> Option<FileAttr> {
        let size = snapshots?.size_of(id)?;
        let (ino, kind) = (self.inode(id), FileType::RegularFile);
        Some(FileAttr { ino, size, blocks: size / 512, kind, perm: 0o400, nlink: 1, ..attributes.root() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_one_name_and_one_inode() {
        let files = SnapshotFiles::default();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let named = |name: &str| SnapshotFiles::named(OsStr::new(name));
        assert_eq!(named(&format!("snapshot-{one}")), Some(one));
        for name in ["snapshot-", "snapshot-x", &one.to_string(), &format!("snapshot-{}", one.simple())] {
            assert_eq!(named(name), None, "{name}");
        }
        let inodes = [files.inode(one), files.inode(other), files.inode(one)];
        assert_eq!(inodes, [INodeNo(3), INodeNo(4), INodeNo(3)]);
        assert_eq!([2, 3, 4, 5].map(|inode| files.of(INodeNo(inode))), [None, Some(one), Some(other), None]);
    }
}
