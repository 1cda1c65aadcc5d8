//! `evsfs salvage`: everything that verifies, of the disk or of a snapshot, goes into a raw file; the rest is listed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::json;
use uuid::Uuid;

use super::output::Output;
use crate::cli;
use crate::engine::{BLOCK, Volume, VolumeError};
use crate::failure::Exit;
use crate::failure::{Failure, FileError, Report};
use crate::format::layout::map_capacity;
use crate::keys::KeyService;
use crate::open::{self, Access, LockedFile};

/// Bytes read at once where nothing is damaged.
const CHUNK: u64 = 1 << 20;

/// Damaged ranges that are listed; more are counted.
const MAX_LISTED: usize = 10_000;

pub(super) fn run(arguments: &cli::Salvage, output: Output) -> Result<(), Failure> {
    let file = LockedFile::open(&arguments.file, true)?;
    let access = Access {
        accept_rollback: arguments.accept_rollback.then_some("evsfs salvage --accept-rollback"),
        salvage: true,
        ..Access::reading()
    };
    let volume = open::open(&file, &KeyService::from_env(), &access)?.volume;
    let source = Source::of(&volume, &file.path, arguments.snapshot)?;
    let target = Target::create(&arguments.output, source.size)?;
    let mut lost = Lost::default();
    salvage(&source, &target, &mut lost)?;
    target.finish()?;
    // No snapshot is in the log.
    let ends_unread = volume.ends_unread() && source.snapshot.is_none();

    let ranges: Vec<_> = lost
        .ranges
        .iter()
        .map(|range| json!({"offset": range.offset, "length": range.length, "reason": range.reason}))
        .collect();
    let value = json!({
        "file": file.path, "output": arguments.output, "snapshot": source.snapshot, "size": source.size, "salvaged_bytes": lost.salvaged,
        "lost_bytes": lost.bytes, "unlisted_bytes": lost.unlisted, "lost": ranges, "ends_unread": ends_unread,
    });
    let mut text = format!("{} bytes salvaged, {} lost", lost.salvaged, lost.bytes);
    for range in &lost.ranges {
        text.push_str(&format!("\n{} bytes at {}: {}", range.length, range.offset, range.reason));
    }
    if lost.unlisted > 0 {
        text.push_str(&format!("\n{} bytes more, in ranges that are not listed", lost.unlisted));
    }
    if ends_unread {
        text.push_str("\nthe host failed to read a place of the log: what was written after it is missing");
    }
    output.result(&value, &text)?;
    if lost.bytes == 0 && ends_unread {
        return Err(Report {
            code: "damaged".to_owned(),
            message: format!(
                "{}: a place of its log cannot be read: the output is the state before it, and may lack what was flushed last",
                file.path.display()
            ),
            hint: "compare it with a backup".to_owned(),
            exit: Exit::Damaged,
        }
        .into());
    }
    if lost.bytes == 0 {
        return Ok(());
    }
    Err(Report {
        code: "damaged".to_owned(),
        message: format!(
            "{}: {} bytes are damaged and read as zeros in the output",
            file.path.display(),
            lost.bytes
        ),
        hint: "restore the listed ranges from a backup".to_owned(),
        exit: Exit::Damaged,
    }
    .into())
}

/// What is saved.
struct Source<'a> {
    volume: &'a Volume,
    /// Of the disk as it is now, if it is none.
    snapshot: Option<Uuid>,
    /// In bytes.
    size: u64,
}

