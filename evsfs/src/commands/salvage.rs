//! `evsfs salvage`: everything that verifies goes into a raw file; the rest is listed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::json;

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
    let target = Target::create(&arguments.output, volume.size())?;
    let mut lost = Lost::default();
    salvage(&volume, &target, &mut lost)?;
    target.finish()?;

    let ranges: Vec<_> = lost
        .ranges
        .iter()
        .map(|range| json!({"offset": range.offset, "length": range.length, "reason": range.reason}))
        .collect();
    let value = json!({
        "file": file.path, "output": arguments.output, "size": volume.size(), "salvaged_bytes": lost.salvaged,
        "lost_bytes": lost.bytes, "unlisted_bytes": lost.unlisted, "lost": ranges, "ends_unread": volume.ends_unread(),
    });
    let mut text = format!("{} bytes salvaged, {} lost", lost.salvaged, lost.bytes);
    for range in &lost.ranges {
        text.push_str(&format!("\n{} bytes at {}: {}", range.length, range.offset, range.reason));
    }
    if lost.unlisted > 0 {
        text.push_str(&format!("\n{} bytes more, in ranges that are not listed", lost.unlisted));
    }
    if volume.ends_unread() {
        text.push_str("\nthe host failed to read a place of the log: what was written after it is missing");
    }
    output.result(&value, &text)?;
    if lost.bytes == 0 && volume.ends_unread() {
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
        let reason = error.to_string();
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

fn salvage(volume: &Volume, target: &Target, lost: &mut Lost) -> Result<(), FileError> {
    let (size, mut at) = (volume.size(), 0);
    let mut buf = vec![0; usize::try_from(CHUNK).expect("1 MiB")];
    while at < size {
        let (start, end) = match extent(volume, at, size) {
            Ok(Some(extent)) => extent,
            Ok(None) => return Ok(()),
            Err((error, start, end)) => {
                under_damaged_page(volume, start, end, &error, target, lost)?;
                at = end;
                continue;
            }
        };
        at = start;
        while at < end {
            let length = (end - at).min(CHUNK);
            let part = &mut buf[..usize::try_from(length).expect("at most 1 MiB")];
            if volume.read(at, part).is_ok() {
                target.write(part, at)?;
                lost.salvaged += length;
            } else {
                block_by_block(volume, at, part, target, lost)?;
            }
            at += length;
        }
    }
    Ok(())
}

/// What lies under a damaged page is lost but for blocks that are still in the log.
fn under_damaged_page(
    volume: &Volume,
    from: u64,
    end: u64,
    error: &VolumeError,
    target: &Target,
    lost: &mut Lost,
) -> Result<(), FileError> {
    let mut block = vec![0; usize::try_from(BLOCK).expect("4096")];
    let mut at = from;
    for logged in volume.logged_within(from..end) {
        if logged > at {
            lost.add(at, logged - at, error);
        }
        block_by_block(volume, logged, &mut block, target, lost)?;
        at = logged + BLOCK;
    }
    if end > at {
        lost.add(at, end - at, error);
    }
    Ok(())
}

fn block_by_block(
    volume: &Volume,
    from: u64,
    part: &mut [u8],
    target: &Target,
    lost: &mut Lost,
) -> Result<(), FileError> {
    let block_len = usize::try_from(BLOCK).expect("4096");
    for (block, at) in part.chunks_mut(block_len).zip((from..).step_by(block_len)) {
        match volume.read(at, block) {
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
fn extent(volume: &Volume, at: u64, size: u64) -> Result<Option<(u64, u64)>, (VolumeError, u64, u64)> {
    let covered = |error: VolumeError| {
        let (start, end) = match &error {
            VolumeError::DamagedPage { level, block, .. } => {
                (block * BLOCK, (block + map_capacity(level + 1)) * BLOCK)
            }
            _ => (at, at + BLOCK),
        };
        (error, start.clamp(at, size), end.clamp((at + 1).min(size), size))
    };
    let Some(start) = volume.next_data(at).map_err(covered)? else { return Ok(None) };
    // Where the end cannot be told, one block at a time gets as far as possible.
    let end = volume.next_hole(start).unwrap_or((start / BLOCK + 1) * BLOCK);
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
