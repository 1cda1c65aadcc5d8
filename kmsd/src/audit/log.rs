//! Writing.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{AuditError, FirstRecord, reader};
use crate::{
    clock::Clock,
    domain::{
        Principal,
        audit::{AT_COMMIT, Chain, ChainKey, Event, Head, START, Stage, Stamp},
    },
};

/// A file that has grown beyond this is followed by another one.
const SEGMENT: u64 = 64 << 20;
/// Most records in one sync.
const GROUP: usize = 1024;
/// Records that may wait.
const QUEUE: usize = 8192;

type Waiting = (Event, oneshot::Sender<Result<(), AuditError>>);

/// The log. The thread ends when it is dropped.
pub struct AuditLog {
    records: Option<Sender<Waiting>>,
    head: Arc<Mutex<Head>>,
    is_failing: Arc<AtomicBool>,
    newest_file: Arc<AtomicU64>,
    directory: PathBuf,
    #[cfg(test)]
    fault: Arc<std::sync::atomic::AtomicU8>,
    thread: Option<JoinHandle<()>>,
}

/// A log whose next file's number is known, so that its key can be derived.
pub struct Opened {
    directory: PathBuf,
    next: u64,
    head: Head,
    cut: u64,
    newest_start: Option<FirstRecord>,
    segments: Vec<reader::Segment>,
}

impl Opened {
    /// Opens the log in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(directory: &Path) -> Result<Self, AuditError> {
        let io = |e: std::io::Error| AuditError::Io { path: directory.to_owned(), kind: e.kind() };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
        let segments = reader::segments(directory)?;
        let mut head = Head::default();
        let mut cut = 0;
        // The last file may be empty, if the service died before its first record.
        for segment in segments.iter().rev() {
            let end = reader::end(&segment.path)?;
            cut += end.torn;
            if end.torn > 0 {
                // Never acknowledged: the sync that would have covered it did not return.
                let file = fs::OpenOptions::new().write(true).open(&segment.path).map_err(io)?;
                file.set_len(end.whole).and_then(|()| file.sync_all()).map_err(io)?;
            }
            if let Some(found) = end.head {
                head = found;
                break;
            }
        }
        let next = segments.last().map_or(1, |segment| segment.number + 1);
        let newest_start = reader::newest_start(&segments)?;
        Ok(Self { directory: directory.to_owned(), next, head, cut, newest_start, segments })
    }

    /// The same, whose next file has a number above one that was in use: files may have been lost, and a key that one of them began with is not used again.
    #[must_use]
    pub fn above(self, file: u64) -> Self {
        Self { next: self.next.max(file.saturating_add(1)), ..self }
    }

    /// Whether a record that is known to have been written is not there as it was.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn lacks(&self, noted: Head) -> Result<bool, AuditError> {
        if noted == self.head || noted.seq == 0 {
            return Ok(false);
        }
        Ok(reader::record_at(&self.segments, noted.seq)?.is_none_or(|found| found != noted))
    }

    /// The record that the log begins with, if earlier ones were archived.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn begin(&self) -> Result<Option<FirstRecord>, AuditError> {
        reader::begin(&self.segments)
    }

    /// How the newest start began.
    #[must_use]
    pub const fn newest_start(&self) -> Option<&FirstRecord> {
        self.newest_start.as_ref()
    }

    /// Number of the file that the next start writes: its key is derived from it.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.next
    }

    /// Where the log ends.
    #[must_use]
    pub const fn head(&self) -> Head {
        self.head
    }
}

