//! What `stat` shows.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use fuser::{FileAttr, FileType, INodeNo};

use super::DISK_INODE;

/// Owner and mode of the disk, which last while it is attached, and the time of attaching.
pub(super) struct Attributes {
    mode: AtomicU32,
    uid: AtomicU32,
    gid: AtomicU32,
    root_uid: u32,
    root_gid: u32,
    since: SystemTime,
}

impl Attributes {
    pub(super) fn new(read_only: bool, now: SystemTime) -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        Self {
            mode: AtomicU32::new(if read_only { 0o400 } else { 0o600 }),
            uid: AtomicU32::new(uid),
            gid: AtomicU32::new(gid),
            root_uid: uid,
            root_gid: gid,
            since: now,
        }
    }

    pub(super) fn change(&self, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>) {
        for (field, value) in [(&self.mode, mode.map(|m| m & 0o777)), (&self.uid, uid), (&self.gid, gid)] {
            if let Some(value) = value {
                field.store(value, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn disk(&self, size: u64, allocated: u64) -> FileAttr {
        FileAttr {
            ino: DISK_INODE,
            size,
            blocks: allocated / 512,
            kind: FileType::RegularFile,
            perm: u16::try_from(self.mode.load(Ordering::Relaxed)).expect("nine bits"),
            nlink: 1,
            uid: self.uid.load(Ordering::Relaxed),
            gid: self.gid.load(Ordering::Relaxed),
            ..self.root()
        }
    }

    /// A snapshot: of the same owner, read-only, and the space that it takes is the disk's.
    pub(super) fn kept(&self, ino: INodeNo, size: u64) -> FileAttr {
        let disk = self.disk(size, 0);
        FileAttr { ino, perm: disk.perm & 0o444, ..disk }
    }

    pub(super) fn root(&self) -> FileAttr {
        FileAttr {
            ino: INodeNo::ROOT,
            size: 0,
            blocks: 0,
            atime: self.since,
            mtime: self.since,
            ctime: self.since,
            crtime: self.since,
            kind: FileType::Directory,
            // Who may pass is the mount's matter; the disk has a mode of its own.
            perm: 0o555,
            nlink: 2,
            uid: self.root_uid,
            gid: self.root_gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}