impl<'a> Source<'a> {
    fn of(volume: &'a Volume, file: &Path, snapshot: Option<Uuid>) -> Result<Self, FileError> {
        let Some(id) = snapshot else { return Ok(Self { volume, snapshot, size: volume.size() }) };
        let there = volume.snapshots();
        match there.iter().find(|snapshot| snapshot.id == id) {
            Some(found) => Ok(Self { volume, snapshot, size: found.size }),
            None => Err(FileError::NoSuchSnapshot { file: file.to_owned(), id, there }),
        }
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), VolumeError> {
        match self.snapshot {
            None => self.volume.read(offset, buf),
            Some(id) => self.volume.read_snapshot(id, offset, buf),
        }
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>, VolumeError> {
        match self.snapshot {
            None => self.volume.next_data(offset),
            Some(id) => self.volume.next_data_in(id, offset),
        }
    }

    fn next_hole(&self, offset: u64) -> Result<u64, VolumeError> {
        match self.snapshot {
            None => self.volume.next_hole(offset),
            Some(id) => self.volume.next_hole_in(id, offset),
        }
    }

    /// Blocks of a range that are in the log: of a snapshot, none.
    fn logged_within(&self, range: std::ops::Range<u64>) -> Vec<u64> {
        if self.snapshot.is_some() { Vec::new() } else { self.volume.logged_within(range) }
    }
}

#[derive(Default)]
struct Lost {
    salvaged: u64,
    bytes: u64,
    ranges: Vec<Range>,
    /// Of `bytes`, those of ranges that are too many to be listed.
    unlisted: u64,
}

struct Range {
    offset: u64,
    length: u64,
    reason: String,
}

impl Lost {
    fn add(&mut self, offset: u64, length: u64, error: &VolumeError) {
        self.bytes += length;
        let reason = reason_of(error);
        let full = self.ranges.len() >= MAX_LISTED;
        match self.ranges.last_mut() {
            Some(last) if last.offset + last.length == offset && last.reason == reason => {
                last.length += length;
            }
            _ if !full => self.ranges.push(Range { offset, length, reason }),
            _ => self.unlisted += length,
        }
    }
}

/// Without the number of the block, so that blocks in a row are one range.
fn reason_of(error: &VolumeError) -> String {
    match error {
        VolumeError::DamagedBlock { reason, .. } => reason.to_string(),
        VolumeError::DamagedPage { level, reason, .. } => {
            format!("the map page of level {level} above it: {reason}")
        }
        other => other.to_string(),
    }
}

fn salvage(source: &Source<'_>, target: &Target, lost: &mut Lost) -> Result<(), FileError> {
    let (size, mut at) = (source.size, 0);
    let mut buf = vec![0; usize::try_from(CHUNK).expect("1 MiB")];
    while at < size {
        let (start, end) = match extent(source, at, size) {
            Ok(Some(extent)) => extent,
            Ok(None) => return Ok(()),
            Err((error, start, end)) => {
                under_damaged_page(source, start, end, &error, target, lost)?;
                at = end;
                continue;
            }
        };
        at = start;
        while at < end {
            let length = (end - at).min(CHUNK);
            let part = &mut buf[..usize::try_from(length).expect("at most 1 MiB")];
            if source.read(at, part).is_ok() {
                target.write(part, at)?;
                lost.salvaged += length;
            } else {
                block_by_block(source, at, part, target, lost)?;
            }
            at += length;
        }
    }
    Ok(())
}

/// What lies under a damaged page is lost but for blocks that are still in the log.
fn under_damaged_page(
    source: &Source<'_>,
    from: u64,
    end: u64,
    error: &VolumeError,
    target: &Target,
    lost: &mut Lost,
) -> Result<(), FileError> {
    let mut block = vec![0; usize::try_from(BLOCK).expect("4096")];
    let mut at = from;
    for logged in source.logged_within(from..end) {
        if logged > at {
            lost.add(at, logged - at, error);
        }
        block_by_block(source, logged, &mut block, target, lost)?;
        at = logged + BLOCK;
    }
    if end > at {
        lost.add(at, end - at, error);
    }
    Ok(())
}

fn block_by_block(
    source: &Source<'_>,
    from: u64,
    part: &mut [u8],
    target: &Target,
    lost: &mut Lost,
) -> Result<(), FileError> {
    let block_len = usize::try_from(BLOCK).expect("4096");
    for (block, at) in part.chunks_mut(block_len).zip((from..).step_by(block_len)) {
        match source.read(at, block) {
            Ok(()) => {
                target.write(block, at)?;
                lost.salvaged += block.len() as u64;
            }
            Err(error) => lost.add(at, block.len() as u64, &error),
        }
    }
    Ok(())
}

/// The next range with data. An error covers the range that comes with it: what lies under a damaged page. Before it there is a hole.
fn extent(source: &Source<'_>, at: u64, size: u64) -> Result<Option<(u64, u64)>, (VolumeError, u64, u64)> {
    let covered = |error: VolumeError| {
        let (start, end) = match &error {
            VolumeError::DamagedPage { level, block, .. } => {
                (block * BLOCK, (block + map_capacity(level + 1)) * BLOCK)
            }
            _ => (at, at + BLOCK),
        };
        (error, start.clamp(at, size), end.clamp((at + 1).min(size), size))
    };
    let Some(start) = source.next_data(at).map_err(covered)? else { return Ok(None) };
    // Where the end cannot be told, one block at a time gets as far as possible.
    let end = source.next_hole(start).unwrap_or((start / BLOCK + 1) * BLOCK);
    Ok(Some((start, end.min(size))))
}

struct Target {
    file: File,
    path: PathBuf,
}

impl Target {
    fn create(path: &Path, size: u64) -> Result<Self, FileError> {
        let system = |operation| move |source| FileError::System { operation, file: path.to_owned(), source };
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|source| {
                match source.kind() {
                    std::io::ErrorKind::AlreadyExists => FileError::Exists { file: path.to_owned() },
                    _ => system("create")(source),
                }
            })?;
        file.set_len(size).map_err(system("size"))?;
        Ok(Self { file, path: path.to_owned() })
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<(), FileError> {
        self.file.write_all_at(data, offset).map_err(|source| self.system("write", source))
    }

    fn finish(&self) -> Result<(), FileError> {
        self.file.sync_all().map_err(|source| self.system("make durable", source))
    }

    fn system(&self, operation: &'static str, source: std::io::Error) -> FileError {
        FileError::System { operation, file: self.path.clone(), source }
    }
}
