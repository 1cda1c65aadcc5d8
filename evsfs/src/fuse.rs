//! Translates FUSE requests into calls of a [`BlockDevice`], and nothing else.
//!
//! The file system is one directory with one file, `disk`, and for who asks by name one file for each snapshot. It has no names to make or
//! remove, and a fixed size.
//! Each serving thread reads into a buffer of its own, which the reply sends from without another copy.

mod attributes;
mod buffers;
mod openings;
mod snapshots;
mod threads;

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents,
    PollFlags, PollNotifier, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tracing::field::display;
use tracing::{debug, error};
use uuid::Uuid;

use self::attributes::Attributes;
use self::openings::View;
pub use self::openings::{Closed, Openings};
pub use self::snapshots::SNAPSHOT_PREFIX;
use self::snapshots::SnapshotFiles;
use self::threads::Kind;
pub use self::threads::Threads;
use crate::device::{BlockDevice, DeviceError};
use crate::engine::Ration;
use crate::errno::{errno, is_fault};

/// Name of the raw view in the mount point.
pub const DISK_NAME: &str = "disk";

/// Inode of the raw view.
pub const DISK_INODE: INodeNo = INodeNo(2);

/// Largest request in bytes: the kernel's own bound with 4 KiB pages.
pub const MAX_REQUEST: u32 = 1 << 20;

/// Requests that the kernel has under way in the background; direct I/O at depth counts as such.
const MAX_BACKGROUND: u16 = 64;

/// The name never changes.
const NAME_TTL: Duration = Duration::from_secs(3600);

/// A size that grew is announced; this is for what is not (blocks in use).
const ATTRIBUTE_TTL: Duration = Duration::from_secs(1);

const PAGE: usize = 4096;

/// The file system that shows one device.
pub struct DiskFs<D> {
    device: Arc<D>,
    attributes: Attributes,
    cached: bool,
    openings: Arc<Openings>,
    threads: Arc<Threads>,
    snapshots: SnapshotFiles,
    name: String,
    /// Failures that the log has heard of.
    reported: Ration,
}

impl<D: BlockDevice> DiskFs<D> {
    /// Shows `device`; `name` is for the log. In `cached` mode the kernel keeps pages, so that files can be mapped.
    #[must_use]
    pub fn new(
        device: Arc<D>,
        name: String,
        cached: bool,
        read_only: bool,
        openings: Arc<Openings>,
        threads: Arc<Threads>,
    ) -> Self {
        let attributes = Attributes::new(read_only, SystemTime::now());
        Self {
            device,
            attributes,
            cached,
            openings,
            threads,
            snapshots: SnapshotFiles::default(),
            name,
            reported: Ration::default(),
        }
    }

    /// Who serves it.
    #[must_use]
    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    fn failed(&self, what: &str, offset: u64, length: u64, error: &DeviceError) -> Errno {
        self.failed_in(None, what, offset, length, error)
    }

    /// What failed in a snapshot, if one is named, and what the kernel is told.
    fn failed_in(
        &self,
        snapshot: Option<Uuid>,
        what: &str,
        offset: u64,
        length: u64,
        error: &DeviceError,
    ) -> Errno {
        let errno = errno(error);
        if is_fault(error) {
            if let Some(untold) = self.reported.take_in(snapshot, offset) {
                let snapshot = snapshot.map(display);
                error!(volume = self.name, snapshot, offset, length, %error, untold, "{what} failed");
            }
        } else {
            debug!(volume = self.name, offset, length, %error, "{what} refused");
        }
        errno
    }

    fn disk(&self) -> fuser::FileAttr {
        self.attributes.disk(self.device.size(), self.device.allocated())
    }

    fn attr(&self, ino: INodeNo) -> Option<fuser::FileAttr> {
        match ino {
            INodeNo::ROOT => Some(self.attributes.root()),
            DISK_INODE => Some(self.disk()),
            other => self.snapshot(self.snapshots.of(other)?),
        }
    }