impl AuditLog {
    /// Opens a log for writing, first half.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(directory: &Path) -> Result<Opened, AuditError> {
        Opened::open(directory)
    }

    /// Starts writing a new file, with its key. Its first record says so, and what the store's newest commit is.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn start(
        opened: Opened,
        key: ChainKey,
        clock: Arc<dyn Clock>,
        commit: u64,
    ) -> Result<Self, AuditError> {
        let Opened { directory, next, head, cut, .. } = opened;
        let mut writer = SegmentWriter::create(&directory, next, Chain::new(head, key), clock)?;
        let mut note = format!("{AT_COMMIT}{commit}");
        if cut > 0 {
            note.push_str(&format!("; {cut} bytes of an unfinished record were cut off"));
        }
        let event = Event {
            principal: Principal::System,
            operation: START.to_owned(),
            stage: Stage::Done,
            outcome: Some("ok".to_owned()),
            target: None,
            key: None,
            version: None,
            context: None,
            note: Some(note),
        };
        writer.write([event].iter())?;
        let head = Arc::new(Mutex::new(writer.chain.head()));
        let (records, queue) = bounded(QUEUE);
        #[cfg(test)]
        let fault = Arc::clone(&writer.fault);
        let is_failing = Arc::new(AtomicBool::new(false));
        let newest_file = Arc::clone(&writer.newest_file);
        let (shared, failing) = (Arc::clone(&head), Arc::clone(&is_failing));
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || run(writer, &queue, &shared, &failing))
            .map_err(|e| AuditError::Io { path: directory.clone(), kind: e.kind() })?;
        Ok(Self {
            records: Some(records),
            head,
            is_failing,
            newest_file,
            directory,
            #[cfg(test)]
            fault,
            thread: Some(thread),
        })
    }

    /// Records an event. When this returns, it is durable.
    ///
    /// # Errors
    /// If it is not: then the operation must not be done, or its result not be given out.
    pub async fn append(&self, event: Event) -> Result<(), AuditError> {
        let (reply, answer) = oneshot::channel();
        let records = self.records.as_ref().ok_or(AuditError::Stopped)?;
        records.try_send((event, reply)).map_err(|error| match error {
            TrySendError::Full(_) => AuditError::Busy { waiting: QUEUE },
            TrySendError::Disconnected(_) => AuditError::Stopped,
        })?;
        answer.await.map_err(|_| AuditError::Stopped)?
    }

    /// Where the log ends: what is durable.
    #[must_use]
    pub fn head(&self) -> Head {
        *self.head.lock()
    }

    /// Whether the newest records could not be written, so that operations are refused.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    /// Number of the file that is written.
    #[must_use]
    pub fn newest_file(&self) -> u64 {
        self.newest_file.load(Ordering::Acquire)
    }

    /// Records that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.records.as_ref().map_or(0, Sender::len)
    }

    #[cfg(test)]
    pub(crate) fn fill_disk_for_test(&self, is_full: bool) {
        self.fault.store(if is_full { FULL } else { 0 }, Ordering::SeqCst);
    }

    #[cfg(test)]
    pub(crate) fn break_for_test(&self) {
        self.fault.store(BROKEN, Ordering::SeqCst);
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.records = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn run(mut writer: SegmentWriter, queue: &Receiver<Waiting>, head: &Mutex<Head>, is_failing: &AtomicBool) {
    while let Ok(first) = queue.recv() {
        let mut group = vec![first];
        group.extend(queue.try_iter().take(GROUP - 1));
        let written = writer.write(group.iter().map(|(event, _)| event));
        match &written {
            // Said once: with a full disk every request would say it.
            Err(error) if !is_failing.swap(true, Ordering::Relaxed) => {
                tracing::error!(%error, "the audit log cannot be written");
            }
            Ok(()) if is_failing.swap(false, Ordering::Relaxed) => {
                tracing::info!("the audit log can be written again");
            }
            _ => {}
        }
        *head.lock() = writer.chain.head();
        group.into_iter().for_each(|(_, reply)| drop(reply.send(written.clone())));
    }
}

pub(super) struct SegmentWriter {
    directory: PathBuf,
    number: u64,
    /// The same for others to see.
    newest_file: Arc<AtomicU64>,
    path: PathBuf,
    file: File,
    len: u64,
    chain: Chain,
    clock: Arc<dyn Clock>,
    is_broken: bool,
    #[cfg(test)]
    fault: Arc<std::sync::atomic::AtomicU8>,
}

/// Writes put down half, then fail.
#[cfg(test)]
const FULL: u8 = 1;
/// Syncs fail.
#[cfg(test)]
const BROKEN: u8 = 2;

impl SegmentWriter {
    pub(super) fn create(
        directory: &Path,
        number: u64,
        chain: Chain,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuditError> {
        let path = reader::file_path(directory, number);
        let file = new_file(&path, || sync_directory(directory))?;
        Ok(Self {
            directory: directory.to_owned(),
            number,
            newest_file: Arc::new(AtomicU64::new(number)),
            path,
            file,
            len: 0,
            chain,
            clock,
            is_broken: false,
            #[cfg(test)]
            fault: Arc::default(),
        })
    }

    /// Writes records and syncs them, or leaves the log as it was.
    pub(super) fn write<'a>(&mut self, events: impl Iterator<Item = &'a Event>) -> Result<(), AuditError> {
        if self.is_broken {
            return Err(AuditError::Broken);
        }
        if self.len >= SEGMENT {
            let path = reader::file_path(&self.directory, self.number + 1);
            self.file = new_file(&path, || sync_directory(&self.directory))?;
            (self.number, self.path, self.len) = (self.number + 1, path, 0);
            self.newest_file.store(self.number, Ordering::Release);
        }
        let reading = self.clock.read();
        let stamp = Stamp { time: reading.wall, up: reading.since_boot, boot: reading.boot_id };
        // On a copy, so that records that could not be written leave no gap in the numbers.
        let mut chain = self.chain.fork();
        let mut lines = Vec::new();
        events.for_each(|event| lines.extend(chain.append(stamp.clone(), event.clone())));
        if let Err(e) = self.put(&lines) {
            // A part of the lines may be there: take it back, or never write again.
            let undone = self.file.set_len(self.len).and_then(|()| self.seek_end());
            self.is_broken = undone.is_err();
            return Err(AuditError::Io { path: self.path.clone(), kind: e.kind() });
        }
        if let Err(e) = self.sync() {
            // The kernel may have dropped the pages and call them clean: nothing after this can be trusted.
            self.is_broken = true;
            return Err(AuditError::Io { path: self.path.clone(), kind: e.kind() });
        }
        self.len += u64::try_from(lines.len()).unwrap_or(u64::MAX);
        self.chain = chain;
        Ok(())
    }

    /// Where the log ends.
    pub(super) const fn end(&self) -> Head {
        self.chain.head()
    }

    fn put(&mut self, lines: &[u8]) -> std::io::Result<()> {
        #[cfg(test)]
        if self.fault.load(Ordering::SeqCst) == FULL {
            self.file.write_all(&lines[..lines.len() / 2])?;
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.file.write_all(lines)
    }

    fn sync(&self) -> std::io::Result<()> {
        #[cfg(test)]
        if self.fault.load(Ordering::SeqCst) == BROKEN {
            return Err(std::io::ErrorKind::Other.into());
        }
        self.file.sync_data()
    }

    fn seek_end(&mut self) -> std::io::Result<()> {
        use std::io::{Seek, SeekFrom};
        self.file.seek(SeekFrom::Start(self.len)).map(drop)
    }
}

/// A file that is there after a crash: its directory entry is synced too. If that fails, the next try begins with a file that is there and is empty.
fn new_file(path: &Path, sync_directory: impl FnOnce() -> std::io::Result<()>) -> Result<File, AuditError> {
    let io = |e: std::io::Error| AuditError::Io { path: path.to_owned(), kind: e.kind() };
    let mut options = fs::OpenOptions::new();
    options.write(true).mode(0o600);
    let file = match options.create_new(true).open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && is_empty_file(path) => {
            options.create_new(false).open(path)
        }
        opened => opened,
    };
    let file = file.map_err(io)?;
    sync_directory().map_err(io)?;
    Ok(file)
}

fn is_empty_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0)
}

fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory).and_then(|d| d.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file whose directory could not be synced is taken up by the next try; one with records in it never is.
    #[test]
    fn a_new_file_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0000000002.log");
        let failing = || Err(std::io::ErrorKind::StorageFull.into());
        for _ in 0..2 {
            assert!(matches!(new_file(&path, failing), Err(AuditError::Io { .. })));
        }
        let mut file = new_file(&path, || sync_directory(dir.path())).unwrap();
        file.write_all(b"record").unwrap();
        let refused = new_file(&path, || sync_directory(dir.path())).err();
        assert!(matches!(refused, Some(AuditError::Io { kind: std::io::ErrorKind::AlreadyExists, .. })));
        assert_eq!(fs::read(&path).unwrap(), b"record");
    }
}
