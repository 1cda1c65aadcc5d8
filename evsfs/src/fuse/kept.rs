//! The snapshots of a device as files beside it: `@` and the id. They are found by who asks for them by name, and not listed.

use fuser::INodeNo;
use parking_lot::RwLock;
use uuid::Uuid;

/// Inode of the first snapshot that was asked for; those of the directory and the disk come before.
const FIRST: u64 = 3;

/// Which snapshot has which inode. One that is deleted keeps its inode, and no other gets it.
#[derive(Debug, Default)]
pub(super) struct Inodes(RwLock<Vec<Uuid>>);

impl Inodes {
    /// The inode of a snapshot that exists.
    pub(super) fn of(&self, id: Uuid) -> INodeNo {
        let mut known = self.0.write();
        let at = known.iter().position(|other| *other == id).unwrap_or_else(|| {
            known.push(id);
            known.len() - 1
        });
        INodeNo(FIRST + at as u64)
    }

    /// The snapshot with this inode.
    pub(super) fn id(&self, ino: INodeNo) -> Option<Uuid> {
        let at = usize::try_from(ino.0.checked_sub(FIRST)?).ok()?;
        self.0.read().get(at).copied()
    }
}

/// The id in a name.
pub(super) fn id_of(name: &str) -> Option<Uuid> {
    name.strip_prefix('@').and_then(|id| Uuid::try_parse(id).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_keeps_its_inode() {
        let inodes = Inodes::default();
        let [a, b] = [1, 2].map(Uuid::from_u128);
        let (first, second) = (inodes.of(a), inodes.of(b));
        assert_eq!((inodes.of(a), inodes.id(first), inodes.id(second)), (first, Some(a), Some(b)));
        assert_eq!([0, 1, 2, 5, u64::MAX].map(|ino| inodes.id(INodeNo(ino))), [None; 5]);
        assert_eq!((id_of(&format!("@{a}")), id_of("disk"), id_of("@x")), (Some(a), None, None));
    }
}