    /// What of the disk an inode shows, if it is a file.
    fn view(&self, ino: INodeNo) -> Option<View> {
        if ino == DISK_INODE {
            return Some(View::Disk);
        }
        self.snapshots.of(ino).map(|_| View::Snapshot)
    }

    fn snapshot(&self, id: Uuid) -> Option<fuser::FileAttr> {
        self.snapshots.attr(id, self.device.snapshots(), &self.attributes)
    }

    /// Reads from the disk or from a snapshot.
    fn read_from(&self, snapshot: Option<Uuid>, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        match (snapshot, self.device.snapshots()) {
            (Some(id), Some(snapshots)) => snapshots.read_from(id, offset, buf),
            _ => self.device.read(offset, buf),
        }
    }

    /// The part of a request that lies within the device.
    fn clip(&self, offset: u64, length: u64) -> u64 {
        length.min(self.device.size().saturating_sub(offset))
    }
}

impl<D: BlockDevice> Filesystem for DiskFs<D> {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without it direct I/O is served one request at a time, whatever the depth.
        if config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).is_err() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the kernel's FUSE has no asynchronous direct I/O",
            ));
        }
        // Older kernels lack this one; they then compare the modification time, which never changes here.
        let _ = config.add_capabilities(InitFlags::FUSE_EXPLICIT_INVAL_DATA);
        let bounded = |bound: Result<u32, u32>| bound.unwrap_or_else(|nearest| nearest);
        bounded(config.set_max_write(MAX_REQUEST));
        if let Err(nearest) = config.set_max_readahead(MAX_REQUEST) {
            bounded(config.set_max_readahead(nearest));
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == DISK_NAME {
            return reply.entry_with_ttls(&NAME_TTL, &ATTRIBUTE_TTL, &self.disk(), Generation(0));
        }
        let named = if parent == INodeNo::ROOT { SnapshotFiles::named(name) } else { None };
        match named.and_then(|id| self.snapshot(id)) {
            // It may go at any time.
            Some(attr) => reply.entry_with_ttls(&ATTRIBUTE_TTL, &ATTRIBUTE_TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Some(attr) => reply.attr(&ATTRIBUTE_TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Owner and mode may be changed, as those of a device node, until it is detached. The size may not.
    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if ino != DISK_INODE || size.is_some_and(|size| size != self.device.size()) {
            return reply.error(Errno::EPERM);
        }
        self.attributes.change(mode, uid, gid);
        reply.attr(&ATTRIBUTE_TTL, &self.disk());
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let Some(view) = self.view(ino) else { return reply.error(Errno::EISDIR) };
        if view == View::Snapshot && flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        if !self.openings.enter(view) {
            return reply.error(Errno::ESHUTDOWN);
        }
        if view == View::Snapshot {
            return reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
        }
        let flags = if self.cached {
            // Every write comes through this mount, so pages that the kernel has are never stale.
            FopenFlags::FOPEN_KEEP_CACHE
        } else {
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES | FopenFlags::FOPEN_NOFLUSH
        };
        reply.opened(FileHandle(0), flags);
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if let Some(view) = self.view(ino) {
            self.openings.leave(view);
        }
        reply.ok();
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _turn = Turn::new(&self.threads);
        let snapshot = self.snapshots.of(ino);
        let length = match snapshot {
            None => self.clip(offset, size.into()),
            Some(id) => match self.snapshot(id) {
                Some(attr) => u64::from(size).min(attr.size.saturating_sub(offset)),
                None => return reply.error(Errno::ESTALE),
            },
        };
        if length == 0 {
            return reply.data(&[]);
        }
        self.threads.with_buffer(|buffer| {
            let buf = buffer.slice(usize::try_from(length).expect("a request's length fits"));
            match self.threads.call(Kind::Read, length, || self.read_from(snapshot, offset, buf)) {
                Ok(()) => reply.data(buf),
                Err(error) => reply.error(self.failed_in(snapshot, "read", offset, length, &error)),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _turn = Turn { threads: &self.threads, written: data };
        let length = self.clip(offset, data.len() as u64);
        if length == 0 && !data.is_empty() {
            return reply.error(Errno::ENOSPC);
        }
        let written = u32::try_from(length).expect("a request's length fits");
        let data = &data[..written as usize];
        match self.threads.call(Kind::Write, length, || self.device.write(offset, data)) {
            Ok(()) => reply.written(written),
            Err(error) => reply.error(self.failed("write", offset, length, &error)),
        }
    }

    /// Closing a file makes nothing durable, as with any disk.
    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let _turn = Turn::new(&self.threads);
        match self.threads.call(Kind::Flush, 0, || self.device.flush()) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.failed("flush", 0, 0, &error)),
        }
    }

    /// There is nothing in the directory that could be unsaved.
    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if ino != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (DISK_INODE, FileType::RegularFile, DISK_NAME),
        ];
        for ((ino, kind, name), next) in entries.into_iter().zip(1u64..) {
            if next > offset && reply.add(ino, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let block = PAGE as u64;
        let size = self.device.size() / block;
        let free = size.saturating_sub(self.device.allocated() / block);
        reply.statfs(size, free, free, 1, 0, 4096, 255, 4096);
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let _turn = Turn::new(&self.threads);
        let zero = |work: &dyn Fn() -> Result<(), DeviceError>| self.threads.call(Kind::Write, 0, work);
        let (what, zeros) = match mode {
            PUNCH => ("discard", zero(&|| self.device.discard(offset, length))),
            ZERO | ZERO_KEEP => ("zeroing", zero(&|| self.device.write_zeroes(offset, length))),
            // A promise of space for writes to come: nothing that writes out of place could keep it.
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        match zeros {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.failed(what, offset, length, &error)),
        }
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Ok(from) = u64::try_from(offset) else { return reply.error(Errno::EINVAL) };
        let Some(attr) = self.attr(ino) else { return reply.error(Errno::ESTALE) };
        if from >= attr.size {
            return reply.error(Errno::ENXIO);
        }
        let snapshot = self.snapshots.of(ino).zip(self.device.snapshots());
        if ![libc::SEEK_DATA, libc::SEEK_HOLE].contains(&whence) {
            return reply.error(Errno::EINVAL);
        }
        // What was stored through a mapping is known to the kernel alone until it writes it back: any part of the disk may be data.
        if self.cached && snapshot.is_none() {
            return match whence {
                libc::SEEK_DATA => reply.offset(offset),
                _ => reply.offset(i64::try_from(attr.size).expect("sizes are far below 2^63")),
            };
        }
        let _turn = Turn::new(&self.threads);
        let found = self.threads.call(Kind::Read, 0, || match (whence, snapshot) {
            (libc::SEEK_DATA, None) => self.device.next_data(from),
            (_, None) => self.device.next_hole(from).map(Some),
            (libc::SEEK_DATA, Some((id, snapshots))) => snapshots.next_data_in(id, from),
            (_, Some((id, snapshots))) => snapshots.next_hole_in(id, from).map(Some),
        });
        match found {
            Ok(Some(at)) => reply.offset(i64::try_from(at).expect("sizes are far below 2^63")),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(error) => reply.error(self.failed_in(snapshot.map(|(id, _)| id), "lseek", from, 0, &error)),
        }
    }

    // What follows is not offered. The kernel learns it from the first answer, and copies by read and write where it must.

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    /// The kernel then says by itself that a file is always ready.
    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }
}

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// A request that a serving thread has taken. When it was answered, the thread asks for another one, or rests.
struct Turn<'a> {
    threads: &'a Threads,
    /// What it came with.
    written: &'a [u8],
}

impl<'a> Turn<'a> {
    const fn new(threads: &'a Threads) -> Self {
        Self { threads, written: &[] }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.threads.are_too_many() {
            // SAFETY: it stands in the library's buffer, which is memory of the heap's, and was answered: the thread returns from here to read the
            // next request over it.
            #[allow(unsafe_code)]
            unsafe {
                buffers::give_back(self.written);
            }
            self.threads.rest();
        }
    }
}
